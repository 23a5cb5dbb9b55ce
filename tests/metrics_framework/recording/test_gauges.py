"""Gauges of several series against a model that processes the records one by one."""

from __future__ import annotations

import json
import math
import sys
import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector
from metrics_framework.clock import ManualClock
from metrics_framework.recording import Store

LAWS = ["latest", "sum", "min", "max"]
every_law = pytest.mark.parametrize("law", LAWS)

SERIES = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(-50, 50) | st.integers(-200, 200).map(lambda number: number / 4)
PAUSES = st.sampled_from([0.0, 0.0, 0.125, 0.25, 0.5, 1.0, 3.0])
EVENTS = st.tuples(st.sampled_from(["set", "step", "step", "remove", "read"]), SERIES, NUMBERS, PAUSES)


class Model:
    """The expected values of a gauge, computed record by record."""

    def __init__(self, law: str) -> None:
        self.law = law
        self.now = 0.0
        self.lasts: dict[str, float] = {}
        self.courses: dict[str, list[tuple[float, float]]] = {}
        self.whole: list[tuple[float, float]] = []

    def put(self, kind: str, series: str, number: float) -> None:
        """Process one event."""
        if kind == "remove":
            self.lasts.pop(series, None)
            self.courses.pop(series, None)
            return
        value = number if kind == "set" else self.lasts.get(series, 0) + number
        self.lasts[series] = value
        self.courses.setdefault(series, []).append((self.now, value))
        pick = {"sum": sum, "min": min, "max": max}.get(self.law)
        self.whole.append((self.now, pick(self.lasts.values()) if pick else value))


def average(course: list[tuple[float, float]], now: float) -> float:
    """Weigh each value by its duration."""
    ends = [*(time for time, _ in course[1:]), now]
    span = now - course[0][0]
    if not span:
        return course[-1][1]
    return sum(value * (end - time) for (time, value), end in zip(course, ends, strict=True)) / span


def check(summary: dict[str, float], course: list[tuple[float, float]], now: float) -> None:
    """Compare a summary with the model's values."""
    values = [value for _, value in course]
    assert (summary["count"], summary["last"]) == (len(course), values[-1])
    assert (summary["min"], summary["max"]) == (min(values), max(values))
    assert summary["avg"] == pytest.approx(average(course, now), abs=1e-9)


@every_law
@given(events=st.lists(EVENTS.filter(lambda event: event[0] != "remove"), max_size=40))
def test_gauges_agree_with_a_model(law, events):
    """Under every merge law, sets and steps of several series give the expected values."""
    clock = ManualClock()
    store = Store(clock)
    collector, model = InMemoryCollector(store), Model(law)
    collector.describe("name", merge=law)
    for kind, series, number, pause in events:
        clock.advance(pause)
        model.now += pause
        if kind == "read":
            store.readings()
            continue
        gauge = collector.gauge("name", {"series": series})
        if kind == "set":
            gauge.set(number)
        elif number > 0:
            gauge.increment(number)
        else:
            gauge.decrement(-number)
        model.put(kind, series, number)
    clock.advance(2)
    model.now += 2
    for reading in store.readings():
        check(reading.summary, model.courses.pop(reading.tags["series"]), model.now)
    assert not model.courses
    if model.whole:
        check(store.summary("name"), model.whole, model.now)
        check(store.summary("name", timedelta(days=1)), model.whole, model.now)


@every_law
@given(events=st.lists(EVENTS, max_size=40))
def test_removed_gauges_leave_the_whole(law, events):
    """A removed series starts from nothing, and is not part of the combined value afterwards."""
    clock = ManualClock()
    store = Store(clock)
    collector, model = InMemoryCollector(store), Model(law)
    collector.describe("name", merge=law)
    bound = {series: collector.gauge("name", {"series": series}) for series in "abc"}
    for kind, series, number, pause in events:
        clock.advance(pause)
        model.now += pause
        match kind:
            case "read":
                store.readings()
                continue
            case "remove":
                store.remove("name", {"series": series})
            case "set":
                bound[series].set(number)
            case _:
                bound[series].increment(number)
        model.put(kind, series, number)
        if model.whole and kind != "remove":
            assert store.summary("name")["last"] == model.whole[-1][1]
    for reading in store.readings():
        check(reading.summary, model.courses.pop(reading.tags["series"]), model.now)
    assert not model.courses


