"""Sliding windows against a list of all records."""

from __future__ import annotations

import gc
import math
import random
import sys
from collections import defaultdict
from itertools import accumulate, cycle
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from metrics_framework.clock import ManualClock
from metrics_framework.recording import Store
from metrics_framework.recording.engine import ENGINE, CounterAggregate, Distribution
from metrics_framework.recording.windows import Window, Windows

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
RETENTION = 30 * DAY
ASKED = (10, 11, 15, 60, 100, 300, 1_000, 3_600, 40_000, 86_400, 7 * 86_400, 30 * 86_400)


class Numbered(NamedTuple):
    """An aggregate that remembers each record by its number."""

    numbers: tuple[int, ...] = ()

    def merge(self, later: Numbered) -> Numbered:
        """Return the records of both."""
        return Numbered(self.numbers + later.numbers)


def filled(seconds, retention_ns: int = RETENTION) -> Windows[Numbered]:
    """Return windows with one numbered record at each of some ascending seconds."""
    slots: dict[int, list[float]] = defaultdict(list)
    for second in seconds:
        slots[int(second) * SECOND].append(second)
    windows: Windows[Numbered] = Windows()
    for start_ns, numbers in slots.items():
        windows = windows.extend([(start_ns, Numbered(tuple(numbers)))], retention_ns)
    return windows


def ask(windows: Windows[Numbered], seconds: float, now: float, start: float = 0) -> Window[Numbered]:
    """Return a window in seconds."""
    return windows.since(int(seconds * SECOND), int(start * SECOND), int(now * SECOND), Numbered())


def footprint(*roots: object) -> int:
    """Return the bytes of all objects of some values, each counted once."""
    seen: dict[int, object] = {}
    pending = list(roots)
    while pending:
        item = pending.pop()
        if id(item) not in seen and not isinstance(item, type):
            seen[id(item)] = item
            pending.extend(gc.get_referents(item))
    return sum(map(sys.getsizeof, seen.values()))


