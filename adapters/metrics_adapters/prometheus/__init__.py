"""The Prometheus adapters."""

from metrics_adapters.prometheus.collector import PrometheusCollector
from metrics_adapters.prometheus.push import Pushgateway
from metrics_adapters.prometheus.registry_reader import RegistryAggregator
from metrics_adapters.prometheus.rendering import Exposition
from metrics_adapters.prometheus.text import Format
from metrics_adapters.prometheus.textfile import Textfile, write_textfile

__all__ = [
    "Exposition",
    "Format",
    "PrometheusCollector",
    "Pushgateway",
    "RegistryAggregator",
    "Textfile",
    "write_textfile",
]
