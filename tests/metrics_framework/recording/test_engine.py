"""The engine interface: every promise holds for the compiled engine and for the pure-Python one."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from enum import Enum, IntEnum
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.clock import ManualClock
from metrics_framework.errors import UnknownTimerError
from metrics_framework.recording import aggregates
from metrics_framework.recording import distribution as reference
from metrics_framework.values import MetricUnit, TimingResult
from tests.threads import switching, together

SECOND = 1_000_000_000
START = 1_600 * SECOND  # the start of a slot of 16 seconds, too
INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)
MAX = sys.float_info.max
KINDS = {
    "counter": ("CounterSeries", "counter"),
    "gauge": ("GaugeSeries", "gauge"),
    "histogram": ("HistogramSeries", "distribution"),
    "timer": ("TimerSeries", "distribution"),
    "outcome": ("OutcomeSeries", "outcome"),
}
all_kinds = pytest.mark.parametrize("kind", KINDS)
VALUES: dict[str, list[Any]] = {
    "counter": [3, 4],
    "gauge": [3, 4],
    "histogram": [3, 4],
    "timer": [3.0, 4.0],
    "outcome": [None, "ValueError"],
}


class RejectedValue(ValueError):
    """Raised by a metric that rejects a value."""


class EngineOwner:
    """The owner of series for the engine under test.

    Attributes:
        asked: The values that it checked, with the other arguments.
        counts_errors: Whether it returns ``None`` for bad input instead of raising.
        readmitted: The series that the engine passed to `readmit`.
        successor: Returns the series to record into in place of another one.
    """

    name = "metric"

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.counts_errors = False
        self.readmitted: list[Any] = []
        self.successor: Callable[[Any], Any] = lambda series: series.tag_set.add(series)

    def number(self, value: Any, signed: bool) -> int | float | None:
        """Check a number as a metric does: convert odd ones, refuse those that are not finite."""
        self.asked.append((value, signed))
        if isinstance(value, Decimal):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return self.refuse(value)
        if not math.isfinite(value) or (value < 0 and not signed):
            return self.refuse(value)
        return int(value) if isinstance(value, int) else float(value)

    def milliseconds(self, value: Any, unit: Any) -> float | None:
        """Convert a duration."""
        self.asked.append((value, unit))
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            return self.refuse(value)
        factors = {MetricUnit.SECONDS: 1e3, MetricUnit.MILLISECONDS: 1.0, MetricUnit.MICROSECONDS: 1e-3}
        return self.refuse(unit) if unit not in factors else value * factors[unit]

    def error_type(self, error_type: Any) -> str | None:
        """Admit the first three error types; reject the empty one."""
        self.asked.append((error_type,))
        if error_type == "":
            return self.refuse(error_type)
        if len(self.error_types) >= 3:
            error_type = "other"
        self.error_types.add(error_type)
        return error_type

    error_types: Any

    def readmit(self, series: Any) -> Any:
        """Return the series to record into instead of one that is not live."""
        self.readmitted.append(series)
        return self.successor(series)

    def refuse(self, value: Any) -> None:
        """Reject a value."""
        if not self.counts_errors:
            raise RejectedValue(repr(value))


class Rig:
    """A core with a clock that a test moves, a metric, and one slot for each kind of series."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.time_ns = START
        self.core_clock: Callable[[], int] = lambda: self.time_ns
        self.core = engine.Core(lambda: self.core_clock())
        self.metric = EngineOwner()
        self.published: list[Any] = []
        self.error_types = self.metric.error_types = engine.ErrorTypes()
        self.slots = {
            kind: engine.Slot(self.core, slot_kind, self.published.append, self.error_types)
            for kind, (_, slot_kind) in KINDS.items()
        }
        self._tag_sets: dict[Any, Any] = {}

    def advance(self, seconds: float) -> None:
        """Move the clock."""
        self.time_ns += round(seconds * SECOND)

    def tag_set(self, kind: str, names: Iterable[str]) -> Any:
        """Return the tag set of a kind and some tag names."""
        key = kind, tuple(sorted(names))
        if key not in self._tag_sets:
            self._tag_sets[key] = self.engine.TagSet(self.metric, key[1])
        return self._tag_sets[key]

    def unborn(self, kind: str, /, slot: Any = None, **tags: str) -> Any:
        """Return a new series that is not live."""
        values = tuple(tags[name] for name in sorted(tags))
        series_class = getattr(self.engine, KINDS[kind][0])
        return series_class(self.tag_set(kind, tags), values, self.slots[kind] if slot is None else slot)

    def series(self, kind: str, /, slot: Any = None, **tags: str) -> Any:
        """Return a live series."""
        series = self.unborn(kind, slot, **tags)
        return series.tag_set.add(series)

    def remove(self, series: Any) -> Any:
        """Remove a series."""
        return series.tag_set.remove(series)


@pytest.fixture
def rig(engine: Any) -> Rig:
    """Return a rig for one engine."""
    return Rig(engine)


def record(series: Any, value: Any) -> None:
    """Record a value into a series of any kind."""
    kind = type(series).__name__
    if kind == "CounterSeries":
        series.add(value)
    elif kind == "GaugeSeries":
        series.set(value)
    elif kind == "OutcomeSeries":
        series.finish(value)
    else:
        series.observe(value)


def exactly(number: Any) -> tuple[type, Any]:
    """Return a value that distinguishes 1 from 1.0."""
    return type(number), number


def figures(distribution: Any) -> tuple[Any, ...]:
    """Return the statistics of a distribution that both engines compute alike."""
    if not distribution.count:
        return (0,)
    scale, negative, zeros, positive = distribution.buckets
    return (
        distribution.count,
        exactly(distribution.min),
        exactly(distribution.max),
        distribution.failures,
        (scale, dict(negative.items()), zeros, dict(positive.items())),
        distribution.quantiles(0.5, 0.9, 0.99),
    )


# -- the core --------------------------------------------------------------------------------------------


def test_a_core_reads_its_clock(rig):
    """The clock of a core is the one that was passed."""
    assert rig.core.now() == START
    rig.advance(1.5)
    assert rig.core.now() == START + 1_500_000_000


def test_the_default_clock_is_monotonic(engine):
    """Without a clock, a core reads the engine's own, as it does if that one is passed."""
    for core in (engine.Core(), engine.Core(None), engine.Core(engine.monotonic_ns)):
        before = engine.monotonic_ns()
        now = core.now()
        assert before <= now <= engine.monotonic_ns()


def test_a_record_is_later_than_what_came_before(engine):
    """With the default clock, times keep the order of records and readings, and none is in the future."""
    core = engine.Core()
    tag_set = engine.TagSet(EngineOwner(), ())
    timer = tag_set.add(engine.TimerSeries(tag_set, (), engine.Slot(core, "distribution")))
    tag_set = engine.TagSet(EngineOwner(), ())
    gauge = tag_set.add(engine.GaugeSeries(tag_set, (), engine.Slot(core, "gauge")))
    log, times = core.subscribe(100), []
    for _ in range(2_000):  # longer than a tick of the kernel
        times.append(engine.monotonic_ns())
        gauge.set(1)
        with timer.time():
            gauge.set(2.5)
        timer.observe(3)
        core.now()
        gauge.increment()
        times += [logged[4] for logged in log.drain()[1]]
    assert len(times) == 6 * 2_000
    assert times == sorted(times)
    assert times[-1] <= engine.monotonic_ns()


def test_records_of_all_series_are_numbered(rig):
    """The number of records of a core is that of all its series."""
    expected = 0
    for kind in KINDS:
        for tags in ({}, {"one": "a"}):
            series = rig.series(kind, **tags)
            for value in VALUES[kind]:
                record(series, value)
                expected += 1
                assert rig.core.records == expected


def test_state_takes_memory(rig):
    """The size in bytes grows with the number of series, and is back after a reset."""
    empty = rig.core.nbytes
    for number in range(1_000):
        rig.series("counter", one=str(number)).add(1)
    many = rig.core.nbytes
    assert many >= empty + 1_000 * 32
    rig.core.reset()
    assert rig.core.nbytes < many


@pytest.mark.parametrize("name", ["records", "nbytes"])
def test_figures_of_a_core_are_read_only(rig, name):
    """What a core counts cannot be set."""
    with pytest.raises(AttributeError):
        setattr(rig.core, name, 1)


def test_two_cores_are_independent(engine):
    """A record is counted by its own core only."""
    one, other = Rig(engine), Rig(engine)
    one.series("counter").add(1)
    assert (one.core.records, other.core.records) == (1, 0)
    other.core.reset()
    assert one.core.records == 1


# -- counters --------------------------------------------------------------------------------------------


def test_a_counter_starts_without_a_state(rig):
    """A series without records has no aggregate; an empty aggregate has no records."""
    assert rig.series("counter").state() is None
    empty = rig.engine.CounterAggregate()
    assert (empty.records, exactly(empty.value), empty.is_exact) == (0, (int, 0), True)


def test_a_counter_adds_one_by_default(rig):
    """``add()`` adds one."""
    counter = rig.series("counter")
    counter.add()
    counter.add(value=2)
    assert exactly(counter.state().value) == (int, 3)


@given(st.lists(st.integers(0, 2**48), min_size=1, max_size=40))
def test_integer_totals_are_exact(engine, values):
    """The total of integers is exact, and an integer."""
    counter = Rig(engine).series("counter")
    for value in values:
        counter.add(value)
    state = counter.state()
    assert (state.records, exactly(state.value), state.is_exact) == (len(values), (int, sum(values)), True)


@given(st.lists(st.floats(0, 1e300) | st.integers(0, 2**62), min_size=1, max_size=40))
def test_totals_of_floats_are_within_a_trillionth(engine, values):
    """With a float among them, the total is a float within 1e-12 of the exact one."""
    counter = Rig(engine).series("counter")
    for value in values:
        counter.add(value)
    counter.add(0.0)
    assert type(counter.state().value) is float
    assert counter.state().value == pytest.approx(math.fsum(values), rel=1e-12, abs=0)


def test_rounding_errors_do_not_accumulate(rig):
    """A million tenths add up to a hundred thousand; a plain sum is off by 1e-11."""
    counter = rig.series("counter")
    for _ in range(100_000):
        counter.add(0.1)
    assert counter.state().value == pytest.approx(10_000, rel=1e-15, abs=0)


def test_the_largest_integer_total_is_exact(rig):
    """The total of integers is exact up to the end of int64."""
    counter = rig.series("counter")
    counter.add(INT64_MAX - 1)
    counter.add(1)
    assert (exactly(counter.state().value), counter.state().is_exact) == ((int, INT64_MAX), True)


def test_an_integer_total_beyond_int64_is_a_float(rig):
    """A total that leaves int64 becomes a compensated float, and is marked as inexact."""
    counter = rig.series("counter")
    counter.add(INT64_MAX)
    for _ in range(1_000):
        counter.add(1)
    state = counter.state()
    assert (state.records, exactly(state.value)) == (1_001, (float, float(INT64_MAX + 1_000)))
    assert not state.is_exact
    counter.add(2**62)
    assert exactly(counter.state().value) == (float, float(INT64_MAX + 1_000 + 2**62))
    _, _, (_, in_slot) = rig.slots["counter"].peek()
    assert (in_slot.value, in_slot.is_exact) == (counter.state().value, False)


def test_an_integer_beyond_int64_is_a_float(rig):
    """A single integer that does not fit into int64 is recorded as a float."""
    counter = rig.series("counter")
    counter.add(2**64)
    assert exactly(counter.state().value) == (float, 2.0**64)
    counter.add(1)
    assert (counter.state().records, counter.state().value) == (2, 2.0**64)


def test_a_float_makes_the_total_a_float(rig):
    """The total is an integer only if every addition was one."""
    counter = rig.series("counter")
    counter.add(2)
    counter.add(1.0)
    counter.add(2)
    assert (exactly(counter.state().value), counter.state().is_exact) == ((float, 5.0), True)


def test_a_total_beyond_the_largest_float_is_infinite(rig):
    """An infinite total stays infinite."""
    counter = rig.series("counter")
    for _ in range(3):
        counter.add(MAX)
    assert counter.state().value == math.inf
    counter.add(1)
    assert (counter.state().records, counter.state().value) == (4, math.inf)


def test_a_counter_since_an_earlier_reading(rig):
    """The difference of two readings is the later additions."""
    counter = rig.series("counter")
    counter.add(2)
    earlier = counter.state()
    counter.add(3)
    counter.add(4)
    difference = counter.state().subtract(earlier)
    assert (difference.records, exactly(difference.value)) == (2, (int, 7))
    counter.add(0.5)
    assert counter.state().subtract(earlier).value == 7.5
    assert counter.state().subtract(rig.engine.CounterAggregate()).value == 9.5


@pytest.mark.parametrize(
    "value", [-1, -0.5, math.nan, math.inf, -math.inf, True, False, "1", None, [1]], ids=repr
)
def test_a_counter_passes_other_values_to_its_owner(rig, value):
    """The owner rejects other values: it raises, or counts them."""
    counter = rig.series("counter")
    with pytest.raises(RejectedValue):
        counter.add(value)
    rig.metric.counts_errors = True
    assert counter.add(value) is None
    assert [asked[1] for asked in rig.metric.asked] == [False, False]
    assert all(asked[0] is value for asked in rig.metric.asked)
    assert (counter.state(), rig.core.records) == (None, 0)


class Weekday(IntEnum):
    """An enumeration of integers."""

    TUESDAY = 2


