"""The in-memory adapter fulfils the contracts: its test is its constructor."""

from __future__ import annotations

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework.recording import Store
from metrics_framework.testing.conformance import (
    MetricCollectorContract,
    MetricsAggregatorContract,
    Parts,
    PerformanceTimerContract,
    SuccessFailureTrackerContract,
)


class InMemory:
    """Makes the four views of a store."""

    def make(self, clock):
        """Make them on an empty store."""
        store = Store(clock)
        return Parts(
            InMemoryCollector(store), InMemoryTimer(store), InMemoryTracker(store), InMemoryAggregator(store)
        )


class TestCollector(InMemory, MetricCollectorContract):
    """`InMemoryCollector` is a `MetricCollector`."""


class TestTimer(InMemory, PerformanceTimerContract):
    """`InMemoryTimer` is a `PerformanceTimer`."""


class TestTracker(InMemory, SuccessFailureTrackerContract):
    """`InMemoryTracker` is a `SuccessFailureTracker`."""


class TestAggregator(InMemory, MetricsAggregatorContract):
    """`InMemoryAggregator` is a `MetricsAggregator`."""