@pytest.mark.parametrize(("law", "before", "after"), [("sum", 7, 2), ("min", 2, 2), ("max", 5, 2)])
def test_a_removal_shows_at_once(clock, law, before, after):
    """The combined value changes at the removal of a series, without another record."""
    collector = InMemoryCollector(Store(clock))
    collector.describe("name", merge=law)
    collector.record_gauge("name", 2, {"series": "a"})
    collector.record_gauge("name", 5, {"series": "b"})
    assert collector.store.summary("name")["last"] == before
    assert collector.remove("name", {"series": "b"})
    assert collector.store.summary("name")["last"] == after
    assert [reading.summary["last"] for reading in collector.store.readings()] == [2]


def test_a_removal_leaves_the_latest_record(clock):
    """The latest record stays the latest, also if its series is removed."""
    collector = InMemoryCollector(Store(clock))
    collector.record_gauge("name", 2, {"series": "a"})
    collector.record_gauge("name", 5, {"series": "b"})
    collector.remove("name", {"series": "b"})
    assert collector.store.summary("name")["last"] == 5


def test_the_average_is_weighted_by_time(clock):
    """A value counts for its duration, across seconds and up to now."""
    collector = InMemoryCollector(Store(clock))
    for level, seconds in ((100, 10), (1, 30), (4, 10)):
        collector.record_gauge("name", level)
        clock.advance(seconds)
    summary = collector.store.summary("name")
    assert summary == {"count": 3, "seconds": 50.0, "last": 4, "avg": 21.4, "min": 1, "max": 100}
    window = collector.store.summary("name", timedelta(seconds=20))
    assert window == {"count": 1, "seconds": 20.0, "last": 4, "avg": 2.5, "min": 1, "max": 4}


def test_steps_and_sets_of_several_series(clock):
    """A step starts from the last value of its own series."""
    collector = InMemoryCollector(Store(clock))
    one, other = collector.gauge("name", {"series": "a"}), collector.gauge("name", {"series": "b"})
    one.set(10)
    other.increment(3)
    one.increment()
    other.decrement(1)
    one.set(-4)
    one.decrement(0.5)
    other.increment()
    lasts = {each.tags["series"]: each.summary["last"] for each in collector.store.readings()}
    assert lasts == {"a": -4.5, "b": 3}
    one.increment(1)
    assert {each.summary["last"] for each in collector.store.readings()} == {-3.5, 3}


def test_integers_stay_integers(clock):
    """Steps of integers are exact beyond the precision of a float."""
    collector = InMemoryCollector(Store(clock))
    gauge = collector.gauge("name")
    gauge.set(2**60)
    for _ in range(5):
        gauge.increment()
    collector.store.readings()
    gauge.decrement(2)
    assert collector.store.summary("name")["last"] == 2**60 + 3


@every_law
def test_a_law_holds_for_old_levels(clock, law):
    """A merge law applies to old and new values."""
    collector = InMemoryCollector(Store(clock))
    collector.describe("name", merge=law)
    for series, level in (("a", 3), ("b", -5), ("c", 8)):
        collector.record_gauge("name", level, {"series": series})
        clock.advance(10)
        collector.store.readings()
    collector.record_gauge("name", 1, {"series": "b"})
    expected = {"latest": 1, "sum": 12, "min": 1, "max": 8}
    assert collector.store.summary("name")["last"] == expected[law]