def test_odd_numbers_are_converted_by_the_owner(rig):
    """Converted values are recorded; plain numbers bypass the owner."""
    counter = rig.series("counter")
    for value in (0, 1, 0.0, 1.5, -0.0, INT64_MAX // 4, 1e300):
        counter.add(value)
    assert rig.metric.asked == []
    records = counter.state().records
    counter.add(Decimal("0.5"))
    counter.add(Weekday.TUESDAY)
    assert rig.metric.asked == [(Decimal("0.5"), False), (2, False)]
    assert counter.state().records == records + 2


# -- gauges ----------------------------------------------------------------------------------------------


def test_an_empty_gauge_aggregate(rig):
    """An empty gauge aggregate has no first value."""
    empty = rig.engine.GaugeAggregate()
    assert (empty.records, empty.first_ns, empty.is_stepped) == (0, -1, False)
    assert rig.series("gauge").state() is None


def test_a_gauge_aggregate_has_the_statistics_of_its_values(rig):
    """First, last, extremes, times and the integral over time."""
    gauge = rig.series("gauge")
    for value, seconds in ((3, 2), (10.5, 1), (-4, 0.5), (7, 0)):
        gauge.set(value)
        rig.advance(seconds)
    state = gauge.state()
    assert (state.records, exactly(state.last), exactly(state.first)) == (4, (int, 7), (int, 3))
    assert (exactly(state.min), exactly(state.max)) == ((int, -4), (float, 10.5))
    assert (state.first_ns, state.last_ns) == (START, START + 3_500_000_000)
    assert state.integral == pytest.approx((3 * 2 + 10.5 * 1 - 4 * 0.5) * SECOND)
    assert not gauge.is_stepped


def test_steps_move_a_gauge(rig):
    """Increments and decrements start from the last value, and from 0 without one."""
    gauge = rig.series("gauge")
    gauge.increment()
    assert exactly(gauge.state().last) == (int, 1)
    gauge.increment(5)
    gauge.decrement(2)
    gauge.decrement()
    assert exactly(gauge.state().last) == (int, 3)
    gauge.increment(step=0.5)
    gauge.decrement(step=-2)
    assert exactly(gauge.state().last) == (float, 5.5)
    gauge.set(1)
    gauge.increment(-4)
    assert exactly(gauge.state().last) == (int, -3)
    assert (gauge.state().max, gauge.state().min, gauge.state().records) == (6, -3, 8)


def test_a_gauge_knows_whether_it_was_stepped(rig):
    """A gauge and its aggregates are stepped from the first step on, and a removal ends that."""
    gauge = rig.series("gauge")
    assert not gauge.is_stepped
    gauge.set(1)
    assert not gauge.is_stepped
    assert not gauge.state().is_stepped
    gauge.increment()
    gauge.set(1)
    assert gauge.is_stepped
    assert gauge.state().is_stepped
    assert rig.slots["gauge"].peek()[2][1].is_stepped
    rig.remove(gauge)
    assert not gauge.is_stepped


@pytest.mark.parametrize(("edge", "step"), [(INT64_MAX, 1), (INT64_MIN, -1)])
def test_an_integer_gauge_beyond_int64_is_a_float(rig, edge, step):
    """A step that leaves int64 makes the value a float."""
    gauge = rig.series("gauge")
    gauge.set(edge)
    assert exactly(gauge.state().last) == (int, edge)
    gauge.increment(step)
    assert exactly(gauge.state().last) == (float, float(edge))
    gauge.set(edge - step)
    gauge.increment(step)
    assert exactly(gauge.state().last) == (int, edge)
    gauge.set(4 * edge)
    assert exactly(gauge.state().last) == (float, 4.0 * edge)


def test_the_smallest_integer_can_be_taken_away(rig):
    """A decrement by the smallest int64, whose negative does not fit int64, is a float."""
    gauge = rig.series("gauge")
    gauge.decrement(INT64_MIN)
    assert exactly(gauge.state().last) == (float, 2.0**63)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_gauge_does_not_leave_the_floats(rig, sign):
    """Steps stop at the largest float."""
    gauge = rig.series("gauge")
    for _ in range(3):
        gauge.increment(sign * MAX)
    assert gauge.state().last == sign * MAX
    gauge.increment(-sign * MAX)
    assert gauge.state().last == 0
    gauge.set(sign * 1e308)
    for _ in range(3):
        gauge.decrement(-sign * 1e308)
    assert gauge.state().last == sign * MAX


def test_a_gauge_takes_booleans(rig):
    """True and False are recorded as the integers 1 and 0."""
    gauge = rig.series("gauge")
    for value, expected in ((True, 1), (False, 0)):
        gauge.set(value)
        assert exactly(gauge.state().last) == (int, expected)
    assert rig.metric.asked == []


@pytest.mark.parametrize("method", ["set", "increment", "decrement"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", None, [1]], ids=repr)
def test_a_gauge_passes_other_values_to_its_owner(rig, method, value):
    """The owner rejects other values; negative numbers are valid."""
    gauge = rig.series("gauge")
    with pytest.raises(RejectedValue):
        getattr(gauge, method)(value)
    rig.metric.counts_errors = True
    assert getattr(gauge, method)(value) is None
    assert [asked[1] for asked in rig.metric.asked] == [True, True]
    assert (gauge.state(), rig.core.records) == (None, 0)
    getattr(gauge, method)(Decimal("0.5"))
    assert abs(gauge.state().last) == 0.5


LEVELS = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6)


@given(
    st.lists(
        st.tuples(st.integers(0, 3 * SECOND), st.sampled_from(["set", "increment", "decrement"]), LEVELS),
        min_size=1,
        max_size=30,
    )
)
def test_a_gauge_is_that_of_the_reference(engine, actions):
    """After any records its aggregate equals that of the reference implementation."""
    rig = Rig(engine)
    gauge = rig.series("gauge")
    values: list[Any] = []
    times: list[int] = []
    for pause_ns, method, level in actions:
        rig.time_ns += pause_ns
        getattr(gauge, method)(level)
        last = values[-1] if values else 0
        values.append({"set": level, "increment": last + level, "decrement": last - level}[method])
        times.append(rig.time_ns)
    expected = aggregates.GaugeAggregate.of(values, times)
    state = gauge.state()
    for field in ("records", "last", "min", "max", "first", "first_ns", "last_ns"):
        assert getattr(state, field) == getattr(expected, field), field
    assert state.integral == pytest.approx(expected.integral, rel=1e-9, abs=1e-3 * SECOND)
    assert state.is_stepped == any(method != "set" for _, method, _ in actions)


# -- histograms and timers -------------------------------------------------------------------------------


NUMBERS = st.floats(-1e15, 1e15, allow_subnormal=False) | st.integers(-(10**15), 10**15) | st.just(0)


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.sampled_from([1, 2, 30]))
def test_a_histogram_is_that_of_the_reference(engine, values, times):
    """The distribution of a histogram is that of the reference implementation."""
    histogram = Rig(engine).series("histogram")
    for value in values * times:
        histogram.observe(value)
    state, expected = histogram.state(), reference.Distribution.of(values * times)
    assert figures(state) == figures(expected)
    magnitude = math.fsum(map(abs, values * times))
    assert abs(state.sum - expected.sum) <= 1e-12 * magnitude
    assert abs(state.mean - expected.mean) <= 1e-12 * magnitude
    assert state.stddev == pytest.approx(expected.stddev, rel=1e-9, abs=1e-9 * max(map(abs, values)))
    assert type(state.sum) is type(expected.sum)
    assert state.records == len(values) * times


@pytest.mark.parametrize("unit", [1e308, 1e-300])
def test_deviations_of_extreme_values(rig, unit):
    """The deviation survives values near the largest and the smallest float."""
    histogram = rig.series("histogram")
    for value in [unit, -unit] * 100:
        histogram.observe(value)
    assert histogram.state().stddev == pytest.approx(unit, rel=1e-6)
    assert histogram.state().mean == pytest.approx(0, abs=1e-6 * unit)


def test_a_small_spread_around_a_large_value_is_not_lost(rig):
    """The deviation of a thousand values near a billion is right to four digits."""
    histogram = rig.series("histogram")
    for number in range(3_000):
        histogram.observe(1e9 + number % 3 - 1)
    assert histogram.state().stddev == pytest.approx(math.sqrt(2 / 3), rel=1e-4)


def test_a_histogram_keeps_integers(rig):
    """Extremes and the sum of integers are integers."""
    histogram = rig.series("histogram")
    for value in (5, -3, 2):
        histogram.observe(value)
    state = histogram.state()
    assert [exactly(number) for number in (state.min, state.max, state.sum)] == [
        (int, -3),
        (int, 5),
        (int, 4),
    ]
    histogram.observe(9.5)
    state = histogram.state()
    assert [exactly(number) for number in (state.min, state.max, state.sum)] == [
        (int, -3),
        (float, 9.5),
        (float, 13.5),
    ]


def test_a_histogram_takes_huge_integers_as_floats(rig):
    """An integer beyond int64 counts as a float, and a sum of integers that leaves int64 is a float."""
    histogram = rig.series("histogram")
    histogram.observe(INT64_MAX)
    histogram.observe(INT64_MAX)
    assert exactly(histogram.state().sum) == (float, 2.0**64)
    assert exactly(histogram.state().max) == (int, INT64_MAX)
    histogram.observe(-(2**70))
    assert exactly(histogram.state().min) == (float, -(2.0**70))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1", None], ids=repr)
def test_a_histogram_passes_other_values_to_its_owner(rig, value):
    """The owner rejects other values; negative numbers are valid."""
    histogram = rig.series("histogram")
    with pytest.raises(RejectedValue):
        histogram.observe(value)
    rig.metric.counts_errors = True
    assert histogram.observe(value) is None
    assert [asked[1] for asked in rig.metric.asked] == [True, True]
    assert (histogram.state(), rig.core.records) == (None, 0)
    histogram.observe(Decimal("-0.5"))
    assert histogram.state().sum == -0.5


def test_a_timer_records_milliseconds(rig):
    """Durations are floats in milliseconds, whatever number and unit they are given in."""
    timer = rig.series("timer")
    timer.observe(1.5)
    timer.observe(2.5, MetricUnit.MILLISECONDS)
    assert rig.metric.asked == []
    timer.observe(2)
    timer.observe(3.0, MetricUnit.SECONDS)
    timer.observe(duration=500, unit=MetricUnit.MICROSECONDS)
    state = timer.state()
    assert exactly(state.sum) == (float, 1.5 + 2.5 + 2 + 3_000 + 0.5)
    assert (exactly(state.min), exactly(state.max)) == ((float, 0.5), (float, 3_000.0))
    assert state.failures == 0


@pytest.mark.parametrize(
    ("duration", "unit"),
    [
        (-1.0, MetricUnit.MILLISECONDS),
        (math.nan, MetricUnit.MILLISECONDS),
        (math.inf, MetricUnit.MILLISECONDS),
        (True, MetricUnit.MILLISECONDS),
        ("1", MetricUnit.MILLISECONDS),
        (1.0, MetricUnit.BYTES),
        (1.0, "seconds"),
        (1.0, None),
    ],
    ids=repr,
)
def test_a_timer_passes_other_durations_to_its_owner(rig, duration, unit):
    """A duration that is negative, not finite, not a number or not a time is refused."""
    timer = rig.series("timer")
    with pytest.raises(RejectedValue):
        timer.observe(duration, unit)
    rig.metric.counts_errors = True
    assert timer.observe(duration, unit) is None
    assert len(rig.metric.asked) == 2
    assert (timer.state(), rig.core.records) == (None, 0)


def test_measured_durations_may_have_failed(rig):
    """``elapse`` records milliseconds, and counts failures in the aggregates of series and slot."""
    timer = rig.series("timer")
    timer.elapse(1.0)
    timer.elapse(2.0, False)
    timer.elapse(4.0, success=False)
    timer.elapse(8.0, True)
    for state in (timer.state(), rig.slots["timer"].peek()[2][1]):
        assert (state.records, state.sum, state.failures) == (4, 15.0, 2)


def test_a_block_is_timed(rig):
    """A ``with`` block is recorded with its duration; ``as`` gives nothing."""
    timer = rig.series("timer")
    with timer.time() as nothing:
        rig.advance(0.25)
        assert timer.state() is None
    assert nothing is None
    state = timer.state()
    assert (state.records, state.sum, state.failures) == (1, 250.0, 0)
    assert timer.last_ns == rig.time_ns


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_a_block_that_raises_counts_as_a_failure(rig, error):
    """An exception is recorded as a failed duration, and propagates."""
    timer = rig.series("timer")

    def block() -> None:
        with timer.time():
            rig.advance(0.25)
            raise error

    with pytest.raises(error):
        block()
    state = timer.state()
    assert (state.records, state.sum, state.failures) == (1, 250.0, 1)


def test_blocks_may_be_nested_and_repeated(rig):
    """Each call of ``time`` returns a stopwatch of its own, which may be used again."""
    timer = rig.series("timer")
    stopwatch = timer.time()
    with timer.time():
        rig.advance(0.5)
        for _ in range(2):
            with stopwatch:
                rig.advance(0.125)
    assert sorted(timer.state().state.exact) == [125.0, 125.0, 750.0]


def test_a_running_stopwatch_cannot_be_entered(rig):
    """The error names the remedy, the block inside ends as usual, and the stopwatch can be used again."""
    timer = rig.series("timer")
    stopwatch = timer.time()
    with stopwatch:
        rig.advance(0.25)
        with pytest.raises(RuntimeError, match=r"running already; call time\(\) for each block"):
            stopwatch.__enter__()
        rig.advance(0.25)
    with pytest.raises(RuntimeError, match="not running; use it in a with block"):
        stopwatch.__exit__(None, None, None)
    with stopwatch:
        rig.advance(1)
    assert sorted(timer.state().state.exact) == [500.0, 1000.0]


@pytest.mark.slow
def test_of_many_threads_one_enters_a_stopwatch(rig):
    """The others get an error, so that no duration begins at another block's time."""
    timer = rig.series("timer")
    stopwatch, together, inside = timer.time(), threading.Barrier(8), threading.Barrier(8)

    def use(_: int) -> bool:
        together.wait()
        try:
            with stopwatch:
                inside.wait()
        except RuntimeError:
            inside.wait()
            return False
        return True

    for times in range(1, 20):
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(use, range(8))) == 1
        assert timer.state().records == times


def test_a_stopwatch_is_no_decorator(rig):
    """`@timer.time()` would time nothing: the error names the ways that do."""
    with pytest.raises(TypeError, match=r"use `with timer.time\(\):` inside .* metrics.measure\(name\)"):

        @rig.series("timer").time()
        def work() -> None: ...


def test_a_stopwatch_of_a_removed_series_calls_the_owner(rig):
    """A block that outlives its series is recorded into the one in its place."""
    timer = rig.series("timer")
    with timer.time():
        rig.remove(timer)
        rig.advance(0.5)
    assert rig.metric.readmitted == [timer]
    assert timer.state().sum == 500.0


@pytest.mark.parametrize("way", [1, -1])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_distribution_is_halved_as_soon_as_it_spans_more_than_5_120_buckets(rig, sign, way):
    """Not earlier, and not later if its memory has room for more."""
    series = rig.series("histogram")
    for _ in range(200):
        series.observe(sign * 1.0)
    fine = series.state().relative_error
    for octave in range(1, 100):
        series.observe(sign * 2.0 ** (way * octave))
        # One bucket holds 1.0; each octave has 64 buckets.
        assert (series.state().relative_error == fine) == (64 * octave + 1 <= 5_120)


# -- outcomes --------------------------------------------------------------------------------------------


def test_outcomes_are_counted_by_error_type(rig):
    """Successes and failures by error type, in the series and in its slot."""
    outcomes = rig.series("outcome")
    for ending in (None, "ValueError", None, "KeyError", "ValueError"):
        outcomes.finish(ending)
    for state in (outcomes.state(), rig.slots["outcome"].peek()[2][1]):
        assert dict(state.endings) == {None: 2, "ValueError": 2, "KeyError": 1}
        assert (state.records, state.successes) == (5, 2)
        assert state.failures == {"ValueError": 2, "KeyError": 1}
        assert state.success_rate == 0.4


