"""The in-memory collector records into its store."""

from __future__ import annotations

from datetime import timedelta

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
    """A collector without arguments has its own store."""
    collector = InMemoryCollector()
    collector.record_counter("git.commits.created", 1, {"branch": "main"})
    collector.record_counter("api.requests.total")
    assert collector.store.summary("git.commits.created")["total"] == 1
    assert collector.store.summary("api.requests.total")["total"] == 1


def test_collectors_do_not_share_numbers_unless_they_share_a_store():
    """Two collectors have separate numbers unless they share a store."""
    alone, other = InMemoryCollector(), InMemoryCollector()
    shared = InMemoryCollector(other.store)
    for collector in (alone, other, shared):
        collector.increment("name")
    assert alone.store.summary("name")["total"] == 1
    assert other.store.summary("name")["total"] == 2


def test_an_empty_store_is_not_replaced(clock):
    """An empty store is used although it may be falsy."""
    store = Store(clock)
    assert InMemoryCollector(store).store is store


def test_a_counter_counts_one_by_default(collector):
    """Without a value a counter goes up by one."""
    collector.record_counter("name")
    collector.record_counter("name", 2.5)
    collector.record_counter("name", 0)
    assert collector.store.summary("name")["total"] == 3.5


def test_a_gauge_takes_either_sign(collector):
    """The value is the last level, also a negative one."""
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


def test_each_method_creates_its_type(collector):
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
    """The error names the metric and quotes the value."""
    with pytest.raises(InvalidInputError, match=r"'orders' cannot record -3"):
        collector.record_counter("orders", -3)


# -- bound instruments -----------------------------------------------------------------------------------

BOUND = {
    "counter": (
        lambda bound: bound.add(2),
        lambda collector, tags: collector.record_counter("name", 2, tags),
    ),
    "gauge": (lambda bound: bound.set(2), lambda collector, tags: collector.record_gauge("name", 2, tags)),
    "histogram": (
        lambda bound: bound.observe(2),
        lambda collector, tags: collector.record_histogram("name", 2, tags),
    ),
    "timer": (
        lambda bound: bound.observe(2),
        lambda collector, tags: collector.record_timer("name", 2, tags=tags),
    ),
}


@pytest.mark.parametrize("tags", [None, {"a": "b"}, {"b": "1", "a": "2"}])
@pytest.mark.parametrize("kind", BOUND)
def test_a_bound_instrument_is_the_series_that_its_name_finds(collector, kind, tags):
    """Records through a bound instrument and by name are of one series, whichever came first."""
    record_bound, record = BOUND[kind]
    record(collector, tags)
    bound = getattr(collector, kind)("name", tags)
    for _ in range(3):
        record_bound(bound)
        record(collector, tags)
    (reading,) = collector.store.readings()
    assert (reading.name, reading.metric_type.value, reading.tags) == ("name", kind, tags or {})
    assert reading.summary["count"] == collector.store.summary("name")["count"] == 7
    assert bound.tags == (tags or {})


@pytest.mark.parametrize("kind", BOUND)
def test_asking_twice_returns_the_same_instrument(collector, kind):
    """The same name and tags, in whatever order and form, are the same instrument; other tags are another."""
    bind = getattr(collector, kind)
    assert bind("name") is bind("name") is bind("name", {})
    assert bind("name", {"a": "1", "b": "2"}) is bind("name", {"b": 2, "a": 1})
    assert bind("name") is not bind("name", {"a": "1"})
    assert bind("name") is not bind("other")


@pytest.mark.parametrize("kind", BOUND)
def test_a_bound_instrument_is_known_before_its_first_record(collector, kind):
    """Without records its name is known, and no series is listed."""
    getattr(collector, kind)("name")
    summary = collector.store.summary("name")
    assert summary["count"] == 0
    assert summary.keys() <= {"count", "seconds", "sum", "rate", "total"}
    assert collector.store.readings() == []
    assert collector.store.recorded == 0


def test_a_bound_counter_adds_one_by_default(collector):
    """A bound counter goes up by one unless told otherwise."""
    bound = collector.counter("name")
    bound.add()
    bound.add(2.5)
    assert collector.store.summary("name")["total"] == 3.5


