"""One metric: its series, its description, and series that are removed or expire."""

from __future__ import annotations

import gc
import logging
import weakref
from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.recording import Budgets, Description, Store
from metrics_framework.recording.cardinality import MAX_COLLAPSED_TAGS, OTHER
from metrics_framework.recording.metric import MAX_WINDOW_GROUPS
from metrics_framework.values import MetricUnit

MINUTE = timedelta(minutes=1)
NORTH, SOUTH = {"region": "north"}, {"region": "south"}


@pytest.fixture
def collector(clock: ManualClock) -> InMemoryCollector:
    """Return a collector on a store with the test's clock."""
    return InMemoryCollector(Store(clock))


def counts(store: Store) -> dict[tuple[tuple[str, str], ...], float]:
    """Return the number of records of each series by tags."""
    return {tuple(reading.tags.items()): reading.summary["count"] for reading in store.readings()}


KINDS = {
    "counter": (
        lambda collector, tags=None: collector.record_counter("name", 2, tags),
        InMemoryCollector.counter,
    ),
    "gauge": (lambda collector, tags=None: collector.record_gauge("name", 2, tags), InMemoryCollector.gauge),
    "histogram": (
        lambda collector, tags=None: collector.record_histogram("name", 2, tags),
        InMemoryCollector.histogram,
    ),
    "timer": (
        lambda collector, tags=None: collector.record_timer("name", 2.0, tags=tags),
        InMemoryCollector.timer,
    ),
}
RECORD_BOUND = {
    "counter": lambda bound: bound.add(2),
    "gauge": lambda bound: bound.set(2),
    "histogram": lambda bound: bound.observe(2),
    "timer": lambda bound: bound.observe(2.0),
}


# -- windows by tags -------------------------------------------------------------------------------------

GROUPED = st.lists(
    st.tuples(
        st.integers(0, 30), st.sampled_from(["n", "s", None]), st.sampled_from("ab"), st.integers(0, 99)
    ),
    max_size=40,
)


@pytest.mark.parametrize("record", ["record_counter", "record_histogram", "record_timer"])
@given(records=GROUPED)
def test_windows_by_tags_hold_their_group(record, records):
    """A window by any `window_by` tag has exactly the records with that tag."""
    clock = ManualClock()
    collector = InMemoryCollector(Store(clock))
    collector.describe("name", window_by=["region", "method"])
    getattr(collector, record)("name", 7, tags={"region": "n", "method": "a", "user": "first"})
    clock.advance(1_000)
    log = []
    for pause, region, method, value in records:
        clock.advance(pause)
        tags = {"method": method, "user": str(value)} | ({} if region is None else {"region": region})
        getattr(collector, record)("name", value, tags=tags)
        log.append((tags, value))
    window = timedelta(seconds=1_300)
    window = min(window, timedelta(seconds=clock.monotonic_ns() / 1e9 - 500))
    for asked in ({}, {"region": "n"}, {"region": "s"}, {"method": "a"}, {"region": "n", "method": "b"}):
        values = [value for tags, value in log if asked.items() <= tags.items()]
        summary = collector.store.summary("name", window, asked)
        assert (summary["count"], summary["sum"]) == (len(values), sum(values))
        first = 7 if asked.items() <= {"region": "n", "method": "a"}.items() else 0
        since_start = collector.store.summary("name", tags=asked)
        assert since_start["sum"] == sum(values) + first
        if record == "record_counter":
            assert summary["total"] == since_start["sum"]
        elif values:
            assert (summary["min"], summary["max"]) == (min(values), max(values))


