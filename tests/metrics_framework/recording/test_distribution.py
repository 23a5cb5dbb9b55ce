"""Distributions: exact while they are small, within 1 % for ever after, and mergeable in any grouping."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterable
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_framework.recording.distribution import EXACT_VALUES, SCALE, Distribution

SHARES = ("0.5", "0.9", "0.95", "0.99", "0.999")

FAMILIES: dict[str, Callable[[random.Random], float]] = {
    "lognormal": lambda source: source.lognormvariate(3, 1.5),
    "exponential": lambda source: source.expovariate(0.01),
    "bimodal": lambda source: source.gauss(5, 0.5) if source.random() < 0.8 else source.gauss(900, 30),
    "uniform": lambda source: source.uniform(10, 1_000),
    "pareto": lambda source: source.paretovariate(1.5),
}

FINITE = st.floats(min_value=-1e15, max_value=1e15)
WIDE = st.tuples(st.floats(-1, 1), st.integers(-200, 200)).map(lambda pair: pair[0] * 10.0 ** pair[1])
NUMBERS = FINITE | WIDE | st.integers(-(10**15), 10**15) | st.just(0)


def record(values: Iterable[float]) -> Distribution:
    """Return the distribution of values."""
    distribution = Distribution()
    for value in values:
        distribution.record(value)
    return distribution


def nearest_rank(values: Iterable[float], share: str) -> float:
    """Return the smallest value that at least that share of all values do not exceed, by exact arithmetic."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(Fraction(share) * len(ordered))) - 1]


def found(distribution: Distribution) -> dict[str, float]:
    """Return the distribution's quantile for each share."""
    return dict(zip(SHARES, distribution.quantiles(*map(float, SHARES)), strict=True))


def check_quantiles(values: list[float], distribution: Distribution, within: float) -> None:
    """Compare every quantile with the true one."""
    for share, quantile in found(distribution).items():
        true = nearest_rank(values, share)
        assert abs(quantile - true) <= within * abs(true), share


def deviation(values: list[float]) -> object:
    """Return what equals the standard deviation, but for rounding; squares of tiny numbers are no numbers."""
    allowed = max(1e-9 * max(map(abs, values)), 1e-150)
    return pytest.approx(statistics.pstdev(values), rel=1e-9, abs=allowed)


def many(seed: int, number: int, low: int, high: int) -> list[float]:
    """Return numbers whose magnitudes spread evenly over powers of ten, of both signs, and zeros."""
    source = random.Random(seed)
    return [source.choice([-1, 0, 1, 1]) * 10 ** source.uniform(low, high) for _ in range(number)]


# -- exact ---------------------------------------------------------------------------------------------


@given(st.lists(NUMBERS, min_size=1, max_size=EXACT_VALUES))
def test_quantiles_of_few_values_are_exact(values):
    """Up to 128 values every quantile is one of them, that of the nearest rank, and no error is declared."""
    distribution = record(values)
    assert found(distribution) == {share: float(nearest_rank(values, share)) for share in SHARES}
    assert distribution.relative_error == 0.0


@pytest.mark.parametrize("number", [1, 2, 3, 10, 100, 127, 128])
def test_ranks_are_never_off_by_one(number):
    """For each whole percent the quantile of 1..n is the rank itself: nothing is interpolated."""
    distribution = record(range(1, number + 1))
    for percent in range(1, 101):
        assert distribution.quantiles(percent / 100) == [math.ceil(Fraction(percent, 100) * number)]


def test_the_last_exact_value_is_number_128():
    """128 values are kept as they are; the next one makes it buckets."""
    distribution = record(range(1, 129))
    assert distribution.quantiles(0.5) == [64.0]
    distribution.record(129)
    assert 0 < distribution.relative_error < 0.0055


@given(st.lists(NUMBERS, min_size=1, max_size=300))
def test_count_and_extremes_are_exact(values):
    """Count, minimum and maximum are exact whatever is recorded and however much."""
    distribution = record(values)
    assert (distribution.count, distribution.min, distribution.max) == (len(values), min(values), max(values))


