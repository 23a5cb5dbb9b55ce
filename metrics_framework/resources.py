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
from typing import NamedTuple, Protocol, runtime_checkable

from metrics_framework._version import __version__
from metrics_framework.logs import log_event
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


class _Gauge(NamedTuple):
    key: str
    name: str
    tags: Mapping[str, str] = {}
    divisor: int = 1


_USED = {"system.memory.state": "used"}
_SENT, _RECEIVED = ({"network.io.direction": direction} for direction in ("transmit", "receive"))
_MOUNTPOINT = "system.filesystem.mountpoint"
_DISK_STATE = "system.filesystem.state"
_GENERATION = "cpython.gc.generation"

_MEMORY = (
    _Gauge("used", "system.memory.usage", _USED),
    _Gauge("percent", "system.memory.utilization", _USED, 100),
    _Gauge("available", "system.memory.available"),
    _Gauge("total", "system.memory.limit"),
    _Gauge("process_rss", "process.memory.usage"),
    _Gauge("process_peak_rss", "process.memory.peak"),
)
_CPU = (
    _Gauge("percent", "system.cpu.utilization", divisor=100),
    _Gauge("process_percent_of_all", "process.cpu.utilization", divisor=100),
    _Gauge("load_1m", "system.cpu.load_average.1m"),
    _Gauge("load_5m", "system.cpu.load_average.5m"),
    _Gauge("load_15m", "system.cpu.load_average.15m"),
    _Gauge("count", "system.cpu.logical.count"),
)
_DISK = (
    _Gauge("used", "system.filesystem.usage", {_DISK_STATE: "used"}),
    _Gauge("free", "system.filesystem.usage", {_DISK_STATE: "free"}),
    _Gauge("percent", "system.filesystem.utilization", {_DISK_STATE: "used"}, 100),
    _Gauge("total", "system.filesystem.limit"),
)
_NETWORK = (
    _Gauge("bytes_sent", "system.network.io", _SENT),
    _Gauge("bytes_received", "system.network.io", _RECEIVED),
    _Gauge("packets_sent", "system.network.packet.count", _SENT),
    _Gauge("packets_received", "system.network.packet.count", _RECEIVED),
    _Gauge("errors_out", "system.network.errors", _SENT),
    _Gauge("errors_in", "system.network.errors", _RECEIVED),
    _Gauge("drops_out", "system.network.packet.dropped", _SENT),
    _Gauge("drops_in", "system.network.packet.dropped", _RECEIVED),
)
_PROCESS = (
    _Gauge("threads", "process.thread.count"),
    _Gauge("file_descriptors", "process.unix.file_descriptor.count"),
    _Gauge("handles", "process.windows.handle.count"),
    _Gauge("uptime", "process.uptime"),
)
_GARBAGE = (
    _Gauge("collections", "cpython.gc.collections"),
    _Gauge("collected", "cpython.gc.collected_objects"),
    _Gauge("uncollectable", "cpython.gc.uncollectable_objects"),
)
_RUNTIME = (_Gauge("info", "process.runtime.info"),)

RESOURCE_GAUGES = frozenset(
    gauge.name
    for gauges in (_MEMORY, _CPU, _DISK, _NETWORK, _PROCESS, _GARBAGE, _RUNTIME)
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
    for kind, read, gauges, tags in _readings(monitor):
        try:
            reading = read()
            found = [(gauge, reading[gauge.key]) for gauge in gauges if gauge.key in reading]
        except Exception as error:  # noqa: BLE001 - a monitor of someone else's may raise anything
            _say_once(failing, kind, f"no reading of the {kind}", error=repr(error))
            continue
        failing.discard(kind)
        for gauge, value in found:
            try:
                scaled = value if gauge.divisor == 1 else value / gauge.divisor
                collector.record_gauge(gauge.name, scaled, {**gauge.tags, **tags} or None)
            except Exception as error:  # noqa: BLE001 - and so may a collector, or it refuses the value
                refused.setdefault(gauge.name, error)
    if refused:
        first = repr(next(iter(refused.values())))
        _say_once(failing, "gauges", "resource gauges not recorded", gauges=sorted(refused), error=first)
    else:
        failing.discard("gauges")


class _Reading(NamedTuple):
    kind: str
    read: Callable[[], Mapping[str, float]]
    gauges: Sequence[_Gauge]
    tags: Mapping[str, str] = {}


def _readings(monitor: ResourceMonitor) -> Iterator[_Reading]:
    yield _Reading("memory", monitor.get_memory_usage, _MEMORY)
    yield _Reading("CPU", lambda: _share_of_all(monitor.get_cpu_usage()), _CPU)
    detailed = monitor if isinstance(monitor, DetailedMonitor) else None
    for path in detailed.disks if detailed else ("/",):
        read = partial(monitor.get_disk_usage, path)
        yield _Reading(f"disk {path!r}", read, _DISK, {_MOUNTPOINT: path})
    yield _Reading("network", monitor.get_network_stats, _NETWORK)
    if detailed:
        yield _Reading("process", detailed.get_process_usage, _PROCESS)
    if sys.implementation.name == "cpython":
        for generation, counts in enumerate(gc.get_stats()):
            read = partial(dict[str, float], counts)
            yield _Reading("garbage collector", read, _GARBAGE, {_GENERATION: str(generation)})
    yield _Reading("runtime", lambda: {"info": 1}, _RUNTIME, _runtime())


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
