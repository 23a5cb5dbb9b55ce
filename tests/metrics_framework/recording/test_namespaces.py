"""Names: each has one kind, unknown ones raise, removed ones can be reused, and their number is limited."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest

from metrics_adapters.in_memory import InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, MetricTypeError, UnknownMetricError
from metrics_framework.recording import Budgets, Store
from metrics_framework.recording.cardinality import OTHER
from metrics_framework.values import MetricType, MetricUnit

MINUTE = timedelta(minutes=1)


@pytest.fixture
def collector(clock: ManualClock) -> InMemoryCollector:
    """Return a collector on a store with the test's clock."""
    return InMemoryCollector(Store(clock))


RECORD = {
    MetricType.COUNTER: lambda collector, tags=None: collector.record_counter("name", 1, tags),
    MetricType.GAUGE: lambda collector, tags=None: collector.record_gauge("name", 1, tags),
    MetricType.HISTOGRAM: lambda collector, tags=None: collector.record_histogram("name", 1, tags),
    MetricType.TIMER: lambda collector, tags=None: collector.record_timer("name", 1.0, tags=tags),
}

BIND = {
    MetricType.COUNTER: (lambda collector: collector.counter("name"), lambda bound: bound.add(1)),
    MetricType.GAUGE: (lambda collector: collector.gauge("name"), lambda bound: bound.set(1)),
    MetricType.HISTOGRAM: (lambda collector: collector.histogram("name"), lambda bound: bound.observe(1)),
    MetricType.TIMER: (lambda collector: collector.timer("name"), lambda bound: bound.observe(1)),
}


# -- unknown names ---------------------------------------------------------------------------------------


def test_a_name_without_a_record_is_unknown(collector):
    """A rejected record, a description or a running timer does not make a name known."""
    with pytest.raises(InvalidInputError):
        collector.record_counter("refused", -1)
    collector.describe("described", unit=MetricUnit.BYTES)
    InMemoryTimer(collector.store).start_timer("begun")
    for name in ("refused", "described"):
        with pytest.raises(UnknownMetricError, match="none yet"):
            collector.store.summary(name)
    with pytest.raises(UnknownMetricError, match="none yet"):
        collector.store.timing_summary("begun")


def test_an_unknown_name_lists_known_names(collector):
    """If no name is similar, the error lists some known names."""
    collector.increment("requests")
    with pytest.raises(UnknownMetricError, match=r"'xyz'.*Known: 'requests'"):
        collector.store.summary("xyz")


# -- types -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", MetricType)
def test_a_refused_first_record_leaves_its_name_to_any_type(collector, second):
    """After a rejected first record, the name can be of any type."""
    if second not in RECORD:
        return
    with pytest.raises(InvalidInputError):
        collector.record_counter("name", -1)
    with pytest.raises(InvalidInputError):
        collector.record_gauge("name", "high")
    RECORD[second](collector)
    (reading,) = collector.store.readings()
    assert (reading.metric_type, reading.summary["count"]) == (second, 1)


@pytest.mark.parametrize("second", RECORD)
@pytest.mark.parametrize("first", RECORD)
def test_binding_makes_the_type(collector, first, second):
    """A name that was bound as one type is rejected as another, before any record."""
    BIND[first][0](collector)
    if first is second:
        RECORD[second](collector)
        return
    for record in (RECORD[second], BIND[second][0]):
        with pytest.raises(MetricTypeError, match=f"is a {first.value} and cannot be recorded as a"):
            record(collector)


# -- removing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RECORD)
def test_a_removed_name_is_unknown_and_starts_from_zero(collector, clock, kind):
    """After `remove(name)` nothing of it remains."""
    for tags in (None, {"a": "b"}, {"a": "b", "c": "d"}):
        RECORD[kind](collector, tags)
        RECORD[kind](collector, tags)
    collector.increment("other")
    assert collector.remove("name") is True
    assert collector.remove("name") is False
    with pytest.raises(UnknownMetricError, match="Known: 'other'"):
        collector.store.summary("name")
    assert [reading.name for reading in collector.store.readings()] == ["other"]
    assert collector.store.series_count == 1
    clock.advance(10)
    for tags in (None, {"a": "b"}):
        RECORD[kind](collector, tags)
    assert collector.store.summary("name")["count"] == collector.store.summary("name", MINUTE)["count"] == 2
    assert [reading.summary["count"] for reading in collector.store.readings()] == [1, 1, 1]


@pytest.mark.parametrize("second", RECORD)
@pytest.mark.parametrize("first", RECORD)
def test_another_type_may_take_a_removed_name(collector, first, second):
    """A removed name can be of any type."""
    RECORD[first](collector)
    RECORD[first](collector, {"a": "b"})
    collector.remove("name")
    RECORD[second](collector)
    RECORD[second](collector, {"a": "b"})
    assert {reading.metric_type for reading in collector.store.readings()} == {second}
    assert collector.store.summary("name")["count"] == 2


@pytest.mark.parametrize("pause", [0, 0.5, 100])
@pytest.mark.parametrize("kind", BIND)
def test_a_bound_instrument_brings_a_removed_name_back(collector, clock, kind, pause):
    """After `remove(name)` a bound instrument records into the same series as calls by name."""
    bind, record = BIND[kind]
    bound = bind(collector)
    for _ in range(3):
        record(bound)
    collector.remove("name")
    clock.advance(pause)
    record(bound)
    assert collector.store.summary("name")["count"] == 1
    clock.advance(pause)
    record(bound)
    RECORD[kind](collector)
    record(bind(collector))
    (reading,) = collector.store.readings()
    assert reading.summary["count"] == collector.store.summary("name")["count"] == 4
    assert collector.store.recorded == 3 + 4


