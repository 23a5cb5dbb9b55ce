"""Runs benchmarks, prints their tables, and writes them into the documentation.

``python -m benchmarks [ROUNDS] [NAME…]``, by default all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    batch,
    command_runs,
    exporting,
    exporting_otlp,
    facade,
    history,
    import_time,
    middleware,
    processes,
    prometheus_text,
    recording,
    scraping,
    service,
    snapshots,
    streaming,
    telemetry,
    verdicts,
)
from benchmarks.tables import Report

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured: {} -->\n", "<!-- end -->\n"

BENCHMARKS: dict[str, Callable[[int], Report]] = {
    "import": lambda _: import_time.main(),
    "recording": recording.main,
    "facade": lambda _: facade.main(),
    "scraping": scraping.main,
    "prometheus-text": prometheus_text.main,
    "processes": lambda _: processes.main(),
    "streaming": streaming.main,
    "exporting": exporting.main,
    "exporting-otlp": exporting_otlp.main,
    "middleware": lambda _: middleware.main(),
    "service": service.main,
    "snapshots": lambda _: snapshots.main(),
    "history": lambda _: history.main(),
    "batch": lambda _: batch.main(),
    "command": lambda _: command_runs.main(),
    "telemetry": lambda _: telemetry.main(),
    "verdicts": lambda _: verdicts.main(),
}


def main() -> None:
    """Run the benchmarks one after the other: in parallel they would slow each other down."""
    arguments = sys.argv[1:]
    rounds = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else recording.ROUNDS
    unknown = [name for name in arguments if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"unknown benchmark {unknown[0]!r}: use one of {', '.join(BENCHMARKS)}")
    for name in arguments or BENCHMARKS:
        write(name, BENCHMARKS[name](rounds))


def write(what: str, report: Report) -> None:
    """Replace the tables of a benchmark in the documentation."""
    text, begin = PAGE.read_text(), BEGIN.format(what)
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        sys.exit(f"{PAGE} has no place for {what!r}: {begin.strip()} … {END.strip()}")
    PAGE.write_text(f"{before}{begin}\n{report.to_markdown()}\n{END}{after}")


if __name__ == "__main__":
    main()
