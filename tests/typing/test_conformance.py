"""Static proof that each class implements its Protocol, and that a wrong class does not.

mypy and pyright check this file: an accepted assignment is the proof, and both report a comment that ignores
an error as soon as the error is gone. `isinstance` with a Protocol would check only the names of methods.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

from prometheus_client import CollectorRegistry

from metrics_adapters.combined import CombinedAggregator
from metrics_adapters.gpu import GpuMonitor
from metrics_adapters.grafana import GrafanaDashboard
from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_adapters.otlp import OtlpExporter
from metrics_adapters.prometheus import PrometheusCollector, Pushgateway, RegistryAggregator, Textfile
from metrics_adapters.resources import CommandMonitor, PsutilMonitor
from metrics_adapters.snapshot_writer import (
    SnapshotAggregator,
    SnapshotCollector,
    SnapshotTimer,
    SnapshotTracker,
    SnapshotWriter,
)
from metrics_framework import MetricsSystem, PerformanceSnapshot, protocols
from metrics_framework.capabilities import DistributionAggregator, RatesByTag, SummariesByTag, TimingsByTag
from metrics_framework.clock import SYSTEM_CLOCK, Clock, ManualClock, SystemClock
from metrics_framework.dashboard import HistoryAggregator
from metrics_framework.protocols import (
    AsyncMetricsSystem,
    MetricCollector,
    MetricsAggregator,
    PerformanceTimer,
    ResourceMonitor,
    SuccessFailureTracker,
)
from metrics_framework.recording import Store
from metrics_framework.system import DistributionOutput, LocalOutput, SnapshotOutput, SystemOutput
from metrics_framework.telemetry import EventSource, ResourceEvents
from metrics_framework.testing import counter, expect
from metrics_framework.values import MetricType, MetricUnit, MetricValue, TimingResult


def test_in_memory_adapters_fit() -> None:
    """Each in-memory adapter implements the Protocol of its name."""
    collector: type[MetricCollector] = InMemoryCollector
    timer: type[PerformanceTimer] = InMemoryTimer
    tracker: type[SuccessFailureTracker] = InMemoryTracker
    aggregator: type[MetricsAggregator] = InMemoryAggregator
    assert isinstance(collector(), MetricCollector)
    assert isinstance(timer(), PerformanceTimer)
    assert isinstance(tracker(), SuccessFailureTracker)
    assert isinstance(aggregator(), MetricsAggregator)


def test_in_memory_adapters_answer_by_tag() -> None:
    """Timer, tracker and aggregator, and their subclasses, can query windows and rates by tag."""
    timings: list[type[TimingsByTag]] = [InMemoryTimer, SnapshotTimer]
    rates: list[type[RatesByTag]] = [InMemoryTracker, SnapshotTracker]
    summaries: type[SummariesByTag] = InMemoryAggregator
    assert all(issubclass(view, TimingsByTag) for view in timings)
    assert all(issubclass(view, RatesByTag) for view in rates)
    assert isinstance(summaries(), SummariesByTag)


def test_sources_of_events_fit() -> None:
    """A telemetry log can read the machine's monitor and the GPU monitor."""
    sources: list[type[EventSource]] = [ResourceEvents, GpuMonitor]
    assert [source.__name__ for source in sources] == ["ResourceEvents", "GpuMonitor"]


def test_the_prometheus_adapter_fits() -> None:
    """The Prometheus collector is a collector, and has a store for a system."""
    collector: type[MetricCollector] = PrometheusCollector
    made: MetricCollector = PrometheusCollector(CollectorRegistry(), Store())
    assert isinstance(made, collector)
    with MetricsSystem(collector=made) as metrics:
        assert metrics.collector is made


def test_the_snapshot_adapter_fits() -> None:
    """Collector, timer and tracker that record into files implement their Protocols."""
    collector: type[MetricCollector] = SnapshotCollector
    timer: type[PerformanceTimer] = SnapshotTimer
    tracker: type[SuccessFailureTracker] = SnapshotTracker
    distributions: type[DistributionAggregator] = InMemoryAggregator
    for view, protocol in (
        (collector, MetricCollector),
        (timer, PerformanceTimer),
        (tracker, SuccessFailureTracker),
        (distributions, DistributionAggregator),
    ):
        assert issubclass(view, protocol)


def test_other_aggregators_fit() -> None:
    """Readers of a registry, of snapshots and of several aggregators are aggregators; ours has histories."""
    registry: type[MetricsAggregator] = RegistryAggregator
    snapshots: type[MetricsAggregator] = SnapshotAggregator
    history: type[HistoryAggregator] = InMemoryAggregator
    combined: MetricsAggregator = CombinedAggregator(InMemoryAggregator(), RegistryAggregator())
    assert isinstance(registry(), MetricsAggregator)
    assert isinstance(snapshots(), MetricsAggregator)
    assert issubclass(history, InMemoryAggregator)
    assert isinstance(combined, MetricsAggregator)


