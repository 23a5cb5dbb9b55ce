"""Windows of the series with some tags, against a list of all records."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework import MetricsSystem
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.recording import Budgets, Store
from metrics_framework.recording.cardinality import OTHER
from metrics_framework.recording.windows import RECENT_SLOT_NS, RecentWindows

SECOND = 1_000_000_000
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
KINDS = ("counter", "histogram", "timer", "timing", "outcome")


class Record(NamedTuple):
    """One record: its time, tags and value."""

    moment_ns: int
    tags: dict[str, str]
    value: int


class Recording:
    """A store, and a list of all records of one name.

    Args:
        kind: The kind of the name.
        begin: Seconds that the clock shows at the start.
        store: More arguments of the store.
    """

    def __init__(self, kind: str = "counter", begin: float = 0.0, **store: Any) -> None:
        self.kind = kind
        self.clock = ManualClock()
        self.clock.advance(begin)
        self.store = Store(self.clock, **store)
        self.collector = InMemoryCollector(self.store)
        self.records: list[Record] = []
        self.removed = 0

    def record(self, value: int, **tags: str) -> None:
        """Record a value."""
        self.records.append(Record(self.clock.monotonic_ns(), tags, value))
        match self.kind:
            case "counter":
                self.collector.record_counter("name", value, tags)
            case "histogram":
                self.collector.record_histogram("name", value, tags)
            case "timer":
                self.collector.record_timer("name", value, tags=tags)
            case "timing":
                self.store.find_timing("name", tags).elapse(float(value))
            case _:
                self.store.find_outcomes("name", tags).finish(None if value % 2 else f"error {value % 3}")

    def read(self, window: timedelta | None, **tags: str) -> Any:
        """Return the summary of a window by tags, or the outcomes of an operation."""
        match self.kind:
            case "timing":
                return self.store.timing_summary("name", window, tags)
            case "outcome":
                return self.store.outcomes("name", window, tags)
            case _:
                return self.store.summary("name", window, tags)

    def check(self, window: timedelta | None, **tags: str) -> float:
        """Compare a window by tags with the list, and return the seconds that it covers."""
        found = self.read(window, **tags)
        now = self.clock.monotonic_ns()
        seconds = found.seconds if self.kind == "outcome" else found["seconds"]
        start_ns = now - round(seconds * SECOND)
        values = [
            record.value
            for record in self.records
            if tags.items() <= record.tags.items() and record.moment_ns >= start_ns
        ]
        if self.kind == "outcome":
            assert found.successes == sum(value % 2 for value in values)
            assert found.failures == Counter(f"error {value % 3}" for value in values if value % 2 == 0)
            return seconds
        assert (found["count"], found["sum"]) == (len(values), sum(values))
        if self.kind == "counter":
            every = [record.value for record in self.records if tags.items() <= record.tags.items()]
            assert found["total"] == sum(every) - self.removed
        elif values:
            assert (found["min"], found["max"]) == (min(values), max(values))
            if len(values) <= 128:
                assert found["p50"] == statistics.median_low(values)
        return seconds


PAUSES = st.sampled_from([0, 0.5, 3, 15.9, 16, 17, 100, 600, 4_000]) | st.floats(0, 300)
TAGS = st.fixed_dictionaries({"route": st.sampled_from("abc")}, optional={"host": st.sampled_from("xy")})
EVENTS = st.lists(st.tuples(PAUSES, TAGS, st.integers(0, 100), st.integers(1, 30)), max_size=25)
WINDOWS = st.sampled_from([1, 16, 60, 300, 1_000, 3_600, 10_000]) | st.integers(1, 5_000)
WANTED = st.sampled_from([{"route": "a"}, {"route": "b"}, {"host": "x"}, {"route": "c", "host": "y"}])


def recorded_tags(recording: Recording) -> set[str]:
    """Return the names of all tags that were recorded."""
    return {tag for record in recording.records for tag in record.tags}


@pytest.mark.parametrize("kind", KINDS)
@given(EVENTS, PAUSES, WINDOWS, WANTED, st.floats(0, 100))
def test_a_window_by_tags_is_exact_for_the_seconds_that_it_reports(
    kind, events, rest, seconds, wanted, begin
):
    """The window has the records of the series with the tags in that time."""
    recording = Recording(kind, begin)
    for pause, tags, value, burst in events:
        recording.clock.advance(pause)
        for _ in range(burst):
            recording.record(value, **tags)
            recording.clock.advance(0.125)
    recording.clock.advance(rest)
    if recording.records and not recorded_tags(recording) >= wanted.keys():
        with pytest.raises(InvalidInputError, match="no record of 'name' has the tag '"):
            recording.read(None, **wanted)
    elif recording.records:
        covered = recording.check(timedelta(seconds=seconds), **wanted)
        since_start = recording.clock.monotonic_ns() / SECOND - begin
        if seconds <= 3_000:
            assert min(seconds, since_start) <= covered + 1e-6
        recording.check(None, **wanted)


@given(EVENTS, st.lists(st.tuples(st.integers(0, 25), st.booleans()), max_size=8), WINDOWS, WANTED)
def test_with_little_memory_and_removals_a_window_is_exact_or_refused(events, interruptions, seconds, wanted):
    """Series that lose their windows or are removed shorten or reject windows, which stay exact."""
    recording = Recording("counter", budgets=Budgets(recent_bytes=1_500))
    removals = dict(interruptions)
    for number, (pause, tags, value, burst) in enumerate(events):
        recording.clock.advance(pause)
        for _ in range(burst):
            recording.record(value, **tags)
            recording.clock.advance(1.5)
        if removals.get(number):
            recording.store.remove("name", tags)
        elif number in removals:
            recording.store.readings()
    if not recorded_tags(recording) >= wanted.keys():
        return
    window = timedelta(seconds=seconds)
    try:
        found = recording.read(window, **wanted)
    except InvalidInputError:
        with pytest.raises(InvalidInputError, match=r"describe\('name', window_by="):
            recording.read(window, **wanted)
        return
    start_ns = recording.clock.monotonic_ns() - round(found["seconds"] * SECOND)
    values = [
        each.value
        for each in recording.records
        if wanted.items() <= each.tags.items() and each.moment_ns >= start_ns
    ]
    assert (found["count"], found["sum"]) == (len(values), sum(values))


def test_a_window_covers_the_request_or_little_more():
    """For steady traffic of many routes a window is at most two thirds and a slot longer."""
    recording = Recording("counter")
    for second in range(3_700):
        recording.record(1, route=f"/{second % 7}", host="ab"[second % 2])
        if second % 5 == 0:
            recording.record(2, route="/steady", host="a")
        recording.clock.advance(1)
    for seconds in (60, 300, 900, 1_800, 3_500):
        covered = recording.check(timedelta(seconds=seconds), host="a")
        assert seconds <= covered <= 1.67 * seconds + 32
        assert recording.check(timedelta(seconds=seconds), route="/steady") >= seconds
    assert 3_500 <= recording.check(timedelta(hours=5), host="b") <= 3_700


@pytest.mark.slow
def test_a_route_that_becomes_busy_late_has_windows():
    """A series that was idle for long is exact from its first records on."""
    recording = Recording("timing")
    for _ in range(2_000):
        recording.record(5, route="/busy")
        recording.clock.advance(1)
    recording.record(7, route="/late")
    assert recording.check(MINUTE, route="/late") >= 60
    for _ in range(100):
        recording.record(9, route="/late")
        recording.clock.advance(1)
        for window in (MINUTE, 5 * MINUTE, HOUR / 2):
            recording.check(window, route="/late")


def test_a_route_that_is_not_among_the_busiest_has_windows():
    """Of a hundred routes, one with a record every ten minutes is as exact as the others."""
    recording = Recording("outcome")
    for second in range(3_000):
        recording.record(second, route=f"/{second % 99}")
        if second % 600 == 17:
            recording.record(second, route="/rare")
        recording.clock.advance(1)
        if second % 250 == 0 and second:
            for window in (MINUTE, 5 * MINUTE, HOUR / 2):
                recording.check(window, route="/rare")
                recording.check(window, route="/1")


def test_all_series_that_carry_the_tags_are_together():
    """Tags select all series that have them, with any other tags; constant tags count too."""
    recording = Recording("counter", tags={"service": "shop"})
    recording.record(1, route="/a")
    recording.record(2, route="/a", host="x")
    recording.record(4, route="/a", host="y")
    recording.record(8, host="x")
    recording.record(16, route="/a", service="other")
    read = recording.read
    assert [read(MINUTE, **tags)["sum"] for tags in ({"route": "/a"}, {"host": "x"})] == [23, 10]
    assert read(MINUTE, service="shop")["sum"] == 15
    assert (
        read(MINUTE, service="shop", route="/a")["sum"] == read(None, service="shop", route="/a")["sum"] == 7
    )
    assert read(MINUTE, service="other")["sum"] == 16


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [None, MINUTE])
def test_a_tag_name_that_was_never_recorded_is_an_error(kind, window):
    """A mistyped tag name must not read as an empty window, whose success rate is 1."""
    recording = Recording(kind, tags={"service": "shop"})
    recording.record(1, tenant="a")
    with pytest.raises(InvalidInputError, match=r"'name' has the tag 'tenat'\. Did you mean 'tenant'"):
        recording.read(window, tenat="a")
    recording.read(window, tenant="never seen", service="shop")


def test_tags_that_no_series_carries_have_an_empty_window():
    """An unknown tag value is not an error."""
    recording = Recording("timing")
    recording.record(1, route="/a")
    assert recording.read(MINUTE, route="/b")["count"] == 0
    assert recording.read(None, route="/b")["count"] == 0
    with pytest.raises(UnknownMetricError):
        recording.store.summary("other", MINUTE, {"route": "/a"})


def test_a_gauge_has_windows_of_single_series():
    """A gauge by tags is one series, weighted by time; for several, the error names the remedy."""
    clock = ManualClock()
    store = Store(clock)
    collector = InMemoryCollector(store)
    for level in range(100):
        collector.record_gauge("name", level, {"host": "x", "disk": "a"})
        collector.record_gauge("name", -level, {"host": "y", "disk": "a"})
        clock.advance(10)
    summary = store.summary("name", timedelta(seconds=100), {"host": "x"})
    first = 100 - round(summary["seconds"]) // 10
    levels = list(range(first, 100))
    assert summary["last"] == 99
    assert summary["count"] == pytest.approx(len(levels), abs=1)
    assert summary["min"] == pytest.approx(first, abs=1)
    assert summary["avg"] == pytest.approx(sum(levels) / len(levels), abs=1)
    assert store.summary("name", None, {"host": "y"})["min"] == -99
    with pytest.raises(InvalidInputError, match=r"'name' is a gauge and has 2 series with tags=.*all tags"):
        store.summary("name", MINUTE, {"disk": "a"})


@given(st.lists(st.tuples(PAUSES, st.integers(-50, 50)), min_size=1, max_size=25), PAUSES, WINDOWS)
def test_a_gauge_by_tags_agrees_with_a_list(events, rest, seconds):
    """Last value, extremes and average of the window are those of the list."""
    clock = ManualClock()
    store = Store(clock)
    collector = InMemoryCollector(store)
    levels: list[tuple[int, int]] = []
    for pause, level in events:
        clock.advance(pause)
        collector.record_gauge("name", level, {"a": "b"})
        levels.append((clock.monotonic_ns(), level))
    clock.advance(rest)
    now = clock.monotonic_ns()
    try:
        summary = store.summary("name", timedelta(seconds=seconds), {"a": "b"})
    except InvalidInputError:  # the level before the second burst is not known
        assert now - levels[-1][0] < RECENT_SLOT_NS
        return
    start = now - round(summary["seconds"] * SECOND)
    inside = [level for moment, level in levels if moment >= start]
    before = [level for moment, level in levels if moment < start][-1:]
    assert summary["last"] == levels[-1][1]
    assert summary["count"] == len(inside)
    if inside:
        assert summary["min"] <= min(inside) <= max(inside) <= summary["max"]
        assert {summary["min"], summary["max"]} <= {*inside, *before}
        course = [(max(moment, start), level) for moment, level in levels if moment >= start]
        if before and course[0][0] > start:
            course = [(start, before[0]), *course]
        span = now - course[0][0]
        ends = [moment for moment, _ in course[1:]] + [now]
        area = sum(level * (end - moment) for (moment, level), end in zip(course, ends, strict=True))
        assert summary["avg"] == pytest.approx(area / span if span else inside[-1], abs=1e-6)


# -- refusals ----------------------------------------------------------------------------------------------


def test_series_past_the_budget_have_no_windows_by_tag():
    """Windows by a collapsed tag are refused; those by other tags are exact."""
    recording = Recording("counter", budgets=Budgets(series_per_name=10))
    for number in range(50):
        recording.record(1, user=str(number), kind="a")
    for window in (None, MINUTE):
        with pytest.raises(InvalidInputError, match=r"past its budget.*series_per_name"):
            recording.read(window, user="3")
        assert recording.read(window, user=OTHER)["sum"] == 40
        assert recording.read(window, kind="a")["sum"] == 50


def test_without_memory_windows_by_tag_are_refused():
    """Only windows that would split the records of a series without windows are refused."""
    recording = Recording("counter", budgets=Budgets(recent_bytes=1))
    for number in range(20):
        for route in "abc":
            recording.record(number, route=route)
        recording.clock.advance(60)
    recording.record(5, route="new")
    assert recording.check(HOUR, route="a") >= 1_200  # all of its records are in it
    assert recording.check(MINUTE, route="new") == pytest.approx(60, abs=16)
    with pytest.raises(
        InvalidInputError, match=r"that have no windows.*window_by=\['route'\].*before its first"
    ):
        recording.read(5 * MINUTE, route="a")
    recording.clock.advance(600)
    assert recording.check(MINUTE, route="a") == pytest.approx(60, abs=16)  # none of them is


@pytest.mark.slow
def test_quiet_series_make_room_for_busier_ones():
    """At the limit, series that were idle for an hour lose their windows first, then the quietest."""
    recording = Recording("counter", budgets=Budgets(recent_bytes=20_000))

    def traffic(routes: range, seconds: int) -> None:
        for _ in range(0, seconds, 10):
            for route in routes:
                recording.record(1, route=str(route))
            recording.clock.advance(10)
            recording.store.readings()

    def with_windows(routes: range) -> int:
        return sum(
            recording.collector.counter("name", {"route": str(route)}).recent is not None for route in routes
        )

    traffic(range(40), 1_000)
    before = with_windows(range(40))
    assert 5 <= before <= 20_000 // 300
    traffic(range(100, 140), 1_000)
    assert with_windows(range(100, 140)) >= 5
    assert recording.store._state.cardinality.recent.used <= 20_000
    recording.clock.advance(2 * 3_600)
    traffic(range(200, 205), 1_000)
    assert with_windows(range(200, 205)) == 5
    assert recording.check(5 * MINUTE, route="202") >= 300


def test_a_removed_series_shortens_windows_by_tag():
    """The window begins after the last record of a removed series, so that it is complete."""
    recording = Recording("counter")
    for route in "ab":
        recording.record(1, route=route, kind="k")
    recording.clock.advance(100)
    recording.store.remove("name", {"route": "b", "kind": "k"})
    recording.removed = 1
    for _ in range(10):
        recording.record(1, route="a", kind="k")
        recording.clock.advance(10)
    assert recording.check(timedelta(seconds=150), kind="k") >= 150
    assert recording.check(HOUR, kind="k") < 200


# -- through the adapters ----------------------------------------------------------------------------------


def test_operations_can_be_queried_by_the_tags_of_measure(clock):
    """Timer, tracker and aggregator accept the tags, with a window or without."""
    store = Store(clock)
    collector = InMemoryCollector(store)
    timer, tracker, aggregator = InMemoryTimer(store), InMemoryTracker(store), InMemoryAggregator(store)
    metrics = MetricsSystem(collector=collector, timer=timer, tracker=tracker, aggregator=aggregator)
    for number in range(40):
        with metrics.measure("request", {"route": "/a" if number % 4 else "/b"}) as request:
            clock.advance(0.5)
            if number % 8 == 0:
                request.error_type = "Timeout"
        clock.advance(9.5)
        collector.increment("orders", {"country": "NL" if number % 2 else "DE"})
    assert timer.get_timing_stats("request")["count"] == 40
    assert timer.get_timing_stats("request", tags={"route": "/b"})["count"] == 10
    recent = timer.get_timing_stats("request", tags={"route": "/a"}, time_window=timedelta(seconds=100))
    assert recent["count"] == pytest.approx(recent["seconds"] / 10 * 0.75, abs=1)
    assert tracker.get_success_rate("request", tags={"route": "/b"}) == 0.5
    assert tracker.get_success_rate("request", timedelta(minutes=5), tags={"route": "/a"}) == 1.0
    assert tracker.get_failure_breakdown("request", tags={"route": "/b"}) == {"Timeout": 5}
    assert tracker.get_failure_breakdown("request", MINUTE, tags={"route": "/c"}) == {}
    assert aggregator.get_metric_summary("orders", None, tags={"country": "NL"})["total"] == 20
    assert aggregator.get_metric_summary("orders", MINUTE, tags={"country": "NL"})["count"] in (3, 4, 5)
    for ask in (
        lambda: timer.get_timing_stats("request", tags=["route"]),
        lambda: tracker.get_success_rate("request", tags={"": "x"}),
        lambda: aggregator.get_metric_summary("orders", tags=5),
        lambda: timer.get_timing_stats("request", time_window=timedelta(0)),
    ):
        with pytest.raises(InvalidInputError):
            ask()


# -- memory ------------------------------------------------------------------------------------------------


def test_an_hour_takes_at_most_twenty_slots():
    """A series that always records has at most 20 slots, which cover an hour."""
    windows: RecentWindows[Counted] = RecentWindows()
    most = 0
    for number in range(1_000):
        windows = windows.extend([(number * RECENT_SLOT_NS, Counted())])
        most = max(most, windows.slot_count)
    assert 12 <= most <= 20
    slots = list(windows.slots())
    assert 3_600 <= (999 * RECENT_SLOT_NS - slots[0][0]) / SECOND <= 2 * 3_600
    assert (
        sum(counted.number for *_, counted in slots)
        == (1_000 * RECENT_SLOT_NS - slots[0][0]) // RECENT_SLOT_NS
    )
    for (start, end, _), (following, _, _) in itertools.pairwise(slots):
        assert end == following
        assert start % (end - start) == 0


@given(st.lists(st.integers(1, 40) | st.integers(1, 300), min_size=1, max_size=200))
def test_slots_of_a_series_hold_all_of_the_last_hour(pauses):
    """Slots do not overlap, and only old ones are dropped, however rare the records are."""
    windows: RecentWindows[Counted] = RecentWindows()
    starts = list(itertools.accumulate(pauses))
    for start in starts:
        windows = windows.extend([(start * RECENT_SLOT_NS, Counted())])
    slots = list(windows.slots())
    assert len(slots) <= 24
    for (_, end, _), (following, _, _) in itertools.pairwise(slots):
        assert end <= following
    for start, end, counted in slots:
        inside = [each for each in starts if start <= each * RECENT_SLOT_NS < end]
        assert counted.number == len(inside)
    kept = [each for each in starts if each * RECENT_SLOT_NS >= windows.kept_from_ns]
    assert sum(counted.number for *_, counted in slots) == len(kept)
    assert windows.kept_from_ns <= max(starts[-1] * RECENT_SLOT_NS - 3_600 * SECOND, 0)


class Counted(NamedTuple):
    """An aggregate that only counts its merges."""

    number: int = 1

    def merge(self, later: Counted) -> Counted:
        """Return the sum."""
        return Counted(self.number + later.number)
