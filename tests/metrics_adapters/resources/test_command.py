"""Measuring real commands: their time, memory and CPU, how they end, and what they leave behind."""

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
from metrics_framework.resources import record_resources

MB = 1_000_000
LITTLE = 8 * MB
"""More than ``sleep`` needs on any system, and less than the launcher has."""


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Let what the tests start be interrupted, even where they run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def sh(script: str) -> list[str]:
    """Return the command that runs a shell script."""
    return ["sh", "-c", script]


def python(code: str) -> list[str]:
    """Return the command that runs a small Python program."""
    return [sys.executable, "-I", "-S", "-c", code]


def await_text(path: Path, lines: int = 1) -> list[str]:
    """Return the lines of a file as soon as there are as many, each of them whole."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        text = path.read_text() if path.exists() else ""
        if text.count("\n") >= lines:
            return text.splitlines()
        time.sleep(0.01)
    raise AssertionError(f"{path} never got {lines} lines")


def is_gone(pid: int) -> bool:
    """Say whether a process has ended, within a few seconds."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
                continue
        return True
    return False


def is_group_gone(group: int) -> bool:
    """Say whether every process of a group has ended, within a few seconds."""
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
    """Measure a command in a process of its own, in a session of its own, which is over afterwards."""
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
    """What the command exits with is reported as it is."""
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
    """A command that is not there raises the error that names it and says why."""
    with pytest.raises(InvalidInputError, match="No such file or directory") as caught:
        run_command([program, "argument"])
    assert f"cannot run {program!r}" in str(caught.value)


def test_a_file_that_is_not_executable_is_an_error(tmp_path: Path) -> None:
    """A file without the permission to be executed, and a folder, are refused with the system's reason."""
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o644)
    for path in (script, tmp_path):
        with pytest.raises(InvalidInputError, match="Permission denied"):
            run_command([str(path)])
    script.chmod(0o755)
    assert run_command([str(script)]).exit_code == 0


def test_a_command_that_no_system_could_take_is_an_error() -> None:
    """An argument with a NUL, and no command at all, raise instead of failing somewhere inside."""
    with pytest.raises(InvalidInputError, match="null"):
        run_command(["echo", "a\0b"])
    with pytest.raises(InvalidInputError, match="command= is empty"):
        run_command([])


def test_a_command_that_kills_its_launcher_is_an_error() -> None:
    """Where no one is left to report how the command ended, an error says so and nothing hangs."""
    with pytest.raises(InvalidInputError, match="its launcher was killed"):
        run_command(sh("kill -KILL $PPID"))


# -- what it is given and what it writes ---------------------------------------------------------------


def test_arguments_reach_the_command_untouched() -> None:
    """Blanks, wildcards, empty arguments, options and letters of any script arrive as they were given."""
    arguments = ["a b", "", "*", "-n", "--", "$HOME", "größe ✓", '"', "\n"]
    run = run_command([*sh('printf "%s|" "$@" >&2; exit 1'), "sh", *arguments])
    assert run.error_output == "".join(f"{argument}|" for argument in arguments)


def test_the_command_runs_where_and_with_what_the_caller_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its working directory and its environment are those of the process that measures it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEASURED_VALUE", "größe")
    assert run_command(sh('pwd -P >&2; echo "$MEASURED_VALUE" >&2')).error_output.splitlines() == [
        str(tmp_path.resolve()),
        "größe",
    ]


def test_what_the_environment_tells_python_is_for_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start-up files and settings of Python reach a command in Python and leave the measuring alone."""
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
    """A command that reads its standard input comes to the end of it at once."""
    assert run_command(sh('read line || echo "end of input" >&2')).error_output == "end of input\n"


def test_nothing_that_the_command_writes_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output is discarded and standard error is kept; neither appears on the caller's."""
    run = run_command(sh("echo to output; echo to errors >&2"))
    assert run.error_output == "to errors\n"
    assert capfd.readouterr() == ("", "")


def test_only_the_end_of_a_long_error_output_is_kept() -> None:
    """Of megabytes on standard error, exactly the last 8 KiB are reported."""
    run = run_command(sh("seq 1 300000 >&2; exit 1"))
    written = "".join(f"{number}\n" for number in range(1, 300_001))
    assert run.error_output == written[-8192:]


def test_error_output_that_is_no_text_is_still_reported() -> None:
    """Bytes that are not UTF-8 become replacement characters."""
    assert run_command(sh(r"printf 'caf\351\n' >&2")).error_output == "caf\N{REPLACEMENT CHARACTER}\n"