@given(
    records=st.lists(st.tuples(st.sampled_from([0, 1, 7, 60, 300]), st.sampled_from("abc")), max_size=30),
    seconds=st.sampled_from([10, 100, 600]),
)
@example(records=[(0, "a"), (1, "b"), (300, "b"), (300, "b")], seconds=600)
def test_a_window_over_groups_has_all_records_of_the_interval_that_it_reports(records, seconds):
    """Groups differ in the widths of their slots, and a window begins where none of their slots is split."""
    clock = ManualClock()
    store = Store(clock)
    collector = InMemoryCollector(store)
    collector.describe("name", window_by=["region"])
    collector.increment("name", {"region": "a"})
    times = [0.0]
    for pause, region in records:
        clock.advance(pause)
        collector.increment("name", {"region": region})
        times.append(clock.monotonic_ns() / 1e9)
    clock.advance(0.5)
    window = timedelta(seconds=seconds)
    for summary in (store.summary("name", window), store.history("name", window, 5).whole.summary):
        begin = clock.monotonic_ns() / 1e9 - summary["seconds"]
        assert summary["count"] == sum(time >= begin - 1e-6 for time in times)


def test_a_group_without_records_is_empty(collector):
    """An unknown value of a `window_by` tag has an empty window, and is not an error."""
    collector.describe("name", window_by=["region"])
    collector.increment("name", NORTH)
    assert collector.store.summary("name", tags=SOUTH) == {
        "count": 0,
        "seconds": 0.0,
        "sum": 0,
        "rate": 0.0,
        "total": 0,
    }


def test_windows_by_tags_are_described_before_the_first_record(collector):
    """Later, the error names the reason, and the rest of the description does not change."""
    collector.describe("name", help="Before.")
    collector.increment("name", NORTH)
    with pytest.raises(InvalidInputError, match=r"window_by=\['region'\] comes too late"):
        collector.describe("name", help="After.", window_by=["region"])
    assert collector.store.description("name").help == "Before."
    collector.describe("name", help="After.")
    assert collector.store.description("name").help == "After."


def test_the_same_window_by_can_be_described_again(collector):
    """Other fields can change at any time."""
    collector.describe("name", window_by=["region"])
    collector.increment("name", NORTH)
    collector.describe("name", help="After.", window_by=["region"])
    assert collector.store.summary("name", tags=NORTH)["total"] == 1


def test_groups_of_windows_are_bounded(collector):
    """Beyond a hundred groups the others share one, and totals stay exact."""
    collector.describe("name", window_by=["user"])
    number = 3 * MAX_WINDOW_GROUPS
    for user in range(number):
        collector.record_counter("name", 2, {"user": str(user)})
    metric = collector.store._metrics.get("name")
    assert len(metric.slots) == MAX_WINDOW_GROUPS + 1
    assert collector.store.summary("name", MINUTE)["sum"] == 2 * number
    for user in (0, MAX_WINDOW_GROUPS - 1):
        assert collector.store.summary("name", MINUTE, {"user": str(user)})["sum"] == 2
    rest = collector.store.summary("name", MINUTE, {"user": OTHER})
    assert rest["sum"] == 2 * (number - MAX_WINDOW_GROUPS)
    assert len(collector.store.readings()) == number


# -- descriptions ----------------------------------------------------------------------------------------


def test_a_description_changes_the_fields_that_it_is_given(collector):
    """Other fields keep their value; a given field may return to its default."""
    collector.describe(
        "name", unit=MetricUnit.BYTES, help="Before.", merge="sum", buckets=[1, 2], expires=False
    )
    collector.describe("name", help="After.")
    collector.describe("name")
    description = collector.store.description("name")
    assert description == Description(MetricUnit.BYTES, "After.", "sum", (1.0, 2.0), (), False)
    collector.describe("name", unit=None, help="", merge="latest", buckets=[], expires=True)
    assert collector.store.description("name") == Description()


@pytest.mark.parametrize("expires", [None, 1, "yes"])
def test_whether_a_metric_expires_is_true_or_false(collector, expires):
    """The error quotes any other value."""
    with pytest.raises(InvalidInputError, match=f"expires={expires!r}"):
        collector.describe("name", expires=expires)


def test_a_changed_merge_law_applies_at_once(collector):
    """A gauge of several series follows its new merge law from the next record on."""
    for tags in (NORTH, SOUTH):
        collector.record_gauge("name", 4, tags)
    collector.describe("name", merge="sum")
    collector.record_gauge("name", 5, NORTH)
    assert collector.store.summary("name")["last"] == 9


