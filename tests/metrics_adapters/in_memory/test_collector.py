"""The in-memory collector: what it takes in is what its store answers."""

from __future__ import annotations

import pytest

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import Store
from metrics_framework.values import MetricType, MetricUnit


@pytest.fixture
def collector(clock: ManualClock) -> InMemoryCollector:
    """Return a collector on a store of the test's clock."""
    return InMemoryCollector(Store(clock))


@pytest.mark.smoke
def test_a_collector_works_on_its_own():
    """Without any argument a collector keeps what it is given."""
    collector = InMemoryCollector()
    collector.record_counter("git.commits.created", 1, {"branch": "main"})
    collector.record_counter("api.requests.total")
    assert collector.store.summary("git.commits.created")["total"] == 1
    assert collector.store.summary("api.requests.total")["total"] == 1


def test_collectors_do_not_share_numbers_unless_they_share_a_store():
    """Two collectors are apart; two on one store are one."""
    alone, other = InMemoryCollector(), InMemoryCollector()
    shared = InMemoryCollector(other.store)
    for collector in (alone, other, shared):
        collector.increment("name")
    assert alone.store.summary("name")["total"] == 1
    assert other.store.summary("name")["total"] == 2


def test_an_empty_store_is_not_replaced(clock):
    """The store that is given is used as it is."""
    store = Store(clock)
    assert InMemoryCollector(store).store is store


def test_a_counter_counts_one_by_default(collector):
    """Without a value a counter goes up by one."""
    collector.record_counter("name")
    collector.record_counter("name", 2.5)
    collector.record_counter("name", 0)
    assert collector.store.summary("name")["total"] == 3.5


def test_a_gauge_takes_either_sign(collector):
    """The last level counts, negative ones too."""
    collector.record_gauge("name", 3)
    collector.record_gauge("name", -7.5)
    assert collector.store.summary("name")["last"] == -7.5


def test_a_histogram_takes_either_sign(collector):
    """Values of both signs are one distribution."""
    for value in (-5, 0, 5):
        collector.record_histogram("name", value)
    summary = collector.store.summary("name")
    assert (summary["min"], summary["p50"], summary["max"]) == (-5, 0, 5)


@pytest.mark.parametrize(
    ("arguments", "milliseconds"),
    [
        ((150.0,), 150.0),
        ((15.2, MetricUnit.SECONDS), 15_200.0),
        ((15.2, MetricUnit.MILLISECONDS), 15.2),
        ((1_500.0, MetricUnit.MICROSECONDS), 1.5),
    ],
)
def test_a_timer_takes_every_unit_of_time(collector, arguments, milliseconds):
    """A duration is milliseconds unless a unit says otherwise, and is kept in milliseconds."""
    collector.record_timer("name", *arguments)
    assert collector.store.summary("name")["max"] == pytest.approx(milliseconds)


def test_each_method_makes_its_type(collector):
    """A new name gets the type of the method that records it first."""
    collector.record_counter("counter")
    collector.record_gauge("gauge", 1)
    collector.record_histogram("histogram", 1)
    collector.record_timer("timer", 1)
    collector.increment("up")
    collector.decrement("down")
    assert {reading.name: reading.metric_type for reading in collector.store.readings()} == {
        "counter": MetricType.COUNTER,
        "gauge": MetricType.GAUGE,
        "histogram": MetricType.HISTOGRAM,
        "timer": MetricType.TIMER,
        "up": MetricType.COUNTER,
        "down": MetricType.GAUGE,
    }


@pytest.mark.parametrize(
    "record",
    [
        lambda collector, tags: collector.record_counter("name", 1, tags),
        lambda collector, tags: collector.record_gauge("name", 1, tags),
        lambda collector, tags: collector.record_histogram("name", 1, tags),
        lambda collector, tags: collector.record_timer("name", 1, MetricUnit.SECONDS, tags),
        lambda collector, tags: collector.increment("name", tags),
        lambda collector, tags: collector.decrement("name", tags),
    ],
)
def test_every_method_takes_tags(collector, record):
    """Tags choose the series, in whatever order, converted to text; the caller's dict is not kept."""
    tags = {"region": "north", "number": 1}
    record(collector, tags)
    tags["region"] = "south"
    record(collector, {"number": "1", "region": "north"})
    (value,) = InMemoryAggregator(collector.store).get_metrics_by_tag({})
    assert value.tags == {"region": "north", "number": "1"}
    assert value.metadata["count"] == 2


def test_a_refused_value_is_quoted(collector):
    """The error names the metric and quotes what was passed."""
    with pytest.raises(InvalidInputError, match=r"'orders' cannot record -3"):
        collector.record_counter("orders", -3)
