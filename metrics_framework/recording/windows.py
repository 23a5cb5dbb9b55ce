"""Sliding time windows of a few slots, and time series of them.

A slot is a half-open interval on absolute multiples of its width, which is a power of two times the width of
the newest slots. Slots are merged as they get older, so that a slot is never wider than a tenth of its age:
30 days take about 200 slots, and the older edge of a window of ten seconds or more is at most 10 % too far
back. The windows of single series (`RecentWindows`) are coarser and reach back one hour.

Windows are immutable: `Windows.extend` returns others, which share all old slots.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from itertools import chain
from operator import itemgetter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from metrics_framework.recording.engine import RECENT_NS, Distribution

SLOT_NS = 1_000_000_000
"""The width of the newest slots of a name, in nanoseconds."""

COARSENESS = 10
"""A slot of a name is at most its age divided by this."""

RECENT_SLOT_NS = RECENT_NS
"""The width of the newest slots of a series, in nanoseconds."""

RECENT_COARSENESS = 1.5
"""A slot of a series is at most its age divided by this."""

MAX_RECENT_NS = 3_600_000_000_000
"""How far back the windows of a series reach."""

_MAX_RECENT_SLOT_NS = 128 * RECENT_SLOT_NS  # a slot of twice this width would be older than an hour

MAX_SPANS = 1_000
"""How many starts and ends of slots are shared: an hour has about 500 of them."""

MAX_NEWEST = 28
"""How many slots of the newest width there may be before old ones are merged. They are merged about six at
a time: merging one with each slot would take three times as long."""

MAX_MERGES = 8
"""How many slots of one width are merged, or forgotten, at a time: half of it would do on average."""


class Aggregate(Protocol):
    """What windows require of the content of a slot."""

    def merge(self, later: Any, /) -> Any:
        """Return this with the records of a later interval."""
        ...


T = TypeVar("T", bound=Aggregate)


@dataclass(slots=True, frozen=True)
class Window(Generic[T]):
    """The records of an interval.

    Attributes:
        aggregate: The records.
        start_ns: Start of the interval: the requested edge, rounded back to the edge of a slot.
        end_ns: End of the interval: now.
        before: The last records before it; ``None`` if there are none.
    """

    aggregate: T
    start_ns: int
    end_ns: int
    before: T | None = None

    @property
    def seconds(self) -> float:
        """The length of the interval."""
        return (self.end_ns - self.start_ns) / 1e9

    def join(self, other: Window[T]) -> Window[T]:
        """Return the records of two streams in the same interval."""
        return Window(
            self.aggregate.merge(other.aggregate),
            min(self.start_ns, other.start_ns),
            max(self.end_ns, other.end_ns),
            other.before if self.before is None else self.before,
        )


class Windows(NamedTuple, Generic[T]):
    """The history of one stream of records, in slots.

    A window is the merge of whole slots, so every statistic of it comes from the same records.

    Attributes:
        levels: The slots by width, ``SLOT_NS << level``. A level is a flat tuple of start, aggregate, start,
            aggregate, and so on, oldest first: a pair for each slot would double the memory of counters. All
            slots of a level are older than those of the level below.
        earlier: The records that are older than the retention.
        kept_from_ns: The moment from which on slots are kept.
    """

    levels: tuple[tuple[Any, ...], ...] = ()
    earlier: T | None = None
    kept_from_ns: int = 0

    def extend(self, slots: Sequence[tuple[int, T]], retention_ns: int) -> Windows[T]:
        """Return these windows with more slots, each of which is newer than all others.

        The result is the same for one slot at a time.

        Args:
            slots: The start of each slot, a multiple of `SLOT_NS`, and its records.
            retention_ns: How long slots are kept at least.
        """
        before, earlier, kept_from_ns = self
        levels: list[tuple[Any, ...]] = [*before] if before else [()]
        place = 0
        while place < len(slots):
            some = slots[place : place + max(MAX_NEWEST - len(levels[0]) // 2, 1)]
            place += len(some)
            levels[0] += tuple(chain.from_iterable(some))
            if len(levels[0]) >= 2 * MAX_NEWEST:
                now_ns = some[-1][0]
                _merge_old(levels, now_ns)
                earlier, kept_from_ns = _forget_old(levels, earlier, kept_from_ns, now_ns - retention_ns)
        return tuple.__new__(Windows, (tuple(levels), earlier, kept_from_ns))

    def since(self, window_ns: int | None, start_ns: int, now_ns: int, nothing: T) -> Window[T]:
        """Return the window that reaches ``window_ns`` back from now.

        Args:
            window_ns: The length of the window; ``None`` is since ``start_ns``.
            start_ns: The moment before which nothing can have been recorded.
            now_ns: Now.
            nothing: The aggregate of no records.
        """
        if window_ns is None:
            earlier = [] if self.earlier is None else [self.earlier]
            every = [*earlier, *(aggregate for _, _, aggregate in self.slots())]
            return Window(merge_all(every, nothing), start_ns, now_ns)
        edge = now_ns - window_ns
        start = max(edge, start_ns, self.kept_from_ns)
        recent: list[T] = []
        before = self.earlier
        for slot_start, end, aggregate in self.slots():
            if end <= edge:
                before = aggregate
            else:
                recent.append(aggregate)
                start = max(min(start, slot_start), start_ns, self.kept_from_ns)
        return Window(merge_all(recent, nothing), start, now_ns, before)

    @classmethod
    def of_slots(
        cls, slots: Iterable[tuple[int, int, T]], earlier: T | None = None, kept_from_ns: int = 0
    ) -> Windows[T]:
        """Return the windows with these slots.

        Args:
            slots: The start, end and content of each slot, the oldest first; none is wider than the one
                before it.
            earlier: The records before them.
            kept_from_ns: The moment from which on slots are kept.
        """
        levels: list[list[Any]] = []
        for start_ns, end_ns, aggregate in slots:
            level = ((end_ns - start_ns) // SLOT_NS).bit_length() - 1
            levels.extend([] for _ in range(level + 1 - len(levels)))
            levels[level] += (start_ns, aggregate)
        return Windows(tuple(map(tuple, levels)), earlier, kept_from_ns)

    def round_down(self, edge_ns: int) -> int:
        """Return the start of the slot that a moment splits, or the moment itself if it splits no slot."""
        return next((start for start, end, _ in self.slots() if start < edge_ns < end), edge_ns)

    @property
    def slot_count(self) -> int:
        """The number of slots."""
        return sum(map(len, self.levels)) // 2

    def slots(self) -> Iterator[tuple[int, int, T]]:
        """Yield the start, end and content of each slot, the oldest first."""
        for level in range(len(self.levels) - 1, -1, -1):
            width, slots = SLOT_NS << level, self.levels[level]
            for place in range(0, len(slots), 2):
                yield slots[place], slots[place] + width, slots[place + 1]


def _merge_old(levels: list[tuple[Any, ...]], now_ns: int) -> None:
    """Move slots that are old enough to the next level.

    The loop ends at the first level without such a slot: only a slot that arrives from the level below makes
    another one due. A slot waits for the rest of the wider one that is still below.
    """
    below_ns = now_ns  # start of the oldest slot of all levels below
    for level, slots in enumerate(levels):
        width = SLOT_NS << level + 1
        last_due_ns = min(now_ns - width * (COARSENESS + 1), below_ns - width)
        moved: list[Any] = []
        place, end = 0, len(slots)
        while place < end and len(moved) < 2 * MAX_MERGES:
            start_ns = slots[place] - slots[place] % width
            if start_ns > last_due_ns:
                break
            aggregate = slots[place + 1]
            place += 2
            if place < end and slots[place] < start_ns + width:  # the other half of the wider slot
                aggregate = aggregate.merge(slots[place + 1])
                place += 2
            moved += (start_ns, aggregate)
        if not moved:
            break
        levels[level] = slots[place:]
        below_ns = slots[place] if place < end else below_ns
        if level + 1 == len(levels):
            levels.append(())
        levels[level + 1] += tuple(moved)


def _forget_old(
    levels: list[tuple[Any, ...]], earlier: Any, kept_from_ns: int, edge_ns: int
) -> tuple[Any, int]:
    """Remove old slots of the greatest width.

    Args:
        levels: The slots by width.
        earlier: The records before all slots, if any.
        kept_from_ns: The moment from which on slots are kept.
        edge_ns: The moment from which on they have to be kept.

    Returns:
        The new values of ``earlier`` and ``kept_from_ns``.
    """
    oldest, width, place = levels[-1], SLOT_NS << len(levels) - 1, 0
    while place < 2 * MAX_MERGES and place < len(oldest) and oldest[place] < edge_ns - width:
        earlier = oldest[place + 1] if earlier is None else earlier.merge(oldest[place + 1])
        kept_from_ns = oldest[place] + width
        place += 2
    levels[-1] = oldest[place:]
    while len(levels) > 1 and not levels[-1]:
        levels.pop()
    return earlier, kept_from_ns


class RecentWindows(Generic[T]):
    """The last hour of one series, in at most 22 coarse slots. Immutable.

    Thousands of series have one each, so a slot takes two references and its aggregate: slots that start and
    end at the same time share one object for both times. Older records are dropped, as the state of the
    series has their total.

    Args:
        slots: The start and end of the oldest slot, its aggregate, those of the next one, and so on.
        kept_from_ns: The moment from which on slots are kept.
    """

    __slots__ = ("_slots", "kept_from_ns")

    def __init__(self, slots: tuple[Any, ...] = (), kept_from_ns: int = 0) -> None:
        self._slots = slots
        self.kept_from_ns = kept_from_ns

    def extend(self, slots: Iterable[tuple[int, T]]) -> RecentWindows[T]:
        """Return these windows with more slots, each of which is newer than all others.

        Args:
            slots: The start of each slot, a multiple of `RECENT_SLOT_NS`, and its records.
        """
        windows = self
        for start_ns, aggregate in slots:
            windows = windows._add(start_ns, aggregate)
        return windows

    def _add(self, start_ns: int, aggregate: T) -> RecentWindows[T]:
        added = _span(start_ns, start_ns + RECENT_SLOT_NS)
        slots: tuple[Any, ...] = (*self._slots, added, aggregate)
        kept: list[Any] = []
        place, end, kept_from_ns = 0, len(slots), self.kept_from_ns
        while place < end:
            span, content = slots[place], slots[place + 1]
            place += 2
            # Series differ in the widths of their slots. Whole blocks of the greatest width are dropped, so
            # that a window of an hour over several series can begin where none of their slots is split.
            if span[1] + -span[1] % _MAX_RECENT_SLOT_NS + MAX_RECENT_NS < start_ns:
                kept_from_ns = span[1]
                continue
            width = 2 * (span[1] - span[0])
            wide_ns = span[0] - span[0] % width
            is_old = start_ns - (wide_ns + width) >= width * RECENT_COARSENESS
            if is_old and wide_ns >= kept_from_ns:
                following = slots[place] if place < end else added
                if following[0] >= wide_ns + width:
                    span = _span(wide_ns, wide_ns + width)
                elif following[1] - following[0] == span[1] - span[0]:  # the other half of the wider slot
                    span, content = _span(wide_ns, wide_ns + width), content.merge(slots[place + 1])
                    place += 2
            kept += (span, content)
        return RecentWindows(tuple(kept), kept_from_ns)

    @classmethod
    def of_slots(cls, slots: Iterable[tuple[int, int, T]], kept_from_ns: int) -> RecentWindows[T]:
        """Return the windows with these slots: the start, end and content of each one, the oldest first."""
        flat = [part for start, end, aggregate in slots for part in (_span(start, end), aggregate)]
        return cls(tuple(flat), kept_from_ns)

    def slots(self) -> Iterator[tuple[int, int, T]]:
        """Yield the start, end and content of each slot, the oldest first."""
        slots = self._slots
        for place in range(0, len(slots), 2):
            yield *slots[place], slots[place + 1]

    def round_down(self, edge_ns: int) -> int:
        """Return the start of the slot that a moment splits, or the moment itself if it splits no slot."""
        return next((start for start, end, _ in self.slots() if start < edge_ns < end), edge_ns)

    def round_up(self, edge_ns: int) -> int:
        """Return the end of the slot that a moment splits, or the moment itself if it splits no slot."""
        return next((end for start, end, _ in self.slots() if start < edge_ns < end), edge_ns)

    @property
    def slot_count(self) -> int:
        """The number of slots."""
        return len(self._slots) // 2

    @property
    def nbytes(self) -> int:
        """The approximate size in bytes."""
        aggregates = self._slots[1::2]
        return sys.getsizeof(self._slots) + sum(map(sys.getsizeof, aggregates))


_spans: dict[tuple[int, int], tuple[int, int]] = {}


def _span(start_ns: int, end_ns: int) -> tuple[int, int]:
    """Return one object for the same start and end."""
    span = (start_ns, end_ns)
    if len(_spans) > MAX_SPANS:
        _spans.clear()
    return _spans.setdefault(span, span)


def merge_all(aggregates: Iterable[T], nothing: T) -> T:
    """Return the merge of aggregates, oldest first; ``nothing`` if there are none."""
    merged = nothing
    for aggregate in aggregates:
        merged = merged.merge(aggregate)
    return merged


# -- streams that were recorded at the same time ---------------------------------------------------------


def join_windows(
    streams: Sequence[Windows[T]], window_ns: int | None, start_ns: int, now_ns: int, nothing: T
) -> Window[T]:
    """Return the window of several streams, taken together, that reaches ``window_ns`` back from now.

    Streams differ in the widths of their slots. The window begins where none of these slots is split.

    Args:
        streams: The streams.
        window_ns: The length of the window; ``None`` is since ``start_ns``.
        start_ns: The moment before which nothing can have been recorded.
        now_ns: Now.
        nothing: The aggregate of no records.
    """
    edge_ns = start_ns if window_ns is None else now_ns - window_ns
    if window_ns is not None and len(streams) > 1:
        while (rounded_ns := min(stream.round_down(edge_ns) for stream in streams)) < edge_ns:
            edge_ns = rounded_ns
        window_ns = now_ns - edge_ns
    every = (stream.since(window_ns, start_ns, now_ns, nothing) for stream in streams)
    return reduce(Window.join, every, Window(nothing, max(edge_ns, start_ns), now_ns))


def combine_windows(
    streams: Sequence[Windows[T]], combine: Callable[[T, T], T], hold: Callable[[T, int], T] | None = None
) -> Windows[T]:
    """Return the windows of several streams of one name, taken together, as one stream.

    Args:
        streams: The streams, at least one.
        combine: Returns the records of two streams in the same interval.
        hold: Returns the aggregate of a value that holds from a moment on, given the aggregate before that
            moment. A stream whose values hold, such as a gauge, counts in slots in which it has no records.
    """
    kept_from_ns = max(stream.kept_from_ns for stream in streams)
    # Records that one stream forgot may be a part of a single slot of another, which is not split either.
    torn = (end for stream in streams for start, end, _ in stream.slots() if start < kept_from_ns < end)
    kept_from_ns = max(torn, default=kept_from_ns)
    before: list[T | None] = []
    slots: list[list[tuple[int, int, T]]] = []
    for stream in streams:
        earlier, kept = stream.earlier, list(stream.slots())
        old = [aggregate for start_ns, _, aggregate in kept if start_ns < kept_from_ns]
        for aggregate in old:
            earlier = aggregate if earlier is None else earlier.merge(aggregate)
        before.append(earlier)
        slots.append(kept[len(old) :])
    known = [earlier for earlier in before if earlier is not None]
    return Windows.of_slots(
        _combine_slots(slots, before, combine, hold), reduce(combine, known) if known else None, kept_from_ns
    )


def combine_recent(
    streams: Sequence[RecentWindows[T]], combine: Callable[[T, T], T], hold: Callable[[T, int], T] | None
) -> RecentWindows[T]:
    """Return the recent windows of one series that several processes recorded; see `combine_windows`."""
    combined = _combine_slots(
        [list(stream.slots()) for stream in streams], [None] * len(streams), combine, hold
    )
    return RecentWindows.of_slots(combined, max(stream.kept_from_ns for stream in streams))


def line_up_recent(slots: Iterable[tuple[int, int, T]], kept_from_ns: int) -> Windows[T]:
    """Return the slots of several series, taken together, as one stream.

    Args:
        slots: The start, end and content of each slot of each series, in any order. The order in which
            contents are merged must not matter.
        kept_from_ns: The moment from which on the slots of all series are complete.
    """
    merged: dict[tuple[int, int], T] = {}  # most series have slots of the same times
    for start_ns, end_ns, content in slots:
        before = merged.get((start_ns, end_ns))
        merged[start_ns, end_ns] = content if before is None else before.merge(content)
    lined_up = _line_up([[(*span, content) for span, content in merged.items()]])
    kept_from_ns = max(
        (end for start, end, _ in lined_up if start < kept_from_ns < end), default=kept_from_ns
    )
    old = [parts[0] for start, _, parts in lined_up if start < kept_from_ns]
    kept = [(start, end, parts[0]) for start, end, parts in lined_up if start >= kept_from_ns]
    return Windows.of_slots(
        kept, reduce(lambda one, later: one.merge(later), old) if old else None, kept_from_ns
    )


def _combine_slots(
    streams: Sequence[Sequence[tuple[int, int, T]]],
    before: Sequence[T | None],
    combine: Callable[[T, T], T],
    hold: Callable[[T, int], T] | None,
) -> Iterator[tuple[int, int, T]]:
    """Yield slots that hold the records of all streams, the oldest first; none is wider than an older one."""
    last = list(before)
    for start_ns, end_ns, parts in _line_up(streams):
        combined: T | None = None
        for index, earlier in enumerate(last):
            part = parts.get(index)
            if part is not None:
                last[index] = part
            if hold is not None and earlier is not None:
                held = hold(earlier, start_ns)
                part = held if part is None else held.merge(part)
            if part is not None:
                combined = part if combined is None else combine(combined, part)
        if combined is not None:
            yield start_ns, end_ns, combined


def _line_up(streams: Sequence[Sequence[tuple[int, int, T]]]) -> list[tuple[int, int, dict[int, T]]]:
    """Return slots in which no slot of any stream is split, and the records of each stream in them."""
    every = [
        (start, end, index, content) for index, stream in enumerate(streams) for start, end, content in stream
    ]
    every.sort(key=itemgetter(0, 1), reverse=True)
    lined_up: list[tuple[int, int, dict[int, T]]] = []  # the newest first
    width = SLOT_NS
    for start_ns, end_ns, index, content in every:
        width = max(width, end_ns - start_ns)
        start_ns -= start_ns % width
        parts = {index: content}
        while lined_up and lined_up[-1][0] < start_ns + width:  # widths are powers of two: it lies within
            for other, newer in lined_up.pop()[2].items():
                parts[other] = parts[other].merge(newer) if other in parts else newer
        lined_up.append((start_ns, start_ns + width, parts))
    return lined_up[::-1]


# -- time series -----------------------------------------------------------------------------------------


class Interval(NamedTuple):
    """One point of a time series: a part of a time window.

    Attributes:
        start: Where it starts, in UTC, to the millisecond.
        end: Where it ends; a record at that moment belongs to the next interval.
        summary: Its records, with the keys of a window's summary.
        distribution: Its values, if it is of a histogram or a timer and they are known.
    """

    start: datetime
    end: datetime
    summary: dict[str, Any]
    distribution: Distribution | None = None


class History(NamedTuple):
    """A time window and its parts, from one reading: they have the same records.

    Attributes:
        whole: The window.
        intervals: Its parts without gaps between them, the oldest first.
    """

    whole: Interval
    intervals: Sequence[Interval]


def split(
    streams: Sequence[Windows[T]], window_ns: int | None, points: int, start_ns: int, now_ns: int, nothing: T
) -> list[Window[T]]:
    """Split a time window of several streams, taken together, into intervals.

    Intervals lie on absolute multiples of their width, a power of two of seconds, as slots do: a request one
    second later returns the same intervals, and those of two metrics line up. A slot is never split. If slots
    of some age may be wider than the step, intervals of that age are as wide as such slots, whether or not
    these streams have them.

    Args:
        streams: The streams, at least one.
        window_ns: The length of the window; ``None`` is since ``start_ns``. The intervals never reach beyond
            the retention, as older records have no time.
        points: The maximum number of intervals: 2 or more.
        start_ns: The moment before which nothing can have been recorded.
        now_ns: Now.
        nothing: The aggregate of no records.

    Returns:
        Intervals without gaps between them, the oldest first and the last up to now. The first one holds the
        older edge of the window, or the first record of all.
    """
    forgotten = max(stream.kept_from_ns for stream in streams)
    # Records that one stream forgot may be a part of a single slot of another, which is not split either.
    torn = (end for stream in streams for start, end, _ in stream.slots() if start < forgotten < end)
    forgotten = max(torn, default=forgotten)
    begin = max(start_ns, forgotten)
    edge = begin if window_ns is None else max(now_ns - window_ns, begin)
    starts = _starts(edge, now_ns, points)
    for stream in streams:
        for slot_start, slot_end, _ in stream.slots():
            if slot_start >= forgotten and slot_end > starts[0]:
                # Slots of single series may be wider than the step: one interval holds all of such a slot.
                starts[0] = min(starts[0], slot_start)
                starts[bisect_right(starts, slot_start) : bisect_left(starts, slot_end)] = []
    before: T | None = None
    aggregates: dict[int, T] = {}
    for stream in streams:
        passed = stream.earlier
        for slot_start, _, aggregate in stream.slots():
            index = bisect_right(starts, slot_start) - 1
            if index < 0 or slot_start < forgotten:
                passed = aggregate
            else:
                aggregates[index] = aggregates.get(index, nothing).merge(aggregate)
        before = passed if before is None else before
    intervals: list[Window[T]] = []
    for index, (start, end) in enumerate(zip(starts, [*starts[1:], now_ns], strict=True)):
        recorded = aggregates.get(index)
        if recorded is not None or before is not None:
            intervals.append(
                Window(nothing if recorded is None else recorded, max(start, begin), end, before)
            )
        before = before if recorded is None else recorded
    return intervals


def _starts(edge_ns: int, now_ns: int, points: int) -> list[int]:
    """Return where intervals start, the oldest first; they depend on the time alone."""
    step = SLOT_NS
    while step * (points - 1) < now_ns - edge_ns:  # one less, as both ends may lie within an interval
        step *= 2
    starts = [now_ns - now_ns % step]
    while starts[-1] > edge_ns:
        end, width = starts[-1], step
        while end % (2 * width) == 0 and now_ns - end >= 2 * width * COARSENESS:
            width *= 2
        starts.append(end - width)
    return starts[::-1]
