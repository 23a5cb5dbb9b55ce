"""The cost of sharing numbers between processes, beside the multiprocess mode of prometheus_client.

Times are the CPU time of the thread that records or answers.
"""

from __future__ import annotations

import json
import subprocess
import sys

from rich.console import Console
from rich.progress import track

from benchmarks.peers import BASE, OURS, environment
from benchmarks.processes_workers import COUNTERS, DEAD, HISTOGRAMS, LIVE
from benchmarks.tables import Report

RECORDED = ("counter", "bound counter", "bound histogram")


def main() -> Report:
    """Measure everything, print it, and return it."""
    jobs = [(OURS, "record"), (OURS, "scrape"), (BASE, "scrape")]
    found = {job: _run(*job) for job in track(jobs, "processes", console=Console(stderr=True))}
    ours, theirs, records = (found[OURS, "scrape"], found[BASE, "scrape"], found[OURS, "record"])
    report = Report()
    report.say(
        f"Python {sys.version.split()[0]}. {LIVE} live workers. Each worker, also each that was killed, has"
        f" recorded {COUNTERS} counters and {HISTOGRAMS} histograms."
    )
    columns = ["prometheus_client", "metrics_framework"]
    report.table("A scrape: milliseconds of CPU (ratio)", columns)
    for number in DEAD:
        report.row(f"{number} dead workers", _cells(theirs, ours, f"later, {number}", 2))
    report.table("The first scrape after the last of them was killed: milliseconds of CPU (ratio)", columns)
    for number in DEAD[1:]:
        report.row(f"{number} dead workers", _cells(theirs, ours, f"first, {number}", 2))
    report.table("Files of all workers, in MB (ratio)", columns)
    for number in DEAD:
        report.row(f"{number} dead workers", _cells(theirs, ours, f"disk, {number}", 2))
    report.table("Memory of the process that is scraped, in MB (ratio)", columns)
    for number in DEAD:
        report.row(f"{number} dead workers", _cells(theirs, ours, f"memory, {number}", 1))
    report.table("A record: nanoseconds of CPU (ratio)", [*columns, "the same, not shared"])
    for what in RECORDED:
        base, shared, single = (records[f"{what}, {whose}"] for whose in ("theirs", "shared", "single"))
        report.row(what, [f"{each:.0f} ({each / base:.3f})" for each in (base, shared, single)])
    report.show()
    return report


def _run(peer: str, measure: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.processes_workers", peer, measure]
    done = subprocess.run(command, env=environment(peer), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{peer}: {measure}: {done.stderr}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _cells(theirs: dict[str, float], ours: dict[str, float], key: str, digits: int) -> list[str]:
    return [f"{each[key]:.{digits}f} ({each[key] / theirs[key]:.3f})" for each in (theirs, ours)]


if __name__ == "__main__":
    main()
