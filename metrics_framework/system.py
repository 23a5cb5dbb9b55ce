"""The facade: five parts behind one object, and the snapshot that they become."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from metrics_framework.clock import SYSTEM_CLOCK, Clock, utc
from metrics_framework.composition import part_or_default, shared_store, store_of
from metrics_framework.errors import ClosedError, InvalidInputError
from metrics_framework.export.exporter import DEFAULT_EXPORT_TIMEOUT_SECONDS, Outputs
from metrics_framework.export.outputs import (
    DistributionOutput,
    FullSnapshot,
    Output,
    SnapshotOutput,
    SystemOutput,
)
from metrics_framework.health import THRESHOLDS, HealthCheck, Thresholds
from metrics_framework.log import Isolation, log_event
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
    from metrics_framework.config import Settings
    from metrics_framework.measure import Measurement
    from metrics_framework.recording import Rule
    from metrics_framework.streams import Deltas, Subscription

__all__ = ["DistributionOutput", "MetricsSystem", "SnapshotOutput", "SystemOutput"]


RESOURCES_DEADLINE = 10.0
"""How many seconds `MetricsSystem.collect_metrics_async` waits for the machine's resources."""

PARTS = ("collector", "timer", "tracker", "resource_monitor", "aggregator")


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
        outputs: Where snapshots and numbers go, each a `SnapshotOutput` or a `SystemOutput`: at every
            ``collection_interval``, if there is one, and at the end.
        latency_metric: The timer that becomes a snapshot's latency; the busiest by default.
        custom_metrics: Patterns of the names that become custom keys of a snapshot; all by default.
        max_custom: How many custom keys a snapshot holds at most.
        tags: Constant tags, such as the service's name: every metric bears them where it is read, and a
            snapshot in its metadata.
        rules: What is done to the names and tags that anybody records, in this order.
        thresholds: Up to where the system is healthy.
        shutdown_on_exit: Whether the interpreter's exit shuts the system down, also after an exception that
            nobody caught; `os._exit` and a crash do not.
        shutdown_on_sigterm: Whether SIGTERM does. Then it is passed on to what handled it before, or ends the
            process; where it is ignored, it stays ignored. Only in the main thread.
        clock: Where time comes from; the store's clock by default.

    Attributes:
        collector: Takes numbers in.
        timer: Measures operations.
        tracker: Counts how operations end.
        resource_monitor: Reads the machine and the process.
        aggregator: Answers questions.
        callbacks: Calls functions for the values of gauges: at every ``collection_interval``, if there is
            one, and whenever somebody collects.

    Raises:
        InvalidInputError: If a part lacks a method of its Protocol, parts keep their numbers apart,
            ``custom_metrics`` is one string, or SIGTERM cannot be handled here.

    The process that made the system writes its final snapshot, a forked child never does. A child collects
    and writes nothing at an interval either, until it configures a ``collection_interval`` itself.

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
        outputs: Iterable[Output] = (),
        latency_metric: str | None = None,
        custom_metrics: Iterable[str] | None = None,
        max_custom: int = MAX_CUSTOM,
        tags: Mapping[str, str] | None = None,
        rules: Iterable[Rule] = (),
        thresholds: Thresholds = THRESHOLDS,
        shutdown_on_exit: bool = False,
        shutdown_on_sigterm: bool = False,
        clock: Clock | None = None,
    ) -> None:
        given = {"collector": collector, "timer": timer, "tracker": tracker, "aggregator": aggregator}
        self._store = shared_store(given, clock, tags, rules)
        self._clock = clock = clock or (self._store.clock if self._store else SYSTEM_CLOCK)
        store = self._store
        # Plain attributes: a property would cost a record through `system.collector` a tenth more.
        self.collector: Final = part_or_default(collector, MetricCollector, "in_memory.collector", store)
        self.timer: Final = part_or_default(timer, PerformanceTimer, "in_memory.timer", store)
        self.tracker: Final = part_or_default(tracker, SuccessFailureTracker, "in_memory.tracker", store)
        self.aggregator: Final = part_or_default(aggregator, MetricsAggregator, "in_memory.aggregator", store)
        self.resource_monitor: Final = part_or_default(
            resource_monitor, ResourceMonitor, "resources", self.collector, clock
        )
        self._outputs = Outputs(self, outputs, clock)
        self._latency_metric = latency_metric
        if isinstance(custom_metrics, str):
            raise InvalidInputError(
                f"custom_metrics={custom_metrics!r} is one string; pass a list: [{custom_metrics!r}]"
            )
        self._custom_metrics = None if custom_metrics is None else tuple(custom_metrics)
        self._max_custom = max_custom
        if not isinstance(thresholds, Thresholds):
            raise InvalidInputError(f"thresholds={thresholds!r} are no Thresholds, like {THRESHOLDS!r}")
        self._thresholds = thresholds
        self._start_ns = clock.monotonic_ns()
        self._provenance: Provenance | None = None
        self._measure: partial[Measurement] | None = None
        self._settings: Settings | None = None
        self._isolation = Isolation()
        # One set for good, so that a reading that goes on failing is logged once.
        self._record_resources = partial(record_resources, self.resource_monitor, self.collector, set())

        # Threads and signals are slow to import, and a program that only names the Protocols has neither.
        from metrics_framework.callbacks import GaugeCallbacks
        from metrics_framework.callbacks.calls import Callback
        from metrics_framework.collecting import Collection
        from metrics_framework.runtime.shutdown import Shutdown
        from metrics_framework.streams import publisher_of

        self.callbacks: Final = GaugeCallbacks(self.collector, clock=clock)
        self._resources = Callback("resources", self._record_resources, RESOURCES_DEADLINE, is_recorded=False)
        self._collection = Collection(
            self._record_resources,
            self.callbacks.collect,
            self._full_snapshot,  # what it leaves out is said with the final one
            self._outputs,
            self._isolation,
        )
        self._publisher = publisher_of(self.aggregator)
        self._shutdown = Shutdown(self._end, self._begin_in_child)
        self._shutdown.watch(on_exit=shutdown_on_exit, on_sigterm=shutdown_on_sigterm)
        for part in given.values():
            join = getattr(part, "join_system", None)
            if join is not None:
                join(self)

    def __setattr__(self, name: str, value: object) -> None:
        # Not `name in self.__dict__`: who looks at that makes every attribute slower from then on.
        if name in PARTS and hasattr(self, name):
            raise AttributeError(f"a system's {name} is decided when it is made: MetricsSystem({name}=…)")
        super().__setattr__(name, value)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any] | None = None,
        *,
        file: str | Path | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Self:
        """Make a system of default parts by a file, the environment and a mapping, of which the later wins.

        Args:
            config: Key to value; ``docs/configuration.md`` has them all.
            file: A TOML file with a table ``[metrics_framework]``, or a ``pyproject.toml`` with
                ``[tool.metrics_framework]``.
            environ: Variables like ``METRICS_FRAMEWORK_COLLECTION_INTERVAL``; none with ``{}``.

        Raises:
            ConfigurationError: If a key is unknown, a value is not allowed, or the file cannot be read.
        """
        from metrics_framework.config import Settings  # only who configures needs it

        settings = Settings.load(config or {}, file, environ)
        system = cls(collector=load_adapter("in_memory.collector")(settings.store()))
        system._apply(settings)
        return system

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
        if self._measure is None:
            from metrics_framework.measure import Measurement, meter_of  # inspect is slow to import

            self._measure = partial(Measurement, meter_of(self.timer, self.tracker, self._clock))
        return self._measure(operation, tags)

    def with_tags(self, tags: Mapping[str, str]) -> MetricCollector:
        """Return a collector that adds tags to what is recorded through it: one to keep, not for one record.

        Raises:
            InvalidInputError: If ``tags`` is no mapping of strings.

        Example:
            >>> metrics = MetricsSystem()
            >>> metrics.with_tags({"tenant": "acme"}).increment("orders")
        """
        own = getattr(self.collector, "with_tags", None)
        if own is not None:
            collector: MetricCollector = own(tags)
            return collector
        from metrics_framework.scoped import ScopedCollector

        return ScopedCollector(self.collector, tags)

    # -- life ------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown_metrics()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        import asyncio  # slow to import, and only async code needs it

        await asyncio.to_thread(self.shutdown_metrics)

    def initialize_metrics(self, config: dict[str, Any]) -> None:
        """Apply a configuration; see `metrics_framework.protocols.MetricsSystem.initialize_metrics`.

        Keys that were applied before and are not in ``config`` stay as they are.

        Args:
            config: Key to value; ``docs/configuration.md`` has them all, and which `from_config` alone takes.

        Raises:
            ConfigurationError: If a key is unknown or a value is not allowed; then nothing was applied.
            ClosedError: After `shutdown_metrics`.
        """
        from metrics_framework.config import Settings

        self._apply(Settings.parse(config))

    def _apply(self, settings: Settings) -> None:
        from metrics_framework.runtime.shutdown import check_sigterm

        with self._shutdown.lock:
            if self._shutdown.begun:
                raise ClosedError("this MetricsSystem was shut down; make a new one")
            # First whatever may be refused, then what has an effect.
            if settings.shutdown_on_sigterm:
                check_sigterm()
            # An endpoint and its folder may have been named by different calls.
            every = self._settings.updated(settings) if self._settings else settings
            outputs = self._outputs.prepare(every.endpoints())
            self._settings = every
            self._outputs.configure(outputs)
            if settings.retention is not None and self._store is not None:  # foreign parts keep their own
                self._store.retention = settings.retention
            self._latency_metric = settings.latency_metric or self._latency_metric
            if settings.custom_metrics is not None:
                self._custom_metrics = tuple(settings.custom_metrics)
            self._max_custom = settings.max_custom or self._max_custom
            self._thresholds = settings.thresholds(self._thresholds)
            self._shutdown.watch(on_exit=settings.shutdown_on_exit, on_sigterm=settings.shutdown_on_sigterm)
            if settings.collection_interval is not None:
                self._collection.start(settings.collection_interval)

    def shutdown_metrics(self) -> None:
        """Stop background work, end streams, and write to every output for the last time.

        It happens once: a second call does nothing, and waits where another thread is at it.
        """
        self._shutdown.run()

    def _end(self) -> None:
        self._collection.stop()
        self.callbacks.close()
        self._publisher.close()
        # Nobody here starts it, but its owner may have.
        isolation = Isolation()
        isolation.call("resource monitoring not stopped", self.resource_monitor.stop_resource_monitoring)
        self._outputs.write_final(self._final_snapshot, isolation)

    def take_over(self, other: MetricsSystem) -> None:
        """Write from now on what another system on the same store would have written.

        Its outputs, its ``collection_interval`` if this system has none, and its watch over the interpreter's
        exit become those of this system; it is shut down without a final snapshot. A part that has a system
        of its own calls this in its method ``join_system``, which a system calls with itself where it has
        one.
        """
        interval, on_exit = other._collection.interval, other._shutdown.on_exit
        other._outputs.move_to(self._outputs)
        other.shutdown_metrics()
        self._start_ns = min(self._start_ns, other._start_ns)
        with self._shutdown.lock:
            if on_exit:
                self._shutdown.watch(on_exit=True)
            if interval is not None and self._collection.interval is None:
                self._collection.start(interval)

    def _begin_in_child(self) -> None:
        self._outputs.begin_in_child()
        self._collection.begin_in_child()
        self._publisher.reset_in_child()
        self._start_ns = self._clock.monotonic_ns()

    # -- questions -------------------------------------------------------------------------------------

    def snapshot(
        self, *, environment: Environment | str | None = None, tags: Mapping[str, str] | None = None
    ) -> PerformanceSnapshot:
        """Return everything since the start as a v1 performance snapshot; what v1 cannot hold is logged.

        Args:
            environment: Where the run takes place; found out by default.
            tags: The run's own context: at most 48, as the name of the latency's timer and the sidecar of a
                `SnapshotWriter` are two more; with 49 there is no sidecar.

        Raises:
            SnapshotError: If nothing was measured, or a tag breaks a rule of the schema.
        """
        snapshot, report = self.build_snapshot(environment=environment, tags=tags)
        _say_what_is_left_out(report)
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
            timer=self.timer,
            tracker=self.tracker,
            resource_monitor=self.resource_monitor,
            aggregator=self.aggregator,
            seconds=self._uptime_seconds(),
            latency_metric=self._latency_metric,
            custom_metrics=self._custom_metrics,
            max_custom=self._max_custom,
            constant_tags=self._store.tags if self._store else {},
        ).build(metadata)

    def _full_snapshot(self) -> FullSnapshot:
        snapshot, report = self.build_snapshot()
        return FullSnapshot(snapshot, report.distributions)

    def _final_snapshot(self) -> FullSnapshot:
        snapshot, report = self.build_snapshot()
        _say_what_is_left_out(report)
        return FullSnapshot(snapshot, report.distributions)

    def get_system_health(self) -> dict[str, bool | float | int]:
        """Return whether all is well, and the readings; see `metrics_framework.health.HealthCheck.read`."""
        uptime_seconds = self._uptime_seconds()
        overhead = self._collection.cpu_ns / 1e7 / uptime_seconds if uptime_seconds > 0 else 0.0
        return HealthCheck(
            thresholds=self._thresholds,
            monitor=self.resource_monitor,
            aggregator=self.aggregator,
            store=self._store,
            tracked=store_of(self.tracker),
            isolation=self._isolation,
        ).read(uptime_seconds, overhead)

    def create_dashboard_data(self, dashboard_type: str = "overview") -> dict[str, Any]:
        """Return a dashboard's panels; see `metrics_framework.dashboard.create_dashboard`."""
        from metrics_framework.dashboard import WINDOW, create_dashboard  # not every program draws

        return create_dashboard(
            dashboard_type,
            self.aggregator,
            self.resource_monitor,
            utc(self._clock),
            window=min(WINDOW, self._store.retention) if self._store else WINDOW,
            error_rate=self._thresholds.error_rate,
            memory_percent=self._thresholds.memory_percent,
            cpu_percent=self._thresholds.cpu_percent,
        )

    # -- async -----------------------------------------------------------------------------------------

    async def collect_metrics_async(self) -> None:
        """Read the machine's resources and call all gauge callbacks, at once, and record them as gauges.

        What may block is done in other threads, async callbacks on this loop, which may be one of asyncio or
        of trio. Each has a deadline: a callback its own, the resources 10 seconds.
        """
        await self.callbacks.collect_async(beside=[self._resources])

    async def export_metrics_async(self, endpoints: list[str]) -> dict[str, bool]:
        """Export to outputs and endpoints, all at once and off the event loop, each on its own.

        On asyncio or trio. Each has `export_timeout` seconds, 30 by default; none is exported to twice at a
        time. Whether or not an output is left alone for a while at the interval, here it is tried.

        Args:
            endpoints: Names of outputs, and names or URLs of endpoints, as ``docs/exporting.md`` lists them;
                also such as were never configured.

        Returns:
            Endpoint to whether the export succeeded. Nothing is raised for one that is dead, slow or unknown:
            why it failed is in the log, and in `export_failures`.
        """
        settings = self._settings
        urls = settings.urls() if settings else {}
        timeout = (settings.export_timeout if settings else None) or DEFAULT_EXPORT_TIMEOUT_SECONDS
        return await self._outputs.export(endpoints, self._final_snapshot, urls, timeout)

    @property
    def export_failures(self) -> dict[str, str]:
        """Why the last export to an output or endpoint failed, by its name, for those that are not well.

        No user, password or secret of a URL is in it.
        """
        return self._outputs.failures

    def subscribe(
        self, filters: Mapping[str, Any] | None = None, *, buffer: int = 10_000, after: int | None = None
    ) -> Subscription:
        """Subscribe to every record from now on, until the system is shut down.

        Args:
            filters: ``name`` (a name, or a pattern like ``http.*``), ``type`` (a `MetricType` or its value),
                ``tags`` (all of them must match) and ``sample_rate`` (above 0 and up to 1).
            buffer: How many events wait for the subscriber at most; past it the oldest is dropped and
                counted.
            after: The sequence number of the last event that a former subscription had: it goes on from
                there, as far back as events are kept; what is not counts as dropped, whatever the filters.

        Raises:
            InvalidInputError: If an argument breaks its rule.
            ClosedError: After `shutdown_metrics`.
        """
        return self._publisher.subscribe(filters, buffer=buffer, after=after)

    def metrics_stream(self, filters: dict[str, Any] | None = None) -> AsyncIterator[MetricValue]:
        """Yield every record from now on, as its metric is with it, until the system is shut down.

        Args:
            filters: As `subscribe` takes them.

        Raises:
            InvalidInputError: If a filter is unknown or its value is not allowed.
        """
        return self._publisher.values(filters)

    def deltas(self, every: float = 1.0, filters: Mapping[str, Any] | None = None) -> Deltas:
        """Yield what has changed: one value for each series that was recorded into, every so many seconds.

        Args:
            every: Seconds from one list to the next; there is none where nothing has changed.
            filters: As `subscribe` takes them, but for ``sample_rate``.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        return self._publisher.deltas(every, filters)

    def _uptime_seconds(self) -> float:
        return (self._clock.monotonic_ns() - self._start_ns) / 1e9


def _say_what_is_left_out(report: BuildReport) -> None:
    if report.left_out:
        first = [f"{item.what}: {item.reason}" for item in report.left_out[:10]]
        log_event("info", "left out of the snapshot", left_out=len(report.left_out), first=first)
