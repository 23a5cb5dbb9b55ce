"""Sliding time windows in few slots.

Slots are half-open stretches of time on absolute multiples of their width, which is a power of two of
seconds. A slot gets coarser as it gets older, so that it is never wider than a tenth of its age: 30 days
take about 200 slots, and the older edge of a window of ten seconds or more is at most 10 % too far back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from metrics_framework.recording.traces import Trace

T = TypeVar("T", bound=Trace)

SLOT_NS = 1_000_000_000
"""The width of the newest slots."""

COARSENESS = 10
"""A slot is at most its age divided by this."""


@dataclass(slots=True)
class Slot(Generic[T]):
    """One stretch of time and what was recorded in it."""

    start_ns: int
    width_ns: int
    trace: T

    @property
    def end_ns(self) -> int:
        """The first nanosecond after the slot."""
        return self.start_ns + self.width_ns


@dataclass(slots=True, frozen=True)
class Window(Generic[T]):
    """What was recorded in a stretch of time.

    Attributes:
        trace: The records.
        start_ns: Where the stretch really begins: the asked edge, rounded back to a slot's edge.
        end_ns: Where it ends: now.
        before: The last slot that was recorded into earlier and is still kept; ``None`` if there is none.
    """

    trace: T
    start_ns: int
    end_ns: int
    before: T | None

    @property
    def seconds(self) -> float:
        """How long the stretch is."""
        return (self.end_ns - self.start_ns) / 1e9


class SlidingWindows(Generic[T]):
    """The recent past of one stream, in slots.

    A window is the merge of whole slots, so every statistic of it comes from the same records.
    """

    __slots__ = ("_new", "_slots", "_start_ns", "retention_ns")

    def __init__(self, new: Callable[[], T], start_ns: int, retention_ns: int) -> None:
        """Start empty.

        Args:
            new: Makes an empty trace.
            start_ns: The moment before which nothing can have been recorded.
            retention_ns: How long a slot is kept at least.
        """
        self._new = new
        self._start_ns = start_ns
        self.retention_ns = retention_ns
        self._slots: list[Slot[T]] = []

    def slot(self, now_ns: int) -> T:
        """Return the trace to record into now."""
        if self._slots and now_ns < self._slots[-1].end_ns:
            return self._slots[-1].trace
        self._age(now_ns)
        fresh = Slot(now_ns - now_ns % SLOT_NS, SLOT_NS, self._new())
        self._slots.append(fresh)
        return fresh.trace

    def since(self, window_ns: int, now_ns: int) -> Window[T]:
        """Put together the window that reaches ``window_ns`` back from now."""
        edge = now_ns - window_ns
        recent, before = self._new(), None
        start = max(edge, self._start_ns)
        for slot in self._slots:
            if slot.end_ns <= edge:
                before = slot.trace
            else:
                recent.merge(slot.trace)
                start = max(min(start, slot.start_ns), self._start_ns)
        return Window(recent, start, now_ns, before)

    def _age(self, now_ns: int) -> None:
        kept: list[Slot[T]] = []
        for slot in self._slots:
            if slot.end_ns + self.retention_ns < now_ns:
                continue
            width = slot.width_ns
            while (
                now_ns - (slot.start_ns - slot.start_ns % (2 * width) + 2 * width)
            ) >= 2 * width * COARSENESS:
                width *= 2
            start = slot.start_ns - slot.start_ns % width
            if kept and start < kept[-1].end_ns:
                kept[-1].trace.merge(slot.trace)
            else:
                kept.append(Slot(start, width, slot.trace))
        self._slots = kept
