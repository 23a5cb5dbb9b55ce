"""What is kept of a stream of records: one class for each kind of number.

A trace never changes. `of` makes one of a batch of records, `merge` one of two stretches of time. The same
classes serve a series since its start, a slot of a time window, and a window put together from slots.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from operator import mul, sub
from typing import NamedTuple, Protocol, Self

from metrics_framework.recording import sums
from metrics_framework.recording.distribution import Distribution

Summary = dict[str, float]
QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


class Trace(Protocol):
    """What a time window needs to know of what it keeps."""

    def merge(self, later: Self, /) -> Self:
        """Return this with what a trace of a later stretch of time holds."""
        ...


class CounterTrace(NamedTuple):
    """The additions to a counter: a running sum (`sums`), and how many there were.

    There may be a hundred thousand of these, so the sum is not a tuple of its own.
    """

    records: int = 0
    total: int | float = 0
    compensation: float = 0.0

    @classmethod
    def of(cls, values: Sequence[int | float]) -> CounterTrace:
        """Add up a batch.

        Raises:
            TypeError: If something in ``values`` is no number.
        """
        return _counter((len(values), sums.sum_of(values), 0.0))

    def merge(self, later: CounterTrace) -> CounterTrace:
        """Return the sum of both."""
        records, total, compensation = self
        more_records, more, more_compensation = later
        if total.__class__ is int and more.__class__ is int:
            return _counter((records + more_records, total + more, compensation))
        total, compensation = sums.merge((total, compensation), (more, more_compensation))
        return _counter((records + more_records, total, compensation))

    @property
    def value(self) -> int | float:
        """The sum; an ``int`` as long as only integers were added."""
        return sums.value_of((self.total, self.compensation))

    def summary(self, seconds: float) -> Summary:
        """Return ``count``, ``seconds``, ``sum`` and ``rate``."""
        total = self.value
        return {"count": self.records, "seconds": seconds, "sum": total, "rate": per_second(total, seconds)}


_counter = partial(tuple.__new__, CounterTrace)


class GaugeTrace(NamedTuple):
    """The course of a gauge: what it was set to and for how long it stayed there.

    A course may change without a record: where one of the series that it is made of is removed.
    """

    records: int = 0
    last: int | float = 0
    min: int | float = 0
    max: int | float = 0
    first: int | float = 0
    first_ns: int = -1  # there is no course yet
    last_ns: int = 0
    integral: float = 0.0  # value times nanoseconds, from the first record to the last

    @classmethod
    def of(cls, values: Sequence[int | float], times_ns: Sequence[int]) -> GaugeTrace:
        """Follow a batch of at least one record; times never fall."""
        return cls(
            len(values),
            values[-1],
            min(values),
            max(values),
            values[0],
            times_ns[0],
            times_ns[-1],
            _integral(values, times_ns),
        )

    @classmethod
    def start(cls, value: int | float, time_ns: int) -> GaugeTrace:
        """Follow a single record; `of` for one, in a tenth of the time."""
        return _gauge((1, value, value, value, value, time_ns, time_ns, 0.0))

    def go_on(self, value: int | float, time_ns: int) -> GaugeTrace:
        """Return this course with one more record; `merge` for one, in a tenth of the time."""
        records, last, low, high, first, first_ns, last_ns, integral = self
        return _gauge(
            (
                records + 1,
                value,
                value if value < low else low,  # noqa: FURB136 - faster than a call, and it counts here
                value if value > high else high,  # noqa: FURB136
                first,
                first_ns,
                time_ns,
                integral + float(last) * (time_ns - last_ns),
            )
        )

    def merge(self, later: GaugeTrace) -> GaugeTrace:
        """Return this course going on with a later one."""
        if later.first_ns < 0:
            return self
        if self.first_ns < 0:
            return later
        return GaugeTrace(
            self.records + later.records,
            later.last,
            min(self.min, later.min),
            max(self.max, later.max),
            self.first,
            self.first_ns,
            later.last_ns,
            self.integral + float(self.last) * (later.first_ns - self.last_ns) + later.integral,
        )

    def summary(self, start_ns: int, now_ns: int, before: GaugeTrace | None) -> Summary:
        """Return ``count``, ``seconds``, ``last``, and over records ``avg``, ``min`` and ``max``.

        The average is weighted by how long the gauge stayed at each value.

        Args:
            start_ns: Where the stretch of time begins.
            now_ns: Where it ends.
            before: The course before it; its last value holds from ``start_ns`` to the first record.
        """
        result: Summary = {"count": self.records, "seconds": (now_ns - start_ns) / 1e9}
        if not self.records:
            known = self if self.first_ns >= 0 else before
            return result if known is None else {**result, "last": known.last}
        integral = self.integral + float(self.last) * (now_ns - self.last_ns)
        low, high, began = self.min, self.max, self.first_ns
        if before is not None and began > start_ns:
            integral += float(before.last) * (began - start_ns)
            low, high, began = min(low, before.last), max(high, before.last), start_ns
        span = now_ns - began
        average = integral / span if span > 0 else float(self.last)
        # Rounding may put the average of a constant an ulp outside of it, and extremes overflow.
        average = min(max(average, low), high) if average == average else float(self.last)
        return {**result, "last": self.last, "avg": average, "min": low, "max": high}


_gauge = partial(tuple.__new__, GaugeTrace)


class OutcomeTrace(NamedTuple):
    """How an operation ended, each time: error type to number, ``None`` for successes."""

    endings: Mapping[str | None, int] = {}

    @classmethod
    def of(cls, endings: Sequence[str | None]) -> OutcomeTrace:
        """Count a batch.

        Raises:
            TypeError: If something in ``endings`` is neither ``None`` nor a string.
        """
        counted = Counter(endings)
        for ending in counted:
            if ending is not None and not isinstance(ending, str):
                raise TypeError(f"{ending!r} is no error type")
        return cls(counted)

    def merge(self, later: OutcomeTrace) -> OutcomeTrace:
        """Return the counts of both."""
        counted = Counter(self.endings)
        counted.update(later.endings)
        return OutcomeTrace(counted)

    @property
    def records(self) -> int:
        """How many outcomes there were."""
        return sum(self.endings.values())

    @property
    def successes(self) -> int:
        """How many of them were successes."""
        return self.endings.get(None, 0)

    @property
    def failures(self) -> dict[str, int]:
        """The others, by error type."""
        return {ending: number for ending, number in self.endings.items() if ending is not None}

    @property
    def success_rate(self) -> float:
        """The share of successes; 1.0 where nothing happened."""
        return self.successes / self.records if self.endings else 1.0


def summarize_distribution(distribution: Distribution, seconds: float) -> Summary:
    """Return the summary of a distribution; only ``count``, ``sum`` and ``rate`` while it is empty."""
    result: Summary = {
        "count": distribution.count,
        "seconds": seconds,
        "sum": distribution.sum,
        "rate": per_second(distribution.count, seconds),
    }
    if distribution.count:
        result.update(
            avg=distribution.mean, min=distribution.min, max=distribution.max, stddev=distribution.stddev
        )
        result.update(zip(QUANTILES, distribution.quantiles(*QUANTILES.values()), strict=True))
    return result


def _integral(values: Sequence[int | float], times_ns: Sequence[int]) -> float:
    try:
        return float(sum(map(mul, values, map(sub, times_ns[1:], times_ns))))
    except OverflowError:  # an integer near the largest float
        return math.fsum(map(mul, map(float, values), map(sub, times_ns[1:], times_ns)))


def per_second(amount: float, seconds: float) -> float:
    """Divide, where a stretch of no time has no rate."""
    try:
        return amount / seconds if seconds > 0 else 0.0
    except OverflowError:  # a sum of integers beyond the largest float
        return math.inf
