"""Time series of the series with some tags, against a list of all records."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.recording import Budgets, Distribution, Store
from metrics_framework.recording.distribution import subtract_distribution
from metrics_framework.recording.metric import MAX_SERIES_OF_HISTORY

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)

Record = tuple[int, dict[str, str], int]
"""The milliseconds of a record, its tags and its value."""


def milliseconds(clock: ManualClock) -> int:
    """Return the time as histories report it."""
    return round(clock.monotonic_ns() / 1e6)


def record(store: Store, tags: dict[str, str], value: int) -> None:
    """Record a value as a counter, a duration and an outcome of the name ``name``."""
    store.find("counter", "name", tags).add(value)
    timing, outcomes = store.find_timing("name", tags), store.find_outcomes("name", tags)
    assert timing is not None
    assert outcomes is not None
    timing.elapse(float(value))
    outcomes.finish(None if value % 2 else f"error {value % 3}")


def compare(store: Store, records: list[Record], tags: dict[str, str], window: timedelta, points: int) -> int:
    """Compare each interval of each kind with the records of its time; return the number of histories."""
    compared = 0
    for read in (store.history, store.timing_history, store.outcome_history):
        try:
            history = read("name", window, points, tags)
        except InvalidInputError as error:
            if "seconds from now on" not in str(error):  # else its windows are not complete yet
                raise
            continue
        compared += 1
        assert sum(each.summary["count"] for each in history.intervals) >= history.whole.summary["count"]
        for position, each in enumerate(history.intervals):
            start, end = ((when - START) / timedelta(milliseconds=1) for when in (each.start, each.end))
            is_last = position == len(history.intervals) - 1
            values = [
                value
                for when, given, value in records
                if tags.items() <= given.items() and start <= when and (when < end or is_last)
            ]
            assert is_last or each.end == history.intervals[position + 1].start
            assert each.summary["count"] == len(values)
            if read == store.outcome_history:
                failed: Any = each.summary["failures"]
                assert failed == Counter(f"error {value % 3}" for value in values if value % 2 == 0)
            else:
                assert each.summary["sum"] == sum(values)
            if read == store.timing_history:
                assert each.distribution is not None
                assert each.distribution.count == len(values)
    return compared


PAUSES = st.sampled_from([0, 0.5, 3, 15.9, 16, 17, 100, 600, 4_000]) | st.floats(0, 300)
TAGS = st.fixed_dictionaries({"route": st.sampled_from("abc")}, optional={"host": st.sampled_from("xy")})
EVENTS = st.lists(st.tuples(PAUSES, TAGS, st.integers(1, 100), st.sampled_from([1, 1, 140])), max_size=25)
WANTED = st.sampled_from([{"route": "a"}, {"host": "x"}, {"route": "c", "host": "y"}, {"service": "shop"}])


@pytest.mark.slow
@given(EVENTS, PAUSES, WANTED, st.sampled_from([60, 600, 3_600, 7_200]), st.sampled_from([2, 20, 60]))
@settings(max_examples=60)
def test_each_interval_has_the_records_of_its_time(events, rest, tags, window, points):
    """Counts, sums and failures by tag are exact for the time of each interval, whatever its width is."""
    clock = ManualClock()
    store = Store(clock, tags={"service": "shop"})
    records: list[Record] = []
    for pause, given_tags, value, times in events:
        clock.advance(pause)
        for _ in range(times):
            record(store, given_tags, value)
            records.append((milliseconds(clock), {"service": "shop", **given_tags}, value))
    clock.advance(rest)
    if tags.keys() <= {tag for _, given_tags, _ in records for tag in given_tags}:
        compare(store, records, tags, timedelta(seconds=window), points)


def test_a_series_that_has_just_begun_does_not_cut_the_others_off():
    """Its first records are part of the line: the line of the tag begins an hour ago, not now."""
    clock, records = ManualClock(), []
    store = Store(clock)
    for step in range(200):
        for route in "ab" if step > 195 else "a":
            for _ in range(3 if route == "a" else 200):
                record(store, {"method": "GET", "route": route}, step + 1)
                records.append((milliseconds(clock), {"method": "GET", "route": route}, step + 1))
        record(store, {"method": "PUT"}, 1)
        clock.advance(15)
    assert compare(store, records, {"method": "GET"}, HOUR, 60) == 3
    history = store.timing_history("name", HOUR, 60, {"method": "GET"})
    assert history.whole.summary["count"] == len(records)
    assert len(history.intervals) > 8


def test_windows_by_tags_have_fine_intervals():
    """Tags in ``window_by``, constant tags and tags of all series are as fine as no tags."""
    clock = ManualClock()
    store = Store(clock, tags={"service": "shop"})
    store.describe("name", window_by=["route"])
    for step in range(60):
        record(store, {"route": "ab"[step % 2], "all": "1"}, 5)
        clock.advance(60)
    whole = store.history("name", HOUR, 60)
    for tags in ({"service": "shop"}, {"all": "1"}):
        assert store.history("name", HOUR, 60, tags) == whole
    one = store.history("name", HOUR, 60, {"route": "a"})
    assert [each.start for each in one.intervals] == [each.start for each in whole.intervals]
    assert sum(each.summary["count"] for each in one.intervals) == 30


def test_one_point_is_the_window_by_tags():
    """It has the numbers of `Store.summary`, also where many series carry the tag."""
    clock = ManualClock()
    store = Store(clock)
    for number in range(MAX_SERIES_OF_HISTORY + 1):
        record(store, {"method": "GET", "route": str(number)}, number)
    record(store, {"method": "PUT"}, 1)
    clock.advance(40)
    (one,) = store.history("name", 5 * MINUTE, 1, {"method": "GET"}).intervals
    assert one.summary == store.summary("name", 5 * MINUTE, {"method": "GET"})
    assert one.summary["count"] == MAX_SERIES_OF_HISTORY + 1
    with pytest.raises(InvalidInputError, match=r"has 101 series with these tags.*window_by=\['method'\]"):
        store.history("name", 5 * MINUTE, 2, {"method": "GET"})


def test_a_gauge_has_a_line_by_the_tags_of_one_series():
    """Several series at a time have no common value, so the error names them."""
    clock = ManualClock()
    store = Store(clock)
    for step in range(40):
        store.find("gauge", "depth", {"queue": "a"}).set(step)
        store.find("gauge", "depth", {"queue": "b"}).set(-step)
        clock.advance(10)
    clock.advance(30)
    history = store.history("depth", MINUTE, 10, {"queue": "a"})
    assert history.whole.summary["last"] == history.intervals[-1].summary["last"] == 39
    store.find("gauge", "depth", {"queue": "a", "host": "x"}).set(1)
    with pytest.raises(InvalidInputError, match="has 2 series with these tags"):
        store.history("depth", MINUTE, 10, {"queue": "a"})


def test_what_is_not_known_by_tags_is_refused():
    """Unknown names and tags, and tags past the budget, raise an error."""
    store = Store(ManualClock(), budgets=Budgets(series_per_name=2))
    for number in range(5):
        store.find("counter", "name", {"route": str(number)}).add(1)
    with pytest.raises(UnknownMetricError):
        store.history("nam", HOUR, 5, {"route": "1"})
    with pytest.raises(InvalidInputError, match="has the tag 'rout'"):
        store.history("name", HOUR, 5, {"rout": "1"})
    with pytest.raises(InvalidInputError, match="past its budget of series"):
        store.history("name", HOUR, 5, {"route": "1"})


@pytest.mark.parametrize(("early", "late"), [(20, 30), (100, 100), (0, 200), (500, 1), (300, 0)])
def test_the_rest_of_a_distribution_has_the_other_values(early, late):
    """Counts, sums and failures are exact; quantiles are within the resolution."""
    store = Store(ManualClock())
    for value in range(early + late):
        timing = store.find_timing("whole")
        part = store.find_timing("part")
        assert timing is not None
        assert part is not None
        timing.elapse(1.5 + value, success=value % 7 > 0)
        if value >= early:
            part.elapse(1.5 + value, success=value % 7 > 0)
    whole = store.distribution("whole", operation=True)
    part = store.distribution("part", operation=True) if late else Distribution.of(())
    rest = Distribution.of_state(subtract_distribution(whole, part))
    expected = Distribution.of([1.5 + value for value in range(early)])
    assert (rest.count, rest.sum) == (expected.count, expected.sum)
    assert rest.failures == len([value for value in range(early) if value % 7 == 0])
    if early:
        assert rest.quantiles(0.5, 1) == pytest.approx(expected.quantiles(0.5, 1), rel=0.02)
        assert rest.stddev == pytest.approx(expected.stddev, rel=0.02)
