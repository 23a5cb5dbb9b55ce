"""Builds the compiled engine with its internal checks, and loads it.

Run as a script it is the writing half of the tests of shared pages: see `host`.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@cache
def debug_library() -> Path:
    """Build the engine with ``METRICS_CORE_DEBUG`` and return the path of the shared object."""
    if not (ROOT / "hatch_build.py").exists():
        pytest.skip("the sources are not here: these tests run in the repository")
    folder = Path(mkdtemp(prefix="metrics-debug-core-"))
    environment = {**os.environ, "METRICS_FRAMEWORK_DEBUG_CORE": "1"}
    environment.pop("LD_PRELOAD", None)  # the compiler is not under test
    built = subprocess.run(
        [sys.executable, "hatch_build.py", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = list(folder.glob("_core*"))
    if not found:
        if os.environ.get("METRICS_FRAMEWORK_COMPILED") == "1":
            raise AssertionError(built.stdout + built.stderr)
        pytest.skip("this machine has no compiler")
    return found[0]


def load(path: Path) -> ModuleType:
    """Load the engine at a path, beside the one that the library uses."""
    spec = importlib.util.spec_from_file_location("metrics_framework.recording._core", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Owner:
    """A metric that takes every number."""

    name = "metric"

    def number(self, value: Any, signed: bool) -> Any:
        """Return the number."""
        return value

    def milliseconds(self, value: Any, unit: object) -> Any:
        """Return the duration."""
        return value

    def error_type(self, error_type: Any) -> Any:
        """Admit the error type."""
        return error_type

    def readmit(self, series: Any) -> Any:
        """Take the series in again."""
        return series.tag_set.add(series)


def new_series(core: ModuleType, home: Any, kind: str, publish: Any = None) -> Any:
    """Return a live series without tags: of a class name's first half and with a slot of its own.

    Its key in a shared page is that half of the class name.
    """
    slot_kind = {"Histogram": "distribution", "Timer": "distribution"}.get(kind, kind.lower())
    tag_set = core.TagSet(Owner(), (), kind.encode())
    slot = core.Slot(home, slot_kind, publish)
    return tag_set.add(getattr(core, f"{kind}Series")(tag_set, (), slot))


def write_forever(core: ModuleType, page: str) -> None:
    """Record a pattern at full speed into a shared page, until this process is killed."""
    home = core.Core()
    home.share(page)
    histogram, counter = new_series(core, home, "Histogram"), new_series(core, home, "Counter")
    for value in range(1, 1001):  # one round of the pattern, so that all blocks are there
        histogram.observe(value)
        counter.add(value)
    os.write(1, f"{os.getpid()}\n".encode())
    core.debug_write(histogram, counter, -1.0)


def host(library: str) -> None:
    """Fork a process that writes forever for each path on standard input, and print its process id."""
    core = load(Path(library))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children leave at once
    for line in sys.stdin:
        if os.fork() == 0:
            try:
                write_forever(core, line.strip())
            finally:
                os._exit(1)


if __name__ == "__main__":
    host(sys.argv[1])
