"""Sums that lose nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.recording import sums

INTEGERS = st.integers(-(2**200), 2**200)
POSITIVE = st.floats(min_value=0, max_value=1e300)
SIGNED = st.floats(min_value=-1e300, max_value=1e300)


def run(batches) -> sums.Sum:
    """Return a running sum of batches."""
    running = sums.ZERO
    for batch in batches:
        running = sums.add(running, sums.sum_of(batch))
    return running


def total(batches) -> int | float:
    """Return the sum of batches."""
    return sums.value_of(run(batches))


def one_by_one(values) -> sums.Sum:
    """Return a running sum to which each value was added on its own."""
    return run([value] for value in values)


def test_nothing_adds_up_to_zero():
    """An empty sum is the integer 0."""
    for nothing in (sums.value_of(sums.ZERO), sums.sum_of([]), total([[], []])):
        assert nothing == 0
        assert isinstance(nothing, int)


@given(st.lists(st.lists(INTEGERS)))
def test_integers_are_exact(batches):
    """The sum of integers of any size is their exact sum, and an integer."""
    result = total(batches)
    assert result == sum(map(sum, batches))
    assert isinstance(result, int)


def test_integers_beyond_every_float_are_exact():
    """As long as there are only integers the sum may leave the floats without losing a digit."""
    result = total([[10**308] * 20, [1]])
    assert result == 20 * 10**308 + 1
    assert isinstance(result, int)


@given(st.lists(st.lists(POSITIVE | st.integers(0, 2**53), max_size=10), max_size=50))
def test_floats_are_within_a_trillionth(batches):
    """Over many batches of floats and integers of one sign the sum is within 1e-12 of the true one."""
    everything = [value for batch in batches for value in batch]
    assert total(batches) == pytest.approx(math.fsum(everything), rel=1e-12, abs=0)


@given(st.lists(st.lists(SIGNED | st.integers(-(2**70), 2**70), max_size=10), max_size=30))
def test_the_error_does_not_grow_by_cancelling(batches):
    """With both signs the error is within 1e-12 of the sum of magnitudes."""
    everything = [value for batch in batches for value in batch]
    assert abs(total(batches) - math.fsum(everything)) <= 1e-12 * math.fsum(map(abs, everything))


@given(st.lists(SIGNED))
def test_a_batch_of_floats_is_the_nearest_float(values):
    """Within one batch floats are added up to the float that is nearest to the true sum."""
    assert sums.sum_of(values) == math.fsum(values)


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_a_hundred_thousand_tenths(size):
    """Rounding errors do not pile up over many batches: a plain sum would be off by 1e-12 and more."""
    result = total([[0.1] * size] * (100_000 // size))
    assert result == pytest.approx(100_000 // size * size * 0.1, rel=1e-15, abs=0)


@pytest.mark.parametrize("values", [[1.0, 1e100, 1.0, -1e100], [1, 1e100, 1, -1e100]])
def test_what_a_large_number_swallows_comes_back(values):
    """Small numbers survive a large one that comes and goes, in one batch and in many."""
    assert sums.sum_of(values) == 2
    assert sums.value_of(one_by_one(values)) == 2


@given(st.lists(INTEGERS), st.floats(-1e6, 1e6), st.lists(INTEGERS))
def test_one_float_among_integers_makes_a_float(before, value, after):
    """A sum that saw a float anywhere is a float, wherever in a batch it was."""
    assert isinstance(sums.sum_of([*before, value, *after]), float)
    assert isinstance(total([before, [value], after]), float)


@given(st.lists(st.lists(st.lists(SIGNED | st.integers(-(2**70), 2**70), max_size=5), max_size=5)))
def test_merged_sums_are_the_sum_of_all(groups):
    """Summing in groups and merging the groups gives the same as summing everything."""
    merged = sums.ZERO
    for group in groups:
        merged = sums.merge(merged, run(group))
    everything = [value for group in groups for batch in group for value in batch]
    allowed = 1e-12 * math.fsum(map(abs, everything))
    assert abs(sums.value_of(merged) - math.fsum(everything)) <= allowed


@given(st.lists(st.lists(INTEGERS)))
def test_merged_integers_are_exact(groups):
    """Merging keeps integers exact."""
    merged = sums.ZERO
    for group in groups:
        merged = sums.merge(merged, run([group]))
    assert sums.value_of(merged) == sum(map(sum, groups))
    assert isinstance(sums.value_of(merged), int)


def test_merging_keeps_what_rounding_lost_in_both():
    """The error that each sum carries along is not lost when they are merged."""
    tiny = 2.0**-60
    one, other = one_by_one([1.0, tiny]), one_by_one([1.0, tiny])
    assert sums.value_of(sums.add(sums.merge(one, other), -2.0)) == 2 * tiny


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    "values", [[1.7e308, 1.7e308, 1.0], [1, 1.7e308, 1.7e308], [0.5] + [10**308] * 20], ids=str
)
def test_a_sum_beyond_the_largest_float_is_infinite(sign, values):
    """Where no float can hold the sum it is infinite, never NaN, and adding goes on."""
    batch = [sign * value for value in values]
    assert sums.sum_of(batch) == sign * math.inf
    running = one_by_one(batch)
    assert sums.value_of(running) == sign * math.inf
    assert sums.value_of(sums.add(running, 1.0)) == sign * math.inf


@pytest.mark.parametrize("sign", [1, -1])
def test_integers_that_no_float_holds_meet_a_float(sign):
    """An integer sum that no float can hold becomes infinite when a float is added or merged."""
    large = run([[sign * 10**308] * 20])
    assert sums.value_of(sums.add(large, 0.5)) == sign * math.inf
    assert sums.value_of(sums.merge(large, run([[0.5]]))) == sign * math.inf
    assert sums.value_of(sums.merge(run([[0.5]]), large)) == sign * math.inf


@pytest.mark.parametrize(
    "values",
    [[(1.0, 2)], [1, (1, 2)], [1.0, (1.0, 2)], [(1.0, 2), 1.0], [1, 1.0, (1, 2)], [1e308, 1e308, (1, 2)]],
    ids=str,
)
def test_a_pair_is_no_number(values):
    """A tuple among the values is a `TypeError`, wherever it stands."""
    with pytest.raises(TypeError):
        sums.sum_of(values)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_float_after_integers_that_no_float_holds(sign):
    """A batch whose integers outgrow every float is infinite as soon as a float follows them."""
    assert sums.sum_of([sign * 10**308] * 20 + [0.5]) == sign * math.inf
