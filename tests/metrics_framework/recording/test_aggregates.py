"""Sums, aggregates of counters, gauges and outcomes, and the summaries of all aggregates."""

from __future__ import annotations

import copy
import math
import pickle
import sys
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.recording.aggregates import (
    INT64_MAX,
    INT64_MIN,
    ZERO,
    CounterAggregate,
    GaugeAggregate,
    OutcomeAggregate,
    Sum,
    per_second,
    sum_of,
    summarize_counter,
    summarize_distribution,
    summarize_gauge,
)
from metrics_framework.recording.distribution import EMPTY, Distribution

SECOND = 1_000_000_000
MAX = sys.float_info.max
SMALL_INTEGERS = st.integers(-(2**40), 2**40)
INT64 = st.integers(INT64_MIN, INT64_MAX)
POSITIVE = st.floats(min_value=0, max_value=1e300)
SIGNED = st.floats(min_value=-1e300, max_value=1e300)
LEVELS = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6)
STEPS = st.lists(st.tuples(st.integers(0, 3_600 * SECOND), LEVELS), max_size=12)


# -- sums ------------------------------------------------------------------------------------------------


def extended(batches) -> Sum:
    """Return the running sum of batches."""
    running = ZERO
    for batch in batches:
        running = running.extend(batch)
    return running


def one_by_one(values) -> Sum:
    """Return the running sum of values that are added one by one."""
    running = ZERO
    for value in values:
        running = running.add(value)
    return running


def test_an_empty_sum_is_the_integer_zero():
    """Without numbers the sum is the integer 0."""
    for nothing in (ZERO.value, Sum().value, sum_of([]), extended([[], []]).value):
        assert (type(nothing), nothing) == (int, 0)


@given(st.lists(st.lists(SMALL_INTEGERS)))
def test_sums_of_integers_are_exact(batches):
    """Within int64 the sum of integers is an exact integer."""
    result = extended(batches).value
    assert (type(result), result) == (int, sum(map(sum, batches)))


@given(st.lists(INT64, max_size=6))
def test_batches_and_single_numbers_leave_int64_alike(values):
    """A sum of integers is a float if any intermediate sum leaves int64."""
    running, leaves = 0, False
    for value in values:
        running += value
        leaves = leaves or not INT64_MIN <= running <= INT64_MAX
    for result in (one_by_one(values).value, extended([values]).value):
        assert type(result) is (float if leaves else int)
        assert abs(result - sum(values)) <= 1e-12 * sum(map(abs, values))


@given(st.lists(st.lists(POSITIVE | st.integers(0, 2**53), max_size=10), max_size=50))
def test_sums_of_floats_are_within_a_trillionth(batches):
    """With numbers of one sign the error of the sum is below 1e-12."""
    everything = [value for batch in batches for value in batch]
    assert extended(batches).value == pytest.approx(math.fsum(everything), rel=1e-12, abs=0)


@given(st.lists(st.lists(SIGNED | INT64, max_size=10), max_size=30))
def test_cancellation_does_not_increase_the_error(batches):
    """With both signs the error is within 1e-12 of the sum of magnitudes."""
    everything = [value for batch in batches for value in batch]
    allowed = 1e-12 * math.fsum(map(abs, everything))
    assert abs(extended(batches).value - math.fsum(everything)) <= allowed
    assert abs(one_by_one(everything).value - math.fsum(everything)) <= allowed


