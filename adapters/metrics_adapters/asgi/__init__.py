"""What an async service needs: what it serves, what it asks others for, its tasks, its event loop."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metrics_adapters.asgi.app import ENDPOINTS, WebApp, make_app
    from metrics_adapters.asgi.clients import measured_transport
    from metrics_adapters.asgi.lag import LoopLag
    from metrics_adapters.asgi.middleware import MetricsMiddleware
    from metrics_adapters.asgi.server import AppServer, serve_app
    from metrics_adapters.asgi.tasks import TaskMetrics

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

# Each brings what others do not need: httpx, uvicorn, prometheus_client, or asyncio.
_MODULES = {
    "ENDPOINTS": "app",
    "AppServer": "server",
    "LoopLag": "lag",
    "MetricsMiddleware": "middleware",
    "TaskMetrics": "tasks",
    "WebApp": "app",
    "make_app": "app",
    "measured_transport": "clients",
    "serve_app": "server",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
