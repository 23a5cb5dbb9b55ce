"""Real commands are measured: their time, memory, CPU and exit, and nothing is left running."""

from __future__ import annotations

import gc
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Timer

import psutil
import pytest

from metrics_adapters.in_memory import InMemoryCollector
from metrics_adapters.resources import CommandMonitor
from metrics_adapters.resources.command import _GRACE_SECONDS, _descendants, run_command
from metrics_framework.errors import InvalidInputError
from metrics_framework.health import record_resources

MB = 1_000_000
LITTLE = 8 * MB
"""More than ``sleep`` needs on any system, and less than the launcher has."""


def sh(script: str) -> list[str]:
    """Return the command that runs a shell script."""
    return ["sh", "-c", script]


def python(code: str) -> list[str]:
    """Return the command that runs a small Python program."""
    return [sys.executable, "-I", "-S", "-c", code]


def await_text(path: Path, lines: int = 1) -> list[str]:
    """Wait until a file has a number of complete lines, and return them."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        text = path.read_text() if path.exists() else ""
        if text.count("\n") >= lines:
            return text.splitlines()
        time.sleep(0.01)
    raise AssertionError(f"{path} never got {lines} lines")


def is_gone(pid: int) -> bool:
    """Return whether a process ends within a few seconds."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
                continue
        return True
    return False


def is_group_gone(group: int) -> bool:
    """Return whether all processes of a group end within a few seconds."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        alive = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
        if not alive:
            return True
        time.sleep(0.05)
    return False


@contextmanager
def measuring(command: list[str], grace: float = _GRACE_SECONDS) -> Iterator[subprocess.Popen[str]]:
    """Measure a command in a new process and session, which is ended afterwards."""
    code = (
        "import sys\n"
        "from metrics_adapters.resources import command\n"
        f"command._GRACE_SECONDS = {grace}\n"
        "print(command.run_command(sys.argv[1:]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# -- how it ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3, 127, 255])
def test_the_exit_code_is_the_commands_own(code: int) -> None:
    """The exit code is not changed."""
    assert run_command(sh(f"exit {code}")).exit_code == code


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM", "SIGABRT"])
def test_a_signal_that_ends_the_command_is_reported(name: str) -> None:
    """The exit code of a command that a signal ended is minus the signal's number."""
    assert run_command(sh(f"kill -{name[3:]} $$")).exit_code == -signal.Signals[name]


@pytest.mark.parametrize("name", ["SIGINT", "SIGPIPE", "SIGXFSZ"])
def test_signals_that_python_or_the_launcher_ignores_have_their_default_action(name: str) -> None:
    """A command ends by these signals as it would under a shell, although this process ignores them."""
    number = signal.Signals[name]
    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert run_command(sh(f"kill -{name[3:]} $$; exit 9")).exit_code == -number
    finally:
        signal.signal(number, before)


def test_a_pipeline_ends_when_its_reader_does() -> None:
    """A writer inside the command whose reader went away is ended by SIGPIPE instead of running on."""
    run = run_command(sh("{ yes; kill -l $? >&2; } | head -n 1; exit 1"))
    assert run.error_output.strip() == "PIPE"


# -- what cannot be started ----------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["no-such-program", "./no/such/program", "/no/such/program", ""])
def test_a_program_that_does_not_exist_is_an_error(program: str) -> None:
    """The error names the program and the reason."""
    with pytest.raises(InvalidInputError, match="No such file or directory") as caught:
        run_command([program, "argument"])
    assert f"cannot run {program!r}" in str(caught.value)


def test_a_file_that_is_not_executable_is_an_error(tmp_path: Path) -> None:
    """A file without the execute permission, or a folder, is an error with the reason of the system."""
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o644)
    for path in (script, tmp_path):
        with pytest.raises(InvalidInputError, match="Permission denied"):
            run_command([str(path)])
    script.chmod(0o755)
    assert run_command([str(script)]).exit_code == 0


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ([], r"command=\[\] is not a list of a program and its arguments"),
        ("true", "command='true' is not a list of a program and its arguments"),
        (["echo", "a\0b"], r"cannot run 'echo': 'a\\x00b' has an embedded null byte"),
        (["echo", 5], "cannot run 'echo': 5 is not a string"),
        (["echo", "\ud800"], "cannot run 'echo': .* can't encode character"),
        (["echo", "x" * 1_000_000], "cannot run 'echo': Argument list too long"),
    ],
)
def test_an_invalid_command_is_an_error(command: list[str], reason: str) -> None:
    """The error names the program, the wrong part and the reason, and the next command is measured."""
    monitor = CommandMonitor()
    with pytest.raises(InvalidInputError, match=reason):
        monitor.run(command)
    assert monitor.run(["true"]).exit_code == 0


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "1"])
def test_an_invalid_time_limit_is_an_error(timeout: float) -> None:
    """It is not taken as no limit, and does not run the command."""
    with pytest.raises(InvalidInputError, match="is not a positive number of seconds"):
        run_command(["true"], timeout=timeout)


