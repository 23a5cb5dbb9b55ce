"""What is kept of a stream of records: one class for each kind of number.

A trace records, merges with the trace of a later stretch of time, and summarizes itself. The same classes
serve a series since its start, a slot of a time window, and a window put together from slots.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Protocol, Self

from metrics_framework.recording.distribution import Distribution
from metrics_framework.recording.sums import Sum

Summary = dict[str, float]
QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


class Trace(Protocol):
    """What a time window needs to know of what it keeps."""

    def merge(self, later: Self, /) -> None:
        """Add what a trace of a later stretch of time holds."""
        ...


class CounterTrace:
    """The additions to a counter."""

    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = Sum()

    def record(self, value: int | float) -> None:
        """Add to the counter."""
        self.count += 1
        self.total.add(value)

    def merge(self, later: CounterTrace) -> None:
        """Add what a later trace holds."""
        self.count += later.count
        self.total.merge(later.total)

    def summary(self, seconds: float) -> Summary:
        """Return ``count``, ``seconds``, ``sum`` and ``rate``."""
        total = self.total.value
        return {"count": self.count, "seconds": seconds, "sum": total, "rate": per_second(total, seconds)}


class GaugeTrace:
    """The course of a gauge: what it was set to and for how long it stayed there."""

    __slots__ = ("_first", "_first_ns", "_integral", "_last_ns", "count", "last", "max", "min")

    def __init__(self) -> None:
        self.count = 0
        self.last: int | float = 0
        self.min: int | float = 0
        self.max: int | float = 0
        self._first: int | float = 0
        self._first_ns = 0
        self._last_ns = 0
        self._integral = 0.0  # value times nanoseconds, from the first record to the last

    def record(self, value: int | float, now_ns: int) -> None:
        """Set the gauge."""
        if not self.count:
            self._first, self._first_ns, self._last_ns = value, now_ns, now_ns
            self.min = self.max = value
        self._integral += float(self.last) * (now_ns - self._last_ns)
        self.count += 1
        self.last, self._last_ns = value, now_ns
        self.min = min(self.min, value)
        self.max = max(self.max, value)

    def merge(self, later: GaugeTrace) -> None:
        """Go on with what a later trace holds."""
        if not later.count:
            return
        if not self.count:
            self._first, self._first_ns, self._last_ns = later._first, later._first_ns, later._first_ns
            self.min, self.max = later.min, later.max
        self._integral += float(self.last) * (later._first_ns - self._last_ns) + later._integral
        self.count += later.count
        self.last, self._last_ns = later.last, later._last_ns
        self.min = min(self.min, later.min)
        self.max = max(self.max, later.max)

    def summary(self, start_ns: int, now_ns: int, before: GaugeTrace | None) -> Summary:
        """Return ``count``, ``seconds``, ``last``, and over records ``avg``, ``min`` and ``max``.

        Args:
            start_ns: Where the stretch of time begins.
            now_ns: Where it ends.
            before: The course before it; its last value holds from ``start_ns`` to the first record.
        """
        result: Summary = {"count": self.count, "seconds": (now_ns - start_ns) / 1e9}
        if not self.count:
            return result if before is None else {**result, "last": before.last}
        integral = self._integral + float(self.last) * (now_ns - self._last_ns)
        low, high, began = self.min, self.max, self._first_ns
        if before is not None and began > start_ns:
            integral += float(before.last) * (began - start_ns)
            low, high, began = min(low, before.last), max(high, before.last), start_ns
        span = now_ns - began
        average = integral / span if span else float(self.last)
        # Rounding may put the average of a constant an ulp outside of it.
        return {**result, "last": self.last, "avg": min(max(average, low), high), "min": low, "max": high}


class DistributionTrace(Distribution):
    """The values of a histogram or a timer."""

    __slots__ = ()

    def summary(self, seconds: float) -> Summary:
        """Return the summary of a distribution; only ``count``, ``sum`` and ``rate`` while it is empty."""
        result: Summary = {
            "count": self.count,
            "seconds": seconds,
            "sum": self.sum,
            "rate": per_second(self.count, seconds),
        }
        if self.count:
            result.update(avg=self.mean, min=self.min, max=self.max, stddev=self.stddev)
            result.update(zip(QUANTILES, self.quantiles(*QUANTILES.values()), strict=True))
        return result


class OutcomeTrace:
    """How an operation ended, each time."""

    __slots__ = ("failures", "successes")

    def __init__(self) -> None:
        self.successes = 0
        self.failures: Counter[str] = Counter()

    def record(self, error_type: str | None) -> None:
        """Count a failure of a type, or a success where there is none."""
        if error_type is None:
            self.successes += 1
        else:
            self.failures[error_type] += 1

    def merge(self, later: OutcomeTrace) -> None:
        """Add what a later trace holds."""
        self.successes += later.successes
        self.failures.update(later.failures)

    @property
    def count(self) -> int:
        """How many outcomes there were."""
        return self.successes + self.failures.total()

    @property
    def success_rate(self) -> float:
        """The share of successes; 1.0 where nothing happened."""
        return self.successes / self.count if self.count else 1.0


def per_second(amount: float, seconds: float) -> float:
    """Divide, where a stretch of no time has no rate."""
    try:
        return amount / seconds if seconds > 0 else 0.0
    except OverflowError:  # a sum of integers beyond the largest float
        return math.inf
