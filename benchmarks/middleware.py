"""The overhead of the middleware on a request, beside other middleware.

One FastAPI application is called as a server would call it, without a network in between: bare, and with each
middleware around it. They take turns within one process, a short stretch each; a ratio is the median of the
ratios of neighbouring stretches.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.progress import track

from benchmarks.tables import Report
from metrics_adapters.asgi import MetricsMiddleware
from metrics_framework import MetricsSystem

STRETCHES = 40
CALLS = 250
BASE = "starlette_exporter"

CASES = {"a route": "/items/7", "a mounted route": "/shops/1/items/7", "no route": "/wp-login.php"}


def main() -> Report:
    """Measure, print, and return the table."""
    took = asyncio.run(_measure())
    report = Report()
    report.say(
        f"Medians of {STRETCHES} turns; ratios within a turn, of the time added to the bare application."
    )
    report.table(f"Microseconds added to a request (ratio to {BASE})", list(CASES))
    for way in (way for way in took if way != "bare"):
        cells = []
        for case in CASES:
            bare = took["bare"][case]
            added = [one - other for one, other in zip(took[way][case], bare, strict=True)]
            base = [one - other for one, other in zip(took[BASE][case], bare, strict=True)]
            ratio = statistics.median(
                one / other for one, other in zip(added, base, strict=True) if other > 0
            )
            cells.append(f"{statistics.median(added):.0f} ({ratio:.2f})")
        report.row(way, cells)
    bare_cells = [f"{statistics.median(took['bare'][case]):.0f}" for case in CASES]
    report.row("the bare application takes", bare_cells)
    report.show()
    return report


def _application() -> FastAPI:
    app, shop = FastAPI(), FastAPI()

    async def item(number: int) -> int:
        return number

    app.get("/items/{number}")(item)
    shop.get("/items/{number}")(item)
    app.mount("/shops/{shop}", shop)
    return app


def _ways() -> dict[str, Any]:
    from prometheus_fastapi_instrumentator import Instrumentator
    from starlette_exporter import PrometheusMiddleware

    metrics_framework, collector, exporter, instrumented = (_application() for _ in range(4))
    metrics_framework.add_middleware(MetricsMiddleware, metrics=MetricsSystem())
    collector.add_middleware(MetricsMiddleware, metrics=MetricsSystem().collector)
    exporter.add_middleware(PrometheusMiddleware, group_paths=True)  # into the global registry
    Instrumentator(registry=CollectorRegistry()).instrument(instrumented)
    return {
        "bare": _application(),
        "metrics-framework": metrics_framework,
        "metrics-framework, a collector alone": collector,
        "starlette_exporter": exporter,
        "prometheus-fastapi-instrumentator": instrumented,
    }


async def _measure() -> dict[str, dict[str, list[float]]]:
    ways = _ways()
    took: dict[str, dict[str, list[float]]] = {way: {case: [] for case in CASES} for way in ways}
    chosen = random.Random(1)
    for app in ways.values():
        for path in CASES.values():
            await _call(app, path, CALLS)
    for _ in track(range(STRETCHES), "middleware", console=Console(stderr=True)):
        for case, path in CASES.items():
            for way, app in chosen.sample(list(ways.items()), len(ways)):
                begin = time.perf_counter()
                await _call(app, path, CALLS)
                took[way][case].append((time.perf_counter() - begin) / CALLS * 1e6)
    return took


async def _call(app: Callable[..., Awaitable[None]], path: str, calls: int) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        pass

    for _ in range(calls):
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"service"), (b"user-agent", b"benchmark")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        await app(scope, receive, send)


if __name__ == "__main__":
    main()
