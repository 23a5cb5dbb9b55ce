"""Bound instruments: series that an application holds."""

from __future__ import annotations

import contextlib
import decimal
import fractions
import sys
from datetime import timedelta

import pytest

from metrics_adapters.in_memory import InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework.errors import InvalidInputError, MetricTypeError, UnknownMetricError
from metrics_framework.recording import Budgets, Store
from metrics_framework.values import MetricUnit

MAX = sys.float_info.max
SMALL = 2**30 - 1
MAX_INTEGER = 2**63 - 1
"""Larger integers are recorded as floats."""

KINDS = ["counter", "gauge", "histogram", "timer"]
METHODS = {"counter": "add", "gauge": "set", "histogram": "observe", "timer": "observe"}
every_kind = pytest.mark.parametrize("kind", KINDS)
TAGS = {"a": "1", "b": "2"}


@pytest.fixture
def collector(clock) -> InMemoryCollector:
    """Return a collector on its own store."""
    return InMemoryCollector(Store(clock))


def bind(collector, kind, tags=None):
    """Return the bound method that records."""
    return getattr(getattr(collector, kind)("name", tags), METHODS[kind])


def total(collector) -> float:
    """Return the number of records of all series, after a check that the name as a whole has them."""
    count = sum(each.summary["count"] for each in collector.store.readings())
    assert collector.store.summary("name")["count"] == count
    return count


@every_kind
def test_bound_and_by_name_are_one_series(collector, kind):
    """Records by name and tags, in any order of tags, are in the series of the bound instrument."""
    record = bind(collector, kind, TAGS)
    for number in range(20):
        record(number)
        getattr(collector, f"record_{kind}")("name", number, tags=dict(reversed(TAGS.items())))
    (reading,) = collector.store.readings()
    assert (reading.tags, reading.summary["count"]) == (TAGS, 40)
    again = getattr(collector, kind)("name", dict(reversed(TAGS.items())))
    assert getattr(again, METHODS[kind]) == record
    assert again.tags == TAGS


@every_kind
def test_binding_makes_the_name_known(collector, kind):
    """A bound name is known and has its type, but shows no series before the first record."""
    bind(collector, kind)
    assert collector.store.summary("name")["count"] == 0
    assert collector.store.readings() == []
    other = "gauge" if kind != "gauge" else "counter"
    with pytest.raises(MetricTypeError):
        getattr(collector, other)("name")
    with pytest.raises(MetricTypeError):
        getattr(collector, f"record_{other}")("name", 1)


@every_kind
@pytest.mark.parametrize("value", [0, 1, 0.0, 0.5, SMALL, SMALL + 1, 2**53, 10**300, MAX / 4, 5e-324])
def test_every_finite_number_is_accepted(collector, kind, value):
    """Numbers of every size are recorded, on the fast path and the slow one."""
    record = bind(collector, kind)
    for _ in range(3):
        record(value)
    (reading,) = collector.store.readings()
    assert reading.summary["count"] == 3
    if kind == "counter":
        assert reading.summary["sum"] == pytest.approx(3 * value, rel=1e-15)
    else:
        is_float = kind == "timer" or value > MAX_INTEGER
        assert reading.summary["max"] == reading.summary["min"] == (float(value) if is_float else value)


@pytest.mark.parametrize("kind", ["gauge", "histogram"])
@pytest.mark.parametrize("value", [-1, -0.5, -SMALL, -SMALL - 1, -MAX, -(10**300)])
def test_negative_numbers_are_accepted(collector, kind, value):
    """A gauge and a histogram accept both signs."""
    bind(collector, kind)(value)
    assert collector.store.summary("name")["min"] == (value if value >= -MAX_INTEGER else float(value))


@every_kind
@pytest.mark.parametrize("value", [decimal.Decimal("0.5"), fractions.Fraction(1, 2)], ids=repr)
def test_number_like_values_are_accepted(collector, kind, value):
    """Decimals and fractions are converted."""
    bind(collector, kind)(value)
    (reading,) = collector.store.readings()
    assert reading.summary["sum" if kind == "counter" else "max"] == 0.5


@every_kind
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None, 10**400, [], 1j], ids=repr)
def test_bad_numbers_change_nothing(collector, kind, value):
    """A value that is not a finite number raises and does not affect other records."""
    record = bind(collector, kind)
    record(1)
    with pytest.raises(InvalidInputError, match="'name' cannot record"):
        record(value)
    assert total(collector) == 1
    record(2)
    assert total(collector) == 2


@pytest.mark.parametrize("move", ["increment", "decrement"])
@pytest.mark.parametrize("step", [float("nan"), float("inf"), "1", None], ids=repr)
def test_bad_steps_change_nothing(collector, move, step):
    """A step that is not a finite number raises and does not move the gauge."""
    gauge = collector.gauge("name")
    gauge.set(5)
    with pytest.raises(InvalidInputError):
        getattr(gauge, move)(step)
    summary = collector.store.summary("name")
    assert (summary["last"], summary["count"]) == (5, 1)


@pytest.mark.parametrize("kind", ["counter", "timer"])
def test_counters_and_timers_reject_negative_numbers(collector, kind):
    """The error quotes the number."""
    with pytest.raises(InvalidInputError, match="cannot be negative"):
        bind(collector, kind)(-1)
    assert collector.store.readings() == []


def test_a_default_counts_one(collector):
    """``add``, ``increment`` and ``decrement`` change the value by 1 by default."""
    collector.counter("counter").add()
    collector.gauge("gauge").increment()
    collector.gauge("gauge").increment()
    collector.gauge("gauge").decrement()
    assert collector.store.summary("counter")["total"] == 1
    assert collector.store.summary("gauge")["last"] == 1