@pytest.mark.parametrize("half", ["timings", "outcomes"])
def test_operations_keep_windows_by_tag_too(clock, half):
    """`window_by` applies to an operation, and is rejected after its first record."""
    store = Store(clock)
    collector = InMemoryCollector(store)
    collector.describe("work", window_by=["route"])

    def record(route: str) -> None:
        if half == "timings":
            store.find_timing("work", {"route": route}).observe(1.0)
        else:
            store.find_outcomes("work", {"route": route}).finish(None)

    read = store.timing_summary if half == "timings" else store.outcomes
    for route in "aab":
        record(route)
        clock.advance(1)
    counts = [read("work", MINUTE, {"route": route}) for route in "abc"]
    assert [each["count"] if half == "timings" else each.count for each in counts] == [2, 1, 0]
    with pytest.raises(InvalidInputError, match="comes too late"):
        collector.describe("work", window_by=["other"])


# -- buckets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["record_histogram", "record_timer"])
@given(st.lists(st.floats(0, 100)), st.lists(st.floats(0, 100), min_size=1))
def test_buckets_count_every_value_if_they_are_described_before_they_are_exposed(method, before, after):
    """Counts are exact, also of earlier values; a bound belongs to the bucket below it."""
    collector = InMemoryCollector(Store(ManualClock()))
    for value in before:
        getattr(collector, method)("name", value)
    bounds = (1.0, after[0], 50.0)
    bounds = tuple(sorted(set(bounds)))
    collector.describe("name", buckets=bounds, help="What it is.")
    for value in after:
        getattr(collector, method)("name", value)
    (value,) = InMemoryAggregator(collector.store).get_metrics_by_tag({})
    every = before + after
    assert value.metadata["buckets"]["counts"] == {
        **{str(bound): sum(each <= bound for each in every) for bound in bounds},
        "inf": len(every),
    }
    assert value.metadata["buckets"]["sum"] == pytest.approx(sum(every))
    assert value.metadata["help"] == "What it is."
    assert value.metadata["count"] == len(before) + len(after)


def test_each_series_has_its_buckets(collector):
    """Each series has its own counts, also later series."""
    collector.describe("name", buckets=[10, 20, float("inf")])
    for value in range(2_000):
        collector.record_histogram("name", value % 30, NORTH if value % 2 else SOUTH)
    found = {
        value.tags["region"]: value.metadata["buckets"]["counts"]
        for value in InMemoryAggregator(collector.store).get_metrics_by_tag({})
    }
    values = [value % 30 for value in range(2_000)]
    for region, parity in (("south", 0), ("north", 1)):
        mine = values[parity::2]
        assert found[region] == {
            "10.0": sum(value <= 10 for value in mine),
            "20.0": sum(value <= 20 for value in mine),
            "inf": 1_000,
        }


def test_many_values_seed_buckets_within_one_percent(collector):
    """More than 128 earlier values are counted by the midpoints of exponential buckets."""
    for value in range(1, 1_001):
        collector.record_histogram("name", value)
    collector.describe("name", buckets=[100, 500])
    for value in range(1, 1_001):
        collector.record_histogram("name", value)
    (reading,) = collector.store.readings()
    counts = reading.buckets.cumulated()
    assert counts == {
        100.0: pytest.approx(200, abs=2),
        500.0: pytest.approx(1_000, abs=6),
        float("inf"): 2_000,
    }
    assert reading.buckets.total == 2 * 500_500


def test_bounds_of_exposed_buckets_start_again_from_zero(collector, caplog):
    """After the first exposure, new bounds start without earlier values, with one warning."""
    collector.describe("name", buckets=[1, 2])
    collector.record_histogram("name", 1)
    collector.store.readings()
    with caplog.at_level(logging.DEBUG, logger="metrics_framework"):
        collector.describe("name", buckets=[5])
        collector.store.readings()
        collector.store.readings()
    (record,) = caplog.records
    assert "buckets of an exposed metric changed" in record.getMessage()
    collector.record_histogram("name", 3)
    (reading,) = collector.store.readings()
    assert reading.buckets.cumulated() == {5.0: 1, float("inf"): 1}
    assert reading.summary["count"] == 2


