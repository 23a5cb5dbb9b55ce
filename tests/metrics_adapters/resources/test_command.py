"""Real commands are measured: their time, memory, CPU and exit, and nothing is left running."""

from __future__ import annotations

import os
import signal
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
from metrics_adapters.resources.command import run_command
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
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
                continue
        return True
    return False


def is_group_gone(group: int) -> bool:
    """Return whether all processes of a group end within a few seconds."""
    deadline = time.monotonic() + 10
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
def measuring(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Measure a command in a new process and session, which is ended afterwards."""
    code = (
        "import sys\n"
        "from metrics_adapters.resources.command import run_command\n"
        "print(run_command(sys.argv[1:]))\n"
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


def test_an_invalid_command_is_an_error() -> None:
    """An argument with a NUL, and an empty command, are refused."""
    with pytest.raises(InvalidInputError, match="null"):
        run_command(["echo", "a\0b"])
    with pytest.raises(InvalidInputError, match="command= is empty"):
        run_command([])


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


def test_output_is_not_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output is discarded, and standard error is captured."""
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


@pytest.mark.parametrize(
    "code",
    ["x = b'x' * 100_000_000", "import time; x = b'x' * 100_000_000; time.sleep(0.2)"],
    ids=["brief", "lasting"],
)
def test_memory_is_what_the_command_allocates(code: str) -> None:
    """A command that fills 100 MB has a peak of about 100 MB, even if it is short."""
    assert 100 * MB < run_command(python(code)).peak_rss < 140 * MB


def test_an_early_peak_is_reported() -> None:
    """Memory counts that was released long before the end."""
    code = "import time; x = b'x' * 80_000_000; del x; time.sleep(0.2)"
    assert 80 * MB < run_command(python(code)).peak_rss < 120 * MB


def test_memory_of_a_grandchild_counts() -> None:
    """A large grandchild of the command is sampled."""
    inner = "import time; x = b'x' * 80_000_000; time.sleep(0.3)"
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', {inner!r}])"
    assert run_command(python(middle)).peak_rss > 80 * MB


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
    before = this.num_fds()
    children = {child.pid for child in this.children(recursive=True)}
    for _ in range(50):
        run_command(["true"])
    for _ in range(10):
        with pytest.raises(InvalidInputError):
            run_command(["no-such-program"])
        with pytest.raises(InvalidInputError):
            run_command(["echo", "a\0b"])
    assert this.num_fds() == before
    assert {child.pid for child in this.children(recursive=True)} == children


# -- interruption --------------------------------------------------------------------------------------


def test_an_interrupt_ends_the_command_and_the_process(tmp_path: Path) -> None:
    """Ctrl-C of the measuring process ends the command at once, then the process."""
    with measuring(sh(f"echo $$ > {tmp_path}/pid; exec sleep 60")) as process:
        pid = int(await_text(tmp_path / "pid")[0])
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
        assert time.monotonic() - start < 2  # what a command that does not obey is given
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
