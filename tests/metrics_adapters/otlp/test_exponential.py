"""Distributions of many values as exponential histograms."""

from __future__ import annotations

from collections import Counter

from hypothesis import example, given, settings
from hypothesis import strategies as st

from metrics_adapters.otlp.histograms import MAX_BUCKETS, Cells, new_of, whole_of
from metrics_framework.recording import Distribution
from metrics_framework.recording.distribution import EXACT_VALUES

# Many values, so that none are kept as they are: how often each of a few is there.
TIMES = st.sampled_from([1, 2, 100, 255, 256, 300, 70_000])
MANY = st.dictionaries(st.sampled_from([*range(-9, 10), 1e-9, 500.0, 1e6]), TIMES, min_size=1, max_size=9)
FILL = {3.0: EXACT_VALUES + 1}


def distribution(counted) -> Distribution:
    """Return the distribution of some values, each as many times as it is said."""
    return Distribution.of([value for value, times in counted.items() for _ in range(times)])


def buckets_of(values: Distribution) -> dict[tuple[str, int], int]:
    """Return the counts of a distribution's own buckets by sign and index."""
    _, negative, zeros, positive = values.buckets
    found = {("+", index): count for index, count in positive.items()}
    found |= {("-", index): count for index, count in negative.items()}
    return found | ({("zero", 0): zeros} if zeros else {})


def counts_of(part) -> dict[tuple[str, int], int]:
    """Return the counts of a histogram by sign and index."""

    def counted(sign: str, cells: Cells) -> dict[tuple[str, int], int]:
        return {(sign, index): count for index, count in enumerate(cells.counts, cells.low) if count}

    zeros = {("zero", 0): part.zeros} if part.zeros else {}
    return counted("+", part.positive) | counted("-", part.negative) | zeros


def coarser(counts: dict[tuple[str, int], int], steps: int) -> dict[tuple[str, int], int]:
    """Return counts at a lower scale, one bucket after the other."""
    found: Counter[tuple[str, int]] = Counter()
    for (sign, index), count in counts.items():
        found[sign, index >> steps] += count
    return dict(found)


@settings(max_examples=50, deadline=None)
@given(MANY)
def test_many_values_are_in_their_buckets(counted):
    """The buckets of a distribution are made coarser without a value lost, however full they are."""
    values = distribution(FILL | counted)
    part = whole_of(values)
    assert counts_of(part) == coarser(buckets_of(values), values.scale - part.scale)
    for cells in (part.positive, part.negative):
        assert len(cells.counts) <= MAX_BUCKETS


@settings(max_examples=50, deadline=None)
@given(MANY, MANY)
def test_of_many_values_those_that_are_new_are_told(first, second):
    """What is new are the later values, whatever the widths of their packed counts."""
    before = distribution(FILL | first)
    later = distribution(second)
    part = new_of(before.merge(later), before)
    assert part is not None
    assert (part.number, part.min, part.max) == (later.count, None, None)
    assert counts_of(part) == coarser(buckets_of(later), later.scale - part.scale)


@settings(max_examples=50, deadline=None)
@given(MANY, MANY)
@example({1: 1, 4: 100}, {1: 1, 4: 99, 5: 300})
@example({1: 1, 4: 300}, {1: 1, 4: 2, 5: 300})
@example({-1: 1, -4: 100}, {-1: 1, -5: 100})
@example({1: 2}, {1: 1})
@example({0: 2}, {0: 1})
def test_a_bucket_that_shrank_is_seen(first, second):
    """There is nothing new of a distribution that has fewer values in any bucket than it had."""
    before, now = distribution(FILL | first), distribution(FILL | second)
    had, has = buckets_of(before), buckets_of(now)
    shrank = any(has.get(place, 0) < count for place, count in had.items())
    assert (new_of(now, before) is None) == shrank


def test_what_is_new_may_be_nothing():
    """Of a distribution that is as it was there are no new values."""
    values = distribution({1.0: 200, -4.0: 100})
    part = new_of(values, values)
    assert part is not None
    assert (part.number, counts_of(part)) == (0, {})


def test_distributions_of_other_scales_are_compared():
    """Where the later one had to be made coarser in the store, the earlier one is as well."""
    before = distribution({1.0: 200})
    now = before.merge(distribution({1e-200: 1, 1e200: 1}))
    assert now.scale < before.scale
    part = new_of(now, before)
    assert part is not None
    assert sorted(counts_of(part).values()) == [1, 1]