def test_counters_have_no_buckets(collector):
    """Without a description there are no buckets."""
    collector.record_histogram("name", 1)
    (value,) = InMemoryAggregator(collector.store).get_metrics_by_tag({})
    assert "buckets" not in value.metadata
    assert "help" not in value.metadata


# -- gauges of several series ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("law", "last", "low", "high"),
    [("latest", 1, 1, 7), ("sum", 5, 3, 11), ("min", 1, 1, 4), ("max", 4, 3, 7)],
)
def test_a_gauge_of_several_series_follows_its_merge_law(collector, clock, law, last, low, high):
    """The combined value is the latest record, the sum, the minimum or the maximum of its series."""
    collector.describe("name", merge=law)
    for level, tags in ((3, NORTH), (4, SOUTH), (7, NORTH), (1, NORTH)):
        collector.record_gauge("name", level, tags)
        clock.advance(1)
    summary = collector.store.summary("name")
    assert (summary["last"], summary["min"], summary["max"]) == (last, low, high)
    levels = {reading.tags["region"]: reading.summary["last"] for reading in collector.store.readings()}
    assert levels == {"north": 1, "south": 4}


def test_series_share_the_strings_of_equal_tag_values(collector):
    """Many series with few tag values hold each of these strings once."""
    for number in range(5):
        collector.record_counter(f"orders.{number}", 1, {"shop": f"shop {number - number}"})
    series = [one for _, metric in collector.store.metrics() for one in metric.series()]
    assert len(series) == 5
    assert len({id(one.values[0]) for one in series}) == 1


@pytest.mark.parametrize(("law", "left"), [("sum", 4), ("min", 4), ("max", 4), ("latest", 4)])
def test_a_removed_series_is_not_part_of_a_gauge(collector, clock, law, left):
    """The combined value is that of the other series."""
    collector.describe("name", merge=law)
    collector.record_gauge("name", 3, NORTH)
    collector.record_gauge("name", 4, SOUTH)
    collector.remove("name", NORTH)
    assert collector.store.summary("name")["last"] == left
    collector.record_gauge("name", 10, NORTH)
    expected = {"sum": 14, "min": 4, "max": 10, "latest": 10}[law]
    assert collector.store.summary("name")["last"] == expected


# -- removing one series ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tags", [None, NORTH, {"a": "1", "b": "2"}])
@pytest.mark.parametrize("kind", KINDS)
def test_totals_outlive_a_removed_series(collector, clock, kind, tags):
    """A removed series is not listed but stays in totals and windows; its next record starts from zero."""
    record, _ = KINDS[kind]
    record(collector, tags)
    record(collector, tags)
    record(collector, {"other": "series"})
    assert collector.remove("name", tags or {}) is True
    assert collector.remove("name", tags or {}) is False
    assert counts(collector.store) == {(("other", "series"),): 1}
    assert collector.store.series_count == 1
    for window in (None, MINUTE):
        assert collector.store.summary("name", window)["count"] == 3
    clock.advance(1)
    record(collector, tags)
    assert counts(collector.store) == {(("other", "series"),): 1, tuple((tags or {}).items()): 1}
    assert collector.store.summary("name")["count"] == collector.store.recorded == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_outlives_its_last_series(collector, kind):
    """A name is still known after all of its series were removed."""
    record, _ = KINDS[kind]
    record(collector, NORTH)
    collector.remove("name", NORTH)
    assert collector.store.readings() == []
    assert collector.store.summary("name")["count"] == 1


