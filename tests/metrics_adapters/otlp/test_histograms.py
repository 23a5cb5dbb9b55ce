"""Distributions become exponential histograms, and differences of them."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metrics_adapters.otlp.histograms import (
    MAX_BUCKETS,
    ConsecutiveCounts,
    ExplicitCounts,
    ExponentialCounts,
    exponential_of,
    exponential_since,
    is_zero,
    sent_value,
    value_since,
    was_reset,
)
from metrics_framework.recording import Distribution
from metrics_framework.recording.distribution import EXACT_VALUES

FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.lists(FINITE | st.integers(-(10**6), 10**6), min_size=1, max_size=400)


def counts_by_index(sent) -> dict[int | str, int]:
    """Return the counts of an exponential histogram by sign and index, and check their sum."""
    found = {
        ("+", index): count for index, count in enumerate(sent.positive.counts, sent.positive.low) if count
    }
    found |= {
        ("-", index): count for index, count in enumerate(sent.negative.counts, sent.negative.low) if count
    }
    if sent.zeros:
        found["zero", 0] = sent.zeros
    assert sum(found.values()) == sent.number
    return found


def at(value: float, scale: int) -> tuple[str, int]:
    """Return the bucket of a value by the data model: upper bounds are inclusive."""
    if value == 0:
        return "zero", 0
    index = math.ceil(math.log2(abs(value)) * 2.0**scale) - 1
    return "+" if value > 0 else "-", index


@settings(max_examples=30)
@given(VALUES)
def test_every_value_is_in_its_bucket(values):
    """Each value is in the bucket of the data model, with at most 160 buckets of each sign."""
    sent = sent_value(Distribution.of(values))
    assert isinstance(sent, ExponentialCounts)
    expected: dict[tuple[str, int], int] = {}
    for value in values:
        sign, index = at(value, 6)
        key = sign, index >> (6 - sent.scale)
        expected[key] = expected.get(key, 0) + 1
    assert counts_by_index(sent) == expected
    assert max(len(sent.positive.counts), len(sent.negative.counts)) <= MAX_BUCKETS
    assert (sent.min, sent.max) == (min(values), max(values))


@settings(max_examples=30)
@given(VALUES, VALUES)
def test_the_difference_has_the_later_values(first, second):
    """The difference is the distribution of the later values, at a scale that fits both."""
    before = Distribution.of(first)
    now = before.merge(Distribution.of(second))
    sent = value_since(now, before)
    assert isinstance(sent, ExponentialCounts)
    later = sent_value(Distribution.of(second))
    assert sent.number == len(second)
    assert (sent.min, sent.max) == (None, None)
    down = later.scale - sent.scale
    expected: dict[tuple[str, int], int] = {}
    for (sign, index), count in counts_by_index(later).items():
        key = sign, index >> down if down >= 0 else index
        expected[key] = expected.get(key, 0) + count
    if down >= 0:
        assert counts_by_index(sent) == expected


def test_a_negative_value_leaves_no_sum():
    """A sum with negative values may fall, so the protocol excludes it."""
    assert sent_value(Distribution.of([-1.0, 5.0])).sum is None
    assert sent_value(Distribution.of([0.0, 5.0])).sum == 5.0


def test_a_sum_beyond_the_floats_is_infinite():
    """The values are counted, and a difference has no sum."""
    large = Distribution.of([1.7e308, 1.7e308])
    assert sent_value(large).sum == math.inf
    assert value_since(large.merge(large), large).sum is None


@pytest.mark.parametrize(
    ("now", "before"),
    [
        (3, 5),
        (Distribution.of([1.0]), Distribution.of([1.0, 2.0])),
        (Distribution.of([0.0, -1.0]), Distribution.of([0.0, 1.0])),
        (Distribution.of([1.0]), Distribution.of([0.0])),
        (ExplicitCounts((1.0,), (1, 0), 1.0, None, None), ExplicitCounts((1.0,), (2, 0), 1.0, None, None)),
        (ExplicitCounts((1.0,), (1, 0), 1.0, None, None), ExplicitCounts((2.0,), (1, 0), 1.0, None, None)),
        (3, Distribution.of([1.0])),
    ],
)
def test_lost_values_are_a_reset(now, before):
    """A series with fewer values in any bucket was reset."""
    assert value_since(now, before) is None


def test_a_reset_is_detected_without_comparing_buckets():
    """Fewer values or narrower extremes are a reset; more values are not."""
    before = Distribution.of([1.0, 5.0])
    for fewer in ([1.0], [2.0, 5.0, 5.0], [1.0, 4.0, 4.0]):
        assert was_reset(Distribution.of(fewer), before)
    assert not was_reset(Distribution.of([1.0, 5.0, 7.0]), before)
    assert was_reset(2, 3)


def test_the_difference_of_equal_values_is_zero():
    """This holds for each kind of value."""
    for recorded in (
        4,
        4.5,
        Distribution.of([1.0, -2.0, 0.0]),
        ExplicitCounts((1.0,), (1, 2), 3.0, None, None),
    ):
        sent = value_since(recorded, recorded)
        assert sent is not None
        assert is_zero(sent)
        assert not is_zero(sent_value(recorded))


# Many values, so that none are kept as they are: how often each of a few is there.
TIMES = st.sampled_from([1, 2, 100, 255, 256, 300, 70_000])
MANY = st.dictionaries(st.sampled_from([*range(-9, 10), 1e-9, 500.0, 1e6]), TIMES, min_size=1, max_size=9)
FILL = {3.0: EXACT_VALUES + 1}


def distribution(counted) -> Distribution:
    """Return the distribution of values and their counts."""
    return Distribution.of([value for value, times in counted.items() for _ in range(times)])


def buckets_of(values: Distribution) -> dict[tuple[str, int], int]:
    """Return the counts of a distribution's own buckets by sign and index."""
    _, negative, zeros, positive = values.buckets
    found = {("+", index): count for index, count in positive.items()}
    found |= {("-", index): count for index, count in negative.items()}
    return found | ({("zero", 0): zeros} if zeros else {})


