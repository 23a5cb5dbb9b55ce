"""The store: the one place where numbers are kept, which collectors, timers and trackers are views of.

Metrics and operations are two namespaces. A series keeps its state since the start; time windows are kept
once for each name, so that they cost nothing as the number of series grows.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar, cast

from metrics_framework.clock import SYSTEM_CLOCK, Clock, utc
from metrics_framework.errors import InvalidInputError, MetricTypeError, UnknownMetricError, nearest
from metrics_framework.recording.series import Tags
from metrics_framework.recording.traces import (
    CounterTrace,
    DistributionTrace,
    GaugeTrace,
    OutcomeTrace,
    Summary,
    Trace,
)
from metrics_framework.recording.windows import SlidingWindows, Window
from metrics_framework.values import MetricType

T = TypeVar("T", bound=Trace)

RETENTION = timedelta(days=30)
RECENT_FAILURES = 20
"""How many of an operation's last failures are kept with their metadata."""

_TRACES: dict[MetricType, Callable[[], Any]] = {
    MetricType.COUNTER: CounterTrace,
    MetricType.GAUGE: GaugeTrace,
    MetricType.HISTOGRAM: DistributionTrace,
    MetricType.TIMER: DistributionTrace,
}


@dataclass(frozen=True)
class Failure:
    """One failure of an operation, as it was reported."""

    error_type: str
    metadata: dict[str, Any]
    timestamp: datetime


@dataclass(frozen=True)
class SeriesReading:
    """One series since the start: what it is and its summary at the moment of reading."""

    name: str
    metric_type: MetricType
    tags: dict[str, str]
    summary: Summary


@dataclass(frozen=True)
class OutcomeReading:
    """An operation's outcomes in a stretch of time."""

    successes: int
    failures: dict[str, int]
    success_rate: float
    seconds: float

    @property
    def count(self) -> int:
        """How many outcomes there were."""
        return self.successes + sum(self.failures.values())


@dataclass
class _Stream(Generic[T]):
    """A name's records: since the start, and lately."""

    total: T
    windows: SlidingWindows[T]


@dataclass
class _Metric(_Stream[Any]):
    metric_type: MetricType
    series: dict[Tags, Any] = field(default_factory=dict)


@dataclass
class _Outcomes(_Stream[OutcomeTrace]):
    recent_failures: deque[Failure]


