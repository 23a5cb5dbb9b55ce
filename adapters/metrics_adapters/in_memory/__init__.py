"""The embedded default: everything is kept in the process, in one store that all four views share."""

from metrics_adapters.in_memory.aggregator import InMemoryAggregator
from metrics_adapters.in_memory.collector import InMemoryCollector
from metrics_adapters.in_memory.timer import InMemoryTimer
from metrics_adapters.in_memory.tracker import InMemoryTracker

__all__ = ["InMemoryAggregator", "InMemoryCollector", "InMemoryTimer", "InMemoryTracker"]
