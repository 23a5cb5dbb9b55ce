"""The order service in FastAPI, with metrics, snapshot, health and a stream at ``/internal``.

    pip install fastapi httpx uvicorn
    METRICS_TOKEN=s3cret uvicorn --app-dir examples --timeout-graceful-shutdown 3 web_fastapi:app

    curl -H 'Authorization: Bearer s3cret' http://127.0.0.1:8000/internal/health
    curl -NH 'Authorization: Bearer s3cret' 'http://127.0.0.1:8000/internal/stream?name=orders*'

Without METRICS_TOKEN, requests need no token. Without the timeout, open streams would keep uvicorn from
shutting down.
"""

from __future__ import annotations

import os

from fastapi import FastAPI
from service_fastapi import create_app

from metrics_adapters.asgi import make_app
from metrics_framework import MetricsSystem


def create_watched_app(metrics: MetricsSystem, token: str | None = None) -> FastAPI:
    """Create the application of the service, and mount the metrics application."""
    service = create_app(metrics)
    service.mount("/internal", make_app(metrics, bearer_token=token))
    return service


app = create_watched_app(MetricsSystem(), os.environ.get("METRICS_TOKEN"))
