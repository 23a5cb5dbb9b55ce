"""The Prometheus adapters."""

from typing import TYPE_CHECKING

from metrics_adapters.prometheus.collector import PrometheusCollector
from metrics_adapters.prometheus.registry_reader import RegistryAggregator
from metrics_adapters.prometheus.rendering import Exposition
from metrics_adapters.prometheus.text import Format

if TYPE_CHECKING:
    from metrics_adapters.prometheus.asgi import make_asgi_app
    from metrics_adapters.prometheus.push import Pushgateway
    from metrics_adapters.prometheus.server import MetricsServer, serve
    from metrics_adapters.prometheus.textfile import Textfile, write_textfile
    from metrics_adapters.prometheus.wsgi import make_wsgi_app

__all__ = [
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

# Outputs bring threads, TLS and asyncio, which are slow to import; who only collects never needs them.
_OUTPUTS = {
    "MetricsServer": "server",
    "Pushgateway": "push",
    "Textfile": "textfile",
    "make_asgi_app": "asgi",
    "make_wsgi_app": "wsgi",
    "serve": "server",
    "write_textfile": "textfile",
}


def __getattr__(name: str) -> object:
    if name in _OUTPUTS:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_OUTPUTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
