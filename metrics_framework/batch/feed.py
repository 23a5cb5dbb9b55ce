"""Files of a batch on their way into a system, so that the batch ends in a snapshot."""

from __future__ import annotations

from metrics_framework.log import Isolation
from metrics_framework.protocols import MetricsSystem
from metrics_framework.values import MetricUnit

_EVENT = "batch not recorded into its system"


class Feed:
    """Records files into a system: as a timer, as outcomes of an operation, and as counters.

    All have the operation's name, or one that begins with it.
    What the system refuses is logged and does not disturb the batch.

    Args:
        system: Which one; only its collector and its tracker are used.
        operation: What the processing of a file is called.
    """

    def __init__(self, system: MetricsSystem, operation: str) -> None:
        self._collector = system.collector
        self._tracker = system.tracker
        self._operation = operation
        self._isolation = Isolation()

    def file(
        self, duration: float, samples: int, measurements: int, status: str, error_type: str | None
    ) -> None:
        """Record a file; see `BatchMetrics.record_file`."""
        attempt, collector, tracker = self._isolation.call, self._collector, self._tracker
        operation = self._operation
        if status == "skipped":
            attempt(_EVENT, lambda: collector.record_counter(f"{operation}.skipped"))
            return
        attempt(_EVENT, lambda: collector.record_timer(operation, duration, MetricUnit.SECONDS))
        if status == "error":
            attempt(_EVENT, lambda: tracker.record_failure(operation, error_type or "unknown"))
        elif status == "success":
            attempt(_EVENT, lambda: tracker.record_success(operation))
            if samples:
                attempt(_EVENT, lambda: collector.record_counter(f"{operation}.samples", samples))
            if measurements:
                attempt(_EVENT, lambda: collector.record_counter(f"{operation}.measurements", measurements))
