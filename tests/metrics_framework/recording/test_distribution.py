"""Distributions of both engines: exact up to 128 values, within 1 % beyond, mergeable in any grouping."""

from __future__ import annotations

import copy
import functools
import gc
import math
import pickle
import random
import statistics
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metrics_framework.recording import _pure
from metrics_framework.recording.distribution import (
    EXACT_VALUES,
    MAX_INDEXES,
    NO_COUNTS,
    SCALE,
    DistributionState,
    PackedCounts,
)

SHARES = ("0.5", "0.9", "0.95", "0.99", "0.999")

FAMILIES: dict[str, Callable[[random.Random], float]] = {
    "lognormal": lambda source: source.lognormvariate(3, 1),
    "exponential": lambda source: source.expovariate(0.01),
    "bimodal": lambda source: source.gauss(5, 0.5) if source.random() < 0.8 else source.gauss(900, 30),
    "uniform": lambda source: source.uniform(10, 1_000),
    "pareto": lambda source: source.paretovariate(1.5),
}

FINITE = st.floats(min_value=-1e15, max_value=1e15, allow_subnormal=False)
WIDE = st.tuples(st.floats(-1, 1, allow_subnormal=False), st.integers(-100, 200)).map(
    lambda pair: pair[0] * 10.0 ** pair[1]
)
NUMBERS = FINITE | WIDE | st.integers(-(10**15), 10**15) | st.just(0)


def merge(parts: Iterable[Any]) -> Any:
    """Return the distribution of the values of several distributions."""
    return functools.reduce(lambda one, other: one.merge(other), parts)


def nearest_rank(ordered: Sequence[float], share: str) -> float:
    """Return the smallest value that at least that share of all values do not exceed, by exact arithmetic."""
    return ordered[max(1, math.ceil(Fraction(share) * len(ordered))) - 1]


def found(distribution: Any) -> dict[str, float]:
    """Return the distribution's quantile for each share."""
    return dict(zip(SHARES, distribution.quantiles(*map(float, SHARES)), strict=True))


def check_quantiles(values: Iterable[float], distribution: Any, within: float) -> None:
    """Compare every quantile with the true one."""
    ordered = sorted(values)
    for share, quantile in found(distribution).items():
        true = nearest_rank(ordered, share)
        assert abs(quantile - true) <= within * (1 + 1e-9) * abs(true), share


def check_cells(cells: dict[int, int], scale: int, magnitudes: Iterable[float]) -> None:
    """Compare the buckets of one sign with the values: bucket i has those above b**i up to b**(i+1)."""
    ordered = sorted(magnitudes)
    width = 2.0**-scale
    assert sum(cells.values()) == len(ordered)
    passed = 0
    for index, count in cells.items():
        lower, upper = (math.exp2(edge * width) for edge in (index, index + 1))
        # A value may be on the wrong side of a bound only where rounding hides on which side it is.
        near = 1e-12
        assert (
            bisect_right(ordered, lower * (1 - near)) <= passed <= bisect_right(ordered, lower * (1 + near))
        )
        passed += count
        assert (
            bisect_right(ordered, upper * (1 - near)) <= passed <= bisect_right(ordered, upper * (1 + near))
        )


def content(distribution: Any) -> tuple[object, ...]:
    """Return the content of the buckets, however it is packed."""
    scale, negative, zeros, positive = distribution.buckets
    return scale, dict(negative.items()), zeros, dict(positive.items())


def everything(distribution: Any) -> tuple[object, ...]:
    """Return all statistics of a distribution."""
    figures = (distribution.count, distribution.sum, distribution.min, distribution.max, distribution.stddev)
    if not distribution.count:
        return figures
    return *figures, *content(distribution), *distribution.quantiles(0.1, 0.5, 0.9)


def deviation(values: Sequence[float]) -> object:
    """Return an approximation that equals the standard deviation within rounding."""
    return pytest.approx(statistics.pstdev(values), rel=1e-9, abs=1e-9 * max(map(abs, values)))


