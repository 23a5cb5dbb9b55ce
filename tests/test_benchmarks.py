"""The recording benchmark runs: measurements, tables and the picture. Its numbers are not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent

CASES = "counter|bound|timer by id|a function|measure|histogram of 3|windows"
"""Each way to measure, and each way to record at least once: a case starts a process for each library."""

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (ROOT / "benchmarks").is_dir(), reason="the wheel does not contain the benchmarks"
    ),
]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that a quick run writes."""
    file = tmp_path_factory.mktemp("benchmark") / "numbers.json"
    arguments = ["--quick", "--only", CASES, "--json", str(file)]
    command = [sys.executable, "-m", "benchmarks.recording", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    return file


def test_every_case_is_measured(numbers: Path) -> None:
    """Only a library that is not installed, or an engine that is not built, is missing."""
    results = json.loads(numbers.read_text())
    broken = {
        where: why
        for where, why in results["failures"].items()
        if "ModuleNotFoundError" not in why and "is not built" not in why
    }
    assert not broken
    pure = "metrics_framework (pure)"
    for title, times in results["times"].items():
        if title != "an empty loop":
            assert times["prometheus_client"] > 0, title
            assert pure in times or title == "counter, labels by position", title
    assert all(row[pure]["bytes"] > 0 for row in results["memory"].values())


def test_the_picture_is_drawn_from_the_same_numbers(numbers: Path, tmp_path: Path) -> None:
    """The picture is well-formed XML and names the libraries."""
    picture = tmp_path / "picture.svg"
    command = [sys.executable, "-m", "benchmarks.plot", str(numbers), str(picture)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    texts = {element.text for element in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")}
    assert {"prometheus_client", "in pure Python", "counter, 2 000 series"} <= texts
