"""A system over HTTP: metrics, snapshot, health and a stream of events, as one ASGI application."""

from metrics_adapters.asgi.app import ENDPOINTS, WebApp, make_app
from metrics_adapters.asgi.server import AppServer, serve_app

__all__ = ["ENDPOINTS", "AppServer", "WebApp", "make_app", "serve_app"]
