"""Distributions: exact while they are small, within 1 % for ever after, and mergeable in any grouping."""

from __future__ import annotations

import functools
import gc
import math
import random
import statistics
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_framework.recording.distribution import EMPTY, EXACT_VALUES, MAX_INDEXES, SCALE, Distribution

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


def merge(parts: Iterable[Distribution]) -> Distribution:
    """Return the distribution of everything that is in some others."""
    return functools.reduce(Distribution.merge, parts, EMPTY)


def nearest_rank(ordered: Sequence[float], share: str) -> float:
    """Return the smallest value that at least that share of all values do not exceed, by exact arithmetic."""
    return ordered[max(1, math.ceil(Fraction(share) * len(ordered))) - 1]


def found(distribution: Distribution) -> dict[str, float]:
    """Return the distribution's quantile for each share."""
    return dict(zip(SHARES, distribution.quantiles(*map(float, SHARES)), strict=True))


def check_quantiles(values: Iterable[float], distribution: Distribution, within: float) -> None:
    """Compare every quantile with the true one."""
    ordered = sorted(values)
    for share, quantile in found(distribution).items():
        true = nearest_rank(ordered, share)
        assert abs(quantile - true) <= within * (1 + 1e-9) * abs(true), share


def check_cells(cells: dict[int, int], scale: int, magnitudes: Iterable[float]) -> None:
    """Compare one sign's buckets with the values: bucket i holds those above b**i up to b**(i+1)."""
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


def content(distribution: Distribution) -> tuple[object, ...]:
    """Return what is in the buckets, however it is packed."""
    scale, negative, zeros, positive = distribution.buckets
    return scale, dict(negative.items()), zeros, dict(positive.items())


def everything(distribution: Distribution) -> tuple[object, ...]:
    """Return all that a distribution tells."""
    figures = (distribution.count, distribution.sum, distribution.min, distribution.max, distribution.stddev)
    if not distribution.count:
        return figures
    return *figures, *content(distribution), *distribution.quantiles(0.1, 0.5, 0.9)


def deviation(values: Sequence[float]) -> object:
    """Return what equals the standard deviation, but for rounding."""
    return pytest.approx(statistics.pstdev(values), rel=1e-9, abs=1e-9 * max(map(abs, values)))


def many(seed: int, number: int, low: int, high: int) -> list[float]:
    """Return numbers whose magnitudes spread evenly over powers of ten, of both signs, and zeros."""
    source = random.Random(seed)
    return [source.choice([-1, 0, 1, 1]) * 10 ** source.uniform(low, high) for _ in range(number)]


def footprint(root: object) -> int:
    """Return the bytes of all that a value consists of, each object counted once."""
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
def test_quantiles_of_few_values_are_exact(values):
    """Up to 128 values every quantile is one of them, that of the nearest rank, and no error is declared."""
    distribution = Distribution.of(values)
    ordered = sorted(values)
    assert found(distribution) == {share: float(nearest_rank(ordered, share)) for share in SHARES}
    assert distribution.relative_error == 0.0


@pytest.mark.parametrize("number", [1, 2, 3, 10, 100, 127, 128])
def test_ranks_are_never_off_by_one(number):
    """For each whole percent the quantile of 1..n is the rank itself: nothing is interpolated."""
    distribution = Distribution.of(range(1, number + 1))
    for percent in range(1, 101):
        assert distribution.quantiles(percent / 100) == [math.ceil(Fraction(percent, 100) * number)]


def test_the_last_exact_value_is_number_128():
    """128 values are kept as they are; the next one makes it buckets, recorded together or merged."""
    distribution = Distribution.of(range(1, 129))
    assert distribution.quantiles(0.5) == [64.0]
    assert distribution.relative_error == 0.0
    for more in (distribution.merge(Distribution.of([129])), Distribution.of(range(1, 130))):
        assert 0 < more.relative_error < 0.0055


@given(st.lists(NUMBERS, min_size=1, max_size=300))
def test_count_and_extremes_are_exact(values):
    """Count, minimum and maximum are exact whatever is recorded and however much."""
    distribution = Distribution.of(values)
    assert (distribution.count, distribution.min, distribution.max) == (len(values), min(values), max(values))


