"""Measures a real piece of work: parsing every module of the running interpreter's standard library.

Each file is one timed operation. It shows what an application does with the library: it takes a
`MetricsSystem`, passes the Protocols on, and ends with a table and a v1 snapshot.

    python examples/parse_stdlib.py [FOLDER]
"""

from __future__ import annotations

import ast
import heapq
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework import (
    MetricCollector,
    MetricsSystem,
    MetricType,
    PerformanceTimer,
    SuccessFailureTracker,
    TimingResult,
)

OPERATION = "stdlib.parse"


class Parser:
    """Parses Python files; it knows the Protocols and no adapter."""

    def __init__(
        self, collector: MetricCollector, timer: PerformanceTimer, tracker: SuccessFailureTracker
    ) -> None:
        self._collector = collector
        self._timer = timer
        self._tracker = tracker

    def parse(self, path: Path, package: str) -> TimingResult | None:
        """Parse one file; return how long it took, or nothing if it cannot be parsed."""
        try:
            with tokenize.open(path) as file:
                source = file.read()
            timing = self._timer.time_operation(OPERATION, lambda: ast.parse(source), {"file": str(path)})
        except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError) as error:
            self._tracker.record_failure(OPERATION, type(error).__name__, {"file": str(path)})
            return None
        self._tracker.record_success(OPERATION)
        tags = {"package": package}
        self._collector.record_timer("package.parse", timing.duration, tags=tags)
        self._collector.record_counter("lines.parsed", source.count("\n"), tags)
        nodes = sum(1 for _ in ast.walk(timing.metadata.pop("result")))
        self._collector.record_histogram("file.nodes", nodes)
        return timing


def sources(folder: Path) -> list[tuple[Path, str]]:
    """Return every module of a library and the sub-package that it belongs to."""
    modules = sorted(path for path in folder.rglob("*.py") if "site-packages" not in path.parts)
    return [
        (path, parts[0] if len(parts := path.relative_to(folder).parts) > 1 else "(top)") for path in modules
    ]


def main(folder: Path) -> None:
    """Parse, then show the table, what was slowest, and where the snapshot is."""
    files = sources(folder)
    if not files:
        sys.exit(f"there is no Python file in {str(folder)!r}")
    console = Console()
    warnings.simplefilter("ignore")  # the library's own tests hold odd code
    with MetricsSystem(latency_metric=OPERATION, custom_metrics=["stdlib.*", "file.*"]) as metrics:
        metrics.resource_monitor.start_resource_monitoring(interval=0.25)
        parser = Parser(metrics.collector, metrics.timer, metrics.tracker)
        progress = track(files, "parsing the standard library", console=Console(stderr=True))
        timings = [timing for path, package in progress if (timing := parser.parse(path, package))]
        snapshot = metrics.snapshot(tags={"python": sys.version.split()[0]})
        show(console, metrics, heapq.nlargest(5, timings, key=lambda timing: timing.duration), folder)
    console.print(str(SnapshotWriter("snapshots").write(snapshot)), highlight=False, soft_wrap=True)


def show(console: Console, metrics: MetricsSystem, slowest: Iterable[TimingResult], folder: Path) -> None:
    """Print the numbers that a person wants to see."""
    stats = metrics.timer.get_timing_stats(OPERATION)
    memory = metrics.aggregator.get_metric_summary("process.memory.usage")
    failures = metrics.tracker.get_failure_breakdown(OPERATION)

    table = Table(title="Parsing the standard library", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("files", f"{stats['count']:,.0f}")
    for label, key in (("mean", "avg"), ("p50", "p50"), ("p95", "p95"), ("p99", "p99"), ("max", "max")):
        table.add_row(label, f"{stats[key]:.2f} ms")
    table.add_row("throughput", f"{stats['rate']:.0f} files/s")
    table.add_row("memory, average and most", f"{memory['avg'] / 1e6:.0f} / {memory['max'] / 1e6:.0f} MB")
    table.add_row("success rate", f"{metrics.tracker.get_success_rate(OPERATION):.2%}")
    for error_type, number in sorted(failures.items()):
        table.add_row(f"  {error_type}", str(number))
    console.print(table)

    table = Table(title="Slowest files", title_justify="left", show_header=False)
    for timing in slowest:
        table.add_row(str(Path(timing.metadata["file"]).relative_to(folder)), f"{timing.duration:.1f} ms")
    console.print(table)

    table = Table(title="Slowest sub-packages, p95", title_justify="left", show_header=False)
    for value in metrics.aggregator.get_top_metrics(MetricType.TIMER, 6):
        if value.tags:
            table.add_row(value.tags["package"], f"{value.value:.1f} ms", f"{value.metadata['count']} files")
    console.print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib")))
