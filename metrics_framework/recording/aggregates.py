"""Aggregates of counters, gauges and outcomes, running sums, and the summaries of all aggregates.

An aggregate is immutable. `of` aggregates a batch of records, and `merge` returns the aggregate of two
consecutive intervals. The same classes hold the state of a series since its start, of a time slot, and of a
window of several slots. The class for histograms and timers is `distribution.Distribution`.

The pure-Python engine uses the classes of this module. The compiled engine has its own, with the same names,
results and limits; the summary functions accept both.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import mul, sub
from typing import NamedTuple, Protocol

INT64_MAX = (1 << 63) - 1
INT64_MIN = -(1 << 63)
MAX_FLOAT = sys.float_info.max
MIN_FLOAT = -MAX_FLOAT

# -- sums ------------------------------------------------------------------------------------------------


class Sum(NamedTuple):
    """A running sum: integers are exact within int64, floats carry their rounding error along.

    Attributes:
        total: An ``int`` while only integers were added and their sum fits int64, else a ``float``. It is
            infinite once the sum leaves the floats, and stays so.
        compensation: The rounding error that ``total`` lacks.
    """

    total: int | float = 0
    compensation: float = 0.0

    def add(self, number: int | float) -> Sum:
        """Return the sum with one more number; the error stays within one rounding (Neumaier 1974)."""
        total, compensation = self
        result = total + number
        if result.__class__ is int:
            if INT64_MIN <= result <= INT64_MAX:
                return Sum(result, compensation)
            rounded = float(result)
            return Sum(rounded, float(result - int(rounded)))
        if math.isinf(total):
            return self
        if math.isinf(result):
            return Sum(result)
        larger, smaller = (total, number) if abs(total) >= abs(number) else (number, total)
        return Sum(result, compensation + ((larger - result) + smaller))

    def extend(self, numbers: Sequence[int | float]) -> Sum:
        """Return the sum with a batch of numbers; integers in it fit int64."""
        if not numbers:
            return self
        reach = abs(self.total) + len(numbers) * max(abs(max(numbers)), abs(min(numbers)))
        if reach <= (INT64_MAX if self.total.__class__ is int else MAX_FLOAT):
            return self.add(sum_of(numbers))
        result = self
        for number in numbers:  # one of them may leave int64 or the floats, and a later one come back
            result = result.add(number)
        return result

    def merge(self, other: Sum) -> Sum:
        """Return the sum of everything that was added to both."""
        total, compensation = self.add(other.total)
        return Sum(total, compensation + other.compensation)

    def subtract(self, earlier: Sum) -> Sum:
        """Return the sum of everything that was added since an earlier state of this sum."""
        if math.isinf(earlier.total):
            return Sum(0.0)  # it is infinite for good: later additions have no effect
        total, compensation = self.add(-earlier.total)
        return Sum(total, compensation - earlier.compensation)

    @property
    def value(self) -> int | float:
        """The sum, compensated."""
        total, compensation = self
        return total if total.__class__ is int or math.isinf(total) else total + compensation


ZERO = Sum()


def sum_of(numbers: Sequence[int | float]) -> int | float:
    """Add numbers: exactly if all are integers, else to the nearest float.

    Returns:
        The sum; infinite beyond the largest float.

    Raises:
        TypeError: If an item is not a number.
    """
    if not numbers or numbers[0].__class__ is not float:  # else the sum is a float for sure
        try:
            total = sum(numbers)
        except OverflowError:  # integers beyond the largest float meet a float
            total = 0.0
        if total.__class__ is int:
            return total
    try:
        return math.fsum(numbers)
    except OverflowError:  # fsum rejects partial sums beyond the largest float
        total = sum(map(float, numbers))
        return total if total == total else 0.0


def within_int64(number: int | float) -> int | float:
    """Return a number as engines record it: an integer beyond int64 becomes a float."""
    return number if number.__class__ is not int or INT64_MIN <= number <= INT64_MAX else float(number)


def added(value: int | float, step: int | float) -> int | float:
    """Return the sum of two values of gauges, limited to the range of floats."""
    result = value + step
    if result.__class__ is int:
        return within_int64(result)
    return min(max(result, MIN_FLOAT), MAX_FLOAT)


def size_of(*parts: object) -> int:
    """Return the size of the parts of an aggregate in bytes, for its ``__sizeof__``."""
    return sum(map(sys.getsizeof, parts))


# -- aggregates ------------------------------------------------------------------------------------------


class CounterAggregate(NamedTuple):
    """The additions to a counter. ``CounterAggregate()`` is empty.

    Attributes:
        records: The number of additions.
        running_sum: Their sum.
        is_exact: ``False`` once an integer sum left int64 and became a compensated float.
    """

    records: int = 0
    running_sum: Sum = ZERO
    is_exact: bool = True

    @classmethod
    def of(cls, values: Sequence[int | float]) -> CounterAggregate:
        """Aggregate a batch of additions.

        Raises:
            TypeError: If an item is not a number.
        """
        return cls().extend([within_int64(value) for value in values])

    def __sizeof__(self) -> int:
        return tuple.__sizeof__(self) + size_of(self.running_sum, *self.running_sum)

    @property
    def value(self) -> int | float:
        """The sum; an ``int`` while only integers were added and their sum fits int64."""
        return self.running_sum.value

    def extend(self, values: Sequence[int | float]) -> CounterAggregate:
        """Return this with a batch of additions; integers in it fit int64."""
        total = self.running_sum.extend(values)
        return CounterAggregate(
            self.records + len(values),
            total,
            self.is_exact and not _left_int64(self.running_sum, values, total),
        )

    def merge(self, later: CounterAggregate) -> CounterAggregate:
        """Return the aggregate of both intervals."""
        total = self.running_sum.merge(later.running_sum)
        is_exact = (
            self.is_exact
            and later.is_exact
            and not _left_int64(self.running_sum, (later.running_sum.total,), total)
        )
        return CounterAggregate(self.records + later.records, total, is_exact)

    def subtract(self, earlier: CounterAggregate) -> CounterAggregate:
        """Return the difference to an earlier aggregate of the same series."""
        return CounterAggregate(
            self.records - earlier.records,
            self.running_sum.subtract(earlier.running_sum),
            self.is_exact and earlier.is_exact,
        )


def _left_int64(before: Sum, values: Sequence[int | float], after: Sum) -> bool:
    """Return whether integers alone turned an integer sum into a float."""
    total = before.total
    if total.__class__ is not int or after.total.__class__ is int:
        return False
    for value in values:
        total += value
        if total.__class__ is not int:
            return False
        if not INT64_MIN <= total <= INT64_MAX:
            return True
    return False


_LAWS = ("latest", "sum", "min", "max")


class GaugeAggregate(NamedTuple):
    """The values of a gauge over time. ``GaugeAggregate()`` is empty.

    The combined value of several series may change without a record, when one of them is removed.

    Attributes:
        records: The number of records.
        last: The last value.
        min: The smallest value.
        max: The largest value.
        first: The first value.
        first_ns: Time of the first value; -1 if there is none.
        last_ns: Time of the last value.
        integral: Value times nanoseconds, from the first value to the last.
        is_stepped: Whether one of the records was an increment or a decrement.
    """

    records: int = 0
    last: int | float = 0
    min: int | float = 0
    max: int | float = 0
    first: int | float = 0
    first_ns: int = -1
    last_ns: int = 0
    integral: float = 0.0
    is_stepped: bool = False

    def __sizeof__(self) -> int:
        return tuple.__sizeof__(self) + size_of(*self)

    @classmethod
    def of(
        cls, values: Sequence[int | float], times_ns: Sequence[int], is_stepped: bool = False
    ) -> GaugeAggregate:
        """Aggregate at least one value; times never fall."""
        return cls(
            len(values),
            values[-1],
            min(values),
            max(values),
            values[0],
            times_ns[0],
            times_ns[-1],
            _integral(values, times_ns),
            is_stepped,
        )

    def merge(self, later: GaugeAggregate) -> GaugeAggregate:
        """Return the aggregate of both intervals."""
        if later.first_ns < 0:
            return self
        if self.first_ns < 0:
            return later
        return GaugeAggregate(
            self.records + later.records,
            later.last,
            min(self.min, later.min),
            max(self.max, later.max),
            self.first,
            self.first_ns,
            later.last_ns,
            self.integral + float(self.last) * (later.first_ns - self.last_ns) + later.integral,
            self.is_stepped or later.is_stepped,
        )

    def combine(self, other: GaugeAggregate, law: str) -> GaugeAggregate:
        """Return the aggregate of two parts of one gauge that were recorded at the same time.

        Two processes record one series, for example. With the law ``"sum"``, a part is 0 before its first
        value, and the average over time is exact; ``min`` and ``max`` are bounds, as the parts need not have
        had their extremes at the same time. With any other law the average is the mean of the averages of
        both parts, weighted by their records.

        Args:
            other: The other part.
            law: ``"latest"``, ``"sum"``, ``"min"`` or ``"max"``.

        Raises:
            ValueError: If it is another law.
        """
        if law not in _LAWS:
            raise ValueError(f"law={law!r} is not 'latest', 'sum', 'min' or 'max'")
        if other.first_ns < 0:
            return self
        if self.first_ns < 0:
            return other
        early, late = (self, other) if self.first_ns <= other.first_ns else (other, self)
        first, low, high = early.first, min(self.min, other.min), max(self.max, other.max)
        last_ns = max(self.last_ns, other.last_ns)
        if law == "sum":
            last = added(self.last, other.last)
            if early.first_ns == late.first_ns:
                first = added(early.first, late.first)
                low, high = added(early.min, late.min), added(early.max, late.max)
            else:
                low, high = added(early.min, min(late.min, 0)), added(early.max, max(late.max, 0))
            low, high = min(low, last), max(high, last)  # a sum of integers is exact, one with a float is not
            integral = self._integral_until(last_ns) + other._integral_until(last_ns)
        else:
            last = other.last if other.last_ns > self.last_ns else self.last
            if law == "min":
                last, first = min(self.last, other.last), min(self.first, other.first)
            elif law == "max":
                last, first = max(self.last, other.last), max(self.first, other.first)
            mine, theirs = max(self.records, 1), max(other.records, 1)
            mean = self._average_until(last_ns) * (mine / (mine + theirs))
            mean += other._average_until(last_ns) * (theirs / (mine + theirs))
            integral = mean * (last_ns - early.first_ns)
        return GaugeAggregate(
            self.records + other.records,
            last,
            low,
            high,
            first,
            early.first_ns,
            last_ns,
            integral,
            self.is_stepped or other.is_stepped,
        )

    def _integral_until(self, time_ns: int) -> float:
        return self.integral + float(self.last) * (time_ns - self.last_ns)

    def _average_until(self, time_ns: int) -> float:
        span = time_ns - self.first_ns
        return self._integral_until(time_ns) / span if span > 0 else float(self.last)


def _integral(values: Sequence[int | float], times_ns: Sequence[int]) -> float:
    try:
        return float(sum(map(mul, values, map(sub, times_ns[1:], times_ns))))
    except OverflowError:  # an integer near the largest float
        return math.fsum(map(mul, map(float, values), map(sub, times_ns[1:], times_ns)))


class OutcomeAggregate(NamedTuple):
    """How an operation ended. ``OutcomeAggregate()`` is empty.

    Attributes:
        endings: Error type to number of endings; ``None`` stands for successes. No number is zero.
    """

    endings: Mapping[str | None, int] = {}

    def __sizeof__(self) -> int:
        return tuple.__sizeof__(self) + size_of(self.endings)

    @classmethod
    def of(cls, endings: Sequence[str | None]) -> OutcomeAggregate:
        """Aggregate a batch of endings.

        Raises:
            TypeError: If an item is neither ``None`` nor a string.
        """
        counted = Counter(endings)
        for ending in counted:
            if ending is not None and not isinstance(ending, str):
                raise TypeError(f"{ending!r} is not an error type: pass a string, or None for success")
        return cls(dict(counted))

    @classmethod
    def of_endings(cls, endings: dict[str | None, int]) -> OutcomeAggregate:
        """Return an aggregate with these numbers by error type, ``None`` for successes; none is zero."""
        return cls(endings)

    def merge(self, later: OutcomeAggregate) -> OutcomeAggregate:
        """Return the aggregate of both intervals."""
        merged = dict(self.endings)
        for ending, number in later.endings.items():
            merged[ending] = merged.get(ending, 0) + number
        return OutcomeAggregate(merged)

    @property
    def records(self) -> int:
        """The number of endings."""
        return sum(self.endings.values())

    @property
    def successes(self) -> int:
        """The number of successes."""
        return self.endings.get(None, 0)

    @property
    def failures(self) -> dict[str, int]:
        """The number of failures by error type."""
        return {ending: number for ending, number in self.endings.items() if ending is not None}

    @property
    def success_rate(self) -> float:
        """The share of successes; 1.0 without records."""
        return self.successes / self.records if self.endings else 1.0


# -- summaries -------------------------------------------------------------------------------------------

Summary = dict[str, float]
QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


class _Counter(Protocol):
    """What `summarize_counter` reads of an aggregate of either engine."""

    @property
    def records(self) -> int: ...
    @property
    def value(self) -> int | float: ...


class _Gauge(Protocol):
    """What `summarize_gauge` reads of an aggregate of either engine."""

    @property
    def records(self) -> int: ...
    @property
    def last(self) -> int | float: ...
    @property
    def min(self) -> int | float: ...
    @property
    def max(self) -> int | float: ...
    @property
    def first_ns(self) -> int: ...
    @property
    def last_ns(self) -> int: ...
    @property
    def integral(self) -> float: ...


class _Distribution(Protocol):
    """What `summarize_distribution` reads of an aggregate of either engine."""

    @property
    def count(self) -> int: ...
    @property
    def sum(self) -> int | float: ...
    @property
    def mean(self) -> float: ...
    @property
    def min(self) -> int | float: ...
    @property
    def max(self) -> int | float: ...
    @property
    def stddev(self) -> float: ...
    def quantiles(self, *shares: float) -> list[float]: ...


def summarize_counter(aggregate: _Counter, seconds: float) -> Summary:
    """Return ``count``, ``seconds``, ``sum`` and ``rate``."""
    total = aggregate.value
    return {
        "count": aggregate.records,
        "seconds": seconds,
        "sum": total,
        "rate": per_second(total, seconds),
    }


def summarize_gauge(aggregate: _Gauge, start_ns: int, now_ns: int, before: _Gauge | None) -> Summary:
    """Return ``count``, ``seconds``, ``last`` and, if there are records, ``avg``, ``min`` and ``max``.

    The average is weighted by how long the gauge stayed at each value.

    Args:
        aggregate: The values from ``start_ns`` to ``now_ns``.
        start_ns: Start of the interval.
        now_ns: End of the interval.
        before: The values before it; the last one holds from ``start_ns`` to the first record.
    """
    result: Summary = {"count": aggregate.records, "seconds": (now_ns - start_ns) / 1e9}
    if not aggregate.records:
        known = aggregate if aggregate.first_ns >= 0 else before
        return result if known is None else {**result, "last": known.last}
    integral = aggregate.integral + float(aggregate.last) * (now_ns - aggregate.last_ns)
    low, high, began = aggregate.min, aggregate.max, aggregate.first_ns
    if before is not None and began > start_ns:
        integral += float(before.last) * (began - start_ns)
        low, high, began = min(low, before.last), max(high, before.last), start_ns
    span = now_ns - began
    average = integral / span if span > 0 else float(aggregate.last)
    # Rounding may move the average of a constant by an ulp, and make extremes overflow.
    average = min(max(average, low), high) if average == average else float(aggregate.last)
    return {**result, "last": aggregate.last, "avg": average, "min": low, "max": high}


def summarize_distribution(aggregate: _Distribution, seconds: float) -> Summary:
    """Return ``count``, ``seconds``, ``sum``, ``rate`` and, if there are records, their statistics."""
    result: Summary = {
        "count": aggregate.count,
        "seconds": seconds,
        "sum": aggregate.sum,
        "rate": per_second(aggregate.count, seconds),
    }
    if aggregate.count:
        result.update(avg=aggregate.mean, min=aggregate.min, max=aggregate.max, stddev=aggregate.stddev)
        result.update(zip(QUANTILES, aggregate.quantiles(*QUANTILES.values()), strict=True))
    return result


def per_second(amount: float, seconds: float) -> float:
    """Return ``amount / seconds``; 0.0 for an interval without length."""
    return amount / seconds if seconds > 0 else 0.0