@given(st.lists(SIGNED))
def test_a_batch_of_floats_is_rounded_once(values):
    """The sum of one batch is the float nearest to the exact sum."""
    assert sum_of(values) == math.fsum(values)


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_rounding_errors_do_not_accumulate(size):
    """A hundred thousand tenths add up to ten thousand; a plain sum is off by more than 1e-12."""
    result = extended([[0.1] * size] * (100_000 // size)).value
    assert result == pytest.approx(100_000 // size * size * 0.1, rel=1e-15, abs=0)


@pytest.mark.parametrize("values", [[1.0, 1e100, 1.0, -1e100], [1, 1e100, 1, -1e100]])
def test_small_numbers_survive_a_large_one_that_comes_and_goes(values):
    """Small numbers beside a large one are not lost, in one batch or one by one."""
    assert sum_of(values) == 2
    assert one_by_one(values).value == 2


@given(st.lists(SMALL_INTEGERS), st.floats(-1e6, 1e6), st.lists(SMALL_INTEGERS))
def test_one_float_among_integers_makes_a_float(before, value, after):
    """The sum is a float, wherever in a batch the float is."""
    assert type(sum_of([*before, value, *after])) is float
    assert type(extended([[*before, value, *after]]).value) is float
    assert type(extended([before, [value], after]).value) is float


@given(st.lists(st.lists(st.lists(SIGNED | SMALL_INTEGERS, max_size=5), max_size=5)))
def test_merged_sums_are_the_sum_of_everything(groups):
    """Merging the sums of groups has the same result as adding all numbers."""
    merged = ZERO
    for group in groups:
        merged = merged.merge(extended(group))
    everything = [value for group in groups for batch in group for value in batch]
    allowed = 1e-12 * math.fsum(map(abs, everything))
    assert abs(merged.value - math.fsum(everything)) <= allowed


@given(st.lists(SIGNED | SMALL_INTEGERS, max_size=10), st.lists(SIGNED | SMALL_INTEGERS, max_size=10))
def test_a_difference_is_the_sum_of_later_numbers(before, after):
    """Subtracting an earlier state of a sum leaves the later numbers."""
    earlier = extended([before])
    difference = earlier.extend(after).subtract(earlier).value
    allowed = 1e-12 * math.fsum(map(abs, [*before, *after]))
    assert abs(difference - math.fsum(after)) <= allowed


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_beyond_the_largest_float_stays_infinite(sign):
    """Later numbers do not change it: in a batch, one by one, or merged."""
    huge = sign * MAX
    infinite = sign * math.inf
    values = [huge, huge, -huge, -huge, -huge]
    for result in (
        one_by_one(values),
        extended([values]),
        ZERO.merge(one_by_one(values)),
        Sum(huge).add(huge),
    ):
        assert result.value == infinite
        assert result.add(-huge).value == infinite
        assert result.merge(Sum(-infinite)).value == infinite
    assert sum_of([huge, huge, 1.0]) == infinite
    assert one_by_one(values).subtract(Sum(infinite)).value == 0


@pytest.mark.parametrize(
    "values",
    [[(1.0, 2)], [1, (1, 2)], [1.0, (1.0, 2)], [(1.0, 2), 1.0], [1, 1.0, (1, 2)], [1e308, 1e308, (1, 2)]],
    ids=str,
)
def test_only_numbers_are_added(values):
    """A tuple among the values raises `TypeError`, at any position."""
    with pytest.raises(TypeError):
        sum_of(values)
    with pytest.raises(TypeError):
        CounterAggregate.of(values)


# -- counters --------------------------------------------------------------------------------------------


def test_a_counter_sums_its_additions():
    """Count, sum and rate are of the same records."""
    expected = {"count": 3, "seconds": 4.0, "sum": 8, "rate": 2.0}
    assert summarize_counter(CounterAggregate.of([1, 2, 5]), 4.0) == expected


def test_an_empty_counter_has_a_sum_of_zero():
    """Without additions the sum and the rate are zero."""
    for aggregate in (CounterAggregate(), CounterAggregate.of([])):
        assert summarize_counter(aggregate, 4.0) == {"count": 0, "seconds": 4.0, "sum": 0, "rate": 0.0}
        assert aggregate.is_exact


@given(st.lists(st.integers(0, 10**15)), st.data())
def test_consecutive_counter_aggregates_merge_into_one(values, data):
    """Merging the aggregates of consecutive intervals returns that of the whole interval."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    merged = CounterAggregate()
    for start, stop in zip([0, *cuts], [*cuts, len(values)], strict=True):
        merged = merged.merge(CounterAggregate.of(values[start:stop]))
    assert merged == CounterAggregate.of(values)
    assert merged.value == sum(values)


def test_merging_does_not_change_an_aggregate():
    """Merging returns a new aggregate."""
    one, other = CounterAggregate.of([1]), CounterAggregate.of([2])
    one.merge(other)
    assert (one, other) == (CounterAggregate.of([1]), CounterAggregate.of([2]))


@given(st.lists(st.integers(0, 10**15)), st.lists(st.integers(0, 10**15)))
def test_a_counter_since_an_earlier_reading(before, after):
    """Subtracting an earlier aggregate leaves the later additions."""
    earlier = CounterAggregate.of(before)
    assert earlier.extend(after).subtract(earlier) == CounterAggregate.of(after)


@pytest.mark.parametrize(
    ("values", "is_exact"),
    [
        ([INT64_MAX], True),
        ([INT64_MAX, 1], False),
        ([2**62] * 4, False),
        ([2**62] * 4 + [0.5], False),
        ([1, 0.5], True),
        ([1e300, 1e300], True),
        ([0.5, 2**62, 2**62, 2**62], True),
    ],
    ids=str,
)
def test_a_counter_says_whether_its_integers_left_int64(values, is_exact):
    """It is inexact once a sum of integers left int64: in one batch, one by one, or merged."""
    merged = CounterAggregate()
    single = CounterAggregate()
    for value in values:
        merged = merged.merge(CounterAggregate.of([value]))
        single = single.extend([value])
    for aggregate in (CounterAggregate.of(values), merged, single):
        assert aggregate.is_exact is is_exact
        assert aggregate.value == pytest.approx(sum(values), rel=1e-15)
        if not is_exact:
            assert type(aggregate.value) is float
            assert not aggregate.merge(CounterAggregate.of([1])).is_exact
            assert not CounterAggregate.of([1]).merge(aggregate).is_exact


def test_an_addition_beyond_int64_is_a_float():
    """An integer that does not fit into 64 bits is recorded as a float."""
    aggregate = CounterAggregate.of([2**64, 1])
    assert (type(aggregate.value), aggregate.value) == (float, 2.0**64)


def test_an_interval_without_length_has_no_rate():
    """The rate over no time is zero instead of an error."""
    assert per_second(5, 0.0) == 0.0
    assert per_second(5, 2.0) == 2.5
    expected = {"count": 1, "seconds": 0.0, "sum": 5, "rate": 0.0}
    assert summarize_counter(CounterAggregate.of([5]), 0.0) == expected


def test_the_rate_of_an_infinite_sum_is_infinite():
    """A sum beyond the largest float does not make the summary fail."""
    assert summarize_counter(CounterAggregate.of([MAX] * 20), 2.0)["rate"] == math.inf


# -- gauges ----------------------------------------------------------------------------------------------


@dataclass
class Course:
    """Moments at which a gauge is set, drawn at random."""

    records: list[tuple[int, float]]
    end_ns: int

    @classmethod
    def of(cls, steps: list[tuple[int, float]], rest_ns: int) -> Course:
        """Convert pauses to moments, starting at second 100."""
        now, records = 100 * SECOND, []
        for pause, level in steps:
            now += pause
            records.append((now, level))
        return cls(records, now + rest_ns)

    def aggregate(self, start: int = 0, stop: int | None = None) -> GaugeAggregate:
        """Return the aggregate of a part of the course."""
        part = self.records[start:stop]
        if not part:
            return GaugeAggregate()
        return GaugeAggregate.of([level for _, level in part], [moment for moment, _ in part])

    def average(self, begin_ns: int, held: float | None) -> float | None:
        """Weigh each value by its duration; `held` is the value from the start to the first record."""
        intervals = [(begin_ns, held)] if held is not None else []
        intervals += self.records
        ends = [moment for moment, _ in intervals[1:]] + [self.end_ns]
        weighted = [
            (level, end - moment)
            for (moment, level), end in zip(intervals, ends, strict=True)
            if end > moment
        ]
        weight = sum(weight for _, weight in weighted)
        return math.fsum(level * share for level, share in weighted) / weight if weight else None


def test_an_average_is_weighted_by_time():
    """A value that lasted three times as long has three times the weight, however often it was set."""
    aggregate = GaugeAggregate.of([10, 2, 2, 2], [0, SECOND, 2 * SECOND, 3 * SECOND])
    assert summarize_gauge(aggregate, 0, 4 * SECOND, None) == {
        "count": 4,
        "seconds": 4.0,
        "last": 2,
        "avg": 4.0,
        "min": 2,
        "max": 10,
    }


@given(STEPS.filter(bool), st.integers(0, 3_600 * SECOND))
def test_a_new_gauge_is_averaged_from_its_first_record(steps, rest_ns):
    """The time before the first record has no value and no weight."""
    course = Course.of(steps, rest_ns)
    summary = summarize_gauge(course.aggregate(), 0, course.end_ns, None)
    levels = [level for _, level in course.records]
    expected = course.average(0, None)
    assert summary["avg"] == pytest.approx(levels[-1] if expected is None else expected, rel=1e-9, abs=1e-6)
    assert (summary["count"], summary["last"]) == (len(levels), levels[-1])
    assert (summary["min"], summary["max"]) == (min(levels), max(levels))
    assert summary["min"] <= summary["avg"] <= summary["max"]


@given(STEPS.filter(bool), LEVELS, st.integers(1, 99 * SECOND), st.integers(0, 3_600 * SECOND))
def test_the_level_before_a_window_holds_until_its_first_record(steps, held, start_ns, rest_ns):
    """The earlier value counts from the window's start, also for the extremes."""
    course = Course.of(steps, rest_ns)
    before = GaugeAggregate.of([held + 1, held], [0, start_ns - 1])
    summary = summarize_gauge(course.aggregate(), start_ns, course.end_ns, before)
    levels = [held, *(level for _, level in course.records)]
    assert summary["avg"] == pytest.approx(course.average(start_ns, held), rel=1e-9, abs=1e-6)
    assert (summary["min"], summary["max"]) == (min(levels), max(levels))
    assert (summary["count"], summary["last"]) == (len(levels) - 1, levels[-1])
    assert summary["seconds"] == (course.end_ns - start_ns) / 1e9


@given(STEPS, st.integers(0, 3_600 * SECOND), st.data())
def test_consecutive_gauge_aggregates_merge_into_one(steps, rest_ns, data):
    """The summary of merged intervals is that of all records, in either grouping."""
    course = Course.of(steps, rest_ns)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(steps)), max_size=3)))
    parts = [course.aggregate(*pair) for pair in zip([0, *cuts], [*cuts, len(steps)], strict=True)]
    expected = summarize_gauge(course.aggregate(), 0, course.end_ns, None)
    forward = GaugeAggregate()
    for part in parts:
        forward = forward.merge(part)
    backward = GaugeAggregate()
    for part in reversed(parts):
        backward = part.merge(backward)
    for merged in (forward, backward):
        assert summarize_gauge(merged, 0, course.end_ns, None) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_a_constant_is_its_own_average():
    """Rounding does not change the average of a constant value."""
    aggregate = GaugeAggregate.of([0.1] * 3, [1, 2 * SECOND, 5 * SECOND + 7])
    merged = aggregate.merge(GaugeAggregate.of([0.1], [9 * SECOND]))
    summary = summarize_gauge(merged, 0, 11 * SECOND, None)
    assert summary["min"] == summary["avg"] == summary["max"] == 0.1


