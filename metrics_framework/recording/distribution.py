"""A mergeable distribution: exact up to 128 values, and within 1 % beyond.

Up to 128 values are kept exactly. Beyond, they are counted in base-2 exponential buckets, the
layout of OpenTelemetry's exponential histogram and of Prometheus' native histograms (OpenTelemetry metrics
data model, "ExponentialHistogram"): at scale ``s`` bucket ``i`` holds ``(b**i, b**(i+1)]`` with
``b = 2**(2**-s)``. At scale 6 a bucket's midpoint is within 0.55 % of anything in it.

The pure-Python engine uses `Distribution`. The compiled engine has its own, with the same name and results;
its ``state`` consists of the classes of this module, too.
"""

from __future__ import annotations

import math
import struct
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil, inf, log2
from typing import Any, NamedTuple

from metrics_framework.recording.aggregates import INT64_MAX, INT64_MIN, ZERO, Sum, size_of, within_int64

EXACT_VALUES = 128
"""How many values are kept as they are."""

SCALE = 6
"""The scale of a new distribution."""

MAX_INDEXES = 5_120
"""How many bucket indexes one sign may span (80 octaves at scale 6) before the resolution is halved."""

# -- packed counts ---------------------------------------------------------------------------------------

_CODES = {8: "B", 16: "H", 32: "I", 64: "Q"}


