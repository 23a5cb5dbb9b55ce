"""The Prometheus adapters: collector, exposition, registry reader, server, Pushgateway and textfile."""

from typing import TYPE_CHECKING

from metrics_adapters.prometheus.collector import PrometheusCollector
from metrics_adapters.prometheus.registry_reader import RegistryAggregator
from metrics_adapters.prometheus.targets import Exposition
from metrics_framework.exposition.names import Escaping
from metrics_framework.exposition.text import Format

if TYPE_CHECKING:
    from metrics_adapters.http.asgi import make_asgi_app
    from metrics_adapters.http.server import MetricsServer, serve
    from metrics_adapters.http.wsgi import make_wsgi_app
    from metrics_adapters.prometheus.push import Pushgateway
    from metrics_adapters.prometheus.textfile import Textfile, write_textfile

__all__ = [
    "Escaping",
    "Exposition",
    "Format",
    "MetricsServer",
    "PrometheusCollector",
    "Pushgateway",
    "RegistryAggregator",
    "Textfile",
    "make_asgi_app",
    "make_wsgi_app",
    "serve",
    "write_textfile",
]

# Imported on first use: threads, TLS and asyncio are slow to import, and collecting does not need them.
_OUTPUTS = {
    "MetricsServer": "http.server",
    "Pushgateway": "prometheus.push",
    "Textfile": "prometheus.textfile",
    "make_asgi_app": "http.asgi",
    "make_wsgi_app": "http.wsgi",
    "serve": "http.server",
    "write_textfile": "prometheus.textfile",
}


def __getattr__(name: str) -> object:
    if name in _OUTPUTS:
        from importlib import import_module

        return getattr(import_module(f"metrics_adapters.{_OUTPUTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