def test_a_command_that_closes_its_streams_is_measured_to_its_end() -> None:
    """Closed output streams do not end the measurement before the command ends."""
    run = run_command(sh("exec >&- 2>&-; sleep 0.2; exit 4"))
    assert (run.exit_code, run.error_output) == (4, "")
    assert run.seconds >= 0.2


# -- time ----------------------------------------------------------------------------------------------


def test_time_is_from_start_to_end() -> None:
    """A command that sleeps for a while took at least that while, and no CPU to speak of."""
    run = run_command(["sleep", "0.2"])
    assert 0.2 <= run.seconds < 5
    assert run.cpu_seconds < 0.15


def test_a_background_process_does_not_hold_the_measurement_up(tmp_path: Path) -> None:
    """What the command leaves running is neither waited for nor ended, even if it holds its streams."""
    run = run_command(sh(f"sleep 30 & echo $! > {tmp_path}/pid; echo started >&2; exit 5"))
    left = psutil.Process(int((tmp_path / "pid").read_text()))
    try:
        assert left.status() == psutil.STATUS_SLEEPING
    finally:
        left.kill()
    assert (run.exit_code, run.error_output) == (5, "started\n")
    assert run.seconds < 10


# -- memory --------------------------------------------------------------------------------------------


def test_a_small_command_is_as_small_as_it_is() -> None:
    """A command that lasts shows its own few megabytes, not those of the process that measures it."""
    assert psutil.Process().memory_info().rss > 2 * LITTLE
    assert 0 < run_command(["sleep", "0.2"]).peak_rss < LITTLE


@pytest.mark.parametrize(
    "code",
    ["x = b'x' * 100_000_000", "import time; x = b'x' * 100_000_000; time.sleep(0.2)"],
    ids=["brief", "lasting"],
)
def test_memory_is_what_the_command_allocates(code: str) -> None:
    """A command that fills 100 MB shows about 100 MB, however briefly it lives."""
    assert 100 * MB < run_command(python(code)).peak_rss < 140 * MB


def test_the_peak_is_reported_though_it_passed() -> None:
    """Memory that the command gave back long before its end counts."""
    code = "import time; x = b'x' * 80_000_000; del x; time.sleep(0.2)"
    assert 80 * MB < run_command(python(code)).peak_rss < 120 * MB


def test_memory_of_a_childs_child_counts() -> None:
    """A large process two generations below the command is seen."""
    inner = "import time; x = b'x' * 80_000_000; time.sleep(0.3)"
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', {inner!r}])"
    assert run_command(python(middle)).peak_rss > 80 * MB


@pytest.mark.heavy
def test_processes_at_the_same_time_add_up() -> None:
    """Two processes of 60 MB each that live at once, somewhere below the command, show the sum of both."""
    child = "import time; x = b'x' * 60_000_000; time.sleep(1)"
    parent = (
        "import subprocess, sys\n"
        f"children = [subprocess.Popen([sys.executable, '-I', '-S', '-c', {child!r}]) for _ in range(2)]\n"
        "for child in children: child.wait()\n"
    )
    command = [*sh('"$@"; true'), "sh", *python(parent)]
    assert 120 * MB < run_command(command).peak_rss < 190 * MB


@pytest.mark.heavy
def test_processes_one_after_another_do_not_add_up() -> None:
    """Two children of 60 MB each that live one after another show the memory of one."""
    child = "import time; x = b'x' * 60_000_000; time.sleep(0.3)"
    parent = (
        "import subprocess, sys\n"
        f"for _ in range(2): subprocess.run([sys.executable, '-I', '-S', '-c', {child!r}])\n"
    )
    assert 60 * MB < run_command(python(parent)).peak_rss < 115 * MB


@pytest.mark.heavy
def test_a_large_parent_does_not_make_the_command_large() -> None:
    """From a process of 300 MB, small commands show a few megabytes, brief ones at most the launcher's."""
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


def test_cpu_of_a_childs_child_counts() -> None:
    """CPU time that was used two generations below the command is the command's."""
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', {busy!r}])"
    run = run_command(python(middle))
    assert 0.3 <= run.cpu_seconds < 1.5


# -- the monitor ---------------------------------------------------------------------------------------


def test_the_monitor_starts_from_nothing() -> None:
    """Before the first run, the process' figures are zero and the machine's are there."""
    monitor = CommandMonitor()
    memory, cpu = monitor.get_memory_usage(), monitor.get_cpu_usage()
    assert (memory["process_rss"], memory["process_peak_rss"]) == (0, 0)
    assert (cpu["process_percent"], cpu["process_average_percent"]) == (0.0, 0.0)
    assert memory["total"] > 0
    assert cpu["count"] >= 1


