"""``batch run`` and ``batch stats`` as a user runs them."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result

from metrics_framework.batch import BatchMetrics
from metrics_framework.cli.app import app
from metrics_framework.cli.batch import find_files, recorded_name
from metrics_framework.snapshots import PerformanceSnapshot, read_snapshot
from metrics_framework.snapshots.provenance import machine_tags


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Work in a folder with six files, outside any repository and without a terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.txt", "b c.txt", "[d].txt", "größe.txt", "e.txt", "deep/f.txt"):
        (tmp_path / "in" / name).write_text(name)
    return tmp_path


def invoke(*arguments: str) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(app, ["batch", *arguments], prog_name="metrics-framework")


def rows(text: str) -> dict[str, str]:
    """Return the rows of a printed table."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return {row[0]: row[1] for row in cells if len(row) == 2}


def snapshot_of(result: Result) -> PerformanceSnapshot:
    """Return the snapshot whose path is the last line."""
    return read_snapshot(result.stdout.splitlines()[-1])


FAILING = ["sh", "-c", 'case "$1" in *e.txt) echo "oops: $1" >&2; exit 3;; esac', "sh", "{}"]


def test_every_file_is_processed(workplace: Path) -> None:
    """The table, JSON, CSV and the snapshot agree about the files that match the patterns."""
    result = invoke(
        *("run", "--jobs", "2", "--id", "b", "--json", "out.json", "--csv", "out.csv", "--tag", "k=v"),
        *("in/**/*.txt", "--", *FAILING),
    )
    assert result.exit_code == 1, result.output
    table = rows(result.stdout)
    assert (table["files"], table["succeeded"], table["failed"]) == ("6", "4, 66.67 %", "2")
    assert table["exit code 3"] == "2"
    document = json.loads(Path("out.json").read_text())
    names = {"in/a.txt", "in/b c.txt", "in/[d].txt", "in/größe.txt", "in/e.txt", "in/deep/f.txt"}
    assert {file["filename"] for file in document["files"]} == names
    with Path("out.csv").open(newline="") as file:
        failed = {row["filename"]: row["error_message"] for row in csv.DictReader(file) if row["error_type"]}
    assert failed == {"in/größe.txt": "oops: in/größe.txt", "in/e.txt": "oops: in/e.txt"}
    assert all(file["memory_peak_bytes"] > 0 for file in document["files"])
    snapshot = snapshot_of(result)
    assert snapshot.metadata.tags == {"k": "v", "batch": "b", "latency_metric": "sh", **machine_tags()}
    assert snapshot.metrics.latency is not None
    assert snapshot.metrics.custom["operation:sh/success_rate"] == pytest.approx(4 / 6)
    assert "in/e.txt: exit code 3\n  oops: in/e.txt\n" in result.stderr
    assert "sh: 6 of 6 done, 2 errors" in result.stderr


def test_stats_are_shown_by_id_journal_or_export() -> None:
    """All three show the same batch."""
    invoke("run", "--id", "b", "--json", "out.json", "in/*.txt", "--", "true", "{}")
    shown = [invoke("stats", which) for which in ("b", "batches/b.jsonl", "out.json")]
    assert {result.exit_code for result in shown} == {0}
    assert all(rows(result.stdout)["files"] == "5" for result in shown)
    assert shown[0].stdout == shown[1].stdout
    printed = json.loads(invoke("stats", "--json", "b").stdout)
    assert printed == json.loads(Path("out.json").read_text())["summary"]


def test_quick_files_have_times() -> None:
    """Files of less than a millisecond have an average and percentiles, in a journal and an export."""
    with BatchMetrics("b", journal="batches/b.jsonl") as batch:
        for number in range(1_000):
            batch.record_file(str(number), duration=(number + 1) / 1e7)
    batch.export_json("out.json")
    for which in ("b", "out.json"):
        table = rows(invoke("stats", which).stdout)
        assert table["per file, average"] == "50 µs"
        assert [table[f"per file, {key}"] for key in ("p50", "p95", "p99", "max")] == [
            *("50 µs", "95 µs", "99 µs", "100 µs")
        ]