@given(st.lists(st.integers(-(10**15), 10**15), max_size=300))
def test_a_sum_of_integers_is_exact(values):
    """A sum of integers is their sum."""
    assert record(values).sum == sum(values)


@given(st.lists(NUMBERS, min_size=1, max_size=300))
def test_sum_and_mean_are_within_a_trillionth(values):
    """Sum and mean are within 1e-12 of the sum of magnitudes."""
    distribution = record(values)
    allowed = 1e-12 * math.fsum(map(abs, values))
    assert abs(distribution.sum - math.fsum(values)) <= allowed
    assert abs(distribution.mean - math.fsum(values) / len(values)) <= allowed


@given(st.lists(st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6), min_size=1, max_size=300))
def test_the_deviation_is_that_of_the_population(values):
    """The standard deviation is the one of the population form."""
    assert record(values).stddev == deviation(values)


def test_the_deviation_does_not_cancel_away():
    """A small spread around a large number is not lost to rounding."""
    values = [1e9 + number % 3 for number in range(10_000)]
    assert record(values).stddev == pytest.approx(statistics.pstdev(values), rel=1e-6)


def test_an_empty_distribution_has_neither_quantiles_nor_made_up_numbers():
    """Nothing was recorded: sums are zero, and a quantile is an error."""
    empty = Distribution()
    assert (empty.count, empty.sum, empty.mean, empty.stddev) == (0, 0, 0.0, 0.0)
    with pytest.raises(ValueError, match="empty"):
        empty.quantiles(0.5)


# -- within one percent ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [100, 10_000, pytest.param(1_000_000, marks=pytest.mark.heavy)])
@pytest.mark.parametrize("family", FAMILIES)
def test_quantiles_are_within_one_percent(family, number):
    """From the median to p99.9, for every common shape of durations, a quantile is within 1 %."""
    source = random.Random(f"{family} {number}")
    values = [FAMILIES[family](source) for _ in range(number)]
    distribution = record(values)
    assert distribution.relative_error < 0.01
    check_quantiles(values, distribution, within=distribution.relative_error)


@given(st.integers(), st.integers(129, 600))
def test_quantiles_from_a_nanosecond_to_a_lifetime(seed, number):
    """24 decades, 1e-9 to 1e12 among them, are held at full resolution, negative values and zeros too."""
    values = many(seed, number, -9, 12)
    distribution = record(values)
    assert distribution.scale == SCALE
    assert distribution.relative_error < 0.0055
    check_quantiles(values, distribution, within=0.01)


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.integers(1, 30))
def test_quantiles_are_in_order_between_the_extremes(values, times):
    """The minimum, p50, p90, p95, p99, p99.9 and the maximum never overtake each other."""
    distribution = record(values * times)
    ordered = [distribution.min, *found(distribution).values(), distribution.max]
    assert ordered == sorted(ordered)


@given(st.sampled_from([0, 0.0, -0.0, 1, -3.5, 1e-300]), st.integers(129, 200))
def test_a_constant_is_its_own_quantile(value, number):
    """Where all values are the same, so is every quantile, whatever the buckets' bounds are."""
    distribution = record([value] * number)
    assert set(found(distribution).values()) == {float(value)}
    assert distribution.stddev == pytest.approx(0, abs=1e-12 * abs(value))


@given(st.integers(-60, 60), st.integers(150, 200))
def test_powers_of_two_fall_below_their_own_bound(exponent, number):
    """A bucket's upper bound belongs to it: an exact power of two is in the bucket that ends there."""
    power = 2.0**exponent
    (quantile,) = record([power] * number + [power * 1.5]).quantiles(0.5)
    assert quantile <= power
    assert quantile >= power * 0.99


def test_zeros_and_signs_are_counted_apart():
    """Negative values, zeros and positive values are each found at their own ranks."""
    distribution = record([-10.0] * 100 + [0] * 100 + [10.0] * 100)
    low, middle, high = distribution.quantiles(0.3, 0.6, 0.9)
    assert low == pytest.approx(-10, rel=0.01)
    assert middle == 0
    assert high == pytest.approx(10, rel=0.01)