@pytest.mark.heavy
def test_a_process_that_may_open_no_more_files_gets_errors() -> None:
    """With few descriptors left, a command runs or is one error, nothing hangs, and no descriptor is lost."""
    code = """
import os, resource, sys
from metrics_adapters.resources.command import run_command
from metrics_framework.errors import InvalidInputError
run_command(["true"])
before, highest = os.listdir("/dev/fd"), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
for more in range(20):
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + more, highest))
    try:
        run_command(["sh", "-c", "head -c 1000000 /dev/zero"], timeout=20)
        print("ran")
    except InvalidInputError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))
    assert os.listdir("/dev/fd") == before, more
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr == ""
    assert set(done.stdout.splitlines()) == {"ran", "cannot run 'sh': Too many open files"}


@pytest.mark.slow
@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1, 2]])
def test_a_process_without_standard_streams_measures_commands(closed: list[int], tmp_path: Path) -> None:
    """A daemon that has closed its streams gets the result, and the command has all of its own streams."""
    code = (
        "import os, sys\n"
        "from metrics_adapters.resources.command import run_command\n"
        f"for stream in {closed}: os.close(stream)\n"
        "run = run_command(['sh', '-c', 'read line; echo output; echo error >&2; exit 3'])\n"
        "open('result', 'w').write(f'{run.exit_code} {run.error_output}')\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "result").read_text() == "3 error\n"


def test_a_long_command_leaves_no_trace_in_the_next_one() -> None:
    """The memory that a launcher needs to pass a megabyte of arguments is not part of a later peak."""
    monitor = CommandMonitor()
    before = monitor.run(["true"]).peak_rss
    assert monitor.run(["true", *["x" * 100_000] * 15]).exit_code == 0
    assert monitor.run(["true"]).peak_rss < before + MB


@pytest.mark.slow
def test_a_command_that_kills_its_launcher_is_an_error() -> None:
    """Without a report the result is unknown, and nothing hangs."""
    with pytest.raises(InvalidInputError, match="its launcher was killed"):
        run_command(sh("kill -KILL $PPID"))


# -- what it is given and what it writes ---------------------------------------------------------------


def test_arguments_reach_the_command_unchanged() -> None:
    """Spaces, wildcards, empty arguments, options and non-ASCII letters are not changed."""
    arguments = ["a b", "", "*", "-n", "--", "$HOME", "größe ✓", '"', "\n"]
    run = run_command([*sh('printf "%s|" "$@" >&2; exit 1'), "sh", *arguments])
    assert run.error_output == "".join(f"{argument}|" for argument in arguments)


def test_the_command_inherits_folder_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Working directory and environment are those of the caller."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEASURED_VALUE", "größe")
    assert run_command(sh('pwd -P >&2; echo "$MEASURED_VALUE" >&2')).error_output.splitlines() == [
        str(tmp_path.resolve()),
        "größe",
    ]


@pytest.mark.slow
def test_environment_variables_of_python_affect_the_command_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They reach a command in Python, and not the launcher."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys; os.write(2, f'{sys.argv[1:]}'.encode()); x = b'x' * 50_000_000\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    small = run_command(["sleep", "0.2"])
    assert small.error_output == ""
    assert small.peak_rss < LITTLE
    monkeypatch.delenv("PYTHONVERBOSE")
    assert run_command([sys.executable, "-c", "", "argument"]).error_output == "['argument']"


def test_standard_input_is_empty() -> None:
    """A command that reads its standard input gets the end of file."""
    assert run_command(sh('read line || echo "end of input" >&2')).error_output == "end of input\n"


TELL_OUTPUT = "import os, stat, sys; m = os.fstat(1).st_mode; sys.stderr.write(oct(stat.S_IFMT(m)))"


@pytest.mark.parametrize(
    ("stdout", "kind"), [(subprocess.PIPE, stat.S_IFIFO), (subprocess.DEVNULL, stat.S_IFCHR)]
)
def test_output_goes_through_a_pipe_unless_another_target_is_given(stdout: int, kind: int) -> None:
    """The default is a pipe, because some programs do less work if their output is the null device."""
    assert run_command(python(TELL_OUTPUT), stdout=stdout).error_output == oct(kind)
    assert run_command(python(TELL_OUTPUT)).error_output == oct(stat.S_IFIFO)


def test_a_large_output_is_read_to_its_end() -> None:
    """A command that writes more than a pipe holds is not blocked, and gets no SIGPIPE."""
    run = run_command(sh("head -c 30000000 /dev/zero && echo written >&2"), timeout=30)
    assert (run.exit_code, run.error_output) == (0, "written\n")


def test_output_can_be_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is written to a file, or to the standard output of this process."""
    with (tmp_path / "output").open("wb") as file:
        run_command(["echo", "kept"], stdout=file)
    assert (tmp_path / "output").read_text() == "kept\n"
    run_command(["echo", "shown"], stdout=None)
    assert capfd.readouterr() == ("shown\n", "")


