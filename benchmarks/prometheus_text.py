"""The cost of Prometheus text on each export path, relative to prometheus_client with the same data.

``python -m benchmarks.prometheus_text [ROUNDS]``

All paths take turns in one process, so the load of the machine counts the same for each. Times are the CPU
time of the thread, of the fastest turn. The last two columns are `generate_latest` over samples that exist
already: those of prometheus_client, and ours. No collector on a registry can be faster. An operation has one
sample more here, the failures that begin at 0.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from rich.console import Console
from rich.progress import track

from benchmarks.tables import Report
from metrics_adapters.prometheus import Exposition, PrometheusCollector
from metrics_framework import MetricsSystem
from metrics_framework.recording.buckets import default_bounds
from metrics_framework.values import MetricUnit

ROUNDS = 3
TURNS = 5
BOUNDS = default_bounds(MetricUnit.SECONDS)
KINDS = {"counter": ("counters", 10_000), "timer": ("timers", 2_000), "operation": ("operations", 1_000)}
MOMENTS = {"first": "first text", "changed": "every value changed", "unchanged": "nothing changed"}
PATHS = (
    "endpoint",
    "export_metrics",
    "generate_latest over our collector",
    "over ready samples",
    "over our ready samples",
)
BASE = "prometheus_client"


def main(rounds: int = ROUNDS) -> Report:
    """Measure everything, print it, and return it."""
    found: dict[str, list[dict[str, dict[str, float]]]] = {kind: [] for kind in KINDS}
    for kind in track([*KINDS] * rounds, "prometheus-text", console=Console(stderr=True)):
        command = [sys.executable, "-m", "benchmarks.prometheus_text", "measure", kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{kind}: {done.stderr}")
        found[kind].append(json.loads(done.stdout))
    report = Report()
    report.say(
        f"Python {sys.version.split()[0]}. Rounds: {rounds} (medians), of {TURNS} turns each (the fastest)."
    )
    report.table("Prometheus text: CPU time, relative to prometheus_client", [*PATHS])
    for kind, (what, number) in KINDS.items():
        for moment, when in MOMENTS.items():
            cells = [
                f"{statistics.median(each[moment][path] / each[moment][BASE] for each in found[kind]):.3f}"
                for path in PATHS
            ]
            report.row(f"{number:_} {what}, {when}".replace("_", " "), cells)
    report.show()
    return report


def measure(kind: str) -> dict[str, dict[str, float]]:
    """Return milliseconds of CPU by moment and path."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    theirs, registry = CollectorRegistry(), CollectorRegistry()
    system = MetricsSystem(collector=PrometheusCollector(registry))
    exposition = Exposition(system.collector.store)
    record = _recorder(kind, system, theirs)
    texts: dict[str, Callable[[], object]] = {
        BASE: lambda: generate_latest(theirs),
        PATHS[0]: exposition.render,
        PATHS[1]: lambda: system.aggregator.export_metrics("prometheus"),
        PATHS[2]: lambda: generate_latest(registry),
    }
    times: dict[str, dict[str, list[float]]] = {moment: {} for moment in MOMENTS}
    for turn in range(TURNS):
        record()
        for moment in ("changed" if turn else "first", "unchanged"):
            _time(texts, times[moment])
            # Collected only now: each path above must be the first to read the values.
            ready = {
                PATHS[3]: partial(generate_latest, _Ready(theirs)),
                PATHS[4]: partial(generate_latest, _Ready(registry)),
            }
            _time(ready, times[moment])
    return {moment: {path: min(all_) for path, all_ in by_path.items()} for moment, by_path in times.items()}


def _time(texts: Mapping[str, Callable[[], object]], times: dict[str, list[float]]) -> None:
    """Add the milliseconds of CPU of each path."""
    for path, text in texts.items():
        start = time.thread_time_ns()
        text()
        times.setdefault(path, []).append((time.thread_time_ns() - start) / 1e6)


class _Ready:
    """Returns the families that a registry had."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._families = list(registry.collect())

    def collect(self) -> list[Any]:
        return self._families


def _recorder(
    kind: str, system: MetricsSystem[Any, Any, Any, Any, Any], theirs: CollectorRegistry
) -> Callable[[], None]:
    """Return a function that records into each series of both libraries once."""
    number = KINDS[kind][1]
    every = [{"route": f"/r{place // 10}", "method": f"m{place % 10}"} for place in range(number)]
    if kind == "counter":
        counter = Counter("requests", "help", ["route", "method"], registry=theirs)

        def record() -> None:
            for tags in every:
                counter.labels(**tags).inc()
                system.collector.increment("requests", tags)

    elif kind == "timer":
        histogram = Histogram("wait_seconds", "help", ["route", "method"], registry=theirs, buckets=BOUNDS)

        def record() -> None:
            for tags in every:
                histogram.labels(**tags).observe(0.3)
                system.collector.record_timer("wait", 300, tags=tags)

    else:
        pairs = [
            (
                Histogram(f"o{place}_duration_seconds", "help", registry=theirs, buckets=BOUNDS),
                Counter(f"o{place}_operations", "help", ["outcome", "error_type"], registry=theirs),
            )
            for place in range(number)
        ]

        def record() -> None:
            for place, (durations, outcomes) in enumerate(pairs):
                durations.observe(0.3)
                outcomes.labels("success", "").inc()
                with system.measure(f"o{place}"):
                    pass

    return record


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
