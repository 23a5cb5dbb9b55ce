"""Stormlog in separate processes, from the environment in which `make test` installs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PEERS = ROOT / ".venvs" / "peers"
PYTHON = PEERS / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
LATER = PEERS / "later"
"""A folder with the Stormlog that knows schema 4; 0.3.9, whose projection is ours, loads 3 at most."""


def require(path: Path) -> None:
    """Skip if a peer is not installed, except in CI, where this is a mistake."""
    if not path.exists():
        missing = f"{path.relative_to(ROOT)} is missing: `make test` installs it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)


class Projector:
    """Stormlog's projection, one event at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, case: dict[str, Any]) -> dict[str, str]:
        """Return Stormlog's result for a case; see ``stormlog_peer.py``."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        answer: dict[str, str] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def projector() -> Iterator[Projector]:
    """Run Stormlog 0.3.9, which has the same projection."""
    require(PYTHON)
    program = Path(__file__).with_name("stormlog_peer.py")
    with subprocess.Popen(
        [PYTHON, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Projector(process)
        assert process.stdin
        process.stdin.close()


def later_stormlog(program: str, *arguments: str | Path) -> str:
    """Run a program with an interpreter that has the Stormlog of schema 4, and return its output."""
    require(LATER)
    done = subprocess.run(
        [PYTHON, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(LATER)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
