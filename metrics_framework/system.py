"""The facade: five parts behind one object, and the snapshot that they become."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from metrics_framework.clock import SYSTEM_CLOCK, Clock, utc
from metrics_framework.config import Settings
from metrics_framework.dashboard import create_dashboard, outcomes
from metrics_framework.errors import ClosedError, InvalidInputError, nearest
from metrics_framework.logs import log_event
from metrics_framework.plugins import load_adapter
from metrics_framework.protocols import (
    MetricCollector,
    MetricsAggregator,
    PerformanceTimer,
    ResourceMonitor,
    SuccessFailureTracker,
)
from metrics_framework.resources import record_resources
from metrics_framework.snapshots import Environment, PerformanceSnapshot, SnapshotBuilder, SnapshotMetadata
from metrics_framework.snapshots.build import MAX_CUSTOM, BuildReport
from metrics_framework.snapshots.provenance import Provenance, find_provenance
from metrics_framework.values import MetricValue

if TYPE_CHECKING:
    from metrics_framework.measuring import Measurement, Meter
    from metrics_framework.recording import Store

P = TypeVar("P")

HEALTHY_ERROR_RATE = 0.05
HEALTHY_MEMORY_PERCENT = 95.0


class SnapshotOutput(Protocol):
    """Where snapshots go; the facade relies on it, and isolates one that fails from the others."""

    @property
    def name(self) -> str:
        """What `MetricsSystem.export_metrics_async` calls it by."""
        ...

    def write(self, snapshot: PerformanceSnapshot) -> object:
        """Keep a snapshot."""
        ...


class MetricsSystem:
    """Collecting, timing, tracking, monitoring and aggregating, behind one object.

    It fulfils the Protocols `metrics_framework.protocols.MetricsSystem` and ``AsyncMetricsSystem``. Any part
    may be replaced by whatever satisfies its Protocol; parts that are not given are the in-memory ones, on
    one store.

    Args:
        collector: Takes numbers in.
        timer: Measures operations.
        tracker: Counts how operations end.
        resource_monitor: Reads the machine and the process.
        aggregator: Answers questions.
        outputs: Where the final snapshot goes at `shutdown_metrics`.
        latency_metric: The timer that becomes a snapshot's latency; the busiest by default.
        custom_metrics: Patterns of the names that become custom keys of a snapshot; all by default.
        max_custom: How many custom keys a snapshot holds at most.
        clock: Where time comes from; the store's clock by default.

    Raises:
        InvalidInputError: If a part lacks a method of its Protocol, parts keep their numbers apart, or
            ``custom_metrics`` is one string.

    Example:
        >>> with MetricsSystem() as metrics:
        ...     metrics.collector.increment("orders")
        ...     snapshot = metrics.snapshot()
        >>> snapshot.metrics.custom["orders"]
        1
    """

    def __init__(
        self,
        *,
        collector: MetricCollector | None = None,
        timer: PerformanceTimer | None = None,
        tracker: SuccessFailureTracker | None = None,
        resource_monitor: ResourceMonitor | None = None,
        aggregator: MetricsAggregator | None = None,
        outputs: Iterable[SnapshotOutput] = (),
        latency_metric: str | None = None,
        custom_metrics: Iterable[str] | None = None,
        max_custom: int = MAX_CUSTOM,
        clock: Clock | None = None,
    ) -> None:
        given = {"collector": collector, "timer": timer, "tracker": tracker, "aggregator": aggregator}
        self._store = _shared_store(given, clock)
        self._clock = clock = clock or self._store.clock
        self._collector = _part(collector, MetricCollector, "in_memory.collector", self._store)
        self._timer = _part(timer, PerformanceTimer, "in_memory.timer", self._store)
        self._tracker = _part(tracker, SuccessFailureTracker, "in_memory.tracker", self._store)
        self._aggregator = _part(aggregator, MetricsAggregator, "in_memory.aggregator", self._store)
        self._resource_monitor = _part(resource_monitor, ResourceMonitor, "resources", self._collector, clock)
        self._outputs = list(outputs)
        self._latency_metric = latency_metric
        if isinstance(custom_metrics, str):
            raise InvalidInputError(
                f"custom_metrics={custom_metrics!r} is one string; pass a list: [{custom_metrics!r}]"
            )
        self._custom_metrics = None if custom_metrics is None else tuple(custom_metrics)
        self._max_custom = max_custom
        self._start_ns = clock.monotonic_ns()
        self._provenance: Provenance | None = None
        self._meter: Meter | None = None
        self._closed = False

    @property
    def collector(self) -> MetricCollector:
        """Takes numbers in."""
        return self._collector

    @property
    def timer(self) -> PerformanceTimer:
        """Measures operations."""
        return self._timer

    @property
    def tracker(self) -> SuccessFailureTracker:
        """Counts how operations end."""
        return self._tracker

    @property
    def resource_monitor(self) -> ResourceMonitor:
        """Reads the machine and the process."""
        return self._resource_monitor

    @property
    def aggregator(self) -> MetricsAggregator:
        """Answers questions."""
        return self._aggregator

    def measure(self, operation: str, tags: Mapping[str, str] | None = None) -> Measurement:
        """Measure a block or a function: how long it takes and how it ends.

        The result is a context manager, sync and async, and a decorator that is right for functions,
        coroutines, generators and async generators.

        Args:
            operation: What is measured; the timer and the tracker know it by this name.
            tags: What to keep it apart by; more can be added before it ends.

        Raises:
            InvalidInputError: If an argument breaks its rule.

        Example:
            >>> metrics = MetricsSystem()
            >>> with metrics.measure("db.query", {"table": "users"}) as query:
            ...     query.tag("rows", "many")
            >>> metrics.timer.get_timing_stats("db.query")["count"]
            1
        """
        if self._meter is None:
            from metrics_framework.measuring import meter_of  # inspect is slow to import

            self._meter = meter_of(self._timer, self._tracker)
        from metrics_framework.measuring import Measurement

        return Measurement(self._meter, operation, tags)

    # -- life ------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown_metrics()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import asyncio  # slow to import, and only async code needs it

        await asyncio.to_thread(self.shutdown_metrics)

    def initialize_metrics(self, config: dict[str, Any]) -> None:
        """Apply a configuration; see `metrics_framework.protocols.MetricsSystem.initialize_metrics`.

        Args:
            config: ``collection_interval`` (seconds; starts resource monitoring), ``retention_days`` (how far
                back a time window may reach), ``export_endpoints`` (names of adapters that take snapshots).

        Raises:
            ConfigurationError: If a key is unknown or a value is not allowed; then nothing was applied.
            ClosedError: After `shutdown_metrics`.
        """
        if self._closed:
            raise ClosedError("this MetricsSystem was shut down; make a new one")
        settings = Settings.parse(config)
        outputs = [load_adapter(name)() for name in settings.export_endpoints]
        if settings.retention is not None:
            self._store.retention = settings.retention
        self._outputs.extend(outputs)
        if settings.collection_interval is not None:
            self._resource_monitor.start_resource_monitoring(settings.collection_interval)

    def shutdown_metrics(self) -> None:
        """Stop background work and write a final snapshot to every output; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._resource_monitor.stop_resource_monitoring()
        except Exception as error:  # noqa: BLE001 - a monitor of someone else's may raise anything
            log_event("error", "resource monitoring not stopped", error=repr(error))
        self._write(self._outputs)

    # -- questions -------------------------------------------------------------------------------------

    def snapshot(
        self, *, environment: Environment | str | None = None, tags: Mapping[str, str] | None = None
    ) -> PerformanceSnapshot:
        """Return everything since the start as a v1 performance snapshot; what v1 cannot hold is logged.

        Args:
            environment: Where the run takes place; found out by default.
            tags: The run's own context: at most 49, as the name of the latency's timer is the 50th.

        Raises:
            SnapshotError: If nothing was measured, or a tag breaks a rule of the schema.
        """
        snapshot, report = self.build_snapshot(environment=environment, tags=tags)
        if report.left_out:
            left_out = [f"{item.what}: {item.reason}" for item in report.left_out]
            log_event("info", "left out of the snapshot", left_out=left_out)
        return snapshot

    def build_snapshot(
        self, *, environment: Environment | str | None = None, tags: Mapping[str, str] | None = None
    ) -> tuple[PerformanceSnapshot, BuildReport]:
        """Return a snapshot as `snapshot` does, with the report of what it could not hold."""
        # The code that runs is that of the start, so it is looked up once.
        self._provenance = self._provenance or find_provenance()
        metadata = SnapshotMetadata(
            commit=self._provenance.commit,
            branch=self._provenance.branch,
            timestamp=utc(self._clock),
            environment=Environment(environment or self._provenance.environment),
            tags=dict(tags or {}),
        )
        return SnapshotBuilder(
            timer=self._timer,
            tracker=self._tracker,
            resource_monitor=self._resource_monitor,
            aggregator=self._aggregator,
            seconds=self._uptime_seconds(),
            latency_metric=self._latency_metric,
            custom_metrics=self._custom_metrics,
            max_custom=self._max_custom,
        ).build(metadata)

    def get_system_health(self) -> dict[str, bool | float | int]:
        """Return whether all is well, and the readings that say so.

        ``healthy`` is false where more than 5 % of all tracked operations failed or the machine's memory is
        more than 95 % full.

        Returns:
            ``healthy``, ``error_rate`` (0.0 to 1.0), ``uptime_seconds``, ``series``, ``memory_percent``,
            ``cpu_percent``.
        """
        tracked = outcomes(self._aggregator)
        events = sum(value.metadata["count"] for value in tracked)
        # Rounded to whole events: 1 - 0.95 is a little more than 5 %.
        successes = sum(round(value.metadata["count"] * value.metadata["success_rate"]) for value in tracked)
        error_rate = (events - successes) / events if events else 0.0
        memory_percent = self._resource_monitor.get_memory_usage().get("percent", 0.0)
        return {
            "healthy": error_rate <= HEALTHY_ERROR_RATE and memory_percent <= HEALTHY_MEMORY_PERCENT,
            "error_rate": error_rate,
            "uptime_seconds": self._uptime_seconds(),
            "series": len(self._aggregator.get_metrics_by_tag({})),
            "memory_percent": memory_percent,
            "cpu_percent": self._resource_monitor.get_cpu_usage().get("percent", 0.0),
        }

    def create_dashboard_data(self, dashboard_type: str = "overview") -> dict[str, Any]:
        """Return a dashboard's panels; see `metrics_framework.dashboard.create_dashboard`."""
        return create_dashboard(dashboard_type, self._aggregator, self._resource_monitor, utc(self._clock))

    # -- async -----------------------------------------------------------------------------------------

    async def collect_metrics_async(self) -> None:
        """Read the machine's resources off the event loop and record them as gauges."""
        import asyncio

        await asyncio.to_thread(record_resources, self._resource_monitor, self._collector)

    async def export_metrics_async(self, endpoints: list[str]) -> dict[str, bool]:
        """Write a snapshot to the outputs of those names, off the event loop, each on its own.

        A name that no output has, and an output that fails, is ``False`` in the answer and said in the log.
        """
        import asyncio

        by_name = {output.name: output for output in self._outputs}
        for name in endpoints:
            if name not in by_name:
                log_event("warning", f"there is no output {name!r}.{nearest(name, by_name)}")
        chosen = [by_name[name] for name in dict.fromkeys(endpoints) if name in by_name]
        written = await asyncio.to_thread(self._write, chosen)
        return {name: written.get(name, False) for name in endpoints}

    def metrics_stream(self, filters: dict[str, Any] | None = None) -> AsyncIterator[MetricValue]:
        """Yield every metric that changes from now on, as its new value.

        Args:
            filters: ``name`` (a pattern like ``http.*``), ``type`` (a `MetricType` or its value) and ``tags``
                (all of them must match).

        Raises:
            InvalidInputError: If a filter is unknown or its value is not allowed.
        """
        from metrics_framework.streams import StreamFilter, stream_changes  # asyncio is slow to import

        return stream_changes(self._aggregator, StreamFilter.parse(filters or {}))

    def _write(self, outputs: Iterable[SnapshotOutput]) -> dict[str, bool]:
        """Write one snapshot to each output; what fails is logged and reaches nobody else."""
        written: dict[str, bool] = {}
        snapshot = None
        for output in outputs:
            try:
                snapshot = snapshot or self.snapshot()
                output.write(snapshot)
                written[output.name] = True
            except Exception as error:  # noqa: BLE001 - an output of someone else's may raise anything
                log_event("error", "snapshot not written", output=output.name, error=str(error))
                written[output.name] = False
        return written

    def _uptime_seconds(self) -> float:
        return (self._clock.monotonic_ns() - self._start_ns) / 1e9


def _shared_store(parts: Mapping[str, object], clock: Clock | None) -> Store:
    from metrics_framework.recording import Store  # a program that only names the Protocols never needs it

    found = ((name, getattr(part, "store", None)) for name, part in parts.items())
    stores = {name: store for name, store in found if isinstance(store, Store)}
    if len({id(store) for store in stores.values()}) > 1:
        raise InvalidInputError(
            f"{' and '.join(stores)} do not share one store, so that what one records another would not see:"
            " make one Store and pass it to each as store="
        )
    return next(iter(stores.values()), None) or Store(clock or SYSTEM_CLOCK)


def _part(given: P | None, protocol: type[Any], default: str, *arguments: object) -> P:
    if given is None:
        part: P = load_adapter(default)(*arguments)
        return part
    from typing_extensions import get_protocol_members

    missing = sorted(
        name for name in get_protocol_members(protocol) if not callable(getattr(given, name, None))
    )
    if missing:
        raise InvalidInputError(f"{given!r} is no {protocol.__name__}: it lacks {', '.join(missing)}")
    return given