@pytest.mark.parametrize("pause", [0, 0.5, 120])
@pytest.mark.parametrize("kind", KINDS)
def test_a_bound_instrument_brings_its_series_back(collector, clock, kind, pause):
    """Records of a bound instrument and calls by name use the same restored series."""
    record, bind = KINDS[kind]
    bound = bind(collector, "name", NORTH)
    RECORD_BOUND[kind](bound)
    collector.remove("name", NORTH)
    for _ in range(3):
        clock.advance(pause)
        collector.store.readings()
        RECORD_BOUND[kind](bound)
        record(collector, NORTH)
    assert counts(collector.store) == {tuple(NORTH.items()): 6}
    assert bind(collector, "name", NORTH) is bound
    assert collector.store.summary("name")["count"] == 7


def test_a_series_is_removed_by_tags_in_any_order_and_form(collector):
    """Tags are handled as in a record: in any order, converted to text."""
    collector.increment("name", {"a": 1, "b": "2"})
    assert collector.remove("name", {"b": 2, "a": "1"}) is True
    with pytest.raises(InvalidInputError, match="tags="):
        collector.remove("name", ["a"])


# -- series that expire ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_idle_series_expire(clock, kind):
    """An idle series is removed at the next read; active series and all totals stay."""
    collector = InMemoryCollector(Store(clock, expire_after=timedelta(seconds=100)))
    record, bind = KINDS[kind]
    bound = bind(collector, "name", {"held": "yes"})
    RECORD_BOUND[kind](bound)
    record(collector, NORTH)
    record(collector, SOUTH)
    record(collector)
    for _ in range(4):
        clock.advance(30)
        record(collector, SOUTH)
        assert collector.store.series_count == 4
    assert counts(collector.store) == {tuple(SOUTH.items()): 5}
    assert collector.store.series_count == 1
    assert collector.store.summary("name")["count"] == 8
    assert collector.store.summary("name", timedelta(hours=1))["count"] == 8
    RECORD_BOUND[kind](bound)
    record(collector, NORTH)
    record(collector)
    assert counts(collector.store) == {
        tuple(SOUTH.items()): 5,
        tuple(NORTH.items()): 1,
        (("held", "yes"),): 1,
        (): 1,
    }
    assert collector.store.summary("name")["count"] == 11


def test_a_series_stays_as_long_as_it_may(clock):
    """A series does not expire early, and every read removes expired series, also of other names."""
    store = Store(clock, expire_after=timedelta(seconds=100))
    collector = InMemoryCollector(store)
    collector.increment("name", NORTH)
    clock.advance(99)
    assert len(store.readings()) == 1
    clock.advance(3)
    collector.increment("other")
    store.summary("other")
    assert store.series_count == 1
    clock.advance(1_000)
    assert store.readings() == []
    assert store.summary("name")["total"] == 1


def test_a_name_whose_series_expired_keeps_its_type_and_is_known(clock):
    """The total remains, and another type is still rejected."""
    store = Store(clock, expire_after=timedelta(seconds=1))
    collector = InMemoryCollector(store)
    collector.increment("name", NORTH)
    clock.advance(86_400)
    store.readings()
    with pytest.raises(InvalidInputError, match="'name' is a counter"):
        collector.record_gauge("name", 1)
    assert store.summary("name", MINUTE) == {"count": 0, "seconds": 60.0, "sum": 0, "rate": 0.0, "total": 1}


def test_operations_expire_too(clock):
    """Idle operations are not listed, their totals remain, and a running timer can be stopped."""
    store = Store(clock, expire_after=timedelta(seconds=100))
    timer, tracker = InMemoryTimer(store), InMemoryTracker(store)
    timer.time_operation("operation", lambda: None)
    tracker.record_failure("operation", "timeout")
    running = timer.start_timer("operation")
    clock.advance(1_000)
    assert (store.timing_readings(), store.outcome_readings()) == ([], [])
    assert timer.get_timing_stats("operation")["count"] == 1
    assert tracker.get_failure_breakdown("operation") == {"timeout": 1}
    assert len(tracker.recent_failures("operation")) == 1
    assert timer.stop_timer(running).duration == 1_000_000.0
    tracker.record_success("operation")
    assert timer.get_timing_stats("operation")["count"] == 2
    assert tracker.get_success_rate("operation") == 0.5
    assert len(store.timing_readings()) == len(store.outcome_readings()) == 1


