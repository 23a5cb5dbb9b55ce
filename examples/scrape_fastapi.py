"""The order service in FastAPI, with ``/metrics`` for Prometheus.

    pip install fastapi httpx uvicorn
    uvicorn --app-dir examples scrape_fastapi:app

Use a route, not a mount: a mount redirects ``/metrics`` to ``/metrics/``.
"""

from __future__ import annotations

from fastapi import FastAPI
from service_fastapi import create_app
from starlette.routing import Route

from metrics_adapters.prometheus import make_asgi_app
from metrics_framework import MetricsSystem


def create_scraped_app(metrics: MetricsSystem) -> FastAPI:
    """Create the application of the service, and add a route for the metrics."""
    service = create_app(metrics)
    service.router.routes.append(Route("/metrics", make_asgi_app(metrics)))
    return service


app = create_scraped_app(MetricsSystem())
