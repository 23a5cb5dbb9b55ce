"""The time, memory and CPU usage of a command and of the processes that it starts."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from threading import Event
from time import monotonic

import psutil

from metrics_adapters.resources.monitor import PsutilMonitor
from metrics_framework.errors import InvalidInputError

SAMPLE_SECONDS = 0.05
"""The interval of memory samples. It starts shorter, so that a short command is sampled."""

_FIRST_SAMPLE_SECONDS = 0.001
_ERROR_OUTPUT_BYTES = 8_192
_GRACE_SECONDS = 2.0
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
_LAUNCHER = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True)
class CommandRun:
    """One finished run of a command.

    Attributes:
        seconds: The time from its start to its end.
        cpu_seconds: The CPU time of the command and of the processes that it waited for.
        peak_rss: The peak resident memory in bytes: the largest sampled sum over the command and its
            descendants, and at least the kernel's peak of the largest process. Shared memory counts for each
            process. A command that ends within `SAMPLE_SECONDS` counts at least as the launcher (10 MB).
        exit_code: The exit code, or minus the number of the signal that ended it.
        error_output: The end of its standard error, at most 8 KiB.
    """

    seconds: float
    cpu_seconds: float
    peak_rss: int
    exit_code: int
    error_output: str


class CommandMonitor(PsutilMonitor):
    """A `ResourceMonitor` of a command and its descendants, in place of this process.

    Between runs the readings are those of the last run. Averages and peaks cover all runs. Readings of the
    machine are those of `PsutilMonitor`. Requires a POSIX system.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last_run: CommandRun | None = None
        self._largest_rss = 0
        self._run_seconds = self._run_cpu_seconds = 0.0
        self._runs_lock = threading.Lock()

    def run(
        self, command: Sequence[str], *, timeout: float | None = None, cancelled: Event | None = None
    ) -> CommandRun:
        """Run a command and measure it. Its output is discarded, and its input is empty. Thread-safe.

        Args:
            command: The program and its arguments.
            timeout: The time limit in seconds, after which the command and its descendants are ended.
            cancelled: An event that ends the command if another thread sets it.

        Raises:
            InvalidInputError: If the command cannot be started.
            TimeoutError: If it did not end in time.
            InterruptedError: If it was cancelled.
        """
        run = run_command(command, timeout=timeout, cancelled=cancelled)
        with self._runs_lock:
            self._last_run = run
            self._largest_rss = max(self._largest_rss, run.peak_rss)
            self._run_seconds += run.seconds
            self._run_cpu_seconds += run.cpu_seconds
        return run

    def get_memory_usage(self) -> dict[str, float]:
        """Return memory in bytes; ``process_rss`` is the peak of the last run."""
        last = self._last_run.peak_rss if self._last_run else 0
        return {**super().get_memory_usage(), "process_rss": last, "process_peak_rss": self._largest_rss}

    def get_cpu_usage(self) -> dict[str, float]:
        """Return CPU usage; ``process_percent`` is the average of the last run."""
        last = self._last_run
        return {
            **super().get_cpu_usage(),
            "process_percent": _percent(last.cpu_seconds, last.seconds) if last else 0.0,
            "process_average_percent": _percent(self._run_cpu_seconds, self._run_seconds),
        }

    def get_process_usage(self) -> dict[str, float]:
        """Return nothing, because the resources of a command end with it."""
        return {}


def _percent(cpu_seconds: float, seconds: float) -> float:
    return 100 * cpu_seconds / seconds if seconds else 0.0


def run_command(
    command: Sequence[str], *, timeout: float | None = None, cancelled: Event | None = None
) -> CommandRun:
    """Run a command and measure it; see `CommandMonitor.run`."""
    if not command:
        raise InvalidInputError("command= is empty: pass a program and its arguments")
    if os.name != "posix":
        raise InvalidInputError(f"cannot measure {command[0]!r}: measuring commands requires a POSIX system")
    report, report_end = os.pipe()
    try:
        # Without a shell, and with an interpreter without site-packages, which is small and starts fast.
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LAUNCHER), str(report_end), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[report_end],
        )
    except (OSError, ValueError) as error:
        os.close(report)
        raise InvalidInputError(f"cannot run {command[0]!r}: {error}") from error
    finally:
        os.close(report_end)
    assert launcher.stderr is not None
    watch = _Watch(report, launcher.stderr.fileno(), timeout, cancelled)
    try:
        watch.until_ended()
    finally:
        try:
            if watch.ended is None:
                _end(launcher)  # an interrupt such as Ctrl-C leaves nothing running
        finally:
            launcher.wait()
            launcher.stderr.close()
            os.close(report)
    return watch.result(command)


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """Terminate a launcher and its descendants, and kill those that remain."""
    running: set[psutil.Process] = set()
    try:
        running = _freeze(launcher)
        for process in running:
            with suppress(psutil.Error):
                process.terminate()
                process.resume()
        if running:
            launcher.send_signal(signal.SIGCONT)  # to reap them
            psutil.wait_procs(running, timeout=_GRACE_SECONDS)
    finally:  # also if a second Ctrl-C interrupts the wait
        for process in running | _freeze(launcher):
            with suppress(psutil.Error):
                process.kill()
        launcher.kill()