def many(seed: int, number: int, low: int, high: int) -> list[float]:
    """Return numbers of both signs, with magnitudes evenly over powers of ten, and zeros."""
    source = random.Random(seed)
    return [source.choice([-1, 0, 1, 1]) * 10 ** source.uniform(low, high) for _ in range(number)]


def footprint(root: object) -> int:
    """Return the bytes of all objects of a value, each counted once."""
    seen: dict[int, object] = {}
    pending = [root]
    while pending:
        item = pending.pop()
        if id(item) not in seen and not isinstance(item, type):
            seen[id(item)] = item
            pending.extend(gc.get_referents(item))
    return sum(map(sys.getsizeof, seen.values()))


# -- exact ---------------------------------------------------------------------------------------------


@given(st.lists(NUMBERS, min_size=1, max_size=EXACT_VALUES))
def test_quantiles_of_few_values_are_exact(Distribution, values):
    """Up to 128 values every quantile is the nearest rank, and the declared error is 0."""
    distribution = Distribution.of(values)
    ordered = sorted(values)
    assert found(distribution) == {share: float(nearest_rank(ordered, share)) for share in SHARES}
    assert distribution.relative_error == 0.0


@pytest.mark.parametrize("number", [1, 2, 3, 10, 100, 127, 128])
def test_ranks_are_never_off_by_one(Distribution, number):
    """For each whole percent the quantile of 1..n is the rank itself, without interpolation."""
    distribution = Distribution.of(range(1, number + 1))
    for percent in range(1, 101):
        assert distribution.quantiles(percent / 100) == [math.ceil(Fraction(percent, 100) * number)]


def test_the_last_exact_value_is_number_128(Distribution):
    """The 129th value starts the buckets, whether recorded at once or merged."""
    distribution = Distribution.of(range(1, 129))
    assert distribution.quantiles(0.5) == [64.0]
    assert distribution.relative_error == 0.0
    for more in (distribution.merge(Distribution.of([129])), Distribution.of(range(1, 130))):
        assert 0 < more.relative_error < 0.0055


@given(st.lists(NUMBERS, min_size=1, max_size=300))
def test_count_and_extremes_are_exact(Distribution, values):
    """Count, minimum and maximum are exact for any number of values."""
    distribution = Distribution.of(values)
    assert (distribution.count, distribution.min, distribution.max) == (len(values), min(values), max(values))


@given(st.lists(st.integers(-(10**15), 10**15), max_size=300))
def test_a_sum_of_integers_is_exact(Distribution, values):
    """The sum and the extremes of integers are exact integers."""
    distribution = Distribution.of(values)
    assert distribution.sum == sum(values)
    assert isinstance(distribution.sum, int)
    assert not values or {type(distribution.min), type(distribution.max)} == {int}


@given(st.lists(NUMBERS, min_size=1, max_size=300))
def test_sum_and_mean_are_within_a_trillionth(Distribution, values):
    """Sum and mean are within 1e-12 of the sum of magnitudes."""
    distribution = Distribution.of(values)
    allowed = 1e-12 * math.fsum(map(abs, values))
    assert abs(distribution.sum - math.fsum(values)) <= allowed
    assert abs(distribution.mean - math.fsum(values) / len(values)) <= allowed
    assert distribution.min <= distribution.mean <= distribution.max


@given(
    st.lists(
        st.floats(-1e6, 1e6, allow_subnormal=False) | st.integers(-(10**6), 10**6), min_size=1, max_size=300
    )
)
def test_the_deviation_is_that_of_the_population(Distribution, values):
    """The standard deviation has n, not n - 1, as its divisor."""
    assert Distribution.of(values).stddev == deviation(values)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_the_deviation_does_not_cancel_away(Distribution, size):
    """A small spread around a large number is not lost to rounding, in any grouping."""
    values = [1e9 + number % 3 - 1 for number in range(10_000)]
    parts = (Distribution.of(values[start : start + size]) for start in range(0, 10_000, size))
    assert merge(parts).stddev == pytest.approx(math.sqrt(2 / 3), rel=1e-4)


