"""The collector: records numbers into a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from metrics_framework.recording import Store
from metrics_framework.recording.engine import (
    CounterSeries,
    GaugeSeries,
    HistogramSeries,
    Recorder,
    TimerSeries,
)
from metrics_framework.recording.metric import KINDS
from metrics_framework.recording.rules import Scope
from metrics_framework.recording.state import NOT_GIVEN, MergeLaw, NotGiven
from metrics_framework.validation import plain_tags
from metrics_framework.values import MetricUnit


class InMemoryCollector(Recorder):
    """A `MetricCollector` that records into a store. Thread-safe.

    A record takes no lock and never waits. It may come from any thread, a signal handler, a garbage
    collector's callback or a ``__del__``.

    Args:
        store: The store; one of its own by default.
        tags: Tags that are added to every record; a record's own tag of the same name wins.

    Example:
        >>> collector = InMemoryCollector()
        >>> collector.record_counter("git.commits.created", 1, {"branch": "main"})
    """

    def __init__(self, store: Store | None = None, tags: Mapping[str, str] | None = None) -> None:
        self.store = Store() if store is None else store
        self._scope = Scope(self.store, tags, KINDS) if tags else self.store
        super().__init__(self.store.core, self._scope)

    def with_tags(self, tags: Mapping[str, str]) -> InMemoryCollector:
        """Return a collector into the same store that adds tags to every record.

        The tags cost something for the first record of a series only, so keep the collector.

        Raises:
            InvalidInputError: If ``tags`` is not a mapping of strings.

        Example:
            >>> collector = InMemoryCollector()
            >>> for_tenant = collector.with_tags({"tenant": "acme"})
            >>> for_tenant.increment("orders", {"status": "paid"})
            >>> collector.store.readings()[0].tags
            {'status': 'paid', 'tenant': 'acme'}
        """
        before = self._scope.tags if isinstance(self._scope, Scope) else {}
        return InMemoryCollector(self.store, {**before, **plain_tags(tags)})

    # -- beyond the contract ---------------------------------------------------------------------------

    def counter(self, name: str, tags: Mapping[str, str] | None = None) -> CounterSeries:
        """Return a bound counter: one series, found once, whose ``add`` costs a fraction of a record by name.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is another type of metric.
        """
        series: CounterSeries = self._scope.bind("counter", name, tags)
        return series

    def gauge(self, name: str, tags: Mapping[str, str] | None = None) -> GaugeSeries:
        """Return a bound gauge, with ``set``, ``increment`` and ``decrement``.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is another type of metric.
        """
        series: GaugeSeries = self._scope.bind("gauge", name, tags)
        return series

    def histogram(self, name: str, tags: Mapping[str, str] | None = None) -> HistogramSeries:
        """Return a bound histogram, with ``observe``.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is another type of metric.
        """
        series: HistogramSeries = self._scope.bind("histogram", name, tags)
        return series

    def timer(self, name: str, tags: Mapping[str, str] | None = None) -> TimerSeries:
        """Return a bound timer, with ``observe`` for a duration and ``time`` for a ``with`` block.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is another type of metric.
        """
        series: TimerSeries = self._scope.bind("timer", name, tags)
        return series

    def describe(
        self,
        name: str,
        *,
        unit: MetricUnit | NotGiven | None = NOT_GIVEN,
        help: str | NotGiven = NOT_GIVEN,
        merge: MergeLaw | NotGiven = NOT_GIVEN,
        buckets: Iterable[float] | NotGiven = NOT_GIVEN,
        window_by: Iterable[str] | NotGiven = NOT_GIVEN,
        expires: bool | NotGiven = NOT_GIVEN,
    ) -> None:
        """Describe a metric or operation; see `metrics_framework.recording.Store.describe`."""
        self.store.describe(
            name,
            unit=unit,
            help=help,
            merge=merge,
            buckets=buckets,
            window_by=window_by,
            expires=expires,
        )

    def remove(self, name: str, tags: Mapping[str, str] | None = None) -> bool:
        """Forget a metric, or one of its series; return whether there was anything to forget."""
        return self.store.remove(name, tags)
