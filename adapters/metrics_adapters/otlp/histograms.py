"""What one series holds in OpenTelemetry's terms, and what of it is new since it held something else."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from math import ceil, log2
from typing import NamedTuple

from metrics_framework.recording import Distribution
from metrics_framework.recording.distribution import SCALE, Buckets, PackedCounts

MAX_BUCKETS = 160
"""How many buckets a sign may have, as in OpenTelemetry's SDKs; more lower the scale."""

_PER_OCTAVE = 2.0**SCALE


class Cells(NamedTuple):
    """Counts of consecutive buckets, from the one with the index ``low`` on; `bytes` where all fit."""

    low: int
    counts: Sequence[int]


class Exponential(NamedTuple):
    """A distribution as an exponential histogram of at most `MAX_BUCKETS` buckets a sign.

    Attributes:
        number: How many values there are.
        sum: Their sum; ``None`` where some are negative, as the protocol wants it, or where it has none.
        min: The smallest of them, ``None`` where nobody knows.
        max: The largest of them, ``None`` where nobody knows.
        scale: How fine the buckets are.
        zeros: How many values are zero.
        positive: Those above it, counted.
        negative: Those below it, counted by their magnitude.
    """

    number: int
    sum: float | None
    min: float | None
    max: float | None
    scale: int
    zeros: int
    positive: Cells
    negative: Cells


def whole_of(values: Distribution) -> Exponential:
    """Return a distribution as a histogram."""
    state = values.state
    counted = _of_exact(state.exact) if state.exact is not None else _of_buckets(state.buckets, values.count)
    return Exponential(
        values.count,
        as_double(values.sum) if values.min >= 0 else None,
        as_double(values.min),
        as_double(values.max),
        *counted,
    )


def new_of(now: Distribution, before: Distribution) -> Exponential | None:
    """Return what of a distribution is new, whose extremes nobody knows; ``None`` if it lost something."""
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
    return Exponential(number, total if known else None, None, None, *counted)


def as_double(number: int | float) -> float:
    """Return a number as a float; infinite beyond the largest one."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


class _Row(NamedTuple):
    """Counts of consecutive buckets, packed like `PackedCounts` but with any number of bits each."""

    low: int
    bits: int
    packed: int


_Counted = tuple[int, int, Cells, Cells]
"""The scale, how many values are zero, and the counts of the others."""


def _of_exact(values: Iterable[float]) -> _Counted:
    """Count a few values: as `Distribution` does, but at once at a scale of few enough buckets."""
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


def _cells_of(indexes: Sequence[int], steps: int) -> Cells:
    if not indexes:
        return Cells(0, b"")
    low = min(indexes) >> steps
    counts = bytearray((max(indexes) >> steps) - low + 1)  # no more than 128 values are kept as they are
    for index in indexes:
        counts[(index >> steps) - low] += 1
    return Cells(low, bytes(counts))


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
    """Return how much each bucket grew, ``None`` if one shrank."""
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
    # A count that shrank borrows from the next one. A bit that differs from what its two operands make of it
    # was borrowed from; the highest count has nothing to borrow from.
    if grown < 0 or (now.packed ^ taken ^ grown) & _repeated(b"\1".ljust(bits // 8, b"\0"), _length(now)):
        return None
    empty = ((grown & -grown).bit_length() - 1) // bits if grown else 0
    return _Row(now.low + empty, bits, grown >> empty * bits)


def _row(counts: PackedCounts) -> _Row:
    return _Row(counts.low, counts.bits, counts.packed)


def _length(row: _Row) -> int:
    return -(-row.packed.bit_length() // row.bits)


def _coarser(row: _Row, steps: int) -> _Row:
    """Return the counts at a scale that is lower by ``steps``: two buckets become one at each."""
    low, bits, packed = row
    for _ in range(steps):
        if low & 1:
            packed <<= bits  # so that the first pair begins at an even index
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


def _cells(row: _Row, number: int) -> Cells:
    """Return the counts of a row, none of which is above ``number``."""
    length, width = _length(row), row.bits // 8
    data = row.packed.to_bytes(length * width, "little")
    if width == 1 or number < 256:
        return Cells(row.low, data[::width])
    size = min(width, 8)
    counts = struct.unpack(f"<{length * width // size}{' BH I   Q'[size]}", data)
    return Cells(row.low, counts[:: width // size])


def _repeated(pattern: bytes, times: int) -> int:
    return int.from_bytes(pattern * times, "little")


class Counted(NamedTuple):
    """A distribution of another maker: counts between bounds, of which there may be none.

    Attributes:
        bounds: Upper bounds, ascending; the last bucket has none.
        counts: How many values each bucket holds, one more than there are bounds.
        sum: The sum of the values.
        min: The smallest of them, ``None`` where nobody knows.
        max: The largest of them, ``None`` where nobody knows.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float
    min: float | None
    max: float | None


Content = int | float | Distribution | Counted
"""What a series is read as: a counter's total, a gauge's value, or a distribution."""

Part = int | float | Exponential | Counted
"""What is sent of a series: all that it holds, or what is new."""


def whole(content: Content) -> Part:
    """Return all that a series holds."""
    return whole_of(content) if isinstance(content, Distribution) else content


def began_anew(content: Content, before: Content) -> bool:
    """Say whether a series holds less than it held before, by what costs little to know."""
    if isinstance(content, Distribution) and isinstance(before, Distribution):
        return content.count < before.count or content.min > before.min or content.max < before.max
    return since(content, before) is None


def since(content: Content, before: Content) -> Part | None:
    """Return what of a series came after it held ``before``.

    Its extremes are not known, as those of all that came before may be others'.

    Returns:
        ``None`` if what it held before is no part of what it holds now: it began anew.
    """
    if isinstance(content, Distribution) and isinstance(before, Distribution):
        return new_of(content, before)
    if isinstance(content, Counted) and isinstance(before, Counted):
        if content.bounds != before.bounds:
            return None
        counts = tuple(now - then for now, then in zip(content.counts, before.counts, strict=True))
        if min(counts) < 0:
            return None
        return Counted(content.bounds, counts, content.sum - before.sum, None, None)
    if isinstance(content, int | float) and isinstance(before, int | float) and content >= before:
        return content - before if content > before else 0
    return None


def is_empty(part: Part) -> bool:
    """Say whether nothing was recorded."""
    if isinstance(part, Counted):
        return not any(part.counts)
    return not (part.number if isinstance(part, Exponential) else part)
