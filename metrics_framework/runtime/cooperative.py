"""Work in the background in short turns, so that an event loop is not held up by it.

A thread that computes gives the interpreter up after five milliseconds (`sys.getswitchinterval`), and only
to one that has asked for it all that time. An event loop asks anew after each of its calls of the system, of
which one turn of it makes many: beside a thread that computes for a second it stands still for most of it.
So work of ours that nobody waits for on the spot is done in turns of a fifth of a millisecond.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_TURN_SECONDS = 0.0002
_PAUSE_SECONDS = 0.00005  # to sleep for no time would not do: the interpreter would be taken back at once


class TimeSlice:
    """Tells who does much work when to let others go on."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin a turn."""
        self._end = time.perf_counter() + _TURN_SECONDS

    def is_due(self) -> bool:
        """Return whether the turn is at its end."""
        return time.perf_counter() >= self._end


class _Here(threading.local):
    pace: TimeSlice | None = None


_here = _Here()


@contextmanager
def cooperatively() -> Iterator[None]:
    """Have this thread work in turns inside the block: `yield_gil` lets others go on there."""
    before, _here.pace = _here.pace, TimeSlice()
    try:
        yield
    finally:
        _here.pace = before


def yield_gil() -> None:
    """Let other threads go on, where this one works in turns and its turn is at its end.

    To be called again and again by what may take longer than a turn, where it holds no lock.
    """
    pace = _here.pace
    if pace is not None and pace.is_due():
        time.sleep(_PAUSE_SECONDS)
        pace.begin()
