"""The cost of importing the library, beside prometheus_client.

Fresh interpreters, the two in turn, so that a machine that slows down slows both. The cost of an
empty interpreter is subtracted.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.progress import track

from benchmarks.tables import Report

ROUNDS = 15
PROGRAMS = {
    "nothing": "pass",
    "prometheus_client": "import prometheus_client",
    "metrics_framework": "import metrics_framework",
    "metrics_framework, a system made": "import metrics_framework; metrics_framework.MetricsSystem()",
}


def main() -> Report:
    """Measure, print, and return the table."""
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in track(range(ROUNDS), "import time", console=Console(stderr=True)):
        for name, program in PROGRAMS.items():
            seconds[name].append(_time(program))
    empty = statistics.median(seconds.pop("nothing"))
    peer = statistics.median(seconds["prometheus_client"]) - empty
    report = Report()
    report.say(f"Medians of {ROUNDS} fresh interpreters, what an empty one costs taken off.")
    report.table("Import", ["time", "of prometheus_client"])
    for name, values in seconds.items():
        own = statistics.median(values) - empty
        report.row(name, [f"{own * 1e3:.0f} ms", f"{own / peer:.2f}"])
    report.show()
    return report


def _time(program: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
