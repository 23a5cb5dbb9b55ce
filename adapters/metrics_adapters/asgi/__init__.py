"""What an async service needs: what it serves, what it asks others for, its tasks and its event loop."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metrics_adapters.asgi.clients import measured_transport
    from metrics_adapters.asgi.lag import LoopLag
    from metrics_adapters.asgi.middleware import MetricsMiddleware
    from metrics_adapters.asgi.tasks import TaskMetrics

__all__ = ["LoopLag", "MetricsMiddleware", "TaskMetrics", "measured_transport"]

# Each brings what others do not need: httpx, or asyncio.
_MODULES = {
    "LoopLag": "lag",
    "MetricsMiddleware": "middleware",
    "TaskMetrics": "tasks",
    "measured_transport": "clients",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
