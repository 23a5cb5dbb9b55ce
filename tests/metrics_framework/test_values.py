"""Values of the contracts: types, units and conversions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.errors import InvalidInputError
from metrics_framework.values import MetricType, MetricUnit, TimingResult, pending_timing, to_milliseconds

TIME_UNITS = {MetricUnit.SECONDS: 1e3, MetricUnit.MILLISECONDS: 1.0, MetricUnit.MICROSECONDS: 1e-3}


def test_metric_types_are_those_of_the_contract():
    """The five types and their texts are frozen: files and protocols contain them."""
    assert {member.name: member.value for member in MetricType} == {
        "COUNTER": "counter",
        "GAUGE": "gauge",
        "HISTOGRAM": "histogram",
        "TIMER": "timer",
        "RATE": "rate",
    }


def test_metric_units_are_those_of_the_contract():
    """The nine units and their texts are frozen."""
    assert {member.name: member.value for member in MetricUnit} == {
        "SECONDS": "seconds",
        "MILLISECONDS": "milliseconds",
        "MICROSECONDS": "microseconds",
        "BYTES": "bytes",
        "KILOBYTES": "kilobytes",
        "MEGABYTES": "megabytes",
        "COUNT": "count",
        "PERCENT": "percent",
        "OPERATIONS_PER_SECOND": "ops/sec",
    }


@given(st.floats(min_value=0, max_value=1e300), st.sampled_from(sorted(TIME_UNITS, key=str)))
def test_durations_convert_to_milliseconds(duration, unit):
    """A second is 1 000 milliseconds, a microsecond 0.001."""
    assert to_milliseconds(duration, unit) == duration * TIME_UNITS[unit]


@pytest.mark.parametrize(
    "unit", [*(unit for unit in MetricUnit if unit not in TIME_UNITS), "seconds", None, []]
)
def test_a_unit_other_than_time_is_rejected(unit):
    """The error quotes the unit and lists the allowed ones."""
    with pytest.raises(InvalidInputError) as caught:
        to_milliseconds(1.0, unit)
    assert repr(unit) in str(caught.value)
    for allowed in TIME_UNITS:
        assert f"MetricUnit.{allowed.name}" in str(caught.value)


# -- timings ---------------------------------------------------------------------------------------------


class StandingClock:
    """A clock that never moves."""

    def __init__(self, monotonic_ns: int, time_ns: int) -> None:
        self.readings = (monotonic_ns, time_ns)

    def monotonic_ns(self) -> int:
        """Return the first."""
        return self.readings[0]

    def time_ns(self) -> int:
        """Return the second."""
        return self.readings[1]


def fresh_timing(end_ns: int, milliseconds: float, asked_later_ns: int = 0) -> TimingResult:
    """Return a result as a timer creates it, which is read some time after the end."""
    stop_ns = 10**18 + round(milliseconds * 1e6)
    clock = StandingClock(stop_ns + asked_later_ns, end_ns + asked_later_ns)
    return pending_timing(("operation", None, 10**18, stop_ns, True, clock))


@given(
    st.integers(0, 4 * 10**18),
    st.integers(0, 10**15).map(lambda ns: ns / 1e6),
    st.sampled_from([False, True]),
    st.integers(0, 10**17),
)
def test_a_fresh_timing_computes_its_datetimes_on_access(end_ns, milliseconds, begin_first, later):
    """The end is when the timer stopped, to a microsecond, the start the duration before it, both in UTC."""
    result = fresh_timing(end_ns, milliseconds, later)
    start, end = (result.start_time, result.end_time) if begin_first else (result.end_time, result.start_time)
    if not begin_first:
        start, end = end, start
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert abs((end - epoch) / timedelta(microseconds=1) - end_ns / 1_000) <= 1.5
    assert end - start == timedelta(milliseconds=milliseconds)
    assert start.tzinfo is end.tzinfo is UTC
    assert result == TimingResult("operation", milliseconds, MetricUnit.MILLISECONDS, start, end, True, {})


def test_a_timing_has_no_other_attributes():
    """A misspelled attribute raises an AttributeError that names it, in a fresh and a plain result."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    plain = TimingResult("operation", 1.0, MetricUnit.MILLISECONDS, now, now, True, {})
    for result in (fresh_timing(10**18, 1.0), plain):
        with pytest.raises(AttributeError, match="'TimingResult' object has no attribute 'started'"):
            result.started  # noqa: B018
    del plain.start_time
    with pytest.raises(AttributeError, match="start_time"):
        plain.start_time  # noqa: B018


def test_a_timing_is_constructed_with_all_of_its_values():
    """The constructor requires every value, by position or name."""
    with pytest.raises(TypeError, match="end_time"):
        TimingResult("operation", 1.0, MetricUnit.MILLISECONDS, datetime(2026, 1, 1, tzinfo=UTC))


def test_a_time_that_was_assigned_stays():
    """An assigned start or end is kept, whichever field is read first."""
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    started, ended = fresh_timing(10**18, 1_000.0), fresh_timing(10**18, 1_000.0)
    end, start = fresh_timing(10**18, 1_000.0).end_time, fresh_timing(10**18, 1_000.0).start_time
    started.start_time = noon
    assert (started.end_time, started.start_time) == (end, noon)
    ended.end_time = noon
    assert (ended.start_time, ended.end_time) == (start, noon)
