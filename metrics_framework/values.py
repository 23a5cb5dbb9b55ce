"""The values that the contracts pass around: metric types, units, readings and timings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

from metrics_framework.errors import InvalidInputError


class MetricType(Enum):
    """What kind of number a metric is."""

    COUNTER = "counter"
    """Only ever grows; its total and its rate mean something."""
    GAUGE = "gauge"
    """A current value that goes up and down."""
    HISTOGRAM = "histogram"
    """A distribution of values."""
    TIMER = "timer"
    """A distribution of durations, kept in milliseconds."""
    RATE = "rate"
    """Events per second, derived from counters and operations; nothing is recorded as a rate."""


class MetricUnit(Enum):
    """What a number is counted in."""

    SECONDS = "seconds"
    MILLISECONDS = "milliseconds"
    MICROSECONDS = "microseconds"
    BYTES = "bytes"
    KILOBYTES = "kilobytes"
    MEGABYTES = "megabytes"
    COUNT = "count"
    PERCENT = "percent"
    OPERATIONS_PER_SECOND = "ops/sec"


@dataclass
class MetricValue:
    """One metric at one moment.

    ``value`` is a counter's total, a gauge's last value, the p95 of a histogram or timer, or events
    per second for a rate.

    Attributes:
        name: The metric's or operation's name, as recorded.
        value: The number described above, in ``unit``.
        metric_type: What kind of number it is.
        unit: What it is counted in.
        timestamp: When it was read, in UTC.
        tags: The tags of the series.
        metadata: The full summary and whatever else the adapter knows.
    """

    name: str
    value: int | float
    metric_type: MetricType
    unit: MetricUnit
    timestamp: datetime
    tags: dict[str, str]
    metadata: dict[str, Any]


@dataclass
class TimingResult:
    """One finished timing.

    Attributes:
        operation_name: What was timed.
        duration: How long it took, in ``unit``.
        unit: Milliseconds, for every adapter of this library.
        start_time: When it began, in UTC.
        end_time: When it ended: ``start_time`` plus the duration.
        success: Whether the operation succeeded.
        metadata: What was passed to the timer; ``time_operation`` adds the callable's return value
            as ``"result"``.
    """

    operation_name: str
    duration: float
    unit: MetricUnit
    start_time: datetime
    end_time: datetime
    success: bool
    metadata: dict[str, Any]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Asked for what is not there: the datetimes of a fresh result.
            end_ns = self.__dict__.get("end_ns")
            if name not in ("start_time", "end_time") or end_ns is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            end = datetime.fromtimestamp(end_ns / 1e9, tz=UTC)
            self.__dict__.setdefault("end_time", end)
            self.__dict__.setdefault("start_time", end - timedelta(milliseconds=self.duration))
            self.__dict__.pop("end_ns", None)
            return self.__dict__[name]


FreshTiming: Callable[[], Any]
"""Makes a result whose datetimes are made when somebody looks at them.

They would cost more than all the rest of a timing, and a constructor in Python as much as half. Set the other
attributes and ``end_ns``, when it ended in nanoseconds since the epoch; then set ``__class__`` to
`TimingResult`, which it is to everybody else.
"""

if not TYPE_CHECKING:

    class FreshTiming(TimingResult):
        """A result in the making."""

        __init__ = object.__init__


_MILLISECONDS_IN = {
    MetricUnit.SECONDS: 1e3,
    MetricUnit.MILLISECONDS: 1.0,
    MetricUnit.MICROSECONDS: 1e-3,
}


def to_milliseconds(duration: float, unit: MetricUnit) -> float:
    """Convert a duration to milliseconds.

    Args:
        duration: A number of ``unit``.
        unit: One of the three time units.

    Returns:
        The same duration in milliseconds.

    Raises:
        InvalidInputError: If ``unit`` does not measure time.
    """
    try:
        return duration * _MILLISECONDS_IN[unit]
    except (KeyError, TypeError):
        allowed = ", ".join(f"MetricUnit.{known.name}" for known in _MILLISECONDS_IN)
        raise InvalidInputError(f"unit={unit!r} does not measure time; use one of {allowed}") from None
