"""The output in docs/testing.md is real."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "testing.md"


def blocks(language: str) -> list[str]:
    """Return the page's code blocks of a language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def comparable(text: str) -> str:
    """Return a text without durations and trailing spaces, which differ between runs."""
    return re.sub(r" +$", "", re.sub(r"\d+\.\d+(e-\d+)? ms", "… ms", text), flags=re.MULTILINE)


@pytest.mark.heavy
def test_the_failure_looks_as_shown(tmp_path):
    """The conftest and the test module of the page produce the failure that the page shows."""
    conftest, module, *_ = blocks("python")
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_checkout.py").write_text(module)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert comparable(blocks("text")[0]) in comparable(done.stdout)


def test_the_table_looks_as_shown(capsys):
    """The page's last example prints the table below it."""
    namespace: dict[str, object] = {}
    for block in blocks("python")[-2:]:
        exec(block, namespace)
    assert capsys.readouterr().out == blocks("text")[-1]