@every_law
def test_a_gauge_stays_readable_after_huge_integers(clock, law):
    """Integers near the largest float are normal values, and smaller ones may follow."""
    collector = InMemoryCollector(Store(clock))
    collector.describe("name", merge=law)
    for level in (10**308, 10**308, 1.0):
        collector.record_gauge("name", level)
    summary = collector.store.summary("name")
    assert (summary["count"], summary["last"], summary["min"], summary["max"]) == (3, 1.0, 1.0, 1e308)


@pytest.mark.parametrize("read", [False, True])
def test_huge_steps_do_not_break_a_gauge(clock, read):
    """After steps of any size, the gauge can be set and read."""
    collector = InMemoryCollector(Store(clock))
    gauge = collector.gauge("name")
    for _ in range(20):
        gauge.increment(10**308)
        if read:
            assert math.isfinite(collector.store.summary("name")["last"])
    gauge.set(1)
    summary = collector.store.summary("name")
    assert (summary["count"], summary["last"], summary["min"]) == (21, 1, 1)
    assert math.isfinite(summary["max"])


def test_steps_stop_at_the_largest_float(clock):
    """Steps beyond the largest float leave a finite gauge, so that its JSON is valid."""
    collector = InMemoryCollector(Store(clock))
    gauge = collector.gauge("name")
    gauge.increment(1.7e308)
    gauge.increment(1.7e308)
    text = InMemoryAggregator(collector.store).export_metrics("json")
    assert collector.store.summary("name")["last"] == sys.float_info.max
    assert "Infinity" not in text
    assert "NaN" not in text
    json.loads(text)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["by name", "numbers", "booleans", "steps"])
def test_an_average_is_over_the_exact_time(way):
    """With the default clock, a gauge is at a value as long as the clock says, whatever else is recorded."""
    collector = InMemoryCollector(Store())
    gauge, counter = collector.gauge("level"), collector.counter("records")

    def move(value: int) -> None:
        if way == "by name":
            collector.record_gauge("level", value)
        elif way == "steps":
            gauge.increment() if value else gauge.decrement()
        else:
            gauge.set(bool(value) if way == "booleans" and value else value)

    def stay(value: int) -> int:
        end_ns = time.perf_counter_ns() + 500_000  # shorter than a tick of the kernel
        while (now_ns := time.perf_counter_ns()) < end_ns:
            counter.add(1)
            gauge.set(value)
        return now_ns

    least_ns = most_ns = 0
    gauge.set(0)
    for _ in range(100):
        begin_ns = time.perf_counter_ns()
        move(1)
        up_ns = time.perf_counter_ns()
        down_ns = stay(1)
        move(0)
        end_ns = time.perf_counter_ns()
        stay(0)
        least_ns, most_ns = least_ns + down_ns - up_ns, most_ns + end_ns - begin_ns
    assert least_ns <= gauge.state().integral <= most_ns


@pytest.mark.slow
def test_the_average_of_series_that_take_turns_is_over_the_exact_time():
    """A name has the latest value of its series, also if each series is set to its own value again."""
    collector = InMemoryCollector(Store())
    counter = collector.counter("records")

    def set_for_a_while(value: int) -> tuple[int, int, int]:
        begin_ns = time.perf_counter_ns()
        collector.record_gauge("level", value, {"series": str(value)})
        set_ns = time.perf_counter_ns()
        while (end_ns := time.perf_counter_ns()) < set_ns + 500_000:  # shorter than a tick of the kernel
            counter.add(1)
        return begin_ns, set_ns, end_ns

    first_ns, start_ns, _ = set_for_a_while(0)
    least_ns = most_ns = 0
    for _ in range(100):
        begin_ns, up_ns, down_ns = set_for_a_while(1)
        last_ns, end_ns, _ = set_for_a_while(0)
        least_ns, most_ns = least_ns + down_ns - up_ns, most_ns + end_ns - begin_ns
    average = collector.store.summary("level")["avg"]
    read_ns = time.perf_counter_ns()
    assert least_ns / (read_ns - first_ns) <= average <= most_ns / (last_ns - start_ns)
