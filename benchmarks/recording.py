"""What it costs to record, beside the peers.

Each measurement is a process of its own, and the libraries take turns, so that a machine that slows down
slows all of them. Medians of several rounds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from rich.console import Console
from rich.progress import track

from benchmarks.peers import PEERS
from benchmarks.tables import Report

ROUNDS = 3
BASE = "prometheus_client"

CALLS = [
    "counter, 2 tags",
    "counter, fresh strings",
    "counter, random series",
    "counter, no tags",
    "counter, bound",
    "gauge, 2 tags",
    "gauge, random series",
    "gauge step, 2 tags",
    "histogram, 2 tags",
    "histogram, fresh strings",
    "histogram, random series",
    "histogram, bound",
    "timer, bound",
    "timer, by id",
    "timer, measure",
]
MEMORY = ["counter, 100000", "histogram, 10000"]
VALUES = ["histogram of 1", "histogram of 128", "histogram of 10000", "histogram of 1000000"]


def main(rounds: int = ROUNDS) -> Report:
    """Measure everything, print it, and return it."""
    jobs = [(peer, "calls", case) for case in CALLS for peer in PEERS]
    jobs += [(peer, "threads", "8 threads, 100 counters") for peer in PEERS]
    jobs += [(peer, "tail", "") for peer in ("prometheus_client", "metrics_framework")]
    once = [(peer, "memory", case) for case in MEMORY for peer in PEERS]
    once += [("metrics_framework", "values", case) for case in VALUES]
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    empties: list[float] = []
    everything = [job for _ in range(rounds) for job in [*jobs, ("", "empty", "")]] + once
    for peer, measure, case in track(everything, "recording", console=Console(stderr=True)):
        result = _run(peer, measure, case)
        if measure == "empty" and result is not None:
            empties.append(result["ns"])
        elif result is not None:
            found.setdefault((peer, measure, case), []).append(result)
    report = Report()
    empty = statistics.median(empties)
    report.say(f"Python {sys.version.split()[0]}. An empty call: {empty:.0f} ns. Medians of {rounds} rounds.")
    report.table(
        "Recording: nanoseconds a call (ratio to prometheus_client; multiple of an empty call)", list(PEERS)
    )
    for measure, case in [*(("calls", case) for case in CALLS), ("threads", "8 threads, 100 counters")]:
        base_case = "timer, bound" if case in ("timer, by id", "timer, measure") else case
        base = _median(found.get((BASE, measure, base_case)), "ns")
        report.row(case, [_cell(found.get((peer, measure, case)), "ns", base, empty) for peer in PEERS])
    report.table(
        "Slowest of 40 000 histogram records while a reader saturates, in microseconds",
        ["p50", "p99.99", "max"],
    )
    for peer in ("prometheus_client", "metrics_framework"):
        tails = found[peer, "tail", ""]
        report.row(peer, [f"{_median(tails, key):.1f}" for key in ("p50", "p99.99", "max")])
    report.table("Resident bytes a series, recorded into three times and read", list(PEERS))
    for case in MEMORY:
        base = _median(found.get((BASE, "memory", case)), "bytes")
        report.row(case, [_cell(found.get((peer, "memory", case)), "bytes", base, None) for peer in PEERS])
    report.table(
        "Bytes of one histogram by the number of its lognormal values, its window included", ["bytes"]
    )
    for case in VALUES:
        report.row(case, [f"{_median(found['metrics_framework', 'values', case], 'bytes'):.0f}"])
    report.show()
    return report


def _run(peer: str, measure: str, case: str) -> dict[str, float] | None:
    command = [sys.executable, "-m", "benchmarks.workers", peer, measure, case]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{peer}: {measure} {case}: {done.stderr}")
    result: dict[str, float] | None = json.loads(done.stdout)
    return result


def _median(results: list[dict[str, float]] | None, key: str) -> float | None:
    return statistics.median(result[key] for result in results) if results else None


def _cell(results: list[dict[str, float]] | None, key: str, base: float | None, empty: float | None) -> str:
    value = _median(results, key)
    if value is None:
        return "–"
    more = [f"{value / base:.2f}"] if base else []
    more += [f"{value / empty:.0f}×"] if empty else []
    return f"{value:.0f} ({'; '.join(more)})" if more else f"{value:.0f}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