@pytest.mark.parametrize("unit", [1e308, 1e-300, 1e-308, 5e-324])
@pytest.mark.parametrize("pairs", [1])
def test_deviation_and_mean_of_extreme_numbers(Distribution, unit, pairs):
    """Numbers near the largest and the smallest float have a finite mean and the right deviation."""
    together = Distribution.of([unit, -unit] * pairs)
    merged = merge(Distribution.of([value]) for value in [unit, -unit] * pairs)
    for distribution in (together, merged):
        assert distribution.mean == pytest.approx(0, abs=1e-9 * unit)
        assert distribution.stddev == pytest.approx(unit, rel=1e-9, abs=5e-324)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_mean_is_finite_if_the_sum_overflows(Distribution, sign):
    """Many huge numbers have an infinite sum and a finite mean."""
    large = Distribution.of([sign * 1e308] * 200)
    for distribution in (large, large.merge(large), merge([Distribution.of([sign * 1e308])] * 200)):
        assert distribution.sum == sign * math.inf
        assert distribution.mean == pytest.approx(sign * 1e308)
        assert distribution.stddev == pytest.approx(0, abs=1e297)


def test_an_empty_distribution_has_neither_quantiles_nor_made_up_numbers(Distribution):
    """Sums are zero, and a quantile raises an error."""
    for empty in (Distribution(), Distribution.of([]), Distribution().merge(Distribution())):
        assert (empty.count, empty.sum, empty.mean, empty.stddev) == (0, 0, 0.0, 0.0)
        with pytest.raises(ValueError, match="empty"):
            empty.quantiles(0.5)


@pytest.mark.parametrize("values", [[(1.0, 5)], [1.0, (1.0, 5)], [1] * 200 + [(1, 5)]], ids=len)
def test_a_pair_is_not_a_value(Distribution, values):
    """A tuple among the values raises `TypeError`."""
    with pytest.raises(TypeError):
        Distribution.of(values)


# -- buckets ---------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.lists(NUMBERS.filter(lambda number: number == 0 or abs(number) > 1e-300), min_size=1, max_size=40),
    st.sampled_from([1, 10]),
)
def test_each_bucket_counts_the_values_between_its_bounds(Distribution, values, times):
    """At scale s bucket i counts values above b**i up to b**(i+1), where b is 2**(2**-s), for each sign."""
    values = values * times
    scale, negative, zeros, positive = Distribution.of(values).buckets
    check_cells(dict(positive.items()), scale, [value for value in values if value > 0])
    check_cells(dict(negative.items()), scale, [-value for value in values if value < 0])
    assert zeros == values.count(0)
    assert max(negative.span, positive.span) <= MAX_INDEXES


@pytest.mark.parametrize("family", FAMILIES)
def test_buckets_of_durations(Distribution, family):
    """For every common shape of durations each bucket has the values between its bounds."""
    source = random.Random(family)
    values = [abs(FAMILIES[family](source)) for _ in range(5_000)]
    scale, negative, zeros, positive = Distribution.of(values).buckets
    assert (scale, negative.span, zeros) == (SCALE, 0, 0)
    check_cells(dict(positive.items()), scale, values)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("times", [1, 200])
def test_powers_of_two_fall_below_their_own_bound(Distribution, times, sign):
    """An exact power of two is in the bucket of which it is the upper bound."""
    for exponent in range(-1_022, 1_024, 1 if times == 1 else 11):
        buckets = Distribution.of([sign * 2.0**exponent] * times).buckets
        counts = buckets.positive if sign > 0 else buckets.negative
        assert dict(counts.items()) == {exponent * 64 - 1: times}


# -- within one percent ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [100, 10_000, pytest.param(1_000_000, marks=pytest.mark.heavy)])
@pytest.mark.parametrize("family", FAMILIES)
def test_quantiles_are_within_one_percent(Distribution, family, number):
    """From the median to p99.9, for every common shape of durations, the error is below 1 %."""
    source = random.Random(f"{family} {number}")
    values = [FAMILIES[family](source) for _ in range(number)]
    distribution = merge(Distribution.of(values[start : start + 5_000]) for start in range(0, number, 5_000))
    assert distribution.count == number
    assert distribution.relative_error < 0.0055
    check_quantiles(values, distribution, within=0.01)
    check_quantiles(values, distribution, within=distribution.relative_error)


