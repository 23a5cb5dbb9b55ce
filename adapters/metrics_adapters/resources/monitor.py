"""The resource monitor on psutil."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import psutil

from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError, OutputError
from metrics_framework.protocols import MetricCollector
from metrics_framework.resources import record_resources
from metrics_framework.runtime.background import Background
from metrics_framework.validation import check_seconds

_PSUTIL_ERRORS = (psutil.Error, OSError, RuntimeError)
"""What psutil raises; `NotImplementedError`, where a system lacks something, is a `RuntimeError`."""


class PsutilMonitor:
    """A `ResourceMonitor` for this machine and this process.

    In a forked child it reads the child: averages, peak and uptime begin at the fork, and background
    monitoring goes on. Every reading raises `OutputError` where the system refuses it.

    Args:
        collector: Where background monitoring records its readings as gauges; without one it only follows
            the peak of the process' memory.
        clock: What the run's average CPU is divided by.
        disks: The paths whose disks background monitoring records.

    Attributes:
        disks: The same, each once.

    Raises:
        InvalidInputError: If ``disks`` are not paths.
    """

    def __init__(
        self,
        collector: MetricCollector | None = None,
        clock: Clock = SYSTEM_CLOCK,
        disks: Iterable[str] = ("/",),
    ) -> None:
        if isinstance(disks, str):
            raise InvalidInputError(f"disks={disks!r} is one string; pass a list: [{disks!r}]")
        self.disks = tuple(dict.fromkeys(disks))
        for path in self.disks:
            if not isinstance(path, str) or not path:
                raise InvalidInputError(f"disks={list(self.disks)!r}: {path!r} is not a path as a string")
        self._collector = collector
        self._clock = clock
        self._background: Background | None = None
        self._begin(born_ns=None)
        # Where the system refuses it, the first percentage is since the machine started.
        self._machine_cpu = (0.0, 0.0)
        with suppress(*_PSUTIL_ERRORS):
            self._machine_cpu = _machine_cpu_seconds()
        _MONITORS.add(self)

    def _begin(self, born_ns: int | None) -> None:
        """Begin to measure this process, of whose birth the clock said ``born_ns`` if that is known."""
        self._born_ns = born_ns
        self._process: psutil.Process | None = None
        self._peak_rss = 0
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
        with _translated("CPU"):
            load_1m, load_5m, load_15m = psutil.getloadavg()
            count = psutil.cpu_count() or 1
            machine = _machine_cpu_seconds()
        before, self._machine_cpu = self._machine_cpu, machine
        since, self._process_cpu = self._process_cpu, self._process_cpu_seconds()
        return {
            "percent": min(_percent(before, machine), 100.0),
            "process_percent": _percent(since, self._process_cpu),
            "process_average_percent": _percent(self._start, self._process_cpu),
            "load_1m": load_1m,
            "load_5m": load_5m,
            "load_15m": load_15m,
            "count": count,
        }

    def get_disk_usage(self, path: str = "/") -> dict[str, float]:
        """Return a disk's usage; see `ResourceMonitor.get_disk_usage`.

        Raises:
            InvalidInputError: If nothing is at ``path``.
        """
        with _translated(f"disk of path {path!r}"):
            try:
                disk = psutil.disk_usage(path)
            except (FileNotFoundError, NotADirectoryError, ValueError) as error:
                raise InvalidInputError(f"no disk usage for path {path!r}: {error}") from error
        return {"used": disk.used, "free": disk.free, "total": disk.total, "percent": disk.percent}

    def get_network_stats(self) -> dict[str, int]:
        """Return what passed the network; see `ResourceMonitor.get_network_stats`."""
        with _translated("network"):
            # With nowrap psutil takes a lock, which a thread that a fork lost would hold for ever.
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
        """Return what else this process holds.

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
            if self._born_ns is None:
                age = time.time() - process.create_time()
                self._born_ns = self._clock.monotonic_ns() - round(age * 1e9)
        return {**usage, "uptime": (self._clock.monotonic_ns() - self._born_ns) / 1e9}

    def start_resource_monitoring(self, interval: float = 60.0) -> None:
        """Read in the background; see `ResourceMonitor.start_resource_monitoring`.

        It goes on until `stop_resource_monitoring`, or until nothing refers to the monitor any more.

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
        """Read and record once, as background monitoring does at every interval.

        What the system refuses to tell is logged, once until it works again, and the rest is recorded.
        """
        if self._collector is None:
            self.get_memory_usage()
        else:
            record_resources(self, self._collector, self._failing)

    def _begin_in_child(self) -> None:
        self._begin(born_ns=self._clock.monotonic_ns())

    def _own_process(self) -> psutil.Process:
        if self._process is None:
            self._process = psutil.Process()
        return self._process

    def _process_cpu_seconds(self) -> tuple[float, float]:
        """Return how many CPU seconds this process has used, and when that was."""
        return time.process_time(), self._clock.monotonic_ns() / 1e9


_MONITORS: weakref.WeakSet[PsutilMonitor] = weakref.WeakSet()


def _begin_in_child() -> None:
    for monitor in list(_MONITORS):
        monitor._begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Raise what psutil raises as an error of ours."""
    try:
        yield
    except _PSUTIL_ERRORS as error:
        raise OutputError(f"the system does not tell about the {what}: {error!r}") from error


def _percent(before: tuple[float, float], after: tuple[float, float]) -> float:
    """Return the share of busy seconds in all that passed between two readings of both."""
    busy, total = after[0] - before[0], after[1] - before[1]
    return max(100 * busy / total, 0.0) if total > 0 else 0.0


def _machine_cpu_seconds() -> tuple[float, float]:
    """Return how many CPU seconds the machine was busy since it started, and how many there were.

    `psutil.cpu_percent` is since the call before of the same thread, and 0 where there was none; this is for
    percentages since the call before of any thread.
    """
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
