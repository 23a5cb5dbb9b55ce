"""A greeting in Flask, with ``/metrics`` for Prometheus.

pip install flask
flask --app examples/scrape_flask run
"""

from __future__ import annotations

from flask import Flask, request
from werkzeug import Response

from metrics_adapters.prometheus import make_wsgi_app
from metrics_framework import MetricsSystem


def create_app(metrics: MetricsSystem | None = None) -> Flask:
    """Create the application, with a route that passes scrapes to the WSGI application."""
    metrics = metrics or MetricsSystem()
    scraped = make_wsgi_app(metrics)
    app = Flask(__name__)

    @app.get("/hello/<name>")
    def greet(name: str) -> str:
        with metrics.measure("greet"):
            return f"Hello {name}\n"

    @app.get("/metrics")
    def scrape() -> Response:
        return Response.from_app(scraped, request.environ)

    return app