@given(st.integers(), st.integers(129, 600))
def test_quantiles_from_a_nanosecond_to_a_lifetime(Distribution, seed, number):
    """1e-9 to 1e12 fits at full resolution, with negative values and zeros."""
    values = [1e-9, 1e12, *many(seed, number, -9, 12)]
    distribution = Distribution.of(values)
    assert distribution.scale == SCALE
    assert distribution.relative_error < 0.0055
    check_quantiles(values, distribution, within=0.01)


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.integers(1, 30))
def test_quantiles_are_in_order_between_the_extremes(Distribution, values, times):
    """The minimum, p50, p90, p95, p99, p99.9 and the maximum ascend."""
    distribution = Distribution.of(values * times)
    ordered = [distribution.min, *found(distribution).values(), distribution.max]
    assert ordered == sorted(ordered)


@given(st.sampled_from([0, 0.0, -0.0, 1, -3.5, 1e-300, 5e-324, 1.7e308]), st.integers(1, 200))
def test_a_constant_is_its_own_quantile(Distribution, value, number):
    """If all values are equal, every quantile is that value, whatever the bucket bounds."""
    distribution = Distribution.of([value] * number)
    assert set(found(distribution).values()) == {float(value)}
    assert distribution.mean == value
    assert distribution.stddev == pytest.approx(0, abs=1e-12 * abs(value))


def test_zeros_and_signs_are_counted_apart(Distribution):
    """Negative values, zeros and positive values each have their own ranks."""
    distribution = Distribution.of([-10.0] * 100 + [0] * 100 + [10.0] * 100)
    low, middle, high = distribution.quantiles(0.3, 0.6, 0.9)
    assert low == pytest.approx(-10, rel=0.01)
    assert middle == 0
    assert high == pytest.approx(10, rel=0.01)


# -- the range ---------------------------------------------------------------------------------------------


def test_eighty_octaves_fit_and_the_next_bucket_halves_the_resolution(Distribution):
    """5 120 bucket indexes of one sign fit; one more doubles the width of every bucket."""
    inside = Distribution.of([1.0, 2.0**79.98] * 100)
    assert inside.scale == SCALE
    assert inside.buckets.positive.span == MAX_INDEXES
    outside = Distribution.of([1.0, 2.0**80] * 100)
    assert outside.scale == SCALE - 1
    assert inside.relative_error < outside.relative_error < 0.011


def test_signs_do_not_share_their_range(Distribution):
    """Each sign has 80 octaves of its own."""
    assert Distribution.of([-(2.0**-40), 2.0**79, -1.0, 1.0] * 50).scale == SCALE


@pytest.mark.slow
@given(st.integers(), st.integers(129, 400), st.integers(30, 300))
def test_a_wider_range_declares_a_larger_error(Distribution, seed, number, reach):
    """Beyond 80 octaves every quantile is within the declared error."""
    values = [1e-100, 1e100, *many(seed, number, -reach, reach)]
    distribution = Distribution.of(values)
    assert distribution.scale < SCALE
    assert distribution.relative_error > 0.0055
    check_quantiles(values, distribution, within=distribution.relative_error)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_smallest_and_the_largest_float_fit(Distribution, sign):
    """The whole range of floats fits at once: nothing overflows, extremes and ranks are right."""
    tiny, huge = 5e-324, 1.7e308
    distribution = Distribution.of([sign * tiny, sign * huge] * 100)
    assert distribution.count == 200
    assert {distribution.min, distribution.max} == {sign * tiny, sign * huge}
    low, high = distribution.quantiles(0.5, 1.0)
    assert low == pytest.approx(min(sign * tiny, sign * huge), rel=distribution.relative_error)
    assert high == pytest.approx(max(sign * tiny, sign * huge), rel=distribution.relative_error)
    assert 0 < distribution.relative_error < 0.5


# -- merging -----------------------------------------------------------------------------------------------


