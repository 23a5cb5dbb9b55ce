"""The Prometheus adapters."""

from metrics_adapters.prometheus.registry_reader import RegistryAggregator

__all__ = ["RegistryAggregator"]
