"""What other processes recorded into a series is part of every read of it, and of nothing else."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from tests.metrics_framework.recording.debug_core import Owner, new_series

S = 1_000_000_000


class Home:
    """A core with a clock that the test sets, and series of each kind."""

    def __init__(self, engine: ModuleType) -> None:
        self.now = 10 * S
        self.engine: Any = engine
        self.core = self.engine.Core(lambda: self.now)

    def series(self, kind: str) -> Any:
        """Return a new live series without tags."""
        return new_series(self.engine, self.core, kind)

    def elsewhere(self, kind: str, *values: Any, at: int = 5 * S) -> Any:
        """Return what another process would report after some records."""
        other = Home(self.engine)
        other.now = at
        series = other.series(kind)
        for value in values:
            record(series, value)
        counts = series.counted() if kind in ("Histogram", "Timer") else None
        total = 0 if counts is None else counts[2]
        return series.state(), None, total, series.created_ns, series.last_ns


@pytest.fixture(autouse=True)
def with_others(engine: ModuleType) -> None:
    """Skip an engine that cannot read other processes yet."""
    if not hasattr(engine.Series, "set_others"):
        pytest.skip("this engine reads its own process only")


@pytest.fixture
def home(engine: ModuleType) -> Home:
    """Return an empty core."""
    return Home(engine)


def record(series: Any, value: Any) -> None:
    """Record into a series of any kind."""
    for name in ("add", "set", "elapse", "observe", "finish"):
        if hasattr(series, name):
            getattr(series, name)(value)
            return


KINDS = {
    "Counter": ((3, 0.5), (4,)),
    "Gauge": ((7,), (9.5,)),
    "Histogram": ((1, 2, 3), (10, 20.5)),
    "Timer": ((1.5,), (2.5, 3.5)),
    "Outcome": ((None, "timeout"), ("refused", "timeout", None)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_read_is_the_own_aggregate_merged_with_that_of_others(home: Home, kind: str) -> None:
    """`state` has both, `own_state` only the own records, and without others both are the same."""
    own, others = KINDS[kind]
    series = home.series(kind)
    for value in own:
        record(series, value)
    assert series.state() == series.own_state()
    given = home.elsewhere(kind, *others)
    before = series.own_state()
    series.set_others(given)
    merged = before.combine(given[0], "latest") if kind == "Gauge" else before.merge(given[0])
    assert series.state() == merged
    assert series.own_state() == before
    series.set_others(None)
    assert series.state() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_series_that_only_others_recorded_has_their_state_and_times(home: Home, kind: str) -> None:
    """It reads like a recorded one; its own state stays None."""
    series = home.series(kind)
    given = home.elsewhere(kind, *KINDS[kind][1])
    series.set_others(given)
    assert series.state() == given[0]
    assert series.own_state() is None
    assert (series.created_ns, series.last_ns) == given[3:]


def test_times_are_the_first_creation_and_the_last_record_of_all(home: Home) -> None:
    """A missing time, 0, does not count as the first."""
    series = home.series("Counter")
    series.add(1)
    series.set_others((home.engine.CounterAggregate(1, 1), None, 0, 3 * S, 4 * S))
    assert (series.created_ns, series.last_ns) == (3 * S, 10 * S)
    series.set_others((home.engine.CounterAggregate(1, 1), None, 0, 12 * S, 14 * S))
    assert (series.created_ns, series.last_ns) == (10 * S, 14 * S)
    series.set_others((home.engine.CounterAggregate(), None, 0, 0, 0))
    assert (series.created_ns, series.last_ns) == (10 * S, 10 * S)


def test_versions_change_with_each_call_and_only_then(home: Home) -> None:
    """Readers that compare versions see every change of the others' records."""
    series = home.series("Counter")
    versions = home.engine.read_versions
    first = versions([series])
    assert versions([series]) == first
    series.set_others(home.elsewhere("Counter", 1))
    second = versions([series])
    assert second != first
    assert versions([series]) == second
    series.set_others(None)
    assert versions([series]) not in (first, second)


def test_values_are_those_of_the_states(home: Home) -> None:
    """`read_values` adds counters and combines gauges by their law."""
    counter, gauge, idle = home.series("Counter"), home.series("Gauge"), home.series("Gauge")
    counter.add(2)
    counter.set_others(home.elsewhere("Counter", 40, 0.5))
    gauge.increment(2)
    gauge.set_others(home.elsewhere("Gauge", 5))
    idle.set_others(home.elsewhere("Gauge", 8))
    assert home.engine.read_values([counter, gauge, idle]) == (42.5, 7, 8)
    assert (counter.state().value, gauge.state().last, idle.state().last) == (42.5, 7, 8)


