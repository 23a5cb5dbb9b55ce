"""``run --against`` as a user runs it: the order of runs, the snapshots, the verdicts and the exit codes."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from metrics_framework.cli.app import app
from metrics_framework.snapshots import PerformanceSnapshot, read_snapshot
from metrics_framework.snapshots.compare import ComparedRun, Comparison, Verdict, compare
from tests.terminal import ESCAPES, Terminal

OUTSIDE = ("CI", "GITHUB_ACTIONS", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "FORCE_COLOR", "COLUMNS")
SIDES = ("baseline", "current")


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Work in an empty folder outside any repository, without the variables of CI."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in OUTSIDE:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run_against(baseline: str, *arguments: str, **environment: str) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(
        app, ["run", "--against", baseline, *arguments], prog_name="metrics-framework", env=environment
    )


def script(name: str, text: str) -> str:
    """Write a shell script, and return its path."""
    Path(name).write_text(f"#!/bin/sh\n{text}\n")
    Path(name).chmod(0o755)
    return f"./{name}"


def snapshots(side: str, folder: str = "snapshots") -> list[PerformanceSnapshot]:
    """Return the snapshots of a side, the oldest first. Each has a sidecar, without other files."""
    paths = sorted(Path(folder, side).iterdir())
    documents = [path for path in paths if path.suffix == ".json"]
    assert paths == sorted([*documents, *(path.with_suffix(".dist") for path in documents)])
    return [read_snapshot(path) for path in documents]


def compared_files(folder: str = "snapshots") -> Comparison:
    """Compare the written files, as the command ``compare`` does."""
    before, after = (
        [ComparedRun.read(path) for path in sorted(Path(folder, side).glob("*.json"))] for side in SIDES
    )
    return compare(before, after)


def messages(errors: str) -> list[str]:
    """Return the lines of standard error, without those that show the progress on a slow machine."""
    lines = [line.strip() for line in errors.splitlines()]
    return [line for line in lines if not re.match(r"\S+: \d+ of \d+ done, ", line)]


def shows(output: str, verdict: Verdict) -> bool:
    """Return whether the printed table has a verdict."""
    return verdict in output.lower()


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command line as the leader of a new session, and kill the session afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "metrics_framework", "run", *arguments],
        stdin=subprocess.DEVNULL,
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


def await_lines(path: str, number: int) -> None:
    """Wait until a file has a number of lines."""
    deadline = time.monotonic() + 60
    while not Path(path).exists() or Path(path).read_text().count("\n") < number:
        assert time.monotonic() < deadline, f"{path} never got {number} lines"
        time.sleep(0.005)


# -- what it does --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_versions_are_measured_by_turns() -> None:
    """The baseline is first in every other pair; blocks are snapshots that say their pair, side and job."""
    old, new = script("old", "echo old >> order"), script("new", "echo new >> order")
    done = run_against(f"{old} 'a b'", "--pairs", "3", "-n", "2", "--warmup", "1", "--tag", "k=v", "--", new)
    assert done.exit_code == 0, done.output
    assert Path("order").read_text().split() == [
        *(["old"] * 3 + ["new"] * 3),
        *(["new"] * 3 + ["old"] * 3),
        *(["old"] * 3 + ["new"] * 3),
    ]
    jobs = set()
    for side in SIDES:
        found = snapshots(side)
        assert [one.metadata.tags["pair"] for one in found] == ["1/3", "2/3", "3/3"]
        for one in found:
            tags = one.metadata.tags
            assert (tags["side"], tags["latency_metric"], tags["k"]) == (side, "new", "v")
            jobs.add(tags["job"])
    assert len(jobs) == 1
    assert done.stdout.splitlines()[-1] == "3 pairs of snapshots in snapshots/baseline and snapshots/current"


@pytest.mark.heavy
def test_a_slower_version_is_a_regression_and_a_faster_one_is_not() -> None:
    """Exit code 1 and the verdict for a command that takes ten times as long, 0 for the other direction.

    The written files have the same verdict.
    """
    for baseline, current, verdict, code in (
        ("sleep 0.01", "sleep 0.2", Verdict.REGRESSION, 1),
        ("sleep 0.2", "sleep 0.01", Verdict.IMPROVEMENT, 0),
    ):
        done = run_against(baseline, "-n", "1", "--pairs", "9", "--output", verdict, "--command", current)
        assert done.exit_code == code, done.output
        assert shows(done.stdout, verdict)
        comparison = compared_files(verdict)
        assert comparison.verdict is verdict
        throughput = next(one for one in comparison.metrics if one.key == "throughput")
        assert throughput.unit == "pair"


@pytest.mark.heavy
def test_a_clear_verdict_ends_the_measurement_after_half_of_the_pairs() -> None:
    """Of 12 planned pairs 6 are measured, with the part of the error that belongs to an interim look."""
    done = run_against("sleep 0.01", "--pairs", "12", "-n", "1", "--", "sleep", "0.3")
    assert done.exit_code == 1, done.output
    assert messages(done.stderr) == ["the verdict is clear after 6 of 12 pairs"]
    assert [len(snapshots(side)) for side in SIDES] == [6, 6]
    assert {one.metadata.tags["pair"] for one in snapshots("current")} == {f"{n}/12" for n in range(1, 7)}
    assert compared_files().verdict is Verdict.REGRESSION


@pytest.mark.slow
def test_fewer_than_ten_pairs_have_no_interim_look() -> None:
    """All of them are measured, although the verdict is clear before."""
    done = run_against("sleep 0.01", "--pairs", "9", "-n", "1", "--", "sleep", "0.2")
    assert [len(snapshots(side)) for side in SIDES] == [9, 9]
    assert messages(done.stderr) == []


@pytest.mark.slow
def test_the_first_runs_of_both_commands_are_not_measured() -> None:
    """Without warm-up runs, each command runs once before the first pair, so that caches are filled."""
    old, new = script("old", "echo old >> order"), script("new", "echo new >> order")
    assert run_against(old, "--pairs", "2", "-n", "1", "--", new).exit_code == 0
    assert Path("order").read_text().split() == ["old", "new", "old", "new", "new", "old"]


# -- where the versions come from ------------------------------------------------------------------------


@pytest.mark.slow
def test_the_commit_of_the_baseline_is_never_head_by_mistake() -> None:
    """The baseline has no commit, or the one of --against-commit. HEAD is the current version's."""
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "init", "-q", "-b", "topic", "."], check=True)
    hashes = []
    for message in ("first", "second"):
        subprocess.run(["git", *author, "commit", "-q", "--allow-empty", "-m", message], check=True)
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        hashes.append(head.stdout.strip())
    few = ("--pairs", "2", "-n", "1")
    assert run_against("true", *few, "--output", "a", "--", "true").exit_code == 0
    assert (
        run_against("true", *few, "--output", "b", "--against-commit", "HEAD~1", "--", "true").exit_code == 0
    )
    for folder, commit in (("a", None), ("b", hashes[0])):
        for one in snapshots("baseline", folder):
            assert (one.metadata.commit, one.metadata.branch) == (commit, None)
            assert ("commit_date" in one.metadata.tags) is (commit is not None)
        for one in snapshots("current", folder):
            assert (one.metadata.commit, one.metadata.branch) == (hashes[1], "topic")


