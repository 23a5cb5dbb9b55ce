"""The Prometheus adapters."""

from metrics_adapters.prometheus.asgi import make_asgi_app
from metrics_adapters.prometheus.collector import PrometheusCollector
from metrics_adapters.prometheus.registry_reader import RegistryAggregator
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
