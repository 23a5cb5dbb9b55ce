"""Health of a system, and the recording of resources as gauges.

Names, tags and units of the gauges follow OpenTelemetry's semantic conventions for system, process and
CPython metrics (https://opentelemetry.io/docs/specs/semconv/system/) where these define one.
docs/resources.md lists all gauges.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from metrics_framework._version import __version__
from metrics_framework.capabilities import DetailedMonitor, HasStore
from metrics_framework.errors import InvalidInputError
from metrics_framework.log import Isolation, log_event
from metrics_framework.protocols import MetricCollector, MetricsAggregator, ResourceMonitor
from metrics_framework.validation import check_count, check_duration, check_name, check_range, safe_repr
from metrics_framework.values import MetricType, MetricValue

if TYPE_CHECKING:
    from metrics_framework.recording import Store

T = TypeVar("T")


CLIENT_DISCONNECT = "client_disconnect"
"""The error type of a client that disconnects before it has received everything."""

UNHEALTHY = "unhealthy"
"""The error type of a request that read the health of the system and was answered with status 503."""

IGNORED_ERRORS = ("cancelled", CLIENT_DISCONNECT, UNHEALTHY, "4[0-9][0-9]")
"""The error types that say nothing about the health of this process.

A caller cancelled the operation, a client disconnected, the process reported that it is unhealthy, or another
server answered with a status of 400 to 499. The middleware does not record such a status as a failure.
"""


@dataclass(frozen=True)
class Thresholds:
    """The limits of a healthy system. A reading that equals its limit is healthy.

    Attributes:
        error_rate: The share of operations that fail, 0.0 to 1.0.
        memory_percent: The memory usage of the container or the machine, 0 to 100.
        cpu_percent: The CPU usage of the container or the machine, 0 to 100; ``None`` for no limit.
        window: The window of the error rate, at most the retention.
        min_operations: The number of operations in the window below which the error rate is not compared
            with its limit.
        operations: The names of the operations that count, or patterns such as ``http.server.*``;
            ``None`` for all.
        ignored_errors: The error types, or patterns of them, of operations that do not count. By default
            those that a client or another server decided: `IGNORED_ERRORS`.

    Raises:
        InvalidInputError: If a value is out of its range.
    """

    error_rate: float = 0.5
    memory_percent: float = 95.0
    cpu_percent: float | None = None
    window: timedelta = timedelta(minutes=5)
    min_operations: int = 20
    operations: Collection[str] | None = None
    ignored_errors: Collection[str] = IGNORED_ERRORS

    def __post_init__(self) -> None:
        """Check the ranges of all values."""
        check_range("threshold error_rate", self.error_rate, 1)
        check_range("threshold memory_percent", self.memory_percent, 100)
        if self.cpu_percent is not None:
            check_range("threshold cpu_percent", self.cpu_percent, 100)
        check_duration("threshold window", self.window)
        check_count("threshold min_operations", self.min_operations)
        if self.operations is not None:
            object.__setattr__(self, "operations", _patterns("operations", self.operations))
        object.__setattr__(self, "ignored_errors", _patterns("ignored_errors", self.ignored_errors))

    def counts(self, operation: str) -> bool:
        """Return whether an operation counts."""
        return self.operations is None or _matches(operation, self.operations)


@dataclass(frozen=True)
class HealthCheck:
    """Reads the health of a system from its parts.

    Attributes:
        thresholds: The limits.
        monitor: Reads resource usage.
        aggregator: Lists series and outcomes if there is no store.
        store: The store of the system, if it has one.
        tracked: The store of the tracker, if it has one.
        isolation: Logs failures.
    """

    thresholds: Thresholds
    monitor: ResourceMonitor
    aggregator: MetricsAggregator
    store: Store | None
    tracked: Store | None
    isolation: Isolation

    def read(self, uptime_seconds: float, overhead_percent: float) -> dict[str, bool | float | int]:
        """Return the health and the readings behind it. Uses the network only if a given part does.

        ``healthy`` is false if a reading exceeds its threshold or a part fails. A failure is logged once
        until the part succeeds again; its readings are 0. The error rate is compared with its threshold if at
        least ``min_operations`` operations ended in the window.

        Args:
            uptime_seconds: The age of the system.
            overhead_percent: The CPU time of the collection thread, in percent of one CPU since the start.
                It does not include the cost of records in the threads that make them.

        Returns:
            ``healthy``; ``operations``, the number of operations that ended in the window of the thresholds
            and count (since the start if the tracker has no store); ``error_rate``, the share of them that
            failed; ``uptime_seconds``; ``series``;
            ``recorded``, ``rejected`` and ``overflowed``, numbers of records since the start (0 if no part
            has a store); ``compiled``, whether the compiled engine records; ``memory_percent`` and
            ``cpu_percent`` of the container or the machine; ``overhead_percent``.
        """
        notes = request_notes.get()
        if notes is not None:
            notes.has_read_health = True
        limits, store = self.thresholds, self.store
        counted = self._ask("the outcomes", self._outcomes)
        events, failures = counted or (0, 0)
        error_rate = failures / events if events else 0.0
        memory = self._ask("the memory", lambda: float(self.monitor.get_memory_usage().get("percent", 0)))
        cpu = self._ask("the CPU", lambda: float(self.monitor.get_cpu_usage().get("percent", 0)))
        series = self._ask("the series", self._series)
        return {
            "healthy": (
                series is not None
                and counted is not None
                and (events < limits.min_operations or error_rate <= limits.error_rate)
                and _is_within(memory, limits.memory_percent)
                and _is_within(cpu, limits.cpu_percent)
            ),
            "error_rate": error_rate,
            "operations": events,
            "uptime_seconds": uptime_seconds,
            "series": series or 0,
            "recorded": store.recorded if store else 0,
            "rejected": store.rejected if store else 0,
            "overflowed": store.overflowed if store else 0,
            "compiled": store.is_compiled if store else False,
            "memory_percent": memory or 0.0,
            "cpu_percent": cpu or 0.0,
            "overhead_percent": overhead_percent,
        }

    def _ask(self, what: str, question: Callable[[], T]) -> T | None:
        return self.isolation.call("health not read", question, what=what)

    def _series(self) -> int:
        # A store only counts; an aggregator would compute all summaries.
        return self.store.series_count if self.store else len(self.aggregator.get_metrics_by_tag({}))

    def _outcomes(self) -> tuple[int, int]:
        """Return the numbers of operations and of failures that count."""
        limits = self.thresholds
        events = failures = 0
        if self.tracked is not None:
            for result in self.tracked.outcomes_by_operation(min(limits.window, self.tracked.retention)):
                if limits.counts(result.name):
                    failed = sum(
                        count
                        for error_type, count in result.failures.items()
                        if not _matches(error_type, limits.ignored_errors)
                    )
                    events += result.successes + failed
                    failures += failed
        else:  # an aggregator does not know the error types
            for value in outcomes(self.aggregator):
                if limits.counts(value.name):
                    count, success_rate = int(value.metadata["count"]), value.metadata["success_rate"]
                    events += count
                    # Round to whole events: 1 - 0.95 is slightly more than 5 %.
                    failures += count - round(count * success_rate)
        return events, failures


def _patterns(what: str, patterns: object) -> tuple[str, ...]:
    if isinstance(patterns, str):
        raise InvalidInputError(f"threshold {what}={patterns!r} is a string: pass a list, [{patterns!r}]")
    if not isinstance(patterns, Iterable):
        raise InvalidInputError(f"threshold {what}={safe_repr(patterns)} is not a list of strings")
    return tuple(check_name(pattern, f"threshold {what}: pattern") for pattern in patterns)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_within(reading: float | None, limit: float | None) -> bool:
    return reading is not None and (limit is None or reading <= limit)


DEFAULT_THRESHOLDS = Thresholds()


def outcomes(aggregator: MetricsAggregator) -> list[MetricValue]:
    """Return the outcomes of all operations of an aggregator: rates that have a success rate."""
    values = aggregator.get_metrics_by_tag({})
    return [
        value for value in values if value.metric_type is MetricType.RATE and "success_rate" in value.metadata
    ]


# -- requests --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class RequestNotes:
    """What the code that answers a request tells the middleware that measures the request.

    Attributes:
        is_own_endpoint: The request is for an endpoint of this library, which is not measured.
        has_read_health: The answer may depend on the health: a status 503 is not a reason to be unhealthy.
        on_own_endpoint: Called when the request turns out to be for an endpoint of this library.
    """

    is_own_endpoint: bool = False
    has_read_health: bool = False
    on_own_endpoint: list[Callable[[], None]] = field(default_factory=list)


request_notes: ContextVar[RequestNotes | None] = ContextVar("metrics_framework.request_notes", default=None)
"""The notes of the request in progress. Tasks and threads that the framework starts for it share them."""


def mark_own_endpoint() -> None:
    """Tell the middleware that the request in progress is for an endpoint of this library."""
    notes = request_notes.get()
    if notes is not None:
        notes.is_own_endpoint = True
        for leave in notes.on_own_endpoint:
            leave()


# -- resources -------------------------------------------------------------------------------------------


class ResourceGauge(NamedTuple):
    """The gauge of a key of a resource reading.

    Attributes:
        key: The key.
        name: The gauge's name.
        tags: Its tags, besides those of the source.
        divisor: Divides the number before it is recorded.
        merge: How the gauge's series combine, on a collector that has a store.
        merge_workers: The same for a gauge of the process, if each worker of a group has one.
    """

    key: str
    name: str
    tags: Mapping[str, str] = {}
    divisor: int = 1
    merge: Literal["latest", "sum", "max"] = "latest"
    merge_workers: Literal["latest", "sum", "max"] = "sum"


_USED = {"system.memory.state": "used"}
_SENT, _RECEIVED = ({"network.io.direction": direction} for direction in ("transmit", "receive"))
_DISK_STATE = "system.filesystem.state"
_GENERATION = "cpython.gc.generation"
MOUNTPOINT = "system.filesystem.mountpoint"
"""The tag that distinguishes disks."""

MEMORY_GAUGES = (
    ResourceGauge("used", "system.memory.usage", _USED),
    ResourceGauge("percent", "system.memory.utilization", _USED, 100),
    ResourceGauge("available", "system.memory.available"),
    ResourceGauge("total", "system.memory.limit"),
    ResourceGauge("process_rss", "process.memory.usage"),
    ResourceGauge("process_peak_rss", "process.memory.peak"),
)
CPU_GAUGES = (
    ResourceGauge("percent", "system.cpu.utilization", divisor=100),
    ResourceGauge("process_percent_of_all", "process.cpu.utilization", divisor=100),
    ResourceGauge("load_1m", "system.cpu.load_average.1m"),
    ResourceGauge("load_5m", "system.cpu.load_average.5m"),
    ResourceGauge("load_15m", "system.cpu.load_average.15m"),
    ResourceGauge("count", "system.cpu.logical.count"),
)
DISK_GAUGES = (
    ResourceGauge("used", "system.filesystem.usage", {_DISK_STATE: "used"}),
    ResourceGauge("free", "system.filesystem.usage", {_DISK_STATE: "free"}),
    ResourceGauge("percent", "system.filesystem.utilization", {_DISK_STATE: "used"}, 100, "max"),
    ResourceGauge("total", "system.filesystem.limit"),
)
NETWORK_GAUGES = (
    ResourceGauge("bytes_sent", "system.network.io", _SENT, merge="sum"),
    ResourceGauge("bytes_received", "system.network.io", _RECEIVED, merge="sum"),
    ResourceGauge("packets_sent", "system.network.packet.count", _SENT, merge="sum"),
    ResourceGauge("packets_received", "system.network.packet.count", _RECEIVED, merge="sum"),
    ResourceGauge("errors_out", "system.network.errors", _SENT, merge="sum"),
    ResourceGauge("errors_in", "system.network.errors", _RECEIVED, merge="sum"),
    ResourceGauge("drops_out", "system.network.packet.dropped", _SENT, merge="sum"),
    ResourceGauge("drops_in", "system.network.packet.dropped", _RECEIVED, merge="sum"),
)
_PROCESS = (
    ResourceGauge("threads", "process.thread.count"),
    ResourceGauge("file_descriptors", "process.unix.file_descriptor.count"),
    ResourceGauge("handles", "process.windows.handle.count"),
    ResourceGauge("uptime", "process.uptime", merge_workers="max"),
)
_GARBAGE = (
    ResourceGauge("collections", "cpython.gc.collections", merge="sum"),
    ResourceGauge("collected", "cpython.gc.collected_objects", merge="sum"),
    ResourceGauge("uncollectable", "cpython.gc.uncollectable_objects", merge="sum"),
)
_RUNTIME = (ResourceGauge("info", "process.runtime.info", merge_workers="max"),)

RESOURCE_GAUGES = frozenset(
    gauge.name
    for gauges in (MEMORY_GAUGES, CPU_GAUGES, DISK_GAUGES, NETWORK_GAUGES, _PROCESS, _GARBAGE, _RUNTIME)
    for gauge in gauges
)
"""The names of all gauges that `record_resources` records."""

PROCESS_GAUGES = frozenset(name for name in RESOURCE_GAUGES if name.startswith(("process.", "cpython.")))
"""Those that describe this process, not the machine."""

WORKER = "worker"
"""The tag that distinguishes the workers of a group."""


def record_resources(
    monitor: ResourceMonitor,
    collector: MetricCollector,
    failing: set[str] | None = None,
    *,
    worker: int | None = None,
    reads_machine: bool = True,
) -> None:
    """Read all resources once and record each reading as a gauge.

    A failure is logged and affects only its own gauges, which keep their last values.

    Args:
        monitor: Reads the resources. A key that its reading lacks is not recorded.
        collector: Receives the gauges.
        failing: The kinds of reading that failed at the last call, which this call updates. If all calls
            share one set, a kind that keeps failing is logged once until it succeeds again.
        worker: The number of this worker, if it shares its numbers with others. It becomes the tag ``worker``
            of the gauges of the process.
        reads_machine: Whether to record the gauges of the machine.
    """
    failing = set() if failing is None else failing
    refused: dict[str, Exception] = {}
    store = _store_of(collector)
    for source in resource_sources(monitor):
        try:
            found = source.take()
        except Exception as error:  # noqa: BLE001 - a monitor may raise anything
            _log_once(failing, source.kind, f"no reading of the {source.kind}", error=repr(error))
            continue
        failing.discard(source.kind)
        for gauge, value in found:
            tags, merge = {**gauge.tags, **source.tags}, gauge.merge
            if gauge.name in PROCESS_GAUGES:
                if worker is not None:
                    # Only laws other than "latest" leave out the workers that have ended.
                    tags, merge = {**tags, WORKER: str(worker)}, gauge.merge_workers
            elif not reads_machine:
                continue
            try:
                scaled = value if gauge.divisor == 1 else value / gauge.divisor
                if store is not None and merge != "latest":
                    _describe_merge(store, gauge.name, merge)
                collector.record_gauge(gauge.name, scaled, tags or None)
            except Exception as error:  # noqa: BLE001 - a collector may raise anything, or reject the value
                refused.setdefault(gauge.name, error)
    if refused:
        first = repr(next(iter(refused.values())))
        _log_once(failing, "gauges", "resource gauges not recorded", gauges=sorted(refused), error=first)
    else:
        failing.discard("gauges")


class ResourceSource(NamedTuple):
    """A source of resource readings, such as one disk.

    Attributes:
        kind: Its name in logs.
        read: Returns a reading.
        gauges: The gauges of its keys.
        tags: The tags of all its gauges.
    """

    kind: str
    read: Callable[[], Mapping[str, float]]
    gauges: Sequence[ResourceGauge]
    tags: Mapping[str, str] = {}

    def take(self) -> list[tuple[ResourceGauge, float]]:
        """Read, and return each gauge with its number, not yet divided."""
        reading = self.read()
        return [(gauge, reading[gauge.key]) for gauge in self.gauges if gauge.key in reading]


def resource_sources(monitor: ResourceMonitor) -> Iterator[ResourceSource]:
    """Yield all sources of the machine, the process and the interpreter."""
    yield ResourceSource("memory", monitor.get_memory_usage, MEMORY_GAUGES)
    yield ResourceSource("CPU", lambda: _share_of_all(monitor.get_cpu_usage()), CPU_GAUGES)
    detailed = monitor if isinstance(monitor, DetailedMonitor) else None
    for path in detailed.disks if detailed else ("/",):
        read = partial(monitor.get_disk_usage, path)
        yield ResourceSource(f"disk {path!r}", read, DISK_GAUGES, {MOUNTPOINT: path})
    yield ResourceSource("network", monitor.get_network_stats, NETWORK_GAUGES)
    if detailed:
        yield ResourceSource("process", detailed.get_process_usage, _PROCESS)
    if sys.implementation.name == "cpython":
        for generation, counts in enumerate(gc.get_stats()):
            read = partial(dict[str, float], counts)
            yield ResourceSource("garbage collector", read, _GARBAGE, {_GENERATION: str(generation)})
    yield ResourceSource("runtime", lambda: {"info": 1}, _RUNTIME, _runtime())


def _store_of(collector: MetricCollector) -> Store | None:
    if not isinstance(collector, HasStore):
        return None
    from metrics_framework.recording.store import store_of  # slow to import

    return store_of(collector)


def _describe_merge(store: Store, name: str, merge: Literal["latest", "sum", "max"]) -> None:
    """Describe how a gauge's series combine, unless the application did."""
    if not store.description(name).is_merge_given:
        store.describe(name, merge=merge)


def _share_of_all(cpu: Mapping[str, float]) -> Mapping[str, float]:
    """Add the CPU usage of the process in percent of all CPUs, which the conventions require."""
    if "process_percent" not in cpu or "count" not in cpu:
        return cpu
    return {**cpu, "process_percent_of_all": cpu["process_percent"] / (cpu["count"] or 1)}


@cache
def _runtime() -> Mapping[str, str]:
    """Return the runtime and platform, named by the resource attributes of the conventions."""
    if sys.platform == "win32":
        import platform  # slow to import; an import during a fork never ends in the child

        machine = platform.machine().lower()
    else:
        machine = os.uname().machine
    return {
        "process.runtime.name": sys.implementation.name,
        "process.runtime.version": sys.version.split()[0],
        "telemetry.sdk.name": "metrics-framework",
        "telemetry.sdk.version": __version__,
        "os.type": {"win32": "windows"}.get(sys.platform, sys.platform),
        "host.arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine),
    }


def _log_once(failing: set[str], kind: str, event: str, **fields: object) -> None:
    if kind not in failing:
        log_event("warning", event, **fields)
    failing.add(kind)
