"""The collector: a view of a store that numbers go in through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from metrics_framework.recording import Store
from metrics_framework.recording.descriptions import MergeLaw
from metrics_framework.recording.hot import Recorder
from metrics_framework.recording.instruments import CounterSeries, GaugeSeries, HistogramSeries, TimerSeries
from metrics_framework.recording.series import plain_tags
from metrics_framework.recording.views import Scope
from metrics_framework.values import MetricType, MetricUnit


class InMemoryCollector(Recorder):
    """A `MetricCollector` that keeps what it is given in a store.

    A record takes no lock and waits for nobody, wherever it comes from: any thread, a signal handler, a
    garbage collector's callback, a ``__del__``.

    Args:
        store: Where to keep it; a store of its own by default.
        tags: Tags that every record bears by itself; a record's own of the same name counts.

    Example:
        >>> collector = InMemoryCollector()
        >>> collector.record_counter("git.commits.created", 1, {"branch": "main"})
    """

    def __init__(self, store: Store | None = None, tags: Mapping[str, str] | None = None) -> None:
        self.store = Store() if store is None else store
        self._scope = Scope(self.store, tags) if tags else self.store
        super().__init__(self._scope)

    def with_tags(self, tags: Mapping[str, str]) -> InMemoryCollector:
        """Return a collector into the same store that adds tags to what is recorded through it.

        It costs something for the first record of a series only, so keep the collector: it is not for one
        record.

        Raises:
            InvalidInputError: If ``tags`` is no mapping of strings.

        Example:
            >>> collector = InMemoryCollector()
            >>> for_tenant = collector.with_tags({"tenant": "acme"})
            >>> for_tenant.increment("orders", {"status": "paid"})
            >>> collector.store.readings()[0].tags
            {'status': 'paid', 'tenant': 'acme'}
        """
        before = self._scope.tags if isinstance(self._scope, Scope) else {}
        return InMemoryCollector(self.store, {**before, **plain_tags(tags)})

    def increment(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Add 1 to a counter or gauge; see `MetricCollector.increment`."""
        series = self._counters.get(name, tags) or self._gauges.get(name, tags)
        if series is None:
            series = self._scope.find_shifting(name, 1, tags)
        if isinstance(series, GaugeSeries):
            series.increment()
        elif series is not None:
            series.add(1)

    def decrement(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Take 1 from a gauge; see `MetricCollector.decrement`."""
        series = self._gauges.get(name, tags) or self._scope.find_shifting(name, -1, tags)
        if series is not None:
            series.decrement()

    # -- beyond the contract ---------------------------------------------------------------------------

    def counter(self, name: str, tags: Mapping[str, str] | None = None) -> CounterSeries:
        """Return a bound counter: one series, found once, whose ``add`` costs a fraction of a record by name.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is another type of metric.
        """
        series: CounterSeries = self._scope.bind(MetricType.COUNTER, name, tags)
        return series

    def gauge(self, name: str, tags: Mapping[str, str] | None = None) -> GaugeSeries:
        """Return a bound gauge, with ``set``, ``increment`` and ``decrement``.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is another type of metric.
        """
        series: GaugeSeries = self._scope.bind(MetricType.GAUGE, name, tags)
        return series

    def histogram(self, name: str, tags: Mapping[str, str] | None = None) -> HistogramSeries:
        """Return a bound histogram, with ``observe``.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is another type of metric.
        """
        series: HistogramSeries = self._scope.bind(MetricType.HISTOGRAM, name, tags)
        return series

    def timer(self, name: str, tags: Mapping[str, str] | None = None) -> TimerSeries:
        """Return a bound timer, with ``observe`` for a duration and ``time`` for a ``with`` block.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is another type of metric.
        """
        series: TimerSeries = self._scope.bind(MetricType.TIMER, name, tags)
        return series

    def describe(
        self,
        name: str,
        *,
        unit: MetricUnit | None = None,
        help: str = "",
        merge: MergeLaw = "latest",
        buckets: Iterable[float] = (),
        window_by: Iterable[str] = (),
    ) -> None:
        """Say what a metric is; see `metrics_framework.recording.Store.describe`."""
        self.store.describe(name, unit=unit, help=help, merge=merge, buckets=buckets, window_by=window_by)

    def remove(self, name: str, tags: Mapping[str, str] | None = None) -> bool:
        """Forget a metric, or one of its series; say whether there was anything to forget."""
        return self.store.remove(name, tags)
