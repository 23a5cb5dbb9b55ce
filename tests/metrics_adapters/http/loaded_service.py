"""A service that is recorded, scraped, streamed and exported at once: ``python loaded_service.py FILE``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, HTTPException

from metrics_adapters.asgi import LoopLag, MetricsMiddleware, make_app
from metrics_adapters.http.server import listen
from metrics_framework import MetricsSystem

HISTOGRAMS = 2_000
EXPORT_SECONDS = 0.5

metrics = MetricsSystem()
target = f"file:{sys.argv[1]}"


@asynccontextmanager
async def life(_: FastAPI) -> AsyncIterator[None]:
    """Measure the event loop and export at an interval while the service runs."""

    async def export() -> None:
        while True:
            await metrics.export_metrics_async([target])
            await asyncio.sleep(EXPORT_SECONDS)

    async with LoopLag(metrics, 0.01):
        exporting = asyncio.ensure_future(export())
        yield
        exporting.cancel()


app = FastAPI(lifespan=life)
app.mount("/watch", make_app(metrics))
app.add_middleware(MetricsMiddleware, metrics=metrics, exclude=["/watch", "/export"])


@app.get("/books/{number}")
async def book(number: int) -> dict[str, int]:
    """Return a book if it exists."""
    if number > 90:
        raise HTTPException(404)
    return {"number": number}


@app.post("/export")
async def export() -> dict[str, bool]:
    """Export now."""
    return await metrics.export_metrics_async([target])


def main() -> None:
    """Serve on a free port, and print it."""
    for number in range(HISTOGRAMS):
        metrics.collector.record_histogram("ballast", number, {"number": str(number)})
    listener = listen("127.0.0.1", 0)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listener])


if __name__ == "__main__":
    main()
