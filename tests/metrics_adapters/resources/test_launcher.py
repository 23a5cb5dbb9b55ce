"""The launcher reports the usage of a command, and passes on its streams and signals."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import pytest

from metrics_adapters.resources import command as command_module

LAUNCHER = Path(command_module.__file__).with_name("launcher.py")


@dataclass
class Ended:
    """The numbers of the last line."""

    status: int
    wall_ns: int
    cpu_us: int
    maxrss: int
    floor: int


class Launch:
    """A running launcher and its report."""

    def __init__(self, *command: str, **options: object) -> None:
        report, self.descriptor = os.pipe()
        self.report = os.fdopen(report)
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(self.descriptor), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[self.descriptor],
            **options,  # type: ignore[call-overload]
        )
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self.report.close()

    def started(self) -> int:
        """Return the process id from the first line."""
        word, pid = self.report.readline().split()
        assert word == "started"
        return int(pid)

    def ended(self) -> Ended:
        """Return the numbers of the last line, and check that nothing follows."""
        word, *numbers = self.report.readline().split()
        assert word == "ended"
        assert self.report.read() == ""
        return Ended(*map(int, numbers))


def ended(*command: str) -> Ended:
    """Run a command to its end."""
    with Launch(*command) as launch:
        launch.started()
        return launch.ended()


def test_it_reports_the_process_while_it_runs() -> None:
    """The first line has the process id of the command, a child of the launcher, before its end."""
    with Launch("cat") as launch:
        process = psutil.Process(launch.started())
        assert process.name() == "cat"
        assert process.ppid() == launch.process.pid
        launch.process.communicate(timeout=20)  # closes the input of `cat`
        assert launch.ended().status == 0
        assert launch.process.returncode == 0


@pytest.mark.parametrize(
    ("script", "exit_code"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", -9), ("kill -SEGV $$", -11)]
)
def test_it_reports_how_the_command_ended(script: str, exit_code: int) -> None:
    """The status of the kernel contains the exit code or the signal."""
    assert os.waitstatus_to_exitcode(ended("sh", "-c", script).status) == exit_code


def test_it_reports_time_and_cpu() -> None:
    """Sleeping takes time and no CPU. Computing takes both, also in a child."""
    asleep = ended("sleep", "0.2")
    assert 200_000_000 <= asleep.wall_ns < 5_000_000_000
    assert asleep.cpu_us < 150_000
    busy = "import time\nwhile time.process_time() < 0.2: pass"
    busy_child = ended("sh", "-c", '"$0" -I -S -c "$1"; true', sys.executable, busy)
    assert 200_000 <= busy_child.cpu_us < 1_500_000
    assert busy_child.wall_ns > 190_000_000


def test_the_floor_is_what_a_command_inherits() -> None:
    """A command smaller than the launcher reports the floor, a larger one its own peak."""
    small, large = ended("true"), ended(sys.executable, "-I", "-S", "-c", "b'x' * 60_000_000")
    assert 0 < small.maxrss <= small.floor
    assert large.maxrss - large.floor > 40_000_000 / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process' own peak")
def test_the_launcher_is_small() -> None:
    """Its own memory, the floor of short commands, is under 20 MB."""
    assert 0 < ended("true").floor * 1024 < 20_000_000


@pytest.mark.parametrize(
    ("program", "number"),
    [
        ("no-such-program", errno.ENOENT),
        ("/no/such/program", errno.ENOENT),
        ("", errno.ENOENT),
        ("/", errno.EACCES),
    ],
)
def test_it_reports_why_a_command_cannot_start(program: str, number: int) -> None:
    """The report is one line with the error number, and nothing is printed."""
    with Launch(program) as launch:
        assert launch.report.read() == f"failed {number}\n"
        assert launch.process.communicate(timeout=20) == (b"", b"")


def test_streams_belong_to_the_command() -> None:
    """The launcher does not write to them."""
    with Launch("sh", "-c", "cat; echo errors >&2") as launch:
        assert launch.process.communicate(b"input", timeout=20) == (b"input", b"errors\n")


def test_the_report_is_closed_to_the_command() -> None:
    """The command does not inherit it, so that a background process does not keep it open."""
    code = (
        "import os, sys\n"
        "for descriptor in range(3, 1024):\n"
        "    try: os.fstat(descriptor)\n"
        "    except OSError: continue\n"
        "    print(descriptor)\n"
    )
    with Launch(sys.executable, "-I", "-S", "-c", code) as launch:
        assert launch.process.communicate(timeout=20) == (b"", b"")


def test_the_report_does_not_wait_for_background_processes() -> None:
    """The last line is written at the end of the command."""
    start = time.monotonic()
    with Launch("sh", "-c", "sleep 30 >/dev/null 2>&1 & echo $!") as launch:
        launch.started()
        assert launch.ended().status == 0
        assert time.monotonic() - start < 15
        os.kill(int(launch.process.communicate(timeout=20)[0]), signal.SIGKILL)


def test_an_interrupt_is_for_the_command() -> None:
    """The launcher survives Ctrl-C, and reports the end of the command."""
    with Launch("sh", "-c", "trap 'exit 6' INT; echo ready; read line", start_new_session=True) as launch:
        launch.started()
        assert launch.process.stdout is not None
        assert launch.process.stdout.readline() == b"ready\n"
        os.kill(launch.process.pid, signal.SIGINT)
        os.killpg(launch.process.pid, signal.SIGINT)
        assert os.waitstatus_to_exitcode(launch.ended().status) == 6
        assert launch.process.wait(20) == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGPIPE", "SIGXFSZ"])
def test_ignored_signals_get_their_default_action_back(name: str) -> None:
    """Signals that this process or Python ignores end the command."""
    number = signal.Signals[name]
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Launch("sh", "-c", f"kill -{name[3:]} $$; exit 9", restore_signals=False) as launch:
            launch.started()
            assert os.waitstatus_to_exitcode(launch.ended().status) == -number
    finally:
        signal.signal(number, before)
