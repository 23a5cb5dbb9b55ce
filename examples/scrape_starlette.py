"""A greeting in Starlette, with ``/metrics`` for Prometheus, protected by a bearer token.

pip install starlette uvicorn
METRICS_TOKEN=s3cret uvicorn --app-dir examples scrape_starlette:create_app --factory
"""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from metrics_adapters.prometheus import make_asgi_app
from metrics_framework import MetricsSystem


def create_app(metrics: MetricsSystem | None = None) -> Starlette:
    """Create the application. Without METRICS_TOKEN, scrapes need no token."""
    metrics = metrics or MetricsSystem()

    async def greet(request: Request) -> PlainTextResponse:
        with metrics.measure("greet"):
            return PlainTextResponse(f"Hello {request.path_params['name']}\n")

    scraped = make_asgi_app(metrics, bearer_token=os.environ.get("METRICS_TOKEN"))
    return Starlette(routes=[Route("/hello/{name}", greet), Route("/metrics", scraped)])
