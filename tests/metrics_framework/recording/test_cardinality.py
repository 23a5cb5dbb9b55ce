"""Cardinality: any number of names and tags takes bounded memory, and totals stay exact."""

from __future__ import annotations

import logging
import random
import tracemalloc
from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.in_memory import InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import Budgets, Store
from metrics_framework.recording.cardinality import MAX_COLLAPSED_TAGS, OTHER

LAST = {OTHER: OTHER}


def collector_with(clock: ManualClock, **budgets: int) -> InMemoryCollector:
    """Return a collector on a store with these budgets."""
    return InMemoryCollector(Store(clock, budgets=Budgets(**budgets)))


def sums_by(store: Store, *tags: str) -> dict[tuple[str | None, ...], float]:
    """Return the sums of all series by some of their tags."""
    found: Counter[tuple[str | None, ...]] = Counter()
    for reading in store.readings():
        found[tuple(reading.tags.get(tag) for tag in tags)] += reading.summary["sum"]
    return dict(found)


def most_series(series_per_name: int) -> int:
    """Return the maximum number of series: a tenth of the budget for each tag, and the shared one."""
    return series_per_name + MAX_COLLAPSED_TAGS * max(series_per_name // 10, 1) + 1


def test_a_stale_bound_series_uses_up_no_budget(clock):
    """Records through a bound series that was removed and made again by name count as one series."""
    collector = collector_with(clock, series=50)
    stale = collector.counter("stale", {"a": "1"})
    collector.remove("stale", {"a": "1"})
    collector.record_counter("stale", 1, {"a": "1"})
    for _ in range(200):
        stale.add()
    assert collector.store._state.cardinality.series_count == 1
    for number in range(49):
        collector.record_counter("new", 1, {"user": str(number)})
    assert collector.store.overflowed == 0


def test_two_removals_of_one_series_count_once():
    """If two threads remove the same series, the store's number of series goes down by one."""
    removals = []

    class Clock(ManualClock):
        def monotonic_ns(self) -> int:
            if removals:  # another thread, in the middle of a removal
                removals.pop()()
            return super().monotonic_ns()

    collector = collector_with(Clock(), series=50)
    collector.describe("name", merge="sum")
    for user in "abc":
        collector.record_gauge("name", 1, {"user": user})
    remove = collector.store.remove
    removals.append(lambda: remove("name", {"user": "a"}))
    remove("name", {"user": "a"})
    assert removals == []
    assert collector.store._state.cardinality.series_count == 2


def test_a_wrong_number_of_series_refuses_none(clock):
    """A store counts its series again, at most once a second, before it refuses a new one."""
    collector = collector_with(clock, series=50)
    collector.record_counter("name", 1, {"user": "a"})
    for user in "bc":
        collector.store._state.cardinality.series_count = 1_000  # as after interrupted removals
        collector.record_counter("name", 1, {"user": user})
        clock.advance(1)
    assert (collector.store.series_count, collector.store.overflowed) == (3, 0)


def test_only_the_tag_that_grew_is_collapsed(clock):
    """Over budget, new values of that tag are `__other__`; sums by every other tag stay exact."""
    collector = collector_with(clock, series_per_name=100)
    regions, methods = Counter(), Counter()
    both: Counter[tuple[str, str]] = Counter()
    for number in range(1_000):
        region, method = f"region {number % 3}", f"method {number % 2}"
        collector.record_counter("name", number, {"user": str(number), "region": region, "method": method})
        regions[(region,)] += number
        methods[(method,)] += number
        both[region, method] += number
    store = collector.store
    assert sums_by(store, "region") == regions
    assert sums_by(store, "method") == methods
    assert sums_by(store, "region", "method") == both
    by_user = sums_by(store, "user")
    assert {user: by_user[(user,)] for user in map(str, range(100))} == {
        str(number): number for number in range(100)
    }
    assert by_user[(OTHER,)] == sum(range(100, 1_000))
    assert store.series_count == 100 + 6
    assert store.summary("name")["total"] == sum(range(1_000))
    assert store.overflowed == 900


def test_series_within_the_budget_keep_recording(clock):
    """Existing series still record after the budget is used up."""
    collector = collector_with(clock, series_per_name=10)
    bound = collector.counter("name", {"user": "0"})
    for round_ in range(3):
        for number in range(30):
            collector.increment("name", {"user": str(number)})
        bound.add(1)
        assert sums_by(collector.store, "user")[("0",)] == 2 * (round_ + 1)
    assert sums_by(collector.store, "user")[("9",)] == 3
    assert sums_by(collector.store, "user")[(OTHER,)] == 60
    assert collector.store.overflowed == 60


def test_a_budget_that_is_exactly_used_up_does_not_overflow(clock, caplog):
    """All series are kept apart, without a warning."""
    collector = collector_with(clock, series_per_name=10)
    with caplog.at_level(logging.DEBUG, logger="metrics_framework"):
        for number in range(10):
            collector.increment("name", {"user": str(number)})
        assert len(collector.store.readings()) == 10
    assert (caplog.records, collector.store.overflowed) == ([], 0)


def test_one_warning_names_the_metric_and_the_tag(clock, caplog):
    """A record never logs; the next read logs one warning, once."""
    collector = collector_with(clock, series_per_name=10)
    with caplog.at_level(logging.DEBUG, logger="metrics_framework"):
        for number in range(100):
            collector.increment("requests", {"user": str(number), "region": "north"})
        assert caplog.records == []
        collector.store.summary("requests")
        for number in range(100):
            collector.increment("requests", {"user": f"again {number}", "region": "north"})
        collector.store.readings()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    for part in ("too many series", "metric='requests'", "tag='user'", f"counted_as='{OTHER}'"):
        assert part in record.getMessage()


def test_the_next_worst_tag_follows(clock, caplog):
    """If the shared series grow too, the tag with the next most values collapses; the others stay exact."""
    collector = collector_with(clock, series_per_name=100)
    regions: Counter[tuple[str]] = Counter()
    with caplog.at_level(logging.DEBUG, logger="metrics_framework"):
        for number in range(5_000):
            region = f"region {number % 3}"
            tags = {"user": str(number), "session": str(number // 3), "region": region}
            collector.increment("name", tags)
            regions[(region,)] += 1
        collector.store.readings()
    assert sums_by(collector.store, "region") == regions
    assert sums_by(collector.store, "user", "session")[OTHER, OTHER] > 4_000
    assert collector.store.series_count <= 100 + 10 + 3
    assert collector.store.summary("name")["total"] == 5_000
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert sum("tag='user'" in message for message in said) == 1
    assert sum("tag='session'" in message for message in said) == 1


def test_the_last_resort_is_a_single_series(clock):
    """If every tag grows, one series has all overflows, including untagged records."""
    collector = collector_with(clock, series_per_name=10)
    for number in range(2_000):
        collector.increment("name", {"a": str(number), "b": str(number * 7), "c": str(number * 13)})
    collector.increment("name")
    found = {tuple(reading.tags.items()): reading.summary["sum"] for reading in collector.store.readings()}
    assert len(found) == 10 + 3 + 1  # the budget, one more for each tag that lost its values, the last one
    assert sum(found.values()) == 2_001
    everything_else = {("a", OTHER), ("b", OTHER), ("c", OTHER)}
    assert found[tuple(sorted(everything_else))] > 1_900
    assert found[tuple(LAST.items())] == 1


def test_random_tag_names_are_bounded(clock):
    """Random tag names are bounded as well, and the total is exact."""
    collector = collector_with(clock, series_per_name=50)
    for number in range(3_000):
        collector.increment("name", {f"tag {number}": "value", f"more {number % 7}": str(number)})
    assert collector.store.series_count <= most_series(50)
    assert collector.store.summary("name")["total"] == 3_000
    assert collector.store.overflowed == 2_950
    assert sum(reading.summary["sum"] for reading in collector.store.readings()) == 3_000


@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 30).map(str)), max_size=150),
    st.integers(1, 25),
)
def test_nothing_is_lost_to_a_budget(records, budget):
    """For all tags and budgets, series are bounded, their sums add up, and windows are exact."""
    clock = ManualClock()
    collector = collector_with(clock, series_per_name=budget)
    for number, tags in enumerate(records):
        collector.record_counter("name", number, tags)
        collector.record_histogram("sizes", number, tags)
    store = collector.store
    if not records:
        return
    assert store.series_count <= 2 * most_series(budget)
    expected = sum(range(len(records)))
    for name in ("name", "sizes"):
        mine = [reading for reading in store.readings() if reading.name == name]
        assert sum(reading.summary["sum"] for reading in mine) == expected
        assert sum(reading.summary["count"] for reading in mine) == len(records)
        assert store.summary(name, timedelta(minutes=1))["sum"] == expected