@given(st.lists(st.integers(-(10**15), 10**15), max_size=300))
def test_a_sum_of_integers_is_exact(values):
    """A sum of integers is their sum, and so are the extremes integers."""
    distribution = Distribution.of(values)
    assert distribution.sum == sum(values)
    assert isinstance(distribution.sum, int)
    assert not values or {type(distribution.min), type(distribution.max)} == {int}


@given(st.lists(NUMBERS, min_size=1, max_size=300))
def test_sum_and_mean_are_within_a_trillionth(values):
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
def test_the_deviation_is_that_of_the_population(values):
    """The standard deviation is the one of the population form."""
    assert Distribution.of(values).stddev == deviation(values)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_the_deviation_does_not_cancel_away(size):
    """A small spread around a large number is not lost to rounding, however it was put together."""
    values = [1e9 + number % 3 - 1 for number in range(10_000)]
    parts = (Distribution.of(values[start : start + size]) for start in range(0, 10_000, size))
    assert merge(parts).stddev == pytest.approx(math.sqrt(2 / 3), rel=1e-4)


@pytest.mark.parametrize("unit", [1e308, 1e-300, 1e-308, 5e-324])
@pytest.mark.parametrize("pairs", [1])
def test_deviation_and_mean_of_extreme_numbers(unit, pairs):
    """Numbers near the largest and the smallest float have a finite mean and the right deviation."""
    together = Distribution.of([unit, -unit] * pairs)
    merged = merge(Distribution.of([value]) for value in [unit, -unit] * pairs)
    for distribution in (together, merged):
        assert distribution.mean == pytest.approx(0, abs=1e-9 * unit)
        assert distribution.stddev == pytest.approx(unit, rel=1e-9, abs=5e-324)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_mean_is_finite_where_the_sum_is_not(sign):
    """Many huge numbers have an infinite sum but a mean among them."""
    large = Distribution.of([sign * 1e308] * 200)
    for distribution in (large, large.merge(large), merge([Distribution.of([sign * 1e308])] * 200)):
        assert distribution.sum == sign * math.inf
        assert distribution.mean == pytest.approx(sign * 1e308)
        assert distribution.stddev == pytest.approx(0, abs=1e297)


def test_an_empty_distribution_has_neither_quantiles_nor_made_up_numbers():
    """Nothing was recorded: sums are zero, and a quantile is an error."""
    for empty in (EMPTY, Distribution(), Distribution.of([]), EMPTY.merge(EMPTY)):
        assert (empty.count, empty.sum, empty.mean, empty.stddev) == (0, 0, 0.0, 0.0)
        with pytest.raises(ValueError, match="empty"):
            empty.quantiles(0.5)


@pytest.mark.parametrize("values", [[(1.0, 5)], [1.0, (1.0, 5)], [1] * 200 + [(1, 5)]], ids=len)
def test_a_pair_is_no_value(values):
    """A tuple among the values is a `TypeError`."""
    with pytest.raises(TypeError):
        Distribution.of(values)


# -- buckets ---------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.lists(NUMBERS.filter(lambda number: number == 0 or abs(number) > 1e-300), min_size=1, max_size=40),
    st.sampled_from([1, 10]),
)
def test_each_bucket_counts_what_lies_between_its_bounds(values, times):
    """At scale s bucket i counts what is above b**i up to b**(i+1), where b is 2**(2**-s), for each sign."""
    values = values * times
    scale, negative, zeros, positive = Distribution.of(values).buckets
    check_cells(dict(positive.items()), scale, [value for value in values if value > 0])
    check_cells(dict(negative.items()), scale, [-value for value in values if value < 0])
    assert zeros == values.count(0)
    assert max(negative.span, positive.span) <= MAX_INDEXES


@pytest.mark.parametrize("family", FAMILIES)
def test_buckets_of_durations(family):
    """For every common shape of durations each bucket counts exactly what lies between its bounds."""
    source = random.Random(family)
    values = [abs(FAMILIES[family](source)) for _ in range(5_000)]
    scale, negative, zeros, positive = Distribution.of(values).buckets
    assert (scale, negative.span, zeros) == (SCALE, 0, 0)
    check_cells(dict(positive.items()), scale, values)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("times", [1, 200])
