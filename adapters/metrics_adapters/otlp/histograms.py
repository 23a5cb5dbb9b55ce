"""The values of series in OpenTelemetry's terms, and what of a value is new since an earlier one.

The counts of a distribution's buckets are packed into one integer. Merging two buckets, or subtracting
earlier counts, takes a few operations on all buckets at once.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from math import ceil, log2
from typing import NamedTuple

from metrics_framework.recording import Distribution
from metrics_framework.recording.distribution import SCALE, Buckets, PackedCounts

MAX_BUCKETS = 160
"""The most buckets of one sign, as in OpenTelemetry's SDKs. More buckets lower the scale."""

_PER_OCTAVE = 2.0**SCALE


class ConsecutiveCounts(NamedTuple):
    """Counts of consecutive buckets from index ``low``, as `bytes` if all of them fit."""

    low: int
    counts: Sequence[int]


class ExponentialCounts(NamedTuple):
    """A distribution as an exponential histogram of at most `MAX_BUCKETS` buckets a sign.

    Attributes:
        number: The number of values.
        sum: Their sum, or ``None`` if it is unknown or, as the protocol requires, if some are negative.
        min: The smallest value, or ``None`` if it is unknown.
        max: The largest value, or ``None`` if it is unknown.
        scale: The resolution of the buckets.
        zeros: The number of zeros.
        positive: The counts of positive values.
        negative: The counts of negative values by magnitude.
    """

    number: int
    sum: float | None
    min: float | None
    max: float | None
    scale: int
    zeros: int
    positive: ConsecutiveCounts
    negative: ConsecutiveCounts


def exponential_of(values: Distribution) -> ExponentialCounts:
    """Return a distribution as an exponential histogram."""
    state = values.state
    counted = _of_exact(state.exact) if state.exact is not None else _of_buckets(state.buckets, values.count)
    return ExponentialCounts(
        values.count,
        as_double(values.sum) if values.min >= 0 else None,
        as_double(values.min),
        as_double(values.max),
        *counted,
    )


def exponential_since(now: Distribution, before: Distribution) -> ExponentialCounts | None:
    """Return the values since an earlier state, without extremes, or ``None`` if values are missing."""
    new, old = now.state.exact, before.state.exact
    number = now.count - before.count
    if new is not None and old is not None and new[: len(old)] == old:
        counted = _of_exact(new[len(old) :])
    else:
        less = _less(now.buckets, before.buckets)
        if less is None:
            return None
        counted = _of_rows(*less, number)
    total = as_double(now.sum) - as_double(before.sum)
    known = now.min >= 0 and math.isfinite(total)
    return ExponentialCounts(number, total if known else None, None, None, *counted)


