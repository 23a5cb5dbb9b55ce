"""The tracker: counts how operations end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from metrics_framework.recording import Failure, Store


class InMemoryTracker:
    """A `SuccessFailureTracker` that keeps outcomes in a store.

    Args:
        store: Where to keep outcomes; a store of its own by default.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = Store() if store is None else store
        self._known = self.store.outcome_lookup.untagged

    def record_success(self, operation: str, metadata: dict[str, Any] | None = None) -> None:
        """Count a success; see `SuccessFailureTracker.record_success`."""
        try:
            series = self._known[operation]
        except (KeyError, TypeError):
            series = self.store.find_outcomes(operation)
        if series is not None:
            series.finish(None)

    def record_failure(self, operation: str, error_type: str, metadata: dict[str, Any] | None = None) -> None:
        """Count a failure; see `SuccessFailureTracker.record_failure`."""
        self.store.fail(operation, error_type, metadata)

    def get_success_rate(self, operation: str, time_window: timedelta | None = None) -> float:
        """Return the share of successes; see `SuccessFailureTracker.get_success_rate`."""
        return self.store.outcomes(operation, time_window).success_rate

    def get_failure_breakdown(self, operation: str, time_window: timedelta | None = None) -> dict[str, int]:
        """Count failures by kind; see `SuccessFailureTracker.get_failure_breakdown`."""
        return self.store.outcomes(operation, time_window).failures

    def recent_failures(self, operation: str) -> list[Failure]:
        """Return the operation's last failures with their metadata, the newest last."""
        return self.store.recent_failures(operation)