def test_new_error_types_are_admitted_by_the_owner(rig):
    """The owner is called once for each new error type, and may return another one to count."""
    outcomes = rig.series("outcome")
    for ending in ("a", "b", "a", "c", "d", "e", None):
        outcomes.finish(error_type=ending)
    assert rig.metric.asked == [("a",), ("b",), ("c",), ("d",), ("e",)]
    assert outcomes.state().failures == {"a": 2, "b": 1, "c": 1, "other": 2}
    assert rig.error_types.names == ("a", "b", "c", "other")


def test_a_refused_error_type_is_not_recorded(rig):
    """An error type that the owner refuses leaves no record."""
    outcomes = rig.series("outcome")
    with pytest.raises(RejectedValue):
        outcomes.finish("")
    rig.metric.counts_errors = True
    assert outcomes.finish("") is None
    assert outcomes.state() is None


def test_an_aggregate_of_outcomes_is_made_of_endings(engine):
    """``OutcomeAggregate.of`` counts endings; without any, the success rate is 1."""
    aggregate = engine.OutcomeAggregate.of([None, "a", None])
    assert dict(aggregate.endings) == {None: 2, "a": 1}
    empty = engine.OutcomeAggregate()
    assert (dict(empty.endings), empty.records, empty.failures, empty.success_rate) == ({}, 0, {}, 1.0)
    with pytest.raises(TypeError):
        engine.OutcomeAggregate.of([None, 3])


def test_error_types_are_appended(engine):
    """Error types keep their order, and each is there once."""
    error_types = engine.ErrorTypes()
    assert (len(error_types), error_types.names) == (0, ())
    for name in ("b", "a", "b"):
        error_types.add(name)
    assert (len(error_types), error_types.names) == (2, ("b", "a"))
    assert "a" in error_types
    for odd in ("c", "", None, 1, [], object()):
        assert odd not in error_types


# -- states ----------------------------------------------------------------------------------------------


@all_kinds
def test_a_state_does_not_change(rig, kind):
    """A state does not change while more is recorded."""
    series, (one, other) = rig.series(kind), VALUES[kind]
    record(series, one)
    before = series.state()
    kept = pickle.loads(pickle.dumps(before))
    for _ in range(600):
        record(series, other)
    assert before == kept
    assert (before.records, series.state().records) == (1, 601)


@all_kinds
def test_states_merge(rig, kind):
    """The merged states of two series have the records of both; merging changes neither."""
    one, other = rig.series(kind, one="a"), rig.series(kind, one="b")
    for value in VALUES[kind]:
        record(one, value)
        record(other, value)
    rig.advance(1)
    record(other, VALUES[kind][0])
    before = one.state()
    assert one.state().merge(other.state()).records == 5
    assert one.state() == before


@all_kinds
def test_an_empty_aggregate_is_merged_without_effect(rig, kind):
    """The empty aggregate of each kind is neutral."""
    series = rig.series(kind)
    record(series, VALUES[kind][0])
    state = series.state()
    empty = type(state)()
    assert empty.records == 0
    assert empty.merge(state) == state
    assert state.merge(empty) == state


@all_kinds
def test_states_are_pickled_and_copied(rig, kind):
    """A state that was pickled or copied is equal; one with another record is not."""
    series = rig.series(kind)
    for value in VALUES[kind]:
        record(series, value)
    state = series.state()
    for restored in (pickle.loads(pickle.dumps(state)), copy.copy(state), copy.deepcopy(state)):
        assert restored == state
        assert restored.merge(state).records == 2 * state.records
    record(series, VALUES[kind][0])
    assert series.state() != state
    assert state != "a state"


@all_kinds
def test_a_series_knows_when_it_was_recorded(rig, kind):
    """The time of the first record is exact, that of the last one within a second."""
    series = rig.series(kind)
    assert (series.created_ns, series.last_ns) == (0, 0)
    rig.advance(0.25)
    created = rig.time_ns
    for seconds in (0.5, 3.125, 60):
        record(series, VALUES[kind][0])
        assert series.created_ns == created
        assert abs(series.last_ns - rig.time_ns) <= SECOND
        rig.advance(seconds)


@all_kinds
def test_a_series_has_its_tags(rig, kind):
    """The tags are a new dict each time, sorted by name; series, tag set, slot and owner know each other."""
    series = rig.series(kind, zone="b", area="a")
    assert series.tags == {"area": "a", "zone": "b"}
    assert list(series.tags) == ["area", "zone"]
    series.tags.clear()
    assert series.tags
    assert series.values == ("a", "b")
    assert (series.tag_set, series.slot, series.owner) == (
        rig.tag_set(kind, ("area", "zone")),
        rig.slots[kind],
        rig.metric,
    )
    assert (series.is_live, series.is_null) == (True, False)
    assert rig.series(kind).tags == {}


# -- tag sets --------------------------------------------------------------------------------------------


def test_a_tag_set_has_its_series_in_order(rig):
    """Live series come in the order in which they were added."""
    tag_set = rig.tag_set("counter", ("one",))
    assert (len(tag_set), list(tag_set), tag_set.series()) == (0, [], [])
    many = [rig.series("counter", one=value) for value in "cab"]
    assert (len(tag_set), list(tag_set), tag_set.series()) == (3, many, many)
    assert (tag_set.names, tag_set.owner) == (("one",), rig.metric)
    assert [tag_set.get((value,)) for value in "abc"] == [many[1], many[2], many[0]]
    assert tag_set.get(("d",)) is None


def test_the_first_series_of_some_values_stays(rig):
    """Adding a series with the same values returns the existing one."""
    first = rig.series("counter", one="a")
    second = rig.unborn("counter", one="a")
    assert first.tag_set.add(second) is first
    assert first.tag_set.add(first) is first
    assert (first.is_live, second.is_live, len(first.tag_set)) == (True, False, 1)


def test_a_tag_set_may_change_while_it_is_iterated(rig):
    """Adding and removing series does not disturb an iteration."""
    many = [rig.series("counter", one=str(number)) for number in range(5)]
    seen = []
    for series in many[0].tag_set:
        seen.append(series)
        rig.remove(series)
        rig.series("counter", one=f"new {len(seen)}") if len(seen) < 3 else None
    assert seen[:5] == many


@all_kinds
def test_a_removed_series_gives_its_aggregate_away(rig, kind):
    """A removal returns the final aggregate and empties the series; its slot keeps the records."""
    series = rig.series(kind, one="a")
    for value in VALUES[kind]:
        record(series, value)
    expected = series.state()
    assert rig.remove(series) == expected
    assert not series.is_live
    assert (series.state(), series.created_ns, series.last_ns) == (None, 0, 0)
    assert (len(series.tag_set), series.tag_set.get(("a",))) == (0, None)
    assert rig.slots[kind].peek()[2][1].records == 2
    assert rig.core.records == 2
    assert rig.remove(series) is None


@all_kinds
def test_a_removal_notes_the_final_aggregate(rig, kind):
    """The note is what the removal returns; without a removal there is none."""
    series = rig.series(kind, one="a")
    notes: dict[object, object] = {}
    for value in VALUES[kind]:
        record(series, value)
    removed = series.tag_set.remove(series, notes, "first")
    assert removed is notes["first"]
    assert removed.records == 2
    assert series.tag_set.remove(series, notes, "second") is None
    empty = rig.series(kind, one="b")
    assert empty.tag_set.remove(empty, notes, "third") is None
    assert notes == {"first": removed, "third": None}


def test_the_removal_of_a_series_without_records_returns_nothing(rig):
    """A series that never recorded, or that is not live, has no aggregate."""
    series = rig.series("counter", one="a")
    assert rig.remove(series) is None
    assert not series.is_live
    assert rig.remove(rig.unborn("counter", one="b")) is None


def test_a_series_that_is_not_in_a_tag_set_is_not_removed_from_it(rig):
    """A removal does not touch another series with the same values."""
    series, twin = rig.series("counter", one="a"), rig.unborn("counter", one="a")
    series.add(3)
    assert twin.tag_set.remove(twin) is None
    assert series.is_live
    assert series.state().value == 3


@all_kinds
def test_a_record_into_a_removed_series_calls_the_owner(rig, kind):
    """The next record goes into the series that the owner readmits, which is empty at first."""
    series, (one, other) = rig.series(kind, one="a"), VALUES[kind]
    record(series, one)
    rig.remove(series)
    rig.advance(5)
    record(series, other)
    assert rig.metric.readmitted == [series]
    assert series.is_live
    assert (series.state().records, series.created_ns) == (1, rig.time_ns)
    record(series, other)
    assert rig.metric.readmitted == [series]
    assert series.state().records == 2


@all_kinds
def test_a_record_may_be_redirected(rig, kind):
    """The owner may return another series: that one gets the record."""
    old = rig.series(kind, one="a")
    rig.remove(old)
    new = rig.series(kind, one="a")
    rig.metric.successor = lambda _: new
    record(old, VALUES[kind][0])
    assert (old.state(), new.state().records) == (None, 1)
    assert not old.is_live


@all_kinds
def test_a_refused_readmission_drops_the_record(rig, kind):
    """Without a series in its place, nothing is recorded."""
    series = rig.series(kind, one="a")
    rig.remove(series)
    rig.metric.successor = lambda _: None
    record(series, VALUES[kind][0])
    assert rig.core.records == 0

    def refuse(_: Any) -> None:
        raise RejectedValue

    rig.metric.successor = refuse
    with pytest.raises(RejectedValue):
        record(series, VALUES[kind][0])
    rig.metric.successor = lambda _: type(series).null(rig.core, rig.metric)
    record(series, VALUES[kind][0])
    assert (rig.core.records, series.state()) == (0, None)


@all_kinds
def test_a_series_is_not_live_before_it_is_added(rig, kind):
    """A record into a series that was never added calls the owner."""
    series = rig.unborn(kind, one="a")
    assert not series.is_live
    record(series, VALUES[kind][0])
    assert rig.metric.readmitted == [series]
    assert series.is_live


def test_a_removed_series_may_be_added_again(rig):
    """A series that is added again counts from zero, behind the others."""
    first, second = rig.series("counter", one="a"), rig.series("counter", one="b")
    first.add(1)
    rig.remove(first)
    assert first.tag_set.add(first) is first
    first.add(2)
    assert rig.metric.readmitted == []
    assert first.state().value == 2
    assert first.tag_set.series() == [second, first]


# -- null series -----------------------------------------------------------------------------------------


@all_kinds
def test_a_null_series_keeps_nothing(rig, kind):
    """A null series takes records and has none."""
    series_class = getattr(rig.engine, KINDS[kind][0])
    null = series_class.null(rig.core, rig.metric)
    assert isinstance(null, series_class)
    for value in VALUES[kind]:
        record(null, value)
    assert (null.is_null, null.is_live) == (True, True)
    assert (null.tag_set, null.slot, null.owner, null.values, null.tags) == (None, None, rig.metric, (), {})
    assert (null.state(), null.created_ns, null.last_ns, null.recent) == (None, 0, 0, None)
    assert rig.core.records == 0
    assert rig.metric.readmitted == []


@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram", "timer"])
def test_a_null_series_checks_its_input(rig, kind):
    """A null series refuses the same values as any other."""
    null = getattr(rig.engine, KINDS[kind][0]).null(rig.core, rig.metric)
    with pytest.raises(RejectedValue):
        record(null, math.nan)
    rig.metric.counts_errors = True
    record(null, math.nan)
    assert len(rig.metric.asked) == 2


def test_every_method_of_a_null_series_works(rig):
    """Steps, stopwatches and counts of null series do nothing."""
    engine = rig.engine
    gauge = engine.GaugeSeries.null(rig.core, rig.metric)
    gauge.increment()
    gauge.decrement(2)
    assert not gauge.is_stepped
    timer = engine.TimerSeries.null(rig.core, rig.metric)
    timer.elapse(1.0, False)
    with timer.time():
        rig.advance(1)
    assert timer.counted() is None
    timer.drop_recent()
    assert engine.HistogramSeries.null(rig.core, rig.metric).counted() is None
    assert rig.core.records == 0


# -- slots -----------------------------------------------------------------------------------------------


def test_a_new_slot_is_empty(rig):
    """A slot begins without records, with the windows that it was given."""
    windows = object()
    slot = rig.engine.Slot(rig.core, "counter", windows=windows)
    assert slot.peek() == (windows, (), None)
    assert slot.windows is windows
    assert (slot.core, slot.kind, slot.bounds, slot.law) == (rig.core, "counter", (), "latest")
    assert slot.error_types is None
    assert rig.slots["outcome"].error_types is rig.error_types


@all_kinds
def test_a_slot_has_the_records_of_its_series(rig, kind):
    """The series of a slot count into it; it starts at a whole second."""
    one, other = rig.series(kind, one="a"), rig.series(kind, two="b")
    rig.advance(0.75)
    for series in (one, other, one):
        record(series, VALUES[kind][0])
    windows, closed, (start, aggregate) = rig.slots[kind].peek()
    assert (windows, closed, start, aggregate.records) == (None, (), START, 3)
    assert rig.published == []


@all_kinds
def test_a_record_of_another_second_closes_the_slot(rig, kind):
    """The slot closes at the first record of a later second, and is published after that record."""
    series, slot = rig.series(kind), rig.slots[kind]
    record(series, VALUES[kind][0])
    rig.advance(0.999)
    record(series, VALUES[kind][1])
    assert rig.published == []
    rig.advance(5)
    assert slot.peek()[1] == ()
    record(series, VALUES[kind][0])
    assert rig.published == [slot]
    _, ((start, closed),), (open_start, opened) = slot.peek()
    assert (start, closed.records) == (START, 2)
    assert (open_start, opened.records) == (START + 5 * SECOND, 1)
    record(series, VALUES[kind][0])
    assert rig.published == [slot]


def test_closed_slots_wait_until_they_are_committed(rig):
    """Closed slots are listed oldest first, until a commit drops the oldest of them."""
    counter, slot = rig.series("counter"), rig.slots["counter"]
    for value in (1, 2, 3, 4):
        counter.add(value)
        rig.advance(1)
    windows, closed, opened = slot.peek()
    assert [(start, aggregate.value) for start, aggregate in closed] == [
        (START, 1),
        (START + SECOND, 2),
        (START + 2 * SECOND, 3),
    ]
    first = object()
    assert slot.commit(windows, first, 2)
    assert slot.windows is first
    assert slot.peek() == (first, closed[2:], opened)