def as_double(number: int | float) -> float:
    """Return a number as a float, infinite if it is beyond the largest float."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


class _Row(NamedTuple):
    """Counts of consecutive buckets, packed like `PackedCounts` but with any number of bits each."""

    low: int
    bits: int
    packed: int


_Counted = tuple[int, int, ConsecutiveCounts, ConsecutiveCounts]
"""The scale, the number of zeros, and the counts of positive and negative values."""


def _of_exact(values: Iterable[float]) -> _Counted:
    """Count exact values as `Distribution` does, but directly at a scale with few enough buckets."""
    positive, negative, zeros = [], [], 0
    for value in values:
        if value > 0:
            positive.append(ceil(log2(value) * _PER_OCTAVE) - 1)
        elif value < 0:
            negative.append(ceil(log2(-value) * _PER_OCTAVE) - 1)
        else:
            zeros += 1
    spans = [(min(indexes), max(indexes)) for indexes in (positive, negative) if indexes]
    steps = max([_steps(low, high) for low, high in spans], default=0)
    return SCALE - steps, zeros, _cells_of(positive, steps), _cells_of(negative, steps)


def _cells_of(indexes: Sequence[int], steps: int) -> ConsecutiveCounts:
    if not indexes:
        return ConsecutiveCounts(0, b"")
    low = min(indexes) >> steps
    counts = bytearray((max(indexes) >> steps) - low + 1)  # at most 128 values are exact
    for index in indexes:
        counts[(index >> steps) - low] += 1
    return ConsecutiveCounts(low, bytes(counts))


def _of_buckets(buckets: Buckets, number: int) -> _Counted:
    return _of_rows(buckets.scale, buckets.zeros, _row(buckets.positive), _row(buckets.negative), number)


def _of_rows(scale: int, zeros: int, positive: _Row, negative: _Row, number: int) -> _Counted:
    steps = max(_steps(row.low, row.low + _length(row) - 1) for row in (positive, negative))
    positive, negative = _coarser(positive, steps), _coarser(negative, steps)
    return scale - steps, zeros, _cells(positive, number), _cells(negative, number)


def _steps(low: int, high: int) -> int:
    steps = 0
    while (high >> steps) - (low >> steps) >= MAX_BUCKETS:
        steps += 1
    return steps


def _less(now: Buckets, before: Buckets) -> tuple[int, int, _Row, _Row] | None:
    """Return the growth of each bucket, or ``None`` if one shrank."""
    scale, zeros = min(now.scale, before.scale), now.zeros - before.zeros
    rows = [
        _taken(_coarser(_row(one), now.scale - scale), _coarser(_row(other), before.scale - scale))
        for one, other in ((now.positive, before.positive), (now.negative, before.negative))
    ]
    positive, negative = rows
    if zeros < 0 or positive is None or negative is None:
        return None
    return scale, zeros, positive, negative


def _taken(now: _Row, before: _Row) -> _Row | None:
    if not before.packed:
        return now
    bits = max(now.bits, before.bits)
    now, before = _in_bits(now, bits), _in_bits(before, bits)
    if before.low < now.low:
        return None
    taken = before.packed << (before.low - now.low) * bits
    grown = now.packed - taken
    # A count that shrank borrows from the next one: then the lowest bit of that differs from the exclusive-or
    # of its operands. If the highest count shrank, the difference is negative.
    if grown < 0 or (now.packed ^ taken ^ grown) & _repeated(b"\1".ljust(bits // 8, b"\0"), _length(now)):
        return None
    empty = ((grown & -grown).bit_length() - 1) // bits if grown else 0
    return _Row(now.low + empty, bits, grown >> empty * bits)


def _row(counts: PackedCounts) -> _Row:
    return _Row(counts.low, counts.bits, counts.packed)


def _length(row: _Row) -> int:
    return -(-row.packed.bit_length() // row.bits)


def _coarser(row: _Row, steps: int) -> _Row:
    """Return the counts at a scale that is lower by ``steps``. Each step merges pairs of buckets."""
    low, bits, packed = row
    for _ in range(steps):
        if low & 1:
            packed <<= bits  # the first pair must begin at an even index
        pairs = -(-packed.bit_length() // (2 * bits))
        mask = _repeated(b"\xff" * (bits // 8) + bytes(bits // 8), pairs)
        low, bits, packed = low >> 1, 2 * bits, (packed & mask) + (packed >> bits & mask)
    return _Row(low, bits, packed)


def _in_bits(row: _Row, bits: int) -> _Row:
    if bits == row.bits:
        return row
    length, narrow, wide = _length(row), row.bits // 8, bits // 8
    data, spread = row.packed.to_bytes(length * narrow, "little"), bytearray(length * wide)
    for place in range(narrow):
        spread[place::wide] = data[place::narrow]
    return _Row(row.low, bits, int.from_bytes(spread, "little"))


def _cells(row: _Row, number: int) -> ConsecutiveCounts:
    """Return the counts of a row. None is above ``number``."""
    length, width = _length(row), row.bits // 8
    data = row.packed.to_bytes(length * width, "little")
    if width == 1 or number < 256:
        return ConsecutiveCounts(row.low, data[::width])
    size = min(width, 8)
    counts = struct.unpack(f"<{length * width // size}{' BH I   Q'[size]}", data)
    return ConsecutiveCounts(row.low, counts[:: width // size])


def _repeated(pattern: bytes, times: int) -> int:
    return int.from_bytes(pattern * times, "little")


class ExplicitCounts(NamedTuple):
    """A distribution with explicit bounds, from an aggregator without a store.

    Attributes:
        bounds: Ascending upper bounds of all buckets but the last.
        counts: The count of each bucket.
        sum: The sum of the values.
        min: The smallest value, or ``None`` if it is unknown.
        max: The largest value, or ``None`` if it is unknown.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float
    min: float | None
    max: float | None


RecordedValue = int | float | Distribution | ExplicitCounts
"""The value of a series: the total of a counter, the value of a gauge, or a distribution."""

SentValue = int | float | ExponentialCounts | ExplicitCounts
"""The value in a message: all of a `RecordedValue`, or what is new in it."""


def sent_value(value: RecordedValue) -> SentValue:
    """Return all of a value."""
    return exponential_of(value) if isinstance(value, Distribution) else value


def was_reset(value: RecordedValue, before: RecordedValue) -> bool:
    """Return whether a series was reset since an earlier value, by a cheap test."""
    if isinstance(value, Distribution) and isinstance(before, Distribution):
        return value.count < before.count or value.min > before.min or value.max < before.max
    return value_since(value, before) is None


def value_since(value: RecordedValue, before: RecordedValue) -> SentValue | None:
    """Return what was recorded after an earlier value, without extremes, which cannot be derived.

    Returns:
        ``None`` if the series was reset, so that the earlier value is not part of the current one.
    """
    if isinstance(value, Distribution) and isinstance(before, Distribution):
        return exponential_since(value, before)
    if isinstance(value, ExplicitCounts) and isinstance(before, ExplicitCounts):
        if value.bounds != before.bounds:
            return None
        counts = tuple(now - then for now, then in zip(value.counts, before.counts, strict=True))
        if min(counts) < 0:
            return None
        return ExplicitCounts(value.bounds, counts, value.sum - before.sum, None, None)
    if isinstance(value, int | float) and isinstance(before, int | float) and value >= before:
        return value - before if value > before else 0
    return None


def is_zero(value: SentValue) -> bool:
    """Return whether a value contains no records."""
    if isinstance(value, ExplicitCounts):
        return not any(value.counts)
    return not (value.number if isinstance(value, ExponentialCounts) else value)