@pytest.mark.parametrize(
    ("law", "stepped", "expected"),
    [
        (None, False, 7),
        (None, True, 12),
        ("latest", True, 7),
        ("sum", False, 12),
        ("min", False, 5),
        ("max", False, 7),
    ],
)
def test_a_gauge_is_combined_by_its_law(home: Home, law: str | None, stepped: bool, expected: int) -> None:
    """A law that was set wins; otherwise a stepped gauge is summed, and the later record wins."""
    gauge = home.series("Gauge")
    if law is not None:
        gauge.slot.law = law
    (gauge.increment if stepped else gauge.set)(7)
    gauge.set_others(home.elsewhere("Gauge", 5))
    assert gauge.state().last == expected
    assert gauge.is_stepped is stepped
    gauge.set_others(home.elsewhere("Gauge", 5, at=20 * S))
    assert gauge.state().last == (5 if expected == 7 and law in (None, "latest") else expected)


def test_counts_by_bounds_add_up_if_they_are_of_the_same_bounds(home: Home) -> None:
    """Counts of other bounds are left out, with their sum."""
    histogram = home.series("Histogram")
    histogram.slot.count_by((1.0, 10.0), seed=True)
    for value in (0.5, 5, 50):
        histogram.observe(value)
    others = home.engine.Distribution.of([2, 3, 400])
    histogram.set_others((others, (0, 2, 1), 405, 1, 2))
    assert histogram.counted() == (histogram.state(), (1, 3, 2), 460.5)
    histogram.set_others((others, (0, 2, 1, 0), 405, 1, 2))
    assert histogram.counted() == (histogram.state(), (1, 1, 1), 55.5)
    histogram.slot.count_by((), seed=True)
    assert histogram.counted() == (histogram.state(), None, 460.5)


