"""Runs the code blocks of the README and the documentation.

A ``python`` block runs after the earlier blocks of its page. In a ``console`` block, each line that begins
with ``$ `` runs in a shell and must succeed, and so does each line of a ``sh`` block, except that ``pip
install`` only has to name extras that exist. A ``toml`` block must configure a system or declare entry
points. ``<!--- invisible-code-block: python`` prepares what readers have. A block after
``<!--- skip: next -->`` does not run; ``tests/test_docs_blocks.py`` accounts for all that do not run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser

from metrics_framework import MetricsSystem
from metrics_framework.export.endpoints import ENTRY_POINT_GROUP as ENDPOINTS
from metrics_framework.plugins import ENTRY_POINT_GROUP as ADAPTERS


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
        for line in example.parsed.splitlines():
            if line.startswith("$ "):
                run(line[2:])


class ShellBlockParser(CodeBlockParser):
    """Runs the commands of ``sh`` blocks."""

    language = "sh"

    def evaluate(self, example: Example) -> None:
        """Run each command, and fail if one fails or an extra does not exist."""
        for line in example.parsed.splitlines():
            if not line.startswith("pip install "):
                run(line)
            for extras in re.findall(r"metrics-framework\[(.+?)\]", line):
                assert {*extras.split(",")} <= EXTRAS, line


class TomlBlockParser(CodeBlockParser):
    """Uses what ``toml`` blocks declare."""

    language = "toml"

    def evaluate(self, example: Example) -> None:
        """Create a system from a configuration, and fail for a group of entry points that we do not load."""
        declared = tomllib.loads(example.parsed)
        if "project" in declared:
            assert {*declared["project"]["entry-points"]} <= {ADAPTERS, ENDPOINTS}
        else:
            Path("block.toml").write_text(example.parsed, "utf-8")
            MetricsSystem.from_config(file="block.toml", environ={})


ROOT = Path(__file__).parent
FLAMEIQ = ROOT / ".venvs" / "flameiq" / "bin"
EXTRAS = {*tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]}


def run(line: str) -> None:
    """Run a command line, as readers type it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), str(FLAMEIQ), os.environ["PATH"]])
    if line.startswith("flameiq ") and shutil.which("flameiq", path=path) is None:
        pytest.skip("flameiq is not installed")
    subprocess.run(line, shell=True, check=True, env={**os.environ, "PATH": path})  # noqa: S602


pytest_collect_file: Any = Sybil(
    parsers=[
        PythonCodeBlockParser(),
        ConsoleBlockParser(),
        ShellBlockParser(),
        TomlBlockParser(),
        SkipParser(),
    ],
    patterns=["*.md"],
    fixtures=["workplace"],
).pytest()
