"""The resource monitor on psutil."""

from __future__ import annotations

import os
import sys
import threading

import psutil

from metrics_framework.background import Background
from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError
from metrics_framework.protocols import MetricCollector
from metrics_framework.resources import record_resources


class PsutilMonitor:
    """A `ResourceMonitor` for this machine and this process.

    Args:
        collector: Where background monitoring records its readings as gauges; without one it only follows
            the peak of the process' memory.
        clock: What the run's average CPU is divided by.
    """

    def __init__(self, collector: MetricCollector | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self._collector = collector
        self._clock = clock
        self._process = psutil.Process()
        self._peak_rss = 0
        self._start_ns = clock.monotonic_ns()
        self._start_cpu = self._cpu_seconds()
        self._lock = threading.Lock()
        self._background: Background | None = None
        self._machine_cpu = _machine_cpu_seconds()
        # psutil's percentage is since the call before; the first call has none and answers 0.
        self._process.cpu_percent(interval=None)

    def get_memory_usage(self) -> dict[str, float]:
        """Return memory in bytes; see `ResourceMonitor.get_memory_usage`."""
        machine = psutil.virtual_memory()
        rss = self._process.memory_info().rss
        self._peak_rss = max(self._peak_rss, rss, _peak_rss(self._process))
        return {
            "used": machine.used,
            "available": machine.available,
            "total": machine.total,
            "percent": machine.percent,
            "process_rss": rss,
            "process_peak_rss": self._peak_rss,
        }

    def get_cpu_usage(self) -> dict[str, float]:
        """Return CPU usage; see `ResourceMonitor.get_cpu_usage`.

        Percentages are since the call before. ``process_average_percent``, beyond the contract, is the
        average since this monitor was made; snapshots use it.
        """
        seconds = (self._clock.monotonic_ns() - self._start_ns) / 1e9
        used = self._cpu_seconds() - self._start_cpu
        load_1m, load_5m, load_15m = psutil.getloadavg()
        return {
            "percent": self._machine_percent(),
            "process_percent": self._process.cpu_percent(interval=None),
            "process_average_percent": 100 * used / seconds if seconds > 0 else 0.0,
            "load_1m": load_1m,
            "load_5m": load_5m,
            "load_15m": load_15m,
            "count": psutil.cpu_count() or 1,
        }

    def get_disk_usage(self, path: str = "/") -> dict[str, float]:
        """Return a disk's usage; see `ResourceMonitor.get_disk_usage`.

        Raises:
            InvalidInputError: If nothing is at ``path``.
        """
        try:
            disk = psutil.disk_usage(path)
        except OSError as error:
            raise InvalidInputError(f"no disk usage for path {path!r}: {error.strerror}") from error
        return {"used": disk.used, "free": disk.free, "total": disk.total, "percent": disk.percent}

    def get_network_stats(self) -> dict[str, int]:
        """Return what passed the network; see `ResourceMonitor.get_network_stats`."""
        # A machine without an interface has no counters.
        network = psutil.net_io_counters()
        return {
            "bytes_sent": network.bytes_sent if network else 0,
            "bytes_received": network.bytes_recv if network else 0,
            "packets_sent": network.packets_sent if network else 0,
            "packets_received": network.packets_recv if network else 0,
            "errors_in": network.errin if network else 0,
            "errors_out": network.errout if network else 0,
            "drops_in": network.dropin if network else 0,
            "drops_out": network.dropout if network else 0,
        }

    def start_resource_monitoring(self, interval: float = 60.0) -> None:
        """Read in the background; see `ResourceMonitor.start_resource_monitoring`.

        Raises:
            InvalidInputError: If ``interval`` is not a positive number of seconds.
        """
        if (
            isinstance(interval, bool)
            or not isinstance(interval, (int, float))
            or not 0 < interval <= threading.TIMEOUT_MAX
        ):
            raise InvalidInputError(f"interval={interval!r} is not a positive number of seconds")
        with self._lock:
            if self._background is None:
                self._background = Background(self._sample, interval, "resource reading")

    def stop_resource_monitoring(self) -> None:
        """Stop reading in the background; see `ResourceMonitor.stop_resource_monitoring`."""
        with self._lock:
            background, self._background = self._background, None
        if background is not None:
            background.stop()

    def _sample(self) -> None:
        if self._collector is None:
            self.get_memory_usage()
        else:
            record_resources(self, self._collector)

    def _machine_percent(self) -> float:
        """Return how busy the machine was since the call before, from whatever thread that one came.

        `psutil.cpu_percent` is since the call before of the same thread, and 0 where there was none.
        """
        before, now = self._machine_cpu, _machine_cpu_seconds()
        self._machine_cpu = now
        busy, total = now[0] - before[0], now[1] - before[1]
        return min(max(100 * busy / total, 0.0), 100.0) if total > 0 else 0.0

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def _machine_cpu_seconds() -> tuple[float, float]:
    """Return how many CPU seconds the machine was busy since it started, and how many there were."""
    times = psutil.cpu_times()
    # Linux counts a guest's time as its host's as well, and what waits for a disk leaves the CPU idle.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - times.idle - getattr(times, "iowait", 0.0), total


def _peak_rss(process: psutil.Process) -> int:
    """Return a process' peak resident memory in bytes, or 0 where the system does not tell.

    On Linux this is the high-water mark of its memory, ``VmHWM``. ``ru_maxrss`` is not: a process inherits
    it from the one that started it.
    """
    if sys.platform == "linux":
        try:
            with open(f"/proc/{process.pid}/status", "rb") as status:  # noqa: PTH123 - no Path for a hot read
                for line in status:
                    if line.startswith(b"VmHWM:"):
                        return int(line.split()[1]) * 1024
        except OSError:
            return 0
    elif os.name == "nt":
        return int(process.memory_info().peak_wset)
    return 0
