"""A batch of a million files beside tracekit's: recording, summary, JSON and CSV, in time and memory.

Each runs in a process and an environment of its own, one after the other, and the interpreter is the same.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.batch_worker import STAGES
from benchmarks.tables import Report

FILES = 1_000_000
ROUNDS = 3

ROOT = Path(__file__).parent.parent
PEERS = ROOT / ".venvs" / "peers" / "bin" / "python"
LIBRARIES = {"tracekit": str(PEERS), "metrics_framework": sys.executable}


def main(rounds: int = ROUNDS, files: int = FILES) -> Report:
    """Measure, print, and return the tables."""
    if not PEERS.exists():
        sys.exit(f"{PEERS.relative_to(ROOT)} is missing: `make bench` installs it")
    results: dict[str, list[dict[str, dict[str, float]]]] = {library: [] for library in LIBRARIES}
    turns = [library for _ in range(rounds) for library in LIBRARIES]
    for library in track(turns, "batches", console=Console(stderr=True)):
        results[library].append(_run(library, files))
    report = Report()
    runs = "one run of each" if rounds == 1 else f"medians of {rounds} runs of each"
    report.say(f"Python {sys.version.split()[0]}. A batch of {files:,} files, 1 % of which fail; {runs}.")
    _table(report, "seconds of the processor", results, "seconds", 1.0)
    _table(report, "MB that it grew by so far", results, "bytes", 1e6)
    report.show()
    return report


def _table(
    report: Report,
    title: str,
    results: dict[str, list[dict[str, dict[str, float]]]],
    what: str,
    unit: float,
) -> None:
    report.table(f"Batch: {title} (ratio to tracekit)", list(LIBRARIES))
    for stage in STAGES:
        values = [statistics.median(each[what][stage] for each in results[library]) for library in LIBRARIES]
        report.row(stage, [f"{value / unit:.3g} ({value / values[0]:.3f})" for value in values])


def _run(library: str, files: int) -> dict[str, dict[str, float]]:
    # tracekit runs without our package and its dependencies.
    command = [LIBRARIES[library], str(ROOT / "benchmarks" / "batch_worker.py"), library, str(files)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])
    environment = {**os.environ, "PYTHONPATH": path} if library != "tracekit" else None
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    result: dict[str, dict[str, float]] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    main()