def test_a_bound_gauge_moves(collector):
    """A bound gauge is set, and moves up and down from where it is, by one or by any step."""
    bound = collector.gauge("name", {"pool": "a"})
    bound.increment()
    bound.set(10)
    bound.increment(5)
    bound.decrement(2.5)
    bound.decrement()
    collector.increment("name", {"pool": "a"})
    summary = collector.store.summary("name")
    assert (summary["last"], summary["min"], summary["max"], summary["count"]) == (12.5, 1, 15, 6)


def test_a_bound_histogram_takes_either_sign(collector):
    """A bound histogram observes values of both signs."""
    bound = collector.histogram("name")
    for value in (-5, 0.5, 5):
        bound.observe(value)
    summary = collector.store.summary("name")
    assert (summary["min"], summary["p50"], summary["max"]) == (-5, 0.5, 5)


@pytest.mark.parametrize(
    ("arguments", "milliseconds"),
    [
        ((150.0,), 150.0),
        ((15, MetricUnit.SECONDS), 15_000.0),
        ((15.5, MetricUnit.MILLISECONDS), 15.5),
        ((1_500.0, MetricUnit.MICROSECONDS), 1.5),
    ],
)
def test_a_bound_timer_takes_every_unit_of_time(collector, arguments, milliseconds):
    """A bound timer observes durations of every unit of time, and keeps milliseconds."""
    collector.timer("name").observe(*arguments)
    assert collector.store.summary("name")["max"] == pytest.approx(milliseconds)


def test_a_bound_timer_times_a_block(collector, clock):
    """A `with` block is timed from its beginning to its end."""
    bound = collector.timer("name")
    for seconds in (0.25, 3, 0):
        with bound.time():
            clock.advance(seconds)
    summary = collector.store.summary("name")
    assert (summary["count"], summary["min"], summary["max"], summary["sum"]) == (3, 0, 3_000, 3_250)


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), GeneratorExit()])
def test_a_block_that_raises_is_timed_too(collector, clock, error):
    """The block's exception goes on as it is, and its time is recorded."""
    bound = collector.timer("name")

    def fail() -> None:
        with bound.time():
            clock.advance(0.5)
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    summary = collector.store.summary("name")
    assert (summary["count"], summary["max"]) == (1, 500)


def test_timed_blocks_nest(collector, clock):
    """A block may be timed within another one of the same timer; each has its own duration."""
    bound = collector.timer("name")
    with bound.time():
        clock.advance(1)
        with bound.time():
            clock.advance(2)
        clock.advance(4)
    summary = collector.store.summary("name")
    assert (summary["count"], summary["min"], summary["max"]) == (2, 2_000, 7_000)


@pytest.mark.parametrize("kind", BOUND)
@pytest.mark.parametrize(("name", "tags"), [("", None), (None, None), ("name", ["a"]), ("name", {"": "a"})])
def test_a_bound_instrument_has_a_name_and_tags(collector, kind, name, tags):
    """An invalid name cannot be bound, and creates nothing."""
    with pytest.raises(InvalidInputError):
        getattr(collector, kind)(name, tags)
    assert collector.store.series_count == 0


def test_a_bound_instrument_records_into_its_time(collector, clock):
    """Through many slots and flushes, its windows equal those of calls by name."""
    bound = collector.counter("bound")
    for number in range(3_000):
        bound.add(number)
        collector.record_counter("named", number)
        clock.advance(0.37)
    for window in (None, timedelta(seconds=5), timedelta(minutes=3), timedelta(hours=1)):
        assert collector.store.summary("bound", window) == collector.store.summary("named", window)
    assert collector.store.summary("bound")["total"] == sum(range(3_000))


def test_a_collector_describes_and_removes(collector):
    """`describe` and `remove` act on the store."""
    collector.describe("name", unit=MetricUnit.BYTES, help="Bytes.", window_by=["a"])
    collector.increment("name", {"a": "b"})
    (value,) = InMemoryAggregator(collector.store).get_metrics_by_tag({})
    assert (value.unit, value.metadata["help"]) == (MetricUnit.BYTES, "Bytes.")
    assert collector.store.summary("name", tags={"a": "b"})["total"] == 1
    assert collector.remove("name", {"a": "b"}) is True
    assert collector.remove("name") is True
    assert collector.remove("name") is False
