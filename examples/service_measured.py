"""A FastAPI service with automatic metrics of requests, tasks, outgoing requests and the event loop.

    pip install fastapi httpx uvicorn
    uvicorn --app-dir examples service_measured:app
    curl http://127.0.0.1:8000/books/1; curl http://127.0.0.1:8000/metrics

Only ``/books`` contains code for metrics: a counter of its own, injected by an annotation.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from starlette.routing import Route

from metrics_adapters.asgi import LoopLag, MetricsMiddleware, TaskMetrics, measured_transport
from metrics_adapters.instrumentation.fastapi import Collector
from metrics_adapters.prometheus import make_asgi_app
from metrics_framework import MetricsSystem

BOOKS = {1: "Emma", 2: "Ulysses"}


async def rate(title: str) -> dict[str, int]:
    """Serve the ratings of books."""
    await asyncio.sleep(0.001)
    return {"stars": len(title) % 5 + 1}


def ratings() -> FastAPI:
    """Return the rating service, which runs in this process to keep the example small."""
    service = FastAPI()
    service.get("/rating/{title}")(rate)
    return service


def create_app(metrics: MetricsSystem) -> FastAPI:
    """Create the application. Nothing is global, so a test can create its own."""
    tasks = TaskMetrics(metrics)
    transport = measured_transport(httpx.ASGITransport(ratings()), metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            LoopLag(metrics),
            httpx.AsyncClient(transport=transport, base_url="http://ratings") as app.state.client,
        ):
            yield

    app = FastAPI(lifespan=lifespan)
    app.state.metrics = metrics
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    app.router.routes.append(Route("/metrics", make_asgi_app(metrics)))

    @app.get("/books/{number}")
    async def book(number: int, request: Request, collector: Collector) -> dict[str, str | int]:
        if number not in BOOKS:
            raise HTTPException(404, "no such book")
        title = BOOKS[number]
        collector.increment("books.shown", {"title": title})
        asked = tasks.create_task(request.app.state.client.get(f"/rating/{title}"), name="rating")
        return {"title": title, **(await asked).json()}

    @app.get("/pages/{count}")
    async def pages(count: int) -> StreamingResponse:
        async def each() -> AsyncIterator[bytes]:
            for page in range(count):
                await asyncio.sleep(0.001)
                yield f"page {page}\n".encode()

        return StreamingResponse(each())

    return app


app = create_app(MetricsSystem())
