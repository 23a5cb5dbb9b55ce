"""The facade: five parts behind one object, their lifecycle, snapshots and exports."""

from __future__ import annotations

import atexit
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeAlias
from weakref import WeakSet

from typing_extensions import TypeVar, get_protocol_members

from metrics_framework.capabilities import (
    DetailedMonitor,
    HasStore,
    JoinsSystem,
    StoreAggregator,
    StoreCollector,
    StoreTimer,
    StoreTracker,
    with_tags,
)
from metrics_framework.clock import SYSTEM_CLOCK, Clock, utc
from metrics_framework.error_types import ErrorClasses, FailureRule
from metrics_framework.errors import ClosedError, InvalidInputError
from metrics_framework.export.exporter import DEFAULT_SHUTDOWN_TIMEOUT_SECONDS, Outputs
from metrics_framework.export.outputs import (
    DistributionOutput,
    FullSnapshot,
    IncrementalOutput,
    LocalOutput,
    Output,
    SnapshotOutput,
    SystemOutput,
)
from metrics_framework.health import DEFAULT_THRESHOLDS, HealthCheck, Thresholds, record_resources
from metrics_framework.log import Isolation, log_event
from metrics_framework.plugins import load_adapter
from metrics_framework.protocols import (
    MetricCollector,
    MetricsAggregator,
    PerformanceTimer,
    ResourceMonitor,
    SuccessFailureTracker,
)
from metrics_framework.runtime.deadline import Deadline, keeping, run_within_deadline
from metrics_framework.snapshots import Environment, PerformanceSnapshot, SnapshotBuilder, SnapshotMetadata
from metrics_framework.snapshots.build import MAX_CUSTOM, BuildReport
from metrics_framework.snapshots.provenance import Provenance, find_provenance, machine_tags
from metrics_framework.snapshots.rules import MAX_TAGS
from metrics_framework.validation import check_duration, check_seconds
from metrics_framework.values import MetricValue

if TYPE_CHECKING:
    from metrics_framework.config import Settings
    from metrics_framework.measure import Measurement
    from metrics_framework.processes.worker import WorkerProcess
    from metrics_framework.recording import Rule, Store
    from metrics_framework.streams import Deltas, Subscription

__all__ = [
    "AnySystem",
    "DistributionOutput",
    "IncrementalOutput",
    "LocalOutput",
    "MetricsSystem",
    "SnapshotOutput",
    "SystemOutput",
]


RESOURCES_DEADLINE = 10.0
"""The deadline in seconds of reading resources in `MetricsSystem.collect_metrics_async`."""

PARTS = ("collector", "timer", "tracker", "resource_monitor", "aggregator")

# The types of a system's parts. A part that is not given has all the abilities of the in-memory one.
CollectorT_co = TypeVar("CollectorT_co", bound=MetricCollector, default=StoreCollector, covariant=True)
TimerT_co = TypeVar("TimerT_co", bound=PerformanceTimer, default=StoreTimer, covariant=True)
TrackerT_co = TypeVar("TrackerT_co", bound=SuccessFailureTracker, default=StoreTracker, covariant=True)
MonitorT_co = TypeVar("MonitorT_co", bound=ResourceMonitor, default=DetailedMonitor, covariant=True)
AggregatorT_co = TypeVar("AggregatorT_co", bound=MetricsAggregator, default=StoreAggregator, covariant=True)
P = TypeVar("P")


