"""A mergeable distribution: exact while it is small, within 1 % for ever after.

Up to 128 values are kept as they are. From then on they are counted in base-2 exponential buckets, the
layout of OpenTelemetry's exponential histogram and of Prometheus' native histograms (OpenTelemetry metrics
data model, "ExponentialHistogram"): at scale ``s`` bucket ``i`` holds ``(b**i, b**(i+1)]`` with
``b = 2**(2**-s)``. At scale 6 a bucket's midpoint is within 0.55 % of anything in it.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, inf, log2
from typing import NamedTuple

from metrics_framework.recording import lanes, sums
from metrics_framework.recording.lanes import Lanes
from metrics_framework.recording.sums import Sum

EXACT_VALUES = 128
"""How many values are kept as they are."""

SCALE = 6
"""The scale that every distribution starts at."""

MAX_INDEXES = 5_120
"""How many bucket indexes one sign may span (80 octaves at scale 6) before the resolution is halved."""


class Buckets(NamedTuple):
    """Values counted in exponential buckets, each sign on its own."""

    scale: int
    negative: Lanes
    zeros: int
    positive: Lanes


@dataclass(frozen=True)
class State:
    """All that a distribution is, for who keeps it elsewhere; `Distribution.of_state` takes it back.

    Attributes:
        count: How many values there are.
        min: The smallest value.
        max: The largest value.
        sum: The sum of all values, and the rounding error that is still to be added to it.
        mean: The arithmetic mean.
        stddev: The standard deviation, of the population.
        exact: The values as they are, or ``None`` where they are counted in ``buckets``.
        buckets: The counts; none where the values are exact.
    """

    count: int
    min: int | float
    max: int | float
    sum: Sum
    mean: float
    stddev: float
    exact: tuple[float, ...] | None
    buckets: Buckets


_PER_OCTAVE = 2.0**SCALE
_NO_BUCKETS = Buckets(SCALE, lanes.EMPTY, 0, lanes.EMPTY)


class Distribution:
    """Count, sum, extremes, deviation and quantiles of finite numbers of either sign.

    It never changes: `merge` returns what a distribution would be that had seen the values of both.
    Merging is associative and commutative; which values are still kept as they are depends on how many
    there are alone.
    """

    __slots__ = ("_buckets", "_exact", "_mean", "_sum", "count", "max", "min", "stddev")

    count: int
    min: int | float
    max: int | float
    stddev: float
    _sum: Sum
    _mean: float
    _exact: array[float] | None
    _buckets: Buckets

    def __init__(self) -> None:
        """Make the empty distribution."""
        self.count = 0
        self.min = math.inf
        self.max = -math.inf
        self.stddev = 0.0
        self._sum = sums.ZERO
        self._mean = 0.0
        self._exact = array("d")
        self._buckets = _NO_BUCKETS

    @classmethod
    def of(cls, values: Sequence[int | float]) -> Distribution:
        """Return the distribution of some finite numbers.

        Raises:
            TypeError: If something in ``values`` is no number.
        """
        result = cls()
        count = result.count = len(values)
        if not count:
            return result
        if count == 1 and values[0].__class__ is float:  # what most series have between two looks at them
            value = result.min = result.max = result._mean = values[0]
            result._sum = (value, 0.0)
            result._exact = array("d", values)
            return result
        total = sums.sum_of(values)
        result._sum = (total, 0.0)
        result.min, result.max = min(values), max(values)
        mean = result._mean = _mean(values, total, count)
        # The root of the sum of squares: computed in C, without overflow or underflow on the way.
        deviation = math.dist(values, (mean,) * count) / math.sqrt(count)
        result.stddev = deviation if deviation < inf else _scaled_deviation(values, mean)
        if count <= EXACT_VALUES:
            result._exact = array("d", values)
        else:
            result._exact = None
            result._buckets = _count(values, result.min, result.max)
        return result

    @classmethod
    def of_state(cls, state: State) -> Distribution:
        """Return the distribution that a state was taken from; nothing is checked."""
        result = cls()
        result.count, result.min, result.max = state.count, state.min, state.max
        result._sum, result._mean, result.stddev = state.sum, state.mean, state.stddev
        result._exact = None if state.exact is None else array("d", state.exact)
        result._buckets = state.buckets
        return result

    @property
    def state(self) -> State:
        """All that it is."""
        exact = None if self._exact is None else tuple(self._exact)
        return State(self.count, self.min, self.max, self._sum, self._mean, self.stddev, exact, self._buckets)

    def merge(self, other: Distribution) -> Distribution:
        """Return the distribution of the values of both."""
        if not other.count:
            return self
        if not self.count:
            return other
        result = Distribution.__new__(Distribution)
        mine, theirs = self.count, other.count
        count = result.count = mine + theirs
        result.min = min(self.min, other.min)
        result.max = max(self.max, other.max)
        result._sum = sums.merge(self._sum, other._sum)
        # Chan, Golub, LeVeque 1979, in a form in which nothing is squared: half of the distance between
        # the means never overflows.
        half = other._mean / 2 - self._mean / 2
        apart = half * (2 * math.sqrt(mine / count * (theirs / count)))
        result._mean = self._mean + 2 * (half * (theirs / count))
        result.stddev = math.hypot(
            self.stddev * math.sqrt(mine / count), other.stddev * math.sqrt(theirs / count), apart
        )
        if self._exact is not None and other._exact is not None and count <= EXACT_VALUES:
            result._exact = self._exact + other._exact
            result._buckets = _NO_BUCKETS
        else:
            result._exact = None
            result._buckets = _merge(self._counted(), other._counted())
        return result

    @property
    def sum(self) -> int | float:
        """The sum of all values; infinite beyond the largest float."""
        return sums.value_of(self._sum)

    @property
    def mean(self) -> float:
        """The arithmetic mean; 0.0 while there are no values."""
        if not self.count:
            return 0.0
        try:
            mean = self.sum / self.count
        except OverflowError:
            mean = math.inf
        # Rounding may put the mean of equal values an ulp outside of them.
        return min(max(mean if math.isfinite(mean) else self._mean, self.min), self.max)

    @property
    def relative_error(self) -> float:
        """How far a quantile may be from the true value, as a share of it; 0.0 while all values are kept."""
        return 0.0 if self._exact is not None else (2.0**2.0**-self.scale - 1) / 2

    @property
    def scale(self) -> int:
        """The scale of the buckets."""
        return self._buckets.scale

    @property
    def buckets(self) -> Buckets:
        """The values as counts in exponential buckets; exact ones are counted now."""
        return self._counted()

    def quantiles(self, *shares: float) -> list[float]:
        """Return the nearest-rank quantile for each share.

        The quantile of ``q`` is the smallest recorded value that at least a share ``q`` of all values do not
        exceed (the inverse of the empirical distribution function), so it is never an interpolation.

        Args:
            *shares: Shares above 0 and up to 1, in ascending order.

        Raises:
            ValueError: If there are no values.
        """
        if not self.count:
            raise ValueError("an empty distribution has no quantiles")
        ranks = [max(1, math.ceil(share * self.count - 1e-9)) for share in shares]
        if self._exact is not None:
            ordered = sorted(self._exact)
            found: Iterable[float] = (ordered[rank - 1] for rank in ranks)
        else:
            found = _at_ranks(self._buckets, ranks)
        # The middle of a bucket may lie outside of its values, and so does a large integer as a float.
        return [min(max(value, self.min), self.max) for value in found]

    def _counted(self) -> Buckets:
        if self._exact is None or not self.count:
            return self._buckets
        return _count(self._exact, self.min, self.max)


EMPTY = Distribution()


def _mean(values: Sequence[int | float], total: int | float, count: int) -> float:
    try:
        mean = total / count
    except OverflowError:
        mean = math.inf
    if math.isfinite(mean):
        return mean
    mean = 2 * math.fsum(value / (2 * count) for value in values)
    return min(max(mean, min(values)), max(values))


def _scaled_deviation(values: Sequence[int | float], mean: float) -> float:
    """Return the deviation of values so far apart that their distances leave the floats."""
    scale = 2 * math.sqrt(len(values))
    return 2 * math.dist([value / scale for value in values], (mean / scale,) * len(values))


def _count(values: Sequence[int | float], lowest: int | float, highest: int | float) -> Buckets:
    if lowest > 0:
        return _bounded(Buckets(SCALE, lanes.EMPTY, 0, _lanes(values, lowest, highest)))
    positive = [value for value in values if value > 0]
    negative = [-value for value in values if value < 0]
    return _bounded(
        Buckets(
            SCALE,
            _lanes(negative, min(negative), -lowest) if negative else lanes.EMPTY,
            len(values) - len(positive) - len(negative),
            _lanes(positive, min(positive), highest) if positive else lanes.EMPTY,
        )
    )


def _lanes(values: Sequence[int | float], lowest: int | float, highest: int | float) -> Lanes:
    """Count positive values by the index of their bucket.

    The upper bound of a bucket is inclusive, so an index is rounded up, less one. This loop is most of what
    a histogram costs.
    """
    low = ceil(log2(lowest) * _PER_OCTAVE)
    span = ceil(log2(highest) * _PER_OCTAVE) - low + 1
    if len(values) < 256:  # no bucket has more than a byte holds
        cells = bytearray(span)
        for value in values:
            cells[ceil(log2(value) * _PER_OCTAVE) - low] += 1
        return Lanes.of_bytes(low - 1, cells, len(values))
    counts = [0] * span
    for value in values:
        counts[ceil(log2(value) * _PER_OCTAVE) - low] += 1
    return Lanes.pack(low - 1, counts)


def _merge(one: Buckets, other: Buckets) -> Buckets:
    while one.scale > other.scale:
        one = _halved(one)
    while other.scale > one.scale:
        other = _halved(other)
    return _bounded(
        Buckets(
            one.scale,
            one.negative.merge(other.negative),
            one.zeros + other.zeros,
            one.positive.merge(other.positive),
        )
    )


def _bounded(buckets: Buckets) -> Buckets:
    while buckets.negative.span > MAX_INDEXES or buckets.positive.span > MAX_INDEXES:
        buckets = _halved(buckets)
    return buckets


def _halved(buckets: Buckets) -> Buckets:
    return Buckets(buckets.scale - 1, buckets.negative.halved(), buckets.zeros, buckets.positive.halved())


def _at_ranks(buckets: Buckets, ranks: Sequence[int]) -> Iterable[float]:
    """Yield the middle of the bucket that holds each rank; ranks ascend."""
    exponent = math.exp2(-buckets.scale)
    from_lower_bound = (1 + math.exp2(exponent)) / 2

    def middle(index: int) -> float:
        return math.exp2(index * exponent) * from_lower_bound

    negative, positive = buckets.negative, buckets.positive
    # One ascending row of cells: the negatives from the largest magnitude down, zero, the positives.
    cells = (*reversed(negative.counts()), buckets.zeros, *positive.counts())
    passed = list(accumulate(cells))
    zero = negative.span
    for rank in ranks:
        position = bisect_left(passed, rank)
        if position < zero:
            yield -middle(negative.high - position)
        elif position == zero:
            yield 0.0
        else:
            yield middle(positive.low + position - zero - 1)
