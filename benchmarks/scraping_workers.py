"""Scrapes one library and prints the numbers. Each run is a separate process.

``python -m benchmarks.scraping_workers PEER MEASURE CASE`` prints one JSON object.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.peers import OURS, PURE

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The buckets of prometheus_client, for all libraries."""

Record = Callable[[dict[str, str]], object]
App = Callable[..., Awaitable[None]]


class Ours:
    """This library, on the store that a `PrometheusCollector` records into."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry

        from metrics_adapters.prometheus import Exposition, PrometheusCollector
        from metrics_framework.recording import Budgets, Store

        store = Store(budgets=Budgets(series_per_name=1_000_000, series=1_000_000))
        self._collector = PrometheusCollector(CollectorRegistry(), store)
        self._exposition = Exposition(store)

    def counter(self) -> Record:
        return lambda tags: self._collector.increment("requests", tags)

    def histogram(self) -> Record:
        return lambda tags: self._collector.record_histogram("latency", 0.3, tags)

    def scrape(self) -> bytes:
        return self._exposition.render()

    def app(self) -> App:
        from metrics_adapters.prometheus import make_asgi_app

        return make_asgi_app(self._exposition)


class PrometheusClient:
    """prometheus_client, without its ``_created`` lines."""

    def __init__(self) -> None:
        import prometheus_client

        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = prometheus_client.CollectorRegistry()

    def counter(self) -> Record:
        from prometheus_client import Counter

        metric = Counter("requests", "help", ["route", "method"], registry=self._registry)
        return lambda tags: metric.labels(**tags).inc()

    def histogram(self) -> Record:
        from prometheus_client import Histogram

        metric = Histogram("latency", "help", ["route", "method"], registry=self._registry, buckets=BUCKETS)
        return lambda tags: metric.labels(**tags).observe(0.3)

    def scrape(self) -> bytes:
        from prometheus_client import generate_latest

        return generate_latest(self._registry)

    def app(self) -> App:
        from prometheus_client import make_asgi_app

        app: App = make_asgi_app(self._registry)
        return app


class OpenTelemetry:
    """The OpenTelemetry SDK, read by its Prometheus reader; without its limit of 2 000 series."""

    def __init__(self) -> None:
        import prometheus_client
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View

        self._registry = prometheus_client.CollectorRegistry()
        reader = PrometheusMetricReader(registry=self._registry, scope_info_enabled=False)
        self._provider = MeterProvider(
            metric_readers=[reader],
            views=[
                View(instrument_name="requests", aggregation_cardinality_limit=1_000_000),
                View(
                    instrument_name="latency",
                    aggregation=ExplicitBucketHistogramAggregation(BUCKETS),
                    aggregation_cardinality_limit=1_000_000,
                ),
            ],
        )
        self._meter = self._provider.get_meter("benchmark")

    def counter(self) -> Record:
        metric = self._meter.create_counter("requests")
        return lambda tags: metric.add(1, tags)

    def histogram(self) -> Record:
        metric = self._meter.create_histogram("latency")
        return lambda tags: metric.record(0.3, tags)

    def scrape(self) -> bytes:
        from prometheus_client import generate_latest

        return generate_latest(self._registry)

    def app(self) -> None:
        return None


class Aioprometheus:
    """aioprometheus."""

    def __init__(self) -> None:
        from aioprometheus import Registry

        self._registry = Registry()

    def counter(self) -> Record:
        from aioprometheus import Counter

        metric = Counter("requests", "help", registry=self._registry)
        inc: Record = metric.inc
        return inc

    def histogram(self) -> Record:
        from aioprometheus import Histogram

        metric = Histogram("latency", "help", registry=self._registry, buckets=[*BUCKETS, float("inf")])
        return lambda tags: metric.observe(tags, 0.3)

    def scrape(self) -> bytes:
        from aioprometheus import render

        text: bytes = render(self._registry, ["text/plain"])[0]
        return text

    def app(self) -> App:
        # Like its own applications, which need a framework: it renders in the loop, without a pause.
        async def app(scope: Any, receive: Any, send: Any) -> None:
            text = self.scrape()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": text})

        return app


PEERS: dict[str, Callable[[], Any]] = {
    "prometheus_client": PrometheusClient,
    OURS: Ours,
    PURE: Ours,
    "OpenTelemetry SDK": OpenTelemetry,
    "aioprometheus": Aioprometheus,
}


def filled(peer: str, case: str) -> tuple[Any, Callable[[], None]]:
    """Return a library with some series, and a function that changes all of them."""
    kind, _, count = case.partition(", ")
    library = PEERS[peer]()
    record = getattr(library, kind)()
    sets = [{"method": "GET", "route": f"/users/{number}/orders"} for number in range(int(count))]

    def change() -> None:
        for tags in sets:
            record(tags)

    change()
    return library, change


def measure_scrape(peer: str, case: str) -> dict[str, float]:
    """Return the milliseconds of CPU of the first scrape, of later ones, and of one without changes."""
    library, change = filled(peer, case)
    gc.collect()
    first = _cpu_ms(library.scrape)
    changed, crowded, rested = [], [], []
    for _ in range(3):
        time.sleep(1)  # scrapes are seconds apart
        change()
        changed.append(_cpu_ms(library.scrape))
    for _ in range(3):
        for _ in range(3):
            change()
        crowded.append(_cpu_ms(library.scrape))
    for _ in range(3):
        for _ in range(3):
            change()
        time.sleep(1.1)
        rested.append(_cpu_ms(library.scrape))
    return {
        "first": first,
        "changed": statistics.median(changed),
        "crowded": statistics.median(crowded),
        "rested": statistics.median(rested),
        "unchanged": statistics.median(_cpu_ms(library.scrape) for _ in range(3)),
    }


def _cpu_ms(work: Callable[[], bytes]) -> float:
    begin = time.thread_time()
    text = work()
    took = time.thread_time() - begin
    assert len(text) > 1_000_000
    return took * 1e3


def measure_peak(peer: str, case: str) -> dict[str, float]:
    """Return the additional memory of the first scrape and of a later one, in MB."""
    library, change = filled(peer, case)
    result = {}
    for which in ("first", "later"):
        change()
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        text = library.scrape()
        result[which] = (tracemalloc.get_traced_memory()[1] - before) / 1e6
        tracemalloc.stop()
        del text
    return result


def measure_stall(peer: str, case: str) -> dict[str, float] | None:
    """Return the longest block of an event loop that answers scrapes, and the CPU time of one scrape."""
    library, change = filled(peer, case)
    app = library.app()
    if app is None:
        return None
    return asyncio.run(_stall(app, change))


async def _stall(app: App, change: Callable[[], None]) -> dict[str, float]:
    longest = 0.0
    done = False
    parts: list[int] = []

    async def tick() -> None:
        nonlocal longest
        while not done:
            begin = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - begin)

    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            await asyncio.sleep(3600)
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        parts.append(len(message.get("body", b"")))

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": "/", "raw_path": b"/", "root_path": "", "query_string": b"", "headers": [],
        "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    stalls: list[float] = []
    for _ in range(4):
        change()
        gc.collect()
        parts.clear()
        longest, done, asked = 0.0, False, False
        ticker = asyncio.ensure_future(tick())
        await asyncio.sleep(0)
        await app(scope, receive, send)
        done = True
        await ticker
        assert sum(parts) > 1_000_000
        stalls.append(longest * 1e3)
    # Without the ticker, which uses all remaining time.
    times: dict[str, list[float]] = {"changed": [], "crowded": []}
    for moment in ("changed", "crowded") * 3:
        if moment == "changed":
            time.sleep(1)  # scrapes are seconds apart
        change()
        asked = False
        begin = time.thread_time()
        await app(scope, receive, send)
        times[moment].append((time.thread_time() - begin) * 1e3)
    return {
        "first": stalls[0],
        "later": statistics.median(stalls[1:]),
        "changed": statistics.median(times["changed"]),
        "crowded": statistics.median(times["crowded"]),
    }


MEASURES: dict[str, Callable[[str, str], dict[str, float] | None]] = {
    "scrape": measure_scrape,
    "peak": measure_peak,
    "stall": measure_stall,
}

if __name__ == "__main__":
    _, chosen_peer, measure, chosen_case = sys.argv
    print(json.dumps(MEASURES[measure](chosen_peer, chosen_case)))