@st.composite
def groups(draw) -> list[list[float]]:
    """Draw groups of numbers, small and large, so that exact parts are merged with buckets of any scale."""
    drawn = draw(st.lists(st.lists(NUMBERS, max_size=8), min_size=1, max_size=6))
    return [group * draw(st.sampled_from([1, 1, 20, 40])) for group in drawn]


@settings(max_examples=200)
@given(groups(), st.randoms(use_true_random=False))
def test_merging_in_any_grouping_is_recording_together(Distribution, parts, source):
    """Any grouping and order of merges has the result of one recording of everything."""
    values = [value for part in parts for value in part]
    together = Distribution.of(values)
    pending = [Distribution.of(part) for part in parts]
    while len(pending) > 1:
        source.shuffle(pending)
        pending.append(pending.pop().merge(pending.pop()))
    merged = pending[0]
    assert (merged.count, merged.min, merged.max) == (together.count, together.min, together.max)
    assert merged.relative_error == together.relative_error
    if together.count:
        assert content(merged) == content(together)
        assert found(merged) == found(together)
        largest = max(map(abs, values))
        assert abs(merged.sum - together.sum) <= 1e-9 * largest * len(values)
        assert merged.stddev == pytest.approx(together.stddev, rel=1e-9, abs=1e-9 * largest)


# Half of the smallest number there is has no float, so deviations of such numbers are right to no digit.
@given(st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=2, max_size=300), st.data())
def test_merged_deviations_are_that_of_everything(Distribution, values, data):
    """The deviation of two merged parts is that of all values, also if their means differ."""
    cut = data.draw(st.integers(0, len(values)))
    merged = Distribution.of(values[:cut]).merge(Distribution.of(values[cut:]))
    assert merged.stddev == deviation(values)


@pytest.mark.slow
@given(groups(), groups())
def test_merging_changes_no_operand(Distribution, one, other):
    """Both distributions are as before."""
    left, right = (merge(Distribution.of(part) for part in parts) for parts in (one, other))
    before = everything(left), everything(right)
    left.merge(right).merge(Distribution.of([1]))
    assert (everything(left), everything(right)) == before


def test_a_distribution_copies_its_input(Distribution):
    """Changing the list later does not change the distribution."""
    values = [1.0, 2.0, 3.0]
    distribution = Distribution.of(values)
    values.clear()
    assert distribution.quantiles(0.5, 1.0) == [2.0, 3.0]


def test_merged_small_distributions_stay_exact(Distribution):
    """Merging up to 128 values in total loses nothing."""
    merged = merge(Distribution.of([value]) for value in range(128))
    assert merged.relative_error == 0.0
    assert merged.quantiles(0.5) == [63.0]


def test_merging_a_coarser_distribution_makes_the_result_as_coarse(Distribution):
    """The result has the coarser of two resolutions, from either side, and declares it."""
    coarse, fine = Distribution.of([1e-60, 1e60] * 100), Distribution.of([3.0] * 200)
    one, other = coarse.merge(fine), fine.merge(coarse)
    assert one.relative_error == other.relative_error == coarse.relative_error
    assert found(one) == found(other)
    assert content(one) == content(other)


# -- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 128, 10_000, pytest.param(1_000_000, marks=pytest.mark.heavy)])
def test_a_distribution_takes_less_than_8_kilobytes(Distribution, number):
    """Memory is bounded for any number of durations, recorded at once or merged."""
    source = random.Random(5)
    values = [source.lognormvariate(3, 1) for _ in range(number)]
    merged = merge(Distribution.of(values[start : start + 1_000]) for start in range(0, number, 1_000))
    for distribution in (merged, Distribution.of(values)):
        assert distribution.count == number
        assert footprint(distribution) < 8_000


def test_an_empty_distribution_has_empty_buckets(Distribution):
    """Reading the buckets of an empty distribution is not an error."""
    for empty in (Distribution(), Distribution.of([]), Distribution().merge(Distribution())):
        assert content(empty)[1:] == ({}, 0, {})


