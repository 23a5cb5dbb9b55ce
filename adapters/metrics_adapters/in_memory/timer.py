"""The timer: measures operations and puts their durations into the store."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, NamedTuple

from metrics_framework.errors import UnknownTimerError
from metrics_framework.recording import Store
from metrics_framework.recording.series import check_name
from metrics_framework.values import MetricUnit, TimingResult

MAX_RUNNING = 10_000
"""How many timers may run at once before the oldest is given up."""


class _Running(NamedTuple):
    """An operation that goes on."""

    name: str
    metadata: dict[str, Any]
    wall_ns: int
    start_ns: int


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
        self._running: OrderedDict[str, _Running] = OrderedDict()

    def start_timer(self, operation_name: str, metadata: dict[str, Any] | None = None) -> str:
        """Start timing; see `PerformanceTimer.start_timer`."""
        with self._lock:
            running = self._begin(operation_name, metadata)
            timer_id = f"{running.name}#{next(self._ids)}"
            if len(self._running) >= MAX_RUNNING:
                self._running.popitem(last=False)
                self.abandoned += 1
            self._running[timer_id] = running
        return timer_id

    def stop_timer(self, timer_id: str, success: bool = True) -> TimingResult:
        """Stop a timer and record its duration; see `PerformanceTimer.stop_timer`."""
        now_ns = self.store.clock.monotonic_ns()
        with self._lock:
            running = self._running.pop(timer_id, None)
        if running is None:
            # No list of other ids: there may be thousands, and none of them is what was meant.
            raise UnknownTimerError(
                f"no timer {timer_id!r} is running: it was stopped already, never started, or given up"
                f" when {MAX_RUNNING} newer ones ran"
            )
        return self._finish(running, now_ns, success)

    def time_operation(
        self, operation_name: str, operation: Callable[[], Any], metadata: dict[str, Any] | None = None
    ) -> TimingResult:
        """Call ``operation`` and record its duration; see `PerformanceTimer.time_operation`."""
        # Not among the running timers: however many of those are given up meanwhile, this one ends well.
        running = self._begin(operation_name, metadata)
        try:
            outcome = operation()
        except BaseException:
            self._finish(running, self.store.clock.monotonic_ns(), success=False)
            raise
        result = self._finish(running, self.store.clock.monotonic_ns(), success=True)
        result.metadata["result"] = outcome
        return result

    def get_timing_stats(self, operation_name: str) -> dict[str, float]:
        """Summarize durations in milliseconds; see `PerformanceTimer.get_timing_stats`."""
        return self.store.timing_summary(operation_name)

    def _begin(self, operation_name: str, metadata: dict[str, Any] | None) -> _Running:
        name = check_name(operation_name, "operation name")
        clock = self.store.clock
        return _Running(name, dict(metadata or {}), clock.time_ns(), clock.monotonic_ns())

    def _finish(self, running: _Running, now_ns: int, success: bool) -> TimingResult:
        milliseconds = (now_ns - running.start_ns) / 1e6
        self.store.time(running.name, milliseconds)
        start = datetime.fromtimestamp(running.wall_ns / 1e9, tz=UTC)
        end = start + timedelta(milliseconds=milliseconds)
        return TimingResult(
            running.name, milliseconds, MetricUnit.MILLISECONDS, start, end, success, running.metadata
        )