def test_powers_of_two_fall_below_their_own_bound(times, sign):
    """A bucket's upper bound belongs to it: an exact power of two is in the bucket that ends there."""
    for exponent in range(-1_022, 1_024):
        buckets = Distribution.of([sign * 2.0**exponent] * times).buckets
        lanes = buckets.positive if sign > 0 else buckets.negative
        assert dict(lanes.items()) == {exponent * 64 - 1: times}


# -- within one percent ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [100, 10_000, pytest.param(1_000_000, marks=pytest.mark.heavy)])
@pytest.mark.parametrize("family", FAMILIES)
def test_quantiles_are_within_one_percent(family, number):
    """From the median to p99.9, for every common shape of durations, a quantile is within 1 %."""
    source = random.Random(f"{family} {number}")
    values = [FAMILIES[family](source) for _ in range(number)]
    distribution = merge(Distribution.of(values[start : start + 5_000]) for start in range(0, number, 5_000))
    assert distribution.count == number
    assert distribution.relative_error < 0.0055
    check_quantiles(values, distribution, within=0.01)
    check_quantiles(values, distribution, within=distribution.relative_error)


@given(st.integers(), st.integers(129, 600))
def test_quantiles_from_a_nanosecond_to_a_lifetime(seed, number):
    """1e-9 to 1e12 in one series is held at full resolution, negative values and zeros too."""
    values = [1e-9, 1e12, *many(seed, number, -9, 12)]
    distribution = Distribution.of(values)
    assert distribution.scale == SCALE
    assert distribution.relative_error < 0.0055
    check_quantiles(values, distribution, within=0.01)


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.integers(1, 30))
def test_quantiles_are_in_order_between_the_extremes(values, times):
    """The minimum, p50, p90, p95, p99, p99.9 and the maximum never overtake each other."""
    distribution = Distribution.of(values * times)
    ordered = [distribution.min, *found(distribution).values(), distribution.max]
    assert ordered == sorted(ordered)


@given(st.sampled_from([0, 0.0, -0.0, 1, -3.5, 1e-300, 5e-324, 1.7e308]), st.integers(1, 200))
def test_a_constant_is_its_own_quantile(value, number):
    """Where all values are the same, so is every quantile, whatever the buckets' bounds are."""
    distribution = Distribution.of([value] * number)
    assert set(found(distribution).values()) == {float(value)}
    assert distribution.mean == value
    assert distribution.stddev == pytest.approx(0, abs=1e-12 * abs(value))


def test_zeros_and_signs_are_counted_apart():
    """Negative values, zeros and positive values are each found at their own ranks."""
    distribution = Distribution.of([-10.0] * 100 + [0] * 100 + [10.0] * 100)
    low, middle, high = distribution.quantiles(0.3, 0.6, 0.9)
    assert low == pytest.approx(-10, rel=0.01)
    assert middle == 0
    assert high == pytest.approx(10, rel=0.01)


# -- the range ---------------------------------------------------------------------------------------------


def test_eighty_octaves_fit_and_the_next_bucket_halves_the_resolution():
    """5120 bucket indexes of one sign are held; one more makes every bucket twice as wide."""
    inside = Distribution.of([1.0, 2.0**79.98] * 100)
    assert inside.scale == SCALE
    assert inside.buckets.positive.span == MAX_INDEXES
    outside = Distribution.of([1.0, 2.0**80] * 100)
    assert outside.scale == SCALE - 1
    assert inside.relative_error < outside.relative_error < 0.011


def test_signs_do_not_share_their_range():
    """Each sign has 80 octaves of its own."""
    assert Distribution.of([-(2.0**-40), 2.0**79, -1.0, 1.0] * 50).scale == SCALE


@given(st.integers(), st.integers(129, 400), st.integers(30, 300))
def test_a_wider_range_is_coarser_and_says_so(seed, number, reach):
    """Past 80 octaves the declared error grows, and every quantile is within what is declared."""
    values = [1e-100, 1e100, *many(seed, number, -reach, reach)]
    distribution = Distribution.of(values)
    assert distribution.scale < SCALE
    assert distribution.relative_error > 0.0055
    check_quantiles(values, distribution, within=distribution.relative_error)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_smallest_and_the_largest_float_fit(sign):
    """All floats that there are fit at once: nothing overflows, and extremes and ranks stay right."""
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
    """Draw groups of numbers, small and large, so that exact parts meet buckets and coarser buckets."""
    drawn = draw(st.lists(st.lists(NUMBERS, max_size=8), min_size=1, max_size=6))
    return [group * draw(st.sampled_from([1, 1, 20, 40])) for group in drawn]