def test_output_is_not_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    """By default standard output is discarded, and standard error is captured."""
    run = run_command(sh("echo to output; echo to errors >&2"))
    assert run.error_output == "to errors\n"
    assert capfd.readouterr() == ("", "")


def test_only_the_end_of_a_long_error_output_is_kept() -> None:
    """The last 8 KiB of standard error are reported."""
    run = run_command(sh("seq 1 300000 >&2; exit 1"))
    written = "".join(f"{number}\n" for number in range(1, 300_001))
    assert run.error_output == written[-8192:]


def test_binary_error_output_is_reported() -> None:
    """Bytes that are not UTF-8 become replacement characters."""
    assert run_command(sh(r"printf 'caf\351\n' >&2")).error_output == "caf\N{REPLACEMENT CHARACTER}\n"


def test_a_command_that_closes_its_streams_is_measured_to_its_end() -> None:
    """Closed output streams do not end the measurement before the command ends."""
    run = run_command(sh("exec >&- 2>&-; sleep 0.2; exit 4"))
    assert (run.exit_code, run.error_output) == (4, "")
    assert run.seconds >= 0.2


# -- time ----------------------------------------------------------------------------------------------


def test_time_is_from_start_to_end() -> None:
    """A command that sleeps takes time and almost no CPU."""
    run = run_command(["sleep", "0.2"])
    assert 0.2 <= run.seconds < 5
    assert run.cpu_seconds < 0.15


def test_a_background_process_does_not_delay_the_result(tmp_path: Path) -> None:
    """It is neither awaited nor ended, even if it keeps the streams open."""
    run = run_command(sh(f"sleep 30 & echo $! > {tmp_path}/pid; echo started >&2; exit 5"))
    left = psutil.Process(int((tmp_path / "pid").read_text()))
    try:
        assert left.status() in (psutil.STATUS_SLEEPING, psutil.STATUS_RUNNING)  # it may just have started
    finally:
        left.kill()
    assert (run.exit_code, run.error_output) == (5, "started\n")
    assert run.seconds < 10


# -- memory --------------------------------------------------------------------------------------------


def test_a_small_command_has_a_small_peak() -> None:
    """Its peak is a few megabytes, not the memory of the measuring process."""
    assert psutil.Process().memory_info().rss > 2 * LITTLE
    assert 0 < run_command(["sleep", "0.2"]).peak_rss < LITTLE


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    ["x = b'x' * 100_000_000", "import time; x = b'x' * 100_000_000; time.sleep(0.2)"],
    ids=["brief", "lasting"],
)
def test_memory_is_what_the_command_allocates(code: str) -> None:
    """A command that fills 100 MB has a peak of about 100 MB, even if it is short."""
    assert 100 * MB < run_command(python(code)).peak_rss < 140 * MB


@pytest.mark.slow
def test_an_early_peak_is_reported() -> None:
    """Memory counts that was released long before the end."""
    code = "import time; x = b'x' * 80_000_000; del x; time.sleep(0.2)"
    assert 80 * MB < run_command(python(code)).peak_rss < 120 * MB


