"""The values that the contracts pass around: metric types, units, readings and timings."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

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
        __slots__ = ("__dict__", "__weakref__", "pending")

        def __getattr__(self, name: str) -> Any:
            # An attribute is missing: the fields of a pending result are worked out at their first use.
            self._finish()
            if name not in self.__dict__:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return self.__dict__[name]

        def __getstate__(self) -> dict[str, Any]:
            self._finish()
            return self.__dict__

        def _finish(self) -> None:
            try:
                pending = object.__getattribute__(self, "pending")
            except AttributeError:  # it is finished
                return
            operation_name, metadata, start_ns, stop_ns, success, clock = pending
            # From the reading of the monotonic clock then to that of the wall clock.
            end_ns = clock.time_ns() - (clock.monotonic_ns() - stop_ns)
            end = datetime.fromtimestamp(end_ns / 1e9, tz=UTC)
            milliseconds = (stop_ns - start_ns) / 1e6
            fields = self.__dict__
            fields.setdefault("operation_name", operation_name)
            fields.setdefault("duration", milliseconds)
            fields.setdefault("unit", MetricUnit.MILLISECONDS)
            fields.setdefault("start_time", end - timedelta(milliseconds=milliseconds))
            fields.setdefault("end_time", end)
            fields.setdefault("success", success)
            fields.setdefault("metadata", {} if metadata is None else metadata)
            with suppress(AttributeError):  # another thread was faster
                del self.pending  # last, so that another thread that asks meanwhile finds all fields


PendingTiming = tuple[str, dict[str, Any] | None, int, int, bool, Any]
"""A finished timing: operation name, metadata, start and stop in nanoseconds, success, and the clock."""


def pending_timing(pending: PendingTiming) -> TimingResult:
    """Return a result whose fields are worked out when they are first used, which most callers never do.

    The compiled engine does the same in C. To fill all fields at once costs more than the rest of a timing.
    """
    result: Any = object.__new__(TimingResult)
    result.pending = pending
    return cast(TimingResult, result)


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