def test_every_kind_has_its_budget(clock):
    """Gauges, histograms and timers are bounded like counters."""
    collector = collector_with(clock, series_per_name=10)
    for number in range(100):
        tags = {"user": str(number)}
        collector.record_gauge("gauge", number, tags)
        collector.record_histogram("histogram", number, tags)
        collector.record_timer("timer", float(number), tags=tags)
    other = {
        reading.name: reading.summary
        for reading in collector.store.readings()
        if reading.tags["user"] == OTHER
    }
    assert {name: summary["count"] for name, summary in other.items()} == dict.fromkeys(
        ("gauge", "histogram", "timer"), 90
    )
    assert other["gauge"]["last"] == 99
    assert (other["timer"]["min"], other["timer"]["max"]) == (10, 99)
    assert collector.store.series_count == 33
    assert collector.store.summary("histogram")["sum"] == sum(range(100))


def test_bound_instruments_share_the_overflow(clock):
    """A bound instrument over budget works, and records into the shared series."""
    collector = collector_with(clock, series_per_name=10)
    bound = [collector.counter("name", {"user": str(number)}) for number in range(100)]
    for each in bound:
        each.add(2)
    assert bound[50] is bound[99]
    assert sums_by(collector.store, "user")[(OTHER,)] == 180
    assert collector.store.series_count == 11


