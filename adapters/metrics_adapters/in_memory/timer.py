"""The timer: measures operations and puts their durations into the store."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from metrics_framework.errors import UnknownTimerError
from metrics_framework.recording import Store
from metrics_framework.recording.instruments import TimerSeries
from metrics_framework.values import FreshTiming, MetricUnit, TimingResult

MAX_RUNNING = 10_000
"""How many timers may run at once before the oldest is given up."""

_MILLISECONDS = MetricUnit.MILLISECONDS  # looking a member up costs as much as reading the clock

_Running = tuple[TimerSeries | None, str, dict[str, Any], int]
"""An operation that goes on: its series, name and metadata, and when it began on the monotonic clock."""


class InMemoryTimer:
    """A `PerformanceTimer` that keeps durations in a store.

    A timer that is never stopped would be kept for ever, so only the newest `MAX_RUNNING` are;
    ``abandoned`` counts those that were given up.

    Args:
        store: Where to keep durations; a store of its own by default.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = Store() if store is None else store
        self._known = self.store.timing_lookup.untagged
        self._now = self.store.clock.monotonic_ns
        self._wall = self.store.clock.time_ns
        self._next_id = count(1).__next__
        self._running: dict[str, _Running] = {}

    @property
    def abandoned(self) -> int:
        """How many timers on this store were started, never stopped, and given up."""
        return self.store.abandoned

    def start_timer(self, operation_name: str, metadata: dict[str, Any] | None = None) -> str:
        """Start timing; see `PerformanceTimer.start_timer`."""
        timer_id = f"{operation_name}#{self._next_id()}"
        running = self._running
        running[timer_id] = self._begin(operation_name, metadata)
        if len(running) > MAX_RUNNING:
            self._give_up_oldest()
        return timer_id

    def stop_timer(self, timer_id: str, success: bool = True) -> TimingResult:
        """Stop a timer and record its duration; see `PerformanceTimer.stop_timer`."""
        try:
            begun = self._running.pop(timer_id)
        except KeyError:
            # No list of other ids: there may be thousands, and none of them is what was meant.
            raise UnknownTimerError(
                f"no timer {timer_id!r} is running: it was stopped already, never started, or given up"
                f" when {MAX_RUNNING} newer ones ran"
            ) from None
        return self._end(begun, success)

    def time_operation(
        self, operation_name: str, operation: Callable[[], Any], metadata: dict[str, Any] | None = None
    ) -> TimingResult:
        """Call ``operation`` and record its duration; see `PerformanceTimer.time_operation`."""
        # Not among the running timers: however many of those are given up meanwhile, this one ends well.
        begun = self._begin(operation_name, metadata)
        try:
            outcome = operation()
        except BaseException:
            self._end(begun, success=False)
            raise
        result = self._end(begun, success=True)
        result.metadata["result"] = outcome
        return result

    def get_timing_stats(self, operation_name: str) -> dict[str, float]:
        """Summarize durations in milliseconds; see `PerformanceTimer.get_timing_stats`."""
        return self.store.timing_summary(operation_name)

    def _begin(self, operation_name: str, metadata: dict[str, Any] | None) -> _Running:
        try:
            series = self._known[operation_name]
        except (KeyError, TypeError):
            series = self.store.find_timing(operation_name)
        return series, operation_name, dict(metadata) if metadata else {}, self._now()

    def _end(self, begun: _Running, success: bool) -> TimingResult:
        now = self._now()
        series, name, metadata, start = begun
        milliseconds = (now - start) / 1e6
        if series is not None:  # None where a bad name was counted instead of raised
            series.elapse(milliseconds, now)
        fresh = FreshTiming()
        fresh.operation_name = name
        fresh.duration = milliseconds
        fresh.unit = _MILLISECONDS
        fresh.success = success
        fresh.metadata = metadata
        fresh.end_ns = self._wall()
        fresh.__class__ = TimingResult
        result: TimingResult = fresh
        return result

    def _give_up_oldest(self) -> None:
        try:
            del self._running[next(iter(self._running))]
        except (KeyError, RuntimeError):  # another thread changes it: that one gives up the oldest, or stops
            return
        self.store.abandon()