def test_monitors_fit() -> None:
    """Both monitors of the machine are resource monitors."""
    monitor: type[ResourceMonitor] = PsutilMonitor
    command: type[ResourceMonitor] = CommandMonitor
    assert isinstance(monitor(), ResourceMonitor)
    assert issubclass(command, ResourceMonitor)


def test_the_facade_fits_both_contracts() -> None:
    """The facade is a metrics system for sync and async code."""
    system: type[protocols.MetricsSystem] = MetricsSystem
    asynchronous: type[AsyncMetricsSystem] = MetricsSystem
    with MetricsSystem() as made:
        as_system: protocols.MetricsSystem = made
        as_asynchronous: AsyncMetricsSystem = made
        assert isinstance(as_system, system)
        assert isinstance(as_asynchronous, asynchronous)


def test_expect_takes_any_system() -> None:
    """Expectations can be checked on any system or aggregator."""
    with MetricsSystem() as made:
        system: protocols.MetricsSystem = made
        aggregator: MetricsAggregator = made.aggregator
        with expect(system, counter("orders", 2)), expect(aggregator, counter("orders", 2)):
            system.collector.record_counter("orders", 2)


def test_outputs_fit() -> None:
    """The snapshot writer is an output that keeps distributions; system exporters are outputs, too."""
    keeping: type[DistributionOutput] = SnapshotWriter
    assert keeping is SnapshotWriter
    output: type[SnapshotOutput] = SnapshotWriter
    instance: SnapshotOutput = SnapshotWriter("snapshots")
    assert isinstance(instance, output)
    pushing: type[SystemOutput] = Pushgateway
    writing: SystemOutput = Textfile("all.prom")
    local: LocalOutput = Textfile("all.prom")
    drawing: SystemOutput = GrafanaDashboard("shop.json")
    exporting: SystemOutput = OtlpExporter("http://collector:4318")
    pushed = Pushgateway("http://pushgateway:9091", "job")
    MetricsSystem(outputs=[instance, writing, pushed, drawing, exporting])
    assert not isinstance(writing, pushing)
    assert local.is_local


def test_clocks_fit() -> None:
    """Both clocks are accepted as a `Clock`."""
    manual: type[Clock] = ManualClock
    machine: type[Clock] = SystemClock
    default: Clock = SYSTEM_CLOCK
    assert manual().monotonic_ns() == 0
    assert isinstance(default, machine)
    assert Store(ManualClock()).clock is not default


