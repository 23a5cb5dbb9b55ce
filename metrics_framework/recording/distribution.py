"""A mergeable distribution: exact while it is small, within 1 % for ever after.

Up to 128 values are kept as they are. From then on they are counted in base-2 exponential buckets, the
layout of OpenTelemetry's exponential histogram and of Prometheus' native histograms (OpenTelemetry metrics
data model, "ExponentialHistogram"): at scale ``s`` bucket ``i`` holds ``(b**i, b**(i+1)]`` with
``b = 2**(2**-s)``. At scale 6 a bucket's midpoint is within 0.55 % of anything in it.
"""

from __future__ import annotations

import math
from collections import Counter

from metrics_framework.recording.sums import Sum

EXACT_VALUES = 128
"""How many values are kept as they are."""

SCALE = 6
"""The scale that every distribution starts at."""

MAX_INDEXES = 5_120
"""How many bucket indexes one sign may span (80 octaves at scale 6) before the resolution is halved."""


class Distribution:
    """Count, sum, extremes, deviation and quantiles of a stream of finite numbers, of either sign.

    Two distributions merge into what one would be that had seen both streams.
    """

    __slots__ = (
        "_exact",
        "_mean",
        "_negative",
        "_positive",
        "_squares",
        "_sum",
        "_zeros",
        "count",
        "max",
        "min",
        "scale",
    )

    def __init__(self) -> None:
        self.count = 0
        self.min = math.inf
        self.max = -math.inf
        self.scale = SCALE
        self._sum = Sum()
        self._mean = 0.0
        self._squares = 0.0  # the sum of squared deviations from the mean (Welford)
        self._exact: list[int | float] | None = []
        self._positive: Counter[int] = Counter()
        self._negative: Counter[int] = Counter()
        self._zeros = 0

    def record(self, value: int | float) -> None:
        """Add one finite number."""
        self.count += 1
        self._sum.add(value)
        delta = value - self._mean
        self._mean += delta / self.count
        self._squares += delta * (value - self._mean)
        self.min = min(self.min, value)
        self.max = max(self.max, value)
        if self._exact is None:
            self._bucket(value)
        else:
            self._exact.append(value)
            if len(self._exact) > EXACT_VALUES:
                self._spill()

    def merge(self, other: Distribution) -> None:
        """Add every value that ``other`` has seen; ``other`` stays as it is."""
        if not other.count:
            return
        count = self.count + other.count
        delta = other._mean - self._mean
        self._squares += other._squares + delta * delta * self.count * other.count / count  # Chan et al. 1979
        self._mean += delta * other.count / count
        self.count = count
        self._sum.merge(other._sum)
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)
        if self._exact is not None and other._exact is not None:
            self._exact.extend(other._exact)
            if len(self._exact) > EXACT_VALUES:
                self._spill()
            return
        self._spill()
        if other._exact is not None:
            for value in other._exact:
                self._bucket(value)
            return
        while self.scale > other.scale:
            self._halve()
        shift = other.scale - self.scale
        for mine, theirs in ((self._positive, other._positive), (self._negative, other._negative)):
            for index, number in theirs.items():
                mine[index >> shift] += number
        self._zeros += other._zeros
        self._bound()

    @property
    def sum(self) -> int | float:
        """The sum of all values."""
        return self._sum.value

    @property
    def mean(self) -> float:
        """The arithmetic mean; 0.0 while there are no values."""
        return self.sum / self.count if self.count else 0.0

    @property
    def stddev(self) -> float:
        """The standard deviation in its population form; 0.0 while there are no values."""
        return math.sqrt(max(self._squares, 0.0) / self.count) if self.count else 0.0

    @property
    def relative_error(self) -> float:
        """How far a quantile may be from the true value, as a share of it; 0.0 while all values are kept."""
        return 0.0 if self._exact is not None else (2.0**2.0**-self.scale - 1) / 2

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
            return [float(ordered[rank - 1]) for rank in ranks]
        found: list[float] = []
        passed = 0
        for value, number in self._ascending():
            passed += number
            while len(found) < len(ranks) and ranks[len(found)] <= passed:
                found.append(min(max(value, self.min), self.max))
        return found

    def _ascending(self) -> list[tuple[float, int]]:
        exponent = math.exp2(-self.scale)
        from_lower_bound = (1 + math.exp2(exponent)) / 2

        def middle(index: int) -> float:
            return math.exp2(index * exponent) * from_lower_bound

        below = [(-middle(index), self._negative[index]) for index in sorted(self._negative, reverse=True)]
        above = [(middle(index), self._positive[index]) for index in sorted(self._positive)]
        return [*below, (0.0, self._zeros), *above]

    def _spill(self) -> None:
        values, self._exact = self._exact, None
        for value in values or ():
            self._bucket(value)

    def _bucket(self, value: int | float) -> None:
        if value == 0:
            self._zeros += 1
            return
        # The bucket's upper bound is inclusive, hence ceil - 1.
        index = math.ceil(math.log2(abs(value)) * 2**self.scale) - 1
        buckets = self._positive if value > 0 else self._negative
        if index in buckets:
            buckets[index] += 1
        else:
            buckets[index] = 1
            self._bound()

    def _bound(self) -> None:
        for buckets in (self._positive, self._negative):
            while buckets and max(buckets) - min(buckets) >= MAX_INDEXES:
                self._halve()

    def _halve(self) -> None:
        self.scale -= 1
        for buckets in (self._positive, self._negative):
            halved: Counter[int] = Counter()
            for index, number in buckets.items():
                halved[index >> 1] += number
            buckets.clear()
            buckets.update(halved)
