"""A batch job: parses every module of the running interpreter's standard library.

It creates a `MetricsSystem` and a batch that records into it, passes the Protocols to the code that does the
work, and ends with tables, a v1 snapshot, and the commands that show numbers live.

    python examples/parse_stdlib.py [FOLDER]
"""

from __future__ import annotations

import ast
import heapq
import sys
import sysconfig
import tokenize
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework import MetricCollector, MetricsSystem, MetricType, MetricUnit
from metrics_framework.batch import BatchMetrics

OPERATION = "stdlib.parse"


class Parser:
    """Parses Python files. It depends on the batch and a Protocol, not on an adapter."""

    def __init__(self, batch: BatchMetrics, collector: MetricCollector) -> None:
        self._batch = batch
        self._collector = collector

    def parse(self, path: Path, package: str) -> None:
        """Parse one file. A file that cannot be parsed is counted as failed, and the batch continues."""
        tree = None
        with self._batch.file(path) as file:
            with tokenize.open(path) as text:
                source = text.read()
            tree = ast.parse(source)
            file.samples = source.count("\n")
        if tree is not None:
            tags = {"package": package}
            self._collector.record_timer("package.parse", file.duration, MetricUnit.SECONDS, tags)
            self._collector.record_histogram("file.nodes", sum(1 for _ in ast.walk(tree)))


def sources(folder: Path) -> list[tuple[Path, str]]:
    """Return every module of a library with its sub-package."""
    modules = sorted(path for path in folder.rglob("*.py") if "site-packages" not in path.parts)
    return [
        (path, parts[0] if len(parts := path.relative_to(folder).parts) > 1 else "(top)") for path in modules
    ]


def main(folder: Path) -> None:
    """Parse the files, then print the tables, the path of the snapshot, and how to see it live."""
    files = sources(folder)
    if not files:
        sys.exit(f"there is no Python file in {str(folder)!r}")
    console = Console()
    warnings.simplefilter("ignore")  # tests of the standard library contain code that warns
    with MetricsSystem(latency_metric=OPERATION, custom_metrics=["stdlib.*", "file.*"]) as metrics:
        metrics.resource_monitor.start_resource_monitoring(interval=0.25)
        with BatchMetrics("stdlib", system=metrics, operation=OPERATION) as batch:
            parser = Parser(batch, metrics.collector)
            for path, package in batch.track(files, title="parsing the standard library"):
                parser.parse(path, package)
        snapshot = metrics.snapshot(tags={"python": sys.version.split()[0]})
        show(console, metrics, batch, folder)
    console.print(str(SnapshotWriter("snapshots").write(snapshot)), highlight=False, soft_wrap=True)
    hint = "See it live: make live, or metrics-framework serve --snapshots snapshots"
    console.print(hint, highlight=False, soft_wrap=True)


def show(console: Console, metrics: MetricsSystem, batch: BatchMetrics, folder: Path) -> None:
    """Print the summary, the slowest files and the slowest sub-packages."""
    summary = batch.summary()
    stats = metrics.aggregator.get_metric_summary(OPERATION)
    memory = metrics.aggregator.get_metric_summary("process.memory.usage")

    table = Table(title="Parsing the standard library", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("files", f"{summary.total_files:,}")
    for label, key in (("mean", "avg"), ("p50", "p50"), ("p95", "p95"), ("p99", "p99"), ("max", "max")):
        table.add_row(label, f"{stats[key]:.2f} ms")
    table.add_row("throughput", f"{summary.throughput.files_per_second:.0f} files/s")
    table.add_row("lines", f"{summary.throughput.samples_per_second:,.0f} lines/s")
    table.add_row("memory, average and maximum", f"{memory['avg'] / 1e6:.0f} / {memory['max'] / 1e6:.0f} MB")
    table.add_row("success rate", f"{1 - summary.errors.rate:.2%}")
    for error_type, number in sorted(summary.errors.by_type.items()):
        table.add_row(f"  {error_type}", str(number))
    console.print(table)

    table = Table(title="Slowest files", title_justify="left", show_header=False)
    parsed = (file for file in batch.files() if file.status == "success")
    for file in heapq.nlargest(5, parsed, key=lambda file: file.duration):
        table.add_row(str(Path(file.filename).relative_to(folder)), f"{file.duration * 1e3:.1f} ms")
    console.print(table)

    table = Table(title="Slowest sub-packages, p95", title_justify="left", show_header=False)
    for value in metrics.aggregator.get_top_metrics(MetricType.TIMER, 6):
        if value.tags:
            table.add_row(value.tags["package"], f"{value.value:.1f} ms", f"{value.metadata['count']} files")
    console.print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib")))