class PackedCounts(NamedTuple):
    """Counts of consecutive buckets, packed into one integer with the same number of bits for each.

    Adding two sets of buckets is then one addition of two integers, however many buckets there are. A count
    takes 8, 16, 32 or 64 bits: the narrowest width that holds the largest count. Counts are compared by
    content, whatever their widths.

    Attributes:
        low: The index of the lowest bucket, which is not empty.
        bits: The width of a count.
        peak: An upper bound of all counts.
        packed: The counts, the lowest bucket in the lowest bits.
    """

    low: int
    bits: int
    peak: int
    packed: int

    @classmethod
    def pack(cls, low: int, counts: Sequence[int]) -> PackedCounts:
        """Pack the counts of consecutive buckets from ``low`` on; the first and the last are not zero."""
        peak = max(counts)
        bits = _width(peak)
        return cls(low, bits, peak, _pack(counts, bits))

    @classmethod
    def of_bytes(cls, low: int, counts: bytearray, peak: int) -> PackedCounts:
        """Pack the counts of consecutive buckets from ``low`` on, each a byte and none above ``peak``."""
        return cls(low, 8, peak, int.from_bytes(counts, "little"))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedCounts):
            return NotImplemented
        return self.counts() == other.counts() and (self.low == other.low or not self.packed)

    def __hash__(self) -> int:
        return hash(self.counts())

    @property
    def high(self) -> int:
        """The index of the highest bucket that is not empty."""
        return self.low + (self.packed.bit_length() - 1) // self.bits

    @property
    def span(self) -> int:
        """The number of indexes from the lowest bucket to the highest; 0 if all are empty."""
        return -(-self.packed.bit_length() // self.bits)

    def merge(self, other: PackedCounts) -> PackedCounts:
        """Return the sums, bucket by bucket."""
        if not other.packed:
            return self
        if not self.packed:
            return other
        mine, theirs, peak = self, other, self.peak + other.peak
        bits = max(mine.bits, theirs.bits)
        if peak >= 1 << bits:  # peaks are upper bounds, so look before the counts are widened
            peak = mine.fullest() + theirs.fullest()
            bits = max(bits, _width(peak))
        mine, theirs = mine._in_bits(bits), theirs._in_bits(bits)
        if mine.low > theirs.low:
            mine, theirs = theirs, mine
        return PackedCounts(
            mine.low, bits, peak, mine.packed + (theirs.packed << (theirs.low - mine.low) * bits)
        )

    def halved(self) -> PackedCounts:
        """Return the counts at half the resolution: bucket ``i`` becomes bucket ``i // 2``."""
        if not self.packed:
            return self
        low = self.low >> 1
        cells = [0] * ((self.high >> 1) - low + 1)
        for index, count in self.items():
            cells[(index >> 1) - low] += count
        return PackedCounts.pack(low, cells)

    def counts(self) -> tuple[int, ...]:
        """Return the counts of all buckets from the lowest to the highest."""
        span = self.span
        return struct.unpack(
            f"<{span}{_CODES[self.bits]}", self.packed.to_bytes(span * self.bits // 8, "little")
        )

    def items(self) -> Iterator[tuple[int, int]]:
        """Yield the index and count of each bucket that is not empty, in ascending order."""
        return ((index, count) for index, count in enumerate(self.counts(), self.low) if count)

    def fullest(self) -> int:
        """Return the largest count."""
        return max(self.counts(), default=0)

    def _in_bits(self, bits: int) -> PackedCounts:
        if bits == self.bits:
            return self
        is_one = self.packed >> self.bits == 0  # which is the same in any width
        return PackedCounts(self.low, bits, self.peak, self.packed if is_one else _pack(self.counts(), bits))


NO_COUNTS = PackedCounts(0, 8, 0, 0)


def _pack(counts: Sequence[int], bits: int) -> int:
    if bits == 8:  # by far the most frequent, and the fastest
        return int.from_bytes(bytes(counts), "little")
    return int.from_bytes(struct.pack(f"<{len(counts)}{_CODES[bits]}", *counts), "little")


def _width(peak: int) -> int:
    return next(bits for bits in _CODES if peak >> bits == 0)


class Buckets(NamedTuple):
    """Values counted in exponential buckets, separately for each sign."""

    scale: int
    negative: PackedCounts
    zeros: int
    positive: PackedCounts


# -- distributions ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DistributionState:
    """Serializable state of a distribution; `Distribution.of_state` restores it.

    Attributes:
        count: The number of values.
        min: The smallest value.
        max: The largest value.
        sum: The running sum of all values: its total and the rounding error that the total lacks.
        mean: The arithmetic mean.
        stddev: The standard deviation of the population.
        exact: The exact values, or ``None`` if they are counted in ``buckets``.
        buckets: The counts; all empty if the values are exact.
        failures: How many of the values ended in failure.
    """

    count: int
    min: int | float
    max: int | float
    sum: Sum
    mean: float
    stddev: float
    exact: tuple[float, ...] | None
    buckets: Buckets
    failures: int = 0


_PER_OCTAVE = 2.0**SCALE
_NO_BUCKETS = Buckets(SCALE, NO_COUNTS, 0, NO_COUNTS)


class Distribution:
    """Count, sum, extremes, deviation and quantiles of finite numbers of either sign.

    It is immutable: `merge` returns the distribution of the values of both. Merging is associative and
    commutative; whether the values are kept exactly depends only on their number.

    Attributes:
        count: The number of values.
        min: The smallest value; infinity without values.
        max: The largest value; minus infinity without values.
        stddev: The standard deviation of the population.
        failures: How many of the values ended in failure; timers count them.
    """

    __slots__ = ("_buckets", "_exact", "_mean", "_sum", "count", "failures", "max", "min", "stddev")

    count: int
    min: int | float
    max: int | float
    stddev: float
    failures: int
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
        self.failures = 0
        self._sum = ZERO
        self._mean = 0.0
        self._exact = array("d")
        self._buckets = _NO_BUCKETS

    @classmethod
    def of(cls, values: Sequence[int | float], *, failures: int = 0) -> Distribution:
        """Return the distribution of finite numbers; integers beyond int64 count as floats.

        Args:
            values: The numbers.
            failures: How many of them ended in failure.

        Raises:
            TypeError: If an item is not a number.
        """
        result = cls()
        count = result.count = len(values)
        if not count:
            return result
        result.failures = failures
        if count == 1 and values[0].__class__ is float:  # frequent: one record between two reads
            value = result.min = result.max = result._mean = values[0]
            result._sum = Sum(value)
            result._exact = array("d", values)
            return result
        result.min, result.max = min(values), max(values)
        if result.max > INT64_MAX or result.min < INT64_MIN:
            values = [within_int64(value) for value in values]
            result.min, result.max = min(values), max(values)
        result._sum = ZERO.extend(values)
        mean = result._mean = _mean(values, result._sum.value, count)
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
    def of_state(cls, state: DistributionState) -> Distribution:
        """Return the distribution with this state, which is not checked."""
        result = cls()
        result.count, result.min, result.max = state.count, state.min, state.max
        result._sum, result._mean, result.stddev = state.sum, state.mean, state.stddev
        result._exact = None if state.exact is None else array("d", state.exact)
        result._buckets = state.buckets
        result.failures = state.failures
        return result

    @property
    def state(self) -> DistributionState:
        """The serializable state."""
        exact = None if self._exact is None else tuple(self._exact)
        return DistributionState(
            self.count,
            self.min,
            self.max,
            self._sum,
            self._mean,
            self.stddev,
            exact,
            self._buckets,
            self.failures,
        )

    def __eq__(self, other: object) -> bool:
        return self.state == other.state if isinstance(other, Distribution) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.count, self.min, self.max))

    def __reduce__(self) -> tuple[Callable[[DistributionState], Any], tuple[DistributionState]]:
        return (Distribution.of_state, (self.state,))

    def __sizeof__(self) -> int:
        size = object.__sizeof__(self) + size_of(self.min, self.max, self.stddev, self._mean)
        size += size_of(self._sum, *self._sum, self._exact)
        if self._buckets is not _NO_BUCKETS:
            for counts in (self._buckets.negative, self._buckets.positive):
                size += size_of(counts, counts.packed)
        return size

    def merge(self, other: Distribution) -> Distribution:
        """Return the distribution of the values of both."""
        if not other.count:
            return self
        if not self.count:
            return other
        result = Distribution.__new__(Distribution)
        mine, theirs = self.count, other.count
        count = result.count = mine + theirs
        result.failures = self.failures + other.failures
        result.min = min(self.min, other.min)
        result.max = max(self.max, other.max)
        result._sum = self._sum.merge(other._sum)
        # Chan, Golub, LeVeque 1979, in a form in which nothing is squared: half of the distance between
        # the means never overflows.
        half = other._mean / 2 - self._mean / 2
        apart = half * (2 * math.sqrt(mine / count * (theirs / count)))
        step = half * (theirs / count)
        moved = self._mean + 2 * step
        # Between extreme values twice the step is infinite, although their mean is not.
        result._mean = moved if math.isfinite(moved) else self._mean + step + step
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
    def records(self) -> int:
        """The number of values, by the name that all aggregates have for it."""
        return self.count

    @property
    def sum(self) -> int | float:
        """The sum of all values; infinite beyond the largest float."""
        return self._sum.value

    @property
    def mean(self) -> float:
        """The arithmetic mean; 0.0 without values."""
        if not self.count:
            return 0.0
        mean = self.sum / self.count
        # Rounding may put the mean of equal values an ulp outside of them.
        return min(max(mean if math.isfinite(mean) else self._mean, self.min), self.max)

    @property
    def relative_error(self) -> float:
        """The maximum relative error of a quantile; 0.0 while all values are kept."""
        return 0.0 if self._exact is not None else (2.0**2.0**-self.scale - 1) / 2

    @property
    def scale(self) -> int:
        """The scale of the buckets."""
        return self._buckets.scale

    @property
    def buckets(self) -> Buckets:
        """The values as counts in exponential buckets; exact values are counted now."""
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
    mean = total / count
    if math.isfinite(mean):
        return mean
    mean = 2 * math.fsum(value / (2 * count) for value in values)
    return min(max(mean, min(values)), max(values))