def test_a_gauge_that_was_not_set_in_a_window_keeps_its_level():
    """An interval without records has no average, only the last value, if there is one."""
    before = GaugeAggregate.of([3, 7], [0, 1])
    empty = GaugeAggregate()
    expected = {"count": 0, "seconds": 2.0}
    assert summarize_gauge(empty, SECOND, 3 * SECOND, before) == {**expected, "last": 7}
    assert summarize_gauge(empty, SECOND, 3 * SECOND, None) == expected


def test_the_average_of_huge_integers_is_weighted_by_time():
    """A value near the largest float that lasted longest dominates the average."""
    aggregate = GaugeAggregate.of([-(10**308), -1.0], [0, SECOND])
    summary = summarize_gauge(aggregate, 0, SECOND + 1, None)
    assert summary["avg"] < -1e307
    assert (summary["min"], summary["max"], summary["last"]) == (-(10**308), -1.0, -1.0)


def test_one_step_makes_a_gauge_stepped():
    """Merging with a stepped aggregate, on either side, gives a stepped aggregate."""
    set_only = GaugeAggregate.of([1], [1])
    stepped = GaugeAggregate.of([2], [2], is_stepped=True)
    assert not set_only.is_stepped
    assert not GaugeAggregate().is_stepped
    assert set_only.merge(stepped).is_stepped
    assert stepped.merge(GaugeAggregate.of([3], [3])).is_stepped


