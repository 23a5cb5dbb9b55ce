"""The timer: measures operations and records their durations into a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from metrics_framework.recording import Store
from metrics_framework.recording.engine import RunningTimers, TimerSeries
from metrics_framework.values import TimingResult, pending_timing

MAX_RUNNING_TIMERS = 10_000
"""How many timers may run at once before the oldest is given up."""


class InMemoryTimer(RunningTimers):
    """A `PerformanceTimer` that keeps durations in a store.

    A timer that is never stopped would be kept for ever, so only the newest `MAX_RUNNING_TIMERS` are;
    ``abandoned`` counts the others.

    Args:
        store: The store; one of its own by default.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = store = Store() if store is None else store
        super().__init__(store.core, store.timings, store, store.clock, MAX_RUNNING_TIMERS)

    @property
    def abandoned(self) -> int:
        """How many timers on this store were started, never stopped, and given up."""
        return self.store.abandoned

    def time_operation(
        self, operation_name: str, operation: Callable[[], Any], metadata: dict[str, Any] | None = None
    ) -> TimingResult:
        """Call ``operation`` and record its duration; see `PerformanceTimer.time_operation`."""
        # Not one of the running timers, which other code can stop and which are given up past a number.
        store = self.store
        known: Any = store.timings.get(operation_name)
        series: TimerSeries | None = known or store.find_timing(operation_name)
        now = store.core.now
        kept = dict(metadata) if metadata else {}
        start_ns = now()
        try:
            outcome = operation()
        except BaseException:
            _record(series, now() - start_ns, success=False)
            raise
        stop_ns = now()
        _record(series, stop_ns - start_ns, success=True)
        kept["result"] = outcome
        return pending_timing((operation_name, kept, start_ns, stop_ns, True, store.clock))

    def get_timing_stats(
        self,
        operation_name: str,
        *,
        time_window: timedelta | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> dict[str, float]:
        """Summarize durations in milliseconds; see `PerformanceTimer.get_timing_stats`.

        Args:
            operation_name: The operation.
            time_window: How far back; since the start by default.
            tags: Tags that `measure` gave to the operation; all of them together by default. See
                `metrics_framework.capabilities.TimingsByTag`.
        """
        return self.store.timing_summary(operation_name, time_window, tags)


def _record(series: TimerSeries | None, elapsed_ns: int, *, success: bool) -> None:
    if series is not None:  # None: the name was refused, and counted
        series.elapse(elapsed_ns / 1e6, success)
