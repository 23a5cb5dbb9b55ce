"""What a series holds as OpenTelemetry counts it, and what of it is new."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_adapters.otlp.histograms import (
    MAX_BUCKETS,
    Counted,
    Exponential,
    began_anew,
    is_empty,
    since,
    whole,
)
from metrics_framework.recording import Distribution

FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.lists(FINITE | st.integers(-(10**6), 10**6), min_size=1, max_size=400)


held = Distribution.of
"""Returns what a series of some values holds."""


def counted(part) -> dict[int | str, int]:
    """Return the counts of an exponential histogram by sign and index, after a check that they are whole."""
    found = {
        ("+", index): count for index, count in enumerate(part.positive.counts, part.positive.low) if count
    }
    found |= {
        ("-", index): count for index, count in enumerate(part.negative.counts, part.negative.low) if count
    }
    if part.zeros:
        found["zero", 0] = part.zeros
    assert sum(found.values()) == part.number
    return found


def at(value: float, scale: int) -> tuple[str, int]:
    """Return the bucket of a value by the rule of the data model: bounds are inclusive above."""
    if value == 0:
        return "zero", 0
    index = math.ceil(math.log2(abs(value)) * 2.0**scale) - 1
    return "+" if value > 0 else "-", index


@settings(max_examples=30)
@given(VALUES)
def test_every_value_is_in_its_bucket(values):
    """Each value is counted in the bucket that the data model names, in at most 160 buckets a sign."""
    part = whole(held(values))
    assert isinstance(part, Exponential)
    expected: dict[tuple[str, int], int] = {}
    for value in values:
        sign, index = at(value, 6)
        key = sign, index >> (6 - part.scale)
        expected[key] = expected.get(key, 0) + 1
    assert counted(part) == expected
    assert max(len(part.positive.counts), len(part.negative.counts)) <= MAX_BUCKETS
    assert (part.min, part.max) == (min(values), max(values))


@settings(max_examples=30)
@given(VALUES, VALUES)
def test_what_is_new_is_what_came_after(first, second):
    """The part since some values is the distribution of the later ones, at a scale that both fit into."""
    before = held(first)
    now = before.merge(held(second))
    part = since(now, before)
    assert isinstance(part, Exponential)
    later = whole(held(second))
    assert part.number == len(second)
    assert (part.min, part.max) == (None, None)
    down = later.scale - part.scale
    expected: dict[tuple[str, int], int] = {}
    for (sign, index), count in counted(later).items():
        key = sign, index >> down if down >= 0 else index
        expected[key] = expected.get(key, 0) + count
    if down >= 0:
        assert counted(part) == expected


def test_a_negative_value_leaves_no_sum():
    """The protocol has no sum of a histogram with negative values, as it may fall."""
    assert whole(held([-1.0, 5.0])).sum is None
    assert whole(held([0.0, 5.0])).sum == 5.0


def test_a_sum_beyond_the_floats_is_infinite():
    """Values whose sum leaves the floats are counted all the same; of what is new there is no sum then."""
    large = held([1.7e308, 1.7e308])
    assert whole(large).sum == math.inf
    assert since(large.merge(large), large).sum is None


@pytest.mark.parametrize(
    ("now", "before"),
    [
        (3, 5),
        (held([1.0]), held([1.0, 2.0])),
        (held([0.0, -1.0]), held([0.0, 1.0])),
        (held([1.0]), held([0.0])),
        (Counted((1.0,), (1, 0), 1.0, None, None), Counted((1.0,), (2, 0), 1.0, None, None)),
        (Counted((1.0,), (1, 0), 1.0, None, None), Counted((2.0,), (1, 0), 1.0, None, None)),
        (3, held([1.0])),
    ],
)
def test_what_lost_something_began_anew(now, before):
    """A series that holds less than before in any place is another one."""
    assert since(now, before) is None


def test_a_lost_value_is_seen_without_its_buckets():
    """Fewer values or narrower extremes say that a series began anew; more of them do not."""
    before = held([1.0, 5.0])
    for fewer in ([1.0], [2.0, 5.0, 5.0], [1.0, 4.0, 4.0]):
        assert began_anew(held(fewer), before)
    assert not began_anew(held([1.0, 5.0, 7.0]), before)
    assert began_anew(2, 3)


def test_nothing_new_is_empty():
    """A series that nothing was recorded of since has an empty part, of each kind."""
    for content in (4, 4.5, held([1.0, -2.0, 0.0]), Counted((1.0,), (1, 2), 3.0, None, None)):
        part = since(content, content)
        assert part is not None
        assert is_empty(part)
        assert not is_empty(whole(content))
