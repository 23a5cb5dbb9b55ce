"""Runs benchmarks, prints their tables, keeps their results, and writes them into the documentation.

``python -m benchmarks [ROUNDS] [NAME…]``, by default all of them except those in `ON_REQUEST`.
"""

from __future__ import annotations

import importlib
import sys

from benchmarks import pages
from benchmarks.recording import ROUNDS

BENCHMARKS = {
    "import": "import_time",
    "recording": "recording",
    "facade": "facade",
    "scraping": "scraping",
    "prometheus-text": "prometheus_text",
    "processes": "processes",
    "streaming": "streaming",
    "exporting": "exporting",
    "exporting-otlp": "exporting_otlp",
    "middleware": "middleware",
    "service": "service",
    "snapshots": "snapshots",
    "history": "history",
    "batch": "batch",
    "command": "command_runs",
    "telemetry": "telemetry",
    "verdicts": "verdicts",
    "verdicts-real": "verdicts_real",
    "bucket-accuracy": "bucket_accuracy",
}
"""Name to module; each module is imported when it runs, because it may need libraries of its own."""

IN_ROUNDS = {
    *("recording", "scraping", "prometheus-text", "streaming", "exporting", "exporting-otlp", "service"),
}
"""The benchmarks whose number of rounds can be chosen."""

ON_REQUEST = {"verdicts-real", "bucket-accuracy"}
"""The first takes a quarter of an hour, and the second needs a Prometheus server."""


def main() -> None:
    """Run the benchmarks one after the other: in parallel they would slow each other down."""
    arguments = sys.argv[1:]
    rounds = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else ROUNDS
    unknown = [name for name in arguments if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"unknown benchmark {unknown[0]!r}: use one of {', '.join(BENCHMARKS)}")
    for name in arguments or [name for name in BENCHMARKS if name not in ON_REQUEST]:
        measure = importlib.import_module(f"benchmarks.{BENCHMARKS[name]}").main
        pages.save(name, measure(rounds) if name in IN_ROUNDS else measure())
        pages.write()


if __name__ == "__main__":
    main()
