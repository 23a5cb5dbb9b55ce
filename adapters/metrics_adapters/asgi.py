"""Metrics for async services: HTTP endpoints, and instrumentation of requests, tasks and the event loop."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metrics_adapters.http.app import WebApp, make_app
    from metrics_adapters.http.app_server import AppServer, serve_app
    from metrics_adapters.http.options import ENDPOINTS
    from metrics_adapters.instrumentation.httpx import measured_transport
    from metrics_adapters.instrumentation.loop_lag import LoopLag
    from metrics_adapters.instrumentation.middleware import MetricsMiddleware
    from metrics_adapters.instrumentation.tasks import TaskMetrics

__all__ = [
    "ENDPOINTS",
    "AppServer",
    "LoopLag",
    "MetricsMiddleware",
    "TaskMetrics",
    "WebApp",
    "make_app",
    "measured_transport",
    "serve_app",
]

# Loaded at first use, because each needs a dependency of its own: httpx, uvicorn, prometheus_client.
_MODULES = {
    "ENDPOINTS": "http.options",
    "AppServer": "http.app_server",
    "LoopLag": "instrumentation.loop_lag",
    "MetricsMiddleware": "instrumentation.middleware",
    "TaskMetrics": "instrumentation.tasks",
    "WebApp": "http.app",
    "make_app": "http.app",
    "measured_transport": "instrumentation.httpx",
    "serve_app": "http.app_server",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"metrics_adapters.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
