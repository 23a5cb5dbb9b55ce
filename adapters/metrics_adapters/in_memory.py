"""The embedded default: a store in this process, shared by a collector, timer, tracker and aggregator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, cast

from metrics_adapters.ranking import largest
from metrics_framework.clock import utc
from metrics_framework.error_types import FailureRule
from metrics_framework.errors import InvalidInputError
from metrics_framework.exposition import formats
from metrics_framework.recording import Distribution, Failure, History, Store
from metrics_framework.recording.engine import (
    CounterSeries,
    GaugeSeries,
    HistogramSeries,
    OutcomeSeries,
    Recorder,
    RunningTimers,
    TimerSeries,
)
from metrics_framework.recording.metric import KINDS
from metrics_framework.recording.results import MetricReading, SeriesDistribution
from metrics_framework.recording.rules import Scope
from metrics_framework.recording.state import NOT_GIVEN, MergeLaw, NotGiven
from metrics_framework.validation import OBJECT_ERRORS, plain_tags, safe_repr
from metrics_framework.values import MetricType, MetricUnit, MetricValue, TimingResult, pending_timing

if TYPE_CHECKING:
    from metrics_framework.exposition.incremental import IncrementalWriter

__all__ = ["InMemoryAggregator", "InMemoryCollector", "InMemoryTimer", "InMemoryTracker"]

MAX_RUNNING_TIMERS = 10_000
"""How many timers may run at once before the oldest is abandoned."""

_RULE = FailureRule()
_UNFINISHED = frozenset((AsyncGeneratorType, CoroutineType, GeneratorType))

_VALUE_KEY = {
    MetricType.COUNTER: "sum",
    MetricType.GAUGE: "last",
    MetricType.HISTOGRAM: "p95",
    MetricType.TIMER: "p95",
}


class InMemoryCollector(Recorder):
    """A `MetricCollector` that records into a store. Thread-safe.

    A record takes no lock and never blocks. It may run in any thread, a signal handler, a callback of the
    garbage collector or a ``__del__``.

    Args:
        store: The store; by default a new one.
        tags: Tags that are added to every record. A record's own tag of the same name wins.

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

        The tags slow down only the first record of a series, so keep the collector.

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
        """Return a bound counter: one series, whose ``add`` is much faster than a record by name.

        Raises:
            InvalidInputError: If an argument is not allowed, or the name is a metric of another type.
        """
        series: CounterSeries = self._scope.bind("counter", name, tags)
        return series

    def gauge(self, name: str, tags: Mapping[str, str] | None = None) -> GaugeSeries:
        """Return a bound gauge, with ``set``, ``increment`` and ``decrement``.

        Raises:
            InvalidInputError: If an argument is not allowed, or the name is a metric of another type.
        """
        series: GaugeSeries = self._scope.bind("gauge", name, tags)
        return series

    def histogram(self, name: str, tags: Mapping[str, str] | None = None) -> HistogramSeries:
        """Return a bound histogram, with ``observe``.

        Raises:
            InvalidInputError: If an argument is not allowed, or the name is a metric of another type.
        """
        series: HistogramSeries = self._scope.bind("histogram", name, tags)
        return series

    def timer(self, name: str, tags: Mapping[str, str] | None = None) -> TimerSeries:
        """Return a bound timer, with ``observe`` for a duration and ``time`` for a ``with`` block.

        Raises:
            InvalidInputError: If an argument is not allowed, or the name is a metric of another type.
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
        """Remove a metric, or one of its series, and return whether it existed."""
        return self.store.remove(name, tags)


class InMemoryTimer(RunningTimers):
    """A `PerformanceTimer` that keeps durations in a store.

    Only the newest `MAX_RUNNING_TIMERS` running timers are kept, because a timer may never be stopped.
    ``abandoned`` counts the others.

    Args:
        store: The store; by default a new one.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = store = Store() if store is None else store
        super().__init__(store.core, store.timings, store, store.clock, MAX_RUNNING_TIMERS)

    @property
    def abandoned(self) -> int:
        """How many timers of this store were started, never stopped, and abandoned."""
        return self.store.abandoned

    def time_operation(
        self, operation_name: str, operation: Callable[[], Any], metadata: dict[str, Any] | None = None
    ) -> TimingResult:
        """Call ``operation`` and record its duration; see `PerformanceTimer.time_operation`."""
        # Not a running timer, which other code could stop and which might be abandoned.
        store = self.store
        known: Any = store.timings.get(operation_name)
        series: TimerSeries | None = known or store.find_timing_of_work(operation_name)
        now = store.core.now
        kept: dict[str, Any] = {} if metadata is None else store.plain_metadata(metadata) or {}
        start_ns = now()
        try:
            outcome = operation()
        except BaseException as error:
            stop_ns = now()
            if not callable(operation):  # checked here, because a check costs time in each call
                raise InvalidInputError(
                    f"operation={safe_repr(operation)} is not callable: pass a function without arguments,"
                    " such as lambda: work(3)"
                ) from None
            _record(store, series, stop_ns - start_ns, success=not isinstance(_RULE.outcome(error), str))
            raise
        stop_ns = now()
        if type(outcome) in _UNFINISHED:
            _check_finished(operation_name, operation, outcome)
        _record(store, series, stop_ns - start_ns, success=True)
        kept["result"] = outcome
        return pending_timing((operation_name, kept, start_ns, stop_ns, True, store.clock))

    def get_timing_stats(
        self,
        operation_name: str,
        *,
        time_window: timedelta | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> dict[str, float]:
        """Summarize durations in milliseconds; see `PerformanceTimer.get_timing_stats`.

        Args:
            operation_name: The operation.
            time_window: The time to look back; by default since the start.
            tags: Tags that `measure` gave to the operation; all of them together by default. See
                `metrics_framework.capabilities.TimingsByTag`.
        """
        return self.store.timing_summary(operation_name, time_window, tags)


class InMemoryTracker:
    """A `SuccessFailureTracker` that keeps outcomes in a store.

    Args:
        store: The store; by default a new one.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = Store() if store is None else store
        self._index = self.store.outcomes_index

    def record_success(self, operation: str, metadata: dict[str, Any] | None = None) -> None:
        """Count a success; see `SuccessFailureTracker.record_success`."""
        series = self._index.get(operation, None) or self.store.find_outcomes(operation)
        if series is not None:
            cast(OutcomeSeries, series).finish(None)

    def record_failure(self, operation: str, error_type: str, metadata: dict[str, Any] | None = None) -> None:
        """Count a failure; see `SuccessFailureTracker.record_failure`."""
        self.store.fail(operation, error_type, metadata)

    def get_success_rate(
        self,
        operation: str,
        time_window: timedelta | None = None,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> float:
        """Return the share of successes; see `SuccessFailureTracker.get_success_rate`.

        Args:
            operation: The operation.
            time_window: The time to look back; by default since the start.
            tags: Tags that `measure` gave to the operation; all of them together by default. See
                `metrics_framework.capabilities.RatesByTag`.
        """
        return self.store.outcomes(operation, time_window, tags).success_rate

    def get_failure_breakdown(
        self,
        operation: str,
        time_window: timedelta | None = None,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> dict[str, int]:
        """Count failures by error type; see `SuccessFailureTracker.get_failure_breakdown`.

        Args:
            operation: The operation.
            time_window: The time to look back; by default since the start.
            tags: Tags that `measure` gave to the operation; all of them together by default.
        """
        return self.store.outcomes(operation, time_window, tags).failures

    def recent_failures(self, operation: str) -> list[Failure]:
        """Return the operation's last failures with their metadata, the newest last."""
        return self.store.recent_failures(operation)


class InMemoryAggregator:
    """A `MetricsAggregator` over a store, with time series and distributions.

    It is a `metrics_framework.dashboard.HistoryAggregator`, a
    `metrics_framework.capabilities.DistributionAggregator` and a
    `metrics_framework.capabilities.SummariesByTag`.

    Operations are listed beside metrics, with ``metadata["operation"]`` true: their durations as a timer,
    their outcomes as a rate whose metadata holds ``successes``, ``failures`` and ``success_rate``.

    Args:
        store: The store; a collector on the same store fills it.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = Store() if store is None else store
        self._prometheus_writer: IncrementalWriter | None = None

    def get_metric_summary(
        self,
        metric_name: str,
        time_window: timedelta | None = None,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> dict[str, float]:
        """Summarize a metric; see `MetricsAggregator.get_metric_summary`.

        Args:
            metric_name: The metric.
            time_window: The time to look back; by default since the start.
            tags: Tags of the series to summarize; all series together by default. See
                `metrics_framework.capabilities.SummariesByTag`.
        """
        return self.store.summary(metric_name, time_window, tags)

    def get_metric_history(
        self,
        metric_name: str,
        time_window: timedelta,
        points: int,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> History:
        """Return a metric's time series; see `metrics_framework.recording.Store.history`."""
        return self.store.history(metric_name, time_window, points, tags)

    def get_timing_history(
        self, operation: str, time_window: timedelta, points: int, *, tags: Mapping[str, str] | None = None
    ) -> History:
        """Return the time series of an operation's durations; see `get_metric_history`."""
        return self.store.timing_history(operation, time_window, points, tags)

    def get_outcome_history(
        self, operation: str, time_window: timedelta, points: int, *, tags: Mapping[str, str] | None = None
    ) -> History:
        """Return the time series of how an operation ended; see `get_metric_history`."""
        return self.store.outcome_history(operation, time_window, points, tags)

    def get_metrics_by_tag(self, tag_filter: dict[str, str]) -> list[MetricValue]:
        """Return the matching series; see `MetricsAggregator.get_metrics_by_tag`."""
        wanted = plain_tags(tag_filter).items()
        return [value for value in self.iter_metrics() if wanted <= value.tags.items()]

    def iter_metrics(self) -> Iterator[MetricValue]:
        """Yield every series, one at a time, which saves memory."""
        now = utc(self.store.clock)
        yield from self._metrics(now)
        yield from self._timed(now)
        yield from self._tracked(now)

    def read(self) -> Iterator[MetricReading]:
        """Yield every metric and operation; see `metrics_framework.recording.Store.read`."""
        return self.store.read()

    def get_distributions(self) -> list[SeriesDistribution]:
        """Return the values of every distribution; see `metrics_framework.recording.Store.distributions`."""
        return self.store.distributions()

    def get_distribution(self, name: str, *, operation: bool = False) -> Distribution:
        """Return the values of one name; see `metrics_framework.recording.Store.distribution`."""
        return self.store.distribution(name, operation=operation)

    def export_metrics(self, format: str = "json") -> str:
        """Return everything in a text format; see `MetricsAggregator.export_metrics`.

        Args:
            format: ``json``, ``jsonl``, ``csv``, ``prometheus`` (text format 0.0.4) or ``snapshot`` (a v1
                performance snapshot, without the readings of a resource monitor).
        """
        known = {**formats.FORMATS, "prometheus": self._to_prometheus, "snapshot": self._to_snapshot}
        return formats.render(self.iter_metrics(), format, known)

    def get_top_metrics(self, metric_type: MetricType, limit: int = 10) -> list[MetricValue]:
        """Return the largest of a type; see `MetricsAggregator.get_top_metrics`.

        `MetricType.RATE` lists counters and operations by events per second.
        """
        return largest(self.get_metrics_by_tag({}), metric_type, limit)

    def _to_prometheus(self, _: object) -> str:
        from metrics_framework.exposition.families import ExposedFamilies  # slow to import
        from metrics_framework.exposition.incremental import IncrementalWriter

        if self._prometheus_writer is None:
            self._prometheus_writer = IncrementalWriter(ExposedFamilies(self.store))
        return b"".join(self._prometheus_writer.pieces()).decode()

    def _to_snapshot(self, _: object) -> str:
        from metrics_framework.snapshots import Environment, SnapshotBuilder, SnapshotMetadata, dump_snapshot
        from metrics_framework.snapshots.provenance import find_provenance

        store, found = self.store, find_provenance()
        seconds = (store.clock.monotonic_ns() - store.start_ns) / 1e9
        builder = SnapshotBuilder(
            InMemoryTimer(store),
            InMemoryTracker(store),
            None,
            aggregator=self,
            seconds=seconds,
            constant_tags=store.tags,
        )
        snapshot, _report = builder.build(
            SnapshotMetadata(
                commit=found.commit,
                branch=found.branch,
                timestamp=utc(store.clock),
                environment=Environment(found.environment),
            )
        )
        return dump_snapshot(snapshot)

    def _metrics(self, now: datetime) -> Iterator[MetricValue]:
        for reading in self.store.iter_readings():
            description = self.store.description(reading.name)
            metadata: dict[str, Any] = reading.summary  # made for this call
            if description.help:
                metadata["help"] = description.help
            buckets = reading.buckets
            if description.buckets and buckets is not None:
                metadata["buckets"] = {
                    "counts": {str(bound): count for bound, count in buckets.cumulated().items()},
                    "sum": buckets.total,
                }
            unit = description.unit or MetricUnit.COUNT
            if reading.metric_type is MetricType.TIMER:
                unit = MetricUnit.MILLISECONDS
            elif reading.metric_type is MetricType.COUNTER:
                metadata["total"] = metadata["sum"]  # a reading is since the start
            value = reading.summary[_VALUE_KEY[reading.metric_type]]
            yield MetricValue(reading.name, value, reading.metric_type, unit, now, reading.tags, metadata)

    def _timed(self, now: datetime) -> Iterator[MetricValue]:
        for reading in self.store.iter_timing_readings():
            metadata = {**reading.summary, "operation": True}
            yield MetricValue(
                reading.name,
                reading.summary["p95"],
                MetricType.TIMER,
                MetricUnit.MILLISECONDS,
                now,
                reading.tags,
                metadata,
            )

    def _tracked(self, now: datetime) -> Iterator[MetricValue]:
        for reading in self.store.iter_outcome_readings():
            rate = reading.count / reading.seconds if reading.seconds > 0 else 0.0
            metadata: dict[str, Any] = {
                "operation": True,
                "count": reading.count,
                "seconds": reading.seconds,
                "successes": reading.successes,
                "failures": reading.failures,
                "success_rate": reading.success_rate,
            }
            yield MetricValue(
                reading.name,
                rate,
                MetricType.RATE,
                MetricUnit.OPERATIONS_PER_SECOND,
                now,
                reading.tags,
                metadata,
            )


def _record(store: Store, series: TimerSeries | None, elapsed_ns: int, *, success: bool) -> None:
    if series is not None:  # None: the name was refused and counted
        try:
            series.elapse(elapsed_ns / 1e6, success)
        except OBJECT_ERRORS as error:  # the outcome of the operation must reach the caller
            store.count_rejected(error)


def _check_finished(operation_name: str, operation: Any, outcome: object) -> None:
    """Check that an operation that returned a coroutine or generator has done its work."""
    if isinstance(outcome, CoroutineType):
        outcome.close()  # it will not be awaited
        what, use = "coroutine", "async with"
    elif any(map(inspect.isasyncgenfunction, (operation, operation.__call__))):
        what, use = "async generator", "async with"
    elif any(map(inspect.isgeneratorfunction, (operation, operation.__call__))):
        what, use = "generator", "with"
    else:
        return
    raise InvalidInputError(
        f"operation={safe_repr(operation)} returned a {what}, which time_operation does not run: use"
        f" @metrics.measure({operation_name!r}), or {use} metrics.measure({operation_name!r}): …"
    )
