"""How close PromQL's `histogram_quantile` comes to the quantiles of the process, with the default buckets.

It needs a Prometheus server, as `make servers` downloads it, which scrapes 100 000 values of each
distribution. The values have a fixed seed, so each run prints the same table.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.tables import Report
from metrics_adapters.prometheus import serve
from metrics_framework import MetricsSystem, MetricUnit
from tests.servers.programs import find, missing
from tests.servers.prometheus import running_prometheus

VALUES = 100_000
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def main() -> Report:
    """Record, scrape and query everything, print the table, and return it."""
    program = find("prometheus")
    if program is None:
        sys.exit(missing("prometheus"))
    report = Report()
    report.table("`histogram_quantile` (deviation from the process's own)", list(SHARES))
    system = MetricsSystem()
    random_numbers = random.Random(1)
    for place, (unit, draw) in enumerate(DISTRIBUTIONS.values()):
        system.collector.describe(f"d{place}", unit=unit)
        for _ in range(VALUES):
            system.collector.record_histogram(f"d{place}", draw(random_numbers))
    with (
        tempfile.TemporaryDirectory() as folder,
        running_prometheus(program, Path(folder)) as server,
        serve(0, metrics=system) as endpoint,
    ):
        server.add_target("accuracy", f"127.0.0.1:{endpoint.port}")
        server.wait_until("up", bool)
        server.wait_until("d0_seconds_count", bool)
        for place, (name, (unit, _)) in enumerate(DISTRIBUTIONS.items()):
            summary = system.aggregator.get_metric_summary(f"d{place}")
            cells = []
            for key, share in SHARES.items():
                query = f"histogram_quantile({share}, d{place}_{unit.value}_bucket)"
                ((_, found),) = server.wait_until(query, bool)  # a scrape that fails hides the values
                cells.append(f"{found:.3g} ({(found / summary[key] - 1) * 100:+.0f} %)")
            report.row(name, cells)
    report.show()
    return report


Draw = Callable[[random.Random], float]

DISTRIBUTIONS: dict[str, tuple[MetricUnit, Draw]] = {
    "a cache: log-normal, median 0.8 ms": (
        MetricUnit.SECONDS,
        lambda numbers: 0.0008 * numbers.lognormvariate(0, 0.6),
    ),
    "a web request: log-normal, median 40 ms": (
        MetricUnit.SECONDS,
        lambda numbers: 0.04 * numbers.lognormvariate(0, 0.8),
    ),
    "fast and slow: 90 % near 20 ms, 10 % near 700 ms": (
        MetricUnit.SECONDS,
        lambda numbers: (0.02 if numbers.random() < 0.9 else 0.7) * numbers.lognormvariate(0, 0.3),
    ),
    "constant: 120 ms ± 5 %": (MetricUnit.SECONDS, lambda numbers: numbers.gauss(0.12, 0.006)),
    "a job: exponential, mean 45 s": (MetricUnit.SECONDS, lambda numbers: numbers.expovariate(1 / 45)),
    "a response: log-normal, median 6 kB": (
        MetricUnit.BYTES,
        lambda numbers: 6_000 * numbers.lognormvariate(0, 1.2),
    ),
    "an upload: Pareto, from 100 kB": (
        MetricUnit.BYTES,
        lambda numbers: 100_000 * numbers.paretovariate(1.3),
    ),
}

if __name__ == "__main__":
    main()
