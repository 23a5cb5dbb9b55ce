"""Resource readings become gauges."""

from __future__ import annotations

import pytest

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector
from metrics_framework.clock import ManualClock
from metrics_framework.recording import Store
from metrics_framework.resources import CPU_GAUGES, MEMORY_GAUGES, RESOURCE_GAUGES, record_resources
from metrics_framework.values import MetricType


class Monitor:
    """A monitor whose readings the test chooses."""

    def __init__(self, memory, cpu):
        self.memory, self.cpu = memory, cpu

    def get_memory_usage(self):
        """Return the chosen memory."""
        return self.memory

    def get_cpu_usage(self):
        """Return the chosen CPU."""
        return self.cpu


@pytest.fixture
def store(clock: ManualClock) -> Store:
    """Return a store on the test's clock."""
    return Store(clock)


def test_each_reading_is_a_gauge_of_its_own(store):
    """Every key of memory and CPU is recorded under its name, with its value."""
    memory = {key: float(number) for number, key in enumerate(MEMORY_GAUGES)}
    cpu = {key: 100.0 + number for number, key in enumerate(CPU_GAUGES)}
    record_resources(Monitor(memory, cpu), InMemoryCollector(store))
    found = InMemoryAggregator(store).get_metrics_by_tag({})
    assert {value.name: value.value for value in found} == {
        **{MEMORY_GAUGES[key]: value for key, value in memory.items()},
        **{CPU_GAUGES[key]: value for key, value in cpu.items()},
    }
    assert {value.name for value in found} == RESOURCE_GAUGES
    assert {value.metric_type for value in found} == {MetricType.GAUGE}


def test_a_reading_that_a_monitor_lacks_is_not_made_up(store):
    """A key that is missing records nothing, and a key beyond the contract is no gauge."""
    record_resources(Monitor({"percent": 40.0, "swap": 1.0}, {}), InMemoryCollector(store))
    found = InMemoryAggregator(store).get_metrics_by_tag({})
    assert [(value.name, value.value) for value in found] == [("system.memory.percent", 40.0)]


def test_names_are_distinct():
    """No two readings share a name."""
    assert len(RESOURCE_GAUGES) == len(MEMORY_GAUGES) + len(CPU_GAUGES)


def test_readings_are_those_of_the_contract():
    """Memory and CPU record every key that the contract of `ResourceMonitor` names."""
    assert MEMORY_GAUGES.keys() == {
        "used",
        "available",
        "total",
        "percent",
        "process_rss",
        "process_peak_rss",
    }
    assert CPU_GAUGES.keys() == {"percent", "process_percent", "load_1m", "load_5m", "load_15m", "count"}
