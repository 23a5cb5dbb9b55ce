"""Explicit bucket bounds: their check, counts between them, and the defaults by unit.

Counts between explicit bounds are exact, unlike those of the exponential buckets of a distribution.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from metrics_framework.errors import InvalidInputError
from metrics_framework.values import MetricUnit

_SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
)
_BYTES = tuple(float(4**power) for power in range(3, 16))
_NUMBERS = (*(float(f"{digit}e{power}") for power in range(-3, 6) for digit in (1, 3)), 1e6)

_DIGITS_PER_SECOND = {MetricUnit.SECONDS: 0, MetricUnit.MILLISECONDS: 3, MetricUnit.MICROSECONDS: 6}
_BYTES_IN = {MetricUnit.BYTES: 1, MetricUnit.KILOBYTES: 1_000, MetricUnit.MEGABYTES: 1_000_000}
_SUFFIXES = {
    "seconds": MetricUnit.SECONDS,
    "s": MetricUnit.SECONDS,
    "milliseconds": MetricUnit.MILLISECONDS,
    "ms": MetricUnit.MILLISECONDS,
    "microseconds": MetricUnit.MICROSECONDS,
    "us": MetricUnit.MICROSECONDS,
    "bytes": MetricUnit.BYTES,
    "kilobytes": MetricUnit.KILOBYTES,
    "kb": MetricUnit.KILOBYTES,
    "megabytes": MetricUnit.MEGABYTES,
    "mb": MetricUnit.MEGABYTES,
}
"""Maps the ending of a name, after a dot or underscore, to its unit."""


class BucketCounts(NamedTuple):
    """The number of values between bounds. A bound belongs to the bucket below it.

    Attributes:
        bounds: Ascending upper bounds, without infinity.
        counts: One for each bound and one for the values above the last.
        total: The sum of the counted values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: int | float = 0

    @classmethod
    def empty(cls, bounds: tuple[float, ...]) -> BucketCounts:
        """Return the counts of no values."""
        return cls(bounds, (0,) * (len(bounds) + 1))

    def cumulated(self) -> dict[float, int]:
        """Return the number of values up to each bound, infinity last."""
        passed = 0
        result: dict[float, int] = {}
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            passed += count
            result[bound] = passed
        return result


def default_bounds(unit: MetricUnit | None, name: str = "") -> tuple[float, ...]:
    """Return the default bounds for a unit, as numbers of that unit.

    Times have 18 bounds from 0.5 ms to 30 minutes, sizes have powers of four from 64 B to 1 GiB, and all
    other numbers have 1 and 3 of each decade from 0.001 to 1 000 000.

    Args:
        unit: The described unit.
        name: The metric's name. If no unit is described, its ending determines it: ``_seconds``, ``.ms``,
            ``_bytes`` and the like.

    Example:
        >>> default_bounds(None, "payload.bytes")[:3]
        (64.0, 256.0, 1024.0)
    """
    if unit is None:
        _, separator, ending = name.lower().replace(".", "_").rpartition("_")
        unit = _SUFFIXES.get(ending) if separator else None
    if unit in _DIGITS_PER_SECOND:
        return seconds_as(unit, _SECONDS)
    if unit in _BYTES_IN:
        return tuple(bound / _BYTES_IN[unit] for bound in _BYTES)
    return _NUMBERS


def seconds_as(unit: MetricUnit | None, bounds: Iterable[float]) -> tuple[float, ...]:
    """Return bounds that are given in seconds as numbers of ``unit``; unchanged if it does not measure time.

    The conversion is exact in decimal: 0.0333 s is 33.3 ms, not the float product 0.0333 * 1000.
    """
    # On the digits, without the decimal module: its import is slow, a record may be the first to need it, and
    # another record in the middle of that import, such as one of a signal handler, would fail.
    shift = 0 if unit is None else _DIGITS_PER_SECOND.get(unit, 0)
    return tuple(_shifted(bound, shift) for bound in bounds)


def _shifted(number: float, digits: int) -> float:
    """Return a number times a power of ten, rounded once."""
    mantissa, _, exponent = repr(float(number)).partition("e")
    return float(f"{mantissa}e{int(exponent or 0) + digits}")


def check_bounds(bounds: Iterable[float]) -> tuple[float, ...]:
    """Return bounds as floats, without an infinite last one.

    Raises:
        InvalidInputError: If there are none, one is not a finite number, or they do not ascend.
    """
    try:
        if isinstance(bounds, str):
            raise TypeError
        plain = [float(bound) for bound in bounds]
    except (TypeError, ValueError, OverflowError):
        raise InvalidInputError(
            f"buckets={bounds!r} are not numbers: pass numbers like (0.1, 0.5, 1)"
        ) from None
    if plain and plain[-1] == math.inf:
        plain.pop()
    if not plain or not all(map(math.isfinite, plain)) or any(a >= b for a, b in pairwise(plain)):
        raise InvalidInputError(f"buckets={bounds!r} do not ascend from one finite number to the next")
    return tuple(plain)
