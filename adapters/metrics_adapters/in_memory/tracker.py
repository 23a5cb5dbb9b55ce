"""The tracker: counts how operations end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

from metrics_framework.recording import Failure, Store
from metrics_framework.recording.engine import OutcomeSeries


class InMemoryTracker:
    """A `SuccessFailureTracker` that keeps outcomes in a store.

    Args:
        store: The store; one of its own by default.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = Store() if store is None else store
        self._index = self.store.outcomes_index

    def record_success(self, operation: str, metadata: dict[str, Any] | None = None) -> None:
        """Count a success; see `SuccessFailureTracker.record_success`."""
        series = self._index.get(operation, None) or self.store.find_outcomes(operation)
        if series is not None:
            cast(OutcomeSeries, series).finish(None)

    def record_failure(self, operation: str, error_type: str, metadata: dict[str, Any] | None = None) -> None:
        """Count a failure; see `SuccessFailureTracker.record_failure`."""
        self.store.fail(operation, error_type, metadata)

    def get_success_rate(
        self,
        operation: str,
        time_window: timedelta | None = None,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> float:
        """Return the share of successes; see `SuccessFailureTracker.get_success_rate`.

        Args:
            operation: The operation.
            time_window: How far back; since the start by default.
            tags: Tags that `measure` gave to the operation; all of them together by default. See
                `metrics_framework.capabilities.RatesByTag`.
        """
        return self.store.outcomes(operation, time_window, tags).success_rate

    def get_failure_breakdown(
        self,
        operation: str,
        time_window: timedelta | None = None,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> dict[str, int]:
        """Count failures by error type; see `SuccessFailureTracker.get_failure_breakdown`.

        Args:
            operation: The operation.
            time_window: How far back; since the start by default.
            tags: Tags that `measure` gave to the operation; all of them together by default.
        """
        return self.store.outcomes(operation, time_window, tags).failures

    def recent_failures(self, operation: str) -> list[Failure]:
        """Return the operation's last failures with their metadata, the newest last."""
        return self.store.recent_failures(operation)
