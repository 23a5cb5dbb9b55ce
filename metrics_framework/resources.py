"""Resource readings as gauges.

Names, tags and units are those of OpenTelemetry's semantic conventions for system, process and CPython
metrics (https://opentelemetry.io/docs/specs/semconv/system/), where they have one; docs/resources.md has a
table of all.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from metrics_framework._version import __version__
from metrics_framework.log import log_event
from metrics_framework.protocols import MetricCollector, ResourceMonitor


@runtime_checkable
class DetailedMonitor(ResourceMonitor, Protocol):
    """What a `ResourceMonitor` may know beyond its contract. `record_resources` relies on it."""

    @property
    def disks(self) -> Sequence[str]:
        """The paths whose disks are recorded."""
        ...

    def get_process_usage(self) -> dict[str, float]:
        """Return ``threads``, ``file_descriptors`` (on Windows ``handles``) and ``uptime`` in seconds."""
        ...


class Gauge(NamedTuple):
    """What a key of a reading is recorded as.

    Attributes:
        key: The key.
        name: The gauge's name.
        tags: Its tags, beside those that the reading as a whole has.
        divisor: What the number is divided by.
        merge: What its series are together, on a collector that can be told; a number that all of them have
            in turn says nothing.
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
"""The tag that tells disks apart."""

MEMORY_GAUGES = (
    Gauge("used", "system.memory.usage", _USED),
    Gauge("percent", "system.memory.utilization", _USED, 100),
    Gauge("available", "system.memory.available"),
    Gauge("total", "system.memory.limit"),
    Gauge("process_rss", "process.memory.usage"),
    Gauge("process_peak_rss", "process.memory.peak"),
)
CPU_GAUGES = (
    Gauge("percent", "system.cpu.utilization", divisor=100),
    Gauge("process_percent_of_all", "process.cpu.utilization", divisor=100),
    Gauge("load_1m", "system.cpu.load_average.1m"),
    Gauge("load_5m", "system.cpu.load_average.5m"),
    Gauge("load_15m", "system.cpu.load_average.15m"),
    Gauge("count", "system.cpu.logical.count"),
)
DISK_GAUGES = (
    Gauge("used", "system.filesystem.usage", {_DISK_STATE: "used"}),
    Gauge("free", "system.filesystem.usage", {_DISK_STATE: "free"}),
    Gauge("percent", "system.filesystem.utilization", {_DISK_STATE: "used"}, 100, "max"),
    Gauge("total", "system.filesystem.limit"),
)
NETWORK_GAUGES = (
    Gauge("bytes_sent", "system.network.io", _SENT, merge="sum"),
    Gauge("bytes_received", "system.network.io", _RECEIVED, merge="sum"),
    Gauge("packets_sent", "system.network.packet.count", _SENT, merge="sum"),
    Gauge("packets_received", "system.network.packet.count", _RECEIVED, merge="sum"),
    Gauge("errors_out", "system.network.errors", _SENT, merge="sum"),
    Gauge("errors_in", "system.network.errors", _RECEIVED, merge="sum"),
    Gauge("drops_out", "system.network.packet.dropped", _SENT, merge="sum"),
    Gauge("drops_in", "system.network.packet.dropped", _RECEIVED, merge="sum"),
)
_PROCESS = (
    Gauge("threads", "process.thread.count"),
    Gauge("file_descriptors", "process.unix.file_descriptor.count"),
    Gauge("handles", "process.windows.handle.count"),
    Gauge("uptime", "process.uptime"),
)
_GARBAGE = (
    Gauge("collections", "cpython.gc.collections", merge="sum"),
    Gauge("collected", "cpython.gc.collected_objects", merge="sum"),
    Gauge("uncollectable", "cpython.gc.uncollectable_objects", merge="sum"),
)
_RUNTIME = (Gauge("info", "process.runtime.info"),)

RESOURCE_GAUGES = frozenset(
    gauge.name
    for gauges in (MEMORY_GAUGES, CPU_GAUGES, DISK_GAUGES, NETWORK_GAUGES, _PROCESS, _GARBAGE, _RUNTIME)
    for gauge in gauges
)
"""Every name that `record_resources` records."""