# -- distributions -----------------------------------------------------------------------------------------


def test_a_distribution_is_summarized():
    """The summary has count, sum, rate, average, extremes, deviation and four quantiles."""
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


def test_an_empty_distribution_has_no_statistics():
    """Without values there are no averages, extremes or quantiles."""
    assert summarize_distribution(EMPTY, 5.0) == {"count": 0, "seconds": 5.0, "sum": 0, "rate": 0.0}


# -- outcomes ----------------------------------------------------------------------------------------------


@given(st.lists(st.none() | st.sampled_from("abc")), st.data())
def test_outcomes_are_counted_by_error_type(endings, data):
    """Successes and each error type are counted, in one aggregate or in two that are merged."""
    cut = data.draw(st.integers(0, len(endings)))
    first, second = OutcomeAggregate.of(endings[:cut]), OutcomeAggregate.of(endings[cut:])
    counted = Counter(endings)
    succeeded = counted.pop(None, 0)
    for aggregate in (OutcomeAggregate.of(endings), first.merge(second), second.merge(first)):
        assert aggregate.successes == succeeded
        assert aggregate.failures == counted
        assert aggregate.records == len(endings)
        assert aggregate.success_rate == (succeeded / len(endings) if endings else 1.0)
        assert 0 not in aggregate.endings.values()
    assert first.records == cut