@pytest.mark.slow
def test_memory_of_a_grandchild_counts() -> None:
    """A large grandchild of the command is sampled."""
    inner = "import time; x = b'x' * 80_000_000; time.sleep(0.3)"
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', {inner!r}])"
    assert run_command(python(middle)).peak_rss > 80 * MB


ORPHAN = sh('(sh -c "$0" & echo $! > pid); until test -e ready; do sleep 0.05; done; sleep 0.5')
"""A command whose child starts a background process with the script that follows, and ends at once.

The command ends half a second after the process has created the file ``ready``.
"""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has child subreapers")


@pytest.mark.slow
@on_linux
def test_memory_of_an_orphan_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A background process whose parent has ended is sampled; it is not the launcher's own memory."""
    monkeypatch.chdir(tmp_path)
    code = "import time; x = b'x' * 80_000_000; open('ready', 'w').close(); time.sleep(60)"
    run = run_command([*ORPHAN, f"exec {shlex.join(python(code))}"])
    os.kill(int(Path("pid").read_text()), signal.SIGKILL)
    assert 80 * MB < run.peak_rss < 140 * MB


@pytest.mark.slow
@on_linux
def test_cpu_of_an_orphan_that_ended_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU time of a background process that ended before the command is added to the command's."""
    monkeypatch.chdir(tmp_path)
    busy = "import time\nwhile time.process_time() < 0.2: pass"
    run = run_command([*sh('(sh -c "$0" & true); until test -e done; do sleep 0.05; done; sleep 0.1'),
                       f"{shlex.join(python(busy))}; touch done"])  # fmt: skip
    assert 0.2 <= run.cpu_seconds < 1.5


@pytest.mark.slow
@on_linux
def test_a_time_out_ends_orphans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends background processes whose parents have ended, too."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TimeoutError):
        run_command([*sh('(sh -c "$0" & echo $! > pid); sleep 60'), "exec sleep 60"], timeout=0.3)
    assert is_gone(int(Path("pid").read_text()))


