"""The commands as a user runs them: exit codes, output and written files."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result

from metrics_framework.cli.app import app
from metrics_framework.snapshots import Environment, PerformanceSnapshot, read_snapshot
from metrics_framework.snapshots.distributions import DISTRIBUTIONS_TAG
from metrics_framework.snapshots.formatting import format_duration, format_number
from metrics_framework.snapshots.provenance import machine_tags
from tests.terminal import ESCAPES, Terminal

OUTSIDE = (
    *("CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "CIRCLECI", "BUILDKITE", "TF_BUILD", "TRAVIS"),
    *("BITBUCKET_BUILD_NUMBER", "DRONE", "SEMAPHORE", "APPVEYOR", "CODEBUILD_BUILD_ID"),
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"),
    *("FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"),
)
"""Variables of the machine that the tests run on, which would show in the results."""

CTTY = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes the standard input the controlling terminal of a new session, then becomes another program."""

DOCUMENT: dict[str, Any] = {
    "metadata": {"run_id": "7", "timestamp": "2026-01-01T10:00:00Z", "tags": {"µ": "a[b]"}},
    "metrics": {"latency": {"p95": 180.0}, "throughput": 950.2, "custom": {"größe": 0.5}},
}


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Work in an empty folder outside any repository, without the variables of CI."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in OUTSIDE:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def metrics_framework(*arguments: str) -> list[str]:
    """Return the arguments of a process that runs the command line."""
    return [sys.executable, "-m", "metrics_framework", *arguments]


