"""The batch example, run as a reader runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from metrics_framework.snapshots import read_snapshot

EXAMPLE = Path(__file__).parents[2] / "examples" / "parse_stdlib.py"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a folder with two packages of the standard library and three files that are not Python."""
    folder = tmp_path / "library"
    for package in (json, tomllib):
        assert package.__file__ is not None
        source = Path(package.__file__).parent
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "broken.py").write_text("def broken(:\n")
    (folder / "bytes.py").write_bytes(b"text = '\xff\xfe'\n")
    (folder / "binary.py").write_bytes(b"x = 1\0\n")
    (folder / "site-packages").mkdir()
    (folder / "site-packages" / "other.py").write_text("def broken(:\n")
    return folder


def run_example(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the example in a folder."""
    variables = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "COLUMNS")}
    return subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def rows(text: str) -> dict[str, list[str]]:
    """Return the rows of all printed tables, with any kind of lines."""
    cells = [
        [cell.strip() for cell in re.split(r"[│|]|\s{2,}", line) if cell.strip()]
        for line in text.splitlines()
    ]
    return {row[0]: row[1:] for row in cells if len(row) > 1}


@pytest.mark.slow
def test_every_file_is_parsed_and_shown(tmp_path: Path, library: Path) -> None:
    """The tables show the number of files, failures by type, and the slowest files."""
    done = run_example(tmp_path, str(library))
    assert done.returncode == 0, done.stderr
    table = rows(done.stdout)
    good = [path for package in ("json", "tomllib") for path in (library / package).glob("*.py")]
    failures = {name: int(cells[0]) for name, cells in table.items() if name.endswith("Error")}
    assert sum(failures.values()) == 3
    assert failures["SyntaxError"] >= 1
    assert table["success rate"] == [f"{len(good) / (len(good) + 3):.2%}"]
    for statistic in ("mean", "p50", "p95", "p99", "max"):
        assert re.fullmatch(r"[\d,]+\.\d\d ms", table[statistic][0])
    assert re.fullmatch(r"[\d,]+ files/s", table["throughput"][0])
    assert re.fullmatch(r"\d+ / \d+ MB", table["memory, average and maximum"][0])
    slowest = [name for name in table if "/" in name]
    assert len(slowest) == 5
    assert set(slowest) <= {str(path.relative_to(library)) for path in good}
    packages = {name: cells[-1] for name, cells in table.items() if cells[-1].endswith(" files")}
    assert packages == {
        package: f"{len(list((library / package).glob('*.py')))} files" for package in ("json", "tomllib")
    }


@pytest.mark.slow
def test_the_last_lines_are_a_valid_snapshot_and_how_to_see_it(tmp_path: Path, library: Path) -> None:
    """The snapshot is in the folder ``snapshots`` of the working folder, and agrees with the table."""
    done = run_example(tmp_path, "library")
    *_, name, hint = done.stdout.splitlines()
    assert hint == "See it live: make live, or metrics-framework serve --snapshots snapshots"
    path = tmp_path / name
    assert list((tmp_path / "snapshots").iterdir()) == [path]
    snapshot = read_snapshot(path)
    table = rows(done.stdout)
    metrics = snapshot.metrics
    expected = {"python": sys.version.split()[0], "latency_metric": "stdlib.parse"}
    assert snapshot.metadata.tags.items() >= expected.items()
    assert metrics.latency is not None
    assert metrics.latency.p95 is not None
    assert table["p95"] == [f"{metrics.latency.p95:.2f} ms"]
    assert metrics.memory_mb is not None
    assert 5 < metrics.memory_mb < 1_000
    good = sum(1 for package in ("json", "tomllib") for _ in (library / package).glob("*.py"))
    assert metrics.custom["operation:stdlib/parse/success_rate"] == pytest.approx(good / (good + 3))
    assert metrics.custom["file/nodes/count"] == good
    assert not any(key.startswith(("package", "lines")) for key in metrics.custom)


@pytest.mark.slow
def test_progress_is_not_part_of_the_output(tmp_path: Path, library: Path) -> None:
    """Progress goes to standard error; standard output has tables and a path without escape codes."""
    done = run_example(tmp_path, str(library))
    assert "parsing the standard library" in done.stderr
    assert "parsing the standard library" not in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_folder_without_python_files_is_one_line(tmp_path: Path, folder: str) -> None:
    """Without Python files the example prints one line, writes no snapshot and fails."""
    (tmp_path / "empty").mkdir()
    done = run_example(tmp_path, folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"there is no Python file in {folder!r}\n"
    assert not (tmp_path / "snapshots").exists()