def _scaled_deviation(values: Sequence[int | float], mean: float) -> float:
    """Return the deviation of values so far apart that their distances overflow a float."""
    scale = 2 * math.sqrt(len(values))
    return 2 * math.dist([value / scale for value in values], (mean / scale,) * len(values))


def _count(values: Sequence[int | float], lowest: int | float, highest: int | float) -> Buckets:
    if lowest > 0:
        return _bounded(Buckets(SCALE, NO_COUNTS, 0, _packed(values, lowest, highest)))
    positive = [value for value in values if value > 0]
    negative = [-value for value in values if value < 0]
    return _bounded(
        Buckets(
            SCALE,
            _packed(negative, min(negative), -lowest) if negative else NO_COUNTS,
            len(values) - len(positive) - len(negative),
            _packed(positive, min(positive), highest) if positive else NO_COUNTS,
        )
    )


def _packed(values: Sequence[int | float], lowest: int | float, highest: int | float) -> PackedCounts:
    """Count positive values by the index of their bucket.

    The upper bound of a bucket is inclusive, so an index is rounded up, less one. This loop is most of the
    cost of a histogram.
    """
    low = ceil(log2(lowest) * _PER_OCTAVE)
    span = ceil(log2(highest) * _PER_OCTAVE) - low + 1
    if len(values) < 256:  # a byte holds every count
        cells = bytearray(span)
        for value in values:
            cells[ceil(log2(value) * _PER_OCTAVE) - low] += 1
        return PackedCounts.of_bytes(low - 1, cells, len(values))
    counts = [0] * span
    for value in values:
        counts[ceil(log2(value) * _PER_OCTAVE) - low] += 1
    return PackedCounts.pack(low - 1, counts)


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


