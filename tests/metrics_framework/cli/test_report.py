"""``metrics-framework report`` as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from metrics_framework.cli.app import app
from tests.metrics_framework.report.sample_runs import write_history, write_run

pytest.importorskip("scipy")
pytest.importorskip("vl_convert")

pytestmark = pytest.mark.slow


def report(*arguments: object) -> Result:
    """Run the command."""
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the snapshots of both versions."""
    folder = tmp_path_factory.mktemp("snapshots")
    write_history(folder / "main", jobs=12, shift_at=99)
    for number in range(12, 15):
        write_run(folder / "new", number, factor=1.4, branch="topic")
    return folder


def test_two_folders(folder: Path, tmp_path: Path) -> None:
    """BASE -- CURRENT writes the report, prints its path and conclusion, and ends with 0 at a regression."""
    output = tmp_path / "report.html"
    result = report(folder / "main", "--", folder / "new", "-o", output)
    assert (result.exit_code, result.stdout) == (0, f"{output}\n")
    assert result.stderr.startswith("Regression: latency.p95 +")
    html = output.read_text("utf-8")
    assert "Regression: latency.p95 is" in html
    assert "3 runs of <bdi>topic</bdi> against 12 runs of <bdi>main</bdi>" in html
    assert html.count("<figure") >= 3  # the history of twelve jobs is drawn, without --history


def test_a_baseline_from_a_history(folder: Path, tmp_path: Path) -> None:
    """With --history, the newest runs of the branch are the baseline, and earlier ones are drawn."""
    (new,) = sorted((folder / "new").glob("*.json"))[:1]
    output = tmp_path / "report.html"
    result = report("--history", folder / "main", "--branch", "main", "--last", 5, new, "-o", output)
    assert result.exit_code == 0, result.output
    html = output.read_text("utf-8")
    assert "1 run of <bdi>topic</bdi> against 5 runs of <bdi>main</bdi>" in html
    assert "13 jobs from 2026-09-01" in html
    assert "earlier" in html


def test_the_file_is_replaced(folder: Path, tmp_path: Path) -> None:
    """A second report replaces the first one, and the same snapshots make the same report."""
    output = tmp_path / "report.html"
    output.write_text("old")
    first, second = sorted((folder / "main").glob("*.json"))[:2]
    reports = []
    for _ in range(2):
        assert report(first, second, "-o", output).exit_code == 0
        reports.append(output.read_bytes())
    assert reports[0] == reports[1]
    assert reports[0].startswith(b"<!DOCTYPE html>")


def test_wrong_usage_names_the_remedy(folder: Path, tmp_path: Path) -> None:
    """Paths that are missing or no snapshots end with 2, a side without runs with 3; both say why."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text("{}")
    for arguments, message, code in (
        ((folder / "main",), "one path is given", 2),
        ((folder / "main", "--"), "no CURRENT is given", 2),
        (("--", folder / "new"), "no BASE is given", 2),
        ((folder / "main", "--", tmp_path / "empty"), "no snapshot in", 3),
        (("--history", folder / "main", "--branch", "none", folder / "new"), "none", 3),
        ((folder / "main", "--", tmp_path / "bad.json"), "bad.json", 2),
        ((folder / "main", "--", tmp_path / "missing.json"), "missing.json", 2),
    ):
        result = report(*arguments, "-o", tmp_path / "r.html")
        assert (result.exit_code, message in result.output) == (code, True), result.output
    assert not (tmp_path / "r.html").exists()


def test_an_output_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    """A folder that does not exist ends with 1 and an error that names the file."""
    first, second = sorted((folder / "main").glob("*.json"))[:2]
    result = report(first, second, "-o", tmp_path / "missing" / "report.html")
    assert result.exit_code == 1
    assert "report.html" in result.output


@pytest.mark.parametrize("package", ["scipy", "vl_convert"])
def test_a_missing_extra_is_one_error(folder: Path, tmp_path: Path, package: str) -> None:
    """Without the extra, the command ends with 2 and the command that installs it."""
    first, second = sorted((folder / "main").glob("*.json"))[:2]
    code = f"import sys; sys.modules[{package!r}] = None; from metrics_framework.cli import main; main()"
    arguments = ["report", str(first), str(second), "-o", str(tmp_path / "r.html")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'metrics-framework[compare]'" in done.stderr
