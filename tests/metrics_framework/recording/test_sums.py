"""Sums that lose nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.recording.sums import Sum

INTEGERS = st.integers(-(2**70), 2**70)
POSITIVE = st.floats(min_value=0, max_value=1e300)
SIGNED = st.floats(min_value=-1e300, max_value=1e300)


def add_all(values) -> Sum:
    """Return the sum of values."""
    result = Sum()
    for value in values:
        result.add(value)
    return result


def test_nothing_adds_up_to_zero():
    """An empty sum is the integer 0."""
    assert Sum().value == 0
    assert isinstance(Sum().value, int)


@given(st.lists(INTEGERS))
def test_integers_are_exact(values):
    """The sum of integers is their exact sum, far beyond 2^53, and an integer."""
    result = add_all(values).value
    assert result == sum(values)
    assert isinstance(result, int)


@given(st.lists(POSITIVE | st.integers(0, 2**53)))
def test_floats_are_within_a_trillionth(values):
    """The sum of floats and integers of one sign is within 1e-12 of the true one."""
    assert add_all(values).value == pytest.approx(math.fsum(values), rel=1e-12, abs=0)


@given(st.lists(SIGNED))
def test_the_error_does_not_grow_by_cancelling(values):
    """With both signs the error is within 1e-12 of the sum of magnitudes."""
    allowed = 1e-12 * math.fsum(map(abs, values))
    assert abs(add_all(values).value - math.fsum(values)) <= allowed


def test_a_million_tenths():
    """Rounding errors do not pile up: a plain float sum would be off by 1e-11 here."""
    assert add_all([0.1] * 1_000_000).value == pytest.approx(100_000, rel=1e-15)


@pytest.mark.parametrize("values", [[1.0, 1e100, 1.0, -1e100], [1, 1e100, 1, -1e100]])
def test_what_a_large_number_swallows_comes_back(values):
    """Small numbers survive a large one that comes and goes."""
    assert add_all(values).value == 2


@given(st.lists(st.lists(SIGNED | INTEGERS)))
def test_merged_sums_are_the_sum_of_all(groups):
    """Summing in groups and merging the groups gives the same as summing everything."""
    merged = Sum()
    for group in groups:
        merged.merge(add_all(group))
    everything = [value for group in groups for value in group]
    allowed = 1e-12 * math.fsum(map(abs, everything))
    assert abs(merged.value - math.fsum(everything)) <= allowed


@given(st.lists(st.lists(INTEGERS)))
def test_merged_integers_are_exact(groups):
    """Merging keeps integers exact."""
    merged = Sum()
    for group in groups:
        merged.merge(add_all(group))
    assert merged.value == sum(map(sum, groups))
    assert isinstance(merged.value, int)


def test_merging_keeps_what_rounding_lost_in_both():
    """The error that each sum carries along is not lost when they are merged."""
    tiny = 2.0**-60
    one, other = add_all([1.0, tiny]), add_all([1.0, tiny])
    one.merge(other)
    one.add(-2.0)
    assert one.value == 2 * tiny


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("values", [[1.7e308, 1.7e308, 1.0], [10**308] * 20 + [0.5], [0.5] + [10**308] * 20])
def test_a_sum_beyond_the_largest_float_is_infinite(sign, values):
    """Where no float can hold the sum it is infinite, never NaN, and adding goes on."""
    result = add_all(sign * value for value in values)
    result.add(1.0)
    assert result.value == sign * math.inf


@pytest.mark.parametrize("sign", [1, -1])
def test_merging_beyond_the_largest_float_is_infinite(sign):
    """An integer sum that no float can hold may be merged into a sum of floats."""
    small, large = add_all([0.5]), add_all([sign * 10**308] * 20)
    small.merge(large)
    assert small.value == sign * math.inf