def test_a_metric_may_be_exempt_from_expiry(clock):
    """With `expires=False` idle series of a name stay; those of other names expire."""
    store = Store(clock, expire_after=timedelta(seconds=100))
    collector = InMemoryCollector(store)
    collector.describe("kept", expires=False)
    for name in ("kept", "other"):
        collector.increment(name, NORTH)
    clock.advance(1_000)
    assert [reading.name for reading in store.readings()] == ["kept"]


@pytest.mark.parametrize("read", ["readings", "expire"])
def test_a_gauge_that_is_counted_up_and_down_stays_while_it_is_not_zero(clock, read):
    """A count of requests in flight may be idle for long: it expires only at zero."""
    store = Store(clock, expire_after=timedelta(seconds=100))
    collector = InMemoryCollector(store)
    collector.gauge("in flight", NORTH).increment()
    collector.record_gauge("set", 3)

    def expire() -> None:
        if read == "readings":
            store.readings()
        else:
            for _, metric in store.metrics():
                store.expire(metric, metric.series())

    for _ in range(3):
        clock.advance(1_000)
        expire()
        assert [each.name for each in store.readings()] == ["in flight"]
    collector.gauge("in flight", NORTH).decrement()
    assert store.summary("in flight")["last"] == 0
    clock.advance(50)
    expire()
    assert store.series_count == 1
    clock.advance(1_000)
    expire()
    assert store.series_count == 0
    assert store.summary("in flight")["min"] == 0


def test_a_removed_gauge_forgets_its_level(collector):
    """Unlike expiry, `remove` forgets the level of a gauge: the next step starts from zero."""
    gauge = collector.gauge("in_flight", NORTH)
    gauge.increment(3)
    assert collector.remove("in_flight", NORTH)
    gauge.decrement()
    assert InMemoryAggregator(collector.store).get_metric_summary("in_flight")["last"] == -1


def test_idle_series_make_room_without_any_read(clock):
    """A new series over budget removes idle ones first, so that nothing overflows."""
    store = Store(clock, expire_after=timedelta(seconds=10), budgets=Budgets(series_per_name=20))
    collector = InMemoryCollector(store)
    for number in range(500):
        collector.increment("name", {"user": str(number)})
        clock.advance(1)
    assert store.overflowed == 0
    assert store.series_count <= 20
    assert store.summary("name")["total"] == 500


@pytest.mark.parametrize("kind", KINDS)
def test_removed_series_are_not_kept(clock, kind):
    """No reference to a removed series or its numbers remains."""
    store = Store(clock, expire_after=timedelta(seconds=10))
    collector = InMemoryCollector(store)
    record, bind = KINDS[kind]
    for tags in (NORTH, SOUTH):
        record(collector, tags)
    removed = [weakref.ref(bind(collector, "name", NORTH))] if _is_weak(collector, kind) else []
    before = store.core.nbytes
    store.remove("name", NORTH)
    gc.collect()
    assert all(ref() is None for ref in removed)
    assert store.core.nbytes < before
    clock.advance(100)
    store.readings()
    assert store.series_count == 0


def _is_weak(collector: InMemoryCollector, kind: str) -> bool:
    try:
        weakref.ref(KINDS[kind][1](collector, "name", NORTH))
    except TypeError:
        return False
    return True


def test_removed_series_are_reported_with_their_last_numbers(clock):
    """`Store.on_removed` receives each series that is removed or expires, once, with its final aggregate."""
    store = Store(clock, expire_after=timedelta(seconds=10))
    collector = InMemoryCollector(store)
    found = []
    store.on_removed.append(lambda named, series, final: found.append((named.name, series.tags, final.value)))
    collector.counter("name", {"never": "recorded"})
    collector.record_counter("name", 3, NORTH)
    collector.record_counter("name", 5, SOUTH)
    store.remove("name", NORTH)
    store.remove("name", NORTH)
    clock.advance(100)
    store.readings()
    assert found == [("name", NORTH, 3), ("name", SOUTH, 5)]


