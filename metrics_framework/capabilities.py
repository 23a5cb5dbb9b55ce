"""Optional abilities of adapters, beyond the contracts of `metrics_framework.protocols`.

An adapter that implements only its contract is fully supported. Each Protocol here names one further ability
and the code that uses it. The library asks for an ability once, with `isinstance` when it is set up, never
for each record. Code of your own takes an ability's Protocol as the type of an argument. ``docs/adapters.md``
has a table of all abilities.

`StoreCollector`, `StoreTimer`, `StoreTracker` and `StoreAggregator` combine all abilities of the in-memory
adapters: the parts of a `MetricsSystem` have these types by default.

``ByTag``: `MetricsSystem.measure` gives tags to operations, and metrics have tags anyway. Such a query covers
all series that have the given tags, such as one route of a service. The answer is exact for the time that it
covers, which ``seconds`` of a summary reports. A window that is not kept by these tags is refused with an
`InvalidInputError` that names the remedy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from metrics_framework.protocols import (
    MetricCollector,
    MetricsAggregator,
    PerformanceTimer,
    ResourceMonitor,
    SuccessFailureTracker,
)
from metrics_framework.validation import plain_tags
from metrics_framework.values import MetricUnit, MetricValue

if TYPE_CHECKING:
    from metrics_framework.error_types import FailureRule
    from metrics_framework.recording.engine import Distribution
    from metrics_framework.recording.results import Failure, MetricReading, SeriesDistribution
    from metrics_framework.recording.state import MergeLaw
    from metrics_framework.recording.store import Store
    from metrics_framework.recording.windows import History


# -- any part --------------------------------------------------------------------------------------------


@runtime_checkable
class HasStore(Protocol):
    """A part that records into or reads from a `Store`. `metrics_framework.recording.store.store_of` asks.

    Parts of one system share one store. Health checks, streams, exports and `measure` read the store itself,
    which is faster and more exact than the contracts.
    """

    @property
    def store(self) -> Store | None:
        """The store, or ``None`` if this part has none."""
        ...


@runtime_checkable
class JoinsSystem(Protocol):
    """A part with a system of its own that hands its work over. The constructor of `MetricsSystem` asks."""

    def join_system(self, system: Any) -> None:
        """Become a part of a `MetricsSystem`, whose `take_over` continues the work of the former system."""
        ...


# -- collectors ------------------------------------------------------------------------------------------


@runtime_checkable
class AddsTags(Protocol):
    """A collector with scopes of its own. `with_tags` asks, and otherwise uses a `ScopedCollector`."""

    def with_tags(self, tags: Mapping[str, str]) -> MetricCollector:
        """Return a collector that adds tags to every record; a record's own tag of the same name wins."""
        ...


@runtime_checkable
class DescribesMetrics(Protocol):
    """A collector that keeps descriptions. Gauge callbacks and the instrumentation describe their metrics."""

    def describe(
        self, name: str, *, unit: MetricUnit | None = ..., help: str = ..., merge: MergeLaw = ...
    ) -> None:
        """Describe a metric: its unit, its help text, and how the series of a gauge combine."""
        ...


@runtime_checkable
class RemovesSeries(Protocol):
    """A collector that can forget series. Gauge callbacks ask when a callback is removed."""

    def remove(self, name: str, tags: Mapping[str, str] | None = None) -> bool:
        """Forget a metric, or one of its series; return whether it existed."""
        ...


class BoundCounter(Protocol):
    """One series of a counter."""

    def add(self, value: int | float = 1) -> None:
        """Add to the counter."""
        ...


class BoundGauge(Protocol):
    """One series of a gauge."""

    def set(self, value: int | float) -> None:
        """Set the gauge."""
        ...

    def increment(self, step: int | float = 1) -> None:
        """Add to the gauge."""
        ...

    def decrement(self, step: int | float = 1) -> None:
        """Subtract from the gauge."""
        ...


class BoundHistogram(Protocol):
    """One series of a histogram."""

    def observe(self, value: int | float) -> None:
        """Add one value."""
        ...


