"""The facade and the resource monitor implement their contracts."""

from __future__ import annotations

from metrics_adapters.fan_out import FanOutCollector
from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector
from metrics_adapters.resources import PsutilMonitor
from metrics_framework import MetricsSystem
from metrics_framework.recording import Store
from metrics_framework.testing.conformance import (
    AsyncMetricsSystemContract,
    MetricCollectorContract,
    MetricsSystemContract,
    Parts,
    ResourceMonitorContract,
)


class Facade:
    """Makes the facade with its defaults."""

    def make_system(self, clock):
        """Make it."""
        return MetricsSystem(clock=clock)


class TestSystem(Facade, MetricsSystemContract):
    """`MetricsSystem` implements its Protocol."""


class TestAsyncSystem(Facade, AsyncMetricsSystemContract):
    """`MetricsSystem` is an `AsyncMetricsSystem` too."""


class TestMonitor(ResourceMonitorContract):
    """`PsutilMonitor` is a `ResourceMonitor`."""

    def make_monitor(self):
        """Make one that records nowhere in particular."""
        return PsutilMonitor(InMemoryCollector())


class TestFanOut(MetricCollectorContract):
    """`FanOutCollector` in front of two stores is a `MetricCollector`; the test reads the second store."""

    def make(self, clock):
        """Make it."""
        one, other = Store(clock), Store(clock)
        collector = FanOutCollector(InMemoryCollector(one), InMemoryCollector(other))
        return Parts(collector=collector, aggregator=InMemoryAggregator(other))