def subtract_distribution(whole: Distribution, part: Distribution) -> DistributionState:
    """Return the state of the values of a distribution of either engine that are not in a part of it.

    Counts and sums are exact. Beyond `EXACT_VALUES`, extremes and deviation are those of the buckets.
    """
    mine, theirs = whole.state, part.state
    failures = max(mine.failures - theirs.failures, 0)
    if mine.exact is not None and theirs.exact is not None:
        left = Counter(mine.exact)
        left.subtract(theirs.exact)
        return replace(Distribution.of(list(left.elements())).state, failures=failures)
    one, other = whole.buckets, part.buckets
    while other.scale > one.scale:
        other = _halved(other)
    result = Distribution()
    result._exact = None
    result._buckets = Buckets(
        one.scale,
        _subtract_counts(one.negative, other.negative),
        max(one.zeros - other.zeros, 0),
        _subtract_counts(one.positive, other.positive),
    )
    result.min, result.max = mine.min, mine.max
    values = list(weighted_values(result))
    count = sum(number for _, number in values)
    if not count:
        return Distribution().state
    result.count, result.failures = count, failures
    result.min, result.max = min(values)[0], max(values)[0]
    result._sum = Sum(*mine.sum).subtract(Sum(*theirs.sum))
    mean = result._mean = min(max(result._sum.value / count, result.min), result.max)
    deviation = math.hypot(*((value - mean) * math.sqrt(number / count) for value, number in values))
    result.stddev = deviation if math.isfinite(deviation) else 0.0
    return result.state


def _subtract_counts(counts: PackedCounts, other: PackedCounts) -> PackedCounts:
    left = dict(counts.items())
    for index, number in other.items():
        left[index] = left.get(index, 0) - number
    kept = {index: number for index, number in left.items() if number > 0}
    if not kept:
        return NO_COUNTS
    low, high = min(kept), max(kept)
    return PackedCounts.pack(low, [kept.get(index, 0) for index in range(low, high + 1)])


def weighted_values(distribution: Distribution) -> Iterator[tuple[float, int]]:
    """Yield the values of a distribution of either engine, and how often; for a bucket, its middle."""
    exact = distribution.state.exact
    if exact is not None:
        yield from ((value, 1) for value in exact)
        return
    scale, negative, zeros, positive = distribution.buckets
    for sign, counts in ((-1, negative), (1, positive)):
        for index, number in counts.items():
            yield min(max(sign * _middle(scale, index), distribution.min), distribution.max), number
    if zeros:
        yield 0.0, zeros


def _middle(scale: int, index: int) -> float:
    exponent = math.exp2(-scale)
    return math.exp2(index * exponent) * ((1 + math.exp2(exponent)) / 2)


def _at_ranks(buckets: Buckets, ranks: Sequence[int]) -> Iterable[float]:
    """Yield the middle of the bucket that holds each rank; ranks ascend."""
    scale, negative, zeros, positive = buckets
    # One ascending row of cells: the negatives from the largest magnitude down, zero, the positives.
    cells = (*reversed(negative.counts()), zeros, *positive.counts())
    passed = list(accumulate(cells))
    zero = negative.span
    for rank in ranks:
        position = bisect_left(passed, rank)
        if position < zero:
            yield -_middle(scale, negative.high - position)
        elif position == zero:
            yield 0.0
        else:
            yield _middle(scale, positive.low + position - zero - 1)