class BoundTimer(Protocol):
    """One series of a timer."""

    def observe(self, duration: float, unit: MetricUnit = MetricUnit.MILLISECONDS) -> None:
        """Add one duration."""
        ...

    def time(self) -> AbstractContextManager[None]:
        """Time a ``with`` block."""
        ...


@runtime_checkable
class BindsInstruments(Protocol):
    """A collector with bound instruments: a series is looked up once and then recorded into directly.

    The middleware asks, for its gauge of requests in flight.
    """

    def counter(self, name: str, tags: Mapping[str, str] | None = None) -> BoundCounter:
        """Return one series of a counter."""
        ...

    def gauge(self, name: str, tags: Mapping[str, str] | None = None) -> BoundGauge:
        """Return one series of a gauge."""
        ...

    def histogram(self, name: str, tags: Mapping[str, str] | None = None) -> BoundHistogram:
        """Return one series of a histogram."""
        ...

    def timer(self, name: str, tags: Mapping[str, str] | None = None) -> BoundTimer:
        """Return one series of a timer."""
        ...


class StoreCollector(MetricCollector, RemovesSeries, BindsInstruments, Protocol):
    """All abilities of a collector on a store: the type of `MetricsSystem.collector` by default."""

    @property
    def store(self) -> Store:
        """The store."""
        ...

    def with_tags(self, tags: Mapping[str, str]) -> StoreCollector:
        """Return a collector into the same store that adds tags to every record."""
        ...

    def describe(
        self,
        name: str,
        *,
        unit: MetricUnit | None = ...,
        help: str = ...,
        merge: MergeLaw = ...,
        buckets: Iterable[float] = ...,
        window_by: Iterable[str] = ...,
        expires: bool = ...,
    ) -> None:
        """Describe a metric or operation; see `metrics_framework.recording.Store.describe`."""
        ...


# -- timers and trackers ---------------------------------------------------------------------------------


