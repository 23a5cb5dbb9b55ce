"""Cooperative background work in time slices, so that an event loop in another thread is not delayed.

A thread that computes holds the GIL for five milliseconds (`sys.getswitchinterval`) if another thread waits
for it. An event loop releases the GIL at each system call, of which one iteration makes many, and waits that
long each time. Background work therefore yields the GIL after each time slice of 0.2 milliseconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SLICE_SECONDS = 0.0002
_YIELD_SECONDS = 0.00005  # after `sleep(0)` this thread would take the GIL back at once


class TimeSlice:
    """The time slice of a computation."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start a new time slice."""
        self._end = time.perf_counter() + _SLICE_SECONDS

    def is_due(self) -> bool:
        """Return whether the time slice is used up."""
        return time.perf_counter() >= self._end


class _ThreadState(threading.local):
    time_slice: TimeSlice | None = None


_thread = _ThreadState()


@contextmanager
def cooperatively() -> Iterator[None]:
    """Make this thread cooperative inside the block: `yield_gil` has an effect there."""
    before, _thread.time_slice = _thread.time_slice, TimeSlice()
    try:
        yield
    finally:
        _thread.time_slice = before


def yield_gil() -> None:
    """Yield the GIL if this thread is cooperative and its time slice is used up.

    Call it repeatedly in long computations, while no lock is held.
    """
    time_slice = _thread.time_slice
    if time_slice is not None and time_slice.is_due():
        time.sleep(_YIELD_SECONDS)
        time_slice.begin()