def test_the_deviation_of_huge_numbers_that_cancel(Distribution):
    """Numbers of both signs near the largest float have the right, finite deviation."""
    assert Distribution.of([1e308, -1e308] * 10).stddev == pytest.approx(1e308)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_float_can_be_recorded_again_and_again(Distribution, sign):
    """Three times the largest float, recorded or merged, reads like any other number."""
    largest = sign * sys.float_info.max
    for three in (Distribution.of([largest] * 3), merge([Distribution.of([largest])] * 3)):
        assert (three.count, three.min, three.max, three.sum) == (3, largest, largest, sign * math.inf)
        assert three.quantiles(0.5, 0.99) == [largest] * 2
        assert three.mean == pytest.approx(largest)
        assert three.stddev == pytest.approx(0, abs=1e297)


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**60 + 1, 2**60 - 1])
def test_quantiles_stay_between_extremes_that_no_float_holds(Distribution, value):
    """The quantile of an integer beyond the floats is between the smallest and the largest value."""
    distribution = Distribution.of([value])
    (median,) = distribution.quantiles(0.5)
    assert distribution.min <= median <= distribution.max


# -- failures, states and equality -------------------------------------------------------------------------


def timed(engine, durations: Iterable[tuple[float, bool]]) -> Any:
    """Return the distribution of a timer, with successful and failed durations."""
    core = engine.Core(lambda: 0)
    tag_set = engine.TagSet(None, ())
    series = tag_set.add(engine.TimerSeries(tag_set, (), engine.Slot(core, "distribution")))
    for duration, success in durations:
        series.elapse(duration, success)
    return series.state() or engine.Distribution()


@given(st.lists(st.tuples(st.floats(0, 1e6), st.booleans()), max_size=20), st.sampled_from([1, 20]))
def test_failures_are_counted_and_merged(engine, durations, times):
    """A distribution counts its failed values, and merging adds the counts."""
    durations = durations * times
    distribution = timed(engine, durations)
    failed = sum(not success for _, success in durations)
    assert (distribution.records, distribution.count) == (len(durations), len(durations))
    assert distribution.failures == failed
    assert distribution.merge(distribution).failures == 2 * failed
    assert engine.Distribution.of([1.0]).merge(distribution).failures == failed


@pytest.mark.slow
@given(groups())
def test_a_state_is_the_whole_distribution(Distribution, parts):
    """A distribution that is restored from its state, pickled or copied is equal."""
    for distribution in [merge(Distribution.of(part) for part in parts), *map(Distribution.of, parts)]:
        state = distribution.state
        assert isinstance(state, DistributionState)
        for restored in (
            Distribution.of_state(state),
            Distribution.of_state(pickle.loads(pickle.dumps(state))),
            pickle.loads(pickle.dumps(distribution)),
            copy.copy(distribution),
            copy.deepcopy(distribution),
        ):
            assert restored == distribution
            assert restored.state == state
            assert everything(restored) == everything(distribution)


def test_a_state_has_the_failures(engine):
    """The number of failures is part of the state."""
    distribution = timed(engine, [(1.0, True), (2.0, False)])
    assert distribution.state.failures == 1
    assert engine.Distribution.of_state(distribution.state).failures == 1
    assert pickle.loads(pickle.dumps(distribution)).failures == 1


@pytest.mark.parametrize("times", [1, 200])
def test_distributions_are_equal_by_content(Distribution, times):
    """Distributions of the same values are equal; with one more value they differ."""
    values = [1, 2.5, -3] * times
    assert Distribution.of(values) == Distribution.of(values)
    assert Distribution.of(values) != Distribution.of([*values, 1])
    assert Distribution() == Distribution.of([])
    assert Distribution() != Distribution.of([0])
    assert Distribution.of(values) != "a distribution"


def test_a_distribution_without_values_is_merged_without_effect(Distribution):
    """The empty distribution is neutral on either side."""
    some = Distribution.of([1.0, 2.0])
    assert some.merge(Distribution()) == some
    assert Distribution().merge(some) == some