def record_resources(
    monitor: ResourceMonitor, collector: MetricCollector, failing: set[str] | None = None
) -> None:
    """Read everything once and record each reading as a gauge.

    What fails is logged and costs its own gauges only: they keep their last values.

    Args:
        monitor: What is read. A key that a reading of it lacks is not recorded.
        collector: Where the gauges go.
        failing: Which kinds of reading failed the last time; the call brings it up to date. Given the same
            set again and again, a kind that goes on failing is logged once until it works again.
    """
    failing = set() if failing is None else failing
    refused: dict[str, Exception] = {}
    for reading in readings(monitor):
        kind, tags = reading.kind, reading.tags
        try:
            found = reading.take()
        except Exception as error:  # noqa: BLE001 - a monitor of someone else's may raise anything
            _say_once(failing, kind, f"no reading of the {kind}", error=repr(error))
            continue
        failing.discard(kind)
        for gauge, value in found:
            try:
                scaled = value if gauge.divisor == 1 else value / gauge.divisor
                if gauge.merge != "latest":
                    _tell_merge(collector, gauge)
                collector.record_gauge(gauge.name, scaled, {**gauge.tags, **tags} or None)
            except Exception as error:  # noqa: BLE001 - and so may a collector, or it refuses the value
                refused.setdefault(gauge.name, error)
    if refused:
        first = repr(next(iter(refused.values())))
        _say_once(failing, "gauges", "resource gauges not recorded", gauges=sorted(refused), error=first)
    else:
        failing.discard("gauges")


class Reading(NamedTuple):
    """Something to be read.

    Attributes:
        kind: What the log calls it.
        read: Reads it.
        gauges: What its keys are.
        tags: Tags of all of them.
    """

    kind: str
    read: Callable[[], Mapping[str, float]]
    gauges: Sequence[Gauge]
    tags: Mapping[str, str] = {}

    def take(self) -> list[tuple[Gauge, float]]:
        """Read, and return each gauge with its number before it is divided."""
        reading = self.read()
        return [(gauge, reading[gauge.key]) for gauge in self.gauges if gauge.key in reading]


def readings(monitor: ResourceMonitor) -> Iterator[Reading]:
    """Yield all that can be read of the machine, the process and the interpreter."""
    yield Reading("memory", monitor.get_memory_usage, MEMORY_GAUGES)
    yield Reading("CPU", lambda: _share_of_all(monitor.get_cpu_usage()), CPU_GAUGES)
    detailed = monitor if isinstance(monitor, DetailedMonitor) else None
    for path in detailed.disks if detailed else ("/",):
        read = partial(monitor.get_disk_usage, path)
        yield Reading(f"disk {path!r}", read, DISK_GAUGES, {MOUNTPOINT: path})
    yield Reading("network", monitor.get_network_stats, NETWORK_GAUGES)
    if detailed:
        yield Reading("process", detailed.get_process_usage, _PROCESS)
    if sys.implementation.name == "cpython":
        for generation, counts in enumerate(gc.get_stats()):
            read = partial(dict[str, float], counts)
            yield Reading("garbage collector", read, _GARBAGE, {_GENERATION: str(generation)})
    yield Reading("runtime", lambda: {"info": 1}, _RUNTIME, _runtime())


def _tell_merge(collector: MetricCollector, gauge: Gauge) -> None:
    """Say what the gauge's series are together, unless somebody said so already."""
    store: Any = getattr(collector, "store", None)
    if callable(getattr(store, "description", None)):
        said = store.description(gauge.name)
        if said.merge == "latest":
            store.describe(gauge.name, unit=said.unit, help=said.help, merge=gauge.merge)


def _share_of_all(cpu: Mapping[str, float]) -> Mapping[str, float]:
    """Add the process' percentage of all CPUs together, as the conventions want it."""
    if "process_percent" not in cpu or "count" not in cpu:
        return cpu
    return {**cpu, "process_percent_of_all": cpu["process_percent"] / max(cpu["count"], 1)}


@cache
def _runtime() -> Mapping[str, str]:
    """Return what the program runs on, by the names of the conventions' resource attributes."""
    if sys.platform == "win32":
        import platform  # slow to import, and an import that a fork interrupts never ends in the child

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


def _say_once(failing: set[str], kind: str, event: str, **fields: object) -> None:
    if kind not in failing:
        log_event("warning", event, **fields)
    failing.add(kind)
