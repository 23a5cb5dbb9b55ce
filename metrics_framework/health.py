"""Health of a system, and the recording of resources as gauges.

Names, tags and units of the gauges follow OpenTelemetry's semantic conventions for system, process and
CPython metrics (https://opentelemetry.io/docs/specs/semconv/system/) where these define one.
docs/resources.md lists all gauges.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from metrics_framework._version import __version__
from metrics_framework.capabilities import DetailedMonitor, HasStore
from metrics_framework.log import Isolation, log_event
from metrics_framework.protocols import MetricCollector, MetricsAggregator, ResourceMonitor
from metrics_framework.validation import check_duration, check_range
from metrics_framework.values import MetricType, MetricValue

if TYPE_CHECKING:
    from metrics_framework.recording import Store


@dataclass(frozen=True)
class Thresholds:
    """The limits of a healthy system. A reading that equals its limit is healthy.

    Attributes:
        error_rate: The share of tracked operations that fail, 0.0 to 1.0.
        memory_percent: The memory usage of the machine, 0 to 100.
        cpu_percent: The CPU usage of the machine, 0 to 100; ``None`` for no limit.
        window: The window of the error rate, at most the retention.

    Raises:
        InvalidInputError: If a value is out of its range.
    """

    error_rate: float = 0.05
    memory_percent: float = 95.0
    cpu_percent: float | None = None
    window: timedelta = timedelta(minutes=5)

    def __post_init__(self) -> None:
        """Check the ranges of all values."""
        check_range("threshold error_rate", self.error_rate, 1)
        check_range("threshold memory_percent", self.memory_percent, 100)
        if self.cpu_percent is not None:
            check_range("threshold cpu_percent", self.cpu_percent, 100)
        check_duration("threshold window", self.window)


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
        until the part succeeds again; its readings are 0.

        Args:
            uptime_seconds: The age of the system.
            overhead_percent: The CPU time of the collection thread, in percent of one CPU since the start.
                It does not include the cost of records in the threads that make them.

        Returns:
            ``healthy``; ``error_rate``, the share of tracked operations that failed in the window of the
            thresholds (since the start if the tracker has no store); ``uptime_seconds``; ``series``;
            ``recorded``, ``rejected`` and ``overflowed``, numbers of records since the start (0 if no part
            has a store); ``compiled``, whether the compiled engine records; ``memory_percent`` and
            ``cpu_percent`` of the machine; ``overhead_percent``.
        """
        limits, store = self.thresholds, self.store
        error_rate = self._ask("the outcomes", self._error_rate)
        memory = self._ask("the memory", lambda: float(self.monitor.get_memory_usage().get("percent", 0)))
        cpu = self._ask("the CPU", lambda: float(self.monitor.get_cpu_usage().get("percent", 0)))
        series = self._ask("the series", self._series)
        return {
            "healthy": (
                series is not None
                and _is_within(error_rate, limits.error_rate)
                and _is_within(memory, limits.memory_percent)
                and _is_within(cpu, limits.cpu_percent)
            ),
            "error_rate": error_rate or 0.0,
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

    def _ask(self, what: str, question: Callable[[], float]) -> float | None:
        return self.isolation.call("health not read", question, what=what)

    def _series(self) -> int:
        # A store only counts; an aggregator would compute all summaries.
        return self.store.series_count if self.store else len(self.aggregator.get_metrics_by_tag({}))

    def _error_rate(self) -> float:
        if self.tracked is not None:
            window = min(self.thresholds.window, self.tracked.retention)
            results = self.tracked.outcomes_by_operation(window)
            events = sum(result.count for result in results)
            successes = sum(result.successes for result in results)
        else:
            found = [value.metadata for value in outcomes(self.aggregator)]
            events = sum(outcome["count"] for outcome in found)
            # Round to whole events: 1 - 0.95 is slightly more than 5 %.
            successes = sum(round(outcome["count"] * outcome["success_rate"]) for outcome in found)
        return (events - successes) / events if events else 0.0


def _is_within(reading: float | None, limit: float | None) -> bool:
    return reading is not None and (limit is None or reading <= limit)


DEFAULT_THRESHOLDS = Thresholds()


def outcomes(aggregator: MetricsAggregator) -> list[MetricValue]:
    """Return the outcomes of all operations of an aggregator: rates that have a success rate."""
    values = aggregator.get_metrics_by_tag({})
    return [
        value for value in values if value.metric_type is MetricType.RATE and "success_rate" in value.metadata
    ]


# -- resources -------------------------------------------------------------------------------------------


class ResourceGauge(NamedTuple):
    """The gauge of a key of a resource reading.

    Attributes:
        key: The key.
        name: The gauge's name.
        tags: Its tags, besides those of the source.
        divisor: Divides the number before it is recorded.
        merge: How the gauge's series combine, on a collector that has a store.
    """

    key: str
    name: str
    tags: Mapping[str, str] = {}
    divisor: int = 1
    merge: Literal["latest", "sum", "max"] = "latest"


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
    ResourceGauge("uptime", "process.uptime"),
)
_GARBAGE = (
    ResourceGauge("collections", "cpython.gc.collections", merge="sum"),
    ResourceGauge("collected", "cpython.gc.collected_objects", merge="sum"),
    ResourceGauge("uncollectable", "cpython.gc.uncollectable_objects", merge="sum"),
)
_RUNTIME = (ResourceGauge("info", "process.runtime.info"),)

RESOURCE_GAUGES = frozenset(
    gauge.name
    for gauges in (MEMORY_GAUGES, CPU_GAUGES, DISK_GAUGES, NETWORK_GAUGES, _PROCESS, _GARBAGE, _RUNTIME)
    for gauge in gauges
)
"""The names of all gauges that `record_resources` records."""


def record_resources(
    monitor: ResourceMonitor, collector: MetricCollector, failing: set[str] | None = None
) -> None:
    """Read all resources once and record each reading as a gauge.

    A failure is logged and affects only its own gauges, which keep their last values.

    Args:
        monitor: Reads the resources. A key that its reading lacks is not recorded.
        collector: Receives the gauges.
        failing: The kinds of reading that failed at the last call, which this call updates. If all calls
            share one set, a kind that keeps failing is logged once until it succeeds again.
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
            try:
                scaled = value if gauge.divisor == 1 else value / gauge.divisor
                if store is not None and gauge.merge != "latest":
                    _describe_merge(store, gauge)
                collector.record_gauge(gauge.name, scaled, {**gauge.tags, **source.tags} or None)
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


def _describe_merge(store: Store, gauge: ResourceGauge) -> None:
    """Describe how the gauge's series combine, unless the application did."""
    description = store.description(gauge.name)
    if description.merge == "latest":
        store.describe(gauge.name, unit=description.unit, help=description.help, merge=gauge.merge)


def _share_of_all(cpu: Mapping[str, float]) -> Mapping[str, float]:
    """Add the CPU usage of the process in percent of all CPUs, which the conventions require."""
    if "process_percent" not in cpu or "count" not in cpu:
        return cpu
    return {**cpu, "process_percent_of_all": cpu["process_percent"] / max(cpu["count"], 1)}


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