def test_a_listener_that_raises_takes_no_removal_from_the_others(clock):
    """After a listener raised, the next removal or read calls the other listeners, each once."""
    store = Store(clock)
    collector = InMemoryCollector(store)
    found = []

    def fail(*_: object) -> None:
        store.on_removed.remove(fail)
        raise KeyboardInterrupt

    store.on_removed.append(fail)
    store.on_removed.append(lambda named, series, final: found.append((series.tags, final.value)))
    collector.record_counter("name", 3, NORTH)
    collector.record_counter("name", 5, SOUTH)
    with pytest.raises(KeyboardInterrupt):
        store.remove("name", NORTH)
    assert (found, store.series_count) == ([], 1)
    store.readings()
    assert found == [(NORTH, 3)]
    store.remove("name", SOUTH)
    store.readings()
    assert found == [(NORTH, 3), (SOUTH, 5)]


@pytest.mark.parametrize("level", [1, -2])
def test_expiry_loses_no_step_of_another_thread(level):
    """A gauge that another thread moves while it expires goes on at its level."""
    steps = []

    class Clock(ManualClock):
        def monotonic_ns(self) -> int:
            if steps:  # another thread, after the check of the level and before the removal
                steps.pop()()
            return super().monotonic_ns()

    clock = Clock()
    store = Store(clock)
    collector = InMemoryCollector(store)
    collector.describe("name", merge="sum")
    gauge = collector.gauge("name", NORTH)
    gauge.set(0)
    clock.advance(100)
    steps.append(lambda: gauge.increment(level))
    gauge.owner.expire([gauge], 50 * 10**9)
    assert steps == []
    collector.increment("name", NORTH)
    (reading,) = store.readings()
    assert reading.summary["last"] == level + 1
    assert store.series_count == 1


def test_series_do_not_expire_by_default(collector, clock):
    """Without `expire_after` series are kept forever."""
    collector.increment("name", NORTH)
    clock.advance(400 * 86_400)
    assert len(collector.store.readings()) == 1


def test_expiry_makes_room_in_the_budgets(clock, caplog):
    """Short-lived series use only as much of the budget as live at once."""
    store = Store(clock, expire_after=timedelta(seconds=10), budgets=Budgets(series=20))
    collector = InMemoryCollector(store)
    with caplog.at_level(logging.DEBUG, logger="metrics_framework"):
        for number in range(200):
            collector.increment("name", {"user": str(number)})
            clock.advance(2)
            store.readings()
    assert (store.overflowed, caplog.records) == (0, [])
    assert store.summary("name")["total"] == 200
    with pytest.raises(UnknownMetricError):
        store.summary("other")


def test_a_bound_series_without_a_record_does_not_expire(clock):
    """Binding again returns the same series."""
    store = Store(clock, expire_after=timedelta(seconds=100))
    collector = InMemoryCollector(store)
    bound = collector.counter("name", NORTH)
    clock.advance(1_000)
    assert store.readings() == []
    assert store.series_count == 1
    assert collector.counter("name", NORTH) is bound


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("tags", [None, NORTH])
@pytest.mark.parametrize("held", [False, True])
def test_a_series_that_came_back_is_found_as_fast_as_before(collector, held, tags, whole):
    """After a removal, records use the fast path again."""
    bound = collector.counter("name", tags)
    bound.add()
    collector.remove("name", None if whole else (tags or {}))
    if held:
        bound.add()
    else:
        collector.increment("name", tags)
    series = collector.counter("name", tags)
    assert collector.store.index("counter").get("name", tags) is series


def test_a_bound_counter_whose_name_became_a_gauge_is_rejected(clock):
    """If errors are logged, it raises nothing and the record is counted as rejected."""
    store = Store(clock, on_error="log")
    collector = InMemoryCollector(store)
    bound = collector.counter("name")
    bound.add()
    collector.remove("name")
    collector.record_gauge("name", 7)
    bound.add()
    assert store.rejected == 1
    assert store.summary("name")["last"] == 7


