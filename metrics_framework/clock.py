"""Clocks, which are passed as arguments, so that tests advance a clock instead of sleeping."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of time. Every part of the library that measures time or adds timestamps relies on it."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds that never decrease; only differences are meaningful."""
        ...

    def time_ns(self) -> int:
        """Return nanoseconds since 1970-01-01T00:00:00 UTC; may jump when the clock is set."""
        ...


class SystemClock:
    """The clock of the machine.

    `metrics_framework.recording` replaces `monotonic_ns` with its engine's function, which reads the same
    clock. This module cannot import the engine itself.
    """

    # Direct references, so that a reading costs one C call.
    monotonic_ns = staticmethod(time.perf_counter_ns)
    time_ns = staticmethod(time.time_ns)


SYSTEM_CLOCK = SystemClock()
"""The default of every ``clock`` parameter."""


class ManualClock:
    """A clock that moves only when a test advances it.

    Example:
        >>> clock = ManualClock()
        >>> before = clock.monotonic_ns()
        >>> clock.advance(1.5)
        >>> clock.monotonic_ns() - before
        1500000000
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        """Start at an aware datetime."""
        self._monotonic_ns = 0
        self.set_wall(start)

    def advance(self, seconds: float) -> None:
        """Advance both readings by ``seconds``, which must not be negative."""
        if seconds < 0:
            raise ValueError(f"advance({seconds!r}) would move a clock backwards: call set_wall instead")
        step = round(seconds * 1e9)
        self._monotonic_ns += step
        self._wall_ns += step

    def set_wall(self, moment: datetime) -> None:
        """Set the wall time to an aware datetime, as NTP does; the monotonic time does not change."""
        self._wall_ns = round(moment.timestamp() * 1e6) * 1_000

    def monotonic_ns(self) -> int:
        """Return the nanoseconds that the clock was advanced by."""
        return self._monotonic_ns

    def time_ns(self) -> int:
        """Return the wall time in nanoseconds since the epoch."""
        return self._wall_ns


def utc(clock: Clock) -> datetime:
    """Return the clock's wall time as an aware UTC datetime."""
    return datetime.fromtimestamp(clock.time_ns() / 1e9, tz=UTC)