def test_all_series_have_a_budget(clock):
    """The series of all metrics together are bounded, and every total is exact."""
    collector = collector_with(clock, series_per_name=50, series=100, names=200)
    for number in range(200):
        for name in range(20):
            collector.increment(f"name {name}", {"user": str(number), "session": f"session {number}"})
    assert collector.store.series_count <= 110 + 20
    assert [collector.store.summary(f"name {name}")["total"] for name in range(20)] == [200] * 20
    assert sum(reading.summary["sum"] for reading in collector.store.readings()) == 4_000


def test_error_types_are_bounded(clock, caplog):
    """Over budget, new error types are counted as one; earlier ones and the total stay exact."""
    store = Store(clock, budgets=Budgets(error_types=10))
    tracker = InMemoryTracker(store)
    with caplog.at_level(logging.DEBUG, logger="metrics_framework"):
        for number in range(100):
            tracker.record_failure("operation", f"error {number}", {"number": number})
            tracker.record_failure("operation", "error 3")
            tracker.record_failure("other", "timeout")
        assert caplog.records == []
        breakdown = tracker.get_failure_breakdown("operation")
        tracker.get_failure_breakdown("operation")
    assert breakdown == {f"error {number}": 101 if number == 3 else 1 for number in range(10)} | {OTHER: 90}
    assert tracker.get_failure_breakdown("other") == {"timeout": 100}
    assert store.overflowed == 90
    (record,) = caplog.records
    assert "operation='operation'" in record.getMessage()
    assert tracker.recent_failures("operation")[-2].error_type == "error 99"


# -- millions --------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_a_million_values_of_one_tag(soak):
    """A million users are bounded in series; the total and the sums by other tags are exact."""
    count = soak(1_000_000)
    collector = InMemoryCollector(Store(ManualClock(), budgets=Budgets(series_per_name=1_000)))
    for number in range(count):
        collector.record_counter("name", 3, {"user": str(number), "region": ("n", "s", "w")[number % 3]})
    store = collector.store
    assert store.series_count == 1_003
    assert store.summary("name")["total"] == 3 * count
    assert sums_by(store, "region") == {
        (region,): 3 * len(range(first, count, 3)) for first, region in enumerate("nsw")
    }
    assert store.overflowed == count - 1_000


@pytest.mark.heavy
def test_memory_does_not_grow_past_the_budget():
    """Ten times as many values, names and error types over budget take no more memory."""
    store = Store(ManualClock(), budgets=Budgets(series_per_name=100, names=100, error_types=100))
    collector, timer, tracker = InMemoryCollector(store), InMemoryTimer(store), InMemoryTracker(store)
    source = random.Random(1)

    def record(times: int) -> None:
        for _ in range(times):
            unique = str(source.random())
            collector.increment("name", {"user": unique, "region": "n"})
            collector.record_histogram("sizes", 3.5, {unique: "value"})
            collector.increment(unique)
            tracker.record_failure("operation", unique)
            timer.stop_timer(timer.start_timer(unique))
        store.readings()
        store.outcome_readings()

    record(3_000)
    tracemalloc.start()
    try:
        record(1_000)
        before, _ = tracemalloc.get_traced_memory()
        record(10_000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 200_000  # twenty bytes a round


@pytest.mark.soak
def test_a_million_error_types(soak):
    """A million error types become 101, and every failure is counted."""
    count = soak(1_000_000)
    store = Store(ManualClock())
    tracker = InMemoryTracker(store)
    for number in range(count):
        tracker.record_failure("operation", f"error {number}")
    breakdown = tracker.get_failure_breakdown("operation")
    assert len(breakdown) == 101
    assert breakdown[OTHER] == count - 100 == store.overflowed
    assert sum(breakdown.values()) == count
    assert len(tracker.recent_failures("operation")) == 20


@pytest.mark.soak
def test_a_million_operation_names(soak):
    """A million operations become 2 001, timed or tracked, and every one of them is counted."""
    count = soak(1_000_000)
    store = Store(ManualClock())
    timer, tracker = InMemoryTimer(store), InMemoryTracker(store)
    for number in range(count):
        name = f"operation {number}"
        timer.stop_timer(timer.start_timer(name))
        tracker.record_success(name)
    assert len(store.timing_readings()) == len(store.outcome_readings()) == 2_001
    assert store.timing_summary(f"{OTHER}timer")["count"] == count - 2_000
    assert store.outcomes(f"{OTHER}operation").successes == count - 2_000
    assert store.recorded == 2 * count


def test_a_budget_of_error_types_has_a_limit(clock):
    """The most that is accepted can be used up; one more is an error that names the limit."""
    with pytest.raises(InvalidInputError, match=r"error_types=8001 is too large: pass 8000 or fewer"):
        Store(clock, budgets=Budgets(error_types=8_001))
    store = Store(clock, budgets=Budgets(error_types=8_000))
    for number in range(8_010):
        store.record_operation("checkout", None, 1, str(number))
    failures = store.outcomes("checkout").failures
    assert len(failures) <= 8_001
    assert sum(failures.values()) == 8_010