def test_counts_of_a_series_that_only_others_recorded(home: Home) -> None:
    """They are the others' counts, or zeros if those are of other bounds."""
    histogram = home.series("Histogram")
    histogram.slot.count_by((1.0,), seed=True)
    assert histogram.counted() is None
    others = home.engine.Distribution.of([2, 3])
    histogram.set_others((others, (0, 2), 5, 1, 2))
    assert histogram.counted() == (others, (0, 2), 5)
    histogram.set_others((others, None, 5, 1, 2))
    assert histogram.counted() == (others, (0, 0), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_series_returns_its_own_aggregate_and_forgets_the_others(home: Home, kind: str) -> None:
    """Exporters of increments get what this process recorded, and a later series begins at zero."""
    series = home.series(kind)
    record(series, KINDS[kind][0][0])
    own = series.own_state()
    series.set_others(home.elsewhere(kind, *KINDS[kind][1]))
    assert series.tag_set.remove(series) == own
    assert series.state() is None
    assert series.tag_set.add(series) is series
    assert series.state() is None
    series.set_others(home.elsewhere(kind, *KINDS[kind][1]))
    assert series.tag_set.remove(series) is None
    assert series.is_live is False


@pytest.mark.parametrize("kind", KINDS)
def test_an_own_reading_is_what_another_process_can_be_given(home: Home, kind: str) -> None:
    """Given to a series without records, it makes it read the same; it has nothing of others."""
    series, copy = home.series(kind), home.series(kind)
    assert series.own_reading() is None
    for value in KINDS[kind][0]:
        record(series, value)
    if kind in ("Histogram", "Timer"):
        for each in (series, copy):
            each.slot.count_by((2.0,), seed=True)
    reading = series.own_reading()
    copy.set_others(reading)
    assert copy.state() == series.state()
    assert (copy.created_ns, copy.last_ns) == (series.created_ns, series.last_ns)
    if kind in ("Histogram", "Timer"):
        assert copy.counted() == series.counted()
    series.set_others(home.elsewhere(kind, *KINDS[kind][1]))
    assert series.own_reading() == reading


def test_a_reset_forgets_the_others(home: Home) -> None:
    """A child process starts at zero."""
    series = home.series("Counter")
    series.set_others(home.elsewhere("Counter", 3))
    home.core.reset()
    assert series.state() is None
    assert (series.created_ns, series.last_ns) == (0, 0)


def test_own_records_are_counted_apart(home: Home) -> None:
    """The number of records, closed slots and recorded values are those of this process."""
    series = home.series("Counter")
    series.set_others(home.elsewhere("Counter", 3))
    assert home.core.records == 0
    assert series.slot.peek()[2] is None
    series.add(4)
    assert home.core.records == 1
    assert series.slot.peek()[2][1].value == 4


def test_a_null_series_keeps_nothing(home: Home) -> None:
    """Others cannot be set either."""
    null = home.engine.CounterSeries.null(home.core, Owner())
    null.set_others(home.elsewhere("Counter", 3))
    assert null.state() is None


@pytest.mark.parametrize(
    "others",
    [
        (),
        [1, None, 0, 0, 0],
        (1, None, 0, 0, 0),
        ("Gauge", None, 0, 0, 0),
        ("Counter", [1], 0, 0, 0),
        ("Counter", (1.5,), 0, 0, 0),
        ("Counter", None, "0", 0, 0),
        ("Counter", None, 0, 1.5, 0),
        ("Counter", None, 0, 0, None),
    ],
)
def test_other_fields_are_rejected(home: Home, others: Any) -> None:
    """A wrong type is an error, and the series keeps what it had."""
    series = home.series("Counter")
    series.set_others(home.elsewhere("Counter", 3))
    if isinstance(others, tuple) and others and isinstance(others[0], str):
        others = (getattr(home.engine, f"{others[0]}Aggregate")(), *others[1:])
    with pytest.raises(TypeError):
        series.set_others(others)
    assert series.state().value == 3


# -- gauges of two processes -----------------------------------------------------------------------------


def gauge(engine: Any, *values: tuple[int, int | float], stepped: bool = False) -> Any:
    """Return the aggregate of values at times in seconds."""
    parts = [engine.GaugeAggregate(1, v, v, v, v, t * S, t * S, 0.0, stepped) for t, v in values]
    aggregate = parts[0]
    for part in parts[1:]:
        aggregate = aggregate.merge(part)
    return aggregate


def average(aggregate: Any) -> float:
    """Return the time-weighted average up to the last record."""
    return float(aggregate.integral / (aggregate.last_ns - aggregate.first_ns))


def test_a_sum_adds_values_extremes_and_averages(engine: Any) -> None:
    """The time-weighted average of the sum is the sum of the averages."""
    a, b = gauge(engine, (0, 2), (5, 4), (10, 4)), gauge(engine, (0, 10), (10, 30))
    both = a.combine(b, "sum")
    assert (both.records, both.last, both.min, both.max) == (5, 34, 12, 34)
    assert (both.first, both.first_ns, both.last_ns) == (12, 0, 10 * S)
    assert average(both) == pytest.approx(3 + 10)


@pytest.mark.parametrize("law", ["sum", "latest"])
def test_a_gauge_that_begins_later_is_zero_before_in_a_sum(engine: Any, law: str) -> None:
    """A sum counts it as 0 until its first value, in either order; other laws do not."""
    a, b = gauge(engine, (0, 6), (10, 6)), gauge(engine, (5, -4), (10, -2))
    for both in (a.combine(b, law), b.combine(a, law)):
        assert (both.first, both.first_ns) == (6, 0)
        assert (both.min, both.max) == ((2, 6) if law == "sum" else (-4, 6))
        assert average(both) == pytest.approx((60 - 20) / 10 if law == "sum" else 1)


def test_the_latest_record_wins_and_the_average_is_that_of_the_records(engine: Any) -> None:
    """Three processes with as many records each have the mean of their averages, in any order."""
    a, b, c = (gauge(engine, (0, v), (10, v)) for v in (1, 2, 9))
    late = gauge(engine, (0, 9), (12, 9))
    assert a.combine(late, "latest").last == late.combine(a, "latest").last == 9
    for first, second, third in ((a, b, c), (c, a, b), (b, c, a)):
        assert average(first.combine(second, "latest").combine(third, "latest")) == pytest.approx(4)


def test_combined_extremes(engine: Any) -> None:
    """`min` and `max` choose the value; the extremes span both."""
    a, b = gauge(engine, (0, 5), (1, 3)), gauge(engine, (0, 1), (2, 4.5))
    for law, last in (("min", 3), ("max", 4.5), ("latest", 4.5)):
        both = a.combine(b, law)
        assert (both.last, both.min, both.max) == (last, 1, 5)


def test_nothing_combines_to_the_other_one(engine: Any) -> None:
    """An empty aggregate changes nothing."""
    a, nothing = gauge(engine, (0, 5)), engine.GaugeAggregate()
    assert a.combine(nothing, "sum") == nothing.combine(a, "sum") == a


def test_a_sum_stays_an_integer_within_64_bits_and_finite_beyond(engine: Any) -> None:
    """The value is an int as long as it fits, and never infinite."""
    big = 2**63 - 1
    assert gauge(engine, (0, big - 1)).combine(gauge(engine, (0, 1)), "sum").last == big
    over = gauge(engine, (0, big)).combine(gauge(engine, (0, 1)), "sum").last
    assert (over, type(over)) == (2.0**63, float)
    huge = gauge(engine, (0, 1.7e308))
    assert huge.combine(huge, "sum").last == 1.7976931348623157e308


def test_another_law_is_an_error(engine: Any) -> None:
    """The message states the choices."""
    one = gauge(engine, (0, 5))
    with pytest.raises(ValueError, match="law='avg' is not 'latest', 'sum', 'min' or 'max'"):
        one.combine(one, "avg")
