"""The cost of a snapshot of a large system, and how much it slows an application down.

The application records with and without a writer in turns, so that a machine that slows down slows both; a
ratio is the median of the ratios of neighbouring turns.
"""

from __future__ import annotations

import gc
import random
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.peers import TAGS
from benchmarks.tables import Report
from metrics_adapters.in_memory import InMemoryCollector
from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework import MetricsSystem
from metrics_framework.protocols import MetricCollector
from metrics_framework.recording import Budgets, Store

SERIES = 10_000
VALUES = 200
ROUNDS = 7
TURNS = 9
CALLS = 500_000


def main() -> Report:
    """Measure, print, and return the tables."""
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        _large(report, Path(folder) / "large")
        _beside(report, Path(folder) / "beside")
    report.show()
    return report


def _system(max_custom: int) -> MetricsSystem:
    """Return a system of counters, gauges, histograms, timers and tracked operations in equal parts."""
    store = Store(budgets=Budgets(series_per_name=SERIES, series=2 * SERIES))
    system = MetricsSystem(collector=InMemoryCollector(store), max_custom=max_custom)
    collector, chosen = system.collector, random.Random(4)
    for number in range(SERIES):
        name, tags = f"metric.{number % 80}", {"series": str(number // 80)}
        if number % 5 == 0:
            collector.record_counter(name, number, tags)
        elif number % 5 == 1:
            collector.record_gauge(name, number, tags)
        elif number % 5 == 2:
            for _ in range(VALUES):
                collector.record_histogram(name, chosen.lognormvariate(3, 1), tags)
        elif number % 5 == 3:
            for _ in range(VALUES):
                collector.record_timer(name, chosen.lognormvariate(3, 1), tags=tags)
        else:
            store.record_operation(name, tags, number, None)
    return system


def _large(report: Report, folder: Path) -> None:
    report.say(f"Medians of {ROUNDS}; two fifths of the series hold {VALUES} lognormal values each.")
    report.table(f"A snapshot of {SERIES} series", ["milliseconds", "memory at most", "file", "sidecar"])
    for max_custom in (200, 10 * SERIES):
        _written(report, SnapshotWriter(folder), _system(max_custom))


def _written(report: Report, writer: SnapshotWriter, system: MetricsSystem) -> None:
    snapshot, left = system.build_snapshot()
    keys = f"{len(snapshot.metrics.custom)} keys"
    took, peak = _measured(system.build_snapshot)
    report.row(f"built, {keys}", [f"{took:.0f}", _bytes(peak), "–", "–"])
    took, peak = _measured(lambda: writer.write(snapshot))
    size = writer.write(snapshot).stat().st_size
    report.row(f"written, {keys}", [f"{took:.0f}", _bytes(peak), _bytes(size), "–"])
    took, peak = _measured(lambda: writer.write(snapshot, left.distributions))
    path = writer.write(snapshot, left.distributions)
    sizes = [_bytes(path.with_suffix(ending).stat().st_size) for ending in (".json", ".dist")]
    what = f"written, {keys}, {len(left.distributions)} distributions"
    report.row(what, [f"{took:.0f}", _bytes(peak), *sizes])


def _measured(work: Callable[[], object]) -> tuple[float, int]:
    """Return the milliseconds and the peak bytes of a call."""
    took = []
    for _ in range(ROUNDS):
        gc.collect()
        begin = time.perf_counter()
        work()
        took.append((time.perf_counter() - begin) * 1e3)
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return statistics.median(took), peak


def _bytes(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.1f} kB"


def _beside(report: Report, folder: Path) -> None:
    store = Store()
    collector = InMemoryCollector(store)
    for number in range(1_000):
        collector.record_counter("other", 1, {"series": str(number)})
    ways = {"no snapshots": None, "a snapshot every second": 1.0, "ten a second": 0.1}
    took: dict[str, list[float]] = {way: [] for way in ways}
    _record(collector)
    for _ in track(range(TURNS), "recording beside a writer", console=Console(stderr=True)):
        for way, interval in ways.items():
            system = MetricsSystem(collector=collector, outputs=[SnapshotWriter(folder, max_bytes=10**6)])
            if interval is not None:
                system.initialize_metrics({"collection_interval": interval})
            begin = time.perf_counter()
            _record(collector)
            took[way].append((time.perf_counter() - begin) / CALLS * 1e9)
            system.shutdown_metrics()
    report.table("A counter with 2 tags, beside snapshots of 1000 series", ["ns", "of no snapshots"])
    for way, each in took.items():
        ratio = statistics.median(one / other for one, other in zip(each, took["no snapshots"], strict=True))
        report.row(way, [f"{statistics.median(each):.0f}", f"{ratio:.2f}"])


def _record(collector: MetricCollector) -> None:
    for _ in range(CALLS):
        collector.record_counter("measured", 1, TAGS)


if __name__ == "__main__":
    main()
