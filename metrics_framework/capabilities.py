"""Optional capabilities of adapters, beyond the contracts of `metrics_framework.protocols`.

Code that needs a capability takes its Protocol as an argument. An adapter that implements only the contracts
remains fully supported: code that works with any adapter uses the contracts alone.

Windows and rates by tag: ``measure`` gives tags to operations, and a metric has tags anyway.
`SummariesByTag`, `TimingsByTag` and `RatesByTag` answer for all series that carry some tags, such as one
route of a service. An answer is exact for the time that it covers, which ``seconds`` of a summary reports.
Otherwise the request is refused with an `InvalidInputError` that names the remedy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol, runtime_checkable

from metrics_framework.protocols import MetricsAggregator, PerformanceTimer, SuccessFailureTracker


@runtime_checkable
class SummariesByTag(MetricsAggregator, Protocol):
    """An aggregator that summarizes the series of a metric that carry some tags."""

    @abstractmethod
    def get_metric_summary(
        self,
        metric_name: str,
        time_window: timedelta | None = None,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> dict[str, float]:
        """Summarize a metric over the series that carry some tags.

        Args:
            metric_name: The metric.
            time_window: How far back; since the start by default.
            tags: The tags, besides which series may carry others; all series together by default.

        Raises:
            UnknownMetricError: If nothing was recorded under the name.
            InvalidInputError: If an argument breaks its rule, or the window is not known by these tags.
        """
        ...


@runtime_checkable
class TimingsByTag(PerformanceTimer, Protocol):
    """A timer that summarizes durations in a window, and those of an operation that carry some tags."""

    @abstractmethod
    def get_timing_stats(
        self,
        operation_name: str,
        *,
        time_window: timedelta | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> dict[str, float]:
        """Summarize the durations of an operation in milliseconds.

        Args:
            operation_name: The operation.
            time_window: How far back; since the start by default.
            tags: The tags, besides which series may carry others; all series together by default.

        Raises:
            UnknownMetricError: If the operation was never timed.
            InvalidInputError: If an argument breaks its rule, or the window is not known by these tags.
        """
        ...


@runtime_checkable
class RatesByTag(SuccessFailureTracker, Protocol):
    """A tracker that answers for the outcomes of an operation that carry some tags."""

    @abstractmethod
    def get_success_rate(
        self,
        operation: str,
        time_window: timedelta | None = None,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> float:
        """Return the share of successes, from 0.0 to 1.0; 1.0 if there were no outcomes.

        Args:
            operation: The operation.
            time_window: How far back; since the start by default.
            tags: The tags, besides which series may carry others; all series together by default.

        Raises:
            UnknownMetricError: If the operation was never tracked.
            InvalidInputError: If an argument breaks its rule, or the window is not known by these tags.
        """
        ...

    @abstractmethod
    def get_failure_breakdown(
        self,
        operation: str,
        time_window: timedelta | None = None,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> dict[str, int]:
        """Count the failures by error type.

        Args:
            operation: The operation.
            time_window: How far back; since the start by default.
            tags: The tags, besides which series may carry others; all series together by default.

        Raises:
            UnknownMetricError: If the operation was never tracked.
            InvalidInputError: If an argument breaks its rule, or the window is not known by these tags.
        """
        ...