class OwnCollector:
    """A collector that was written from the Protocol alone."""

    def record_counter(self, name: str, value: int | float = 1, tags: dict[str, str] | None = None) -> None:
        """Drop it."""

    def record_gauge(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Drop it."""

    def record_histogram(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Drop it."""

    def record_timer(
        self,
        name: str,
        duration: float,
        unit: MetricUnit = MetricUnit.MILLISECONDS,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Drop it."""

    def increment(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Drop it."""

    def decrement(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Drop it."""


class NarrowSystem:
    """A system with parts of narrower types than the Protocol's, as plain attributes."""

    def __init__(self) -> None:
        store = Store()
        self.collector = InMemoryCollector(store)
        self.timer = InMemoryTimer(store)
        self.tracker = InMemoryTracker(store)
        self.resource_monitor = PsutilMonitor()
        self.aggregator = InMemoryAggregator(store)

    def initialize_metrics(self, config: dict[str, Any]) -> None:
        """Ignore it."""

    def shutdown_metrics(self) -> None:
        """Do nothing."""

    def get_system_health(self) -> dict[str, bool | float | int]:
        """Return a healthy status."""
        return {"healthy": True}

    def create_dashboard_data(self, dashboard_type: str = "overview") -> dict[str, Any]:
        """Return nothing."""
        return {}


class OwnAsyncSystem:
    """An asynchronous system that implements its stream as an async generator."""

    async def collect_metrics_async(self) -> None:
        """Do nothing."""

    async def export_metrics_async(self, endpoints: list[str]) -> dict[str, bool]:
        """Return no result."""
        return dict.fromkeys(endpoints, False)

    async def metrics_stream(self, filters: dict[str, Any] | None = None) -> AsyncIterator[MetricValue]:
        """Yield nothing."""
        return
        yield


def test_hand_written_parts_fit() -> None:
    """Classes that are written from the Protocol alone need no base class."""
    collector: MetricCollector = OwnCollector()
    narrow: protocols.MetricsSystem = NarrowSystem()
    asynchronous: AsyncMetricsSystem = OwnAsyncSystem()
    with MetricsSystem(collector=collector) as metrics:
        assert metrics.collector is collector
    assert narrow.get_system_health() == {"healthy": True}
    assert isinstance(asynchronous, AsyncMetricsSystem)


async def names(system: AsyncMetricsSystem) -> list[str]:
    """Read a stream. That this type-checks is the reason for the declaration of `metrics_stream`."""
    return [value.name async for value in system.metrics_stream()]


def test_streams_are_iterated() -> None:
    """`async for` accepts the result of `metrics_stream`."""
    import asyncio

    assert asyncio.run(names(OwnAsyncSystem())) == []


# What does not fit. Each has all the methods, so that only a type checker can tell.


class OtherName(OwnCollector):
    """A collector with other parameter names, which mypy does not compare."""

    def increment(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, metric: str, tags: dict[str, str] | None = None
    ) -> None:
        """Drop it."""


class OtherParameter(OwnCollector):
    """A collector that requires another argument."""

    def increment(self, name: str, step: int, tags: dict[str, str] | None = None) -> None:  # type: ignore[override]
        """Drop it."""


class NoDefault(InMemoryAggregator):
    """An aggregator that requires the format."""

    def export_metrics(self, format: str) -> str:  # type: ignore[override]
        """Return nothing."""
        return format


class OtherResult:
    """A timer that returns seconds instead of a result."""

    def start_timer(self, operation_name: str, metadata: dict[str, Any] | None = None) -> str:
        """Return the name."""
        return operation_name

    def stop_timer(self, timer_id: str, success: bool = True) -> float:
        """Return no result."""
        return 0.0

    def time_operation(
        self, operation_name: str, operation: Callable[[], Any], metadata: dict[str, Any] | None = None
    ) -> TimingResult:
        """Raise an error."""
        raise NotImplementedError

    def get_timing_stats(self, operation_name: str) -> dict[str, float]:
        """Return nothing."""
        return {}


class NarrowerParameter:
    """A tracker that requires a window."""

    def record_success(self, operation: str, metadata: dict[str, Any] | None = None) -> None:
        """Drop it."""

    def record_failure(self, operation: str, error_type: str, metadata: dict[str, Any] | None = None) -> None:
        """Drop it."""

    def get_success_rate(self, operation: str, time_window: timedelta = timedelta(1)) -> float:
        """Return 1.0."""
        return 1.0

    def get_failure_breakdown(self, operation: str, time_window: timedelta | None = None) -> dict[str, int]:
        """Return nothing."""
        return {}


class NotAsynchronous(OwnAsyncSystem):
    """A system with a sync `collect_metrics_async`."""

    def collect_metrics_async(self) -> None:  # type: ignore[override]
        """Do nothing."""


class NoName:
    """An output without a name."""

    def write(self, snapshot: PerformanceSnapshot) -> None:
        """Drop it."""


class FloatClock:
    """A clock that returns seconds."""

    def monotonic_ns(self) -> float:
        """Return a float."""
        return 0.0

    def time_ns(self) -> int:
        """Return an integer."""
        return 0


def test_wrong_adapters_do_not_fit() -> None:
    """Other parameters, other results and missing parts are static errors."""
    collector: MetricCollector = OtherParameter()  # type: ignore[assignment]
    renamed: MetricCollector = OtherName()  # pyright: ignore[reportAssignmentType]
    aggregator: MetricsAggregator = NoDefault()  # type: ignore[assignment]
    timer: PerformanceTimer = OtherResult()  # type: ignore[assignment]
    tracker: SuccessFailureTracker = NarrowerParameter()  # type: ignore[assignment]
    asynchronous: AsyncMetricsSystem = NotAsynchronous()  # type: ignore[assignment]
    output: SnapshotOutput = NoName()  # type: ignore[assignment]
    clock: Clock = FloatClock()  # type: ignore[assignment]
    swapped: MetricCollector = InMemoryTimer()  # type: ignore[assignment]
    # At run time the methods' names are all that counts.
    for part, protocol in (
        (collector, MetricCollector),
        (renamed, MetricCollector),
        (aggregator, MetricsAggregator),
        (timer, PerformanceTimer),
        (tracker, SuccessFailureTracker),
        (asynchronous, AsyncMetricsSystem),
    ):
        assert isinstance(part, protocol)
    assert not isinstance(swapped, MetricCollector)
    assert not hasattr(output, "name")
    assert clock.time_ns() == 0


def test_wrong_arguments_do_not_fit() -> None:
    """The facade's arguments are checked against the Protocols."""
    try:
        MetricsSystem(timer=InMemoryTracker())  # type: ignore[arg-type]
    except ValueError as error:
        assert "PerformanceTimer" in str(error)  # noqa: PT017 - pytest is not installed where this is type-checked
    else:
        raise AssertionError("a tracker is not a timer")
    assert MetricType.RATE.value == "rate"
