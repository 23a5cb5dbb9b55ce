"""Traces: what is kept of counters, gauges, distributions and outcomes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.recording.distribution import EMPTY, Distribution
from metrics_framework.recording.traces import (
    CounterTrace,
    GaugeTrace,
    OutcomeTrace,
    per_second,
    summarize_distribution,
)

SECOND = 1_000_000_000
LEVELS = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6)
STEPS = st.lists(st.tuples(st.integers(0, 3_600 * SECOND), LEVELS), max_size=12)


@dataclass
class Course:
    """The course of a gauge, as drawn: when it was set to what."""

    records: list[tuple[int, float]]
    end_ns: int

    @classmethod
    def of(cls, steps: list[tuple[int, float]], rest_ns: int) -> Course:
        """Turn pauses into moments, beginning at second 100."""
        now, records = 100 * SECOND, []
        for pause, level in steps:
            now += pause
            records.append((now, level))
        return cls(records, now + rest_ns)

    def trace(self, start: int = 0, stop: int | None = None) -> GaugeTrace:
        """Return the trace of a part of the course."""
        part = self.records[start:stop]
        if not part:
            return GaugeTrace()
        return GaugeTrace.of([level for _, level in part], [moment for moment, _ in part])

    def average(self, begin_ns: int, held: float | None) -> float | None:
        """Weigh each level by how long it held; `held` holds from the beginning to the first record."""
        stretches = [(begin_ns, held)] if held is not None else []
        stretches += self.records
        ends = [moment for moment, _ in stretches[1:]] + [self.end_ns]
        weighted = [
            (level, end - moment)
            for (moment, level), end in zip(stretches, ends, strict=True)
            if end > moment
        ]
        weight = sum(weight for _, weight in weighted)
        return math.fsum(level * share for level, share in weighted) / weight if weight else None


# -- counters --------------------------------------------------------------------------------------------


def test_a_counter_sums_its_additions():
    """Count, sum and rate are of the same records."""
    trace = CounterTrace.of([1, 2, 5])
    assert trace.summary(4.0) == {"count": 3, "seconds": 4.0, "sum": 8, "rate": 2.0}


def test_an_empty_counter_has_a_sum_of_zero():
    """Where nothing was added the sum and the rate are zero, and nothing else is said."""
    for trace in (CounterTrace(), CounterTrace.of([])):
        assert trace.summary(4.0) == {"count": 0, "seconds": 4.0, "sum": 0, "rate": 0.0}


@given(st.lists(st.integers(0, 10**20)), st.data())
def test_consecutive_counts_merge_into_one(values, data):
    """A counter's stretches merge into what one trace of all holds."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    merged = CounterTrace()
    for start, stop in zip([0, *cuts], [*cuts, len(values)], strict=True):
        merged = merged.merge(CounterTrace.of(values[start:stop]))
    assert merged.summary(10.0) == CounterTrace.of(values).summary(10.0)
    assert merged.summary(10.0)["sum"] == sum(values)


def test_merged_counters_stay_as_they_were():
    """Merging returns another trace."""
    one, other = CounterTrace.of([1]), CounterTrace.of([2])
    one.merge(other)
    assert (one, other) == (CounterTrace.of([1]), CounterTrace.of([2]))


def test_no_time_has_no_rate():
    """Over no time the rate is zero instead of an error."""
    assert per_second(5, 0.0) == 0.0
    assert per_second(5, 2.0) == 2.5
    assert CounterTrace.of([5]).summary(0.0) == {"count": 1, "seconds": 0.0, "sum": 5, "rate": 0.0}


def test_a_rate_beyond_the_largest_float_is_infinite():
    """An integer that no float can hold does not make every summary fail."""
    assert per_second(10**400, 2.0) == math.inf
    assert CounterTrace.of([10**308] * 20).summary(2.0)["rate"] == math.inf


def test_a_pair_is_no_addition():
    """A tuple among the values is a `TypeError`."""
    with pytest.raises(TypeError):
        CounterTrace.of([1, (2, 3)])


# -- gauges ----------------------------------------------------------------------------------------------


def test_an_average_is_weighted_by_time():
    """A level that held three times as long counts three times as much, however often it was set."""
    trace = GaugeTrace.of([10, 2, 2, 2], [0, SECOND, 2 * SECOND, 3 * SECOND])
    assert trace.summary(0, 4 * SECOND, None) == {
        "count": 4,
        "seconds": 4.0,
        "last": 2,
        "avg": 4.0,
        "min": 2,
        "max": 10,
    }


@given(STEPS.filter(bool), st.integers(0, 3_600 * SECOND))
def test_a_gauge_that_begins_is_averaged_from_its_first_record(steps, rest_ns):
    """Before the first record there was no level, so nothing is made up for it."""
    course = Course.of(steps, rest_ns)
    summary = course.trace().summary(0, course.end_ns, None)
    levels = [level for _, level in course.records]
    expected = course.average(0, None)
    assert summary["avg"] == pytest.approx(levels[-1] if expected is None else expected, rel=1e-9, abs=1e-6)
    assert (summary["count"], summary["last"]) == (len(levels), levels[-1])
    assert (summary["min"], summary["max"]) == (min(levels), max(levels))
    assert summary["min"] <= summary["avg"] <= summary["max"]