class WindowsMachine(RuleBasedStateMachine):
    """Windows beside a plain list of the same records."""

    @initialize(start_ns=st.integers(0, 100 * SECOND), lively=st.booleans())
    def begin(self, start_ns, lively):
        """Start the clock, with or without a minute of traffic."""
        self.start_ns = self.now_ns = start_ns
        self.closed: Windows[Numbered] = Windows()
        self.open: tuple[int, Numbered] | None = None
        self.records: list[int] = []
        if lively:
            self.traffic(60, SECOND)

    def add(self, time_ns: int) -> None:
        """Record into both."""
        record, start_ns = Numbered((len(self.records),)), time_ns - time_ns % SECOND
        if self.open is not None and self.open[0] == start_ns:
            self.open = (start_ns, self.open[1].merge(record))
        else:
            before, shown = self.closed, repr(self.closed)
            self.closed = self.windows
            self.open = (start_ns, record)
            assert repr(before) == shown
        self.records.append(time_ns)

    @property
    def windows(self) -> Windows[Numbered]:
        """The windows with the open slot."""
        return self.closed if self.open is None else self.closed.extend([self.open], RETENTION)

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
    def record(self):
        """Record something now."""
        self.add(self.now_ns)

    @rule(
        number=st.integers(1, 40), pause_ns=st.sampled_from([SECOND // 2, SECOND, 7 * SECOND, 3_600 * SECOND])
    )
    def traffic(self, number, pause_ns):
        """Record regularly for a while."""
        for _ in range(number):
            self.now_ns += pause_ns
            self.add(self.now_ns)

    @rule(
        window_ns=st.sampled_from([seconds * SECOND for seconds in ASKED])
        | st.integers(10 * SECOND, RETENTION)
    )
    def look(self, window_ns):
        """Compare a window with the records of the interval that it reports."""
        window = self.windows.since(window_ns, self.start_ns, self.now_ns, Numbered())
        edge = max(self.now_ns - window_ns, self.start_ns)
        assert window.end_ns == self.now_ns
        assert self.start_ns <= window.start_ns <= edge
        assert window.seconds == (window.end_ns - window.start_ns) / 1e9
        assert window.end_ns - window.start_ns <= 1.1 * window_ns
        inside = [number for number, moment in enumerate(self.records) if moment >= window.start_ns]
        assert sorted(window.aggregate.numbers) == inside
        outside = {number for number, moment in enumerate(self.records) if moment < window.start_ns}
        if outside:
            assert window.before is not None
            assert outside.issuperset(window.before.numbers)
            assert max(map(self.records.__getitem__, window.before.numbers)) == max(
                map(self.records.__getitem__, outside)
            )
        else:
            assert window.before is None

    @rule()
    def look_at_all(self):
        """Compare the total with the list."""
        window = self.windows.since(None, self.start_ns, self.now_ns, Numbered())
        assert sorted(window.aggregate.numbers) == list(range(len(self.records)))
        assert (window.start_ns, window.end_ns, window.before) == (self.start_ns, self.now_ns, None)


@pytest.mark.heavy
def test_windows_have_the_records_of_the_interval_that_they_report():
    """A window is exact, and at most 10 % longer than requested."""
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(WindowsMachine, settings=settings(max_examples=100, stateful_step_count=40))


@pytest.mark.parametrize("spacing", [0.5, 1, 7])
def test_steady_traffic_is_counted_at_every_age(spacing):
    """With regular records each window, from seconds to the whole history, is exact."""
    machine = WindowsMachine()
    machine.begin(37 * SECOND // 10, lively=False)
    for _ in range(4):
        machine.traffic(200, int(spacing * SECOND))
        for seconds in ASKED:
            machine.look(seconds * SECOND)
        machine.look_at_all()


def test_slots_are_half_open():
    """A record at the edge of two seconds belongs to the later one."""
    windows = filled([0, 0.999, 1, 1.999, 2])
    assert ask(windows, 1, 2).aggregate.numbers == (1, 1.999, 2)
    assert ask(windows, 1, 2).start_ns == SECOND
    assert ask(windows, 1, 2.5).start_ns == SECOND
    assert ask(windows, 1, 3).aggregate.numbers == (2,)


def test_slots_lie_on_absolute_multiples_of_the_clock():
    """Two streams that began at different times report the same interval."""
    early, late = filled(range(0, 3_000, 5)), filled(range(15, 3_000, 5))
    for seconds in (3, 10, 50, 200, 1_000):
        assert ask(early, seconds, 2_999).start_ns == ask(late, seconds, 2_999).start_ns


def test_a_window_before_the_start_is_cut_there():
    """A window that is longer than the time since the start reports that time."""
    window = ask(filled([8.5]), 86_400, 9, start=5.25)
    assert (window.start_ns, window.seconds, window.aggregate.numbers) == (int(5.25 * SECOND), 3.75, (8.5,))


def test_a_window_without_records_holds_nothing():
    """It has the requested length and the given empty aggregate."""
    window = ask(Windows(), 10, 100)
    assert (window.aggregate, window.before, window.seconds) == (Numbered(), None, 10.0)
    assert Windows().since(None, 0, SECOND, Numbered()).aggregate == Numbered()
    assert Windows().slot_count == 0


def test_the_slot_before_a_window_is_returned_separately():
    """No record is in both."""
    windows = filled(range(0, 5_000, 3))
    window = ask(windows, 600, 4_998)
    first = window.aggregate.numbers[0]
    assert window.before.numbers[-1] == first - 3
    assert ask(windows, 4_998, 4_998).before is None


def test_records_beyond_the_retention_are_only_in_the_total():
    """Old slots are dropped, and the total since the start includes their records."""
    windows = filled(range(0, 20_000, 10), retention_ns=600 * SECOND)
    assert windows.slot_count <= filled(range(0, 2_000, 10), retention_ns=600 * SECOND).slot_count + 2
    assert windows.earlier is not None
    total = windows.since(None, 0, 20_000 * SECOND, Numbered()).aggregate.numbers
    assert sorted(total) == list(range(0, 20_000, 10))
    late = windows.extend([(5 * SECOND, Numbered((5,)))], 600 * SECOND)
    assert 5 in late.since(None, 0, 20_000 * SECOND, Numbered()).aggregate.numbers
    assert 5 not in ask(late, 600, 20_000).aggregate.numbers


def test_adding_does_not_change_published_windows():
    """Their content is the same after a thousand more records."""
    published = filled(range(500))
    answers = [ask(published, seconds, 500) for seconds in (10, 60, 500)]
    shown = repr(published)
    windows = published
    for second in range(500, 1_500):
        windows = windows.extend([(second * SECOND, Numbered((second,)))], RETENTION)
    assert repr(published) == shown
    assert [ask(published, seconds, 500) for seconds in (10, 60, 500)] == answers


@given(
    pauses=st.lists(st.sampled_from([1, 2, 60, 4_000, 90_000]), min_size=1, max_size=200),
    cuts=st.lists(st.integers(1, 40), min_size=1),
    retention_seconds=st.sampled_from([82, 3_600, 10_000_000]),
)
def test_slots_that_are_added_together_make_the_same_windows(pauses, cuts, retention_seconds):
    """How many slots wait before they are added changes no answer."""
    slots = [(start * SECOND, Numbered((start,))) for start in accumulate(pauses)]
    retention_ns = retention_seconds * SECOND
    one_by_one = together = Windows[Numbered]()
    for slot in slots:
        one_by_one = one_by_one.extend([slot], retention_ns)
    sizes = cycle(cuts)
    while slots:
        size = next(sizes)
        together, slots = together.extend(slots[:size], retention_ns), slots[size:]
    assert together == one_by_one


def test_joined_windows_hold_the_records_of_both():
    """Two windows of the same interval are joined into one that covers both."""
    one, other = (
        Window(Numbered((1,)), 10, 20),
        Window(Numbered((2,)), 8, 20, Numbered((0,))),
    )
    joined = one.join(other)
    assert sorted(joined.aggregate.numbers) == [1, 2]
    assert (joined.start_ns, joined.end_ns, joined.before) == (8, 20, Numbered((0,)))


def test_slots_grow_with_the_logarithm_of_time():
    """Half an hour of a record per second takes less than a hundred slots; half the time, a dozen less."""
    windows = filled(range(500))
    assert windows.slot_count < 75
    for second in range(500, 2_000):
        windows = windows.extend([(second * SECOND, Numbered())], RETENTION)
        if second == 1_000:
            assert windows.slot_count < 86
    assert windows.slot_count < 97


def thirty_days(make, recent: int):
    """Yield windows over 31 days: a record every two minutes, and every second at the end."""
    windows = Windows()
    end = 31 * 86_400
    for second in (*range(0, end - recent, 120), *range(end - recent, end)):
        windows = windows.extend([(second * SECOND, make())], RETENTION)
        yield windows


@pytest.mark.heavy
@pytest.mark.timeout(120)
def test_thirty_days_take_about_two_hundred_slots():
    """A name that is always recorded for longer than the retention has at most 210 slots."""
    most = 0
    for windows in thirty_days(CounterAggregate, 6_000):
        most = max(most, windows.slot_count)
    assert 150 < most <= 210


@pytest.mark.heavy
def test_thirty_days_of_a_counter_take_32_kilobytes():
    """In pure Python a counter takes twice as much."""
    series = Store(ManualClock()).bind("counter", "name", None)
    recorded = [(series.add(1.5), series.state())[1] for _ in range(100)]
    for windows in thirty_days(cycle(recorded).__next__, 6_000):
        last = windows
    assert last.slot_count > 150
    assert footprint(last) <= (32_000 if ENGINE == "compiled" else 64_000)


@pytest.mark.heavy
def test_thirty_days_of_a_histogram_take_200_kilobytes():
    """Each slot has ten thousand lognormal durations; in pure Python the limit is 400 kB."""
    for windows in thirty_days(CounterAggregate, 6_000):
        last = windows
    source = random.Random(7)

    def busy():
        return Distribution.of([source.lognormvariate(3, 1) for _ in range(10_000)])

    levels = tuple(
        tuple(busy() if place % 2 else item for place, item in enumerate(level)) for level in last.levels
    )
    full = last._replace(levels=levels, earlier=busy())
    assert full.slot_count > 150
    assert footprint(full) <= (200_000 if ENGINE == "compiled" else 400_000)


@pytest.mark.parametrize(("retention", "step"), [(82, 1), (164, 3), (660, 7)])
def test_a_window_as_long_as_the_retention_is_complete(retention, step):
    """All records of the reported interval are still kept."""
    for last in range(retention + 1, retention + 60, step):
        windows = filled(range(last + 1), retention_ns=retention * SECOND)
        window = ask(windows, retention, last)
        assert len(window.aggregate.numbers) == last + 1 - math.ceil(window.start_ns / SECOND)
        assert window.seconds >= retention
