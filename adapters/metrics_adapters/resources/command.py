"""The time, memory and CPU usage of a command and of the processes that it starts."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from math import inf
from pathlib import Path
from threading import Event
from time import monotonic
from typing import IO, Any

import psutil

from metrics_adapters.resources.monitor import PsutilMonitor
from metrics_framework.errors import InvalidInputError, reason_of
from metrics_framework.validation import check_seconds
from metrics_framework.values import CommandRun

SAMPLE_SECONDS = 0.05
"""The interval of memory samples, also before the first one: a sample delays a command on the same core."""

_MAX_SAMPLING_SHARE = 0.01
"""The share of the time that sampling may take. If listing processes is slow, samples are rarer."""

_CHUNK_BYTES = 65_536
_PIPE_BYTES = 262_144
"""With the default of 64 KiB, a command that fills the pipe waits for this process more often."""

_MAX_SHORT_BYTES = 262_144
"""A longer command makes its launcher larger, which would show in the peak of the next command."""

_ERROR_OUTPUT_BYTES = 8_192
_GRACE_SECONDS = 2.0
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
_LAUNCHER = Path(__file__).with_name("launcher.py")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if os.name == "posix" else 0
_HAS_CHILDREN_FILES = Path(f"/proc/self/task/{os.getpid()}/children").exists()


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
        self._idle: list[_Launcher] = []
        weakref.finalize(self, _close_all, self._idle)

    def run(
        self,
        command: Sequence[str],
        *,
        stdout: int | IO[Any] | None = subprocess.PIPE,
        timeout: float | None = None,
        cancelled: Event | None = None,
    ) -> CommandRun:
        """Run a command and measure it. Its input is empty. Thread-safe.

        A small process, the launcher, starts the commands. It is kept for the next command, unless the
        working folder or the environment has changed or the command has left background processes.

        Args:
            command: The program and its arguments.
            stdout: Its standard output: `subprocess.PIPE` for a pipe that is read and discarded,
                `subprocess.DEVNULL`, a file or descriptor, or ``None`` for that of this process. Some
                programs, such as GNU grep and tar, do less work if it is the null device.
            timeout: The time limit in seconds, after which the command and its descendants are ended.
            cancelled: An event that ends the command if another thread sets it.

        Raises:
            InvalidInputError: If the command cannot be started, or ``timeout`` is not a positive number.
            TimeoutError: If it did not end in time.
            InterruptedError: If it was cancelled.
        """
        if stdout == subprocess.PIPE:
            run = self._run_from_idle(command, timeout, cancelled)
        else:
            run = run_command(command, stdout=stdout, timeout=timeout, cancelled=cancelled)
        with self._runs_lock:
            self._last_run = run
            self._largest_rss = max(self._largest_rss, run.peak_rss)
            self._run_seconds += run.seconds
            self._run_cpu_seconds += run.cpu_seconds
        return run

    def renewed(self) -> CommandMonitor:
        """Return a monitor without measurements, which takes over the idle launchers of this one.

        Starting a launcher takes tens of milliseconds, which would show in the throughput of short commands.
        """
        renewed = CommandMonitor()
        with suppress(IndexError):
            while True:
                renewed._idle.append(self._idle.pop())
        return renewed

    def _run_from_idle(
        self, command: Sequence[str], timeout: float | None, cancelled: Event | None
    ) -> CommandRun:
        """Run a command from an idle launcher, or else from a new one, and keep the launcher."""
        while True:
            try:
                launcher, is_new = self._idle.pop(), False
            except IndexError:
                launcher, is_new = _Launcher(command, subprocess.PIPE), True
            try:
                if is_new or launcher.is_current():
                    return launcher.run(command, timeout, cancelled)
                launcher.is_usable = False
            except BrokenPipeError:  # another process has ended it
                if is_new:
                    raise InvalidInputError(f"cannot run {command[0]!r}: its launcher was killed") from None
            finally:
                if launcher.is_usable:
                    self._idle.append(launcher)
                else:
                    launcher.close()

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
    command: Sequence[str],
    *,
    stdout: int | IO[Any] | None = subprocess.PIPE,
    timeout: float | None = None,
    cancelled: Event | None = None,
) -> CommandRun:
    """Run a command and measure it; see `CommandMonitor.run`."""
    launcher = _Launcher(command, stdout)
    try:
        return launcher.run(command, timeout, cancelled)
    finally:
        launcher.close()


class _Launcher:
    """A process of ``launcher.py``, which runs commands one after the other.

    Attributes:
        is_usable: Whether it can run another command.
    """

    def __init__(self, command: Sequence[str], stdout: int | IO[Any] | None) -> None:
        _encode(command)
        with ExitStack() as resources, ExitStack() as other_ends:
            try:
                requests_end, self._requests = _open_pipe()
                other_ends.callback(os.close, requests_end)
                resources.callback(os.close, self._requests)
                self._report, report_end = _open_pipe()
                resources.callback(os.close, self._report)
                other_ends.callback(os.close, report_end)
                if stdout == subprocess.PIPE:
                    stdout = resources.enter_context(_discarding_pipe())
                # Without a shell, and with an interpreter without site-packages, which is small and starts
                # fast.
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_LAUNCHER), str(requests_end), str(report_end)],
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=subprocess.PIPE,
                    pass_fds=[requests_end, report_end],
                )
            except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: too many threads
                raise InvalidInputError(f"cannot run {command[0]!r}: {reason_of(error)}") from error
            assert self._process.stderr is not None
            resources.callback(self._process.stderr.close)
            self._resources = resources.pop_all()
        self.is_usable = True
        self._inherited = _inherited()

    def run(self, command: Sequence[str], timeout: float | None, cancelled: Event | None) -> CommandRun:
        """Run a command; see `CommandMonitor.run`.

        Raises:
            BrokenPipeError: If the launcher has ended. The command was not started.
        """
        content = _encode(command)
        process = self._process
        assert process.stderr is not None
        self.is_usable = False
        watch = _Watch(process.pid, self._report, process.stderr.fileno(), timeout, cancelled)
        try:
            watch.until_ended(partial(self._send, b"%d\n" % len(content) + content))
        finally:
            if not watch.has_ended:
                try:
                    _end(process)  # an interrupt such as Ctrl-C leaves nothing running
                except BaseException:  # another interrupt, at any moment
                    _end(process)
                    raise
        self.is_usable = not watch.is_last and len(content) <= _MAX_SHORT_BYTES
        return watch.result(command)

    def is_current(self) -> bool:
        """Return whether commands inherit what those of a new launcher would: folder and environment."""
        return self._inherited == _inherited()

    def close(self) -> None:
        """End the launcher. Processes that its last command has left keep running."""
        if self._inherited[0] == os.getpid():  # not in a forked child, whose parent uses it
            self._process.kill()
            self._process.wait()
        self._resources.close()

    def _send(self, content: bytes) -> None:
        while content:
            content = content[os.write(self._requests, content) :]


def _encode(command: Sequence[str]) -> bytes:
    """Return the program and its arguments, separated by null bytes.

    Raises:
        InvalidInputError: If they are not a program and its arguments.
    """
    if isinstance(command, str | bytes) or not command:
        raise InvalidInputError(f"command={command!r} is not a list of a program and its arguments")
    if os.name != "posix":
        raise InvalidInputError(f"cannot measure {command[0]!r}: measuring commands requires a POSIX system")
    for part in command:
        if not isinstance(part, str):
            raise InvalidInputError(f"cannot run {command[0]!r}: {part!r} is not a string")
        if "\0" in part:
            raise InvalidInputError(f"cannot run {command[0]!r}: {part!r} has an embedded null byte")
    try:
        return b"\0".join(map(os.fsencode, command))
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"cannot run {command[0]!r}: {error}") from error


def _open_pipe() -> tuple[int, int]:
    """Return both ends of a pipe, with numbers that no standard stream of a child process has."""
    import fcntl  # not on Windows

    ends = os.pipe()
    if min(ends) > 2:
        return ends
    with ExitStack() as low:  # this process has closed its standard streams
        for end in ends:
            low.callback(os.close, end)
        reader = fcntl.fcntl(ends[0], fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            return reader, fcntl.fcntl(ends[1], fcntl.F_DUPFD_CLOEXEC, 3)
        except OSError:
            os.close(reader)
            raise


def _inherited() -> tuple[int, tuple[int, int], dict[bytes, bytes]]:
    folder = os.stat(".")  # noqa: PTH116 - a folder that was deleted has no path
    return os.getpid(), (folder.st_dev, folder.st_ino), dict(os.environb)


def _close_all(launchers: list[_Launcher]) -> None:
    while launchers:
        launchers.pop().close()


@contextmanager
def _discarding_pipe() -> Iterator[int]:
    """Yield the end of a pipe that is written to. A thread reads the other end and discards everything."""
    with ExitStack() as resources:
        nowhere = resources.enter_context(Path(os.devnull).open("wb", buffering=0))
        reader, writer = os.pipe()
        resources.callback(os.close, reader)
        resources.callback(os.close, writer)
        if sys.platform == "linux":
            import fcntl  # not on Windows

            with suppress(OSError):  # the user has too many pipes
                fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        stopped = Event()
        # A thread of its own, because the loop of a selector takes longer than a command that fills the pipe.
        thread = threading.Thread(
            target=_discard,
            args=(reader, nowhere.fileno(), stopped),
            name="metrics-framework-output",
            daemon=True,
        )
        thread.start()
        try:
            yield writer
        finally:
            stopped.set()
            # A background process may keep the pipe open, so its end cannot wake the thread.
            os.write(writer, b"\n")
            thread.join()


def _discard(reader: int, nowhere: int, stopped: Event) -> None:
    if sys.platform == "linux":
        with suppress(OSError):  # not implemented by this kernel
            while not stopped.is_set():
                os.splice(reader, nowhere, _PIPE_BYTES)  # without copying
    while not stopped.is_set():
        os.read(reader, _CHUNK_BYTES)


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
        self,
        launcher: int,
        report: int,
        errors: int,
        timeout: float | None = None,
        cancelled: Event | None = None,
    ) -> None:
        self._launcher = launcher
        self._timeout = None if timeout is None else check_seconds("timeout", timeout)
        self._deadline = inf if timeout is None else monotonic() + timeout
        self._cancelled = cancelled
        self.is_last = True
        self._ended: list[int] | None = None
        self._failed: int | None = None
        self._report = report
        self._errors = errors
        self._lines = b""
        self._error_output = b""
        self._peak_rss = 0
        self._next_sample = monotonic() + SAMPLE_SECONDS

    def until_ended(self, start: Callable[[], None]) -> None:
        """Call ``start``, which starts the command, and watch the command until it ends."""
        poll = select.poll()  # a selector takes ten times as long, while the command starts
        poll.register(self._report, select.POLLIN)
        poll.register(self._errors, select.POLLIN)
        start()
        while not self.has_ended:
            self._check()
            for descriptor, _ in poll.poll(self._wait_seconds() * 1e3):
                chunk = os.read(descriptor, _CHUNK_BYTES)
                if descriptor == self._errors:
                    self._error_output = (self._error_output + chunk)[-_ERROR_OUTPUT_BYTES:]
                else:
                    self._read_report(chunk)
                if not chunk:
                    poll.unregister(descriptor)
                    if descriptor == self._report:  # the launcher was killed
                        return
            if monotonic() >= self._next_sample:
                self._sample()

    @property
    def has_ended(self) -> bool:
        """Whether the launcher has reported the end of the command, or that it did not start."""
        return self._ended is not None or self._failed is not None

    def _check(self) -> None:
        if self._cancelled is not None and self._cancelled.is_set():
            raise InterruptedError("cancelled")
        if monotonic() >= self._deadline:
            raise TimeoutError(f"did not end within {self._timeout:g} s")

    def _wait_seconds(self) -> float:
        """Return how long to wait for output of the command."""
        until = min(self._next_sample, self._deadline)
        if self._cancelled is not None:
            until = min(until, monotonic() + SAMPLE_SECONDS)
        return max(0.0, until - monotonic())

    def result(self, command: Sequence[str]) -> CommandRun:
        if self._failed is not None:
            raise InvalidInputError(f"cannot run {command[0]!r}: {os.strerror(self._failed)}")
        if self._ended is None:
            raise InvalidInputError(f"the result of {command[0]!r} is unknown: its launcher was killed")
        status, wall_ns, cpu_us, maxrss, floor = self._ended
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
            *figures, is_last = map(int, numbers)
            self.is_last = bool(is_last)
            if word == "ended":
                self._ended = figures
            else:
                self._failed = figures[0]

    def _sample(self) -> None:
        begin = monotonic()
        self._peak_rss = max(self._peak_rss, _descendants_rss(self._launcher))
        end = monotonic()
        self._next_sample = end + max(SAMPLE_SECONDS, (end - begin) / _MAX_SAMPLING_SHARE)


def _descendants_rss(launcher: int) -> int:
    """Return the resident memory in bytes of all descendants of a launcher."""
    if sys.platform != "linux":
        total = 0
        with suppress(psutil.Error):
            for process in psutil.Process(launcher).children(recursive=True):
                with suppress(psutil.Error):
                    total += process.memory_info().rss
        return total
    # Until a child executes its program, it shares the launcher's memory, and has the same figures.
    of_launcher = _read_process_file(launcher, "statm")
    figures = [_read_process_file(pid, "statm") for pid in _descendants(launcher)]
    return sum(int(figure.split()[1]) * _PAGE_BYTES for figure in figures if figure not in (b"", of_launcher))


def _descendants(pid: int) -> list[int]:
    """Return the processes on Linux that a process and its descendants have started and that still run."""
    if not _HAS_CHILDREN_FILES:
        with suppress(psutil.Error):
            return [process.pid for process in psutil.Process(pid).children(recursive=True)]
        return []
    found = [pid]
    for parent in found:  # grows in the loop
        with suppress(OSError):  # it has ended
            for thread in os.scandir(f"/proc/{parent}/task"):
                found += map(int, _read_process_file(parent, f"task/{thread.name}/children").split())
    return found[1:]


def _read_process_file(pid: int, name: str) -> bytes:
    """Return a file that describes a process on Linux; empty if the process has ended."""
    try:
        descriptor = os.open(f"/proc/{pid}/{name}", os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _CHUNK_BYTES)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
