"""The timer: measures operations and puts their durations into the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, product
from typing import Any

from metrics_framework.errors import UnknownTimerError
from metrics_framework.recording import Store
from metrics_framework.values import Begun, TimingResult, new_timing

MAX_RUNNING = 10_000
"""How many timers may run at once before the oldest is given up."""


_DIGITS = tuple(f"{number:03x}" for number in range(1 << 12))


def _ids(prefix: str) -> Iterator[str]:
    """Return ids that are made in C: to format a number would cost as much as two readings of the clock."""
    return map("".join, product((prefix,), _DIGITS, _DIGITS) if prefix else product(_DIGITS, _DIGITS))


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
        self._clock = self.store.clock
        self._now = self._clock.monotonic_ns
        self._next_id = _ids("").__next__
        self._more = count(1).__next__
        self._running: dict[str, Begun] = {}

    @property
    def abandoned(self) -> int:
        """How many timers on this store were started, never stopped, and given up."""
        return self.store.abandoned

    # What is called as a method is looked up as one, which is slow for an attribute; hence the local names.

    def start_timer(self, operation_name: str, metadata: dict[str, Any] | None = None) -> str:
        """Start timing; see `PerformanceTimer.start_timer`."""
        try:
            series = self._known[operation_name]
        except (KeyError, TypeError):
            series = self.store.find_timing(operation_name)
        next_id, running, clock = self._next_id, self._running, self._now
        try:
            timer_id = next_id()
        except StopIteration:
            timer_id = self._more_ids()
        running[timer_id] = (series, operation_name, dict(metadata) if metadata else None, clock())
        if len(running) > MAX_RUNNING:
            self._give_up_oldest()
        return timer_id

    def stop_timer(self, timer_id: str, success: bool = True) -> TimingResult:
        """Stop a timer and record its duration; see `PerformanceTimer.stop_timer`."""
        clock = self._now
        now = clock()
        try:
            begun = self._running.pop(timer_id)
        except KeyError:
            # No list of other ids: there may be thousands, and none of them is what was meant.
            raise UnknownTimerError(
                f"no timer {timer_id!r} is running: it was stopped already, never started, or given up"
                f" when {MAX_RUNNING} newer ones ran"
            ) from None
        return self._finish(begun, now, success)

    def time_operation(
        self, operation_name: str, operation: Callable[[], Any], metadata: dict[str, Any] | None = None
    ) -> TimingResult:
        """Call ``operation`` and record its duration; see `PerformanceTimer.time_operation`."""
        # Never among the running timers: those that are never stopped can neither end it nor be ended by it.
        series = self._known.get(operation_name) if isinstance(operation_name, str) else None
        if series is None:
            series = self.store.find_timing(operation_name)
        begun = (series, operation_name, dict(metadata) if metadata else None, self._now())
        try:
            outcome = operation()
        except BaseException:
            self._finish(begun, self._now(), success=False)
            raise
        result = self._finish(begun, self._now(), success=True)
        result.metadata["result"] = outcome
        return result

    def get_timing_stats(self, operation_name: str) -> dict[str, float]:
        """Summarize durations in milliseconds; see `PerformanceTimer.get_timing_stats`."""
        return self.store.timing_summary(operation_name)

    def _finish(self, begun: Begun, now: int, success: bool) -> TimingResult:
        series, _, _, start = begun
        if series is not None:  # None where a bad name was counted instead of raised
            series.elapse((now - start) / 1e6, now)
        pending: Any = new_timing(TimingResult)
        pending.pending = (begun, now, success, self._clock)
        result: TimingResult = pending
        return result

    def _more_ids(self) -> str:
        """Return the first of the next sixteen million ids."""
        ids = _ids(f"{self._more()}-")
        self._next_id = ids.__next__
        return next(ids)

    def _give_up_oldest(self) -> None:
        try:
            del self._running[next(iter(self._running))]
        except (KeyError, RuntimeError):  # another thread changes it: that one gives up the oldest, or stops
            return
        self.store.abandon()