@runtime_checkable
class TimingsByTag(PerformanceTimer, Protocol):
    """A timer that summarizes durations in a window, and those of an operation that carry some tags."""

    @abstractmethod
    def get_timing_stats(
        self,
        operation_name: str,
        *,
        time_window: timedelta | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> dict[str, float]:
        """Summarize the durations of an operation in milliseconds.

        Args:
            operation_name: The operation.
            time_window: How far back; since the start by default.
            tags: The tags, besides which series may carry others; all series together by default.

        Raises:
            UnknownMetricError: If the operation was never timed.
            InvalidInputError: If an argument breaks its rule, or the window is not known by these tags.
        """
        ...


@runtime_checkable
class RatesByTag(SuccessFailureTracker, Protocol):
    """A tracker that answers for the outcomes of an operation that carry some tags."""

    @abstractmethod
    def get_success_rate(
        self,
        operation: str,
        time_window: timedelta | None = None,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> float:
        """Return the share of successes, from 0.0 to 1.0; 1.0 if there were no outcomes.

        Args:
            operation: The operation.
            time_window: How far back; since the start by default.
            tags: The tags, besides which series may carry others; all series together by default.

        Raises:
            UnknownMetricError: If the operation was never tracked.
            InvalidInputError: If an argument breaks its rule, or the window is not known by these tags.
        """
        ...

    @abstractmethod
    def get_failure_breakdown(
        self,
        operation: str,
        time_window: timedelta | None = None,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> dict[str, int]:
        """Count the failures by error type.

        Args:
            operation: The operation.
            time_window: How far back; since the start by default.
            tags: The tags, besides which series may carry others; all series together by default.

        Raises:
            UnknownMetricError: If the operation was never tracked.
            InvalidInputError: If an argument breaks its rule, or the window is not known by these tags.
        """
        ...


class StoreTimer(TimingsByTag, Protocol):
    """All abilities of a timer on a store: the type of `MetricsSystem.timer` by default."""

    @property
    def store(self) -> Store:
        """The store."""
        ...

    @property
    def abandoned(self) -> int:
        """The number of timers on this store that were started but never stopped, and were discarded."""
        ...


class StoreTracker(RatesByTag, Protocol):
    """All abilities of a tracker on a store: the type of `MetricsSystem.tracker` by default."""

    @property
    def store(self) -> Store:
        """The store."""
        ...

    def recent_failures(self, operation: str) -> list[Failure]:
        """Return the last failures of an operation with their metadata, the newest last."""
        ...


# -- resource monitors -----------------------------------------------------------------------------------


@runtime_checkable
class DetailedMonitor(ResourceMonitor, Protocol):
    """A monitor of several disks and of the process. `metrics_framework.health.record_resources` asks."""

    @property
    def disks(self) -> Sequence[str]:
        """The paths whose disks are recorded."""
        ...

    def get_process_usage(self) -> dict[str, float]:
        """Return ``threads``, ``file_descriptors`` (on Windows ``handles``) and ``uptime`` in seconds."""
        ...


# -- aggregators -----------------------------------------------------------------------------------------


@runtime_checkable
class SummariesByTag(MetricsAggregator, Protocol):
    """An aggregator that summarizes the series of a metric that carry some tags."""

    @abstractmethod
    def get_metric_summary(
        self,
        metric_name: str,
        time_window: timedelta | None = None,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> dict[str, float]:
        """Summarize a metric over the series that carry some tags.

        Args:
            metric_name: The metric.
            time_window: How far back; since the start by default.
            tags: The tags, besides which series may carry others; all series together by default.

        Raises:
            UnknownMetricError: If nothing was recorded under the name.
            InvalidInputError: If an argument breaks its rule, or the window is not known by these tags.
        """
        ...


@runtime_checkable
class IteratesMetrics(Protocol):
    """An aggregator that yields series one at a time. Exports ask, so that other threads can run between."""

    def iter_metrics(self) -> Iterator[MetricValue]:
        """Yield what ``get_metrics_by_tag({})`` returns."""
        ...


@runtime_checkable
class DistributionAggregator(Protocol):
    """An aggregator that knows the distributions behind its statistics. Snapshots and dashboards ask."""

    def read(self) -> Iterable[MetricReading]:
        """Return each metric and both halves of each operation, with one reading of each of its series.

        A snapshot computes all statistics of a series from that reading, and keeps its distribution. A
        dashboard chooses the largest metrics from it, which takes a tenth of the time of a listing.
        """
        ...


@runtime_checkable
class HistoryAggregator(Protocol):
    """An aggregator that divides a window into intervals. Dashboards ask, to draw lines and heat maps.

    Each method returns a time window, and its parts: at most ``points`` intervals without gaps. Both have the
    same records. The summary of each has the keys of a summary of that window. A summary of outcomes has
    ``count``, ``rate``, ``success_rate`` and ``failures`` by error type. An interval of a histogram or timer
    has its ``distribution`` if it is known: a heat map needs it.

    ``tags`` is given for a dashboard with a tag filter, and for rows by tag. The answer is exact for the time
    that it covers, or refused with an `InvalidInputError`, whose text the dashboard shows. The intervals may
    be wider then.
    """

    def get_metric_history(
        self,
        metric_name: str,
        time_window: timedelta,
        points: int,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> History:
        """Return the history of a metric over all of its series, or those that carry some tags.

        Raises:
            UnknownMetricError: If the metric was never recorded.
            InvalidInputError: If the history by these tags is not known.
        """
        ...

    def get_timing_history(
        self, operation: str, time_window: timedelta, points: int, *, tags: Mapping[str, str] | None = None
    ) -> History:
        """Return the history of an operation's durations in milliseconds.

        Raises:
            UnknownMetricError: If the operation was never timed.
            InvalidInputError: If the history by these tags is not known.
        """
        ...

    def get_outcome_history(
        self, operation: str, time_window: timedelta, points: int, *, tags: Mapping[str, str] | None = None
    ) -> History:
        """Return the history of an operation's outcomes.

        Raises:
            UnknownMetricError: If the operation was never tracked.
            InvalidInputError: If the history by these tags is not known.
        """
        ...


class StoreAggregator(SummariesByTag, IteratesMetrics, DistributionAggregator, HistoryAggregator, Protocol):
    """All abilities of an aggregator on a store: the type of `MetricsSystem.aggregator` by default."""

    @property
    def store(self) -> Store:
        """The store."""
        ...

    def get_distributions(self) -> list[SeriesDistribution]:
        """Return the distribution of each series of a histogram, timer or timed operation."""
        ...

    def get_distribution(self, name: str, *, operation: bool = False) -> Distribution:
        """Return the merged distribution of all series of a metric or operation."""
        ...


# -- systems ---------------------------------------------------------------------------------------------


@runtime_checkable
class HasCollector(Protocol):
    """A system, for code that only records. The instrumentation accepts it in place of a collector."""

    @property
    def collector(self) -> MetricCollector:
        """Records numbers."""
        ...


@runtime_checkable
class HasFailureRule(Protocol):
    """A system that decides which exceptions are failures. The instrumentation asks for it."""

    @property
    def failure_rule(self) -> FailureRule:
        """Decides whether an operation that ends with an exception has failed."""
        ...


@runtime_checkable
class HasAggregator(Protocol):
    """A system, for code that only reads. `metrics_framework.testing.expect` relies on it."""

    @property
    def aggregator(self) -> MetricsAggregator:
        """Answers queries."""
        ...


@runtime_checkable
class Callbacks(Protocol):
    """Updates gauges on demand. An HTTP endpoint calls it before it exposes metrics."""

    def collect(self) -> object:
        """Update all gauges."""
        ...


@runtime_checkable
class AsyncCallbacks(Callbacks, Protocol):
    """Callbacks that can also run on an event loop. The ASGI endpoint asks."""

    async def collect_async(self) -> object:
        """Update all gauges without blocking the event loop."""
        ...


@runtime_checkable
class HasCallbacks(Protocol):
    """A system with gauge callbacks. HTTP endpoints ask."""

    @property
    def callbacks(self) -> Callbacks:
        """Updates the system's gauges."""
        ...


# -- tags for any collector ------------------------------------------------------------------------------


def with_tags(collector: MetricCollector, tags: Mapping[str, str]) -> MetricCollector:
    """Return a collector that adds tags to every record of ``collector``.

    Raises:
        InvalidInputError: If ``tags`` is not a mapping of strings.
    """
    return collector.with_tags(tags) if isinstance(collector, AddsTags) else ScopedCollector(collector, tags)


class ScopedCollector:
    """Adds tags to every record of any `MetricCollector`.

    Args:
        collector: Receives the records.
        tags: The tags; a record's own tag of the same name wins.

    Raises:
        InvalidInputError: If ``tags`` is not a mapping of strings.
    """

    def __init__(self, collector: MetricCollector, tags: Mapping[str, str]) -> None:
        self._collector = collector
        self._tags = plain_tags(tags)

    def record_counter(self, name: str, value: int | float = 1, tags: dict[str, str] | None = None) -> None:
        """Add to a counter; see `MetricCollector.record_counter`."""
        self._collector.record_counter(name, value, {**self._tags, **(tags or {})})

    def record_gauge(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Set a gauge; see `MetricCollector.record_gauge`."""
        self._collector.record_gauge(name, value, {**self._tags, **(tags or {})})

    def record_histogram(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Add to a distribution; see `MetricCollector.record_histogram`."""
        self._collector.record_histogram(name, value, {**self._tags, **(tags or {})})

    def record_timer(
        self,
        name: str,
        duration: float,
        unit: MetricUnit = MetricUnit.MILLISECONDS,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Add a duration; see `MetricCollector.record_timer`."""
        self._collector.record_timer(name, duration, unit, {**self._tags, **(tags or {})})

    def increment(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Add 1 to a counter or gauge; see `MetricCollector.increment`."""
        self._collector.increment(name, {**self._tags, **(tags or {})})

    def decrement(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Take 1 from a gauge; see `MetricCollector.decrement`."""
        self._collector.decrement(name, {**self._tags, **(tags or {})})

    def with_tags(self, tags: Mapping[str, str]) -> ScopedCollector:
        """Return a collector that adds these tags as well."""
        return ScopedCollector(self._collector, {**self._tags, **plain_tags(tags)})
