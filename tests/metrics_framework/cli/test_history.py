"""`history` and `diff` as a user runs them: charts, tables, formats and errors."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from metrics_framework.cli.app import app
from tests.metrics_adapters.snapshot_writer.histories import document, write
from tests.terminal import Terminal


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Work in an empty folder, independent of the terminal that the tests run in."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def snapshots(tmp_path: Path) -> Path:
    """Return a folder with thirty runs of two branches."""
    for number in range(30):
        said = {"branch": "main" if number % 3 else "dev", "commit": f"{number:040x}"}
        content = document(number, f"run {number}", {"p95": 100.0 + number}, **said, **{"a[b:/x]": number})
        content["metrics"]["throughput"] = 5.5
        write(tmp_path / "snapshots" / f"{number:02}.json", content)
    return tmp_path / "snapshots"


def cli(*arguments: object) -> Result:
    """Run the command line without a terminal."""
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def cells(line: str) -> list[str]:
    """Return the cells of a table line."""
    return [cell for cell in line.split("  ") if cell.strip()]


# -- history -----------------------------------------------------------------------------------------------


def test_runs_and_metrics_are_listed(snapshots: Path) -> None:
    """Without a metric, the newest runs are listed, and every metric with minimum and maximum."""
    result = cli("history", snapshots)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "30 runs, the newest 20" in result.stdout
    assert "2026-01-01 00:29" in result.stdout
    assert "2026-01-01 00:09" not in result.stdout
    rows = {cells(line)[0].strip(): cells(line) for line in result.stdout.splitlines() if cells(line)}
    assert [cell.strip() for cell in rows["latency.p95"][1:5]] == ["30", "129 ms", "100 ms", "129 ms"]
    assert [cell.strip() for cell in rows["throughput"][1:5]] == ["30", "5.50/s", "5.50/s", "5.50/s"]
    assert "custom.a[b:/x]" in rows


def test_a_metric_without_a_terminal_is_a_line_per_run(snapshots: Path) -> None:
    """Each line has time, value, commit and branch of a run, oldest first, and there is no chart."""
    result = cli("history", snapshots, "latency.p95", "--branch", "main", "--last", 2)
    assert result.stdout.splitlines() == [
        "latency.p95, 2 runs",
        "2026-01-01T00:28:00+00:00  128 ms  000000000000  main",
        "2026-01-01T00:29:00+00:00  129 ms  000000000000  main",
    ]


@pytest.mark.heavy
@pytest.mark.parametrize(("encoding", "dots"), [("utf-8", "⠀⡠"), ("ascii", "*")])
def test_a_metric_on_a_terminal_is_a_chart(snapshots: Path, encoding: str, dots: str) -> None:
    """The chart has axes, dates and statistics; it is drawn in ASCII if the terminal is not UTF-8."""
    environ = {**os.environ, "TERM": "dumb", "COLUMNS": "80", "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "metrics_framework", "history", str(snapshots), "latency.p95"]
    with Terminal() as terminal:
        screen = terminal.screen
        done = subprocess.run(command, stdout=screen, stdin=screen, env=environ, check=False)
        text = terminal.drawn()
    assert done.returncode == 0
    lines = text.splitlines()
    assert lines[0] == "latency.p95, 30 runs"
    assert lines[1].startswith("129 ms ")
    assert lines[10].startswith("100 ms ")
    assert any(dot in text for dot in dots)
    assert lines[12].split() == ["2026-01-01", "00:00", "2026-01-01", "00:29"]
    assert "last 129 ms   min 100 ms   p50 114 ms" in text
    assert all(len(line) <= 80 for line in lines)


def test_json_and_csv_hold_all_runs(snapshots: Path) -> None:
    """JSON and CSV hold every run with its metadata, and all digits."""
    asked = ("history", snapshots, "a", "--branch", "dev")
    document = json.loads(cli(*asked, "--format", "json").stdout)
    assert [one["value"] for one in document["values"]] == list(range(0, 30, 3))
    assert document["summary"]["max"] == 27
    assert document["values"][0]["path"] == str(snapshots / "00.json")
    rows = list(csv.DictReader(io.StringIO(cli(*asked, "--format", "csv").stdout)))
    assert [float(row["value"]) for row in rows] == list(range(0, 30, 3))
    assert rows[0]["key"] == "custom.a[b:/x]"
    assert rows[1]["timestamp"] == "2026-01-01T00:03:00+00:00"
    runs = json.loads(cli("history", snapshots, "--format", "json").stdout)["runs"]
    assert runs[7]["metrics"] == {"latency.p95": 107.0, "throughput": 5.5, "custom.a[b:/x]": 7.0}
    rows = list(csv.DictReader(io.StringIO(cli("history", snapshots, "--format", "csv").stdout)))
    assert (len(rows), rows[7]["latency.p95"], rows[7]["branch"]) == (30, "107.0", "main")


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        (("--commit", f"{7:040x}"), ["run 7"]),
        (("--tag", "os=linux"), ["other"]),
        (("--environment", "staging"), ["other"]),
        (("--commit", "abcdef0"), ["other"]),
        (("--environment", "ci", "--last", "1"), ["run 29"]),
    ],
)
def test_runs_are_filtered(snapshots: Path, options: tuple[str, ...], runs: list[str]) -> None:
    """By commit or head of a pull request, tags and environment; then the newest are taken."""
    write(
        snapshots / "x.json",
        document(99, "other", environment="staging", tags={"os": "linux", "head_commit": "abcdef01"}, hits=1),
    )
    listed = json.loads(cli("history", snapshots, "--format", "json", *options).stdout)["runs"]
    assert [run["run_id"] for run in listed] == runs


def test_old_releases_that_are_measured_later_come_first(tmp_path: Path) -> None:
    """Runs are sorted and shown by the date of their commit, or else by their own time."""
    dates = {"v2": "2025-12-02T00:00:00+00:00", "v1": "2025-12-01T00:00:00+00:00", "odd": "yesterday"}
    for minute, (name, date) in enumerate(dates.items()):
        content = document(minute, name, commit=name, tags={"commit_date": date}, hits=minute)
        write(tmp_path / "old" / f"{name}.json", content)
    result = cli("history", tmp_path / "old", "hits")
    lines = [line.split() for line in result.stdout.splitlines()[1:]]
    assert [(line[0][:10], line[2]) for line in lines] == [
        ("2025-12-01", "v1"),
        ("2025-12-02", "v2"),
        ("2026-01-01", "odd"),
    ]
    values = json.loads(cli("history", tmp_path / "old", "hits", "--format", "json").stdout)
    assert values["summary"]["last"] == 2
    assert [one["timestamp"][:16] for one in values["values"]][:2] == ["2026-01-01T00:01", "2026-01-01T00:00"]
    newest = json.loads(cli("history", tmp_path / "old", "--last", 2, "--format", "json").stdout)["runs"]
    assert [run["run_id"] for run in newest] == ["v2", "odd"]


def test_an_unknown_metric_is_one_line(snapshots: Path) -> None:
    """The error quotes the name, states where it was searched and suggests the nearest."""
    result = cli("history", snapshots, "latency.p59")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: no metric 'latency.p59' in the 30 runs of {str(snapshots)!r}. Did you mean 'latency.p95'?\n"
    )
    result = cli("history", snapshots, "latency.p95", "--branch", "none")
    where = f"the 0 selected runs of {str(snapshots)!r}"
    assert result.stderr == f"Error: no metric 'latency.p95' in {where}: other runs have it\n"
    result = cli("history", snapshots, "--branch", "none")
    assert (result.exit_code, result.stdout, result.stderr) == (
        1,
        "",
        f"Error: no run matches in {str(snapshots)!r}\n",
    )


def test_missing_snapshots_are_an_error(tmp_path: Path) -> None:
    """A missing folder is wrong usage; an empty folder has no snapshot."""
    assert cli("history", "nowhere").exit_code == 2
    result = cli("history", tmp_path)
    assert (result.exit_code, result.stderr) == (1, f"Error: no snapshot in {str(tmp_path)!r}\n")
    assert cli("history", tmp_path, "--tag", "novalue").exit_code == 2


def test_an_invalid_file_is_reported_once_and_skipped(snapshots: Path) -> None:
    """The report is on standard error; control characters from files are escaped."""
    write(snapshots / "bad.json", b"{")
    write(snapshots / "esc.json", document(99, "esc", branch="\x1b[31mred", hits=1))
    result = cli("history", snapshots)
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"{snapshots / 'bad.json'}: skipped: document: is not JSON")
    assert "\x1b" not in result.stdout
    assert r"\x1b[31mred" in result.stdout


def test_mixed_timers_are_reported(tmp_path: Path) -> None:
    """If latency comes from several timers, a note says so, and how to select one."""
    for number, timer in enumerate(["parse", "render", "parse"]):
        tags = {"latency_metric": timer}
        write(tmp_path / f"{number}.json", document(number, str(number), {"p95": 1.0}, tags=tags, a=1))
    note = (
        "Note: latency and throughput come from different timers: 'parse' in 2 runs, 'render' in 1 run;"
        " select one with --tag latency_metric=…\n"
    )
    assert cli("history", tmp_path, "latency.p95").stderr == note
    assert cli("history", tmp_path).stderr == note
    assert cli("history", tmp_path, "a").stderr == ""
    assert cli("history", tmp_path, "latency.p95", "--tag", "latency_metric=parse").stderr == ""
    assert "different timers" in cli("diff", tmp_path / "0.json", tmp_path / "1.json").stderr


# -- diff --------------------------------------------------------------------------------------------------


def pair(tmp_path: Path, a: dict[str, Any], b: dict[str, Any]) -> tuple[Path, Path]:
    """Write two snapshots."""
    return (
        write(tmp_path / "a.json", document(0, "a", **a)),
        write(tmp_path / "b.json", document(1, "b", **b)),
    )


def test_a_diff_has_every_metric_and_no_verdict(tmp_path: Path) -> None:
    """Changes are in percent of A; a zero in A and a metric in one snapshot only are stated in words."""
    before = {"latency": {"p95": 200.0}, "same": 3, "zero": 0, "none": 0, "gone": 1, "slow": 1000}
    after = {"latency": {"p95": 150.0}, "same": 3, "zero": 2, "none": 0, "new": 1, "slow": 1000.1}
    result = cli("diff", *pair(tmp_path, before, after))
    assert (result.exit_code, result.stderr) == (0, "")
    rows = {
        cells(line)[0].strip(): [cell.strip() for cell in cells(line)[1:]]
        for line in result.stdout.splitlines()
        if cells(line)
    }
    assert rows["latency.p95"] == ["200 ms", "150 ms", "-25.0 %"]
    assert rows["custom.same"] == ["3", "3", "0 %"]
    assert rows["custom.zero"] == ["0", "2", "from 0"]
    assert rows["custom.none"] == ["0", "0", "0 %"]
    assert rows["custom.gone"] == ["1", "only in A"]
    assert rows["custom.new"] == ["1", "only in B"]
    assert rows["custom.slow"] == ["1,000", "1,000", "+0.01 %"]


def test_a_diff_in_json_has_all_digits(tmp_path: Path) -> None:
    """A change that is not a number is null."""
    result = cli("diff", *pair(tmp_path, {"x": 4, "y": 0, "z": 1}, {"x": 5, "y": 1}), "--format", "json")
    assert json.loads(result.stdout)["metrics"] == [
        {"key": "custom.x", "a": 4.0, "b": 5.0, "change_percent": 25.0},
        {"key": "custom.y", "a": 0.0, "b": 1.0, "change_percent": None},
        {"key": "custom.z", "a": 1.0, "b": None, "change_percent": None},
    ]


def test_diff_takes_the_newest_snapshot_of_a_folder(snapshots: Path) -> None:
    """Likewise for a file with one snapshot per line."""
    lines = write(snapshots.parent / "h.jsonl", json.dumps(document(0, "old", {"p95": 258.0})).encode())
    result = cli("diff", snapshots, lines, "--format", "json")
    compared = json.loads(result.stdout)
    assert compared["a"] == str(snapshots / "29.json")
    latency = next(one for one in compared["metrics"] if one["key"] == "latency.p95")
    assert (latency["a"], latency["b"], latency["change_percent"]) == (129.0, 258.0, 100.0)


def test_a_diff_with_an_invalid_file_is_an_error(tmp_path: Path, snapshots: Path) -> None:
    """Each violation is a line with the file's name; an empty folder has no snapshot."""
    bad = write(tmp_path / "bad.json", {"metrics": {"throughput": -1, "cpu_percent": 150}})
    result = cli("diff", snapshots, bad)
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 2)
    assert result.stderr.startswith(f"{bad}: metrics.throughput: must be")
    (tmp_path / "empty").mkdir()
    result = cli("diff", tmp_path / "empty", snapshots)
    assert (result.exit_code, result.stderr) == (1, f"Error: no snapshot in {str(tmp_path / 'empty')!r}\n")
