"""The timer: measures operations and puts their durations into the store."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from metrics_framework.errors import UnknownTimerError, nearest
from metrics_framework.recording import Store
from metrics_framework.recording.series import check_name
from metrics_framework.values import MetricUnit, TimingResult

MAX_RUNNING = 10_000
"""How many timers may run at once before the oldest is given up."""


class InMemoryTimer:
    """A `PerformanceTimer` that keeps durations in a store.

    A timer that is never stopped would be kept for ever, so only the newest `MAX_RUNNING` are;
    ``abandoned`` counts those that were given up.

    Args:
        store: Where to keep durations; a store of its own by default.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = Store() if store is None else store
        self.abandoned = 0
        self._ids = count(1)
        self._lock = threading.RLock()
        self._running: OrderedDict[str, tuple[str, int, int, dict[str, Any]]] = OrderedDict()

    def start_timer(self, operation_name: str, metadata: dict[str, Any] | None = None) -> str:
        """Start timing; see `PerformanceTimer.start_timer`."""
        name = check_name(operation_name, "operation name")
        clock = self.store.clock
        with self._lock:
            timer_id = f"{name}#{next(self._ids)}"
            if len(self._running) >= MAX_RUNNING:
                self._running.popitem(last=False)
                self.abandoned += 1
            self._running[timer_id] = (name, clock.time_ns(), clock.monotonic_ns(), dict(metadata or {}))
        return timer_id

    def stop_timer(self, timer_id: str, success: bool = True) -> TimingResult:
        """Stop a timer and record its duration; see `PerformanceTimer.stop_timer`."""
        now_ns = self.store.clock.monotonic_ns()
        with self._lock:
            running = self._running.pop(timer_id, None)
            if running is None:
                raise UnknownTimerError(
                    f"no timer {timer_id!r} is running: it was stopped already or never started."
                    f"{nearest(str(timer_id), self._running)}"
                )
        name, wall_ns, start_ns, metadata = running
        milliseconds = (now_ns - start_ns) / 1e6
        self.store.time(name, milliseconds)
        start = datetime.fromtimestamp(wall_ns / 1e9, tz=UTC)
        end = start + timedelta(milliseconds=milliseconds)
        return TimingResult(name, milliseconds, MetricUnit.MILLISECONDS, start, end, success, metadata)

    def time_operation(
        self, operation_name: str, operation: Callable[[], Any], metadata: dict[str, Any] | None = None
    ) -> TimingResult:
        """Call ``operation`` and record its duration; see `PerformanceTimer.time_operation`."""
        timer_id = self.start_timer(operation_name, metadata)
        try:
            outcome = operation()
        except BaseException:
            self.stop_timer(timer_id, success=False)
            raise
        result = self.stop_timer(timer_id)
        result.metadata["result"] = outcome
        return result

    def get_timing_stats(self, operation_name: str) -> dict[str, float]:
        """Summarize durations in milliseconds; see `PerformanceTimer.get_timing_stats`."""
        return self.store.timing_summary(operation_name)