def test_processes_are_found_without_the_files_of_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without ``/proc/PID/task/TID/children`` gives the same processes, more slowly."""
    with subprocess.Popen(sh("sleep 60 & sleep 60")) as shell:
        time.sleep(0.2)
        try:
            found = _descendants(os.getpid())
            assert len(found) >= 3
            monkeypatch.setattr("metrics_adapters.resources.command._HAS_CHILDREN_FILES", False)
            assert sorted(_descendants(os.getpid())) == sorted(found)
        finally:
            for pid in found:
                os.kill(pid, signal.SIGKILL)
            shell.wait()


# -- one launcher for many commands --------------------------------------------------------------------


def launcher_of(monitor: CommandMonitor) -> int:
    """Return the process that starts the commands of a monitor."""
    return int(monitor.run(sh("echo $PPID >&2")).error_output)


@pytest.mark.slow
@on_linux
def test_one_launcher_runs_many_commands() -> None:
    """Outcome, errors, memory and CPU time of a command are its own, whatever ran before."""
    monitor = CommandMonitor()
    launcher = launcher_of(monitor)
    quick = monitor.run(["true"]).peak_rss
    large = monitor.run(python("x = b'x' * 100_000_000; import time; time.sleep(0.2)"))
    assert large.peak_rss > 100 * MB
    failed = monitor.run(sh("echo oops >&2; exit 3"))
    assert (failed.exit_code, failed.error_output) == (3, "oops\n")
    with pytest.raises(InvalidInputError, match="cannot run 'no-such-program': No such file"):
        monitor.run(["no-such-program"])
    after = monitor.run(["true"])
    assert (after.exit_code, after.error_output) == (0, "")
    assert after.peak_rss == pytest.approx(quick, rel=0.1)
    assert after.cpu_seconds < 0.1
    arguments = ["", "a b", "größe", "\n", os.fsdecode(b"\xff"), "x" * 100_000]
    echoed = monitor.run([*sh('printf "%s|" "$@" | head -c 16 >&2; test $# = 6'), "sh", *arguments])
    assert (echoed.exit_code, echoed.error_output) == (0, "|a b|größe|\n|\N{REPLACEMENT CHARACTER}")
    assert launcher_of(monitor) == launcher


@on_linux
def test_a_renewed_monitor_has_the_launcher_and_no_measurements() -> None:
    """The memory and the CPU time of earlier commands are not in it, and it starts no other process."""
    monitor = CommandMonitor()
    launcher = launcher_of(monitor)
    monitor.run(python("x = b'x' * 60_000_000"))
    renewed = monitor.renewed()
    assert renewed.get_memory_usage()["process_peak_rss"] == 0
    assert renewed.get_cpu_usage()["process_average_percent"] == 0
    assert launcher_of(renewed) == launcher
    assert 0 < renewed.get_memory_usage()["process_peak_rss"] < 60 * MB
    assert launcher_of(monitor) != launcher  # the old one starts another, so both can be used


@pytest.mark.slow
@on_linux
def test_a_launcher_with_background_processes_is_replaced(tmp_path: Path) -> None:
    """What a command leaves running keeps running, and counts for no other command."""
    monitor = CommandMonitor()
    launcher = launcher_of(monitor)
    code = "import time; x = b'x' * 80_000_000; open('ready', 'w').close(); time.sleep(60)"
    left = (
        f"cd {tmp_path}; {shlex.join(python(code))} & echo $! > pid; until test -e ready; do sleep 0.05; done"
    )
    monitor.run(sh(left))
    pid = int((tmp_path / "pid").read_text())
    try:
        assert monitor.run(["sleep", "0.2"]).peak_rss < LITTLE
        assert launcher_of(monitor) != launcher
        assert is_gone(launcher)
        assert psutil.Process(pid).is_running()
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_command_inherits_the_current_folder_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if they change between two runs of one monitor."""
    monitor = CommandMonitor()
    monitor.run(["true"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEASURED_VALUE", "new")
    found = monitor.run(sh('pwd -P >&2; echo "$MEASURED_VALUE" >&2')).error_output
    assert found.splitlines() == [str(tmp_path.resolve()), "new"]


@pytest.mark.slow
@on_linux
def test_launchers_end_when_they_are_not_needed() -> None:
    """A launcher that was killed is replaced. A time-out and the end of a monitor end theirs."""
    monitor = CommandMonitor()
    killed = launcher_of(monitor)
    os.kill(killed, signal.SIGKILL)
    assert is_gone(killed)
    timed_out = launcher_of(monitor)
    assert timed_out != killed
    with pytest.raises(TimeoutError):
        monitor.run(["sleep", "60"], timeout=0.1)
    assert is_gone(timed_out)
    launcher = launcher_of(monitor)
    child = os.fork()
    if child == 0:  # a child uses its own, and leaves that of its parent alone
        own = launcher_of(monitor)
        del monitor
        os._exit(own == launcher)
    assert os.waitpid(child, 0)[1] == 0
    assert launcher_of(monitor) == launcher
    del monitor
    assert is_gone(launcher)


@pytest.mark.heavy
def test_memory_of_concurrent_processes_adds_up() -> None:
    """The peak of two concurrent descendants of 60 MB is their sum."""
    child = "import time; x = b'x' * 60_000_000; time.sleep(1)"
    parent = (
        "import subprocess, sys\n"
        f"children = [subprocess.Popen([sys.executable, '-I', '-S', '-c', {child!r}]) for _ in range(2)]\n"
        "for child in children: child.wait()\n"
    )
    command = [*sh('"$@"; true'), "sh", *python(parent)]
    assert 120 * MB < run_command(command).peak_rss < 190 * MB


@pytest.mark.heavy
def test_memory_of_consecutive_processes_does_not_add_up() -> None:
    """The peak of two consecutive children of 60 MB is that of one."""
    child = "import time; x = b'x' * 60_000_000; time.sleep(0.3)"
    parent = (
        "import subprocess, sys\n"
        f"for _ in range(2): subprocess.run([sys.executable, '-I', '-S', '-c', {child!r}])\n"
    )
    assert 60 * MB < run_command(python(parent)).peak_rss < 115 * MB


@pytest.mark.heavy
def test_a_large_parent_does_not_make_the_command_large() -> None:
    """Measured by a process of 300 MB, small commands have a peak of at most the launcher's."""
    code = (
        "from metrics_adapters.resources.command import run_command\n"
        "ballast = b'x' * 300_000_000\n"
        "print(run_command(['/bin/true']).peak_rss, run_command(['sleep', '0.2']).peak_rss)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    brief, lasting = map(int, done.stdout.split())
    assert 0 < brief < 20 * MB
    assert 0 < lasting < LITTLE


# -- CPU -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cpu_of_a_grandchild_counts() -> None:
    """The CPU time of a grandchild belongs to the command."""
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', {busy!r}])"
    run = run_command(python(middle))
    assert 0.3 <= run.cpu_seconds < 1.5


# -- the monitor ---------------------------------------------------------------------------------------


def test_a_new_monitor_has_no_run() -> None:
    """Before the first run, readings of the process are zero, and the machine has readings."""
    monitor = CommandMonitor()
    memory, cpu = monitor.get_memory_usage(), monitor.get_cpu_usage()
    assert (memory["process_rss"], memory["process_peak_rss"]) == (0, 0)
    assert (cpu["process_percent"], cpu["process_average_percent"]) == (0.0, 0.0)
    assert memory["total"] > 0
    assert cpu["count"] >= 1


@pytest.mark.slow
def test_the_monitor_has_the_last_run_and_all_runs() -> None:
    """Memory and CPU are those of the last run. Peak and average cover all runs."""
    monitor = CommandMonitor()
    code = "import time; x = b'x' * 50_000_000\nwhile time.process_time() < 0.2: pass"
    busy, idle = monitor.run(python(code)), monitor.run(["sleep", "0.2"])
    memory, cpu = monitor.get_memory_usage(), monitor.get_cpu_usage()
    assert (memory["process_rss"], memory["process_peak_rss"]) == (idle.peak_rss, busy.peak_rss)
    assert busy.peak_rss > 50 * MB > idle.peak_rss
    assert cpu["process_percent"] == pytest.approx(100 * idle.cpu_seconds / idle.seconds)
    assert cpu["process_average_percent"] == pytest.approx(
        100 * (busy.cpu_seconds + idle.cpu_seconds) / (busy.seconds + idle.seconds)
    )
    assert cpu["process_percent"] < cpu["process_average_percent"]


def test_the_command_has_no_process_usage() -> None:
    """Threads, open files and uptime of the measuring process are not recorded."""
    monitor, collector = CommandMonitor(), InMemoryCollector()
    monitor.run(["true"])
    assert monitor.get_process_usage() == {}
    record_resources(monitor, collector)
    recorded = {reading.name for reading in collector.store.readings()}
    assert {"process.memory.usage", "process.cpu.utilization", "system.memory.limit"} <= recorded
    assert not {name for name in recorded if name.endswith((".uptime", ".thread.count", "descriptor.count"))}


# -- cancellation and time-outs ------------------------------------------------------------------------


@pytest.mark.heavy
def test_a_time_out_ends_the_command_and_its_descendants(tmp_path: Path) -> None:
    """The error states the time limit."""
    with pytest.raises(TimeoutError, match=r"did not end within 0\.2 s"):
        run_command(sh(f"sleep 60 & echo $! > {tmp_path}/pid; wait"), timeout=0.2)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_time_out_does_not_affect_a_fast_command() -> None:
    """A command that ends in time is measured as usual."""
    assert run_command(["true"], timeout=60, cancelled=Event()).exit_code == 0


@pytest.mark.heavy
def test_another_thread_may_cancel_a_command(tmp_path: Path) -> None:
    """It ends soon, also if it was cancelled before its start."""
    cancelled = Event()
    timer = Timer(0.3, cancelled.set)
    timer.start()
    with pytest.raises(InterruptedError):
        run_command(sh(f"echo $$ > {tmp_path}/pid; exec sleep 60"), cancelled=cancelled)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    with pytest.raises(InterruptedError):
        run_command(["sleep", "60"], cancelled=cancelled)
    timer.join()


@pytest.mark.slow
def test_a_monitor_runs_commands_concurrently() -> None:
    """Averages and peaks cover all of them."""
    monitor = CommandMonitor()
    with ThreadPoolExecutor(4) as threads:
        runs = list(threads.map(lambda _: monitor.run(["sleep", "0.05"]), range(8)))
    assert monitor.get_memory_usage()["process_peak_rss"] == max(run.peak_rss for run in runs)
    assert monitor.get_cpu_usage()["process_average_percent"] == pytest.approx(
        100 * sum(run.cpu_seconds for run in runs) / sum(run.seconds for run in runs)
    )


# -- what it leaves behind -----------------------------------------------------------------------------


@pytest.mark.slow
def test_concurrent_runs_have_separate_results() -> None:
    """Each has its own exit code and error output."""
    with ThreadPoolExecutor(4) as threads:
        runs = list(
            threads.map(lambda code: run_command(sh(f"sleep 0.1; echo {code} >&2; exit {code}")), range(8))
        )
    assert [(run.exit_code, run.error_output) for run in runs] == [(code, f"{code}\n") for code in range(8)]


@pytest.mark.heavy
def test_many_runs_leak_neither_descriptors_nor_processes() -> None:
    """After 50 runs, and 10 failed starts, no descriptor and no child is left."""
    this = psutil.Process()
    run_command(["true"])
    gc.collect()  # closes what earlier tests left open
    before = this.num_fds()
    children = {child.pid for child in this.children(recursive=True)}
    for _ in range(50):
        run_command(["true"])
    for _ in range(10):
        with pytest.raises(InvalidInputError):
            run_command(["no-such-program"])
        with pytest.raises(InvalidInputError):
            run_command(["echo", "a\0b"])
    assert this.num_fds() <= before
    assert {child.pid for child in this.children(recursive=True)} == children


# -- interruption --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_interrupt_ends_the_command_and_the_process(tmp_path: Path) -> None:
    """Ctrl-C of the measuring process ends the command at once, then the process."""
    with measuring(sh(f"echo $$ > {tmp_path}/pid; exec sleep 600"), grace=300) as process:
        pid = int(await_text(tmp_path / "pid")[0])
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)  # it does not wait for the grace period
        assert (output, errors.splitlines()[-1]) == ("", "KeyboardInterrupt")
        assert is_gone(pid)


@pytest.mark.heavy
def test_an_interrupt_ends_the_descendants(tmp_path: Path) -> None:
    """Ctrl-C of the measuring process terminates the command and its children."""
    (tmp_path / "script").write_text(
        "trap 'echo > cleaned-up; exit' TERM\necho $$ >> pids\nsleep 60 & echo $! >> pids\nwait\n"
    )
    with measuring(sh(f"cd {tmp_path} && . ./script")) as process:
        pids = await_text(tmp_path / "pids", lines=2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert all(is_gone(int(pid)) for pid in pids)
    assert (tmp_path / "cleaned-up").exists()


@pytest.mark.heavy
@pytest.mark.parametrize(("presses", "pause"), [(1, 0.0), (2, 0.001), (2, 0.003), (2, 0.01), (2, 0.5)])
def test_a_command_that_ignores_signals_is_killed(tmp_path: Path, presses: int, pause: float) -> None:
    """It is killed after a grace period, and at once by a second Ctrl-C."""
    script = f"trap '' INT TERM; echo $$ >> {tmp_path}/pids; sleep 60 & echo $! >> {tmp_path}/pids; wait"
    with measuring(sh(script)) as process:
        pids = await_text(tmp_path / "pids", lines=2)
        for _ in range(presses):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(pause)
        process.communicate(timeout=20)
        assert all(is_gone(int(pid)) for pid in pids)


@pytest.mark.heavy
@pytest.mark.parametrize("deaf_to", ["INT", "INT TERM"])
def test_a_command_that_keeps_starting_processes_is_ended(tmp_path: Path, deaf_to: str) -> None:
    """A shell that continues after Ctrl-C leaves no process running."""
    loop = "for n in $(seq 400); do sleep 60 & sleep 0.001; done; sleep 60; sleep 60"
    with measuring(sh(f"trap : {deaf_to}; echo >> {tmp_path}/runs; {loop}")) as process:
        await_text(tmp_path / "runs")
        for _ in range(3):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.05)
        process.communicate(timeout=20)
        assert is_group_gone(process.pid)


@pytest.mark.heavy
def test_an_interrupt_at_any_moment_leaves_nothing_running(tmp_path: Path) -> None:
    """Ctrl-C at any time of a short run leaves no process of its group."""
    for step in range(12):
        (tmp_path / "runs").unlink(missing_ok=True)
        code = (
            "import sys\n"
            "from metrics_adapters.resources.command import run_command\n"
            "while True: run_command(sys.argv[1:])\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, *sh(f"echo >> {tmp_path}/runs; sleep 0.01")],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        await_text(tmp_path / "runs")
        time.sleep(0.005 * step)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=20) == -signal.SIGINT
        if not is_group_gone(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"something survived an interrupt {0.005 * step:.3f} s into the first run")
