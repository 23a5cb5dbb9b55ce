"""Runs the code blocks of the README and the documentation.

A ``python`` block runs after the earlier blocks of its page. In a ``console`` block, each line that begins
with ``$ `` runs in a shell and must succeed. A block after ``<!--- skip: next -->`` does not run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser


@pytest.fixture(scope="module")
def workplace() -> Iterator[None]:
    """Run a page's blocks in an empty folder, and delete it afterwards."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


class ConsoleBlockParser(CodeBlockParser):
    """Runs the commands of ``console`` blocks."""

    language = "console"

    def evaluate(self, example: Example) -> None:
        """Run each command, and fail if one fails."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for line in example.parsed.splitlines():
            if line.startswith("$ "):
                # A shell, because readers type these lines into one.
                subprocess.run(line[2:], shell=True, check=True, env={**os.environ, "PATH": path})  # noqa: S602


pytest_collect_file: Any = Sybil(
    parsers=[PythonCodeBlockParser(), ConsoleBlockParser(), SkipParser()],
    patterns=["*.md"],
    fixtures=["workplace"],
).pytest()
