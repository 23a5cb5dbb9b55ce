"""Packed bucket counts against a plain counter."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metrics_framework.recording.lanes import EMPTY, Lanes

EDGES = [edge + near for edge in (2**8, 2**16, 2**32) for near in (-1, 0, 1)]
COUNTS = st.integers(1, 300) | st.sampled_from(EDGES) | st.integers(1, 2**40)
MODELS = st.dictionaries(st.integers(-300, 300), COUNTS, max_size=12).map(Counter)
SOME = MODELS.filter(bool)


def pack(model: Counter[int]) -> Lanes:
    """Return a model's counts as lanes."""
    if not model:
        return EMPTY
    low, high = min(model), max(model)
    return Lanes.pack(low, [model[index] for index in range(low, high + 1)])


def check(lanes: Lanes, model: Counter[int]) -> None:
    """Compare everything that lanes tell with the model."""
    assert dict(lanes.items()) == model
    assert [index for index, _ in lanes.items()] == sorted(model)
    assert lanes.fullest() == max(model.values(), default=0)
    assert lanes.peak >= lanes.fullest()
    assert lanes.fullest() < 1 << lanes.bits
    if model:
        low, high = min(model), max(model)
        assert (lanes.low, lanes.high, lanes.span) == (low, high, high - low + 1)
        assert lanes.counts() == tuple(model[index] for index in range(low, high + 1))
    else:
        assert (lanes.span, lanes.counts()) == (0, ())


@given(MODELS)
def test_what_is_packed_comes_out_again(model):
    """Counts, indexes, span and the highest index are those that were packed."""
    check(pack(model), model)


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
    """The narrowest of 8, 16, 32 and 64 bits is taken, exactly up to the largest count that it holds."""
    lanes = Lanes.pack(-7, [1, 0, peak, 0, 1])
    assert lanes.bits == bits
    check(lanes, Counter({-7: 1, -5: peak, -3: 1}))


@given(MODELS, MODELS)
def test_merging_adds_bucket_by_bucket(one, other):
    """The merge of two holds the sums, and both operands stay as they were."""
    left, right = pack(one), pack(other)
    merged = left.merge(right)
    check(merged, one + other)
    check(left, one)
    check(right, other)
    assert dict(right.merge(left).items()) == one + other


@given(st.lists(MODELS, max_size=6), st.randoms(use_true_random=False))
def test_merging_in_any_order_and_grouping_is_the_same(models, source):
    """However many are merged in whatever order and grouping, each bucket holds the sum."""
    pending = [pack(model) for model in models]
    while len(pending) > 1:
        source.shuffle(pending)
        pending.append(pending.pop().merge(pending.pop()))
    total = Counter()
    for model in models:
        total.update(model)
    check(pending[0] if pending else EMPTY, total)


@given(SOME)
def test_merging_nothing_changes_nothing(model):
    """The empty counts are neutral on either side."""
    lanes = pack(model)
    assert lanes.merge(EMPTY) == lanes
    assert EMPTY.merge(lanes) == lanes
    assert EMPTY.merge(EMPTY).counts() == ()


@example(Counter({-3: 1, -2: 2, -1: 3, 0: 4, 1: 5}))
@example(Counter({0: 128, 1: 128}))
@given(MODELS)
def test_halving_joins_pairs_of_buckets(model):
    """Bucket i becomes bucket i // 2, below zero as well, and the original stays as it was."""
    halves = Counter()
    for index, count in model.items():
        halves[index // 2] += count
    lanes = pack(model)
    check(lanes.halved(), halves)
    check(lanes, model)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_lanes_widen_exactly_when_a_count_no_longer_fits(bits):
    """One below the limit still fits; reaching it by one more record widens every lane, losing nothing."""
    limit = 1 << bits
    full = Lanes.pack(10, [limit - 2, 3, limit - 2])
    one = Lanes.pack(12, [1])
    fits = full.merge(one)
    assert fits.bits == bits
    check(fits, Counter({10: limit - 2, 11: 3, 12: limit - 1}))
    grown = fits.merge(one)
    assert grown.bits == 2 * bits
    check(grown, Counter({10: limit - 2, 11: 3, 12: limit}))
    check(fits, Counter({10: limit - 2, 11: 3, 12: limit - 1}))


def test_one_bucket_grows_through_every_width():
    """A bucket that doubles 63 times holds 2^63 in the end, its neighbour as often."""
    lanes, model = Lanes.pack(-1, [1, 1]), Counter({-1: 1, 0: 1})
    for _ in range(63):
        lanes = lanes.merge(lanes)
        model = model + model
        check(lanes, model)
    assert lanes.counts() == (2**63, 2**63)


@given(SOME, SOME)
def test_lanes_of_different_widths_merge(one, other):
    """Narrow and wide lanes merge to the same counts from either side."""
    wide = Counter({index: count + 2**33 for index, count in one.items()})
    check(pack(wide).merge(pack(other)), wide + other)
    check(pack(other).merge(pack(wide)), wide + other)
