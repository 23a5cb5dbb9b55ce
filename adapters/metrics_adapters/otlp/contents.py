"""What one series holds in OpenTelemetry's terms, and what of it is new since it held something else."""

from __future__ import annotations

from typing import NamedTuple

from metrics_adapters.otlp.exponential import Exponential, new_of, whole_of
from metrics_framework.recording import Distribution


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