def test_the_monitor_tells_the_last_run_from_all_runs() -> None:
    """Memory and CPU of the process are the last run's; the peak and the average are over all runs."""
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


def test_nothing_of_the_measuring_process_is_said_of_the_command() -> None:
    """Its threads, open files and uptime are not the command's: they are not read and not recorded."""
    monitor, collector = CommandMonitor(), InMemoryCollector()
    monitor.run(["true"])
    assert monitor.get_process_usage() == {}
    record_resources(monitor, collector)
    recorded = {reading.name for reading in collector.store.readings()}
    assert {"process.memory.usage", "process.cpu.utilization", "system.memory.limit"} <= recorded
    assert not {name for name in recorded if name.endswith((".uptime", ".thread.count", "descriptor.count"))}


# -- its end, when somebody wants it -------------------------------------------------------------------


@pytest.mark.heavy
def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """After the time-out nothing of it runs any more, and the error says how long it had."""
    with pytest.raises(TimeoutError, match=r"did not end within 0\.2 s"):
        run_command(sh(f"sleep 60 & echo $! > {tmp_path}/pid; wait"), timeout=0.2)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_command_that_ends_in_time_knows_nothing_of_it() -> None:
    """A time-out that is not reached changes nothing."""
    assert run_command(["true"], timeout=60, cancelled=Event()).exit_code == 0


@pytest.mark.heavy
def test_another_thread_may_cancel_a_command(tmp_path: Path) -> None:
    """It is ended soon, whatever it waits for; one that was cancelled before it began does not run on."""
    cancelled = Event()
    timer = Timer(0.3, cancelled.set)
    timer.start()
    with pytest.raises(InterruptedError):
        run_command(sh(f"echo $$ > {tmp_path}/pid; exec sleep 60"), cancelled=cancelled)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    with pytest.raises(InterruptedError):
        run_command(["sleep", "60"], cancelled=cancelled)
    timer.join()


def test_a_monitor_runs_several_commands_at_a_time() -> None:
    """Its averages and peaks are over all of them."""
    monitor = CommandMonitor()
    with ThreadPoolExecutor(4) as threads:
        runs = list(threads.map(lambda _: monitor.run(["sleep", "0.05"]), range(8)))
    assert monitor.get_memory_usage()["process_peak_rss"] == max(run.peak_rss for run in runs)
    assert monitor.get_cpu_usage()["process_average_percent"] == pytest.approx(
        100 * sum(run.cpu_seconds for run in runs) / sum(run.seconds for run in runs)
    )


# -- what it leaves behind -----------------------------------------------------------------------------


def test_runs_at_the_same_time_are_kept_apart() -> None:
    """Commands measured from several threads each get their own exit code and errors, and all end."""
    with ThreadPoolExecutor(4) as threads:
        runs = list(
            threads.map(lambda code: run_command(sh(f"sleep 0.1; echo {code} >&2; exit {code}")), range(8))
        )
    assert [(run.exit_code, run.error_output) for run in runs] == [(code, f"{code}\n") for code in range(8)]


@pytest.mark.heavy
def test_many_runs_leak_neither_descriptors_nor_processes() -> None:
    """After 50 runs, and 10 that could not start, no more files are open and no child is left."""
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


def test_an_interrupt_ends_the_command_and_goes_on(tmp_path: Path) -> None:
    """Ctrl-C that reaches the measuring process alone ends at once what it measures, then that process."""
    with measuring(sh(f"echo $$ > {tmp_path}/pid; exec sleep 60")) as process:
        pid = int(await_text(tmp_path / "pid")[0])
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
        assert time.monotonic() - start < 2  # what a command that does not obey is given
        assert (output, errors.splitlines()[-1]) == ("", "KeyboardInterrupt")
        assert is_gone(pid)


@pytest.mark.heavy
def test_an_interrupt_ends_what_the_command_started(tmp_path: Path) -> None:
    """Ctrl-C that reaches the measuring process alone asks the command and its children to end."""
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
def test_a_command_that_ignores_requests_is_killed(tmp_path: Path, presses: int, pause: float) -> None:
    """A command deaf to SIGINT and SIGTERM is killed after a moment, and at once by a second Ctrl-C."""
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
def test_a_command_that_starts_others_all_the_time_is_ended(tmp_path: Path, deaf_to: str) -> None:
    """A shell that goes on after Ctrl-C, starting one process after another, leaves none of them behind."""
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
    """Wherever in the life of a short-lived run Ctrl-C strikes, no process of its group survives it."""
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
