"""The overhead of the facade on a record, with and without rules and tags, and the cost of its results.

The ways to record take turns within one process, a short stretch each, many times: a machine that slows down
slows all of them. A ratio is the median of the ratios of neighbouring stretches.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

from rich.console import Console
from rich.progress import track

from benchmarks.peers import TAGS
from benchmarks.tables import Report
from metrics_adapters.in_memory import InMemoryCollector
from metrics_framework import MetricsSystem
from metrics_framework.protocols import MetricCollector
from metrics_framework.recording import Budgets, Rule, Store

STRETCHES = 60
CALLS = 5_000
SERIES = 10_000
ANSWERS = 7

MORE_TAGS = {**TAGS, "user": "7"}
RULES = [
    Rule("lib.*", rename="vendor.{name}"),
    Rule("noise.*", deny=True),
    Rule("measured", drop_tags=("user",)),
]


def main() -> Report:
    """Measure, print, and return the tables."""
    report = Report()
    _recording(report)
    _adapter(report)
    _answers(report)
    report.show()
    return report


def _recording(report: Report) -> None:
    bare = InMemoryCollector(Store())
    system = MetricsSystem()
    tagged = MetricsSystem(tags={"service": "shop", "environment": "test"})
    ruled = MetricsSystem(rules=RULES)
    scoped = MetricsSystem().with_tags({"tenant": "acme"})
    ways: dict[str, Callable[[int], None]] = {
        "the collector alone": lambda calls: _record(bare, "measured", TAGS, calls),
        "metrics.collector, looked up each time": lambda calls: _record_through(system, calls),
        "with constant tags": lambda calls: _record(tagged.collector, "measured", TAGS, calls),
        "with_tags": lambda calls: _record(scoped, "measured", TAGS, calls),
        "with rules that leave it alone": lambda calls: _record(ruled.collector, "other", TAGS, calls),
        "a rule renames it": lambda calls: _record(ruled.collector, "lib.calls", TAGS, calls),
        "a rule drops a tag (3 given)": lambda calls: _record(ruled.collector, "measured", MORE_TAGS, calls),
        "a rule denies it": lambda calls: _record(ruled.collector, "noise.calls", TAGS, calls),
    }
    took = _in_turns(ways, "the facade's path")
    report.say(f"Medians of {STRETCHES} turns; ratios within a turn.")
    report.table("A counter with 2 tags", ["ns", "of the collector alone"])
    for way in ways:
        report.row(way, _cells(took, way, "the collector alone"))


def _adapter(report: Report) -> None:
    from prometheus_client import CollectorRegistry

    from metrics_adapters.prometheus import PrometheusCollector

    bare, exposed = InMemoryCollector(Store()), PrometheusCollector(CollectorRegistry())
    kinds: dict[str, Callable[[InMemoryCollector, float], None]] = {
        "a counter": lambda collector, number: collector.record_counter("c", 1, TAGS),
        "a gauge": lambda collector, number: collector.record_gauge("g", number, TAGS),
        "a histogram, counted by 15 bounds": lambda collector, number: collector.record_histogram(
            "h", number, TAGS
        ),
    }
    report.table("Recording through PrometheusCollector", ["ns", "of the in-memory one"])
    for what, record in kinds.items():
        ways: dict[str, Callable[[int], None]] = {
            "in memory": partial(_repeat, record, bare),
            what: partial(_repeat, record, exposed),
        }
        report.row(what, _cells(_in_turns(ways, what), what, "in memory"))


def _repeat(record: Callable[[InMemoryCollector, float], None], to: InMemoryCollector, calls: int) -> None:
    for number in range(calls):
        record(to, number % 100 / 10)


def _in_turns(ways: dict[str, Callable[[int], None]], what: str) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {way: [] for way in ways}
    chosen = random.Random(1)  # the first one in a turn is at a disadvantage
    for record in ways.values():
        record(CALLS)
    for _ in track(range(STRETCHES), what, console=Console(stderr=True)):
        for way, record in chosen.sample(list(ways.items()), len(ways)):
            begin = time.perf_counter()
            record(CALLS)
            took[way].append((time.perf_counter() - begin) / CALLS * 1e9)
    return took


def _cells(took: dict[str, list[float]], way: str, base: str) -> list[str]:
    ratio = statistics.median(one / other for one, other in zip(took[way], took[base], strict=True))
    return [f"{statistics.median(took[way]):.0f}", f"{ratio:.2f}"]


def _record(collector: MetricCollector, name: str, tags: dict[str, str], calls: int) -> None:
    for _ in range(calls):
        collector.record_counter(name, 1, tags)


def _record_through(system: MetricsSystem, calls: int) -> None:
    tags = TAGS
    for _ in range(calls):
        system.collector.record_counter("measured", 1, tags)


def _answers(report: Report) -> None:
    store = Store(budgets=Budgets(series_per_name=SERIES, series=2 * SERIES))
    system = MetricsSystem(collector=InMemoryCollector(store), max_custom=200)
    for number in range(SERIES):
        kind = number % 4
        name, tags = f"metric.{kind}.{number % 80}", {"series": str(number // 80), "kind": "a"}
        if kind == 0:
            system.collector.record_counter(name, number, tags)
        elif kind == 1:
            system.collector.record_gauge(name, number, tags)
        elif kind == 2:
            for value in range(5):
                system.collector.record_histogram(name, number + value, tags)
        else:
            for value in range(5):
                system.collector.record_timer(name, number + value, tags=tags)
    with system.measure("operation"):
        pass
    answers: dict[str, Callable[[], object]] = {
        "snapshot, 200 custom keys": system.build_snapshot,
        "dashboard: overview": lambda: system.create_dashboard_data("overview"),
        "dashboard: performance": lambda: system.create_dashboard_data("performance"),
        "dashboard: errors": lambda: system.create_dashboard_data("errors"),
        "dashboard: resources": lambda: system.create_dashboard_data("resources"),
        "health": system.get_system_health,
        "export, prometheus text": lambda: system.aggregator.export_metrics("prometheus"),
    }
    report.table(f"A result of a system with {SERIES} series, in milliseconds", ["median", "fastest"])
    for what, ask in answers.items():
        took = []
        for _ in range(ANSWERS):
            gc.collect()
            begin = time.perf_counter()
            ask()
            took.append((time.perf_counter() - begin) * 1e3)
        report.row(what, [f"{statistics.median(took):.0f}", f"{min(took):.0f}"])


if __name__ == "__main__":
    main()
