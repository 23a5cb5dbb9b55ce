"""What one series holds in OpenTelemetry's terms, and what of it is new since it held something else."""

from __future__ import annotations

import math
from typing import NamedTuple

from metrics_framework.recording.distribution import Buckets, Distribution
from metrics_framework.recording.lanes import EMPTY, Lanes

MAX_BUCKETS = 160
"""How many buckets a sign may have, as in OpenTelemetry's SDKs; more lower the scale."""


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


class Exponential(NamedTuple):
    """A distribution as an exponential histogram of at most `MAX_BUCKETS` buckets a sign.

    Attributes:
        number: How many values there are.
        sum: Their sum; ``None`` where some are negative, as the protocol wants it, or where it has none.
        min: The smallest of them, ``None`` where nobody knows.
        max: The largest of them, ``None`` where nobody knows.
        buckets: The values, counted.
    """

    number: int
    sum: float | None
    min: float | None
    max: float | None
    buckets: Buckets


Content = int | float | Distribution | Counted
"""What a series is read as: a counter's total, a gauge's value, or a distribution."""

Part = int | float | Exponential | Counted
"""What is sent of a series: all that it holds, or what is new."""


def whole(content: Content) -> Part:
    """Return all that a series holds."""
    if not isinstance(content, Distribution):
        return content
    return Exponential(
        content.count,
        as_double(content.sum) if content.min >= 0 else None,
        as_double(content.min),
        as_double(content.max),
        _bounded(content.buckets),
    )


def since(content: Content, before: Content) -> Part | None:
    """Return what of a series came after it held ``before``.

    Its extremes are not known, as those of all that came before may be others'.

    Returns:
        ``None`` if what it held before is no part of what it holds now: it began anew.
    """
    if isinstance(content, Distribution) and isinstance(before, Distribution):
        return _since(content, before)
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


def as_double(number: int | float) -> float:
    """Return a number as a float; infinite beyond the largest one."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _since(now: Distribution, before: Distribution) -> Exponential | None:
    new, old = now.buckets, before.buckets
    while new.scale > old.scale:
        new = _halved(new)
    while old.scale > new.scale:
        old = _halved(old)
    zeros = new.zeros - old.zeros
    positive, negative = _less(new.positive, old.positive), _less(new.negative, old.negative)
    if zeros < 0 or positive is None or negative is None:
        return None
    total = as_double(now.sum) - as_double(before.sum)
    return Exponential(
        now.count - before.count,
        total if now.min >= 0 and math.isfinite(total) else None,
        None,
        None,
        _bounded(Buckets(new.scale, negative, zeros, positive)),
    )


def _less(now: Lanes, before: Lanes) -> Lanes | None:
    """Return how much each bucket grew, ``None`` if one shrank."""
    if not before.packed:
        return now
    grown = dict(now.items())
    for index, count in before.items():
        left = grown.get(index, 0) - count
        if left < 0:
            return None
        grown[index] = left
    indexes = [index for index, count in grown.items() if count]
    if not indexes:
        return EMPTY
    low, high = min(indexes), max(indexes)
    return Lanes.pack(low, [grown.get(index, 0) for index in range(low, high + 1)])


def _bounded(buckets: Buckets) -> Buckets:
    while buckets.positive.span > MAX_BUCKETS or buckets.negative.span > MAX_BUCKETS:
        buckets = _halved(buckets)
    return buckets


def _halved(buckets: Buckets) -> Buckets:
    return Buckets(buckets.scale - 1, buckets.negative.halved(), buckets.zeros, buckets.positive.halved())