class MetricsSystem(Generic[CollectorT_co, TimerT_co, TrackerT_co, MonitorT_co, AggregatorT_co]):
    """Records, times, tracks, monitors and aggregates. Thread-safe.

    It implements the Protocols `metrics_framework.protocols.MetricsSystem` and ``AsyncMetricsSystem``. Each
    part is any object with the methods of its Protocol, and keeps its type. The default parts are the
    in-memory ones, on one store.

    Args:
        collector: Records numbers.
        timer: Measures durations.
        tracker: Counts successes and failures.
        resource_monitor: Reads resource usage.
        aggregator: Summarizes and exports metrics.
        outputs: Receive snapshots (`SnapshotOutput`) or the system (`SystemOutput`) at every
            ``collection_interval`` and at shutdown.
        latency_metric: The timer that becomes a snapshot's latency; the busiest by default.
        custom_metrics: Patterns of the names that become custom keys of a snapshot; all by default.
        max_custom: The maximum number of custom keys of a snapshot.
        tags: Constant tags, such as the service's name. Every query adds them to each metric, and a snapshot
            has them in its metadata.
        rules: Change or drop recorded names and tags, in this order.
        ignore: Exceptions that do not count as failures of measured operations; see `measure`. They also hold
            for measured requests, tasks and clients.
        failures: Exceptions that are failures although ``ignore`` or the default exempts them.
        thresholds: The limits of a healthy system.
        shutdown_on_exit: Whether to shut down at the interpreter's exit, also after an uncaught exception;
            `os._exit` and a crash bypass it.
        shutdown_on_sigterm: Whether to shut down on SIGTERM. The signal is then passed to the previous
            handler, or ends the process. An ignored SIGTERM stays ignored. Only in the main thread.
        shutdown_timeout: The time limit of `shutdown_metrics` in seconds.
        shared: Whether all worker processes of this service share their numbers, so that each of them answers
            for all: true, or the folder for their files. See ``docs/multiprocess.md``.
        clock: The source of time; the store's clock by default.

    Attributes:
        collector: Records numbers.
        timer: Measures durations.
        tracker: Counts successes and failures.
        resource_monitor: Reads resource usage.
        aggregator: Summarizes and exports metrics.
        callbacks: Calls functions at each collection and records their return values as gauges.

    Raises:
        InvalidInputError: If a part lacks a method of its Protocol, parts have different stores,
            ``custom_metrics`` is a string, SIGTERM cannot be handled here, or numbers cannot be shared.

    Only the process that created the system writes its final snapshot; a forked child does not. A child also
    does no work at an interval until it configures a ``collection_interval`` itself. With ``shared``, one
    process does both for all.

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
        collector: CollectorT_co | None = None,
        timer: TimerT_co | None = None,
        tracker: TrackerT_co | None = None,
        resource_monitor: MonitorT_co | None = None,
        aggregator: AggregatorT_co | None = None,
        outputs: Iterable[Output] = (),
        latency_metric: str | None = None,
        custom_metrics: Iterable[str] | None = None,
        max_custom: int = MAX_CUSTOM,
        tags: Mapping[str, str] | None = None,
        rules: Iterable[Rule] = (),
        ignore: ErrorClasses = (),
        failures: ErrorClasses = (),
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
        shutdown_on_exit: bool = False,
        shutdown_on_sigterm: bool = False,
        shutdown_timeout: float = DEFAULT_SHUTDOWN_TIMEOUT_SECONDS,
        shared: bool | str | os.PathLike[str] = False,
        clock: Clock | None = None,
    ) -> None:
        check_seconds("shutdown_timeout", shutdown_timeout)
        given = {"collector": collector, "timer": timer, "tracker": tracker, "aggregator": aggregator}
        self._store = _shared_store(given, clock, tags, rules)
        self._clock = clock = clock or (self._store.clock if self._store else SYSTEM_CLOCK)
        store = self._store
        # Plain attributes: a property would cost a record through `system.collector` a tenth more.
        self.collector: Final[CollectorT_co] = _part(collector, MetricCollector, "in_memory.collector", store)
        self.timer: Final[TimerT_co] = _part(timer, PerformanceTimer, "in_memory.timer", store)
        self.tracker: Final[TrackerT_co] = _part(tracker, SuccessFailureTracker, "in_memory.tracker", store)
        self.aggregator: Final[AggregatorT_co] = _part(
            aggregator, MetricsAggregator, "in_memory.aggregator", store
        )
        self.resource_monitor: Final[MonitorT_co] = _part(
            resource_monitor, ResourceMonitor, "resources", self.collector, clock
        )
        self._shutdown_timeout = shutdown_timeout
        self._latency_metric = latency_metric
        if isinstance(custom_metrics, str):
            raise InvalidInputError(
                f"custom_metrics={custom_metrics!r} is a string: pass a list, [{custom_metrics!r}]"
            )
        self._custom_metrics = None if custom_metrics is None else tuple(custom_metrics)
        self._max_custom = max_custom
        if not isinstance(thresholds, Thresholds):
            raise InvalidInputError(
                f"thresholds={thresholds!r} is not a Thresholds: pass one like {DEFAULT_THRESHOLDS!r}"
            )
        self._thresholds = thresholds
        self._start_ns = clock.monotonic_ns()
        self._provenance: Provenance | None = None
        self._measure: partial[Measurement] | None = None
        self.failure_rule = FailureRule(ignore, failures)
        self._is_entered = False
        self._records_at_end = 0
        self._settings: Settings | None = None
        self._isolation = Isolation()
        # One set for all calls, so that a reading that keeps failing is logged once.
        self._failing_resources: set[str] = set()
        self._worker: WorkerProcess | None = None

        # Slow to import; a program that only imports the Protocols does not need them.
        from metrics_framework.callbacks import GaugeCallbacks
        from metrics_framework.callbacks.calls import Callback
        from metrics_framework.export.interval import IntervalCollection
        from metrics_framework.runtime.shutdown import Shutdown
        from metrics_framework.streams import publisher_of

        self._outputs = Outputs(self, outputs, clock)
        self.callbacks: Final = GaugeCallbacks(self.collector, clock=clock)
        self._resources = Callback("resources", self._record_resources, RESOURCES_DEADLINE, is_recorded=False)
        self._collection = IntervalCollection(
            self._record_resources,
            self.callbacks.collect,
            self._full_snapshot,  # omissions are logged once, with the final snapshot
            self._outputs,
            self._isolation,
        )
        self._publisher = publisher_of(self.aggregator)
        self._shutdown = Shutdown(self._end, self._begin_in_child)
        _open_systems.add(self)
        self._shutdown.watch(on_exit=shutdown_on_exit, on_sigterm=shutdown_on_sigterm)
        if shared is not False:
            from metrics_framework.processes.worker import share

            # Nothing after this raises: the files of a worker belong to its system.
            self._worker = self._collection.worker = share(self._store, shared, self._outputs.start_threads)
            self._shutdown.watch()  # again: the exit calls this before the end of the worker
        for part in given.values():
            if isinstance(part, JoinsSystem):
                part.join_system(self)

    def __setattr__(self, name: str, value: object) -> None:
        # Not `name in self.__dict__`: creating that dict makes every later attribute access slower.
        if name in PARTS and hasattr(self, name):
            raise AttributeError(
                f"{name} cannot be replaced: pass it to the constructor, MetricsSystem({name}=…)"
            )
        super().__setattr__(name, value)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any] | None = None,
        *,
        file: str | Path | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Self:
        """Create a system from a file, the environment and a mapping; later sources take precedence.

        Args:
            config: The keys of ``docs/configuration.md`` with their values.
            file: A TOML file with a table ``[metrics_framework]``, or a ``pyproject.toml`` with
                ``[tool.metrics_framework]``.
            environ: Variables like ``METRICS_FRAMEWORK_COLLECTION_INTERVAL``; ``{}`` reads none.

        Raises:
            ConfigurationError: If a key is unknown, a value is not allowed, or the file cannot be read.
        """
        from metrics_framework.config import Settings  # slow to import

        settings = Settings.load(config or {}, file, environ)
        system = cls(
            collector=load_adapter("in_memory.collector")(settings.store()),
            shared=settings.shared or False,
            ignore=settings.error_classes("ignore"),
            failures=settings.error_classes("failures"),
        )
        system._apply(settings)
        return system

    def measure(
        self,
        operation: str,
        tags: Mapping[str, str] | None = None,
        *,
        ignore: ErrorClasses = (),
        failures: ErrorClasses = (),
    ) -> Measurement:
        """Measure the duration and the outcome of a block or a function.

        The result is a context manager, sync and async, and a decorator for functions, coroutines,
        generators and async generators.

        An exception is a failure, except `SystemExit` with the code 0 or ``None`` and `GeneratorExit`, which
        are successes, and a cancellation, which is not counted: only its duration is recorded. ``failures``
        and ``ignore`` change this, those given here before those of the system.

        Args:
            operation: The name of the operation in the timer and the tracker.
            tags: The tags of its series; `Measurement.tag` adds more before the end.
            ignore: Exceptions that count as successes, such as ``(NotFound,)``. They still propagate.
            failures: Exceptions that count as failures. They take precedence over ``ignore``.

        Raises:
            InvalidInputError: If an argument is invalid.

        Example:
            >>> metrics = MetricsSystem()
            >>> with metrics.measure("db.query", {"table": "users"}) as query:
            ...     query.tag("rows", "many")
            >>> metrics.timer.get_timing_stats("db.query")["count"]
            1
        """
        if self._measure is None:
            self._warn_after_end("measure")
            from metrics_framework.measure import Measurement, meter_of  # slow to import

            meter = meter_of(self.timer, self.tracker, self._clock, self._store, self.failure_rule)
            self._measure = partial(Measurement, meter)
        if ignore or failures:
            create, (meter,) = self._measure.func, self._measure.args
            return create(meter.with_rule(FailureRule(ignore, failures, self.failure_rule)), operation, tags)
        return self._measure(operation, tags)

    def with_tags(self, tags: Mapping[str, str]) -> MetricCollector:
        """Return a collector that adds tags to every record. Keep it: creating one costs more than a record.

        Raises:
            InvalidInputError: If ``tags`` is not a mapping of strings.

        Example:
            >>> metrics = MetricsSystem()
            >>> metrics.with_tags({"tenant": "acme"}).increment("orders")
        """
        return with_tags(self.collector, tags)

    # -- lifecycle -------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._check_open()
        if self._is_entered:
            raise InvalidInputError(
                "this MetricsSystem is in a with block already, whose end shuts it down: use it there, and"
                " create another MetricsSystem for another with block"
            )
        self._is_entered = True
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown_metrics()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *error: object) -> None:
        import asyncio  # slow to import

        await asyncio.to_thread(self.shutdown_metrics)

    def initialize_metrics(self, config: dict[str, Any]) -> None:
        """Apply a configuration; see `metrics_framework.protocols.MetricsSystem.initialize_metrics`.

        Keys that are not in ``config`` keep their values.

        Args:
            config: The keys of ``docs/configuration.md``, except those for `from_config` only.

        Raises:
            ConfigurationError: If a key is unknown or a value is not allowed; no key was applied.
            ClosedError: After `shutdown_metrics`.
        """
        from metrics_framework.config import Settings

        self._apply(Settings.parse(config))

    def _apply(self, settings: Settings) -> None:
        from metrics_framework.runtime.shutdown import check_sigterm

        with self._shutdown.lock:
            self._check_open()
            # First all steps that can fail, then those that have an effect.
            if settings.shutdown_on_sigterm:
                check_sigterm()
            # An endpoint and its folder may come from different calls.
            every = self._settings.updated(settings) if self._settings else settings
            outputs = self._outputs.prepare(every.endpoints())
            self._settings = every
            self._outputs.configure(outputs)
            self._outputs.timeout = settings.export_timeout or self._outputs.timeout
            self._shutdown_timeout = settings.shutdown_timeout or self._shutdown_timeout
            if (
                settings.retention is not None and self._store is not None
            ):  # parts without a store have their own retention
                self._store.retention = settings.retention
            self._latency_metric = settings.latency_metric or self._latency_metric
            if settings.custom_metrics is not None:
                self._custom_metrics = tuple(settings.custom_metrics)
            self._max_custom = settings.max_custom or self._max_custom
            self._thresholds = settings.thresholds(self._thresholds)
            self._shutdown.watch(on_exit=settings.shutdown_on_exit, on_sigterm=settings.shutdown_on_sigterm)
            if settings.collection_interval is not None:
                if self._shutdown.is_inherited:
                    self._shutdown.adopt()
                    self._outputs.start_threads()
                self._collection.start(settings.collection_interval)

    def shutdown_metrics(self) -> None:
        """Stop background work, end streams, and write all outputs for the last time, at the same time.

        It returns within ``shutdown_timeout``, 5 seconds by default, whatever the outputs do. The log and
        `export_failures` name the outputs that could not be written. Repeated calls do nothing, except to
        wait for a call in another thread.
        """
        if self._shutdown.is_inherited and not self._shutdown.begun:
            log_event(
                "warning",
                "a forked child does not shut down the MetricsSystem of its parent",
                remedy="create a MetricsSystem in the child, or call initialize_metrics there with a"
                " collection_interval",
            )
        self._shutdown.run()

    def _end(self) -> Callable[[], None]:
        # The rest of the time is for the log of what could not be written.
        deadline = Deadline(0.95 * self._shutdown_timeout, is_final=True)
        with keeping(deadline):
            # Code of the application can block this part, which must leave enough time to the outputs.
            with keeping(Deadline(0.2 * self._shutdown_timeout)):
                self._collection.stop()
                self.callbacks.close()
                self._publisher.close()
                # The system does not start it, but the application may have.
                stop = self.resource_monitor.stop_resource_monitoring
                self._isolation.call(
                    "resource monitoring not stopped", lambda: run_within_deadline(stop, "metrics-stop")
                )
            is_last = self._worker is None or self._worker.leave()
            finish_outputs = self._outputs.begin_final(self._final_snapshot, deadline, is_last=is_last)

        def finish() -> None:
            finish_outputs()
            if self._worker is not None:
                self._worker.end()
            self._measure = None
            self._records_at_end = 0 if self._store is None else self._store.recorded
            _open_systems.discard(self)
            _ended_systems.add(self)

        return finish

    def _warn_after_end(self, use: str | None = None) -> None:
        """Log once that this system is used, or was recorded into, after its shutdown."""
        if self not in _ended_systems:
            return
        if self._store is not None and self._store.recorded > self._records_at_end:
            use = "recording"
        if use is None or any(system._store is self._store for system in list(_open_systems)):
            return
        _ended_systems.discard(self)
        log_event(
            "warning",
            "a MetricsSystem is used after its shutdown",
            use=use,
            remedy="call shutdown_metrics() last: nothing is exported any more",
        )

    def _check_open(self) -> None:
        if self._shutdown.begun:
            raise ClosedError("this MetricsSystem is shut down: create a new one")

    def take_over(self, other: AnySystem) -> None:
        """Take over the outputs of another system on the same store, and shut it down.

        This system also takes over its ``collection_interval`` if it has none itself, and its shutdown at the
        interpreter's exit. The other system writes no final snapshot. A part that has a system of its own
        calls this method in ``join_system``; see `metrics_framework.capabilities.JoinsSystem`.
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
        if self._worker is not None and not self._shutdown.begun:
            self._shutdown.adopt()

    def _record_resources(self) -> None:
        worker = self._worker
        record_resources(
            self.resource_monitor,
            self.collector,
            self._failing_resources,
            worker=None if worker is None else worker.number,
            reads_machine=worker is None or worker.is_elected,
        )

    # -- snapshots, health and dashboards --------------------------------------------------------------

    def snapshot(
        self,
        *,
        environment: Environment | str | None = None,
        tags: Mapping[str, str] | None = None,
        commit: str | None = None,
        branch: str | None = None,
    ) -> PerformanceSnapshot:
        """Return a v1 performance snapshot of everything since the start. Omissions are logged.

        Args:
            environment: The environment of the run; detected by default.
            tags: The context of the run. At most 46: the latency's timer, the sidecar of a `SnapshotWriter`,
                the date of the commit and the head of a pull request add four more. With more tags, the last
                of these are left out.
            commit: The measured commit; by default HEAD of the working tree in the current folder.
            branch: The measured branch; by default the one that is checked out.

        Raises:
            SnapshotError: If nothing was measured, or a tag is invalid in the schema.
        """
        snapshot, report = self.build_snapshot(
            environment=environment, tags=tags, commit=commit, branch=branch
        )
        _log_omissions(report)
        return snapshot

    def build_snapshot(
        self,
        *,
        environment: Environment | str | None = None,
        tags: Mapping[str, str] | None = None,
        commit: str | None = None,
        branch: str | None = None,
        provenance: Provenance | None = None,
    ) -> tuple[PerformanceSnapshot, BuildReport]:
        """Return a snapshot like `snapshot`, and a report of the omissions.

        Args:
            environment: As for `snapshot`.
            tags: As for `snapshot`.
            commit: As for `snapshot`.
            branch: As for `snapshot`.
            provenance: The provenance of the run, if it is known already. Looking it up starts git.
        """
        self._warn_after_end("snapshot")
        if commit is not None or branch is not None:
            provenance = find_provenance(commit=commit, branch=branch)
        elif provenance is None:
            # The running code does not change, so its provenance is looked up once.
            provenance = self._provenance = self._provenance or find_provenance()
        all_tags = dict(tags or {})
        room = MAX_TAGS - 2 - len({*all_tags, *(self._store.tags if self._store else ())})
        for tag, text in {**provenance.tags(), **machine_tags()}.items():
            if room > 0 and tag not in all_tags:
                all_tags[tag] = text
                room -= 1
        metadata = SnapshotMetadata(
            commit=provenance.commit,
            branch=provenance.branch,
            timestamp=utc(self._clock),
            environment=Environment(environment or provenance.environment),
            tags=all_tags,
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
        _log_omissions(report)
        return FullSnapshot(snapshot, report.distributions)

    def get_system_health(self) -> dict[str, bool | float | int]:
        """Return the health of the system; see `metrics_framework.health.HealthCheck.read`."""
        self._warn_after_end("get_system_health")
        uptime_seconds = self._uptime_seconds()
        cpu_ns = self._collection.cpu_ns + self._outputs.cpu_ns
        overhead = cpu_ns / 1e7 / uptime_seconds if uptime_seconds > 0 else 0.0
        return HealthCheck(
            thresholds=self._thresholds,
            monitor=self.resource_monitor,
            aggregator=self.aggregator,
            store=self._store,
            tracked=_store_of(self.tracker),
            isolation=self._isolation,
        ).read(uptime_seconds, overhead)

    def create_dashboard_data(
        self,
        dashboard_type: str = "overview",
        *,
        window: timedelta | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Return the panels of a dashboard; see `metrics_framework.dashboard.create_dashboard`.

        Args:
            dashboard_type: ``overview``, ``performance``, ``errors``, ``resources`` or ``batch``.
            window: How far back to look: one hour by default, and at most the retention.
            tags: Only series that carry these tags are shown; all by default.

        Raises:
            InvalidInputError: If an argument is not valid; the message names the dashboards.
        """
        from metrics_framework.dashboard import WINDOW, create_dashboard  # slow to import

        self._warn_after_end("create_dashboard_data")
        if window is None:
            window = WINDOW
        else:
            check_duration("window", window)
        return create_dashboard(
            dashboard_type,
            self.aggregator,
            self.resource_monitor,
            utc(self._clock),
            window=min(window, self._store.retention) if self._store else window,
            error_rate=self._thresholds.error_rate,
            memory_percent=self._thresholds.memory_percent,
            cpu_percent=self._thresholds.cpu_percent,
            tags=tags,
            losses={
                "failed outputs": len(self.export_failures),
                "dropped by streams": self._publisher.dropped,
            },
        )

    # -- async -----------------------------------------------------------------------------------------

    async def collect_metrics_async(self) -> None:
        """Read resources and call all gauge callbacks concurrently, and record the results as gauges.

        Blocking calls run in other threads, async callbacks on this event loop, of asyncio or trio. Each has
        a deadline: callbacks their own, resources 10 seconds.
        """
        self._check_open()
        await self.callbacks.collect_async(beside=[self._resources])

    async def export_metrics_async(self, endpoints: list[str]) -> dict[str, bool]:
        """Export to outputs and endpoints concurrently, without blocking the event loop of asyncio or trio.

        Each export has `export_timeout` seconds, 30 by default. Exports to one endpoint never overlap. This
        method also tries an output that failed and is paused at the interval.

        Args:
            endpoints: Names of outputs, and names or URLs of endpoints (see ``docs/exporting.md``), which
                need not be configured.

        Returns:
            Whether the export to each endpoint succeeded. An unreachable, slow or unknown endpoint raises
            nothing: the log and `export_failures` have the reason.

        Raises:
            InvalidInputError: If ``endpoints`` is a string, not a list.
        """
        self._check_open()
        urls = self._settings.urls() if self._settings else {}
        return await self._outputs.export(endpoints, self._final_snapshot, urls)

    @property
    def is_shut_down(self) -> bool:
        """Whether the shutdown has begun."""
        return self._shutdown.begun

    @property
    def processes(self) -> int:
        """The number of living processes whose numbers this system reads: 1, or more if it is ``shared``."""
        return 1 if self._worker is None else max(len(self._worker.group.living_processes()), 1)

    @property
    def export_failures(self) -> dict[str, str]:
        """The reason of each output or endpoint whose last export failed, by name.

        The reasons contain no user, password or secret of a URL.
        """
        return self._outputs.failures

    def subscribe(
        self, filters: Mapping[str, Any] | None = None, *, buffer: int = 10_000, after: int | None = None
    ) -> Subscription:
        """Subscribe to all records from now until shutdown.

        Args:
            filters: ``name`` (a name, or a pattern like ``http.*``), ``type`` (a `MetricType` or its value),
                ``tags`` (all of them must match) and ``sample_rate`` (above 0 and up to 1).
            buffer: The maximum number of buffered events; a full buffer drops the oldest event and counts it.
            after: The sequence number of the last event of an earlier subscription, to continue from there.
                Events that are no longer kept count as dropped, whatever the filters.

        Raises:
            InvalidInputError: If an argument is invalid.
            ClosedError: After `shutdown_metrics`.
        """
        return self._publisher.subscribe(filters, buffer=buffer, after=after)

    def metrics_stream(self, filters: dict[str, Any] | None = None) -> AsyncIterator[MetricValue]:
        """Yield the metric of each record, with its new value, from now until shutdown.

        Args:
            filters: The filters of `subscribe`.

        Raises:
            InvalidInputError: If a filter is unknown or its value is not allowed.
        """
        return self._publisher.values(filters)

    def deltas(self, every: float = 1.0, filters: Mapping[str, Any] | None = None) -> Deltas:
        """Yield lists of changes at an interval: one value for each series with new records.

        Args:
            every: Seconds between two lists; an interval without changes yields none.
            filters: The filters of `subscribe`, except ``sample_rate``.

        Raises:
            InvalidInputError: If an argument is invalid.
        """
        return self._publisher.deltas(every, filters)

    def _uptime_seconds(self) -> float:
        return (self._clock.monotonic_ns() - self._start_ns) / 1e9


AnySystem: TypeAlias = MetricsSystem[
    MetricCollector, PerformanceTimer, SuccessFailureTracker, ResourceMonitor, MetricsAggregator
]
"""A system of any parts: the type of an argument for functions that use the methods of the facade."""


_open_systems: WeakSet[AnySystem] = WeakSet()
_ended_systems: WeakSet[AnySystem] = WeakSet()
"""Systems after their shutdown, except those that were used since, which the log has."""


@atexit.register
def _warn_of_late_records() -> None:
    for system in list(_ended_systems):
        system._warn_after_end()


def _log_omissions(report: BuildReport) -> None:
    if report.left_out:
        first = [f"{item.what}: {item.reason}" for item in report.left_out[:10]]
        log_event("info", "left out of the snapshot", left_out=len(report.left_out), first=first)


# -- parts ---------------------------------------------------------------------------------------------


def _shared_store(
    parts: Mapping[str, object],
    clock: Clock | None,
    tags: Mapping[str, str] | None,
    rules: Iterable[Rule],
) -> Store | None:
    """Return the store of the given parts, or a new one if a default part needs one.

    Args:
        parts: Name to part; ``None`` stands for the default part.
        clock: The clock of a new store.
        tags: The constant tags of a new store.
        rules: The rules of a new store.

    Raises:
        InvalidInputError: If parts have different stores, or tags or rules are given but no store is created.
    """
    stores = {name: store for name, part in parts.items() if (store := _store_of(part)) is not None}
    if len({id(store) for store in stores.values()}) > 1:
        raise InvalidInputError(
            f"{' and '.join(stores)} have different stores, so one cannot read the records of the other:"
            " create one Store and pass it to each as store="
        )
    rules = list(rules)
    if stores or None not in parts.values():
        if tags or rules:
            raise InvalidInputError(
                f"{'tags' if tags else 'rules'}={tags or rules!r} cannot change the store of the given parts:"
                " pass them to that store, Store(tags=…, rules=…)"
            )
        return next(iter(stores.values()), None)
    from metrics_framework.recording import Store

    return Store(clock or SYSTEM_CLOCK, tags=tags, rules=rules)


def _store_of(part: object) -> Store | None:
    if not isinstance(part, HasStore) or part.store is None:
        return None
    from metrics_framework.recording.store import store_of  # slow to import; other parts do not need it

    return store_of(part)


def _part(given: P | None, protocol: type[Any], default: str, *arguments: object) -> P:
    """Return a part that has all methods of its Protocol.

    Args:
        given: The part, or ``None`` for the default.
        protocol: The Protocol.
        default: The name of the default adapter.
        *arguments: The constructor arguments of the default adapter.

    Raises:
        InvalidInputError: If the part lacks methods; the message names them.
    """
    if given is None:
        part: P = load_adapter(default)(*arguments)
        return part
    missing = sorted(
        name for name in get_protocol_members(protocol) if not callable(getattr(given, name, None))
    )
    if missing:
        raise InvalidInputError(f"{given!r} is not a {protocol.__name__}: it lacks {', '.join(missing)}")
    return given