def test_a_commit_compares_before_it_swaps(rig):
    """A commit does nothing if the windows are others by now, or if fewer closed slots wait."""
    counter, slot = rig.series("counter"), rig.slots["counter"]
    counter.add(1)
    rig.advance(1)
    counter.add(1)
    before = slot.peek()
    assert not slot.commit(object(), object(), 1)
    assert not slot.commit(None, object(), 2)
    assert slot.peek() == before
    first, second = [], []  # equal, but not the same
    assert slot.commit(None, first, 0)
    assert not slot.commit(second, second, 1)
    assert slot.commit(first, second, 1)
    assert (slot.windows is second, slot.peek()[1]) == (True, ())


@all_kinds
def test_a_late_record_counts_into_the_open_slot(rig, kind):
    """A record older than the open slot belongs to the open slot, and closes nothing."""
    series, slot = rig.series(kind), rig.slots[kind]
    rig.advance(10)
    record(series, VALUES[kind][0])
    rig.advance(-5)
    record(series, VALUES[kind][1])
    rig.advance(5)
    record(series, VALUES[kind][0])
    _, closed, (start, aggregate) = slot.peek()
    assert (closed, start, aggregate.records) == ((), START + 10 * SECOND, 3)
    assert rig.published == []
    assert series.last_ns == pytest.approx(START + 10 * SECOND, abs=SECOND)


