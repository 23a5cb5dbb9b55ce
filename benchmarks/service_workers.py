"""A FastAPI service with 2 000 histograms, as a separate process.

``python -m benchmarks.service_workers WAY FILE`` serves on a free port, which it prints. ``/held-up`` returns
the measured delays of the event loop.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from metrics_adapters.http.server import listen

HISTOGRAMS = 2_000
LOOK_SECONDS = 0.005
EXPORT_SECONDS = 1.0

Export = Callable[[], "asyncio.Future[object]"]
lateness: list[float] = []


def bare(app: FastAPI, _: str) -> None:
    """Do not measure."""


def scraped(app: FastAPI, _: str) -> None:
    """Measure requests, and serve the metrics."""
    from metrics_adapters.asgi import MetricsMiddleware, make_app
    from metrics_framework import MetricsSystem

    metrics = app.state.metrics = MetricsSystem()
    for number in range(HISTOGRAMS):
        metrics.collector.record_histogram("ballast", 0.3, {"number": str(number)})
    app.mount("/watch", make_app(metrics))
    app.add_middleware(MetricsMiddleware, metrics=metrics, exclude=["/watch", "/held-up"])


def scraped_streamed_exported(app: FastAPI, file: str) -> None:
    """Measure, serve and stream at once, and export everything every second."""
    scraped(app, file)

    async def export() -> None:
        while True:
            await app.state.metrics.export_metrics_async([f"file:{file}"])
            await asyncio.sleep(EXPORT_SECONDS)

    app.state.work = export


def prometheus_client(app: FastAPI, _: str) -> None:
    """Measure requests with prometheus_client, and serve the metrics."""
    from prometheus_client import REGISTRY, Histogram, disable_created_metrics, make_asgi_app
    from prometheus_fastapi_instrumentator import Instrumentator

    disable_created_metrics()  # type: ignore[no-untyped-call]
    ballast = Histogram("ballast", "help", ["number"])
    for number in range(HISTOGRAMS):
        ballast.labels(str(number)).observe(0.3)
    app.mount("/watch/metrics", make_asgi_app(REGISTRY))
    Instrumentator(excluded_handlers=["/watch", "/held-up"]).instrument(app)


WAYS = {
    "bare": bare,
    "prometheus_client, scraped": prometheus_client,
    "metrics_framework, scraped": scraped,
    "metrics_framework, scraped, streamed, exported": scraped_streamed_exported,
}


@asynccontextmanager
async def life(app: FastAPI) -> AsyncIterator[None]:
    """Measure the delays of the loop while the service runs."""
    loop = asyncio.get_running_loop()

    def look(due: float) -> None:
        now = loop.time()
        lateness.append((now - due) * 1e3)
        loop.call_at(now + LOOK_SECONDS, look, now + LOOK_SECONDS)

    look(loop.time())
    work = getattr(app.state, "work", None)
    task = None if work is None else asyncio.ensure_future(work())
    yield
    if task is not None:
        task.cancel()


def main(way: str, file: str) -> None:
    """Serve."""
    app = FastAPI(lifespan=life)

    @app.get("/books/{number}")
    async def book(number: int) -> dict[str, int]:
        return {"number": number}

    @app.get("/held-up")
    async def held_up() -> list[float]:
        return lateness

    @app.post("/held-up")
    async def begin() -> None:
        lateness.clear()

    WAYS[way](app, file)
    listener = listen("127.0.0.1", 0)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])
