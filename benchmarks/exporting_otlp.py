"""The cost of an export by OTLP, beside OpenTelemetry's own SDK.

Each measurement is a process of its own, the libraries take turns, and all send to the same receiver on
loopback, which reads and discards. Times are the CPU time of the exporting process.

``python -m benchmarks.exporting_otlp ROUNDS`` measures; with ``PEER CASE URL`` it is such a process and
prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rich.console import Console
from rich.progress import track

from benchmarks.tables import Report

ROUNDS = 3
BASE = "OpenTelemetry SDK"
SERIES = 10_000
CASES = {
    "counter, cumulative": "10 000 counters",
    "histogram, cumulative": "10 000 histograms",
    "counter, delta": "10 000 counters, deltas",
    "histogram, delta": "10 000 histograms, deltas",
}
VALUES = [1.5, 2.25, 3.0, 7.75, 40.0, 41.0, 300.0, 301.5]
"""The values that each histogram records between two exports."""

Record = Callable[[str, str, float], object]
"""Records a number with two tags."""


def main(rounds: int = ROUNDS) -> Report:
    """Measure everything, print it, and return it."""
    jobs = [(peer, case) for case in CASES for peer in PEERS]
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    with _receiver() as url:
        for peer, case in track(jobs * rounds, "exporting", console=Console(stderr=True)):
            command = [sys.executable, "-m", "benchmarks.exporting_otlp", peer, case, url]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{peer}: {case}: {done.stderr}")
            found.setdefault((peer, case), []).append(json.loads(done.stdout))
    report = Report()
    report.say(f"Python {sys.version.split()[0]}. Medians of {rounds} rounds.")
    report.table("An export of 10 000 series by OTLP over HTTP: milliseconds of CPU (ratio)", list(PEERS))
    for case, what in CASES.items():
        for key, moment in {"first": "first export", "changed": "every value changed"}.items():
            values = {peer: statistics.median(one[key] for one in found[peer, case]) for peer in PEERS}
            cells = [f"{values[peer]:.0f} ({values[peer] / values[BASE]:.2f})" for peer in PEERS]
            report.row(f"{what}, {moment}", cells)
    report.show()
    return report


@contextmanager
def _receiver() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/metrics"
        server.shutdown()


def _ours(case: str, url: str) -> tuple[Record, Callable[[], object]]:
    from metrics_adapters.otlp import OtlpExporter
    from metrics_framework import MetricsSystem

    kind, _, temporality = case.partition(", ")
    metrics = MetricsSystem()
    exporter = OtlpExporter(url, temporality="delta" if temporality == "delta" else "cumulative")
    collector = metrics.collector
    record = collector.record_counter if kind == "counter" else collector.record_histogram
    return (
        lambda method, status, value: record("measured", value, {"method": method, "status": status}),
        lambda: exporter.export(metrics),
    )


def _theirs(case: str, url: str) -> tuple[Record, Callable[[], object]]:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
    from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
    from opentelemetry.sdk.metrics.view import (
        ExponentialBucketHistogramAggregation,
        SumAggregation,
        View,
    )

    kind, _, temporality = case.partition(", ")
    wanted = AggregationTemporality[temporality.upper()]
    exporter = OTLPMetricExporter(
        endpoint=url,
        compression=Compression.Gzip,
        preferred_temporality={Counter: wanted, Histogram: wanted},
    )
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=float("inf"))
    aggregation = SumAggregation() if kind == "counter" else ExponentialBucketHistogramAggregation()
    view = View(instrument_name="measured", aggregation=aggregation, aggregation_cardinality_limit=1_000_000)
    meter = MeterProvider([reader], views=[view]).get_meter("benchmark")
    record = (
        meter.create_counter("measured").add
        if kind == "counter"
        else meter.create_histogram("measured").record
    )
    return (
        lambda method, status, value: record(value, {"method": method, "status": status}),
        reader.collect,
    )


PEERS = {"OpenTelemetry SDK": _theirs, "metrics_framework": _ours}


def _measure(peer: str, case: str, url: str) -> dict[str, float]:
    """Return the milliseconds of the first export, and of one after every value changed."""
    record, export = PEERS[peer](case, url)
    values = VALUES if case.startswith("histogram") else VALUES[:1]
    found: dict[str, float] = {}
    for moment in ("first", "changed"):
        for number in range(SERIES):
            for value in values:
                record(f"m{number % 100}", f"s{number // 100}", value)
        begin = time.process_time()
        export()
        found[moment] = (time.process_time() - begin) * 1e3
    return found


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(_measure(*sys.argv[1:])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
