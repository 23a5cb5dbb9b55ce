"""What it costs to import the library, beside prometheus_client.

Fresh interpreters, the two in turn, so that a machine that slows down slows both. What an empty interpreter
costs is taken off.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.progress import track
from rich.table import Table

ROUNDS = 15
PROGRAMS = {
    "nothing": "pass",
    "prometheus_client": "import prometheus_client",
    "metrics_framework": "import metrics_framework",
    "metrics_framework, a system made": "import metrics_framework; metrics_framework.MetricsSystem()",
}


def main() -> None:
    """Measure and print."""
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in track(range(ROUNDS), "import time", console=Console(stderr=True)):
        for name, program in PROGRAMS.items():
            seconds[name].append(_time(program))
    empty = statistics.median(seconds.pop("nothing"))
    peer = statistics.median(seconds["prometheus_client"]) - empty
    table = Table(title=f"Import, medians of {ROUNDS} fresh interpreters", title_justify="left")
    table.add_column("program")
    table.add_column("time", justify="right")
    table.add_column("of prometheus_client", justify="right")
    for name, values in seconds.items():
        own = statistics.median(values) - empty
        table.add_row(name, f"{own * 1e3:.0f} ms", f"{own / peer:.2f}")
    Console().print(table)


def _time(program: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