@settings(max_examples=200)
@given(groups(), st.randoms(use_true_random=False))
def test_merging_in_any_grouping_is_recording_together(parts, source):
    """However recordings are grouped and merged, the result is that of one recording of everything."""
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
def test_merged_deviations_are_that_of_everything(values, data):
    """The deviation of two merged parts is that of the whole, also where their means differ."""
    cut = data.draw(st.integers(0, len(values)))
    merged = Distribution.of(values[:cut]).merge(Distribution.of(values[cut:]))
    assert merged.stddev == deviation(values)


@given(groups(), groups())
def test_what_is_merged_stays_as_it_was(one, other):
    """Merging changes neither of the two."""
    left, right = (merge(Distribution.of(part) for part in parts) for parts in (one, other))
    before = everything(left), everything(right)
    left.merge(right).merge(Distribution.of([1]))
    assert (everything(left), everything(right)) == before


def test_what_a_distribution_was_made_of_may_change():
    """A list that is changed or emptied later does not change the distribution that was made of it."""
    values = [1.0, 2.0, 3.0]
    distribution = Distribution.of(values)
    values.clear()
    assert distribution.quantiles(0.5, 1.0) == [2.0, 3.0]


def test_merged_small_distributions_stay_exact():
    """As long as both hold 128 values at most together, nothing is lost by merging."""
    merged = merge(Distribution.of([value]) for value in range(128))
    assert merged.relative_error == 0.0
    assert merged.quantiles(0.5) == [63.0]


def test_merging_a_coarser_distribution_makes_the_result_as_coarse():
    """Merged from either side, the result has the coarser of two resolutions, and says so."""
    coarse, fine = Distribution.of([1e-60, 1e60] * 100), Distribution.of([3.0] * 200)
    one, other = coarse.merge(fine), fine.merge(coarse)
    assert one.relative_error == other.relative_error == coarse.relative_error
    assert found(one) == found(other)
    assert content(one) == content(other)


# -- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 128, 10_000, pytest.param(1_000_000, marks=pytest.mark.heavy)])
def test_a_distribution_takes_less_than_8_kilobytes(number):
    """However many durations there are, and whether recorded at once or merged, memory is bounded."""
    source = random.Random(5)
    values = [source.lognormvariate(3, 1) for _ in range(number)]
    merged = merge(Distribution.of(values[start : start + 1_000]) for start in range(0, number, 1_000))
    for distribution in (merged, Distribution.of(values)):
        assert distribution.count == number
        assert footprint(distribution) < 8_000


def test_an_empty_distribution_has_empty_buckets():
    """Who asks for the buckets of nothing gets buckets without a count, not an error."""
    for empty in (EMPTY, Distribution(), Distribution.of([]), EMPTY.merge(Distribution())):
        assert content(empty)[1:] == ({}, 0, {})


def test_the_deviation_of_huge_numbers_that_cancel():
    """Numbers of both signs near the largest float have the deviation that they have, not an infinite one."""
    assert Distribution.of([1e308, -1e308] * 10).stddev == pytest.approx(1e308)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_float_can_be_recorded_again_and_again(sign):
    """The largest float three times, together or merged, is read as any other number."""
    largest = sign * sys.float_info.max
    for three in (Distribution.of([largest] * 3), merge([Distribution.of([largest])] * 3)):
        assert (three.count, three.min, three.max, three.sum) == (3, largest, largest, sign * math.inf)
        assert three.quantiles(0.5, 0.99) == [largest] * 2
        assert three.mean == pytest.approx(largest)
        assert three.stddev == pytest.approx(0, abs=1e297)


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**60 + 1, 2**60 - 1])
def test_quantiles_stay_between_extremes_that_no_float_holds(value):
    """Where an integer is no float, its quantile is still not below the least nor above the greatest."""
    distribution = Distribution.of([value])
    (median,) = distribution.quantiles(0.5)
    assert distribution.min <= median <= distribution.max