def test_stats_of_an_unknown_batch_suggest_the_nearest() -> None:
    """The error is one line."""
    invoke("run", "--id", "nightly", "in/*.txt", "--", "true", "{}")
    result = invoke("stats", "nihgtly")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: there is no batch 'nihgtly'. Did you mean 'nightly'?\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in/*.txt"], "missing command: put it after --"),
        (["in/*.txt", "--"], "missing command"),
        (["in/*.txt", "--", "cat"], "the command does not contain {}"),
        (["in/*.nope", "--", "cat", "{}"], "no file matches 'in/*.nope'"),
        (["--", "cat", "{}"], "Missing argument"),
        (["--resume", "in/*.txt", "--", "cat", "{}"], "--resume needs the --id"),
        (["--resume", "--id", "x", "in/*.txt", "--", "cat", "{}"], "there is no batch 'x' to resume"),
        (["--id", "../x", "in/*.txt", "--", "cat", "{}"], "'../x' is not valid: use letters, digits"),
        (["--tag", "k", "in/*.txt", "--", "cat", "{}"], "is not of the form KEY=VALUE"),
        (["in/*.txt", "--", "no-such-program", "{}"], "cannot run 'no-such-program'"),
        (["--state", "in/a.txt/x", "in/*.txt", "--", "cat", "{}"], "cannot open the journal"),
    ],
)
def test_wrong_usage_writes_nothing(arguments: list[str], message: str) -> None:
    """The error states the fault; no journal and no snapshot are written."""
    result = invoke("run", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not list(Path().glob("batches/*"))
    assert not Path("snapshots").exists()


@pytest.mark.slow
def test_a_batch_id_is_used_once() -> None:
    """A second batch with the same ID is rejected; with --resume, finished files are not processed again."""
    command = ["--", "sh", "-c", 'echo "$1" >> done', "sh", "{}"]
    assert invoke("run", "--id", "b", "in/[ab]*.txt", *command).exit_code == 0
    refused = invoke("run", "--id", "b", "in/*.txt", *command)
    assert refused.exit_code == 2
    assert "pass --resume to resume it" in refused.stderr
    assert invoke("run", "--id", "b", "--resume", "in/*.txt", *command).exit_code == 0
    assert sorted(Path("done").read_text().splitlines()) == sorted(find_files(["in/*.txt"]))
    Path("folder").symlink_to("in")
    for patterns in (["in/*.txt"], [str(Path("in/*.txt").absolute()), "./in/a.txt", "folder/*.txt"]):
        nothing = invoke("run", "--id", "b", "--resume", *patterns, *command)
        assert (nothing.exit_code, nothing.stderr) == (0, "no files are left to process\n")
        assert rows(nothing.stdout)["files"] == "5"


def test_the_snapshot_of_a_resumed_batch_has_all_files() -> None:
    """Latency, throughput, memory and success rate include the files of earlier sessions."""
    with BatchMetrics("b", journal="batches/b.jsonl") as batch:
        for number in range(99):
            batch.record_file(str(number), duration=10.0, memory_peak=5_000_000_000)
        batch.record_error("bad", "ValueError", "", 1.0)
    batch.close()
    result = invoke("run", "--id", "b", "--resume", "in/a.txt", "--", "true", "{}")
    assert result.exit_code == 1
    table = rows(result.stdout)
    assert (table["files"], table["per file, p50"], table["per file, p99"]) == ("101", "10 s", "10 s")
    metrics = snapshot_of(result).metrics
    assert metrics.latency is not None
    assert (metrics.latency.p50, metrics.latency.p95, metrics.memory_mb) == (10_000, 10_000, 5_000)
    assert metrics.custom["operation:true/success_rate"] == pytest.approx(100 / 101)
    summary = json.loads(invoke("stats", "--json", "b").stdout)
    assert metrics.throughput == pytest.approx(101 / summary["timing"]["total_duration_seconds"], rel=0.1)


@pytest.mark.slow
def test_failed_files_are_retried_on_request() -> None:
    """With --retry-failed a failed file is processed again, and counts once."""
    command = ["--", "sh", "-c", "test -e ready", "sh", "{}"]
    assert invoke("run", "--id", "b", "in/*.txt", *command).exit_code == 1
    assert invoke("run", "--id", "b", "--resume", "in/*.txt", *command).exit_code == 1
    Path("ready").touch()
    again = invoke("run", "--id", "b", "--retry-failed", "in/*.txt", *command)
    assert again.exit_code == 0
    assert (rows(again.stdout)["files"], rows(again.stdout)["failed"]) == ("5", "0")


def test_a_file_is_retried() -> None:
    """With --retries a failed command runs again; the file counts once, with the last outcome."""
    script = 'echo x >> "$1.tries"; test "$(wc -l < "$1.tries")" -ge 3'
    result = invoke("run", "--retries", "2", "in/a.txt", "--", "sh", "-c", script, "sh", "{}")
    assert result.exit_code == 0
    assert Path("in/a.txt.tries").read_text().count("x") == 3


@pytest.mark.heavy
def test_a_command_that_times_out_is_killed() -> None:
    """With --timeout the command and its child processes are killed, and the file has failed."""
    script = "sleep 60 & echo $! > pid; wait"
    result = invoke("run", "--timeout", "0.3", "in/a.txt", "--", "sh", "-c", script, "{}")
    assert result.exit_code == 1
    assert rows(result.stdout)["TimeoutError"] == "1"
    assert "did not end within 0.3 s" in result.stderr
    assert not psutil.pid_exists(int(Path("pid").read_text()))


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has child subreapers")
def test_a_time_out_ends_detached_processes() -> None:
    """A process in another session, whose parent has ended, ends with the command that started it."""
    for name in ("one", "two"):
        Path(f"in/{name}.dat").touch()
    script = (
        'setsid sh -c "sleep 60 & echo \\$! > $1.pid" & until test -s $1.pid; do sleep 0.01; done; sleep 60'
    )
    result = invoke("run", "--timeout", "1", "in/*.dat", "--", "sh", "-c", script, "sh", "{}")
    assert rows(result.stdout)["TimeoutError"] == "2"
    for name in ("one", "two"):
        assert not psutil.pid_exists(int(Path(f"in/{name}.dat.pid").read_text()))


def test_export_errors_are_reported(workplace: Path) -> None:
    """Exports that cannot be written are reported at the end, after the table."""
    result = invoke("run", "--json", "missing/out.json", "in/a.txt", "--", "true", "{}")
    assert result.exit_code == 1
    assert rows(result.stdout)["files"] == "1"
    assert "Error: cannot write 'missing/out.json': No such file or directory" in result.stderr


def test_names_that_are_not_utf8_are_processed(workplace: Path) -> None:
    """The command gets the name unchanged; the recorded name is escaped."""
    path = os.fsdecode(b"in/\xff.dat")
    Path(path).write_bytes(b"")
    result = invoke("run", "--id", "b", "--csv", "out.csv", "in/*.dat", "--", "test", "-e", "{}")
    assert result.exit_code == 0, result.output
    assert "in/\\udcff.dat" in Path("out.csv").read_text()
    assert recorded_name(path) == "in/\\udcff.dat"
    assert (
        invoke("run", "--id", "b", "--resume", "in/*.dat", "--", "test", "-e", "{}").stderr
        == "no files are left to process\n"
    )


def test_files_are_found_once_and_folders_never() -> None:
    """An existing path is not a pattern; matches of a pattern are sorted; ``**`` includes subfolders."""
    assert find_files(["in/[d].txt", "in/?.txt", "in/a.txt", "in"]) == ["in/[d].txt", "in/a.txt", "in/e.txt"]
    assert "in/deep/f.txt" in find_files(["in/**"])


def test_a_file_with_several_paths_is_processed_once(workplace: Path) -> None:
    """Links, relative and absolute paths, and overlapping patterns lead to one run per file."""
    Path("link.txt").symlink_to("in/a.txt")
    Path("folder").symlink_to("in")
    Path("broken.txt").symlink_to("missing")
    patterns = [
        "in/a.txt",
        "./in/a.txt",
        "in/../in/a.txt",
        "in/a*",
        str(workplace / "in/a.txt"),
        "*.txt",
        "folder/*",
    ]
    found = find_files(patterns)
    assert found[:2] == ["in/a.txt", "broken.txt"]
    assert sorted(found[2:]) == sorted(
        f"folder/{name}" for name in ("b c.txt", "[d].txt", "größe.txt", "e.txt")
    )
    assert find_files(["link.txt", "in/a.txt"]) == ["link.txt"]
    result = invoke("run", *patterns[:5], "link.txt", "--", "sh", "-c", 'echo "$1" >> done', "sh", "{}")
    assert result.exit_code == 0
    assert Path("done").read_text() == "in/a.txt\n"


def test_a_name_with_a_dash_is_not_an_option() -> None:
    """The command gets ``./-…``, in a whole argument and within one; the recorded name is unchanged."""
    Path("-rf").write_text("1\n2\n")
    script = 'printf "%s\\n" "$@" > done'
    command = ["sh", "-c", script, "sh", "{}", "--in={}", "in/a.txt"]
    result = invoke("run", "--csv", "out.csv", "./-r*", "?rf", "--", *command)
    assert result.exit_code == 0
    assert Path("done").read_text().splitlines() == ["./-rf", "--in=./-rf", "in/a.txt"]
    assert invoke("run", "--csv", "out.csv", "?rf", "--", "wc", "-l", "{}").exit_code == 0
    assert Path("out.csv").read_text().splitlines()[1].startswith("-rf,")


@pytest.mark.parametrize("option", ["--resume", "--retry-failed"])
def test_a_batch_is_resumed_with_the_same_command_only(option: str) -> None:
    """Another command is an error that shows both, and the journal stays as it is."""
    assert invoke("run", "--id", "b", "in/a.txt", "--", "test", "-d", "{}").exit_code == 1
    before = Path("batches/b.jsonl").read_bytes()
    for other in (["test", "{}", "-d"], ["test", "-d", "{}", ""], ["cat", "{}"]):
        result = invoke("run", "--id", "b", option, "in/*.txt", "--", *other)
        assert result.exit_code == 2
        assert "the batch 'b' runs \"test -d '{}'\", not " in result.stderr
    assert Path("batches/b.jsonl").read_bytes() == before
    assert invoke("run", "--id", "b", option, "in/a.txt", "--", "test", "-d", "{}").exit_code == 1
    head, _, rest = before.partition(b"\n")  # a journal of an earlier version has no command
    document = json.loads(head)
    assert document.pop("command") == ["test", "-d", "{}"]
    Path("batches/b.jsonl").write_bytes(json.dumps(document, separators=(",", ":")).encode() + b"\n" + rest)
    assert invoke("run", "--id", "b", "--resume", "in/a.txt", "--", "true", "{}").exit_code == 1


@pytest.mark.heavy
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_batch_can_be_resumed(workplace: Path, number: int) -> None:
    """Finished files are kept, running commands are ended, and --resume processes the remaining files."""
    for name in range(30):
        Path(f"in/{name:02}.dat").touch()
    script = 'sleep 0.2; echo "$1" >> done'
    command = [
        *(sys.executable, "-m", "metrics_framework", "batch", "run", "--id", "b", "--jobs", "3", "in/*.dat"),
        *("--", "sh", "-c", script, "sh", "{}"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not Path("done").exists() or Path("done").read_text().count("\n") < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    done = int(rows(output)["files"])
    assert 2 <= done < 20
    assert f"interrupted with {30 - done} of 30 files left" in errors
    assert read_snapshot(output.splitlines()[-1]).metadata.tags["interrupted"] == "true"
    command[5:5] = ["--resume"]
    rest = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert rest.returncode == 0, rest.stderr
    assert rows(rest.stdout)["files"] == "30"
    lines = Path("done").read_text().splitlines()
    assert len(set(lines)) == 30
    assert len(lines) <= 36  # commands that were interrupted may have got that far


@pytest.mark.heavy
def test_a_killed_batch_can_be_resumed(workplace: Path) -> None:
    """SIGKILL loses no finished file."""
    for name in range(20):
        Path(f"in/{name:02}.dat").touch()
    command = [sys.executable, "-m", "metrics_framework", "batch", "run", "--id", "b", "in/*.dat"]
    slow = ["--", "sh", "-c", "test -e ready || sleep 0.1", "{}"]
    process = subprocess.Popen([*command, *slow], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not Path("batches/b.jsonl").exists() or Path("batches/b.jsonl").read_bytes().count(b"\n[") < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = json.loads(invoke("stats", "--json", "b").stdout)["total_files"]
    assert done >= 4
    Path("ready").touch()
    rest = invoke("run", "--id", "b", "--resume", "in/*.dat", *slow)
    assert (rest.exit_code, rows(rest.stdout)["files"]) == (0, "20")
