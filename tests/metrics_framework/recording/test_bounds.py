"""Counts between bounds that an application chose."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import sums
from metrics_framework.recording.bounds import BucketCounts, check_bounds

# Few numbers on purpose: values meet bounds exactly again and again.
BOUNDS = st.sets(st.integers(-5, 5).map(float) | st.floats(-10, 10), min_size=1, max_size=6).map(
    lambda drawn: tuple(sorted(drawn))
)
VALUES = st.integers(-6, 6) | st.floats(-12, 12)


@given(BOUNDS, st.lists(st.lists(VALUES, max_size=20), max_size=5))
def test_counts_are_those_of_looking_at_each_value(bounds, batches):
    """Each value is counted in the one bucket whose bounds enclose it; a bound belongs to the lower one."""
    buckets = BucketCounts.between(bounds)
    for batch in batches:
        buckets = buckets.with_values(batch)
    values = [value for batch in batches for value in batch]
    edges = (-math.inf, *bounds, math.inf)
    assert buckets.counts == tuple(
        sum(low < value <= high for value in values) for low, high in pairwise(edges)
    )
    assert buckets.bounds == bounds
    assert sums.value_of(buckets.total) == pytest.approx(math.fsum(values), rel=1e-9, abs=1e-9)


@given(BOUNDS, st.lists(VALUES, max_size=30))
def test_cumulated_counts_are_the_values_up_to_each_bound(bounds, values):
    """For each bound one learns how many values do not exceed it; infinity comes last and has them all."""
    cumulated = BucketCounts.between(bounds).with_values(values).cumulated()
    assert list(cumulated) == [*bounds, math.inf]
    assert cumulated == {bound: sum(value <= bound for value in values) for bound in (*bounds, math.inf)}


def test_a_bound_belongs_to_the_bucket_below():
    """A value on a bound is counted up to it, the next float above is not."""
    counts = BucketCounts.between((1.0, 2.0)).with_values([1, 1.0, math.nextafter(1.0, 2), 2.0, 2.5])
    assert counts.counts == (2, 2, 1)


def test_adding_leaves_what_was_there_as_it_was():
    """Counts that were read stay as they were when more values arrive."""
    first = BucketCounts.between((1.0,)).with_values([0.5, 3])
    first.with_values([0.5] * 10)
    assert first.counts == (1, 1)
    assert sums.value_of(first.total) == 3.5


def test_counting_starts_again_from_nothing():
    """New counts between the same bounds are empty, whatever was counted before."""
    used = BucketCounts.between((1.0, 2.0)).with_values([1, 2, 3])
    again = BucketCounts.between(used.bounds)
    assert (again.counts, sums.value_of(again.total)) == ((0, 0, 0), 0)
    assert again.cumulated() == {1.0: 0, 2.0: 0, math.inf: 0}


@given(st.lists(st.integers(0, 10**30)))
def test_the_total_of_integers_is_exact(values):
    """The sum beside the counts keeps integers exact."""
    assert sums.value_of(BucketCounts.between((5.0,)).with_values(values).total) == sum(values)


@pytest.mark.parametrize(
    ("bounds", "plain"),
    [
        ((0.1, 0.5, 1), (0.1, 0.5, 1.0)),
        ([1, 2, math.inf], (1.0, 2.0)),
        (range(3), (0.0, 1.0, 2.0)),
        ((-1, 0, 1), (-1.0, 0.0, 1.0)),
        ([5], (5.0,)),
    ],
)
def test_bounds_become_floats_without_infinity(bounds, plain):
    """Any ascending finite numbers are bounds; a last infinity is implied and left out."""
    checked = check_bounds(bounds)
    assert checked == plain
    assert all(type(bound) is float for bound in checked)


@pytest.mark.parametrize(
    "bounds",
    [
        [],
        (),
        [math.inf],
        [1, 1],
        [2, 1],
        [1, math.nan],
        [math.nan],
        [-math.inf, 1],
        [1, math.inf, 2],
        [1, math.inf, math.inf],
        [1, 10**400],
        ["a", "b"],
        [None],
        [1, (2,)],
        5,
        None,
    ],
    ids=lambda bounds: str(bounds)[:20],
)
def test_what_is_no_ascending_row_of_numbers_is_refused(bounds):
    """The error quotes what was passed."""
    with pytest.raises(InvalidInputError, match=re.escape(f"buckets={bounds!r} ")):
        check_bounds(bounds)