def cli(
    *arguments: str, prefix: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process, and return its output."""
    return subprocess.run(
        [*prefix, *metrics_framework(*arguments)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def invoke(*arguments: str, **environment: str) -> Result:
    """Run the command line in this process, which is faster."""
    return CliRunner().invoke(app, arguments, prog_name="metrics-framework", env=environment)


def sh(script: str) -> list[str]:
    """Return the command that runs a shell script."""
    return ["sh", "-c", script]


def rows(text: str) -> dict[str, str]:
    """Return the rows of a printed table, with any kind of lines."""
    lines = ESCAPES.sub("", text).splitlines()
    cells = [[cell.strip() for cell in re.split(r"[│|]|\s{2,}", line) if cell.strip()] for line in lines]
    return {row[0]: row[1] for row in cells if len(row) == 2}


def written(folder: str | Path = "snapshots") -> list[Path]:
    """Return the snapshots in a folder. Each has its sidecar beside it, and there are no other files."""
    found = sorted(Path(folder).iterdir()) if Path(folder).exists() else []
    snapshots = [path for path in found if path.suffix == ".json"]
    assert found == sorted([*snapshots, *(path.with_suffix(".dist") for path in snapshots)])
    return snapshots


def context_of(snapshot: PerformanceSnapshot) -> dict[str, str]:
    """Return the tags of a snapshot without those of its sidecar and its machine."""
    tags = {tag: text for tag, text in snapshot.metadata.tags.items() if tag not in machine_tags()}
    assert tags.pop(DISTRIBUTIONS_TAG).startswith("sha256:")
    return tags


def snapshot_of(output: str) -> PerformanceSnapshot:
    """Return the snapshot whose path is the last line of the output."""
    return read_snapshot(output.splitlines()[-1])


def unprivileged() -> tuple[str, ...]:
    """Return the prefix of a command for which file permissions hold, also for a superuser."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("a superuser may write anywhere")
    return ("setpriv", "--bounding-set", "-dac_override")


def await_lines(path: str | Path, number: int) -> None:
    """Wait until a file has a number of lines."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if Path(path).exists() and Path(path).read_text().count("\n") >= number:
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} never got {number} lines")


def is_group_gone(group: int) -> bool:
    """Return whether every process of a group has ended, within a few seconds."""
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
def running(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command line as the leader of a new session, and kill the session afterwards."""
    process = subprocess.Popen(
        metrics_framework(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# -- run: what it does ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.smoke
def test_run_measures_a_command_and_writes_a_snapshot() -> None:
    """The command runs as often as requested, and the last line after the table is the snapshot's path."""
    before = datetime.now(tz=UTC)
    done = cli(
        *("run", "-n", "3", "--warmup", "2", "--output", "a/b", "--name", "op", "--environment", "staging"),
        *("--tag", "k=v", "--tag", "formula=a=b", "--tag", "empty=", "--"),
        *sh("echo >> runs; echo to output; echo to errors >&2"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("runs").read_text().count("\n") == 5
    assert "to output" not in done.stdout
    assert "\x1b" not in done.stdout
    (path,) = written("a/b")
    assert done.stdout.splitlines()[-1] == str(path)

    snapshot = read_snapshot(path)
    metrics, metadata = snapshot.metrics, snapshot.metadata
    assert context_of(snapshot) == {"k": "v", "formula": "a=b", "empty": "", "latency_metric": "op"}
    assert metadata.environment is Environment.STAGING
    assert (metadata.commit, metadata.branch) == (None, None)
    assert before <= metadata.timestamp <= before + timedelta(minutes=1)
    assert set(metrics.flat()) == {
        *("latency.mean", "latency.p50", "latency.p95", "latency.p99"),
        *("throughput", "memory_mb", "cpu_percent", "custom.operation:op/success_rate"),
    }
    assert list(metrics.custom.values()) == [1.0]

    assert done.stdout.splitlines()[0].strip() == "op, 3 runs"
    table = rows(done.stdout)
    assert metrics.latency is not None
    assert table["mean"] == format_duration(metrics.latency.mean or 0)
    assert table["p95"] == format_duration(metrics.latency.p95 or 0)
    assert table["throughput"] == f"{format_number(metrics.throughput or 0)} runs/s"
    assert table["peak memory"] == f"{format_number(metrics.memory_mb or 0)} MB"
    assert table["failures"] == "0"
    assert {"p50", "p99", "min", "max"} <= set(table)


def test_run_needs_no_dashes_before_the_command() -> None:
    """The command starts at the first argument that is not an option, and includes all that follow."""
    script = '[ "$*" = "--name x -n 5 --help -- --tag" ] && echo >> runs'
    done = invoke(
        "run", "-n", "2", "/bin/sh", "-c", script, "sh", "--name", "x", "-n", "5", "--help", "--", "--tag"
    )
    assert done.exit_code == 0
    assert Path("runs").read_text() == "\n\n"
    assert context_of(snapshot_of(done.stdout)) == {"latency_metric": "sh"}
    assert len(written()) == 1


@pytest.mark.slow
def test_run_shows_the_memory_of_the_command() -> None:
    """A command that fills 100 MB has about 100 MB in the table and in the snapshot."""
    done = invoke("run", "-n", "1", "--", sys.executable, "-I", "-S", "-c", "x = b'x' * 100_000_000")
    memory = snapshot_of(done.stdout).metrics.memory_mb
    assert memory is not None
    assert 100 < memory < 140
    assert rows(done.stdout)["peak memory"] == f"{memory:.0f} MB"


@pytest.mark.slow
def test_run_gives_the_command_an_empty_input() -> None:
    """A command that reads its input ends, whatever the input of the command line is."""
    process = subprocess.Popen(
        metrics_framework("run", "-n", "1", "--", "cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate()


def test_run_does_not_wait_for_background_processes() -> None:
    """A background process that the command started does not delay the measurement."""
    done = invoke("run", "-n", "2", "--", *sh("sleep 45 & echo $! >> pids"))
    pids = [int(pid) for pid in Path("pids").read_text().split()]
    try:
        assert all(psutil.pid_exists(pid) for pid in pids)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    assert done.exit_code == 0
    latency = snapshot_of(done.stdout).metrics.latency
    assert latency is not None
    assert (latency.p99 or 0) < 20_000


@pytest.mark.parametrize("name", ["a[b] [red]x[/] :smile:", "größe ✓ 测量"])
def test_run_prints_a_name_unchanged(name: str) -> None:
    """Brackets and non-ASCII letters in a name are not markup, in the table and in the snapshot."""
    done = invoke("run", "-n", "1", "--name", name, "--tag", f"{name}={name}", "--", "false")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0].strip() == f"{name}, 1 run"
    assert context_of(snapshot_of(done.stdout)) == {name: name, "latency_metric": name}


@pytest.mark.slow
def test_run_accepts_a_name_that_is_not_utf8() -> None:
    """Such a program is measured, shown and written like any other."""
    program = os.fsdecode(b"caf\xe9")
    Path(program).symlink_to("/bin/true")
    done = cli("run", "-n", "1", "--", f"./{program}", PYTHONIOENCODING="utf-8:strict")
    assert done.returncode == 0
    assert r"caf\udce9, 1 run" in done.stdout
    assert context_of(snapshot_of(done.stdout)) == {"latency_metric": r"caf\udce9"}


# -- run: where it comes from --------------------------------------------------------------------------


def test_run_records_the_commit() -> None:
    """In a git repository the snapshot has its commit and branch; under CI the environment is ci."""
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    for arguments in (
        ["init", "-q", "."],
        ["checkout", "-q", "-b", "topic/größe"],
        [*author, "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", *arguments], check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    local = snapshot_of(invoke("run", "-n", "1", "--", "true").stdout).metadata
    in_ci = snapshot_of(invoke("run", "-n", "1", "--", "true", CI="true").stdout).metadata
    assert (local.commit, local.branch, local.environment) == (head, "topic/größe", Environment.LOCAL)
    assert (in_ci.commit, in_ci.branch, in_ci.environment) == (head, "topic/größe", Environment.CI)
    # The help says that another commit has no branch by default.
    other = snapshot_of(invoke("run", "-n", "1", "--commit", "v1", "--", "true").stdout).metadata
    assert (other.commit, other.branch) == ("v1", None)
    assert "or none if --commit is another commit" in " ".join(invoke("run", "--help").stdout.split())


@pytest.mark.heavy
def test_run_accepts_another_commit_and_branch() -> None:
    """They are in the snapshot, with parameters replaced."""
    given = ("--commit", "{tag}", "--branch", "release", "--parameter-list", "tag", "v1,v2")
    done = invoke("run", "-n", "1", *given, "--", "true")
    assert done.exit_code == 0
    found = [read_snapshot(path).metadata for path in written()]
    assert [(one.commit, one.branch, one.tags["tag"]) for one in found] == [
        ("v1", "release", "v1"),
        ("v2", "release", "v2"),
    ]


# -- run: several commands -----------------------------------------------------------------------------


@pytest.mark.slow
def test_run_measures_several_commands() -> None:
    """Each has its table and snapshot, under its command line or the names that are given."""
    done = invoke("run", "-n", "2", "--command", "sh -c 'exit 0'", "--command", "sleep 0.01")
    assert (done.exit_code, done.stderr) == (0, "")
    assert [read_snapshot(path).metadata.tags["latency_metric"] for path in written()] == [
        "sh -c 'exit 0'",
        "sleep 0.01",
    ]
    printed = [line for line in done.stdout.splitlines() if line.startswith("snapshots")]
    assert [Path(line) for line in printed] == written()
    done = invoke("run", "-n", "1", "--output", "o", "--name", "a", "--name", "b", "--command", "false",
               "--command", "true")  # fmt: skip
    assert done.exit_code == 1
    assert [read_snapshot(path).metadata.tags["latency_metric"] for path in written("o")] == ["a", "b"]
    done = invoke("run", "-n", "1", "--output", "p", "--ignore-failure", "--command", "false")
    assert done.exit_code == 0
    assert rows(done.stdout)["exit code 1, ignored"] == "1"


@pytest.mark.slow
def test_run_warns_of_a_slow_first_run() -> None:
    """The warning is on standard error, and the exit code does not change."""
    done = invoke("run", "-n", "7", "--", *sh("echo >> runs; [ $(wc -l < runs) -gt 1 ] || sleep 1"))
    assert done.exit_code == 0
    assert done.stderr.startswith("Warning: the first run took 1")


# -- run: what fails -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_failed_run_is_shown_and_the_snapshot_written() -> None:
    """Exit code 1: each failure is shown with the end of its errors, counted by type, and in the snapshot."""
    script = """
        echo >> runs; echo "this is run $(wc -l < runs)" >&2
        case $(wc -l < runs) in 1) exit 3;; 2) kill -KILL $$;; 3) kill -SEGV $$;; esac
    """
    done = invoke("run", "-n", "4", "--name", "flaky", "--", *sh(script))
    assert done.exit_code == 1
    table = rows(done.stdout)
    assert [table[key] for key in ("failures", "exit code 3", "signal SIGKILL", "signal SIGSEGV")] == list(
        "3111"
    )
    assert snapshot_of(done.stdout).metrics.custom == {"operation:flaky/success_rate": 0.25}
    assert [line.strip() for line in done.stderr.splitlines()] == [
        *("run 1 failed: exit code 3", "this is run 1"),
        *("run 2 failed: signal SIGKILL", "this is run 2"),
        *("run 3 failed: signal SIGSEGV", "this is run 3"),
    ]


def test_only_the_end_of_long_error_output_is_shown() -> None:
    """Of megabytes of error output, only the last lines are shown."""
    done = invoke("run", "-n", "1", "--", *sh("seq 1 300000 >&2; exit 1"))
    assert done.exit_code == 1
    lines = [line.strip() for line in done.stderr.splitlines()]
    assert lines[0] == "run 1 failed: exit code 1"
    assert lines[-1] == "300000"
    assert len(lines) <= 12


@pytest.mark.parametrize("warmup", ["0", "1"])
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("no-such-program", "No such file or directory"),
        ("./script.sh", "Permission denied"),
        (".", "Permission denied"),
        ("", "No such file or directory"),
    ],
)
def test_a_command_that_cannot_be_started_is_wrong_usage(command: str, reason: str, warmup: str) -> None:
    """Exit code 2 with the reason of the system, without a traceback or a snapshot."""
    Path("script.sh").write_text("#!/bin/sh\n")
    done = invoke("run", "-n", "1", "--warmup", warmup, "--", command)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == f"Error: cannot run {command!r}: {reason}"
    assert written() == []


@pytest.mark.slow
def test_a_missing_command_prints_no_traceback() -> None:
    """In a process: exit code 2, no standard output, and the reason on standard error."""
    done = cli("run", "--", "no-such-program")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "Error: cannot run 'no-such-program': No such file or directory"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--"],
        ["-n", "0", "--", "touch", "ran"],
        ["-n", "-1", "--", "touch", "ran"],
        ["-n", "many", "--", "touch", "ran"],
        ["--warmup", "-1", "--", "touch", "ran"],
        ["--environment", "moon", "--", "touch", "ran"],
        ["--no-such-option", "--", "touch", "ran"],
        ["--tag", "novalue", "--", "touch", "ran"],
        ["--tag", "=value", "--", "touch", "ran"],
        ["--tag", "good=1", "--tag", "", "--", "touch", "ran"],
        ["--command", "touch 'ran"],
        ["--command", ""],
        ["--command", "touch ran", "--", "touch", "ran"],
        ["--command", "touch ran", "--name", "a", "--name", "b"],
        ["--parameter-list", "", "1,2", "--", "touch", "ran"],
        ["--parameter-list", "n", "1,2", "--", "touch", "ran"],
        ["--parameter-list", "n", "1", "--parameter-list", "n", "2", "--", "touch", "{n}"],
        ["--parameter-list", "job", "1,2", "--", "touch", "{job}"],
    ],
    ids=" ".join,
)
def test_wrong_usage_runs_nothing(arguments: list[str]) -> None:
    """Invalid options exit with code 2 before the command runs and before anything is created."""
    done = invoke("run", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Error: " in done.stderr
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("number", [46, 47, 50, 51, 200])
def test_too_many_tags_are_rejected(number: int) -> None:
    """Tags that do not fit into a snapshot, beside its own, are wrong usage, and nothing runs."""
    done = invoke("run", *(f"--tag=k{index}=v" for index in range(number)), "--", "touch", "ran")
    assert done.exit_code == 2
    assert f"{number} tags are too many: a snapshot holds 50" in done.stderr.replace("\n", " ")
    assert list(Path.cwd().iterdir()) == []


def test_as_many_tags_as_a_snapshot_holds_are_written() -> None:
    """The largest accepted number of tags is in the snapshot; a repeated tag counts once."""
    tags = [f"--tag=k{index}=v" for index in range(43)]
    done = invoke("run", "-n", "1", *tags, "--tag=k0=again", "--", "true")
    assert done.exit_code == 0
    written_tags = snapshot_of(done.stdout).metadata.tags
    assert len(written_tags) == 47
    assert written_tags["k0"] == "again"


@pytest.mark.parametrize("output", ["file", "file/deeper"])
def test_a_file_in_the_place_of_the_folder_is_wrong_usage(output: str) -> None:
    """A file with the folder's name exits with code 2, and nothing runs."""
    Path("file").touch()
    done = invoke("run", "--output", output, "--", "touch", "ran")
    assert (done.exit_code, done.stdout) == (2, "")
    assert output in done.stderr
    assert not Path("ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("output", ["locked", "locked/deeper"])
def test_a_folder_without_permission_is_wrong_usage(output: str) -> None:
    """An unwritable folder is reported before anything runs."""
    Path("locked").mkdir(mode=0o500)
    done = cli("run", "--output", output, "--", "touch", "ran", prefix=unprivileged())
    assert (done.returncode, done.stdout) == (2, "")
    assert output in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("script", ["rmdir out; touch out", "chmod 500 out"], ids=["replaced", "locked"])
def test_an_unwritable_folder_loses_no_measurement(script: str) -> None:
    """If the snapshot cannot be written, it is printed as the last line, and the exit code is 1."""
    done = cli("run", "-n", "1", "--name", "op", "--output", "out", "--", *sh(script), prefix=unprivileged())
    assert done.returncode == 1
    assert "mean" in rows(done.stdout)
    snapshot = PerformanceSnapshot.from_dict(json.loads(done.stdout.splitlines()[-1]))
    assert snapshot.metadata.tags == {"latency_metric": "op", **machine_tags()}
    assert done.stderr.startswith("Error: cannot write a snapshot into 'out': ")
    assert "Traceback" not in done.stderr


def test_a_removed_folder_is_created_again() -> None:
    """If the command removes the folder, the snapshot is still written."""
    done = invoke("run", "-n", "1", "--output", "out", "--", "rmdir", "out")
    assert done.exit_code == 0
    assert written("out") == [Path(done.stdout.splitlines()[-1])]


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_commands_are_measured_without_standard_streams(closed: str) -> None:
    """A job whose streams are closed writes its snapshot, and exits as usual."""
    shown = sh(f"{shlex.join(metrics_framework('run', '-n', '2', '--', 'true'))} {closed}")
    done = subprocess.run(shown, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(written()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("output", ["closed pipe", "/dev/full"])
def test_the_snapshot_is_written_although_the_output_is_closed(output: str) -> None:
    """A closed pipe, as after ``| head -1``, or a full disk loses only the output."""
    if output == "closed pipe":
        reader, writer = os.pipe()
        os.close(reader)
    elif Path(output).exists():
        writer = os.open(output, os.O_WRONLY)
    else:
        pytest.skip(f"there is no {output}")
    try:
        subprocess.run(
            metrics_framework("run", "-n", "1", "--", "true"),
            stdout=writer,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    (path,) = written()
    assert context_of(read_snapshot(path)) == {"latency_metric": "true"}


# -- run: interrupted ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_interrupt_keeps_the_finished_runs() -> None:
    """Ctrl-C exits with code 130, writes a snapshot of the finished runs, and leaves no process."""
    command = sh("echo >> runs; sleep 0.1; true")
    with running("run", "-n", "1000", "--name", "op", "--tag", "k=v", "--", *command) as process:
        await_lines("runs", 4)
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        assert process.returncode == 130
        assert is_group_gone(process.pid)
    snapshot = snapshot_of(output)
    assert context_of(snapshot) == {"k": "v", "latency_metric": "op", "interrupted": "true"}
    assert snapshot.metrics.custom == {"operation:op/success_rate": 1.0}
    started = Path("runs").read_text().count("\n")
    shown = re.match(r"op, (\d+) runs", output)
    assert shown is not None
    assert started - 1 <= int(shown[1]) <= started
    assert rows(output)["failures"] == "0"
    assert errors == f"interrupted after {shown[1]} of 1,000 runs\n"


@pytest.mark.slow
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_a_cancelled_job_keeps_the_finished_runs(send: Callable[[int, int], None]) -> None:
    """SIGTERM, to the process or to its group, ends the measurement as Ctrl-C does."""
    with running("run", "-n", "1000", "--name", "op", "--", *sh("echo >> runs; sleep 0.1; true")) as process:
        await_lines("runs", 4)
        send(process.pid, signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
        assert process.returncode == 130
        assert is_group_gone(process.pid)
    assert snapshot_of(output).metadata.tags["interrupted"] == "true"
    assert re.fullmatch(r"interrupted after \d of 1,000 runs\n", errors)


@pytest.mark.slow
@pytest.mark.parametrize("warmup", ["0", "2"])
def test_an_interrupt_before_the_first_result_writes_no_snapshot(warmup: str) -> None:
    """Ctrl-C in the warm-up or the first run: exit code 130, no snapshot, no table, no process."""
    with running("run", "--warmup", warmup, "--", *sh("echo >> runs; exec sleep 60")) as process:
        await_lines("runs", 1)
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        assert process.returncode == 130
        assert is_group_gone(process.pid)
    assert (output, errors) == ("", "interrupted after 0 of 10 runs\n")
    assert written() == []


@pytest.mark.slow
def test_an_interrupt_after_the_last_run_has_the_same_exit_code(tmp_path: Path) -> None:
    """Ctrl-C while the snapshot is built, here by a slow git, is not a failed run."""
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text("#!/bin/sh\necho >> git-runs\nexec sleep 60\n")
    git.chmod(0o755)
    path = f"{git.parent}{os.pathsep}{os.environ['PATH']}"
    with running("run", "-n", "1", "--", "true", PATH=path) as process:
        await_lines("git-runs", 1)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130


@pytest.mark.heavy
@pytest.mark.parametrize("presses", [1, 2])
def test_a_command_that_ignores_an_interrupt_is_killed(presses: int) -> None:
    """A command that ignores SIGINT and SIGTERM does not survive one or more Ctrl-C."""
    script = "trap '' INT TERM; echo >> runs; [ $(wc -l < runs) = 1 ] || { sleep 60; sleep 60; }"
    with running("run", "--", *sh(script)) as process:
        await_lines("runs", 2)
        for _ in range(presses):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.7)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 130
        assert is_group_gone(process.pid)
    assert snapshot_of(output).metadata.tags["interrupted"] == "true"


# -- run: progress -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_terminal_shows_progress_and_a_pipe_has_no_escape_codes() -> None:
    """Standard error, a terminal, shows a bar; standard output, a pipe, has no escape codes."""
    terminal = Terminal()
    process = subprocess.Popen(
        metrics_framework("run", "-n", "3", "--name", "[red]nap", "--", "sleep", "0.15"),
        stdout=subprocess.PIPE,
        stderr=terminal.screen,
        text=True,
    )
    output, _ = process.communicate(timeout=60)
    drawn = terminal.drawn()
    assert process.returncode == 0
    shown = ESCAPES.sub("", drawn)
    assert "[red]nap ━" in shown
    assert re.search(r"[12]/3 0 errors, \S+/s, \S+ s left, last [\d.]+ m?s", shown)
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")
    assert "\x1b" not in output
    assert len(written()) == 1
    assert Path(output.splitlines()[-1]) == written()[0]


@pytest.mark.heavy
def test_ctrl_c_on_a_terminal() -> None:
    """Pressing Ctrl-C erases the bar, prints the table and the path, and exits with code 130."""
    terminal = Terminal()
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            CTTY,
            *metrics_framework("run", "--name", "op", "--", *sh("echo >> runs; sleep 0.2")),
        ],
        stdin=terminal.screen,
        stdout=terminal.screen,
        stderr=terminal.screen,
        start_new_session=True,
    )
    try:
        await_lines("runs", 3)
        os.write(terminal.keyboard, b"\x03")
        assert process.wait(timeout=30) == 130
        assert is_group_gone(process.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        drawn = terminal.drawn()
    last_line = drawn.rstrip().splitlines()[-1]
    assert context_of(read_snapshot(last_line)) == {"latency_metric": "op", "interrupted": "true"}
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")
    table = drawn[drawn.rindex("\x1b[?25h") :]
    assert "━" not in table
    assert rows(table)["failures"] == "0"


@pytest.mark.heavy
def test_a_pipe_gets_a_line_every_few_seconds() -> None:
    """Without a terminal, a long measurement prints its progress as lines on standard error."""
    done = cli("run", "-n", "2", "--warmup", "1", "--name", "nap", "--", "sleep", "2.6")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"nap: 2 of 3 done, 0 errors, [\d.]+/s, \d+ s left, last [\d.]+ s", line)


# -- validate ------------------------------------------------------------------------------------------


def write(name: str, document: object) -> str:
    """Write a document as an editor would."""
    Path(name).write_text(json.dumps(document, ensure_ascii=False), "utf-8")
    return name


def broken_in_three_rules() -> dict[str, Any]:
    """Return a document with three violations."""
    return {
        "metadata": {"timestamp": "yesterday"},
        "metrics": {"throughput": -1, "custom": {"a.b": 1}},
    }


@pytest.mark.slow
@pytest.mark.smoke
def test_validate_prints_a_line_per_violation() -> None:
    """Each file is reported; three violations are three lines, and the exit code is 1."""
    write("good.json", DOCUMENT)
    write("bad.json", broken_in_three_rules())
    write("also good.json", {"metrics": {"cpu_percent": 5}})
    done = cli("validate", "good.json", "bad.json", "also good.json")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "good.json: valid, 3 measurements",
        "also good.json: valid, 1 measurement",
    ]
    lines = done.stderr.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["bad.json", "metadata.timestamp"],
        ["bad.json", "metrics.throughput"],
        ["bad.json", "metrics.custom['a.b']"],
    ]
    assert all(len(line.split(": ", 2)[2]) > 10 for line in lines)


def test_validate_accepts_the_output_of_run() -> None:
    """The snapshot that run writes is valid: exit code 0."""
    path = invoke("run", "-n", "1", "--", "true").stdout.splitlines()[-1]
    done = invoke("validate", path)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"{path}: valid, 8 measurements\n"


def unreadable() -> list[tuple[str, bytes | None, str]]:
    """Return names of files that are not snapshots, their contents, and the expected errors."""
    return [
        ("missing.json", None, "cannot read 'missing.json': No such file or directory"),
        (".", None, "cannot read '.': Is a directory"),
        ("empty.json", b"", "document: is not JSON: "),
        ("text.json", b"latency: 5", "document: is not JSON: "),
        ("cut.json", b'{"metrics": {"throughput": 5', "document: is not JSON: "),
        ("bytes.json", b"\x80\x81\x82", "document: is not JSON: "),
        ("list.json", b"[1, 2]", "document: must be an object"),
        ("future.json", b'{"schema_version": 2}', "schema_version: must be the integer 1, got 2"),
        ("nothing.json", b"{}", "metrics: is required"),
        ("[red].json", b"{}", "metrics: is required"),
    ]


@pytest.mark.parametrize(("name", "content", "message"), unreadable(), ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("arguments", [["validate"], ["show"], ["show", "--json"]], ids=" ".join)
def test_an_invalid_file_is_one_line(
    arguments: list[str], name: str, content: bytes | None, message: str
) -> None:
    """A missing file, a folder or an invalid file prints one line with the reason, and exits with code 1."""
    if content is not None:
        Path(name).write_bytes(content)
    done = invoke(*arguments, name)
    assert (done.exit_code, done.stdout) == (1, "")
    assert isinstance(done.exception, SystemExit)
    (line,) = done.stderr.splitlines()
    if name == "." and arguments[0] == "show":
        message = "'.' is a folder: pass a file in it, or run metrics-framework history ."
    expected = f"Error: {message}" if content is None else f"{name}: {message}"
    assert line.startswith(expected)


def test_show_of_a_sidecar_names_the_snapshot() -> None:
    """A sidecar cannot be shown: the error names the snapshot beside it."""
    done = invoke("show", "run.dist")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "Error: 'run.dist' is the sidecar of a snapshot: pass 'run.json'\n"


@pytest.mark.parametrize("command", ["history", "diff"])
def test_the_help_names_the_exit_code_of_wrong_usage(command: str) -> None:
    """All exit codes are in the help."""
    assert "2  wrong usage, or" in invoke(command, "--help").stdout


def test_every_encoding_of_json_is_read() -> None:
    """A file in UTF-16 is validated and shown like any other."""
    Path("utf-16.json").write_bytes(json.dumps(DOCUMENT, ensure_ascii=False).encode("utf-16"))
    assert invoke("validate", "utf-16.json").stdout == "utf-16.json: valid, 3 measurements\n"
    assert rows(invoke("show", "utf-16.json").stdout)["custom.größe"] == "0.500"


def test_validate_and_show_need_a_file() -> None:
    """No file is wrong usage; so are two files for show."""
    write("good.json", DOCUMENT)
    assert invoke("validate").exit_code == invoke("show").exit_code == 2
    assert invoke("show", "good.json", "good.json").exit_code == 2


def test_a_folder_of_snapshots_is_validated_with_its_sidecars() -> None:
    """If all files of a folder are named, sidecars are checked too, and an invalid one is reported."""
    assert invoke("run", "-n", "2", "--", "true").exit_code == 0
    (path,) = written()
    files = sorted(map(str, Path("snapshots").iterdir()))
    done = invoke("validate", *files)
    assert done.exit_code == 0
    sidecar, snapshot = done.stdout.splitlines()
    assert sidecar == f"{path.with_suffix('.dist')}: valid, 1 distribution"
    assert snapshot.startswith(f"{path}: valid, ")
    path.with_suffix(".dist").write_bytes(b"half")
    done = invoke("validate", *files, "snapshots/none.dist")
    assert done.exit_code == 1
    assert f"{path.with_suffix('.dist')}: document: is not compressed by gzip" in done.stderr
    assert "cannot read 'snapshots/none.dist': No such file" in done.stderr


# -- show ----------------------------------------------------------------------------------------------


def test_show_prints_a_table() -> None:
    """Metadata and measurements are rows on standard output, without escape codes on a pipe."""
    write("good.json", DOCUMENT)
    done = invoke("show", "good.json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert rows(done.stdout) == {
        "run": "7",
        "time": "2026-01-01T10:00:00+00:00",
        "commit": "none",
        "branch": "none",
        "environment": "ci",
        "tag µ": "a[b]",
        "latency.p95": "180 ms",
        "throughput": "950/s",
        "custom.größe": "0.500",
    }


def test_show_prints_all_violations() -> None:
    """A file with three violations prints a line for each."""
    write("bad.json", broken_in_three_rules())
    done = invoke("show", "bad.json")
    assert (done.exit_code, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 3


def test_show_json_prints_the_same_snapshot() -> None:
    """The JSON is the snapshot of the file, including all defaults."""
    write("good.json", DOCUMENT)
    done = invoke("show", "--json", "good.json")
    assert (done.exit_code, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    assert printed["schema_version"] == 1
    assert printed["metadata"]["environment"] == "ci"
    assert PerformanceSnapshot.from_dict(printed) == read_snapshot("good.json")
    path = invoke("run", "-n", "1", "--", "true").stdout.splitlines()[-1]
    assert PerformanceSnapshot.from_dict(json.loads(invoke("show", path, "--json").stdout)) == read_snapshot(
        path
    )


# -- help ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_the_commands(option: str) -> None:
    """-h and --help list the commands, and the help of each command explains its exit codes."""
    done = invoke(option)
    assert done.exit_code == 0
    assert all(
        re.search(rf"^  {command} ", done.stdout, re.MULTILINE) for command in ("run", "show", "validate")
    )
    exit_codes = re.findall(r"^ +(\d+) ", invoke("run", option).stdout, re.MULTILINE)
    assert exit_codes == ["0", "1", "2", "130"]


def test_an_unknown_command_is_wrong_usage() -> None:
    """An unknown command exits with code 2 and is named."""
    done = invoke("measure")
    assert done.exit_code == 2
    assert "No such command 'measure'" in done.stderr
