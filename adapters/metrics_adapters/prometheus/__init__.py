"""The Prometheus adapters."""

from metrics_adapters.prometheus.collector import PrometheusCollector
from metrics_adapters.prometheus.registry_reader import RegistryAggregator

__all__ = ["PrometheusCollector", "RegistryAggregator"]