@pytest.mark.parametrize(
    ("unit", "factor"),
    [(MetricUnit.SECONDS, 1e3), (MetricUnit.MILLISECONDS, 1.0), (MetricUnit.MICROSECONDS, 1e-3)],
)
def test_a_bound_timer_converts(collector, unit, factor):
    """Durations in every unit are stored in milliseconds."""
    timer = collector.timer("name")
    for duration in (3, 3.0):
        timer.observe(duration, unit)
    summary = collector.store.summary("name")
    assert summary["min"] == summary["max"] == pytest.approx(3 * factor)


def test_a_timer_rejects_other_units_and_endless_durations(collector):
    """A unit other than time, or a duration that overflows in milliseconds, raises."""
    timer = collector.timer("name")
    for duration, unit in ((1, MetricUnit.BYTES), (1e307, MetricUnit.SECONDS)):
        with pytest.raises(InvalidInputError):
            timer.observe(duration, unit)
    assert collector.store.readings() == []


def test_a_block_is_timed(clock, collector):
    """``with timer.time()`` records the duration of its block, also if it raises or is nested."""
    timer = collector.timer("name")
    with timer.time():
        clock.advance(0.25)
    with contextlib.suppress(KeyError), timer.time():
        clock.advance(0.5)
        raise KeyError
    with timer.time():
        clock.advance(1)
        with timer.time():
            clock.advance(2)
    summary = collector.store.summary("name")
    assert (summary["count"], summary["sum"], summary["min"], summary["max"]) == (4, 5_750.0, 250.0, 3_000.0)


def test_a_duration_belongs_to_the_slot_in_which_it_ended(clock, collector):
    """A block that spans the end of a second is in the window of its end."""
    timer = collector.timer("name")
    clock.advance(0.9)
    with timer.time():
        clock.advance(0.2)
    clock.advance(0.9)
    assert collector.store.summary("name", timedelta(seconds=1))["count"] == 1


def test_operations_are_timed_across_edges(clock):
    """The duration of an operation is in the slot of its end, and in the total."""
    timer = InMemoryTimer(Store(clock))
    for _ in range(10):
        timer.time_operation("operation", lambda: clock.advance(0.3))
    stats = timer.store.timing_summary("operation")
    assert (stats["count"], stats["min"], stats["max"]) == (10, 300.0, 300.0)
    assert timer.store.timing_summary("operation", timedelta(seconds=1))["count"] == 4


@every_kind
def test_a_removed_series_comes_back_with_its_instrument(collector, kind):
    """The next record of a bound instrument starts a new series; the total of the name continues."""
    record = bind(collector, kind, TAGS)
    record(1)
    record(2)
    assert collector.remove("name", TAGS)
    assert collector.store.readings() == []
    assert collector.store.summary("name")["count"] == 2
    record(3)
    getattr(collector, f"record_{kind}")("name", 3, tags=TAGS)
    (reading,) = collector.store.readings()
    assert (reading.tags, reading.summary["count"]) == (TAGS, 2)
    assert collector.store.summary("name")["count"] == 4


@every_kind
def test_a_removed_name_comes_back_with_its_instrument(collector, kind):
    """The next record of a bound instrument restores the name, starting from zero."""
    record = bind(collector, kind, TAGS)
    record(1)
    assert collector.remove("name")
    with pytest.raises(UnknownMetricError):
        collector.store.summary("name")
    record(2)
    record(3)
    (reading,) = collector.store.readings()
    assert (reading.tags, reading.summary["count"]) == (TAGS, 2)
    assert collector.store.summary("name")["count"] == 2


@every_kind
def test_an_expired_series_comes_back_with_its_instrument(clock, kind):
    """The next record restores an expired series, and no total decreases."""
    collector = InMemoryCollector(Store(clock, expire_after=timedelta(seconds=10)))
    record = bind(collector, kind, TAGS)
    record(1)
    clock.advance(20)
    assert collector.store.readings() == []
    assert collector.store.summary("name")["count"] == 1
    record(2)
    (reading,) = collector.store.readings()
    assert reading.summary["count"] == 1
    assert collector.store.summary("name")["count"] == 2


def test_outcomes_by_error_type(clock):
    """Failures are counted by type within the budget, others together; the rate includes all."""
    tracker = InMemoryTracker(Store(clock, budgets=Budgets(error_types=2)))
    for _ in range(6):
        tracker.record_success("operation")
    for error in ("timeout", "refused", "broken", "lost", "timeout"):
        tracker.record_failure("operation", error)
    outcomes = tracker.store.outcomes("operation")
    assert outcomes.failures == {"timeout": 2, "refused": 1, "__other__": 2}
    assert (outcomes.successes, outcomes.success_rate) == (6, 6 / 11)
    assert tracker.store.overflowed == 2


def test_integers_stay_exact(collector):
    """A counter of integers is exact within 64 bits, also beyond the precision of a float."""
    counter = collector.counter("name")
    for _ in range(1_000):
        counter.add(2**53 + 1)
    assert collector.store.summary("name")["total"] == 1_000 * (2**53 + 1)


def test_floats_lose_nothing(collector):
    """The error of a sum of floats is one rounding, however it was flushed."""
    counter = collector.counter("name")
    for number in range(10_000):
        counter.add(0.1)
        if number % 7 == 0:
            collector.store.summary("name")
    assert collector.store.summary("name")["total"] == pytest.approx(1_000, rel=1e-15)