def _freeze(launcher: subprocess.Popen[bytes]) -> set[psutil.Process]:
    """Suspend a launcher and its descendants, so that they start no processes. Return the descendants."""
    launcher.send_signal(signal.SIGSTOP)
    stopped: set[psutil.Process] = set()
    with suppress(psutil.NoSuchProcess):
        while started := set(psutil.Process(launcher.pid).children(recursive=True)) - stopped:
            for process in started:
                with suppress(psutil.Error):
                    process.suspend()
            stopped |= started
    return stopped


class _Watch:
    """Watches one run: reads the launcher's report and the command's errors, and samples its processes."""

    def __init__(
        self, report: int, errors: int, timeout: float | None = None, cancelled: Event | None = None
    ) -> None:
        self._timeout = timeout
        self._deadline = inf if timeout is None else monotonic() + timeout
        self._cancelled = cancelled
        self.ended: list[int] | None = None
        self._failed: int | None = None
        self._report = report
        self._errors = errors
        self._lines = b""
        self._error_output = b""
        self._process: psutil.Process | None = None
        self._peak_rss = 0

    def until_ended(self) -> None:
        interval = _FIRST_SAMPLE_SECONDS
        next_sample = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(self._report, selectors.EVENT_READ)
            selector.register(self._errors, selectors.EVENT_READ)
            while self._report in selector.get_map():
                self._check()
                for key, _ in selector.select(self._wait_seconds(next_sample)):
                    chunk = os.read(key.fd, 65_536)
                    if not chunk:
                        selector.unregister(key.fd)
                    elif key.fd == self._errors:
                        self._error_output = (self._error_output + chunk)[-_ERROR_OUTPUT_BYTES:]
                    else:
                        self._read_report(chunk)
                if self._process is not None and monotonic() >= next_sample:
                    self._sample()
                    next_sample = monotonic() + interval
                    interval = min(2 * interval, SAMPLE_SECONDS)

    def _check(self) -> None:
        if self._cancelled is not None and self._cancelled.is_set():
            raise InterruptedError("cancelled")
        if monotonic() >= self._deadline:
            raise TimeoutError(f"did not end within {self._timeout:g} s")

    def _wait_seconds(self, next_sample: float) -> float | None:
        """Return how long to wait for output of the command."""
        until = next_sample if self._process else inf
        if self._cancelled is not None:
            until = min(until, monotonic() + SAMPLE_SECONDS)
        until = min(until, self._deadline)
        return None if until == inf else max(0.0, until - monotonic())

    def result(self, command: Sequence[str]) -> CommandRun:
        if self._failed is not None:
            raise InvalidInputError(f"cannot run {command[0]!r}: {os.strerror(self._failed)}")
        if self.ended is None:
            raise InvalidInputError(f"the result of {command[0]!r} is unknown: its launcher was killed")
        status, wall_ns, cpu_us, maxrss, floor = self.ended
        # At the floor, the peak of the kernel is that of the launcher. Samples, if any, are more precise.
        sampled = self._peak_rss and wall_ns >= SAMPLE_SECONDS * 1e9
        kernel = maxrss * _MAXRSS_BYTES if maxrss > floor or not sampled else 0
        return CommandRun(
            seconds=wall_ns / 1e9,
            cpu_seconds=cpu_us / 1e6,
            peak_rss=max(self._peak_rss, kernel),
            exit_code=os.waitstatus_to_exitcode(status),
            error_output=self._error_output.decode(errors="replace"),
        )

    def _read_report(self, chunk: bytes) -> None:
        *lines, self._lines = (self._lines + chunk).split(b"\n")
        for line in lines:
            word, *numbers = line.decode().split()
            if word == "started":
                try:
                    self._process = psutil.Process(int(numbers[0]))
                except psutil.NoSuchProcess:
                    continue  # it has ended already
            elif word == "ended":
                self._process, self.ended = None, [int(number) for number in numbers]
            else:
                self._failed = int(numbers[0])

    def _sample(self) -> None:
        total = 0
        for process in self._tree():
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
        self._peak_rss = max(self._peak_rss, total)

    def _tree(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.Error:
            return [self._process]