class Store:
    """Keeps every number that one application records.

    Args:
        clock: Where time comes from.
        retention: How far back a time window may reach.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK, retention: timedelta = RETENTION) -> None:
        self.clock = clock
        self._start_ns = clock.monotonic_ns()
        self._lock = threading.RLock()
        self._metrics: dict[str, _Metric] = {}
        self._timings: dict[str, _Stream[DistributionTrace]] = {}
        self._outcomes: dict[str, _Outcomes] = {}
        self.retention = retention

    @property
    def retention(self) -> timedelta:
        """How far back a time window may reach; what is older is dropped, totals stay."""
        return self._retention

    @retention.setter
    def retention(self, retention: timedelta) -> None:
        if retention <= timedelta(0):
            raise InvalidInputError(f"retention={retention!r} is not a positive duration")
        with self._lock:
            self._retention = retention
            for stream in self._streams():
                stream.windows.retention_ns = _nanoseconds(retention)

    # -- recording -------------------------------------------------------------------------------------

    def add(self, name: str, value: int | float, tags: Tags) -> None:
        """Add to a counter."""
        with self._lock:
            metric = self._metric(name, MetricType.COUNTER)
            now_ns = self.clock.monotonic_ns()
            for trace in (metric.total, metric.windows.slot(now_ns), self._series(metric, tags)):
                trace.record(value)

    def set(self, name: str, value: int | float, tags: Tags) -> None:
        """Set a gauge."""
        with self._lock:
            metric = self._metric(name, MetricType.GAUGE)
            now_ns = self.clock.monotonic_ns()
            for trace in (metric.total, metric.windows.slot(now_ns), self._series(metric, tags)):
                trace.record(value, now_ns)

    def shift(self, name: str, step: int, tags: Tags) -> None:
        """Move a gauge by ``step``; a name that is a counter, or is new and goes up, counts instead."""
        with self._lock:
            known = self._metrics.get(name)
            if step > 0 and (known is None or known.metric_type is MetricType.COUNTER):
                self.add(name, step, tags)
                return
            if known is not None and known.metric_type is MetricType.COUNTER:
                raise MetricTypeError(
                    f"{name!r} is a counter and never goes down; to count up and down declare a gauge"
                    f" before its first use: record_gauge({name!r}, 0)"
                )
            series = self._series(self._metric(name, MetricType.GAUGE), tags)
            self.set(name, series.last + step, tags)

    def observe(self, name: str, value: int | float, tags: Tags, metric_type: MetricType) -> None:
        """Add a value to a histogram, or milliseconds to a timer."""
        with self._lock:
            metric = self._metric(name, metric_type)
            now_ns = self.clock.monotonic_ns()
            for trace in (metric.total, metric.windows.slot(now_ns), self._series(metric, tags)):
                trace.record(value)

    def time(self, operation: str, milliseconds: float) -> None:
        """Add a duration to an operation."""
        with self._lock:
            now_ns = self.clock.monotonic_ns()
            stream = self._timings.get(operation)
            if stream is None:
                stream = _Stream(DistributionTrace(), self._windows(DistributionTrace))
                self._timings[operation] = stream
            stream.total.record(milliseconds)
            stream.windows.slot(now_ns).record(milliseconds)

    def finish(self, operation: str, error_type: str | None, metadata: dict[str, Any] | None) -> None:
        """Count how an operation ended: with an error of a type, or with success where there is none."""
        with self._lock:
            now_ns = self.clock.monotonic_ns()
            outcomes = self._outcomes.get(operation)
            if outcomes is None:
                outcomes = _Outcomes(
                    OutcomeTrace(), self._windows(OutcomeTrace), deque(maxlen=RECENT_FAILURES)
                )
                self._outcomes[operation] = outcomes
            outcomes.total.record(error_type)
            outcomes.windows.slot(now_ns).record(error_type)
            if error_type is not None:
                failure = Failure(error_type, dict(metadata or {}), utc(self.clock))
                outcomes.recent_failures.append(failure)

    # -- reading ---------------------------------------------------------------------------------------

    def summary(self, name: str, window: timedelta | None = None) -> Summary:
        """Summarize a metric over all of its series.

        Raises:
            UnknownMetricError: If it was never recorded.
            InvalidInputError: If the window is not positive, or longer than the retention.
        """
        with self._lock:
            metric = self._metrics.get(name)
            if metric is None:
                raise UnknownMetricError(f"no metric {name!r} was recorded.{nearest(name, self._metrics)}")
            summary = _summarize(self._over(metric, window))
            if metric.metric_type is MetricType.COUNTER:
                summary["total"] = metric.total.total.value
            return summary

    def timing_summary(self, operation: str, window: timedelta | None = None) -> Summary:
        """Summarize an operation's durations in milliseconds.

        Raises:
            UnknownMetricError: If it was never timed.
        """
        with self._lock:
            stream = self._timings.get(operation)
            if stream is None:
                raise UnknownMetricError(
                    f"no operation {operation!r} was timed.{nearest(operation, self._timings)}"
                )
            return _summarize(self._over(stream, window))

    def outcomes(self, operation: str, window: timedelta | None = None) -> OutcomeReading:
        """Return how an operation ended.

        Raises:
            UnknownMetricError: If it was never tracked.
        """
        with self._lock:
            outcome = self._over(self._tracked(operation), window)
            trace = outcome.trace
            return OutcomeReading(trace.successes, dict(trace.failures), trace.success_rate, outcome.seconds)

    def recent_failures(self, operation: str) -> list[Failure]:
        """Return an operation's last failures, the newest last.

        Raises:
            UnknownMetricError: If it was never tracked.
        """
        with self._lock:
            return list(self._tracked(operation).recent_failures)

    def readings(self) -> list[SeriesReading]:
        """Return every series of every metric since the start, all at the same moment."""
        with self._lock:
            now_ns = self.clock.monotonic_ns()
            return [
                SeriesReading(
                    name,
                    metric.metric_type,
                    dict(tags),
                    _summarize(Window(trace, self._start_ns, now_ns, None)),
                )
                for name, metric in self._metrics.items()
                for tags, trace in metric.series.items()
            ]

    def timed_operations(self) -> list[str]:
        """Return the names of all operations that were timed."""
        with self._lock:
            return list(self._timings)

    def tracked_operations(self) -> list[str]:
        """Return the names of all operations whose outcome was tracked."""
        with self._lock:
            return list(self._outcomes)

    @property
    def series_count(self) -> int:
        """How many series there are, operations included."""
        with self._lock:
            series = sum(len(metric.series) for metric in self._metrics.values())
            return series + len(self._timings) + len(self._outcomes)

    @property
    def recorded(self) -> int:
        """How many records there were."""
        with self._lock:
            return sum(stream.total.count for stream in self._streams())

    # -- inside ----------------------------------------------------------------------------------------

    def _streams(self) -> list[_Stream[Any]]:
        return [*self._metrics.values(), *self._timings.values(), *self._outcomes.values()]

    def _metric(self, name: str, metric_type: MetricType) -> _Metric:
        metric = self._metrics.get(name)
        if metric is None:
            new = _TRACES[metric_type]
            metric = self._metrics[name] = _Metric(new(), self._windows(new), metric_type)
        elif metric.metric_type is not metric_type:
            raise MetricTypeError(
                f"{name!r} is a {metric.metric_type.value} and cannot be recorded as a {metric_type.value};"
                " use another name"
            )
        return metric

    def _series(self, metric: _Metric, tags: Tags) -> Any:
        trace = metric.series.get(tags)
        if trace is None:
            trace = metric.series[tags] = _TRACES[metric.metric_type]()
        return trace

    def _windows(self, new: Callable[[], T]) -> SlidingWindows[T]:
        return SlidingWindows(new, self._start_ns, _nanoseconds(self.retention))

    def _tracked(self, operation: str) -> _Outcomes:
        outcomes = self._outcomes.get(operation)
        if outcomes is None:
            raise UnknownMetricError(
                f"no operation {operation!r} was tracked.{nearest(operation, self._outcomes)}"
            )
        return outcomes

    def _over(self, stream: _Stream[T], window: timedelta | None) -> Window[T]:
        now_ns = self.clock.monotonic_ns()
        if window is None:
            return Window(stream.total, self._start_ns, now_ns, None)
        if not timedelta(0) < window <= self.retention:
            raise InvalidInputError(
                f"time_window={window!r} is not between zero and the retention of {self.retention!r};"
                " pass None for all since the start"
            )
        return stream.windows.since(_nanoseconds(window), now_ns)


def _nanoseconds(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1) * 1_000


def _summarize(window: Window[Any]) -> Summary:
    if isinstance(window.trace, GaugeTrace):
        return window.trace.summary(window.start_ns, window.end_ns, window.before)
    return cast(Summary, window.trace.summary(window.seconds))
