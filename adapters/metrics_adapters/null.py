"""The adapter that keeps nothing, for code that needs a collector although its numbers are not used.

It accepts any input, also invalid input, and reports that nothing was recorded. The results of timings are
still measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from metrics_framework.errors import UnknownMetricError, UnknownTimerError
from metrics_framework.exposition import formats
from metrics_framework.values import MetricType, MetricUnit, MetricValue, TimingResult

__all__ = ["NullAggregator", "NullCollector", "NullMonitor", "NullTimer", "NullTracker"]


class NullCollector:
    """A `MetricCollector` that drops everything."""

    def record_counter(self, name: str, value: int | float = 1, tags: dict[str, str] | None = None) -> None:
        """Do nothing."""

    def record_gauge(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Do nothing."""

    def record_histogram(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Do nothing."""

    def record_timer(
        self,
        name: str,
        duration: float,
        unit: MetricUnit = MetricUnit.MILLISECONDS,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Do nothing."""

    def increment(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Do nothing."""

    def decrement(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Do nothing."""


class _Timing(str):
    """The id of a running timer, and its whole state: a timer that is never stopped leaves nothing."""

    __slots__ = ("began_ns", "metadata", "stopped")

    began_ns: int
    metadata: dict[str, Any]
    stopped: bool

    @classmethod
    def begin(cls, operation_name: str, metadata: dict[str, Any] | None) -> _Timing:
        timing = cls(operation_name)
        timing.metadata = dict(metadata) if isinstance(metadata, dict) else {}
        timing.stopped = False
        timing.began_ns = time.perf_counter_ns()
        return timing

    def result(self, success: bool) -> TimingResult:
        milliseconds = (time.perf_counter_ns() - self.began_ns) / 1e6
        end = datetime.now(UTC)
        start = end - timedelta(milliseconds=milliseconds)
        unit = MetricUnit.MILLISECONDS
        return TimingResult(str(self), milliseconds, unit, start, end, success, self.metadata)


class NullTimer:
    """A `PerformanceTimer` that measures and keeps nothing."""

    def start_timer(self, operation_name: str, metadata: dict[str, Any] | None = None) -> str:
        """Start timing; see `PerformanceTimer.start_timer`.

        Returns:
            An id. Only this object can stop the timer, not an equal string.
        """
        return _Timing.begin(operation_name, metadata)

    def stop_timer(self, timer_id: str, success: bool = True) -> TimingResult:
        """Stop a timer; see `PerformanceTimer.stop_timer`."""
        if not isinstance(timer_id, _Timing) or timer_id.stopped:
            raise UnknownTimerError(
                f"no timer {timer_id!r} is running: it was stopped already or never started"
            )
        timer_id.stopped = True
        return timer_id.result(success)

    def time_operation(
        self, operation_name: str, operation: Callable[[], Any], metadata: dict[str, Any] | None = None
    ) -> TimingResult:
        """Call ``operation``; see `PerformanceTimer.time_operation`."""
        timing = _Timing.begin(operation_name, metadata)
        outcome = operation()
        result = timing.result(success=True)
        result.metadata["result"] = outcome
        return result

    def get_timing_stats(self, operation_name: str) -> dict[str, float]:
        """Raise an `UnknownMetricError`: nothing was timed."""
        raise UnknownMetricError(f"no operation {operation_name!r} was timed: this timer keeps nothing")


class NullTracker:
    """A `SuccessFailureTracker` that drops everything."""

    def record_success(self, operation: str, metadata: dict[str, Any] | None = None) -> None:
        """Do nothing."""

    def record_failure(self, operation: str, error_type: str, metadata: dict[str, Any] | None = None) -> None:
        """Do nothing."""

    def get_success_rate(self, operation: str, time_window: timedelta | None = None) -> float:
        """Raise an `UnknownMetricError`: nothing was tracked."""
        raise UnknownMetricError(f"no operation {operation!r} was tracked: this tracker keeps nothing")

    def get_failure_breakdown(self, operation: str, time_window: timedelta | None = None) -> dict[str, int]:
        """Raise an `UnknownMetricError`: nothing was tracked."""
        raise UnknownMetricError(f"no operation {operation!r} was tracked: this tracker keeps nothing")


class NullMonitor:
    """A `ResourceMonitor` that reads nothing."""

    def get_memory_usage(self) -> dict[str, float]:
        """Return no readings."""
        return {}

    def get_cpu_usage(self) -> dict[str, float]:
        """Return no readings."""
        return {}

    def get_disk_usage(self, path: str = "/") -> dict[str, float]:
        """Return no readings."""
        return {}

    def get_network_stats(self) -> dict[str, int]:
        """Return no readings."""
        return {}

    def start_resource_monitoring(self, interval: float = 60.0) -> None:
        """Do nothing."""

    def stop_resource_monitoring(self) -> None:
        """Do nothing."""


class NullAggregator:
    """A `MetricsAggregator` of nothing."""

    def get_metric_summary(self, metric_name: str, time_window: timedelta | None = None) -> dict[str, float]:
        """Raise an `UnknownMetricError`: nothing was recorded."""
        raise UnknownMetricError(f"no metric {metric_name!r} was recorded: this aggregator keeps nothing")

    def get_metrics_by_tag(self, tag_filter: dict[str, str]) -> list[MetricValue]:
        """Return nothing."""
        return []

    def export_metrics(self, format: str = "json") -> str:
        """Return an empty document, in ``json``, ``jsonl``, ``csv`` or ``prometheus``."""
        return formats.render([], format)

    def get_top_metrics(self, metric_type: MetricType, limit: int = 10) -> list[MetricValue]:
        """Return nothing."""
        return []
