"""Time, as something that is passed in.

Whatever reads a clock takes one as an argument, so that a test moves time by hand and never sleeps.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two readings of time; every part of the library that measures or stamps relies on them."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds that never run backwards; only differences mean anything."""
        ...

    def time_ns(self) -> int:
        """Return nanoseconds since 1970-01-01T00:00:00 UTC; may jump when the clock is set."""
        ...


class SystemClock:
    """The machine's clocks.

    `metrics_framework.recording` replaces `monotonic_ns` with the function of its engine, which reads the
    same clock: this module must not import an engine.
    """

    # The functions themselves, not wrappers: a reading costs one C call.
    monotonic_ns = staticmethod(time.perf_counter_ns)
    time_ns = staticmethod(time.time_ns)


SYSTEM_CLOCK = SystemClock()
"""The default of every ``clock`` parameter."""


class ManualClock:
    """A clock that stands still until a test moves it.

    Example:
        >>> clock = ManualClock()
        >>> before = clock.monotonic_ns()
        >>> clock.advance(1.5)
        >>> clock.monotonic_ns() - before
        1500000000
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        """Begin at ``start``, an aware datetime."""
        self._monotonic_ns = 0
        self.set_wall(start)

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` (zero or more) go by on both readings."""
        if seconds < 0:
            raise ValueError(f"a clock cannot advance by {seconds!r} seconds; use set_wall to jump back")
        step = round(seconds * 1e9)
        self._monotonic_ns += step
        self._wall_ns += step

    def set_wall(self, moment: datetime) -> None:
        """Set the wall reading to an aware datetime, as an operator or NTP would; monotonic stays."""
        self._wall_ns = round(moment.timestamp() * 1e6) * 1_000

    def monotonic_ns(self) -> int:
        """Return the nanoseconds advanced so far."""
        return self._monotonic_ns

    def time_ns(self) -> int:
        """Return the wall reading in nanoseconds since the epoch."""
        return self._wall_ns


def utc(clock: Clock) -> datetime:
    """Return the clock's wall reading as an aware UTC datetime."""
    return datetime.fromtimestamp(clock.time_ns() / 1e9, tz=UTC)
