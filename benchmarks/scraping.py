"""The cost of a scrape, beside other libraries.

Each measurement is a process of its own, and the libraries take turns. Times are the CPU time of the thread
that answers, so that a busy machine counts less; the block of an event loop is wall time.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from rich.console import Console
from rich.progress import track

from benchmarks.peers import environment
from benchmarks.scraping_workers import PEERS
from benchmarks.tables import Report

ROUNDS = 3
BASE = "prometheus_client"
SERIES = {"counter, 100000": "100 000 counters", "histogram, 10000": "10 000 histograms"}
IN_A_LOOP = {"histogram, 2000": "2 000 histograms", "counter, 100000": "100 000 counters"}
MOMENTS = {
    "first": "first scrape",
    "changed": "every value changed since the last one",
    "crowded": "every value changed three times just before",
    "rested": "every value changed three times, a second before",
    "unchanged": "nothing changed",
}


def main(rounds: int = ROUNDS) -> Report:
    """Measure everything, print it, and return it."""
    jobs = [(peer, "scrape", case) for case in SERIES for peer in PEERS]
    jobs += [(peer, "stall", case) for case in IN_A_LOOP for peer in PEERS]
    once = [(peer, "peak", case) for case in SERIES for peer in PEERS]
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for peer, measure, case in track([*jobs * rounds, *once], "scraping", console=Console(stderr=True)):
        result = _run(peer, measure, case)
        if result is not None:
            found.setdefault((peer, measure, case), []).append(result)
    report = Report()
    measured = "One round" if rounds == 1 else f"Medians of {rounds} rounds"
    report.say(f"Python {sys.version.split()[0]}. {measured}.")
    report.table("A scrape: milliseconds of CPU (ratio to prometheus_client)", list(PEERS))
    for case, what in SERIES.items():
        for key, moment in MOMENTS.items():
            report.row(f"{what}, {moment}", _cells(found, "scrape", case, key))
    report.table("A scrape just after three records a series, relative to one a second later", list(PEERS))
    for case, what in SERIES.items():
        report.row(what, _against(found, case, "crowded", "rested"))
    report.table("Through the ASGI application: milliseconds of CPU (ratio)", list(PEERS))
    for case, what in IN_A_LOOP.items():
        report.row(f"{what}, {MOMENTS['changed']}", _cells(found, "stall", case, "changed"))
        report.row(f"{what}, all of it within a second", _cells(found, "stall", case, "crowded"))
    report.table("Longest block of an event loop by a scrape, in milliseconds (ratio)", list(PEERS))
    for case, what in IN_A_LOOP.items():
        report.row(f"{what}, first scrape", _cells(found, "stall", case, "first"))
        report.row(f"{what}, later", _cells(found, "stall", case, "later"))
    report.table("Additional memory of a scrape, in MB (ratio)", list(PEERS))
    for case, what in SERIES.items():
        for key in ("first", "later"):
            report.row(f"{what}, {key} scrape", _cells(found, "peak", case, key))
    report.show()
    return report


def _run(peer: str, measure: str, case: str) -> dict[str, float] | None:
    command = [sys.executable, "-m", "benchmarks.scraping_workers", peer, measure, case]
    done = subprocess.run(command, env=environment(peer), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{peer}: {measure} {case}: {done.stderr}")
    result: dict[str, float] | None = json.loads(done.stdout)
    return result


def _cells(
    found: dict[tuple[str, str, str], list[dict[str, float]]], measure: str, case: str, key: str
) -> list[str]:
    values = {
        peer: statistics.median(result[key] for result in found[peer, measure, case])
        for peer in PEERS
        if (peer, measure, case) in found
    }
    return [
        f"{values[peer]:.1f} ({values[peer] / values[BASE]:.3f})" if peer in values else "–" for peer in PEERS
    ]


def _against(
    found: dict[tuple[str, str, str], list[dict[str, float]]], case: str, key: str, other: str
) -> list[str]:
    return [
        f"{statistics.median(result[key] / result[other] for result in found[peer, 'scrape', case]):.2f}"
        for peer in PEERS
    ]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
