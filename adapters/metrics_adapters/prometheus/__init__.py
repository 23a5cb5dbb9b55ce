"""The Prometheus adapters."""

from metrics_adapters.prometheus.collector import PrometheusCollector
from metrics_adapters.prometheus.registry_reader import RegistryAggregator
from metrics_adapters.prometheus.rendering import Exposition
from metrics_adapters.prometheus.text import Format

__all__ = ["Exposition", "Format", "PrometheusCollector", "RegistryAggregator"]
