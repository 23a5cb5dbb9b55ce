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
    """The numbers of the report."""

    status: int
    wall_ns: int
    cpu_us: int
    maxrss: int
    floor: int
    is_last: int


class Launch:
    """A running launcher, its report, and one request."""

    def __init__(self, *command: str, **options: object) -> None:
        report, report_end = os.pipe()
        requests_end, self.requests = os.pipe()
        self.report = os.fdopen(report)
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(requests_end), str(report_end)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[requests_end, report_end],
            **options,  # type: ignore[call-overload]
        )
        os.close(requests_end)
        os.close(report_end)
        self.send(*command)

    def send(self, *command: str) -> None:
        """Send a request, in two parts."""
        content = b"\0".join(map(os.fsencode, command))
        os.write(self.requests, b"%d\n" % len(content) + content[:3])
        os.write(self.requests, content[3:])

    def finish(self) -> None:
        """End the requests."""
        if self.requests >= 0:
            os.close(self.requests)
            self.requests = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()
        self.process.kill()
        self.process.communicate()
        self.report.close()

    def ended(self) -> Ended:
        """Return the numbers of the next line."""
        word, *numbers = self.report.readline().split()
        assert word == "ended"
        return Ended(*map(int, numbers))


def ended(*command: str) -> Ended:
    """Run a command to its end."""
    with Launch(*command) as launch:
        return launch.ended()


def test_commands_run_one_after_the_other() -> None:
    """Each request gets one line, until the end of the requests, which ends the launcher."""
    with Launch("sh", "-c", "exit 3") as launch:
        assert os.waitstatus_to_exitcode(launch.ended().status) == 3
        launch.send("sh", "-c", 'printf "%s|" "$1" "$2" "${#3}"', "sh", "", "a b", "x" * 100_000)
        launch.finish()
        assert launch.ended().status == 0
        assert launch.report.read() == ""
        assert launch.process.communicate(timeout=20) == (b"|a b|100000|", b"")
        assert launch.process.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has child subreapers")
def test_it_adopts_orphans() -> None:
    """A background process whose parent has ended is a child of the launcher."""
    with Launch("sh", "-c", "(sleep 30 >/dev/null 2>&1 & echo $!); read line; true") as launch:
        assert launch.process.stdout is not None
        orphan = psutil.Process(int(launch.process.stdout.readline()))
        deadline = time.monotonic() + 20
        while orphan.ppid() != launch.process.pid:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        launch.process.communicate(timeout=20)  # ends the input of the command
        assert launch.ended().status == 0
        orphan.kill()


def test_half_a_request_is_not_run(tmp_path: Path) -> None:
    """If the sender ends in the middle of a request, the launcher ends."""
    with Launch("true") as launch:
        launch.ended()
        os.write(launch.requests, b"100\n" + b"touch\0" + os.fsencode(tmp_path / "made"))
        launch.finish()
        assert launch.process.wait(20) == 0
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("script", "exit_code"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", -9), ("kill -SEGV $$", -11)]
)
def test_it_reports_how_the_command_ended(script: str, exit_code: int) -> None:
    """The status of the kernel contains the exit code or the signal."""
    assert os.waitstatus_to_exitcode(ended("sh", "-c", script).status) == exit_code


@pytest.mark.slow
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
        launch.finish()
        assert launch.report.read() == f"failed {number} 0\n"
        assert launch.process.communicate(timeout=20) == (b"", b"")


def test_streams_belong_to_the_command() -> None:
    """The launcher does not write to them."""
    with Launch("sh", "-c", "cat; echo errors >&2") as launch:
        launch.finish()
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
        launch.finish()
        assert launch.process.communicate(timeout=20) == (b"", b"")


def test_the_report_does_not_wait_for_background_processes() -> None:
    """The line is written at the end of the command, and is the last one: the launcher ends."""
    start = time.monotonic()
    with Launch("sh", "-c", "sleep 30 >/dev/null 2>&1 & echo $!") as launch:
        report = launch.ended()
        assert (report.status, report.is_last) == (0, 1)
        assert launch.report.read() == ""
        assert time.monotonic() - start < 15
        os.kill(int(launch.process.communicate(timeout=20)[0]), signal.SIGKILL)


def test_an_interrupt_is_for_the_command() -> None:
    """The launcher survives Ctrl-C, and reports the end of the command."""
    with Launch("sh", "-c", "trap 'exit 6' INT; echo ready; read line", start_new_session=True) as launch:
        assert launch.process.stdout is not None
        assert launch.process.stdout.readline() == b"ready\n"
        os.kill(launch.process.pid, signal.SIGINT)
        os.killpg(launch.process.pid, signal.SIGINT)
        assert os.waitstatus_to_exitcode(launch.ended().status) == 6
        launch.finish()
        assert launch.process.wait(20) == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGPIPE", "SIGXFSZ"])
def test_ignored_signals_get_their_default_action_back(name: str) -> None:
    """Signals that this process or Python ignores end the command."""
    number = signal.Signals[name]
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Launch("sh", "-c", f"kill -{name[3:]} $$; exit 9", restore_signals=False) as launch:
            assert os.waitstatus_to_exitcode(launch.ended().status) == -number
    finally:
        signal.signal(number, before)
