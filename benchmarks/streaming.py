"""The cost of a stream for the recording thread, and its throughput, beside a queue for each subscriber.

Each measurement is a process of its own, and the ways take turns. The cost of a record is the CPU time of the
recording thread; throughput is in wall time, including the recording.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from rich.console import Console
from rich.progress import track

from benchmarks.streaming_workers import WAYS
from benchmarks.tables import Report

ROUNDS = 3
SUBSCRIBERS = (0, 1, 10)
OURS, PEER = WAYS


def main(rounds: int = ROUNDS) -> Report:
    """Measure everything, print it, and return it."""
    jobs = [(way, "plain", number) for number in SUBSCRIBERS for way in WAYS]
    jobs += [(OURS, "encoded", number) for number in SUBSCRIBERS if number]
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    for job in track(jobs * rounds, "streaming", console=Console(stderr=True)):
        found.setdefault(job, []).append(_run(*job))

    def median(way: str, measure: str, number: int, key: str) -> float:
        return statistics.median(result[key] for result in found[way, measure, number])

    report = Report()
    report.say(f"Python {sys.version.split()[0]}. Medians of {rounds} rounds.")
    report.table("A record of a counter: nanoseconds of CPU (more than without subscribers)", list(WAYS))
    for number in SUBSCRIBERS:
        cells = []
        for way in WAYS:
            took = median(way, "plain", number, "ns")
            cells.append(f"{took:.0f} ({took - median(way, 'plain', 0, 'ns'):+.0f})")
        report.row(_subscribers(number), cells)
    report.table("Events that arrive, a second (ratio)", list(WAYS))
    for number in SUBSCRIBERS[1:]:
        rates = {way: median(way, "plain", number, "per_second") for way in WAYS}
        report.row(
            _subscribers(number), [f"{rate:.0f} ({rate / rates[PEER]:.2f})" for rate in rates.values()]
        )
    for number in SUBSCRIBERS[1:]:
        encoded = median(OURS, "encoded", number, "per_second")
        report.row(f"{_subscribers(number)}, as JSON", [f"{encoded:.0f}", "–"])
    report.show()
    return report


def _subscribers(number: int) -> str:
    return {0: "no subscribers", 1: "1 subscriber"}.get(number, f"{number} subscribers")


def _run(way: str, measure: str, number: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.streaming_workers", way, measure, str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{way}: {measure} {number}: {done.stderr}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
