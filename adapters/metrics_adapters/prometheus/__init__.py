"""The Prometheus adapters."""

from typing import TYPE_CHECKING

from metrics_adapters.prometheus.collector import PrometheusCollector
from metrics_adapters.prometheus.registry_reader import RegistryAggregator

if TYPE_CHECKING:
    from metrics_adapters.prometheus.asgi import make_asgi_app
    from metrics_adapters.prometheus.server import MetricsServer, serve
    from metrics_adapters.prometheus.wsgi import make_wsgi_app

__all__ = [
    "MetricsServer",
    "PrometheusCollector",
    "RegistryAggregator",
    "make_asgi_app",
    "make_wsgi_app",
    "serve",
]

# Endpoints bring threads, TLS and asyncio, which are slow to import; who only collects never needs them.
_ENDPOINTS = {"MetricsServer": "server", "make_asgi_app": "asgi", "make_wsgi_app": "wsgi", "serve": "server"}


def __getattr__(name: str) -> object:
    if name in _ENDPOINTS:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_ENDPOINTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