def test_a_refused_record_does_not_make_a_description_late(collector):
    """After a rejected first record, windows by tags can still be described."""
    with pytest.raises(InvalidInputError):
        collector.record_counter("name", -1, {"a": "x"})
    collector.describe("name", window_by=["a"])
    collector.record_counter("name", 3, {"a": "x"})
    collector.record_counter("name", 4, {"a": "y"})
    assert collector.store.summary("name", tags={"a": "x"})["total"] == 3


def test_a_group_past_the_bound_is_an_error_and_the_others_are_exact(collector):
    """Groups that share windows cannot be read one by one; earlier groups and the name can."""
    collector.describe("name", window_by=["a"])
    number = MAX_WINDOW_GROUPS + 50
    for group in range(number):
        collector.record_counter("name", group + 1, {"a": f"r{group}"})
    with pytest.raises(InvalidInputError, match="are kept together with those of others"):
        collector.store.summary("name", tags={"a": f"r{number - 1}"})
    for group in (0, 5, MAX_WINDOW_GROUPS - 1):
        assert collector.store.summary("name", tags={"a": f"r{group}"})["total"] == group + 1
    whole = collector.store.summary("name")
    assert (whole["count"], whole["total"]) == (number, number * (number + 1) // 2)


@pytest.mark.parametrize("read", [False, True])
def test_a_removal_lowers_a_sum_and_is_not_a_record(collector, clock, read):
    """A gauge that sums its series loses the removed one; its count does not change."""
    collector.describe("name", merge="sum")
    for level, tags in ((3, NORTH), (4, SOUTH), (5, NORTH)):
        collector.record_gauge("name", level, tags)
        clock.advance(1)
    if read:
        assert collector.store.summary("name")["last"] == 9
    collector.remove("name", NORTH)
    for window in (None, MINUTE):
        summary = collector.store.summary("name", window)
        assert (summary["last"], summary["count"]) == (4, 3)


@pytest.mark.parametrize("read", [False, True])
def test_other_bounds_show_at_once(collector, read):
    """A read right after a description has the new bounds, with earlier values if none were exposed."""
    aggregator = InMemoryAggregator(collector.store)
    collector.describe("name", buckets=(1, 2))
    collector.record_histogram("name", 1.5)
    if read:
        assert aggregator.get_metrics_by_tag({})[0].metadata["buckets"]["counts"]["2.0"] == 1
    collector.describe("name", buckets=(5, 10))
    (value,) = aggregator.get_metrics_by_tag({})
    count = 0 if read else 1
    assert value.metadata["buckets"]["counts"] == {"5.0": count, "10.0": count, "inf": count}
    assert value.metadata["count"] == 1


def test_removing_a_series_twice_loses_nothing(collector):
    """Two concurrent removals keep the records between them, and the total of the name."""
    one = collector.counter("name", NORTH)
    one.add(2)
    metric = collector.store._metrics.get("name")
    metric.remove(one)
    collector.record_counter("name", 3, NORTH)
    metric.remove(one)
    assert counts(collector.store) == {tuple(NORTH.items()): 1}
    collector.record_counter("name", 4, NORTH)
    assert counts(collector.store) == {tuple(NORTH.items()): 2}
    summary = collector.store.summary("name")
    assert (summary["count"], summary["total"]) == (3, 9)


def test_made_up_tag_names_are_bounded_where_series_expire(clock):
    """Series that expire leave room for others, but tag names that never come again do not pile up."""
    store = Store(clock, expire_after=timedelta(seconds=10), budgets=Budgets(series_per_name=50))
    collector = InMemoryCollector(store)
    for number in range(500):
        collector.increment("name", {f"tag{number}": "1"})
        clock.advance(20)
        store.readings()
    assert len(store._metrics.get("name").tag_sets) <= 50 + MAX_COLLAPSED_TAGS + 1
    assert store.summary("name")["total"] == 500