def test_the_success_rate_without_outcomes_is_one():
    """Without outcomes there are no failures."""
    empty = OutcomeAggregate()
    for aggregate in (empty, OutcomeAggregate.of([]), empty.merge(empty)):
        figures = (aggregate.records, aggregate.successes, aggregate.failures, aggregate.success_rate)
        assert figures == (0, 0, {}, 1.0)


@pytest.mark.parametrize("ending", [(None, 5), 3, b"ValueError", ["a"], True], ids=str)
def test_an_error_type_is_a_string(ending):
    """Any other value except `None` raises `TypeError`."""
    with pytest.raises(TypeError):
        OutcomeAggregate.of([None, "ValueError", ending])


# -- all -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (CounterAggregate.of([1, 2]), CounterAggregate.of([1]).extend([2]), CounterAggregate.of([3])),
        (GaugeAggregate.of([1], [2]), GaugeAggregate.of([1], [2]), GaugeAggregate.of([1], [3])),
        (OutcomeAggregate.of(["a", None]), OutcomeAggregate.of([None, "a"]), OutcomeAggregate.of(["a"])),
    ],
    ids=lambda aggregate: type(aggregate).__name__,
)
def test_aggregates_are_equal_by_content(one, same, other):
    """Aggregates with the same content are equal, also after pickling or copying."""
    assert one == same
    assert one != other
    for restored in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        assert restored == one
