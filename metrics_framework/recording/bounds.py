"""Counts between bounds that an application chose: exact, unlike those of the exponential buckets."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import sums
from metrics_framework.recording.sums import Sum
from metrics_framework.values import MetricUnit

_SEVERAL = 3
"""For how many values a bound it is faster to sort them, and to look for the bounds among them."""


class BucketCounts(NamedTuple):
    """How many values lie between bounds; a bound belongs to the bucket below it.

    Attributes:
        bounds: Ascending upper bounds, without infinity.
        counts: One for each bound and one for what is above the last.
        total: The sum of the values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: Sum = sums.ZERO

    @classmethod
    def between(cls, bounds: tuple[float, ...]) -> BucketCounts:
        """Return the counts of no values."""
        return cls(bounds, (0,) * (len(bounds) + 1))

    def with_values(self, values: Sequence[int | float], total: int | float | None = None) -> BucketCounts:
        """Return the counts with some more values.

        Args:
            values: The values.
            total: Their sum, where it is known already.
        """
        bounds = self.bounds
        if len(values) < _SEVERAL * len(bounds):
            counts = [*self.counts]
            for value in values:
                counts[bisect_left(bounds, value)] += 1
        else:
            ordered = sorted(values)
            ends = [*[bisect_right(ordered, bound) for bound in bounds], len(ordered)]
            begins = [0, *ends]
            counts = [
                count + end - begin for count, begin, end in zip(self.counts, begins, ends, strict=False)
            ]
        total = sums.sum_of(values) if total is None else total
        return BucketCounts(self.bounds, tuple(counts), sums.add(self.total, total))

    def cumulated(self) -> dict[float, int]:
        """Return the number of values up to each bound, infinity last."""
        passed = 0
        result: dict[float, int] = {}
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            passed += count
            result[bound] = passed
        return result


def seconds_as(unit: MetricUnit | None, bounds: Iterable[float]) -> tuple[float, ...]:
    """Return bounds in a unit of time, given in seconds; as they are where the unit is none of time.

    It is exact as people write numbers: 0.0333 s is 33.3 ms, not what floats make of 0.0333 * 1000.
    """
    from decimal import Decimal  # only who counts by default buckets needs it

    per_second = {MetricUnit.MILLISECONDS: 1_000, MetricUnit.MICROSECONDS: 1_000_000}.get(unit, 1)  # type: ignore[arg-type]
    return tuple(float(Decimal(repr(bound)) * per_second) for bound in bounds)


def check_bounds(bounds: Iterable[float]) -> tuple[float, ...]:
    """Return bounds as floats; a last one that is infinite is left out.

    Raises:
        InvalidInputError: If there are none, one is no finite number, or they do not ascend.
    """
    try:
        if isinstance(bounds, str):
            raise TypeError
        plain = [float(bound) for bound in bounds]
    except (TypeError, ValueError, OverflowError):
        raise InvalidInputError(f"buckets={bounds!r} are not numbers, like (0.1, 0.5, 1)") from None
    if plain and plain[-1] == math.inf:
        plain.pop()
    if not plain or not all(map(math.isfinite, plain)) or any(a >= b for a, b in pairwise(plain)):
        raise InvalidInputError(f"buckets={bounds!r} do not ascend from one finite number to the next")
    return tuple(plain)
