"""Sliding windows against a list of everything that was recorded."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metrics_framework.recording.traces import CounterTrace
from metrics_framework.recording.windows import SlidingWindows, Window

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
RETENTION = 30 * DAY

# Pauses and windows of every magnitude, from a nanosecond to days.
DURATIONS = st.one_of(
    st.integers(0, 3 * SECOND),
    st.integers(0, 100 * SECOND),
    st.integers(0, DAY),
    st.integers(0, 5 * DAY),
    st.sampled_from([SECOND, 2 * SECOND, 10 * SECOND, 64 * SECOND, 3_600 * SECOND]),
)


@dataclass
class Model:
    """Windows beside the plain list that they stand for."""

    start_ns: int
    retention_ns: int = RETENTION
    now_ns: int = 0
    records: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now_ns = self.start_ns
        self.windows: SlidingWindows[CounterTrace] = SlidingWindows(
            CounterTrace, self.start_ns, self.retention_ns
        )

    def record(self, value: int) -> None:
        """Record into both."""
        self.windows.slot(self.now_ns).record(value)
        self.records.append((self.now_ns, value))

    def check(self, window_ns: int) -> Window[CounterTrace]:
        """Compare a window with what the list says of the stretch that it reports."""
        window = self.windows.since(window_ns, self.now_ns)
        edge = max(self.now_ns - window_ns, self.start_ns)
        assert window.end_ns == self.now_ns
        assert self.start_ns <= window.start_ns <= edge
        assert window.seconds == (window.end_ns - window.start_ns) / 1e9
        asked, reported = self.now_ns - edge, window.end_ns - window.start_ns
        # A window that is cut off at the start is not rounded, and below ten seconds a slot is a second.
        assert reported - asked <= max(asked / 10, SECOND)
        inside = [value for moment, value in self.records if moment >= window.start_ns]
        assert (window.trace.count, window.trace.total.value) == (len(inside), sum(inside))
        return window


@settings(max_examples=300)
@given(
    st.integers(0, 100 * SECOND),
    st.lists(st.tuples(DURATIONS, st.integers(0, 5)), max_size=60),
    DURATIONS,
    st.lists(DURATIONS.filter(bool), min_size=1, max_size=6),
)
def test_a_window_holds_what_was_recorded_in_the_stretch_that_it_reports(start_ns, records, rest, asked):
    """Count and sum are those of the reported stretch, which is the asked one or at most 10 % longer."""
    model = Model(start_ns)
    for pause, value in records:
        model.now_ns += pause
        model.record(value)
    model.now_ns += rest
    for window_ns in asked:
        model.check(min(window_ns, RETENTION))


@pytest.mark.parametrize("spacing", [0.1, 0.5, 1, 7, 60])
def test_steady_traffic_is_counted_at_every_age(spacing):
    """With a record at every so many seconds each window, from seconds to all of it, is exact."""
    model = Model(37 * SECOND // 10)
    for _ in range(3_000):
        model.now_ns += int(spacing * SECOND)
        model.record(1)
        if len(model.records) % 250 == 0:
            for seconds in (1, 2, 5, 10, 11, 30, 60, 100, 300, 1_000, 3_600, 40_000):
                model.check(seconds * SECOND)


def test_the_older_edge_is_at_most_a_tenth_too_far_back():
    """Whenever one asks, a window of ten seconds or more reports at most 10 % more than was asked."""
    model = Model(0)
    for _ in range(4_000):
        model.now_ns += SECOND
        model.record(1)
    for _ in range(200):
        model.now_ns += 977_000_011
        for seconds in (10, 15, 20, 60, 300, 600, 3_600):
            window = model.windows.since(seconds * SECOND, model.now_ns)
            assert seconds <= window.seconds <= seconds * 1.1
        model.record(1)


def test_slots_are_half_open():
    """A record on the edge between two seconds belongs to the later one."""
    model = Model(0)
    for model.now_ns in (0, SECOND - 1, SECOND, 2 * SECOND - 1, 2 * SECOND):
        model.record(1)
    window = model.check(SECOND)
    assert (window.start_ns, window.trace.count) == (SECOND, 3)
    model.now_ns += 1
    assert model.check(SECOND).start_ns == SECOND
    model.now_ns = 3 * SECOND
    assert model.check(SECOND).start_ns == 2 * SECOND


def test_slots_lie_on_absolute_multiples_of_the_clock():
    """Two streams that began at different moments put the same record into the same slot."""
    early, late = Model(0), Model(700_000_000)
    for model in (early, late):
        for model.now_ns in range(10 * SECOND, 3_000 * SECOND, 5 * SECOND):
            model.record(1)
    for seconds in (3, 10, 50, 200, 1_000):
        assert early.check(seconds * SECOND).start_ns == late.check(seconds * SECOND).start_ns


def test_a_window_before_the_start_is_cut_there():
    """Nothing was recorded before the start, so a longer window reports the time since then."""
    model = Model(5 * SECOND + 1)
    model.now_ns += 3 * SECOND
    model.record(1)
    window = model.check(DAY)
    assert (window.start_ns, window.trace.count) == (5 * SECOND + 1, 1)


def test_what_was_before_a_window_is_told_apart():
    """The stretch right before the window is handed out beside it, and no record is in both."""
    model = Model(0)
    for model.now_ns in range(0, 5_000 * SECOND, 3 * SECOND):
        model.record(1)
    window = model.check(600 * SECOND)
    assert window.before is not None
    assert 0 < window.before.count <= len(model.records) - window.trace.count
    assert model.windows.since(5_000 * SECOND, model.now_ns).before is None


def test_reading_changes_nothing():
    """However often and however far back one asks, the answer is the same."""
    model = Model(0)
    for model.now_ns in range(0, 1_000 * SECOND, SECOND):
        model.record(1)
    first = [model.check(seconds * SECOND) for seconds in (5, 50, 500)]
    again = [model.check(seconds * SECOND) for seconds in (5, 50, 500)]
    assert [(window.start_ns, window.trace.count) for window in first] == [
        (window.start_ns, window.trace.count) for window in again
    ]


@example(10, [700_000_000] * 40)
@given(st.integers(10, 2_000), st.lists(st.integers(0, 400 * SECOND), min_size=1, max_size=60))
def test_a_window_as_long_as_the_retention_is_complete(retention, pauses):
    """What is older than the retention may be dropped; nothing that a window may ask for is."""
    model = Model(0, retention_ns=retention * SECOND)
    for pause in pauses:
        model.now_ns += pause
        model.record(1)
        model.check(retention * SECOND)


class Counted(CounterTrace):
    """A trace that weak references can watch."""


def most_slots(spacing_ns: int, duration_ns: int, dense_ns: int, retention_ns: int = RETENTION) -> int:
    """Return how many slots lived at once at most, under sparse traffic with a dense end."""
    alive: weakref.WeakSet[Counted] = weakref.WeakSet()

    def new() -> Counted:
        trace = Counted()
        alive.add(trace)
        return trace

    windows, most, now_ns = SlidingWindows(new, 0, retention_ns), 0, 0
    while now_ns < duration_ns + dense_ns:
        windows.slot(now_ns).record(1)
        most = max(most, len(alive))
        now_ns += spacing_ns if now_ns < duration_ns else SECOND
    return most


def test_slots_grow_with_the_logarithm_of_time():
    """Half an hour of a record a second takes under a hundred slots; half the time, a dozen less."""
    assert most_slots(SECOND, 0, 500 * SECOND) < 75
    assert most_slots(SECOND, 0, 1_000 * SECOND) < 86
    assert most_slots(SECOND, 0, 2_000 * SECOND) < 97


def test_what_is_older_than_the_retention_is_dropped():
    """Slots do not pile up past the retention, however long the process lives."""
    short, long = (
        most_slots(10 * SECOND, duration * SECOND, 0, retention_ns=600 * SECOND)
        for duration in (5_000, 50_000)
    )
    assert long <= short + 1


@pytest.mark.heavy
def test_thirty_days_take_about_two_hundred_slots():
    """Memory of a name's windows is bounded, also where its traffic never pauses."""
    assert most_slots(300 * SECOND, 31 * DAY, 6_000 * SECOND) < 210