def test_times_of_a_gauge_never_fall(rig):
    """A late record of a gauge takes no time: its integral does not go backwards."""
    gauge = rig.series("gauge")
    rig.advance(0.5)
    gauge.set(2)
    rig.advance(-0.25)
    gauge.set(4)
    rig.advance(0.75)
    gauge.set(6)
    for state in (gauge.state(), rig.slots["gauge"].peek()[1][0][1].merge(rig.slots["gauge"].peek()[2][1])):
        assert (state.records, state.last, state.first_ns) == (3, 6, START + SECOND // 2)
        assert state.integral == pytest.approx(4 * 0.5 * SECOND)


def test_closed_slots_are_published_together(rig):
    """``publish`` is called once ``publish_at`` of them wait, and reads have all of them before."""
    rig.core.publish_at = 3
    counter, slot = rig.series("counter"), rig.slots["counter"]
    for _ in range(3):
        counter.add()
        rig.advance(1)
        assert rig.published == []
    assert [aggregate.value for _, aggregate in slot.peek()[1]] == [1, 1]
    counter.add()
    slot.peek()  # the pure engine closes slots when it reads
    counter.add()
    assert len(slot.peek()[1]) == 3
    rig.advance(1)
    counter.add()
    slot.peek()
    assert rig.published[0] is slot


def test_publish_sees_the_closed_slot(rig):
    """``publish`` is called outside of the record: it sees the record, and may commit."""
    seen = []

    def publish(slot: Any) -> None:
        windows, closed, (_, opened) = slot.peek()
        seen.append((counter.state().value, [aggregate.value for _, aggregate in closed], opened.value))
        assert slot.commit(windows, (windows, closed), len(closed))

    slot = rig.engine.Slot(rig.core, "counter", publish)
    counter = rig.series("counter", slot)
    for value in (1, 2, 4):
        counter.add(value)
        rig.advance(1)
    assert seen == [(3, [1], 2), (7, [2], 4)]
    assert slot.peek()[1] == ()


def test_publish_may_raise(rig):
    """An error in ``publish`` reaches the caller; its record is counted, and the closed slot waits."""

    def publish(_: Any) -> None:
        raise RejectedValue

    slot = rig.engine.Slot(rig.core, "counter", publish)
    counter = rig.series("counter", slot)
    counter.add(1)
    for number in (1, 2):
        rig.advance(1)
        with pytest.raises(RejectedValue):
            counter.add(10)
        assert counter.state().value == 1 + 10 * number
        assert len(slot.peek()[1]) == number


def test_publish_may_record(rig):
    """A record in ``publish``, also one into the same slot, is counted."""

    def publish(slot: Any) -> None:
        counter.add(100)
        rig.advance(1)
        if len(slot.peek()[1]) < 3:
            counter.add(1_000)  # closes another slot, and is published as well

    slot = rig.engine.Slot(rig.core, "counter", publish)
    counter = rig.series("counter", slot)
    counter.add(1)
    rig.advance(1)
    counter.add(10)
    assert counter.state().value == 1 + 10 + 3 * 100 + 2 * 1_000
    total = sum(aggregate.value for _, aggregate in (*slot.peek()[1], slot.peek()[2]))
    assert total == counter.state().value


def test_a_slot_without_publish_keeps_the_open_slot_only(rig):
    """Without a ``publish`` function, closed slots are dropped, because nothing would commit them."""
    slot = rig.engine.Slot(rig.core, "counter")
    counter = rig.series("counter", slot)
    for value in (1, 2, 3):
        counter.add(value)
        rig.advance(1)
    _, closed, (start, opened) = slot.peek()
    assert (closed, start, opened.value) == ((), START + 2 * SECOND, 3)
    assert counter.state().value == 6


@all_kinds
def test_slots_add_up_to_the_series(rig, kind):
    """The merged slots of a series are its state, whatever the times of its records."""
    series, slot = rig.series(kind), rig.slots[kind]
    for number in range(40):
        record(series, VALUES[kind][number % 2])
        rig.advance((0, 0.1, 0.4, 2.5, 17)[number % 5])
    _, closed, (_, merged) = slot.peek()
    whole = type(merged)()
    for _, aggregate in closed:
        whole = whole.merge(aggregate)
    merged = whole.merge(merged)
    state = series.state()
    assert merged.records == state.records == 40
    if kind == "gauge":
        assert merged.integral == pytest.approx(state.integral)
        assert (merged.min, merged.max, merged.last) == (state.min, state.max, state.last)
    elif kind in ("histogram", "timer"):
        assert figures(merged) == figures(state)
    else:
        assert merged == state


# -- gauges with several series --------------------------------------------------------------------------


def whole_of(slot: Any) -> Any:
    """Return the aggregate of the open slot."""
    return slot.peek()[2][1]


def test_the_latest_record_is_the_whole_of_a_gauge(rig):
    """By default a gauge slot follows the last record of any series, also when that one is removed."""
    one, other = rig.series("gauge", one="a"), rig.series("gauge", one="b")
    slot = rig.slots["gauge"]
    for series, value in ((one, 5), (other, 3), (one, 7), (other, 1)):
        series.set(value)
        assert exactly(whole_of(slot).last) == (int, value)
    rig.remove(other)
    assert whole_of(slot).last == 1
    assert (whole_of(slot).min, whole_of(slot).max, whole_of(slot).records) == (1, 7, 4)


@pytest.mark.parametrize(
    ("law", "wholes", "after_removals"),
    [("sum", [5, 8, 10, 8], [7, 0]), ("min", [5, 3, 3, 1], [7, 0]), ("max", [5, 5, 7, 7], [7, 0])],
)
def test_series_of_a_gauge_are_combined_by_law(rig, law, wholes, after_removals):
    """The whole of a gauge is the sum, the minimum or the maximum of its series; removals change it."""
    one, other = rig.series("gauge", one="a"), rig.series("gauge", two="b")
    slot = rig.slots["gauge"]
    slot.law = law
    assert slot.law == law
    steps = ((one, 5), (other, 3), (one, 7), (other, 1))
    for (series, value), whole in zip(steps, wholes, strict=True):
        series.set(value)
        assert exactly(whole_of(slot).last) == (int, whole)
        rig.advance(0.1)
    aggregate = whole_of(slot)
    assert (aggregate.min, aggregate.max, aggregate.first) == (min(wholes), max(wholes), wholes[0])
    assert aggregate.integral == pytest.approx(sum(wholes[:3]) * 0.1 * SECOND)
    for series, whole in zip((other, one), after_removals, strict=True):
        rig.remove(series)
        assert whole_of(slot).last == whole
        rig.advance(0.1)
    assert whole_of(slot).records == 4
    one.set(2)
    assert (whole_of(slot).last, whole_of(slot).records) == (2, 5)


@pytest.mark.parametrize("law", ["sum", "min", "max"])
@given(
    actions=st.lists(
        st.tuples(
            st.sampled_from(["set", "increment", "decrement", "remove"]),
            st.integers(0, 3),
            st.integers(-3, 3) | st.integers(-100, 100) | st.integers(-12, 12).map(lambda number: number / 4),
            st.sampled_from([0, 0.3, 1.2]),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_the_whole_of_a_gauge_follows_all_its_series(engine, law, actions):
    """After any sets, steps and removals, the combined value is that of all live series.

    A sum is an integer while all of them are, also after they were not. An extreme is one if one of the
    series with this value is.
    """
    rig = Rig(engine)
    slot = rig.slots["gauge"]
    slot.law = law
    many = [rig.series("gauge", one=str(number)) for number in range(4)]
    lasts: dict[int, float] = {}
    combine = {
        "sum": sum,
        "min": lambda values: min(values, key=lambda value: (value, type(value) is float), default=0),
        "max": lambda values: max(values, key=lambda value: (value, type(value) is int), default=0),
    }
    for method, number, value, seconds, is_read in actions:
        series, before = many[number], lasts.get(number)
        if method == "remove":
            rig.remove(series)
            lasts.pop(number, None)
        else:
            getattr(series, method)(value)
            start = 0 if before is None else before
            lasts[number] = {"set": value, "increment": start + value, "decrement": start - value}[method]
        if is_read and slot.peek()[2] is not None:
            whole = combine[law](list(lasts.values()))
            assert exactly(whole_of(slot).last) == exactly(whole)
        rig.advance(seconds)
    for number, series in enumerate(many):
        state = series.state()
        assert (None if state is None else state.last) == lasts.get(number)


def test_a_gauge_that_only_lost_a_series_has_no_records_in_that_second(rig):
    """A removal in a later second changes the whole without a record."""
    one, other = rig.series("gauge", one="a"), rig.series("gauge", one="b")
    slot = rig.slots["gauge"]
    slot.law = "sum"
    one.set(5)
    other.set(3)
    rig.advance(2)
    rig.remove(one)
    _, closed, (start, aggregate) = slot.peek()
    assert (start, aggregate.records, aggregate.last) == (START + 2 * SECOND, 0, 3)
    assert (aggregate.first_ns, aggregate.last_ns) == (START + 2 * SECOND, START + 2 * SECOND)
    assert [aggregate.last for _, aggregate in closed] == [8]


def test_the_removal_of_a_gauge_without_records_changes_nothing(rig):
    """A series without records is not part of the combined value."""
    slot = rig.slots["gauge"]
    slot.law = "min"
    one, other = rig.series("gauge", one="a"), rig.series("gauge", one="b")
    one.set(5)
    before = slot.peek()
    rig.remove(other)
    assert slot.peek() == before


def test_a_change_of_law_holds_from_the_next_record_on(rig):
    """A new merge law does not change earlier records."""
    one, other = rig.series("gauge", one="a"), rig.series("gauge", one="b")
    slot = rig.slots["gauge"]
    one.set(5)
    other.set(3)
    slot.law = "sum"
    assert whole_of(slot).last == 3
    one.set(6)
    assert whole_of(slot).last == 9
    slot.law = "latest"
    other.set(1)
    assert whole_of(slot).last == 1


# -- counts by bounds ------------------------------------------------------------------------------------

BOUNDS = (1.0, 10.0, 100.0)
both_kinds = pytest.mark.parametrize("kind", ["histogram", "timer"])


@both_kinds
def test_values_are_counted_by_bounds(rig, kind):
    """A bound belongs to the bucket below it; the last bucket has no upper bound."""
    slot = rig.slots[kind]
    slot.count_by(BOUNDS, seed=True)
    assert slot.bounds == BOUNDS
    series = rig.series(kind, one="a")
    for value in (0.0, 0.5, 1.0, 1.5, 10.0, 100.0, 100.5, 1e9):
        series.observe(value)
    distribution, counts, total = series.counted()
    assert (distribution, counts, total) == (series.state(), (3, 2, 1, 2), series.state().sum)
    other = rig.series(kind, one="b")
    assert other.counted() is None
    other.observe(5.0)
    assert other.counted()[1:] == ((0, 1, 0, 0), 5.0)


@both_kinds
def test_without_bounds_nothing_is_counted(rig, kind):
    """A slot without bounds has no counts."""
    series = rig.series(kind)
    assert series.counted() is None
    series.observe(5.0)
    distribution, counts, total = series.counted()
    assert (distribution.count, counts, total) == (1, None, 5.0)
    assert rig.slots[kind].bounds == ()


def test_integers_are_counted_exactly(rig):
    """The sum of counted integers is an integer, and negative values are below the first bound."""
    rig.slots["histogram"].count_by((0.0, 5.0), seed=True)
    series = rig.series("histogram")
    for value in (-3, 0, 5, 6):
        series.observe(value)
    assert series.counted()[1] == (2, 1, 1)
    assert exactly(series.counted()[2]) == (int, 8)


def test_exact_values_seed_the_counts(rig):
    """Later bounds count the values so far, exactly, and continue from there."""
    series, untouched = rig.series("histogram", one="a"), rig.series("histogram", one="b")
    values = [0.5, 1, 1.0, 7, 10, 11, 1_000.5]
    for value in values:
        series.observe(value)
    untouched.observe(50)
    rig.slots["histogram"].count_by(BOUNDS, seed=True)
    series.observe(2.0)
    assert series.counted()[1:] == ((3, 3, 1, 1), sum(values) + 2)
    assert untouched.counted()[1:] == ((0, 0, 1, 0), 50)


def test_buckets_seed_the_counts_by_their_midpoints(rig):
    """More than 128 values are seeded from buckets, none of which is near a bound here."""
    series = rig.series("histogram")
    values = [0.5, 5, 50, 500, -3, 0] * 40
    for value in values:
        series.observe(value)
    rig.slots["histogram"].count_by(BOUNDS, seed=True)
    assert series.counted()[1:] == ((120, 40, 40, 40), sum(values))
    for value in (0.25, 5):
        series.observe(value)
    assert series.counted()[1] == (121, 41, 40, 40)


def test_the_record_that_turns_values_into_buckets_seeds_the_exact_values(rig):
    """Bounds that arrive after 128 values are seeded from these values, not from buckets."""
    series = rig.series("histogram")
    for value in [1.002] * 127 + [100.0]:
        series.observe(value)
    rig.slots["histogram"].count_by((1.003,), seed=True)
    series.observe(100.0)
    assert series.counted()[1] == (127, 2)


def test_counts_never_fall_after_they_were_seeded(rig):
    """Later values are counted exactly, and earlier counts are not computed again."""
    series = rig.series("histogram")
    series.observe(5)
    rig.slots["histogram"].count_by(BOUNDS, seed=True)
    before = series.counted()[1]
    for number in range(1, 300):
        series.observe(1.0 + number % 5 / 100)
        counts = series.counted()[1]
        assert all(one <= other for one, other in zip(before, counts, strict=True))
        assert sum(counts) == number + 1
        before = counts


def test_counts_restart_from_zero(rig):
    """Without a seed, counts and total are those of later values."""
    series = rig.series("histogram")
    series.observe(5)
    rig.slots["histogram"].count_by(BOUNDS, seed=False)
    distribution, counts, total = series.counted()
    assert (distribution.count, counts, total) == (1, (0, 0, 0, 0), 0)
    series.observe(50)
    distribution, counts, total = series.counted()
    assert (distribution.count, counts, total) == (2, (0, 0, 1, 0), 50)
    rig.slots["histogram"].count_by((20.0,), seed=False)
    assert series.counted()[1:] == ((0, 0), 0)
    rig.slots["histogram"].count_by((20.0, 30.0), seed=True)
    assert series.counted()[1:] == ((1, 0, 1), 55)
    assert rig.slots["histogram"].bounds == (20.0, 30.0)


def test_a_removed_series_is_counted_from_zero_again(rig):
    """The counts of a series end with its removal."""
    rig.slots["histogram"].count_by(BOUNDS, seed=True)
    series = rig.series("histogram")
    series.observe(5)
    rig.remove(series)
    assert series.counted() is None
    series.observe(50)
    assert series.counted()[1:] == ((0, 0, 1, 0), 50)


@given(
    st.lists(st.floats(-1e3, 1e3) | st.integers(-1_000, 1_000), min_size=1, max_size=60),
    st.lists(st.integers(-1_000, 1_000), min_size=1, max_size=8, unique=True),
    st.integers(0, 60),
)
def test_counts_are_those_of_a_plain_count(engine, values, bounds, seeded_at):
    """Whenever exact values meet bounds, each bucket holds the values between its bounds."""
    rig = Rig(engine)
    bounds = tuple(map(float, sorted(bounds)))
    series = rig.series("histogram")
    for number, value in enumerate(values):
        if number == seeded_at:
            rig.slots["histogram"].count_by(bounds, seed=True)
        series.observe(value)
    if seeded_at >= len(values):
        rig.slots["histogram"].count_by(bounds, seed=True)
    edges = [-math.inf, *bounds, math.inf]
    expected = tuple(sum(low < value <= high for value in values) for low, high in pairwise(edges))
    _, counts, total = series.counted()
    assert counts == expected
    assert total == pytest.approx(math.fsum(values), rel=1e-12, abs=1e-9)


# -- recent slots ----------------------------------------------------------------------------------------


def recent_rig(engine: Any) -> tuple[Rig, list[Any]]:
    """Return a rig that gives series recent slots, and the series that are published."""
    rig = Rig(engine)
    published: list[Any] = []
    rig.core.allows_recent = True
    rig.core.publish_recent = published.append
    return rig, published


def test_a_recent_slot_is_sixteen_seconds_wide(engine):
    """The width is a constant of the engine."""
    assert engine.RECENT_NS == 16 * SECOND


def test_series_have_no_recent_slot_by_default(rig):
    """A core does not allow recent slots at first; a series knows that it missed them."""
    assert rig.core.allows_recent is False
    assert rig.core.publish_recent is None
    counter = rig.series("counter")
    counter.add(1)
    rig.advance(15)
    counter.add(1)
    assert (counter.recent, counter.recent_missed) == (None, False)
    rig.advance(1)
    counter.add(1)
    assert (counter.recent, counter.recent_missed) == (None, True)


@all_kinds
def test_a_series_that_keeps_recording_gets_a_recent_slot(engine, kind):
    """The first record in another 16-second slot creates the recent slot, complete from its start on."""
    rig, published = recent_rig(engine)
    series = rig.series(kind)
    for _ in range(16):
        record(series, VALUES[kind][0])
        assert (series.recent, series.recent_missed) == (None, False)
        rig.advance(1)
    rig.advance(16 * 3 + 5)
    record(series, VALUES[kind][1])
    recent = series.recent
    assert series.recent_from_ns == START + 4 * 16 * SECOND
    assert not series.recent_missed
    windows, closed, (start, aggregate) = recent.peek()
    assert (windows, closed, start, aggregate.records) == (None, (), START + 4 * 16 * SECOND, 1)
    record(series, VALUES[kind][0])
    assert recent.peek()[2][1].records == 2
    assert published == []
    assert series.state().records == 18


@all_kinds
def test_recent_slots_are_published(engine, kind):
    """The record that closes a recent slot is counted first; then the slot is published."""
    rig, published = recent_rig(engine)
    series = rig.series(kind)
    record(series, VALUES[kind][0])
    rig.advance(16)
    record(series, VALUES[kind][0])
    record(series, VALUES[kind][1])
    recent = series.recent
    rig.advance(32)
    record(series, VALUES[kind][1])
    assert published == [series]
    assert series.recent is recent
    windows, ((start, closed),), (open_start, opened) = recent.peek()
    assert (start, closed.records) == (START + 16 * SECOND, 2)
    assert (open_start, opened.records) == (START + 48 * SECOND, 1)
    after = object()
    assert recent.commit(windows, after, 1)
    assert (recent.windows is after, recent.peek()[1]) == (True, ())
    record(series, VALUES[kind][1])
    assert published == [series]


def test_each_series_has_its_own_recent_slot(engine):
    """Recent slots hold the records of one series; the slot of the metric holds all."""
    rig, _ = recent_rig(engine)
    one, other = rig.series("counter", one="a"), rig.series("counter", one="b")
    for _ in range(2):
        one.add(1)
        other.add(10)
        rig.advance(16)
    assert (one.recent.peek()[2][1].value, other.recent.peek()[2][1].value) == (1, 10)
    assert one.recent is not other.recent
    assert rig.slots["counter"].peek()[2][1].value == 11


def test_a_recent_slot_of_a_gauge_follows_its_series(engine):
    """The recent slot of a gauge has the values of its own series, whatever the law."""
    rig, _ = recent_rig(engine)
    rig.slots["gauge"].law = "sum"
    one, other = rig.series("gauge", one="a"), rig.series("gauge", one="b")
    for value in (1, 2):
        one.set(value)
        other.set(10 * value)
        rig.advance(16)
    assert one.recent.peek()[2][1].last == 2
    one.increment(3)
    assert one.recent.peek()[2][1].last == 5


def test_a_late_record_does_not_bring_a_recent_slot(engine):
    """A record of an earlier slot of 16 seconds belongs to the current one."""
    rig, _ = recent_rig(engine)
    rig.advance(16)
    counter = rig.series("counter")
    counter.add(1)
    rig.advance(-5)
    counter.add(1)
    assert (counter.recent, counter.recent_missed) == (None, False)
    rig.advance(6)
    counter.add(1)
    assert (counter.recent, counter.recent_missed) == (None, False)


def test_a_dropped_recent_slot_is_missed(engine):
    """A series may lose its recent slot; the next one brings another."""
    rig, _ = recent_rig(engine)
    counter = rig.series("counter")
    counter.add(1)
    rig.advance(16)
    counter.add(1)
    first = counter.recent
    counter.drop_recent()
    counter.drop_recent()
    assert (counter.recent, counter.recent_missed) == (None, True)
    counter.add(1)
    assert counter.recent is None
    rig.advance(16)
    counter.add(5)
    assert counter.recent is not first
    assert counter.recent_from_ns == START + 32 * SECOND
    assert counter.recent.peek()[2][1].value == 5
    assert counter.state().value == 8


def test_recent_slots_may_be_allowed_later(rig):
    """Once they are allowed, series get recent slots."""
    counter = rig.series("counter")
    counter.add(1)
    rig.core.allows_recent = True
    rig.advance(16)
    counter.add(1)
    recent = counter.recent
    assert recent is not None
    rig.core.allows_recent = False
    rig.advance(16)
    counter.add(1)
    assert counter.recent is recent
    other = rig.series("counter", one="b")
    other.add(1)
    rig.advance(16)
    other.add(1)
    assert (other.recent, other.recent_missed) == (None, True)


def test_a_removed_series_loses_its_recent_slot(engine):
    """A series that is readmitted begins without a recent slot, and has missed nothing."""
    rig, _ = recent_rig(engine)
    counter = rig.series("counter")
    counter.add(1)
    rig.advance(16)
    counter.add(1)
    rig.remove(counter)
    assert (counter.recent, counter.recent_missed) == (None, False)
    counter.add(1)
    assert (counter.recent, counter.recent_missed) == (None, False)


def test_publishing_a_recent_slot_may_raise(engine):
    """An error of ``publish_recent`` reaches the caller; the record is counted."""
    rig, _ = recent_rig(engine)

    def publish(_: Any) -> None:
        raise RejectedValue

    counter = rig.series("counter")
    for _ in range(2):
        counter.add(1)
        rig.advance(16)
    rig.core.publish_recent = publish
    with pytest.raises(RejectedValue):
        counter.add(1)
    assert counter.state().value == 3
    assert len(counter.recent.peek()[1]) == 1
    rig.core.publish_recent = None
    rig.advance(16)
    counter.add(1)
    assert len(counter.recent.peek()[1]) == 2


# -- logs of records -------------------------------------------------------------------------------------


def test_a_log_has_the_records_from_its_start_on(rig):
    """A log has each record with its number in its series, a figure of the series, and its time."""
    counter, gauge = rig.series("counter"), rig.series("gauge")
    timer, outcomes = rig.series("timer"), rig.series("outcome")
    counter.add(1)
    gauge.set(4)
    outcomes.finish(None)
    log = rig.core.subscribe(100)
    assert log.start == 3
    assert log.drain() == (0, [])
    counter.add(2)
    rig.advance(0.5)
    gauge.increment(2)
    gauge.set(1.5)
    timer.elapse(2.5, False)
    outcomes.finish("ValueError")
    outcomes.finish(None)
    counter.add(0.5)
    later = rig.time_ns
    assert log.drain() == (
        0,
        [
            (counter, 2, 2, 3, START),
            (gauge, 6, 2, 6, later),
            (gauge, 1.5, 3, 1.5, later),
            (timer, 2.5, 1, 0, later),
            (outcomes, "ValueError", 2, 1, later),
            (outcomes, None, 3, 2, later),
            (counter, 0.5, 3, 3.5, later),
        ],
    )
    assert log.drain() == (0, [])
    assert log.start == 3


def test_a_full_log_loses_the_newest_records(rig):
    """Records beyond the capacity are counted as lost, until the log is drained."""
    counter = rig.series("counter")
    log = rig.core.subscribe(3)
    for value in range(1, 6):
        counter.add(value)
    lost, records = log.drain()
    assert (lost, [logged[1] for logged in records]) == (2, [1, 2, 3])
    counter.add(6)
    lost, records = log.drain()
    assert (lost, [logged[:4] for logged in records]) == (0, [(counter, 6, 6, 21)])
    assert log.drain() == (0, [])


def test_a_log_ends(rig):
    """After `unsubscribe`, a log gets no records; a repeated call does nothing."""
    counter = rig.series("counter")
    log, other = rig.core.subscribe(10), rig.core.subscribe(10)
    counter.add(1)
    rig.core.unsubscribe(log)
    rig.core.unsubscribe(log)
    counter.add(2)
    assert len(log.drain()[1]) <= 1
    assert log.drain() == (0, [])
    assert [logged[1] for logged in other.drain()[1]] == [1, 2]


def test_logs_are_independent(rig):
    """Two logs have the same records, each with its own start and losses."""
    counter = rig.series("counter")
    first = rig.core.subscribe(2)
    counter.add(1)
    second = rig.core.subscribe(10)
    for value in (2, 3):
        counter.add(value)
    assert (first.start, second.start) == (0, 1)
    assert first.drain()[0] == 1
    assert [logged[1] for logged in second.drain()[1]] == [2, 3]


def test_a_log_has_the_records_of_a_series_that_is_removed(rig):
    """A removal does not affect a log; the numbers start again with the restored series."""
    counter = rig.series("counter")
    log = rig.core.subscribe(10)
    counter.add(5)
    rig.remove(counter)
    counter.add(3)
    assert [logged[:4] for logged in log.drain()[1]] == [(counter, 5, 1, 5), (counter, 3, 1, 3)]


def test_null_series_are_not_logged(rig):
    """A null series leaves no trace in a log."""
    log = rig.core.subscribe(10)
    rig.engine.CounterSeries.null(rig.core, rig.metric).add(1)
    assert log.drain() == (0, [])


def test_many_records_are_logged_in_order(rig):
    """Thousands of records come out in the order in which they were made, with exact numbers."""
    many = [rig.series("counter", one=str(number)) for number in range(3)]
    log = rig.core.subscribe(10_000)
    for number in range(3_000):
        many[number % 3].add(number)
    lost, records = log.drain()
    assert (lost, [logged[1] for logged in records]) == (0, list(range(3_000)))
    totals = [0, 0, 0]
    for number, (series, value, count, total, _) in enumerate(records):
        totals[number % 3] += value
        assert (series, count, total) == (many[number % 3], number // 3 + 1, totals[number % 3])


# -- reset -----------------------------------------------------------------------------------------------


@all_kinds
def test_a_reset_empties_everything(rig, kind):
    """After a reset, as in a child process, series and slots are live and empty."""
    rig.core.allows_recent = True
    series, slot = rig.series(kind, one="a"), rig.slots[kind]
    log = rig.core.subscribe(10)
    for _ in range(3):
        record(series, VALUES[kind][0])
        rig.advance(16)
    assert slot.commit(None, "windows", 1)
    rig.core.reset()
    assert (rig.core.records, series.state(), series.created_ns, series.last_ns) == (0, None, 0, 0)
    assert (series.recent, series.recent_missed) == (None, False)
    assert slot.peek() == (None, (), None)
    assert slot.windows is None
    assert log.drain() == (0, [])
    assert series.is_live
    assert series.tag_set.series() == [series]


@all_kinds
def test_a_core_keeps_recording_after_a_reset(rig, kind):
    """Records after a reset count from zero, in the same objects."""
    series, slot = rig.series(kind, one="a"), rig.slots[kind]
    for number in range(2):
        record(series, VALUES[kind][0])
        rig.advance(1)
        record(series, VALUES[kind][1])
        assert (rig.core.records, series.state().records) == (2, 2)
        assert series.created_ns == rig.time_ns - SECOND
        _, closed, (_, opened) = slot.peek()
        assert (len(closed), opened.records) == (1, 1), number
        rig.core.reset()
    assert rig.metric.readmitted == []


def test_a_reset_keeps_how_values_are_counted(rig):
    """Bounds and laws are configuration: a reset does not change them."""
    rig.slots["histogram"].count_by(BOUNDS, seed=True)
    rig.slots["gauge"].law = "sum"
    histogram = rig.series("histogram")
    histogram.observe(5)
    rig.core.reset()
    assert rig.slots["histogram"].bounds == BOUNDS
    assert histogram.counted() is None
    histogram.observe(50)
    assert histogram.counted()[1:] == ((0, 0, 1, 0), 50)
    for value, tag in ((5, "a"), (3, "b")):
        rig.series("gauge", one=tag).set(value)
    assert whole_of(rig.slots["gauge"]).last == 8


def test_a_removed_series_may_come_back_after_a_reset(rig):
    """A record after the reset calls the owner of a series that was removed before."""
    counter = rig.series("counter")
    counter.add(1)
    rig.remove(counter)
    rig.core.reset()
    counter.add(2)
    assert rig.metric.readmitted == [counter]
    assert counter.state().value == 2


# -- versions and values ---------------------------------------------------------------------------------


@all_kinds
def test_versions_change_with_records_and_removals(rig, kind):
    """Equal versions mean that nothing was recorded in the series, or removed from them."""
    one, other = rig.series(kind, one="a"), rig.series(kind, one="b")
    apart = rig.series(kind, one="c")
    read = rig.engine.read_versions
    seen = [read([one, other])]
    assert read([one, other]) == seen[0]
    assert isinstance(seen[0], bytes)
    for change in (
        lambda: record(one, VALUES[kind][0]),
        lambda: record(other, VALUES[kind][0]),
        lambda: record(one, VALUES[kind][0]),
        lambda: rig.remove(one),
        lambda: record(one, VALUES[kind][0]),
        lambda: record(one, VALUES[kind][0]),
    ):
        change()
        assert read([one, other]) not in seen
        seen.append(read((one, other)))
        record(apart, VALUES[kind][0])
        assert read([one, other]) == seen[-1]
    assert read([]) == b""


def test_values_are_read_together(rig):
    """Counters have their totals, gauges their last values, and 0 without records."""
    counter, gauge = rig.series("counter"), rig.series("gauge")
    assert rig.engine.read_values([counter, gauge]) == (0, 0)
    counter.add(2)
    gauge.set(1.5)
    gauge.increment()
    values = rig.engine.read_values((gauge, counter, gauge))
    assert values == (2.5, 2, 2.5)
    assert [type(value) for value in values] == [float, int, float]
    rig.remove(counter)
    assert rig.engine.read_values([counter]) == (0,)
    assert rig.engine.read_values([]) == ()


# -- the index -------------------------------------------------------------------------------------------


class Color(str, Enum):  # noqa: UP042 - the kind that applications have
    """An enumeration of strings."""

    RED = "red"


class Lying(str):
    """A string that is equal to everything, and whose hash raises or records."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        raise RejectedValue


class Colors(dict):
    """A dict that creates missing values."""

    def __missing__(self, key: Any) -> str:
        return "red"


def test_an_empty_index_knows_nothing(rig):
    """Nothing is known before it was learned."""
    index = rig.engine.SeriesIndex()
    for tags in (None, {}, {"one": "a"}):
        assert index.get("name", tags) is None
    index.forget("name")


def test_an_index_finds_what_it_learned(rig):
    """A series is found by its name and tags, in any order of the tags."""
    index = rig.engine.SeriesIndex()
    untagged, one = rig.series("counter"), rig.series("counter", one="a")
    two = rig.series("counter", one="a", two="b", three="c")
    index.learn("name", {}, untagged)
    index.learn("name", one.tags, one)
    index.learn("name", two.tags, two)
    for _ in range(2):
        assert index.get("name", None) is untagged
        assert index.get("name", {}) is untagged
        assert index.get("name", {"one": "a"}) is one
        assert index.get("name", {"three": "c", "two": "b", "one": "a"}) is two
        assert index.get("name", {"one": "a", "three": "c", "two": "b"}) is two
    for tags in (
        {"one": "b"},
        {"two": "a"},
        {"one": "a", "two": "b"},
        {"one": "a", "two": "b", "three": "d"},
    ):
        assert index.get("name", tags) is None
    assert index.get("other", {"one": "a"}) is None


def test_an_index_finds_many_names_by_the_same_strings_and_by_equal_ones(rig):
    """A name is found however often it was found before, until it is forgotten."""
    index = rig.engine.SeriesIndex()
    names = [f"name.{number}" for number in range(200)]
    found = {}
    for name in names:
        found[name] = rig.series("counter", one=name)
        index.learn(name, {"one": name}, found[name])
    for _ in range(3):
        for name in names:
            assert index.get(name, {"one": name}) is found[name]
            assert index.get(f"{name} "[:-1], {"one": name}) is found[name]
    for name in names[::2]:
        index.forget(name)
    for number, name in enumerate(names):
        assert index.get(name, {"one": name}) is (found[name] if number % 2 else None)
        assert index.get(f"{name} "[:-1], {"one": name}) is (found[name] if number % 2 else None)


def test_an_index_finds_the_whole_tag_set(rig):
    """Series that are added later are found without being learned; removed ones are not found."""
    index = rig.engine.SeriesIndex()
    first = rig.series("counter", one="a", two="b")
    index.learn("name", first.tags, first)
    later = rig.series("counter", one="x", two="y")
    assert index.get("name", {"two": "y", "one": "x"}) is later
    rig.remove(first)
    assert index.get("name", {"one": "a", "two": "b"}) is None
    replacement = rig.series("counter", one="a", two="b")
    assert index.get("name", {"one": "a", "two": "b"}) is replacement


def test_untagged_series_are_found_while_they_live(rig):
    """A removed series is not found; one that takes its place is."""
    index = rig.engine.SeriesIndex()
    first = rig.series("counter")
    index.learn("name", {}, first)
    rig.remove(first)
    assert (index.get("name", None), index.get("name", {})) == (None, None)
    second = rig.series("counter")
    assert (index.get("name", None), index.get("name", {})) == (second, second)


def test_several_sets_of_names_are_kept_apart(rig):
    """Tag sets with the same number of names do not hide each other."""
    index = rig.engine.SeriesIndex()
    many = [rig.series("counter", **{name: "a"}) for name in ("one", "two", "three")]
    for series in many:
        index.learn("name", series.tags, series)
    for _ in range(2):
        assert [index.get("name", {name: "a"}) for name in ("one", "two", "three")] == many


def test_an_alias_leads_to_one_series(rig):
    """Tags that are not those of the series are an alias for these very values."""
    index = rig.engine.SeriesIndex()
    series, other = rig.series("counter", one="a"), rig.series("counter", one="b")
    index.learn("given", {"one": "a", "user": "7"}, series)
    index.learn("given", {"one": "b", "user": "8"}, other)
    index.learn("given", {"user": "9"}, series)
    index.learn("given", {}, other)
    assert index.get("given", {"user": "7", "one": "a"}) is series
    assert index.get("given", {"one": "b", "user": "8"}) is other
    assert index.get("given", {"user": "9"}) is series
    assert (index.get("given", None), index.get("given", {})) == (other, other)
    for tags in ({"one": "a", "user": "8"}, {"one": "b", "user": "7"}, {"user": "7"}, {"one": "a"}):
        assert index.get("given", tags) is None


def test_an_alias_of_a_removed_series_is_not_found(rig):
    """An alias is found only while its series is live."""
    index = rig.engine.SeriesIndex()
    series = rig.series("counter", one="a")
    index.learn("given", {"user": "7"}, series)
    index.learn("given", {}, series)
    rig.remove(series)
    assert (index.get("given", {"user": "7"}), index.get("given", None)) == (None, None)
    series.tag_set.add(series)
    assert index.get("given", {"user": "7"}) is series


def test_aliases_and_tag_sets_of_the_same_names(rig):
    """Values that are an alias and values that are a series' own are both found."""
    index = rig.engine.SeriesIndex()
    own, collapsed = rig.series("counter", user="7"), rig.series("counter", user="__other__")
    index.learn("name", {"user": "8"}, collapsed)
    index.learn("name", own.tags, own)
    index.learn("name", {"user": "9"}, collapsed)
    assert [index.get("name", {"user": user}) for user in "789"] == [own, collapsed, collapsed]


def test_aliases_are_bounded(rig):
    """At most 10 000 aliases of a name are kept; those of removed series make room for later ones."""
    index = rig.engine.SeriesIndex()
    removed, series = rig.series("counter", one="a"), rig.series("counter", one="b")
    for number in range(10_000):
        index.learn("other", {"user": str(number)}, removed)
    rig.remove(removed)
    index.learn("other", {"user": "one more"}, series)
    assert index.get("other", {"user": "one more"}) is series
    given = [{"user": str(number)} for number in range(10_200)]
    for tags in given:
        index.learn("given", tags, series)
    found = [index.get("given", tags) for tags in given]
    assert 0 < found.count(series) <= 10_000
    assert found.count(series) + found.count(None) == len(given)
    assert index.get("given", series.tags) is None
    index.learn("given", series.tags, series)
    assert index.get("given", series.tags) is series


def test_an_alias_past_the_limit_needs_no_search(rig):
    """Where a tag's values are dropped, a new value costs as much after 10 000 others as before."""
    index = rig.engine.SeriesIndex()
    series = rig.series("counter", one="b")
    for number in range(10_000):
        index.learn("given", {"user": str(number)}, series)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for number in range(100):
            index.learn("given", {"user": f"new {number}"}, series)
    finally:
        sys.setprofile(before)
    assert calls < 5_000


@pytest.mark.parametrize("forgets", [False, True], ids=["changes the tags", "forgets the name"])
def test_a_collection_in_the_middle_of_an_alias_lookup_harms_nothing(rig, forgets):
    """A callback of the garbage collector may release what the lookup uses; sanitizers find misuse."""
    index = rig.engine.SeriesIndex()
    series = rig.series("counter", one="b")
    tags = {"user": "".join(["a value", " of its own"])}

    def callback(phase: str, info: object) -> None:
        if phase == "stop":
            tags["user"] = "".join(["another", " value"])
            if forgets:
                index.forget("given")

    kept = [(number,) for number in range(5_000)]  # so that no freed tuple of one item can be used again
    threshold = gc.get_threshold()
    gc.collect()
    gc.callbacks.append(callback)
    gc.set_threshold(1)
    try:
        for number in range(300):
            tags["user"] = "".join(["a value", " of its own"])
            index.learn("given", tags, series)
            kept.append((number,))
            assert index.get("given", tags) in (series, None)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(callback)
    tags["user"] = "a value"
    index.learn("given", tags, series)
    assert index.get("given", tags) is series


def test_names_are_bounded(rig):
    """At most 10 000 names are kept."""
    index = rig.engine.SeriesIndex()
    series = rig.series("counter")
    for number in range(10_001):
        index.learn(str(number), {}, series)
    assert index.get("9999", None) is series
    assert index.get("10000", None) is None
    index.forget("0")
    index.learn("10000", {}, series)
    assert (index.get("0", None), index.get("10000", None)) == (None, series)


def test_a_null_series_is_found_for_all_values(rig):
    """A null series stands for all tags of the same number."""
    index = rig.engine.SeriesIndex()
    null = rig.engine.CounterSeries.null(rig.core, rig.metric)
    index.learn("denied", {"one": "a", "two": "b"}, null)
    assert index.get("denied", {"x": "1", "y": "2"}) is null
    for tags in (None, {}, {"one": "a"}, {"one": "a", "two": "b", "three": "c"}):
        assert index.get("denied", tags) is None
    assert index.get("denied", {1: "a", "two": "b"}) is None  # so that bad input is found
    index.learn("denied", {}, null)
    assert (index.get("denied", None), index.get("denied", {})) == (null, null)


def test_a_forgotten_name_is_not_found(rig):
    """Everything of a forgotten name is gone; other names stay."""
    index = rig.engine.SeriesIndex()
    series, untagged = rig.series("counter", one="a"), rig.series("counter")
    for name in ("one", "other"):
        index.learn(name, series.tags, series)
        index.learn(name, {"user": "7"}, series)
        index.learn(name, {}, untagged)
    index.forget("one")
    for tags in (None, {"one": "a"}, {"user": "7"}):
        assert index.get("one", tags) is None
        assert index.get("other", tags) is not None


ODD_NAMES = [None, 1, 1.5, b"name", [], {}, object(), Lying("name")]
ODD_TAGS: list[Any] = [
    1,
    "one",
    ["one"],
    [("one", "red")],
    object(),
    {"one": 1},
    {"one": True},
    {"one": None},
    {"one": ["red"]},
    {"one": object()},
    {1: "red"},
    {None: "red"},
    {b"one": "red"},
    {("one",): "red"},
    {"one": Lying("red")},
    {"": "red"},
    {"one": "r\udcffd"},
]


@pytest.mark.parametrize("tags", ODD_TAGS, ids=range(len(ODD_TAGS)))
def test_odd_tags_are_not_found(rig, tags):
    """Tags of any type are handled without an error."""
    index = rig.engine.SeriesIndex()
    series = rig.series("counter", one="red")
    index.learn("name", series.tags, series)
    index.learn("name", {"user": "7"}, series)
    assert index.get("name", tags) is None
    for name in ODD_NAMES:
        assert index.get(name, tags) is None
        assert index.get(name, None) is None


@pytest.mark.parametrize(
    "tags", [Colors(), Colors(one="red"), OrderedDict(one="red"), MappingProxyType({"one": "red"})], ids=type
)
def test_other_mappings_are_left_to_the_finder(rig, tags):
    """Only a plain dict is looked up: another mapping may create missing values."""
    index = rig.engine.SeriesIndex()
    series = rig.series("counter", one="red")
    index.learn("name", series.tags, series)
    assert index.get("name", tags) is None


@pytest.mark.parametrize(
    ("name", "tags"), [("name", {"one": Color.RED}), (Lying("name"), {"one": "red"})], ids=["value", "name"]
)
def test_subclasses_of_strings_are_found_or_left_to_the_finder(rig, name, tags):
    """A subclass of ``str`` is either looked up by its characters or passed to the finder."""
    index = rig.engine.SeriesIndex()
    series, other = rig.series("counter", one="red"), rig.series("counter", one="Color.RED")
    index.learn("name", series.tags, series)
    assert index.get(name, tags) in (series, None)
    assert index.get("name", {"one": "Color.RED"}) is other


def test_numbers_do_not_stand_for_each_other(rig):
    """1, 1.0 and True are equal, but become different tags, so an index knows none of them."""
    index = rig.engine.SeriesIndex()
    for value in ("1", "1.0", "True"):
        series = rig.series("counter", one=value)
        index.learn("name", series.tags, series)
    for value in (1, 1.0, True):
        assert index.get("name", {"one": value}) is None


# -- recording by name -----------------------------------------------------------------------------------


class Finder:
    """The interface of a store that a recorder uses.

    Attributes:
        asked: The requested series.
        answer: Returns the series in place of the usual one.
    """

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.indexes = {kind: rig.engine.SeriesIndex() for kind in ("counter", "gauge", "histogram", "timer")}
        self.asked: list[tuple[Any, ...]] = []
        self.answer: Callable[[], Any] | None = None

    def index(self, kind: str) -> Any:
        """Return the index of a kind."""
        return self.indexes[kind]

    def find(self, kind: str, name: Any, tags: Any) -> Any:
        """Return a series, a new one if need be."""
        self.asked.append((kind, name, tags))
        return self._found(kind, name, tags)

    def find_step(self, name: Any, step: int, tags: Any) -> Any:
        """Return the series that a step changes."""
        self.asked.append((step, name, tags))
        return self._found("counter" if step > 0 else "gauge", name, tags)

    def _found(self, kind: str, name: Any, tags: Any) -> Any:
        if self.answer is not None:
            return self.answer()
        plain = {key: str(value) for key, value in sorted((tags or {}).items())}
        series = self.rig.series(kind, **plain)
        self.indexes[kind].learn(name, plain, series)
        return series


def recorder_of(rig: Rig) -> tuple[Any, Finder]:
    """Return a recorder and its finder."""
    finder = Finder(rig)
    return rig.engine.Recorder(rig.core, finder), finder


@pytest.mark.parametrize("tags", [None, {}, {"one": "a"}, {"two": "b", "one": "a"}], ids=repr)
@pytest.mark.parametrize(
    ("method", "kind", "arguments", "expected"),
    [
        ("record_counter", "counter", (2,), 6),
        ("record_gauge", "gauge", (2,), 2),
        ("record_histogram", "histogram", (2,), 2),
        ("record_timer", "timer", (2.0,), 2.0),
        ("record_timer", "timer", (2.0, MetricUnit.SECONDS), 2_000.0),
    ],
)
def test_a_recorder_calls_its_finder_once(rig, method, kind, arguments, expected, tags):
    """The finder is called for an unknown series, and not for later records of it."""
    recorder, finder = recorder_of(rig)
    for _ in range(3):
        getattr(recorder, method)("name", *arguments, tags=tags)
    assert finder.asked == [(kind, "name", tags)]
    assert finder.asked[0][2] is tags
    state = finder.indexes[kind].get("name", tags).state()
    assert state.records == 3
    assert (state.last if kind == "gauge" else state.value if kind == "counter" else state.max) == expected


def test_arguments_of_a_recorder_have_names(rig):
    """All arguments can be passed by name; the value of a counter is 1 by default."""
    recorder, finder = recorder_of(rig)
    recorder.record_counter("c")
    recorder.record_counter(name="c", value=2, tags=None)
    recorder.record_counter("c", 3, None)
    recorder.record_gauge(name="g", value=4, tags={"one": "a"})
    recorder.record_gauge("g", 5, {"one": "a"})
    recorder.record_histogram(tags={}, value=6, name="h")
    recorder.record_timer(name="t", duration=7.0, unit=MetricUnit.MILLISECONDS, tags=None)
    recorder.record_timer("t", 8.0, MetricUnit.MILLISECONDS, {"one": "a"})
    recorder.increment(name="c", tags=None)
    recorder.decrement(name="g", tags={"one": "a"})
    assert finder.index("counter").get("c", None).state().value == 7
    assert finder.index("gauge").get("g", {"one": "a"}).state().last == 4
    assert finder.index("histogram").get("h", {}).state().sum == 6
    assert finder.index("timer").get("t", {"one": "a"}).state().sum == 8.0


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("record_counter", ()),
        ("record_counter", ("c", 1, None, None)),
        ("record_gauge", ("g",)),
        ("record_histogram", ()),
        ("record_timer", ("t",)),
        ("record_timer", ("t", 1.0, MetricUnit.SECONDS, None, None)),
        ("increment", ()),
        ("decrement", ("c", None, None)),
    ],
)
def test_wrong_numbers_of_arguments_are_errors(rig, method, arguments):
    """Too few or too many arguments are a `TypeError`, and so is an unknown one."""
    recorder, finder = recorder_of(rig)
    with pytest.raises(TypeError):
        getattr(recorder, method)(*arguments)
    with pytest.raises(TypeError):
        getattr(recorder, method)("name", unknown=1)
    assert finder.asked == []


def test_names_and_tags_are_checked_before_values(rig):
    """If both the name and the value are bad, the error is that of the name."""
    recorder, finder = recorder_of(rig)

    def unknown() -> None:
        raise LookupError

    finder.answer = unknown
    with pytest.raises(LookupError):
        recorder.record_counter("", "not a number")
    assert rig.metric.asked == []


def test_a_refused_series_is_not_recorded(rig):
    """If the finder counts bad input instead of raising, nothing is recorded."""
    recorder, finder = recorder_of(rig)
    finder.answer = lambda: None
    recorder.record_counter("", 1)
    recorder.record_gauge("", 1)
    recorder.record_histogram("", 1)
    recorder.record_timer("", 1.0)
    recorder.increment("")
    recorder.decrement("")
    assert (rig.core.records, len(finder.asked)) == (0, 6)


def test_a_recorder_checks_values_like_a_series(rig):
    """Number-like values are passed to the owner of the series."""
    recorder, _ = recorder_of(rig)
    for record_value in (recorder.record_counter, recorder.record_gauge, recorder.record_histogram):
        for _ in range(2):
            with pytest.raises(RejectedValue):
                record_value("name", math.nan)
    with pytest.raises(RejectedValue):
        recorder.record_timer("name", 1.0, MetricUnit.BYTES)
    recorder.record_gauge("name", True)
    recorder.record_counter("name", Decimal("0.5"))
    assert rig.core.records == 2


def test_a_recorder_finds_a_removed_series_again(rig):
    """After a removal the finder is called for another series."""
    recorder, finder = recorder_of(rig)
    tags = {"one": "a"}
    recorder.record_counter("name", 1, tags)
    series = finder.index("counter").get("name", tags)
    rig.remove(series)
    recorder.record_counter("name", 2, tags)
    assert len(finder.asked) == 2
    assert rig.metric.readmitted == []
    assert finder.index("counter").get("name", tags).state().value == 2


@pytest.mark.parametrize("tags", [{"one": 1}, {"one": None}, Colors(one="red")], ids=repr)
def test_odd_tags_always_go_to_the_finder(rig, tags):
    """Tags that are not plain strings are converted each time."""
    recorder, finder = recorder_of(rig)
    for _ in range(3):
        recorder.record_counter("name", 1, tags)
    assert len(finder.asked) == 3


def test_increments_find_counters_and_gauges(rig):
    """An increment changes the counter or gauge of that name; the finder creates new ones."""
    recorder, finder = recorder_of(rig)
    recorder.record_counter("counter", 5)
    recorder.record_gauge("gauge", 5)
    finder.asked.clear()
    recorder.increment("counter")
    recorder.increment("gauge")
    recorder.decrement("gauge")
    recorder.decrement("gauge")
    assert finder.asked == []
    recorder.increment("new", {"one": "a"})
    recorder.increment("new", {"one": "a"})
    recorder.decrement("other", {"one": "a"})
    recorder.decrement("other", {"one": "a"})
    assert finder.asked == [(1, "new", {"one": "a"}), (-1, "other", {"one": "a"})]
    assert finder.index("counter").get("counter", None).state().value == 6
    assert finder.index("gauge").get("gauge", None).state().last == 4
    assert finder.index("counter").get("new", {"one": "a"}).state().value == 2
    assert finder.index("gauge").get("other", {"one": "a"}).state().last == -2


def test_a_decrement_of_a_counter_is_left_to_the_finder(rig):
    """A counter never decreases: the finder raises the error."""
    recorder, finder = recorder_of(rig)
    recorder.record_counter("name", 5)

    def refuse() -> None:
        raise RejectedValue

    finder.answer = refuse
    with pytest.raises(RejectedValue):
        recorder.decrement("name")
    assert finder.asked[-1] == (-1, "name", None)
    assert finder.index("counter").get("name", None).state().value == 5


def test_a_recorder_may_be_subclassed(rig):
    """A subclass has attributes of its own, and its own constructor."""

    class Collector(rig.engine.Recorder):
        def __init__(self, core: Any, finder: Any, label: str) -> None:
            super().__init__(core, finder)
            self.label = label

        def record_counter(self, name: str, value: Any = 1, tags: Any = None) -> None:
            super().record_counter(f"{self.label}.{name}", value, tags)

    finder = Finder(rig)
    collector = Collector(rig.core, finder, "mine")
    collector.record_counter("name")
    assert finder.asked == [("counter", "mine.name", None)]
    assert collector.__dict__["label"] == "mine"


# -- running timers --------------------------------------------------------------------------------------


class TimerFinder:
    """The interface of a store that timers use."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.timings, self.outcomes = rig.engine.SeriesIndex(), rig.engine.SeriesIndex()
        self.asked: list[tuple[Any, ...]] = []
        self.abandoned = 0
        self.refuses = False

    def find_timing(self, operation: Any, tags: Any = None) -> Any:
        """Return the durations of an operation."""
        return self._found("timer", self.timings, operation, tags)

    def find_outcomes(self, operation: Any, tags: Any = None) -> Any:
        """Return the outcomes of an operation."""
        return self._found("outcome", self.outcomes, operation, tags)

    def count_abandoned(self) -> None:
        """Count an abandoned timer."""
        self.abandoned += 1

    def _found(self, kind: str, index: Any, operation: Any, tags: Any) -> Any:
        self.asked.append((kind, operation, tags))
        if self.refuses:
            return None
        series = self.rig.series(kind, **(tags or {}))
        index.learn(operation, series.tags, series)
        return series


class WallClock(ManualClock):
    """A manual clock whose monotonic reading is that of a rig."""

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self.rig = rig

    def monotonic_ns(self) -> int:
        """Return the time of the rig."""
        return self.rig.time_ns


def timers_of(rig: Rig, limit: int = 100) -> tuple[Any, TimerFinder]:
    """Return running timers and their finder."""
    finder = TimerFinder(rig)
    return rig.engine.RunningTimers(rig.core, finder.timings, finder, WallClock(rig), limit), finder


def test_a_timer_runs_from_start_to_stop(rig):
    """The duration between start and stop is recorded, and returned with all that was given."""
    timers, finder = timers_of(rig)
    metadata = {"id": 7}
    timer_id = timers.start_timer("checkout", metadata)
    metadata["id"] = 8
    rig.advance(0.25)
    result = timers.stop_timer(timer_id)
    assert isinstance(result, TimingResult)
    assert (result.operation_name, result.duration, result.unit) == (
        "checkout",
        250.0,
        MetricUnit.MILLISECONDS,
    )
    assert (result.success, result.metadata) == (True, {"id": 7})
    assert (result.end_time - result.start_time).total_seconds() == 0.25
    state = finder.timings.get("checkout", None).state()
    assert (state.records, state.sum, state.failures) == (1, 250.0, 0)
    assert finder.asked == [("timer", "checkout", None)]


def test_a_timer_may_fail(rig):
    """A timer that is stopped without success counts as a failure."""
    timers, finder = timers_of(rig)
    results = [
        timers.stop_timer(timers.start_timer("checkout"), False),
        timers.stop_timer(
            timer_id=timers.start_timer(operation_name="checkout", metadata=None), success=True
        ),
    ]
    assert [result.success for result in results] == [False, True]
    assert [result.metadata for result in results] == [{}, {}]
    state = finder.timings.get("checkout", None).state()
    assert (state.records, state.failures) == (2, 1)
    assert len(finder.asked) == 1


def test_timer_ids_are_unique_hexadecimal_texts(rig):
    """Ids have at least six lower-case hexadecimal digits, and none is repeated."""
    timers, _ = timers_of(rig, limit=10_000)
    ids = [timers.start_timer("checkout") for _ in range(5_000)]
    assert len(set(ids)) == 5_000
    assert all(len(timer_id) >= 6 and int(timer_id, 16) >= 0 for timer_id in ids)
    assert all(timer_id == timer_id.lower() for timer_id in ids)


@pytest.mark.parametrize("timer_id", ["000000", "", "nothing", None, 3, [], {}], ids=repr)
def test_an_unknown_timer_cannot_be_stopped(rig, timer_id):
    """An id that no running timer has is an error that quotes it."""
    timers, finder = timers_of(rig)
    with pytest.raises(UnknownTimerError) as caught:
        timers.stop_timer(timer_id)
    assert repr(timer_id) in str(caught.value)
    assert finder.asked == []


def test_a_timer_is_stopped_once(rig):
    """A stopped timer is no longer running."""
    timers, finder = timers_of(rig)
    timer_id = timers.start_timer("checkout")
    timers.stop_timer(timer_id)
    with pytest.raises(UnknownTimerError, match=timer_id):
        timers.stop_timer(timer_id)
    assert finder.timings.get("checkout", None).state().records == 1


def test_the_oldest_timers_are_abandoned(rig):
    """Beyond the limit the oldest timer is abandoned, and counted."""
    timers, finder = timers_of(rig, limit=3)
    ids = [timers.start_timer("checkout") for _ in range(5)]
    assert finder.abandoned == 2
    for timer_id in ids[:2]:
        with pytest.raises(UnknownTimerError, match="3"):
            timers.stop_timer(timer_id)
    for timer_id in ids[2:]:
        timers.stop_timer(timer_id)
    timers.start_timer("checkout")
    assert (finder.abandoned, finder.timings.get("checkout", None).state().records) == (2, 3)


def test_a_refused_operation_is_timed_without_a_record(rig):
    """If the finder counts a bad name instead of raising, the timer works and records nothing."""
    timers, finder = timers_of(rig)
    finder.refuses = True
    timer_id = timers.start_timer("")
    rig.advance(1)
    assert timers.stop_timer(timer_id).duration == 1_000.0
    assert rig.core.records == 0


def test_a_timer_of_a_removed_series_is_recorded(rig):
    """A timer that outlives its series is recorded into the replacement."""
    timers, finder = timers_of(rig)
    timer_id = timers.start_timer("checkout")
    series = finder.timings.get("checkout", None)
    rig.remove(series)
    timers.stop_timer(timer_id)
    assert rig.metric.readmitted == [series]
    assert series.state().records == 1


def test_running_timers_may_be_subclassed(rig):
    """A subclass has attributes of its own."""

    class Timer(rig.engine.RunningTimers):
        pass

    finder = TimerFinder(rig)
    timer = Timer(rig.core, finder.timings, finder, WallClock(rig), 10)
    timer.label = "mine"
    assert timer.stop_timer(timer.start_timer("checkout")).duration == 0.0


def test_results_are_complete_when_they_are_compared(rig):
    """A result whose fields were never read equals one with the same fields, and can be pickled."""
    timers, _ = timers_of(rig)
    timer_id = timers.start_timer("checkout", {"id": 7})
    rig.advance(0.5)
    result = timers.stop_timer(timer_id)
    assert pickle.loads(pickle.dumps(result)) == result


def test_a_clock_that_starts_timers_gives_up_the_oldest_timer(rig):
    """Timers that an injected clock starts are older than the timer that reads it."""
    timers, _ = timers_of(rig, limit=1)
    started = []
    clock, nested = rig.core_clock, [3]

    def start_others():
        if nested[0]:
            nested[0] -= 1
            started.append(timers.start_timer("checkout"))
        return clock()

    rig.core_clock = start_others
    last = timers.start_timer("checkout")
    rig.core_clock = clock
    assert timers.stop_timer(last) is not None
    for timer_id in started:
        with pytest.raises(UnknownTimerError):
            timers.stop_timer(timer_id)


# -- operations ------------------------------------------------------------------------------------------


def operations_of(rig: Rig) -> tuple[Any, TimerFinder]:
    """Return an operation recorder and its finder."""
    finder = TimerFinder(rig)
    return rig.engine.OperationRecorder(rig.core, finder.timings, finder.outcomes, finder), finder


@pytest.mark.parametrize("tags", [None, {}, {"one": "a", "two": "b"}], ids=repr)
def test_an_operation_has_a_duration_and_an_outcome(rig, tags):
    """Both halves of an operation are recorded, found by name and tags like other series."""
    operations, finder = operations_of(rig)
    operations.record("checkout", tags, 250_000_000, None)
    operations.record("checkout", tags, 500_000, "ValueError")
    assert finder.asked == [("timer", "checkout", tags), ("outcome", "checkout", tags)]
    timing = finder.timings.get("checkout", tags).state()
    assert (timing.records, timing.min, timing.max, timing.failures) == (2, 0.5, 250.0, 1)
    outcomes = finder.outcomes.get("checkout", tags).state()
    assert dict(outcomes.endings) == {None: 1, "ValueError": 1}
    assert rig.core.records == 4


def test_both_halves_of_an_operation_are_recorded_together(rig):
    """A log has the halves of each operation beside each other, with the same time."""
    operations, _ = operations_of(rig)
    log = rig.core.subscribe(100)
    for number in range(4):
        operations.record("checkout", None, number, None)
        rig.advance(0.7)
    records = log.drain()[1]
    kinds = [type(logged[0]).__name__ for logged in records]
    assert kinds == ["TimerSeries", "OutcomeSeries"] * 4
    assert [one[4] for one in records[::2]] == [other[4] for other in records[1::2]]


def test_operations_close_both_slots(rig):
    """The slots of durations and of outcomes are published by the operation that closes them."""
    operations, _ = operations_of(rig)
    operations.record("checkout", None, 1, None)
    rig.advance(1)
    operations.record("checkout", None, 1, None)
    assert sorted(slot.kind for slot in rig.published) == ["distribution", "outcome"]


def test_error_types_of_operations_are_admitted(rig):
    """The owner admits a new error type, or returns another one to count."""
    operations, finder = operations_of(rig)
    for error_type in ("a", "b", "c", "d", None):
        operations.record("checkout", None, 1, error_type)
    assert finder.outcomes.get("checkout", None).state().failures == {"a": 1, "b": 1, "c": 1, "other": 1}
    assert finder.timings.get("checkout", None).state().failures == 4


def test_an_operation_that_is_interrupted_before_its_error_type_is_admitted_is_not_torn(rig, monkeypatch):
    """An exception in the middle of an operation leaves both halves out, or records both."""
    operations, finder = operations_of(rig)
    operations.record("checkout", None, 1, None)

    def interrupt(error_type):
        raise KeyboardInterrupt

    monkeypatch.setattr(rig.metric, "error_type", interrupt)
    with pytest.raises(KeyboardInterrupt):
        operations.record("checkout", None, 1, "ValueError")
    timing, outcome = finder.timings.get("checkout").state(), finder.outcomes.get("checkout").state()
    assert timing.records == outcome.records


@pytest.mark.parametrize("error_type", ["new", "known"])
@pytest.mark.parametrize("read", range(4))
def test_an_operation_whose_series_is_removed_while_it_is_recorded_counts_both_halves(rig, read, error_type):
    """A clock that removes the outcomes tears no operation, whichever of its readings does so."""
    operations, finder = operations_of(rig)
    operations.record("checkout", None, 1, "known")
    clock, left, removed = rig.core_clock, [read], []

    def remove_outcomes():
        left[0] -= 1
        if left[0] == -1:
            removed.append(rig.remove(finder.outcomes.get("checkout")))
        return clock()

    rig.core_clock = remove_outcomes
    operations.record("checkout", None, 1, error_type)
    rig.core_clock = clock
    live = finder.outcomes.get("checkout")
    states = [*removed, live and live.state()]
    assert sum(state.records for state in states if state is not None) == 2
    assert finder.timings.get("checkout").state().records == 2


def test_a_refused_operation_leaves_no_record(rig):
    """If the finder counts bad input instead of raising, nothing is recorded."""
    operations, finder = operations_of(rig)
    finder.refuses = True
    operations.record("", None, 1, None)
    assert rig.core.records == 0
    assert len(finder.asked) == 2


def test_operations_of_null_series_leave_no_record(rig):
    """A denied operation is recorded into null series."""
    operations, finder = operations_of(rig)
    finder.timings.learn("denied", {}, rig.engine.TimerSeries.null(rig.core, rig.metric))
    finder.outcomes.learn("denied", {}, rig.engine.OutcomeSeries.null(rig.core, rig.metric))
    operations.record("denied", None, 1, "ValueError")
    operations.record("denied", {}, 1, None)
    assert (rig.core.records, finder.asked) == (0, [])


def test_operations_of_removed_series_are_readmitted(rig):
    """An operation whose series were removed calls the finder again."""
    operations, finder = operations_of(rig)
    operations.record("checkout", None, 1, None)
    rig.remove(finder.timings.get("checkout", None))
    rig.remove(finder.outcomes.get("checkout", None))
    operations.record("checkout", None, 2_000_000, None)
    assert len(finder.asked) == 4
    assert finder.timings.get("checkout", None).state().sum == 2.0
    assert finder.outcomes.get("checkout", None).state().successes == 1


# -- internal counters -----------------------------------------------------------------------------------


def test_an_internal_counter_counts(engine):
    """It counts from zero, by ones or more, and can be reset."""
    counter = engine.InternalCounter()
    assert counter.value == 0
    counter.add()
    counter.add(5)
    counter.add(2)
    assert exactly(counter.value) == (int, 8)
    counter.reset()
    assert counter.value == 0
    counter.add()
    assert counter.value == 1


# -- re-entrancy -----------------------------------------------------------------------------------------


def test_a_clock_may_record(engine):
    """A clock that records in the middle of a record is counted once, as is the record."""
    rig = Rig(engine)
    is_active = True

    def now() -> int:
        nonlocal is_active
        if is_active:
            is_active = False
            counter.add(100)
            is_active = True
            rig.advance(0.3)
        return rig.time_ns

    core = engine.Core(now)
    slot = engine.Slot(core, "counter", lambda slot: None)
    tag_set = engine.TagSet(rig.metric, ())
    counter = engine.CounterSeries(tag_set, (), slot)
    tag_set.add(counter)
    for _ in range(1_000):
        counter.add(1)
    is_active = False
    assert (counter.state().value, core.records) == (101_000, 2_000)
    _, closed, opened = slot.peek()
    assert sum(aggregate.value for _, aggregate in (*closed, opened)) == 101_000


def test_a_clock_may_raise(engine):
    """A clock that raises leaves no record, and the next one works."""
    rig = Rig(engine)
    rig.core = engine.Core(lambda: next(times))
    rig.slots["counter"] = engine.Slot(rig.core, "counter")
    counter = rig.series("counter")
    times = iter([START])
    counter.add(1)
    with pytest.raises(StopIteration):
        counter.add(1)
    times = iter([START])
    counter.add(1)
    times = iter([START] * 10)
    assert counter.state().value == 2


@pytest.mark.parametrize("answer", [1.5, None, "now"], ids=repr)
def test_a_clock_that_returns_other_types_does_not_break_the_core(engine, answer):
    """A bad reading raises in the record, or is recorded."""
    rig = Rig(engine)
    reading: Any = START
    rig.core = engine.Core(lambda: reading)
    rig.slots["counter"] = engine.Slot(rig.core, "counter")
    counter = rig.series("counter")
    counter.add(1)
    before = counter.state()
    assert before.value == 1
    if answer == 1.5:
        return  # the pure-Python engine accepts it
    reading = answer
    with pytest.raises(TypeError):
        counter.add(1)
    reading = START
    counter.add(1)
    assert counter.state().value in (2, 3)


def test_the_check_of_a_number_may_record(rig):
    """An owner that records while it checks a number is counted, also into the same series."""
    counter = rig.series("counter")
    number = rig.metric.number

    def recording(value: Any, signed: bool) -> Any:
        for _ in range(600):
            counter.add(1)
        return number(value, signed)

    rig.metric.number = recording
    counter.add(Decimal(100))
    assert counter.state().value == 700


def test_the_check_of_a_number_may_remove_the_series(rig):
    """A series that is removed while its value is checked is readmitted."""
    counter = rig.series("counter")
    counter.add(1)

    def removing(value: Any, signed: bool) -> Any:
        rig.remove(counter)
        return float(value)

    rig.metric.number = removing
    counter.add(Decimal(100))
    assert rig.metric.readmitted == [counter]
    assert counter.state().value == 100


def test_a_clock_may_remove_the_series(engine):
    """A series that is removed while the clock is read is readmitted."""
    rig = Rig(engine)
    actions: list[Callable[[], Any]] = []

    def now() -> int:
        while actions:
            actions.pop()()
        return START

    rig.core = engine.Core(now)
    rig.slots["counter"] = engine.Slot(rig.core, "counter")
    counter = rig.series("counter")
    counter.add(1)
    actions.append(lambda: rig.remove(counter))
    counter.add(5)
    assert rig.metric.readmitted == [counter]
    assert counter.state().value == 5


def test_a_readmission_may_record(rig):
    """An owner that records while it readmits a series is counted."""
    counter = rig.series("counter")
    rig.remove(counter)

    def successor(series: Any) -> Any:
        live = series.tag_set.add(series)
        series.add(10)
        return live

    rig.metric.successor = successor
    counter.add(1)
    assert counter.state().value == 11


def test_the_collector_may_record(rig):
    """Records from callbacks of the garbage collector are counted, beside all others."""
    many = [rig.series("counter", one=str(number)) for number in range(3)]
    histogram = rig.series("histogram")
    calls, kept = 0, []

    def callback(phase: str, info: Mapping[str, int]) -> None:
        nonlocal calls
        many[calls % 3].add(1)
        histogram.observe(1.0)
        calls += 1

    before = gc.get_threshold()
    gc.callbacks.append(callback)
    try:
        gc.set_threshold(10, 10, 10)
        for number in range(5_000):
            many[number % 3].add(1)
            histogram.observe(float(number))
            kept.append([number])  # the collector counts these
            if number % 500 == 0:
                rig.slots["counter"].peek()
                [series.state() for series in many]
    finally:
        gc.callbacks.remove(callback)
        gc.set_threshold(*before)
    assert sum(series.state().value for series in many) == 5_000 + calls
    assert histogram.state().count == 5_000 + calls
    assert calls > 10


# -- threads ---------------------------------------------------------------------------------------------


def in_threads(number: int, work: Callable[[int], None]) -> None:
    """Run ``work`` in several threads at the same time."""
    with switching(1e-5):
        together(*[partial(work, each) for each in range(number)])


def test_threads_lose_nothing(rig):
    """Records, reads and closing slots of many threads: totals are exact everywhere."""
    rounds, published = 2_000, []

    def publish(slot: Any) -> None:
        while True:
            windows, closed, _ = slot.peek()
            if not closed or slot.commit(windows, (windows, closed), len(closed)):
                return

    slot = rig.engine.Slot(rig.core, "counter", publish)
    counters = [rig.series("counter", slot, one=str(number)) for number in range(3)]
    gauge, histogram = rig.series("gauge"), rig.series("histogram")
    rig.slots["histogram"].count_by((0.5,), seed=True)
    log = rig.core.subscribe(1_000_000)

    def work(each: int) -> None:
        for number in range(rounds):
            counters[(number + each) % 3].add(1)
            gauge.increment()
            histogram.observe(number % 2)
            if each == 0:
                rig.advance(0.01)
            if number % 100 == each:
                state = histogram.state()
                assert state.sum * 2 <= state.count + 8
                published.extend(log.drain()[1])

    in_threads(4, work)
    published.extend(log.drain()[1])
    expected = 4 * rounds
    assert sum(series.state().value for series in counters) == expected
    assert (gauge.state().last, gauge.state().records) == (expected, expected)
    distribution, counts, total = histogram.counted()
    assert (distribution.count, counts, total) == (expected, (expected // 2, expected // 2), expected // 2)
    assert rig.core.records == 3 * expected == len(published)
    windows, closed, opened = slot.peek()
    in_slots = sum(aggregate.value for _, aggregate in (*closed, opened))
    while windows is not None:
        windows, closed = windows
        in_slots += sum(aggregate.value for _, aggregate in closed)
    assert in_slots == expected


def test_threads_that_remove_series_lose_nothing(rig):
    """The aggregates that removals returned and the later records add up to all records."""
    counter = rig.series("counter", one="a")
    removed: list[Any] = []
    rounds = 3_000

    def work(each: int) -> None:
        for number in range(rounds):
            if each == 0:
                aggregate = rig.remove(counter)
                if aggregate is not None:
                    removed.append(aggregate.value)
            else:
                counter.add(1)
            if number % 500 == 0:
                counter.state()

    in_threads(3, work)
    last = counter.state()
    assert sum(removed) + (0 if last is None else last.value) == 2 * rounds
    assert rig.core.records == 2 * rounds


def test_threads_count_internally(engine):
    """An internal counter is exact under threads."""
    counter = engine.InternalCounter()
    in_threads(4, lambda _: [counter.add() for _ in range(5_000)] and None)
    assert counter.value == 20_000


def test_values_are_read_in_one_step(rig):
    """If one of two counters is always ahead, no read sees the other ahead."""
    first, second = rig.series("counter", one="a"), rig.series("counter", one="b")
    done = threading.Event()

    def work(each: int) -> None:
        if each == 0:
            for _ in range(10_000):
                first.add(1)
                second.add(1)
            done.set()
            return
        while not done.is_set():
            one, other = rig.engine.read_values([first, second])
            assert 0 <= one - other <= 1

    in_threads(2, work)
    assert rig.engine.read_values([first, second]) == (10_000, 10_000)