@pytest.mark.slow
def test_comparisons_are_not_mixed() -> None:
    """A second comparison into the same folder measures nothing, and says what to do."""
    few = ("--pairs", "2", "-n", "1")
    assert run_against("true", *few, "--", "true").exit_code == 0
    done = run_against("true", *few, "--", *("touch", "ran"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "'snapshots/baseline' has snapshots already" in done.stderr
    assert "pass another --output, or remove the folder" in " ".join(done.stderr.split())
    assert not Path("ran").exists()
    assert [len(snapshots(side)) for side in SIDES] == [2, 2]
    assert run_against("true", *few, "--output", "other", "--", "true").exit_code == 0


# -- what fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--against", "true"], "missing command"),
        (["--against", "", "--", "touch", "ran"], "'' is empty: pass a command line"),
        (["--against", "a 'b", "--", "touch", "ran"], "No closing quotation"),
        (["--against", "true", "--command", "touch ran", "--command", "touch ran"], "several --command"),
        (["--against", "true", "--parameter-list", "n", "1,2", "--", "touch", "{n}"], "--parameter-list"),
        (["--against", "true", "--name", "a", "--name", "b", "--", "touch", "ran"], "2 names for 1 command"),
        (["--against", "true", "--pairs", "1", "--", "touch", "ran"], "1 is not in the range x>=2"),
        (
            ["--against", "true", "--tag", "pair=1", "--", "touch", "ran"],
            "the tag 'pair' is set by --against",
        ),
        (["--pairs", "3", "--", "touch", "ran"], "--pairs 3 needs a baseline: pass --against COMMAND too"),
        (["--against-commit", "main", "--", "touch", "ran"], "--against-commit main needs a baseline"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_runs_nothing(arguments: list[str], error: str) -> None:
    """Options that do not fit together are one error with exit code 2, before anything runs or is created."""
    done = CliRunner().invoke(app, ["run", *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert error in " ".join(done.stderr.split())
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("warmup", ["0", "1"])
@pytest.mark.parametrize(("baseline", "current"), [("no-such-program", "true"), ("true", "no-such-program")])
def test_a_command_that_cannot_be_started_is_wrong_usage(baseline: str, current: str, warmup: str) -> None:
    """Either of the commands: exit code 2, the reason of the system, and no snapshot."""
    done = run_against(baseline, "--warmup", warmup, "-n", "2", "--", current)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "cannot run 'no-such-program': No such file or directory" in " ".join(done.stderr.split())
    assert [snapshots(side) for side in SIDES] == [[], []]


@pytest.mark.slow
def test_a_failed_run_is_shown_with_its_side_and_pair() -> None:
    """Exit code 1: the failure is shown and counted, and the comparison is printed."""
    flaky = script("flaky", 'echo >> runs; [ "$(wc -l < runs)" != 4 ] || { echo why >&2; exit 3; }')
    done = run_against("true", "--pairs", "3", "-n", "2", "--", flaky)
    assert done.exit_code == 1
    assert messages(done.stderr) == [
        "current, pair 2, run 1 failed: exit code 3",
        "why",
        "Error: 1 of 6 runs of the current command failed, and their times are compared too",
    ]
    assert shows(done.stdout, Verdict.INCONCLUSIVE)
    assert [len(snapshots(side)) for side in SIDES] == [3, 3]
    rates = [one.metrics.custom["operation:flaky/success_rate"] for one in snapshots("current")]
    assert sorted(rates) == [0.5, 1.0, 1.0]


@pytest.mark.slow
def test_a_command_that_always_fails_ends_the_measurement() -> None:
    """A version that only fails is not compared, because failing is fast; --ignore-failure compares it."""
    done = run_against("false", "--pairs", "5", "-n", "2", "--", "true")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "stopped, because every run of baseline, pair 1 failed, after 0 of 5 pairs" in done.stderr
    assert done.stderr.endswith("Error: 2 of 2 runs of the baseline command failed, so nothing is compared\n")
    assert run_against("false", "--ignore-failure", "--pairs", "2", "-n", "2", "--", "true").exit_code == 0


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_keeps_the_earlier_pairs() -> None:
    """If one snapshot of a pair cannot be written, neither is kept; the earlier pairs are compared."""
    breaks = "mv snapshots/baseline kept; touch snapshots/baseline"
    breaking = script("breaking", f'echo >> runs; [ "$(wc -l < runs)" != 4 ] || {{ {breaks}; }}')
    done = run_against("true", "--pairs", "4", "-n", "1", "--", breaking)
    assert done.exit_code == 1
    assert "Error: cannot write a snapshot into 'snapshots/baseline': " in done.stderr
    assert done.stderr.endswith("stopped after 2 of 4 pairs\n")
    assert [len(list(Path(folder).glob("*.json"))) for folder in ("kept", "snapshots/current")] == [2, 2]
    assert shows(done.stdout, Verdict.INCONCLUSIVE)


# -- interrupted -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_and_compares_the_finished_pairs(number: int) -> None:
    """Exit code 130, and both sides have the same pairs. Their verdict is that of an interim look."""
    old, new = script("old", "exec sleep 0.02"), script("new", "echo >> runs; exec sleep 0.1")
    with running("--against", old, "--pairs", "40", "-n", "2", "--", new) as process:
        await_lines("runs", 14)
        os.killpg(process.pid, number)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    pairs = [[one.metadata.tags["pair"] for one in snapshots(side)] for side in SIDES]
    assert pairs[0] == pairs[1] == [f"{n}/40" for n in range(1, len(pairs[0]) + 1)]
    assert messages(errors) == [f"interrupted after {len(pairs[0])} of 40 pairs"]
    assert shows(output, compared_files().verdict)
    assert all("interrupted" not in one.metadata.tags for one in snapshots("current"))


@pytest.mark.slow
def test_an_interrupt_before_the_first_pair_writes_nothing() -> None:
    """Exit code 130, no table and no snapshot."""
    with running("--against", script("old", "echo >> runs; exec sleep 60"), "--", "true") as process:
        await_lines("runs", 1)
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "")
    assert messages(errors) == ["interrupted after 0 of 40 pairs"]
    assert [snapshots(side) for side in SIDES] == [[], []]


@pytest.mark.soak
def test_an_interrupt_at_any_moment_leaves_whole_pairs(soak: Callable[[int], int]) -> None:
    """Ctrl-C at random moments, also while snapshots are written, never leaves one side without the other."""
    chance = random.Random(7)
    for turn in range(soak(50)):
        folder = f"turn-{turn}"
        with running(
            "--against", "true", "--pairs", "200", "-n", "1", "--output", folder, "--", "true"
        ) as process:
            while not list(Path(folder, "current").glob("*.json")):
                time.sleep(0.005)
                assert process.poll() is None
            time.sleep(chance.random() * 0.2)
            os.killpg(process.pid, signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        assert process.returncode == 130, (output, errors)
        pairs = [[one.metadata.tags["pair"] for one in snapshots(side, folder)] for side in SIDES]
        assert pairs[0] == pairs[1]
        assert "Traceback" not in errors


# -- the verdicts ------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_real_program_is_judged_rightly(tmp_path: Path, soak: Callable[[int], int]) -> None:
    """A program against itself gives at most one regression in 50; one that got slower is never called equal.

    A slowdown of 10 or 20 % is found where the comparison says that it can find it.
    """
    verdicts_real = pytest.importorskip("benchmarks.verdicts_real")
    program = verdicts_real.calibrate()
    outcomes = [
        (slowdown, verdicts_real.compare_once(program, slowdown, tmp_path / f"{slowdown}-{turn}"))
        for slowdown, times in ((0.0, 50), (0.1, 10), (0.2, 10))
        for turn in range(soak(times))
    ]
    alike = [one for slowdown, one in outcomes if not slowdown]
    slower = [one for slowdown, one in outcomes if slowdown]
    assert sum(one.verdict is Verdict.REGRESSION for one in alike) <= 1, alike
    assert all(one.verdict in (Verdict.REGRESSION, Verdict.INCONCLUSIVE) for one in slower), slower
    quiet = [one for slowdown, one in outcomes if slowdown and one.detectable <= 0.75 * slowdown]
    assert sum(one.verdict is Verdict.REGRESSION for one in quiet) >= 0.5 * len(quiet), quiet


# -- progress ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_bar_shows_the_progress_of_all_blocks() -> None:
    """A terminal shows how many of all runs are done, the time left, and which block is measured."""
    terminal = Terminal()
    process = subprocess.Popen(
        [sys.executable, "-m", "metrics_framework", "run", "--against", "sleep 0.1", "--pairs", "2",
         "-n", "2", "--", "sleep", "0.1"],
        stdout=subprocess.PIPE, stderr=terminal.screen, text=True, env={**os.environ, "COLUMNS": "120"},
    )  # fmt: skip
    process.communicate(timeout=60)
    shown = ESCAPES.sub("", terminal.drawn())
    assert process.returncode == 0
    assert re.search(r"\d/10 0 errors, \S+/s, \S+ s left, current, pair 2, last \S+ ms", shown)


# -- the extra ---------------------------------------------------------------------------------------------

WITHOUT_SCIPY = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("scipy", "numpy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from metrics_framework.cli import main
main()
"""


@pytest.mark.slow
def test_only_a_comparison_needs_the_extra() -> None:
    """Without scipy and numpy, ``run`` works, and --against is one error before anything is measured."""

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", WITHOUT_SCIPY, "run", *arguments],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    assert python("-n", "1", "--", "true").returncode == 0
    done = python("--against", "true", "--output", "other", "--", "touch", "ran")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "Error: the comparison of snapshots needs an optional dependency: pip install"
        " 'metrics-framework[compare]'"
    )
    assert not Path("other").exists()
    assert not Path("ran").exists()
