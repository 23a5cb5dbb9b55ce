"""The values that the contracts use: metric types, units, metric values and timings."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from metrics_framework.errors import InvalidInputError


class MetricType(Enum):
    """The type of a metric."""

    __hash__ = object.__hash__  # by identity, like its equality: that of `Enum` is a function in Python

    COUNTER = "counter"
    """A total that never decreases."""
    GAUGE = "gauge"
    """A current value that can increase and decrease."""
    HISTOGRAM = "histogram"
    """A distribution of values."""
    TIMER = "timer"
    """A distribution of durations, kept in milliseconds."""
    RATE = "rate"
    """Events per second, derived from counters and operations; it cannot be recorded."""


class MetricUnit(Enum):
    """The unit of a number."""

    __hash__ = object.__hash__  # see `MetricType`

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
    """The value of one series at one time.

    ``value`` is a counter's total, a gauge's last value, the p95 of a histogram or timer, or events
    per second for a rate.

    Attributes:
        name: The metric's or operation's name, as recorded.
        value: The number described above, in ``unit``.
        metric_type: The type of the metric.
        unit: The unit of ``value``.
        timestamp: When the value was read, in UTC.
        tags: The tags of the series.
        metadata: The full summary, and details that the adapter adds.
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
        operation_name: The operation.
        duration: The duration, in ``unit``.
        unit: Milliseconds, for every adapter of this library.
        start_time: When the operation began, in UTC.
        end_time: ``start_time`` plus the duration.
        success: Whether the operation succeeded.
        metadata: The metadata that was passed to the timer; ``time_operation`` adds the return value of the
            callable as ``"result"``.
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
            # An attribute is missing: compute the fields of a pending result at their first use.
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
            except AttributeError:  # the fields are computed
                return
            operation_name, metadata, start_ns, stop_ns, success, clock = pending
            # Convert the monotonic reading of that moment to wall time.
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
            with suppress(AttributeError):  # another thread deleted it first
                del self.pending  # last, so that other threads never see a missing field


PendingTiming = tuple[str, dict[str, Any] | None, int, int, bool, Any]
"""A finished timing: operation name, metadata, start and stop in nanoseconds, success, and the clock."""


def pending_timing(pending: PendingTiming) -> TimingResult:
    """Return a result that computes its fields at their first use; most callers never use them.

    The compiled engine does the same in C. Computing the fields costs more than the rest of a timing.
    """
    result: Any = object.__new__(TimingResult)
    result.pending = pending
    return cast(TimingResult, result)


@dataclass(frozen=True)
class CommandRun:
    """One finished run of a command.

    Attributes:
        seconds: The time from its start to its end.
        cpu_seconds: The CPU time of the command, of the processes that it waited for and, on Linux, of
            background processes that ended before it.
        peak_rss: The peak resident memory in bytes: the largest sampled sum over the command and its
            descendants, and at least the kernel's peak of the largest process. Shared memory counts for each
            process. A command that ends before the first sample has the kernel's peak, and counts at least
            as the launcher (10 MB). Background processes whose parent has ended count on Linux only.
        exit_code: The exit code, or minus the number of the signal that ended it.
        error_output: The end of its standard error, at most 8 KiB.
    """

    seconds: float
    cpu_seconds: float
    peak_rss: int
    exit_code: int
    error_output: str


_MILLISECONDS_IN = {
    MetricUnit.SECONDS: 1e3,
    MetricUnit.MILLISECONDS: 1.0,
    MetricUnit.MICROSECONDS: 1e-3,
}


def to_milliseconds(duration: float, unit: MetricUnit) -> float:
    """Convert a duration to milliseconds.

    Args:
        duration: The duration, in ``unit``.
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
        raise InvalidInputError(f"unit={unit!r} is not a unit of time: pass one of {allowed}") from None