def test_removing_an_unknown_name_returns_false(collector):
    """Removing an unknown name or series is not an error."""
    collector.increment("name", {"a": "b"})
    assert collector.remove("other") is False
    assert collector.remove("name", {"a": "c"}) is False
    assert collector.remove("name", {}) is False
    assert collector.remove("name", {"b": "a"}) is False
    assert collector.store.summary("name")["total"] == 1


def test_a_description_outlives_its_metric(collector):
    """The description applies again when the name is restored."""
    collector.describe("name", unit=MetricUnit.BYTES, help="Bytes.", window_by=["a"])
    collector.increment("name", {"a": "b"})
    collector.remove("name")
    collector.record_histogram("name", 3, {"a": "b"})
    assert collector.store.description("name").unit is MetricUnit.BYTES
    assert collector.store.summary("name", MINUTE, {"a": "b"})["count"] == 1


# -- descriptions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "quoted"),
    [
        ({"unit": "bytes"}, "unit='bytes' is not a MetricUnit"),
        ({"unit": 3}, "unit=3"),
        ({"merge": "mean"}, "merge='mean' is unknown: pass 'latest', 'sum', 'min' or 'max'"),
        ({"merge": None}, "merge=None"),
        ({"help": None}, "help=None is not a string"),
        ({"window_by": "region"}, r"window_by='region' is one string; pass a list: \['region'\]"),
        ({"buckets": [1, 1]}, r"buckets=\[1, 1\] do not ascend"),
        ({"buckets": [2, 1]}, r"buckets=\[2, 1\] do not ascend"),
        ({"buckets": [1, "x"]}, r"buckets=\[1, 'x'\] are not numbers"),
        ({"buckets": [float("nan")]}, r"buckets=\[nan\]"),
        ({"buckets": [float("inf")]}, r"buckets=\[inf\]"),
    ],
)
def test_a_wrong_description_is_an_error(collector, arguments, quoted):
    """The error quotes the value, and the former description stays."""
    collector.describe("name", help="Before.", buckets=[1, 2])
    before = collector.store.description("name")
    with pytest.raises(InvalidInputError, match=quoted):
        collector.describe("name", **arguments)
    assert collector.store.description("name") == before


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_description_needs_a_name(collector, name):
    """An empty name is rejected."""
    with pytest.raises(InvalidInputError, match="metric name"):
        collector.describe(name)


# -- too many names --------------------------------------------------------------------------------------


def test_too_many_names_are_counted_together(clock, caplog):
    """Over budget, each kind has one name for all new ones, with one warning; earlier names stay apart."""
    store = Store(clock, budgets=Budgets(names=4))
    collector = InMemoryCollector(store)
    for kind in RECORD:
        getattr(collector, f"record_{kind.value}")(f"first {kind.value}", 2)
    with caplog.at_level(logging.DEBUG, logger="metrics_framework"):
        for number in range(50):
            collector.record_counter(f"counter {number}", 3, {"a": "b"})
            collector.record_gauge(f"gauge {number}", number)
            collector.record_histogram(f"histogram {number}", number)
            collector.record_timer(f"timer {number}", float(number))
            collector.record_counter("first counter", 1)
        assert caplog.records == []
        assert store.summary("first counter")["total"] == 52
        assert len(caplog.records) == 1
    assert "too many names" in caplog.records[0].getMessage()
    assert OTHER in caplog.records[0].getMessage()
    assert store.overflowed == 200
    assert store.summary(f"{OTHER}counter")["total"] == 150
    assert store.summary(f"{OTHER}gauge")["last"] == 49
    for kind in ("histogram", "timer"):
        summary = store.summary(f"{OTHER}{kind}")
        assert (summary["count"], summary["sum"], summary["max"]) == (50, sum(range(50)), 49)
    assert store.series_count == 8
    assert store.recorded == 4 + 250
    with pytest.raises(UnknownMetricError):
        store.summary("counter 7")


def test_a_removed_name_makes_room_for_another(clock):
    """Removed names do not count."""
    store = Store(clock, budgets=Budgets(names=1))
    collector = InMemoryCollector(store)
    collector.increment("first")
    collector.remove("first")
    collector.increment("second")
    assert store.summary("second")["total"] == 1
    assert store.overflowed == 0


def test_each_kind_of_operation_has_its_own_budget(clock):
    """Timed and tracked operations over budget are counted together, separately from metrics."""
    store = Store(clock, budgets=Budgets(names=2))
    timer, tracker = InMemoryTimer(store), InMemoryTracker(store)
    for number in range(10):
        timer.time_operation(f"operation {number}", lambda: clock.advance(1))
        tracker.record_failure(f"operation {number}", "timeout")
        tracker.record_success(f"operation {number}")
    assert store.timing_summary(f"{OTHER}timer")["count"] == 8
    other = store.outcomes(f"{OTHER}operation")
    assert (other.successes, other.failures) == (8, {"timeout": 8})
    assert store.outcomes("operation 1").count == 2
    assert store.recorded == 30
