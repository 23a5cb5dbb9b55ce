"""The cost of an export of 10 000 series in each format, beside peers that write the same.

``python -m benchmarks.exporting [ROUNDS]``

Each measurement is a process of its own, and the libraries take turns. Times are the CPU time of the thread
that exports: reading the numbers, writing them in the format, and handing them to the system. Another
thread receives and discards them.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rich.console import Console
from rich.progress import track

from benchmarks.tables import Report

ROUNDS = 3
TURNS = 3
SERIES = 10_000
KINDS = ("counter", "histogram")
FORMATS = {
    "statsd": "StatsD",
    "graphite": "Graphite",
    "influx": "InfluxDB",
    "influx, gzip": "InfluxDB, compressed",
    "webhook": "JSON to a webhook",
    "json": "JSON into a file",
    "jsonl": "JSONL into a file",
    "csv": "CSV into a file",
    "prometheus": "Prometheus' text",
}
PEERS: dict[str, tuple[str, ...]] = {
    "metrics_framework": tuple(FORMATS),
    "OpenTelemetry SDK": ("json", "prometheus"),
    "prometheus_client": ("prometheus",),
}


def main(rounds: int = ROUNDS) -> Report:
    """Measure everything, print it, and return it."""
    jobs = [
        (peer, kind, format)
        for kind in KINDS
        for format in FORMATS
        for peer in PEERS
        if format in PEERS[peer]
    ]
    found: dict[tuple[str, str, str], list[float]] = {}
    for peer, kind, format in track(jobs * rounds, "exporting", console=Console(stderr=True)):
        command = [sys.executable, "-m", "benchmarks.exporting", peer, kind, format]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{peer}: {kind} {format}: {done.stderr}")
        found.setdefault((peer, kind, format), []).append(json.loads(done.stdout))
    report = Report()
    report.say(f"Python {sys.version.split()[0]}. Medians of {rounds} rounds.")
    for kind in KINDS:
        report.table(f"An export of 10 000 {kind}s: milliseconds of CPU (ratio)", list(PEERS))
        for format, what in FORMATS.items():
            times = {
                peer: statistics.median(found[peer, kind, format]) for peer in PEERS if format in PEERS[peer]
            }
            ours = times["metrics_framework"]
            report.row(
                what,
                [f"{times[peer]:.0f} ({times[peer] / ours:.2f})" if peer in times else "–" for peer in PEERS],
            )
    report.show()
    return report


def measure(peer: str, kind: str, format: str) -> float:
    """Return milliseconds of CPU of one export: the median of a few, each after every value changed."""
    makers = {
        "metrics_framework": _ours,
        "OpenTelemetry SDK": _opentelemetry,
        "prometheus_client": _prometheus_client,
    }
    record, export = makers[peer](kind, format)
    times = []
    for _ in range(TURNS):
        for number in range(SERIES):
            record({"route": f"/r{number // 10}", "method": f"m{number % 10}"})
        start = time.thread_time_ns()
        export()
        times.append((time.thread_time_ns() - start) / 1e6)
    return statistics.median(times)


Pair = tuple[Callable[[dict[str, str]], object], Callable[[], object]]


def _ours(kind: str, format: str) -> Pair:
    from metrics_adapters.in_memory import InMemoryCollector
    from metrics_framework import MetricsSystem
    from metrics_framework.export.endpoints import make_endpoint
    from metrics_framework.recording import Store

    system = MetricsSystem(collector=InMemoryCollector(Store(default_buckets=_BUCKETS)))
    _, output = make_endpoint(_url(format))
    export = getattr(output, "export")  # noqa: B009 - all of these take the system
    if kind == "counter":
        return lambda tags: system.collector.increment("requests", tags), lambda: export(system)
    return lambda tags: system.collector.record_histogram("latency", 0.3, tags), lambda: export(system)


_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


def _url(format: str) -> str:
    folder = tempfile.mkdtemp()
    if format in ("json", "jsonl", "csv"):
        return f"file://{folder}/all.{format}"
    if format == "prometheus":
        return f"textfile://{folder}/all.prom"
    if format == "statsd":
        return f"statsd://127.0.0.1:{_swallowing(socket.SOCK_DGRAM)}"
    if format == "graphite":
        return f"graphite://127.0.0.1:{_swallowing(socket.SOCK_STREAM)}"
    server = f"127.0.0.1:{_answering()}"
    if format == "webhook":
        return f"webhook+http://{server}/"
    return f"influx+http://{server}?db=app&gzip={'yes' if 'gzip' in format else 'no'}"


def _swallowing(kind: socket.SocketKind) -> int:
    server = socket.socket(socket.AF_INET, kind)
    server.bind(("127.0.0.1", 0))

    def swallow() -> None:
        if kind == socket.SOCK_DGRAM:
            while True:
                server.recv(65_536)
        server.listen()
        while True:
            caller, _ = server.accept()
            with caller, suppress(OSError):
                while caller.recv(1 << 20):
                    pass

    threading.Thread(target=swallow, daemon=True).start()
    port: int = server.getsockname()[1]
    return port


def _answering() -> int:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def _opentelemetry(kind: str, format: str) -> Pair:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.metrics.view import View

    path = f"{tempfile.mkdtemp()}/all.{format}"
    views = [
        View(instrument_name=name, aggregation_cardinality_limit=1_000_000)
        for name in ("requests", "latency")
    ]
    if format == "prometheus":
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from prometheus_client import CollectorRegistry, write_to_textfile

        registry = CollectorRegistry()
        reader = PrometheusMetricReader(registry=registry, scope_info_enabled=False)
        provider = MeterProvider(metric_readers=[reader], views=views)
        export = lambda: write_to_textfile(path, registry)  # noqa: E731
    else:
        memory = InMemoryMetricReader()
        provider = MeterProvider(metric_readers=[memory], views=views)

        def export() -> None:
            data = memory.get_metrics_data()
            with open(path, "w") as file:  # noqa: PTH123
                file.write(data.to_json() if data is not None else "")

    meter = provider.get_meter("benchmark")
    if kind == "counter":
        counter = meter.create_counter("requests")
        return lambda tags: counter.add(1, tags), export
    histogram = meter.create_histogram("latency")
    return lambda tags: histogram.record(0.3, tags), export


def _prometheus_client(kind: str, format: str) -> Pair:
    import prometheus_client
    from prometheus_client import CollectorRegistry, Counter, Histogram, write_to_textfile

    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    path, registry = f"{tempfile.mkdtemp()}/all.prom", CollectorRegistry()
    names = ["route", "method"]
    export = lambda: write_to_textfile(path, registry)  # noqa: E731
    if kind == "counter":
        counter = Counter("requests", "help", names, registry=registry)
        return lambda tags: counter.labels(**tags).inc(), export
    histogram = Histogram("latency", "help", names, registry=registry, buckets=_BUCKETS)
    return lambda tags: histogram.labels(**tags).observe(0.3), export


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(measure(*sys.argv[1:])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
