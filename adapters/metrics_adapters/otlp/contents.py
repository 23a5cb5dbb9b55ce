"""What one series holds in OpenTelemetry's terms, and what of it is new since it held something else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from metrics_framework.recording.distribution import Buckets, Distribution
from metrics_framework.recording.lanes import Lanes

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


class Held:
    """A distribution of ours, whose values are counted in buckets once, however often they are asked for."""

    def __init__(self, distribution: Distribution) -> None:
        self.distribution = distribution

    @cached_property
    def buckets(self) -> Buckets:
        """The values, counted."""
        return self.distribution.buckets


class Cells(NamedTuple):
    """Counts of consecutive buckets, from the one with the index ``low`` on."""

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


Content = int | float | Held | Counted
"""What a series is read as: a counter's total, a gauge's value, or a distribution."""

Part = int | float | Exponential | Counted
"""What is sent of a series: all that it holds, or what is new."""


def whole(content: Content) -> Part:
    """Return all that a series holds."""
    if not isinstance(content, Held):
        return content
    values, buckets = content.distribution, content.buckets
    return Exponential(
        values.count,
        as_double(values.sum) if values.min >= 0 else None,
        as_double(values.min),
        as_double(values.max),
        *_bounded(buckets.scale, buckets.zeros, _cells(buckets.positive), _cells(buckets.negative)),
    )


def began_anew(content: Content, before: Content) -> bool:
    """Say whether a series holds less than it held before, by what costs little to know."""
    if isinstance(content, Held) and isinstance(before, Held):
        now, then = content.distribution, before.distribution
        return now.count < then.count or now.min > then.min or now.max < then.max
    return since(content, before) is None


def since(content: Content, before: Content) -> Part | None:
    """Return what of a series came after it held ``before``.

    Its extremes are not known, as those of all that came before may be others'.

    Returns:
        ``None`` if what it held before is no part of what it holds now: it began anew.
    """
    if isinstance(content, Held) and isinstance(before, Held):
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


def _since(content: Held, before: Held) -> Exponential | None:
    now, then, new, old = content.distribution, before.distribution, content.buckets, before.buckets
    scale = min(new.scale, old.scale)
    zeros = new.zeros - old.zeros
    positive, negative = (
        _less(_coarser(_cells(one), new.scale - scale), _coarser(_cells(other), old.scale - scale))
        for one, other in ((new.positive, old.positive), (new.negative, old.negative))
    )
    if zeros < 0 or positive is None or negative is None:
        return None
    total = as_double(now.sum) - as_double(then.sum)
    return Exponential(
        now.count - then.count,
        total if now.min >= 0 and math.isfinite(total) else None,
        None,
        None,
        *_bounded(scale, zeros, positive, negative),
    )


def _cells(lanes: Lanes) -> Cells:
    return Cells(lanes.low, lanes.counts())


def _less(now: Cells, before: Cells) -> Cells | None:
    """Return how much each bucket grew, ``None`` if one shrank."""
    if not before.counts:
        return now
    start = before.low - now.low
    if start < 0 or start + len(before.counts) > len(now.counts):
        return None
    grown = list(now.counts)
    for place, count in enumerate(before.counts, start):
        if count:
            grown[place] -= count
            if grown[place] < 0:
                return None
    places = [place for place, count in enumerate(grown) if count]
    if not places:
        return Cells(0, ())
    return Cells(now.low + places[0], grown[places[0] : places[-1] + 1])


def _bounded(scale: int, zeros: int, positive: Cells, negative: Cells) -> tuple[int, int, Cells, Cells]:
    """Return buckets at the finest scale at which there are few enough."""
    steps = max(_steps(positive), _steps(negative))
    return scale - steps, zeros, _coarser(positive, steps), _coarser(negative, steps)


def _steps(cells: Cells) -> int:
    steps, high = 0, cells.low + len(cells.counts) - 1
    while (high >> steps) - (cells.low >> steps) >= MAX_BUCKETS:
        steps += 1
    return steps


def _coarser(cells: Cells, steps: int) -> Cells:
    """Return the counts at a scale that is lower by ``steps``: two buckets become one at each."""
    if not steps or not cells.counts:
        return cells
    low = cells.low >> steps
    counts = [0] * (((cells.low + len(cells.counts) - 1) >> steps) - low + 1)
    for index, count in enumerate(cells.counts, cells.low):
        if count:
            counts[(index >> steps) - low] += count
    return Cells(low, counts)