# -- integers that leave int64 -----------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_integers_beyond_int64_are_recorded_as_floats(Distribution, sign):
    """Sum, extremes and mean of such integers are floats."""
    distribution = Distribution.of([sign * 2**64, sign * 3])
    assert distribution.sum == sign * (2.0**64 + 3)
    extreme = distribution.max if sign > 0 else distribution.min
    assert (type(extreme), extreme) == (float, sign * 2.0**64)
    assert type(distribution.sum) is float
    assert distribution.mean == pytest.approx(sign * (2.0**63 + 1.5))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_of_integers_that_leaves_int64_becomes_a_float(Distribution, sign):
    """It stays a float even if later values bring it back."""
    edge = sign * 2**62
    assert type(Distribution.of([edge]).sum) is int
    distribution = Distribution.of([edge, edge, edge, -edge, -edge])
    assert (type(distribution.sum), distribution.sum) == (float, float(edge))
    merged = Distribution.of([edge, edge // 2]).merge(Distribution.of([edge]))
    assert (type(merged.sum), merged.sum) == (float, 2.5 * edge)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_infinite_sum_stays_infinite(Distribution, sign):
    """Later values do not change a sum beyond the largest float."""
    huge = sign * sys.float_info.max
    distribution = Distribution.of([huge, huge, -huge, -huge, -huge])
    assert distribution.sum == sign * math.inf
    assert distribution.merge(Distribution.of([-huge])).sum == sign * math.inf
    assert distribution.min <= distribution.mean <= distribution.max


# -- packed counts -----------------------------------------------------------------------------------------

EDGES = [edge + near for edge in (2**8, 2**16, 2**32) for near in (-1, 0, 1)]
COUNTS = st.integers(1, 300) | st.sampled_from(EDGES) | st.integers(1, 2**40)
MODELS = st.dictionaries(st.integers(-300, 300), COUNTS, max_size=12).map(Counter)
SOME = MODELS.filter(bool)


def pack_counts(model: Counter[int]) -> PackedCounts:
    """Return the counts of a model, packed."""
    if not model:
        return NO_COUNTS
    low, high = min(model), max(model)
    return PackedCounts.pack(low, [model[index] for index in range(low, high + 1)])


def check_counts(counts: PackedCounts, model: Counter[int]) -> None:
    """Compare all properties of counts with the model."""
    assert dict(counts.items()) == model
    assert [index for index, _ in counts.items()] == sorted(model)
    assert counts.fullest() == max(model.values(), default=0)
    assert counts.peak >= counts.fullest()
    assert counts.fullest() < 1 << counts.bits
    if model:
        low, high = min(model), max(model)
        assert (counts.low, counts.high, counts.span) == (low, high, high - low + 1)
        assert counts.counts() == tuple(model[index] for index in range(low, high + 1))
    else:
        assert (counts.span, counts.counts()) == (0, ())


@given(MODELS)
def test_packed_counts_can_be_unpacked(model):
    """Counts, indexes, span and the highest index are those that were packed."""
    check_counts(pack_counts(model), model)


@pytest.mark.parametrize(
    ("peak", "bits"),
    [
        (1, 8),
        (255, 8),
        (256, 16),
        (65_535, 16),
        (65_536, 32),
        (2**32 - 1, 32),
        (2**32, 64),
        (2**64 - 1, 64),
    ],
)
def test_a_lane_is_as_wide_as_the_fullest_bucket_needs(peak, bits):
    """The width is the narrowest of 8, 16, 32 and 64 bits that holds the largest count."""
    counts = PackedCounts.pack(-7, [1, 0, peak, 0, 1])
    assert counts.bits == bits
    check_counts(counts, Counter({-7: 1, -5: peak, -3: 1}))


@given(MODELS, MODELS)
def test_merging_adds_bucket_by_bucket(one, other):
    """The result has the sums, and both operands are unchanged."""
    left, right = pack_counts(one), pack_counts(other)
    merged = left.merge(right)
    check_counts(merged, one + other)
    check_counts(left, one)
    check_counts(right, other)
    assert dict(right.merge(left).items()) == one + other


@given(st.lists(MODELS, max_size=6), st.randoms(use_true_random=False))
def test_merging_in_any_order_and_grouping_is_the_same(models, source):
    """Each bucket has the sum, whatever the order and grouping."""
    pending = [pack_counts(model) for model in models]
    while len(pending) > 1:
        source.shuffle(pending)
        pending.append(pending.pop().merge(pending.pop()))
    total = Counter()
    for model in models:
        total.update(model)
    check_counts(pending[0] if pending else NO_COUNTS, total)


@given(SOME)
def test_merging_nothing_changes_nothing(model):
    """The empty counts are neutral on either side."""
    counts = pack_counts(model)
    assert counts.merge(NO_COUNTS) == counts
    assert NO_COUNTS.merge(counts) == counts
    assert NO_COUNTS.merge(NO_COUNTS).counts() == ()


@example(Counter({-3: 1, -2: 2, -1: 3, 0: 4, 1: 5}))
@example(Counter({0: 128, 1: 128}))
@given(MODELS)
def test_halving_joins_pairs_of_buckets(model):
    """Bucket i becomes bucket i // 2, also below zero, and the original is unchanged."""
    halves = Counter()
    for index, count in model.items():
        halves[index // 2] += count
    counts = pack_counts(model)
    check_counts(counts.halved(), halves)
    check_counts(counts, model)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_counts_widen_exactly_when_a_count_no_longer_fits(bits):
    """One below the limit still fits; one more record widens every lane and loses nothing."""
    limit = 1 << bits
    full = PackedCounts.pack(10, [limit - 2, 3, limit - 2])
    one = PackedCounts.pack(12, [1])
    fits = full.merge(one)
    assert fits.bits == bits
    check_counts(fits, Counter({10: limit - 2, 11: 3, 12: limit - 1}))
    grown = fits.merge(one)
    assert grown.bits == 2 * bits
    check_counts(grown, Counter({10: limit - 2, 11: 3, 12: limit}))
    check_counts(fits, Counter({10: limit - 2, 11: 3, 12: limit - 1}))


def test_one_bucket_grows_through_every_width():
    """A bucket that doubles 63 times has 2^63 values, and so does its neighbour."""
    counts, model = PackedCounts.pack(-1, [1, 1]), Counter({-1: 1, 0: 1})
    for _ in range(63):
        counts = counts.merge(counts)
        model = model + model
        check_counts(counts, model)
    assert counts.counts() == (2**63, 2**63)


@given(SOME, SOME)
def test_counts_of_different_widths_merge(one, other):
    """Narrow and wide counts merge to the same result from either side."""
    wide = Counter({index: count + 2**33 for index, count in one.items()})
    check_counts(pack_counts(wide).merge(pack_counts(other)), wide + other)
    check_counts(pack_counts(other).merge(pack_counts(wide)), wide + other)


@given(MODELS, MODELS)
def test_packed_counts_are_equal_by_content(one, other):
    """Counts are equal if each bucket is, whatever their widths."""
    wide = Counter({index: count + 2**33 for index, count in one.items()})
    assert (pack_counts(one) == pack_counts(other)) == (one == other)
    assert pack_counts(one) == pack_counts(one)._replace(peak=2**40)
    if one:
        assert pack_counts(one) != pack_counts(wide)
    assert pack_counts(one) != "counts"


def test_packed_counts_of_different_widths_are_equal():
    """The width is not part of the content; equal counts have equal hashes."""
    narrow, wide = PackedCounts.pack(3, [1, 2]), PackedCounts(3, 16, 300, 1 + (2 << 16))
    assert narrow == wide
    assert hash(narrow) == hash(wide)
    assert narrow != PackedCounts.pack(4, [1, 2])


def test_the_mean_of_extreme_distributions_is_finite():
    """The mean of merged distributions stays within the floats if their means are far apart."""
    of = _pure.Distribution.of
    merged = of([1.7e308]).merge(of([-1.7e308] * 14))
    assert merged.mean == pytest.approx(-1.7e308 / 15 * 13)
    assert merged.merge(of([0.0])).mean == pytest.approx(-1.7e308 / 16 * 13)
