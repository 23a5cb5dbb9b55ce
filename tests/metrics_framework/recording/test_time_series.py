"""Time series against a list of all records."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.recording import Distribution, Store
from metrics_framework.recording.windows import COARSENESS, Windows, split

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
HOUR = timedelta(hours=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


class Records(NamedTuple):
    """An aggregate that remembers each record by its number."""

    numbers: tuple[int, ...] = ()

    def merge(self, later: Records) -> Records:
        """Return the records of both."""
        return Records(self.numbers + later.numbers)


class TimeSeriesMachine(RuleBasedStateMachine):
    """Windows of two streams beside a plain list of the same records."""

    @initialize(start_ns=st.integers(0, 100 * SECOND), days=st.sampled_from([1, 30]))
    def begin(self, start_ns, days):
        """Start the clock."""
        self.start_ns = self.now_ns = start_ns
        self.retention_ns = days * DAY
        self.closed: list[Windows[Records]] = [Windows(), Windows()]
        self.open: list[tuple[int, Records] | None] = [None, None]
        self.records: list[tuple[int, int]] = []

    def add(self, time_ns: int, stream: int = 0) -> None:
        """Record into both streams."""
        record, start_ns, opened = (
            Records((len(self.records),)),
            time_ns - time_ns % SECOND,
            self.open[stream],
        )
        if opened is not None and opened[0] == start_ns:
            self.open[stream] = (start_ns, opened[1].merge(record))
        else:
            self.closed[stream] = self.streams[stream]
            self.open[stream] = (start_ns, record)
        self.records.append((time_ns, stream))

    @property
    def streams(self) -> list[Windows[Records]]:
        """The windows with their open slots."""
        return [
            windows if opened is None else windows.extend([opened], self.retention_ns)
            for windows, opened in zip(self.closed, self.open, strict=True)
        ]

    @rule(
        pause_ns=st.one_of(
            st.integers(10**6, SECOND),
            st.integers(SECOND, 100 * SECOND),
            st.integers(100 * SECOND, DAY),
            st.integers(DAY, 12 * DAY),
        )
    )
    def wait(self, pause_ns):
        """Advance the clock."""
        self.now_ns += pause_ns

    @rule()
    def wait_for_a_whole_second(self):
        """Advance the clock to an edge of slots and intervals."""
        self.now_ns += -self.now_ns % (64 * SECOND)

    @rule(stream=st.integers(0, 1))
    def record(self, stream):
        """Record something now."""
        self.add(self.now_ns, stream)

    @rule(
        number=st.integers(1, 40), pause_ns=st.sampled_from([SECOND // 2, SECOND, 7 * SECOND, 3_600 * SECOND])
    )
    def traffic(self, number, pause_ns):
        """Record regularly for a while."""
        for _ in range(number):
            self.now_ns += pause_ns
            self.add(self.now_ns)

    @rule(
        window_ns=st.none() | st.sampled_from([60 * SECOND, 3_600 * SECOND, DAY]) | st.integers(1, DAY),
        points=st.integers(2, 100),
    )
    def look(self, window_ns, points):
        """Compare each interval with the list."""
        stretches = split(self.streams, window_ns, points, self.start_ns, self.now_ns, Records())
        assert len(stretches) <= points
        if not stretches:
            assert not self.records
            return
        assert stretches[-1].end_ns == self.now_ns
        assert [each.end_ns for each in stretches[:-1]] == [each.start_ns for each in stretches[1:]]
        begin = stretches[0].start_ns
        for position, each in enumerate(stretches):
            last = position == len(stretches) - 1
            inside = [
                number
                for number, (moment, _) in enumerate(self.records)
                if each.start_ns <= moment and (moment < each.end_ns or last)
            ]
            assert sorted(each.aggregate.numbers) == inside
            # Nothing begins before the first record.
            assert any(moment < each.end_ns or last for moment, _ in self.records)
        step = max(self.widths(stretches), default=SECOND)
        for each in stretches[1:-1]:
            width = each.end_ns - each.start_ns
            assert (width // SECOND).bit_count() == 1
            assert each.start_ns % width == 0
            assert width <= max(step, (self.now_ns - each.end_ns) // COARSENESS)
        widths = self.widths(stretches[1:])
        assert widths == sorted(widths, reverse=True)
        self.compare_with_window(begin)

    @staticmethod
    def widths(stretches):
        """Return the widths of all intervals but the last, which is unfinished."""
        return [each.end_ns - each.start_ns for each in stretches[:-1]]

    def compare_with_window(self, begin: int) -> None:
        """Check that a window of the same time has the same records."""
        if begin == self.now_ns:
            return
        for number, stream in enumerate(self.streams):
            window = stream.since(self.now_ns - begin, self.start_ns, self.now_ns, Records())
            assert window.start_ns == begin
            mine = [
                one for one, (moment, where) in enumerate(self.records) if where == number and moment >= begin
            ]
            assert sorted(window.aggregate.numbers) == mine


@pytest.mark.heavy
def test_intervals_hold_the_records_of_their_time():
    """Each interval has exactly the records of its time, like a window."""
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(TimeSeriesMachine, settings=settings(max_examples=60, stateful_step_count=25))


TIMES = st.integers(0, 5_000_000).map(lambda milliseconds: milliseconds / 1_000)  # as histories report them
PAUSES = st.sampled_from([0, 0.25, 1, 2.5, 7, 64, 600, 3_600, 100_000]) | TIMES
EVENTS = st.lists(st.tuples(PAUSES, st.integers(0, 3), st.integers(0, 1_000)), max_size=40)
WINDOWS = st.none() | st.sampled_from([1, 60, 3_600, 86_400]).map(lambda seconds: timedelta(seconds=seconds))


@given(EVENTS, PAUSES, WINDOWS, st.integers(1, 80), TIMES)
def test_a_history_adds_up_to_the_window_that_it_covers(events, rest, window, points, begin):
    """Counts, sums, extremes and failures of all intervals are those of a list, and of a window."""
    clock = ManualClock()
    clock.advance(begin)
    store = Store(clock)
    taken: dict[int, list[tuple[datetime, int]]] = {kind: [] for kind in range(4)}
    for pause, kind, value in events:
        clock.advance(pause)
        taken[kind].append((moment(clock), value))
        if kind == 0:
            store.find("counter", "name", {"tag": str(value % 3)}).add(value)
        elif kind == 1:
            store.find("gauge", "level", None).set(value)
        elif kind == 2:
            store.find_timing("name").observe(value)
        elif value % 2:
            store.find_outcomes("name").finish(None)
        else:
            store.fail("name", f"error {value % 3}")
    clock.advance(rest)
    if taken[0]:
        check_counter(store, store.history("name", window, points).intervals, taken[0], window, points)
    if taken[1]:
        check_gauge(store.history("level", window, points).intervals, taken[1], points)
    if taken[2]:
        for each, values in by_stretch(store.timing_history("name", window, points).intervals, taken[2]):
            expected = Distribution.of(values)
            assert (each["count"], each["sum"]) == (expected.count, expected.sum)
            if values:
                assert (each["min"], each["max"]) == (expected.min, expected.max)
                assert [each["p50"], each["p95"]] == expected.quantiles(0.5, 0.95)
            else:
                assert each.keys() == {"count", "seconds", "sum", "rate", "failures"}
    if taken[3]:
        for each, values in by_stretch(store.outcome_history("name", window, points).intervals, taken[3]):
            failed = [value % 3 for value in values if value % 2 == 0]
            assert each["count"] == len(values)
            assert each["failures"] == {f"error {kind}": failed.count(kind) for kind in set(failed)}
            assert each["successes"] == len(values) - len(failed)
            assert each["success_rate"] == (each["successes"] / len(values) if values else 1.0)


def moment(clock):
    """Return the time as histories report it."""
    return START + timedelta(milliseconds=round(clock.monotonic_ns() / 1e6))


def by_stretch(history, taken):
    """Yield the summary of each interval with the expected records of its time, after a check of widths."""
    assert history
    for position, (start, end, summary, _) in enumerate(history):
        last = position == len(history) - 1
        assert summary["seconds"] == pytest.approx((end - start).total_seconds(), abs=2e-3)
        assert last or end == history[position + 1].start
        yield summary, [value for when, value in taken if start <= when and (when < end or last)]


def check_counter(store, history, taken, window, points):
    """Compare the intervals of a counter with a list, and with the window of the same time."""
    for each, values in by_stretch(history, taken):
        assert (each["count"], each["sum"]) == (len(values), sum(values))
        assert each["rate"] == pytest.approx(sum(values) / each["seconds"] if each["seconds"] else 0.0)
    assert history[-1].summary["total"] == sum(value for _, value in taken)
    for earlier, later in pairwise(history):
        assert later.summary["total"] - earlier.summary["total"] == later.summary["sum"]
    assert history[0].summary.keys() == store.summary("name", window).keys()
    if points == 1:
        assert history[0].summary == store.summary("name", window)
    elif history[0].start != history[-1].end:
        covered = sum(each.summary["seconds"] for each in history)
        same = store.summary("name", timedelta(microseconds=int(covered * 1e6)))
        assert same["count"] == sum(each.summary["count"] for each in history)
        assert same["sum"] == sum(each.summary["sum"] for each in history)
        assert same["seconds"] == pytest.approx(covered, abs=1e-5)


def check_gauge(history, taken, points):
    """Compare the intervals of a gauge with the values of a list."""
    for (each, values), interval in zip(by_stretch(history, taken), history, strict=True):
        # The last interval contains its end. It may be empty, and then ends with the one before.
        known = [value for when, value in taken if when < interval.end or interval is history[-1]]
        assert each["count"] == len(values)
        if known:
            assert each["last"] == known[-1]
        else:
            assert points == 1
        if values:
            assert min(taken)[1] >= 0
            assert each["min"] <= min(values) <= max(values) <= each["max"]
            assert each["min"] <= each["avg"] <= each["max"]


# -- the grid --------------------------------------------------------------------------------------------


def filled(seconds):
    """Return a store with one record of a counter at each of some seconds."""
    clock = ManualClock()
    store = Store(clock)
    counter = store.bind("counter", "orders", None)
    for second in seconds:
        clock.advance(second - clock.monotonic_ns() / SECOND)
        counter.add(1)
    return clock, store


def test_a_second_later_the_intervals_are_the_same():
    """Finished intervals keep their edges and numbers; only the last one grows."""
    clock, store = filled(range(0, 7_200, 3))
    before = store.history("orders", HOUR, 60).intervals
    clock.advance(1)
    after = store.history("orders", HOUR, 60).intervals
    assert [each[:2] for each in after[-15:-1]] == [each[:2] for each in before[-15:-1]]
    assert [each.summary["sum"] for each in after[-15:-1]] == [each.summary["sum"] for each in before[-15:-1]]
    assert (after[-1].start, after[-1].end) == (before[-1].start, before[-1].end + timedelta(seconds=1))


def test_the_whole_window_is_from_the_same_reading():
    """The window and its intervals have the same records, and the window has the keys of a summary."""
    _, store = filled(range(0, 7_200, 3))
    history = store.history("orders", HOUR, 60)
    assert history.whole.summary == store.summary("orders", HOUR)
    assert (history.whole.end, history.intervals[-1].end) == (history.whole.end,) * 2
    assert history.whole.summary["total"] == history.intervals[-1].summary["total"]
    assert list(store.history("orders", HOUR, 1).intervals) == [history.whole]


def test_the_intervals_of_two_metrics_line_up():
    """Their edges are the same, however the metrics were recorded."""
    clock, store = filled([0, 1_000, 4_000])
    store.find("gauge", "level", None).set(3)
    clock.advance(5_000)
    orders, level = (
        store.history("orders", HOUR * 2, 30).intervals,
        store.history("level", HOUR * 2, 30).intervals,
    )
    assert [each.end for each in orders][-len(level) :] == [each.end for each in level]


def test_recent_intervals_are_as_narrow_as_the_points_allow():
    """An hour in sixty points has a step of 64 seconds; older intervals are at most a tenth of their age."""
    _, store = filled(range(0, 7_200, 3))
    seconds = [each.summary["seconds"] for each in store.history("orders", HOUR, 60).intervals]
    assert set(seconds[-8:-1]) == {64.0}
    assert set(seconds[:-1]) == {64.0, 128.0, 256.0}
    assert seconds[:-1] == sorted(seconds[:-1], reverse=True)


def test_a_quiet_time_is_zero_for_a_counter_and_the_last_level_of_a_gauge():
    """After the first record, an interval without records has the sum 0; a gauge keeps its value."""
    clock, store = filled([100])
    store.find("gauge", "level", None).set(7)
    clock.advance(500)
    counted, level = store.history("orders", HOUR, 20).intervals, store.history("level", HOUR, 20).intervals
    assert [each.summary["sum"] for each in counted] == [1, *[0] * (len(counted) - 1)]
    assert [each.summary["last"] for each in level] == [7] * len(level)
    assert len(counted) == len(level) > 5
    assert all("avg" not in each.summary for each in level[1:])


def test_a_history_begins_with_the_first_record():
    """The first interval has the first record, however long the window is."""
    clock, store = filled([1_000])
    clock.advance(10)
    first = store.history("orders", HOUR, 600).intervals[0]
    assert first.start <= START + timedelta(seconds=1_000) < first.end
    assert first.summary["count"] == 1


def test_a_record_at_the_edge_of_two_intervals_is_in_the_later_one():
    """Intervals are half-open, and the moment of the read belongs to the last one."""
    _, store = filled([0, 8])
    history = store.history("orders", timedelta(seconds=60), 9).intervals
    assert [(each.summary["seconds"], each.summary["count"]) for each in history] == [
        (1.0, 1),
        *[(1.0, 0)] * 7,
        (0.0, 1),
    ]
    assert history[-1].summary["rate"] == 0.0


def test_a_total_includes_records_before_the_window():
    """The total of a counter at the end of each interval is since the start."""
    _, store = filled(range(0, 10_000, 10))
    history = store.history("orders", timedelta(seconds=60), 10).intervals
    assert history[-1].summary["total"] == 1_000
    assert history[0].summary["total"] - history[0].summary["sum"] > 980


def test_a_history_ends_at_the_retention():
    """Older records are not part of a history, also without a window."""
    clock = ManualClock()
    store = Store(clock, retention=timedelta(minutes=10))
    counter = store.bind("counter", "orders", None)
    for _ in range(2_000):
        clock.advance(1)
        counter.add(1)
    history = store.history("orders", None, 10).intervals
    covered = sum(each.summary["seconds"] for each in history)
    assert 600 <= covered < 800
    assert math.isclose(sum(each.summary["sum"] for each in history), covered, abs_tol=1)
    assert history[-1].summary["total"] == 2_000


def test_setting_the_wall_clock_moves_all_intervals():
    """Intervals have current wall times; the monotonic clock determines their age."""
    clock, store = filled([0, 5])
    clock.set_wall(datetime(2030, 1, 1, tzinfo=UTC))
    history = store.history("orders", HOUR, 60).intervals
    assert history[-1].end == datetime(2030, 1, 1, tzinfo=UTC)
    assert history[0].start == datetime(2029, 12, 31, 23, 59, 55, tzinfo=UTC)


@pytest.mark.parametrize("points", [0, -1, 1.5, True, "10", None])
def test_points_are_a_whole_number(points):
    """The error quotes the value."""
    _, store = filled([0])
    with pytest.raises(InvalidInputError, match="points="):
        store.history("orders", HOUR, points)


@pytest.mark.parametrize("window", [timedelta(0), timedelta(days=31), 60])
def test_a_window_is_checked_as_in_a_summary(window):
    """A history rejects the same windows as a summary."""
    _, store = filled([0])
    with pytest.raises(InvalidInputError, match="time_window="):
        store.history("orders", window, 10)


def test_an_unknown_name_is_an_error():
    """Unknown metrics, timings and outcomes have no history; the error names the most similar name."""
    _, store = filled([0])
    with pytest.raises(UnknownMetricError, match="'orders'"):
        store.history("order", HOUR, 10)
    for ask in (store.timing_history, store.outcome_history):
        with pytest.raises(UnknownMetricError, match="'orders'"):
            ask("orders", HOUR, 10)


def test_windows_by_tag_are_one_history():
    """A metric with `window_by` has one history over all groups."""
    clock = ManualClock()
    store = Store(clock)
    store.describe("orders", window_by=["country"])
    for country in ("NL", "DE", "NL"):
        store.find("counter", "orders", {"country": country}).add(2)
        clock.advance(30)
    history = store.history("orders", HOUR, 60).intervals
    assert sum(each.summary["sum"] for each in history) == history[-1].summary["total"] == 6


def stream(seconds, retention_seconds=86_400):
    """Return windows with one numbered record at each of some seconds."""
    windows: Windows[Records] = Windows()
    for second in seconds:
        windows = windows.extend([(second * SECOND, Records((second,)))], retention_seconds * SECOND)
    return windows


@pytest.mark.parametrize("points", range(2, 12))
def test_there_are_never_more_intervals_than_points(points):
    """The limit holds wherever the ends of the window are."""
    windows = stream(range(200))
    for now in range(100, 200):
        assert len(split([windows], 40 * SECOND, points, 0, now * SECOND, Records())) <= points


def test_a_history_of_two_streams_begins_when_both_are_complete():
    """It splits no slot of either."""
    for last in range(1_500, 3_000, 170):
        lively, rare = stream(range(last + 1), 600), stream(range(0, last + 1, 7))
        stretches = split([lively, rare], None, 2, 0, last * SECOND, Records())
        begin = math.ceil(stretches[0].start_ns / SECOND)
        assert lively.kept_from_ns <= stretches[0].start_ns
        known = [*range(begin, last + 1), *(second for second in range(0, last + 1, 7) if second >= begin)]
        assert sorted(number for each in stretches for number in each.aggregate.numbers) == sorted(known)
