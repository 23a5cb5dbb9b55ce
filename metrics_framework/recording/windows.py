"""Sliding time windows in few slots.

Slots are half-open stretches of time on absolute multiples of their width, which is a power of two of
seconds. A slot gets coarser as it gets older, so that it is never wider than a tenth of its age: 30 days
take about 200 slots, and the older edge of a window of ten seconds or more is at most 10 % too far back.

Windows never change: what was published stays as it is, and adding returns others that share all old slots.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Generic, NamedTuple, TypeVar

from metrics_framework.recording.traces import Trace

T = TypeVar("T", bound=Trace)

SLOT_NS = 1_000_000_000
"""The width of the newest slots."""

COARSENESS = 10
"""A slot is at most its age divided by this."""

CATCH_UP = 4
"""How many slots of one width are made coarser, or forgotten, when a slot opens: one would do on average."""

Slot = tuple[int, T]
"""Where a slot starts and what was recorded in it; its level says how wide it is."""

_start = itemgetter(0)


@dataclass(slots=True, frozen=True)
class Window(Generic[T]):
    """What was recorded in a stretch of time.

    Attributes:
        trace: The records.
        start_ns: Where the stretch really begins: the asked edge, rounded back to a slot's edge.
        end_ns: Where it ends: now.
        before: The last records before it; ``None`` if there are none.
    """

    trace: T
    start_ns: int
    end_ns: int
    before: T | None

    @property
    def seconds(self) -> float:
        """How long the stretch is."""
        return (self.end_ns - self.start_ns) / 1e9

    def join(self, other: Window[T]) -> Window[T]:
        """Return what two streams recorded in the same stretch of time."""
        return Window(
            self.trace.merge(other.trace),
            min(self.start_ns, other.start_ns),
            max(self.end_ns, other.end_ns),
            other.before if self.before is None else self.before,
        )


class Windows(NamedTuple, Generic[T]):
    """The past of one stream, in slots.

    A window is the merge of whole slots, so every statistic of it comes from the same records.

    Attributes:
        open: The slot that records go into now.
        levels: The closed slots by width, ``SLOT_NS << level``; in each the oldest first. All slots of a
            level are older than those of the level below.
        earlier: What is older than the retention.
        kept_from_ns: From where on slots are kept.
    """

    open: Slot[T] | None = None
    levels: tuple[tuple[Slot[T], ...], ...] = ()
    earlier: T | None = None
    kept_from_ns: int = 0

    def add(self, time_ns: int, trace: T, retention_ns: int) -> Windows[T]:
        """Return these windows with the records of one newest slot, which may be a slot of the past.

        Args:
            time_ns: Any moment of the slot of `SLOT_NS`.
            trace: What was recorded in it.
            retention_ns: How long slots are kept at least.
        """
        start = time_ns - time_ns % SLOT_NS
        if self.open is None:
            return self._replace(open=(start, trace))
        newest, recorded = self.open
        if start == newest:
            return Windows((newest, recorded.merge(trace)), *self[1:])
        if start < newest:
            return self._add_late(start, trace)
        closed = (*(self.levels[0] if self.levels else ()), self.open)
        return _aged((start, trace), [closed, *self.levels[1:]], self, start, retention_ns)

    def since(self, window_ns: int | None, start_ns: int, now_ns: int, nothing: T) -> Window[T]:
        """Put together the window that reaches ``window_ns`` back from now.

        Args:
            window_ns: How far back; ``None`` is since ``start_ns``.
            start_ns: The moment before which nothing can have been recorded.
            now_ns: Now.
            nothing: What a window without records holds.
        """
        if window_ns is None:
            return Window(_merged(self._all(), nothing), start_ns, now_ns, None)
        edge = now_ns - window_ns
        start = max(edge, start_ns, self.kept_from_ns)
        recent: list[T] = []
        before = self.earlier
        for slot_start, end, trace in self.slots():
            if end <= edge:
                before = trace
            else:
                recent.append(trace)
                start = max(min(start, slot_start), start_ns, self.kept_from_ns)
        return Window(_merged(recent, nothing), start, now_ns, before)

    @property
    def slot_count(self) -> int:
        """How many slots are kept."""
        return sum(map(len, self.levels)) + (self.open is not None)

    def slots(self) -> Iterator[tuple[int, int, T]]:
        """Yield the start, end and content of each slot, the oldest first."""
        for level in range(len(self.levels) - 1, -1, -1):
            width = SLOT_NS << level
            for start, trace in self.levels[level]:
                yield start, start + width, trace
        if self.open is not None:
            start, trace = self.open
            yield start, start + SLOT_NS, trace

    def _all(self) -> Iterator[T]:
        if self.earlier is not None:
            yield self.earlier
        for _, _, trace in self.slots():
            yield trace

    def _add_late(self, start: int, trace: T) -> Windows[T]:
        if start < self.kept_from_ns:
            return self._replace(earlier=trace if self.earlier is None else self.earlier.merge(trace))
        levels = list(self.levels) or [()]
        level = next((n for n, slots in enumerate(levels) if slots and slots[0][0] <= start), None)
        if level is None:  # before everything that is kept
            level = max((n for n, slots in enumerate(levels) if slots), default=0)
            position = 0
        else:
            position = bisect_right(levels[level], start, key=_start)
            slot_start, recorded = levels[level][position - 1]
            if start < slot_start + (SLOT_NS << level):
                slots = levels[level]
                merged = (slot_start, recorded.merge(trace))
                levels[level] = (*slots[: position - 1], merged, *slots[position:])
                return self._replace(levels=tuple(levels))
            if position == len(levels[level]):
                # In the gap behind the newest slot of this level: it is the oldest of the next level down.
                level = next((below for below in range(level - 1, -1, -1) if levels[below]), 0)
                position = 0 if levels[level] and levels[level][0][0] > start else len(levels[level])
        slots = levels[level]
        aligned = start - start % (SLOT_NS << level)
        levels[level] = (*slots[:position], (aligned, trace), *slots[position:])
        return self._replace(levels=tuple(levels))


def _merged(traces: Iterable[T], nothing: T) -> T:
    merged = nothing
    for trace in traces:
        merged = merged.merge(trace)
    return merged


def _aged(
    fresh: Slot[T], levels: list[tuple[Slot[T], ...]], old: Windows[T], now_ns: int, retention_ns: int
) -> Windows[T]:
    """Move slots that are old enough into wider ones, and those beyond the retention out of sight.

    A slot opens once a second at most and moves up a level once, so that a few moves on each occasion keep
    up, and no record has to wait for many of them.
    """
    for level in range(len(levels)):
        width = SLOT_NS << level + 1
        for _ in range(CATCH_UP):
            if not levels[level]:
                break
            (start, trace), *rest = levels[level]
            start -= start % width
            if now_ns - (start + width) < width * COARSENESS:
                break
            if rest and rest[0][0] < start + width:  # its neighbour goes the same way
                trace = trace.merge(rest.pop(0)[1])
            levels[level] = tuple(rest)
            if level + 1 == len(levels):
                levels.append(())
            levels[level + 1] = (*levels[level + 1], (start, trace))
    earlier, kept_from = old.earlier, old.kept_from_ns
    width = SLOT_NS << len(levels) - 1
    for _ in range(CATCH_UP):
        if not levels[-1] or levels[-1][0][0] + width + retention_ns >= now_ns:
            break
        (start, trace), *rest = levels[-1]
        earlier = trace if earlier is None else earlier.merge(trace)
        kept_from = start + width
        levels[-1] = tuple(rest)
    while levels and not levels[-1]:
        levels.pop()
    return Windows(fresh, tuple(levels), earlier, kept_from)