def counts_of(sent) -> dict[tuple[str, int], int]:
    """Return the counts of a histogram by sign and index."""

    def counted(sign: str, cells: ConsecutiveCounts) -> dict[tuple[str, int], int]:
        return {(sign, index): count for index, count in enumerate(cells.counts, cells.low) if count}

    zeros = {("zero", 0): sent.zeros} if sent.zeros else {}
    return counted("+", sent.positive) | counted("-", sent.negative) | zeros


def coarser(counts: dict[tuple[str, int], int], steps: int) -> dict[tuple[str, int], int]:
    """Return counts at a lower scale, computed bucket by bucket."""
    found: Counter[tuple[str, int]] = Counter()
    for (sign, index), count in counts.items():
        found[sign, index >> steps] += count
    return dict(found)


@settings(max_examples=50, deadline=None)
@given(MANY)
def test_many_values_are_in_their_buckets(counted):
    """Merging buckets loses no value, however large their counts are."""
    values = distribution(FILL | counted)
    sent = exponential_of(values)
    assert counts_of(sent) == coarser(buckets_of(values), values.scale - sent.scale)
    for cells in (sent.positive, sent.negative):
        assert len(cells.counts) <= MAX_BUCKETS


@settings(max_examples=50, deadline=None)
@given(MANY, MANY)
def test_the_difference_of_many_values_has_the_later_ones(first, second):
    """The widths of the packed counts do not matter."""
    before = distribution(FILL | first)
    later = distribution(second)
    sent = exponential_since(before.merge(later), before)
    assert sent is not None
    assert (sent.number, sent.min, sent.max) == (later.count, None, None)
    assert counts_of(sent) == coarser(buckets_of(later), later.scale - sent.scale)


@settings(max_examples=50, deadline=None)
@given(MANY, MANY)
@example({1: 1, 4: 100}, {1: 1, 4: 99, 5: 300})
@example({1: 1, 4: 300}, {1: 1, 4: 2, 5: 300})
@example({-1: 1, -4: 100}, {-1: 1, -5: 100})
@example({1: 2}, {1: 1})
@example({0: 2}, {0: 1})
def test_a_bucket_that_shrank_is_a_reset(first, second):
    """There is no difference if any bucket has fewer values than before."""
    before, now = distribution(FILL | first), distribution(FILL | second)
    had, has = buckets_of(before), buckets_of(now)
    shrank = any(has.get(place, 0) < count for place, count in had.items())
    assert (exponential_since(now, before) is None) == shrank


def test_an_unchanged_distribution_has_an_empty_difference():
    """It contains no values."""
    values = distribution({1.0: 200, -4.0: 100})
    sent = exponential_since(values, values)
    assert sent is not None
    assert (sent.number, counts_of(sent)) == (0, {})


def test_distributions_of_other_scales_are_compared():
    """If the store lowered the scale of the later one, the earlier one is lowered too."""
    before = distribution({1.0: 200})
    now = before.merge(distribution({1e-200: 1, 1e200: 1}))
    assert now.scale < before.scale
    sent = exponential_since(now, before)
    assert sent is not None
    assert sorted(counts_of(sent).values()) == [1, 1]