# -- the range ---------------------------------------------------------------------------------------------


def test_eighty_octaves_fit_and_the_next_bucket_halves_the_resolution():
    """5120 bucket indexes of one sign are held; one more makes every bucket twice as wide."""
    inside = record([1.0, 2.0**79.98] * 100)
    assert inside.scale == SCALE
    outside = record([1.0, 2.0**80] * 100)
    assert outside.scale == SCALE - 1
    assert inside.relative_error < outside.relative_error < 0.011


def test_signs_do_not_share_their_range():
    """Each sign has 80 octaves of its own."""
    assert record([-(2.0**-40), 2.0**79, -1.0, 1.0] * 50).scale == SCALE


@given(st.integers(), st.integers(129, 400), st.integers(30, 300))
def test_a_wider_range_is_coarser_and_says_so(seed, number, reach):
    """Past 80 octaves the declared error grows, and every quantile is within what is declared."""
    values = [1e-100, 1e100, *many(seed, number, -reach, reach)]
    distribution = record(values)
    assert distribution.scale < SCALE
    assert distribution.relative_error > 0.0055
    check_quantiles(values, distribution, within=distribution.relative_error)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_smallest_and_the_largest_float_fit(sign):
    """All floats that there are fit at once: nothing overflows, and extremes and ranks stay right."""
    tiny, huge = 5e-324, 1.7e308
    distribution = record([sign * tiny, sign * huge] * 100)
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
    together = record(value for part in parts for value in part)
    pending = [record(part) for part in parts]
    while len(pending) > 1:
        source.shuffle(pending)
        one = pending.pop()
        pending[0].merge(one)
    merged = pending[0]
    assert (merged.count, merged.min, merged.max) == (together.count, together.min, together.max)
    assert (merged.scale, merged.relative_error) == (together.scale, together.relative_error)
    magnitudes = math.fsum(abs(value) for part in parts for value in part)
    assert abs(merged.sum - together.sum) <= 1e-12 * magnitudes
    if together.count:
        assert found(merged) == found(together)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=300), st.data())
def test_merged_deviations_are_that_of_everything(values, data):
    """The deviation of two merged parts is that of the whole, also where their means differ."""
    cut = data.draw(st.integers(0, len(values)))
    merged = record(values[:cut])
    merged.merge(record(values[cut:]))
    assert merged.stddev == deviation(values)


@given(st.lists(NUMBERS, max_size=200), st.lists(NUMBERS, max_size=200))
def test_what_is_merged_stays_as_it_was(one, other):
    """Merging reads the other distribution and changes only its own."""
    target, source = record(one), record(other)
    target.merge(source)
    target.record(1)
    untouched = record(other)
    assert (source.count, source.sum, source.min, source.max) == (
        untouched.count,
        untouched.sum,
        untouched.min,
        untouched.max,
    )
    if other:
        assert found(source) == found(untouched)


def test_merged_small_distributions_stay_exact():
    """As long as both hold 128 values at most together, nothing is lost by merging."""
    merged = record(range(64))
    merged.merge(record(range(64, 128)))
    assert merged.relative_error == 0.0
    assert merged.quantiles(0.5) == [63.0]


def test_merging_a_coarser_distribution_makes_the_result_as_coarse():
    """Merged from either side, the result has the coarser of two resolutions, and says so."""
    coarse, fine = record([1e-60, 1e60] * 100), record([3.0] * 200)
    one, other = record([1e-60, 1e60] * 100), record([3.0] * 200)
    one.merge(fine)
    other.merge(coarse)
    assert one.relative_error == other.relative_error == coarse.relative_error
    assert found(one) == found(other)


# -- memory ------------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_memory_does_not_grow_with_the_number_of_values():
    """A distribution of a hundred thousand values is hardly larger than one of a thousand."""
    import tracemalloc

    def size(number: int) -> int:
        source = random.Random(5)
        tracemalloc.start()
        distribution = record(source.uniform(1, 1_000) for _ in range(number))
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert distribution.count == number
        return used

    assert size(100_000) < 3 * size(1_000)
