"""Static proof that the facade has the types of its parts, and that our adapters have the optional abilities.

mypy and pyright read this file; pytest runs it.
"""

from __future__ import annotations

from typing import assert_type

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_adapters.null import NullCollector, NullMonitor
from metrics_adapters.resources import PsutilMonitor
from metrics_framework import MetricCollector, MetricsSystem, current, protocols, use
from metrics_framework.callbacks import GaugeCallbacks
from metrics_framework.capabilities import (
    AddsTags,
    AsyncCallbacks,
    BindsInstruments,
    BoundCounter,
    DescribesMetrics,
    DetailedMonitor,
    DistributionAggregator,
    HasAggregator,
    HasCallbacks,
    HasCollector,
    HasFailureRule,
    HasStore,
    HistoryAggregator,
    IteratesMetrics,
    RemovesSeries,
    StoreAggregator,
    StoreCollector,
    StoreTimer,
    StoreTracker,
)
from metrics_framework.recording import Store
from metrics_framework.system import AnySystem


def test_default_parts_have_all_abilities() -> None:
    """A system without arguments can describe, bind, and query by tag."""
    metrics = MetricsSystem()
    assert_type(metrics.collector, StoreCollector)
    assert_type(metrics.timer, StoreTimer)
    assert_type(metrics.tracker, StoreTracker)
    assert_type(metrics.aggregator, StoreAggregator)
    assert_type(metrics.resource_monitor, DetailedMonitor)
    metrics.collector.describe("orders", help="Orders taken.", buckets=[1, 2])
    assert_type(metrics.collector.counter("orders"), BoundCounter)
    metrics.collector.counter("orders", {"status": "paid"}).add(2)
    assert metrics.aggregator.get_metric_summary("orders", tags={"status": "paid"})["total"] == 2
    assert_type(metrics.collector.store, Store)
    assert_type(MetricsSystem.from_config({}).collector, StoreCollector)


def test_a_part_that_is_passed_keeps_its_type() -> None:
    """The other parts have the types of the defaults; a `with` block and `use` change nothing."""
    foreign = NullCollector()
    with MetricsSystem(collector=foreign, resource_monitor=NullMonitor()) as metrics, use(metrics) as used:
        assert_type(metrics.collector, NullCollector)
        assert_type(used.collector, NullCollector)
        assert_type(metrics.resource_monitor, NullMonitor)
        assert_type(metrics.timer, StoreTimer)
        assert used.collector is foreign


def test_a_foreign_part_has_no_abilities() -> None:
    """A type checker reports the use of a method that only the default part has."""
    metrics = MetricsSystem(collector=NullCollector())

    def describe() -> None:
        metrics.collector.describe("orders")  # type: ignore[attr-defined]

    def of_default_parts() -> MetricsSystem:
        return metrics  # type: ignore[return-value]

    assert not hasattr(metrics.collector, "describe")
    assert of_default_parts() is not None
    assert callable(describe)


def collector_of(system: AnySystem) -> MetricCollector:
    """Return the collector of any system, which has the methods of the Protocol."""
    assert_type(system.collector, MetricCollector)
    return system.collector


def test_any_system_can_be_passed_on() -> None:
    """`AnySystem` and the Protocol accept every system."""
    foreign = NullCollector()
    contract: protocols.MetricsSystem = MetricsSystem(collector=foreign)
    assert collector_of(MetricsSystem(collector=foreign)) is contract.collector is foreign
    assert isinstance(collector_of(MetricsSystem()), InMemoryCollector)
    assert_type(current(), AnySystem)


def test_the_in_memory_adapters_have_all_abilities() -> None:
    """Each fits the type of the default part statically, and each ability is found at run time."""
    collector: StoreCollector = InMemoryCollector()
    timer: StoreTimer = InMemoryTimer()
    tracker: StoreTracker = InMemoryTracker()
    aggregator: StoreAggregator = InMemoryAggregator()
    monitor: DetailedMonitor = PsutilMonitor()
    for ability in (HasStore, AddsTags, DescribesMetrics, RemovesSeries, BindsInstruments):
        assert isinstance(collector, ability)
        assert not isinstance(NullCollector(), ability)
    for reading in (HasStore, IteratesMetrics, DistributionAggregator, HistoryAggregator):
        assert isinstance(aggregator, reading)
    assert isinstance(timer, HasStore)
    assert isinstance(tracker, HasStore)
    assert isinstance(monitor, DetailedMonitor)


def test_the_facade_and_its_callbacks_have_their_abilities() -> None:
    """Endpoints find the callbacks of a system and call them on the event loop."""
    metrics = MetricsSystem()
    callbacks: AsyncCallbacks = metrics.callbacks
    assert_type(metrics.callbacks, GaugeCallbacks)
    assert isinstance(callbacks, AsyncCallbacks)
    for ability in (HasCallbacks, HasCollector, HasFailureRule, HasAggregator):
        assert isinstance(metrics, ability)