@given(STEPS.filter(bool), LEVELS, st.integers(1, 99 * SECOND), st.integers(0, 3_600 * SECOND))
def test_the_level_before_holds_until_the_first_record(steps, held, start_ns, rest_ns):
    """In a window the level from before it counts from the window's edge on, in extremes as well."""
    course = Course.of(steps, rest_ns)
    before = GaugeTrace.of([held + 1, held], [0, start_ns - 1])
    summary = course.trace().summary(start_ns, course.end_ns, before)
    levels = [held, *(level for _, level in course.records)]
    assert summary["avg"] == pytest.approx(course.average(start_ns, held), rel=1e-9, abs=1e-6)
    assert (summary["min"], summary["max"]) == (min(levels), max(levels))
    assert (summary["count"], summary["last"]) == (len(levels) - 1, levels[-1])
    assert summary["seconds"] == (course.end_ns - start_ns) / 1e9


@given(STEPS, st.integers(0, 3_600 * SECOND), st.data())
def test_consecutive_stretches_merge_into_one(steps, rest_ns, data):
    """A gauge that was recorded in stretches is summarized as if it had been recorded at once."""
    course = Course.of(steps, rest_ns)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(steps)), max_size=3)))
    parts = [course.trace(*pair) for pair in zip([0, *cuts], [*cuts, len(steps)], strict=True)]
    expected = course.trace().summary(0, course.end_ns, None)
    forward = GaugeTrace()
    for part in parts:
        forward = forward.merge(part)
    backward = GaugeTrace()
    for part in reversed(parts):
        backward = part.merge(backward)
    for merged in (forward, backward):
        assert merged.summary(0, course.end_ns, None) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_a_constant_is_its_own_average():
    """Rounding does not put the average of a level that never changed beside it."""
    trace = GaugeTrace.of([0.1] * 3, [1, 2 * SECOND, 5 * SECOND + 7]).merge(
        GaugeTrace.of([0.1], [9 * SECOND])
    )
    summary = trace.summary(0, 11 * SECOND, None)
    assert summary["min"] == summary["avg"] == summary["max"] == 0.1


def test_a_gauge_that_was_not_set_in_a_window_keeps_its_level():
    """An empty stretch has no average, only the level that still holds, if there is one."""
    before = GaugeTrace.of([3, 7], [0, 1])
    assert GaugeTrace().summary(SECOND, 3 * SECOND, before) == {"count": 0, "seconds": 2.0, "last": 7}
    assert GaugeTrace().summary(SECOND, 3 * SECOND, None) == {"count": 0, "seconds": 2.0}


# -- distributions -----------------------------------------------------------------------------------------


def test_a_distribution_is_summarized():
    """The summary holds count, sum, rate, average, extremes, deviation and four quantiles."""
    summary = summarize_distribution(Distribution.of(range(1, 101)), 50.0)
    assert summary.pop("stddev") == pytest.approx(math.sqrt(833.25))
    assert summary == {
        "count": 100,
        "seconds": 50.0,
        "sum": 5050,
        "rate": 2.0,
        "avg": 50.5,
        "min": 1,
        "max": 100,
        "p50": 50,
        "p90": 90,
        "p95": 95,
        "p99": 99,
    }


def test_an_empty_distribution_has_no_quantiles():
    """Without values there are no averages, extremes or quantiles."""
    assert summarize_distribution(EMPTY, 5.0) == {"count": 0, "seconds": 5.0, "sum": 0, "rate": 0.0}


# -- outcomes ----------------------------------------------------------------------------------------------


@given(st.lists(st.none() | st.sampled_from("abc")), st.data())
def test_outcomes_are_counted_by_kind(endings, data):
    """Successes and each kind of failure are counted, in one trace as in two that are merged."""
    cut = data.draw(st.integers(0, len(endings)))
    first, second = OutcomeTrace.of(endings[:cut]), OutcomeTrace.of(endings[cut:])
    counted = Counter(endings)
    succeeded = counted.pop(None, 0)
    for trace in (OutcomeTrace.of(endings), first.merge(second), second.merge(first)):
        assert trace.successes == succeeded
        assert trace.failures == counted
        assert trace.records == len(endings)
        assert trace.success_rate == (succeeded / len(endings) if endings else 1.0)
    assert first.records == cut


def test_no_outcomes_are_a_rate_of_one():
    """Where nothing happened nothing failed."""
    for trace in (OutcomeTrace(), OutcomeTrace.of([]), OutcomeTrace().merge(OutcomeTrace())):
        assert (trace.records, trace.successes, trace.failures, trace.success_rate) == (0, 0, {}, 1.0)


@pytest.mark.parametrize("ending", [(None, 5), 3, b"ValueError", ["a"], True], ids=str)
def test_what_is_no_error_type_is_refused(ending):
    """Anything but `None` and strings among the outcomes is a `TypeError`."""
    with pytest.raises(TypeError):
        OutcomeTrace.of([None, "ValueError", ending])


def test_the_average_of_a_huge_integer_is_weighted_too():
    """A level near the largest float that held for most of the time is what the average is near to."""
    summary = GaugeTrace.of([-(10**308), -1.0], [0, SECOND]).summary(0, SECOND + 1, None)
    assert summary["avg"] < -1e307
    assert (summary["min"], summary["max"], summary["last"]) == (-(10**308), -1.0, -1.0)
