"""The resource monitor of this machine or container, and of this process, based on psutil."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import psutil

from metrics_adapters.resources.cgroups import ControlGroups, CpuLimit
from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError, OutputError
from metrics_framework.health import record_resources
from metrics_framework.protocols import MetricCollector
from metrics_framework.runtime.background import Background
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork
from metrics_framework.validation import check_seconds

_PSUTIL_ERRORS = (psutil.Error, OSError, RuntimeError)
"""The errors of psutil. `NotImplementedError`, for a missing feature, is a `RuntimeError`."""


class PsutilMonitor:
    """A `ResourceMonitor` for this machine, or the container in which it runs, and this process.

    Where a control group of Linux limits memory or CPUs, the readings are those of the control group and its
    limit instead of the machine.

    A forked child reads itself: averages, peak and uptime start at the fork, and background monitoring
    continues. Every reading raises an `OutputError` if the system refuses it.

    Args:
        collector: Receives the readings of background monitoring as gauges. Without a collector, it only
            tracks the peak memory of the process.
        clock: Measures the time for average CPU usage.
        disks: The paths whose disks background monitoring records.
        cgroups: The control groups of this process.

    Attributes:
        disks: The paths, without duplicates.

    Raises:
        InvalidInputError: If ``disks`` contains anything but paths.
    """

    def __init__(
        self,
        collector: MetricCollector | None = None,
        clock: Clock = SYSTEM_CLOCK,
        disks: Iterable[str] = ("/",),
        cgroups: ControlGroups | None = None,
    ) -> None:
        if isinstance(disks, str):
            raise InvalidInputError(f"disks={disks!r} is one string: pass a list, [{disks!r}]")
        self.disks = tuple(dict.fromkeys(disks))
        for path in self.disks:
            if not isinstance(path, str) or not path:
                raise InvalidInputError(f"disks={list(self.disks)!r}: {path!r} is not a path as a string")
        self._collector = collector
        self._clock = clock
        self._cgroups = cgroups or ControlGroups()
        self._background: Background | None = None
        self._begin(process_start_ns=None)
        # If the system refuses it, the first percentage counts since the boot of the machine.
        self._machine_cpu = (0.0, 0.0)
        with suppress(*_PSUTIL_ERRORS):
            self._machine_cpu = _machine_cpu_seconds()
        reset_after_fork(self, PsutilMonitor._reset_in_child, ForkOrder.STATE)

    def _begin(self, process_start_ns: int | None) -> None:
        """Start to measure this process. ``process_start_ns`` is its start on the clock, if known."""
        self._process_start_ns = process_start_ns
        self._process: psutil.Process | None = None
        self._peak_rss = 0
        self._container_cpu: tuple[float, float] | None = None
        with suppress(*_PSUTIL_ERRORS):
            self._container_cpu = self._container_cpu_seconds(self._cpu_limit())
        self._start = self._process_cpu = self._process_cpu_seconds()
        self._failing: set[str] = set()
        self._lock = threading.Lock()

    def get_memory_usage(self) -> dict[str, float]:
        """Return memory in bytes; see `ResourceMonitor.get_memory_usage`."""
        with _translated("memory"):
            machine = psutil.virtual_memory()
            process = self._own_process()
            rss = process.memory_info().rss
            self._peak_rss = max(self._peak_rss, rss, _peak_rss(process))
        used, available, total = machine.used, machine.available, machine.total
        percent = machine.percent
        container = self._cgroups.memory(total)
        if container is not None:
            used, total = container
            available = max(total - used, 0)
            percent = min(100 * used / total, 100.0)
        return {
            "used": used,
            "available": available,
            "total": total,
            "percent": percent,
            "process_rss": rss,
            "process_peak_rss": self._peak_rss,
        }

    def get_cpu_usage(self) -> dict[str, float]:
        """Return CPU usage; see `ResourceMonitor.get_cpu_usage`.

        Percentages count since the previous call. ``process_average_percent``, beyond the contract, is the
        average since the creation of this monitor; snapshots use it. ``count`` is the CPU limit of the
        container, if it has one.
        """
        with _translated("CPU"):
            load_1m, load_5m, load_15m = psutil.getloadavg()
            limit = self._cpu_limit()
            machine = _machine_cpu_seconds()
        before, self._machine_cpu = self._machine_cpu, machine
        percent = _percent(before, machine)
        last, self._container_cpu = self._container_cpu, self._container_cpu_seconds(limit)
        if last is not None and self._container_cpu is not None:
            percent = _percent(last, self._container_cpu) / limit.cpus
        since, self._process_cpu = self._process_cpu, self._process_cpu_seconds()
        return {
            "percent": min(percent, 100.0),
            "process_percent": _percent(since, self._process_cpu),
            "process_average_percent": _percent(self._start, self._process_cpu),
            "load_1m": load_1m,
            "load_5m": load_5m,
            "load_15m": load_15m,
            "count": limit.cpus,
        }

    def get_disk_usage(self, path: str = "/") -> dict[str, float]:
        """Return the usage of a disk; see `ResourceMonitor.get_disk_usage`.

        Raises:
            InvalidInputError: If ``path`` does not exist.
        """
        with _translated(f"disk of path {path!r}"):
            try:
                disk = psutil.disk_usage(path)
            except (FileNotFoundError, NotADirectoryError, ValueError) as error:
                raise InvalidInputError(f"no disk usage for path {path!r}: {error}") from error
        return {"used": disk.used, "free": disk.free, "total": disk.total, "percent": disk.percent}

    def get_network_stats(self) -> dict[str, int]:
        """Return network counters; see `ResourceMonitor.get_network_stats`."""
        with _translated("network"):
            # With nowrap psutil takes a lock, which a forked child may inherit locked.
            network = psutil.net_io_counters(nowrap=False)
        # A machine without an interface has no counters.
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

    def get_process_usage(self) -> dict[str, float]:
        """Return further resources of this process.

        Returns:
            ``threads``, ``file_descriptors`` (on Windows ``handles``) and the process' ``uptime`` in seconds.
        """
        with _translated("process"):
            process = self._own_process()
            usage: dict[str, float] = {"threads": process.num_threads()}
            if sys.platform == "win32":
                usage["handles"] = process.num_handles()
            else:
                usage["file_descriptors"] = process.num_fds()
            if self._process_start_ns is None:
                age = time.time() - process.create_time()
                self._process_start_ns = self._clock.monotonic_ns() - round(age * 1e9)
        return {**usage, "uptime": (self._clock.monotonic_ns() - self._process_start_ns) / 1e9}

    def start_resource_monitoring(self, interval: float = 60.0) -> None:
        """Read in the background; see `ResourceMonitor.start_resource_monitoring`.

        It ends with `stop_resource_monitoring`.

        Raises:
            InvalidInputError: If ``interval`` is not a positive number of seconds.
        """
        check_seconds("interval", interval)
        with self._lock:
            if self._background is None or self._background.stopped:
                self._background = Background(self.sample, interval, "resource reading")

    def stop_resource_monitoring(self) -> None:
        """Stop reading in the background; see `ResourceMonitor.stop_resource_monitoring`."""
        with self._lock:
            background = self._background
        if background is not None:
            background.stop()

    def sample(self) -> None:
        """Read and record once, as background monitoring does at each interval.

        A reading that the system refuses is logged once until it succeeds again. All others are recorded.
        """
        if self._collector is None:
            self.get_memory_usage()
        else:
            record_resources(self, self._collector, self._failing)

    def _reset_in_child(self) -> None:
        self._begin(process_start_ns=self._clock.monotonic_ns())

    def _own_process(self) -> psutil.Process:
        if self._process is None:
            self._process = psutil.Process()
        return self._process

    def _cpu_limit(self) -> CpuLimit:
        """Return the limit of the container, or the number of CPUs without a usage."""
        count = psutil.cpu_count() or 1
        return self._cgroups.cpu(count) or CpuLimit(count, None)

    def _container_cpu_seconds(self, limit: CpuLimit) -> tuple[float, float] | None:
        """Return the CPU seconds of the container, and the time in seconds; ``None`` without a limit."""
        if limit.usage_seconds is None:
            return None
        return limit.usage_seconds, self._clock.monotonic_ns() / 1e9

    def _process_cpu_seconds(self) -> tuple[float, float]:
        """Return the CPU seconds of this process, and the time in seconds."""
        return time.process_time(), self._clock.monotonic_ns() / 1e9


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Raise the errors of psutil as an `OutputError`."""
    try:
        yield
    except _PSUTIL_ERRORS as error:
        raise OutputError(f"the system refused to read the {what}: {error!r}") from error


def _percent(before: tuple[float, float], after: tuple[float, float]) -> float:
    """Return the share of busy seconds between two readings of busy and total seconds."""
    busy, total = after[0] - before[0], after[1] - before[1]
    return max(100 * busy / total, 0.0) if total > 0 else 0.0


def _machine_cpu_seconds() -> tuple[float, float]:
    """Return the busy and the total CPU seconds since the boot of the machine.

    `psutil.cpu_percent` counts since the previous call of the same thread, and is 0 at the first one. These
    seconds give percentages since the previous call of any thread.
    """
    times = psutil.cpu_times()
    # Linux counts the time of a guest for the host too. A CPU that waits for a disk is idle.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - times.idle - getattr(times, "iowait", 0.0), total


def _peak_rss(process: psutil.Process) -> int:
    """Return the peak resident memory of a process in bytes, or 0 if the system does not report it.

    On Linux this is ``VmHWM``, because a process inherits ``ru_maxrss`` from the process that started it.
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
