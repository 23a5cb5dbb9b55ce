"""Where records become traces: folding the buffers of series, under a lock that no record ever waits for.

A record is one append to a list (`hot`). A ledger empties those lists in bulk, into the traces of the series
and into the time windows that they share. Three rules make that safe against everything that can happen in
the middle of it: another thread, a signal handler that records, reads or raises, the garbage collector.

1. Only whoever holds the lock folds. A record that finds it held leaves its buffer as it is; a read waits,
   unless it is its own thread that folds further up the stack: then it sees what was published last.
2. What is published never changes. A fold works out new traces on the side, and one assignment, of the
   ledger's ``journal``, makes all of them true at once.
3. A fold that was broken off is done again by the next. The first item of a buffer is the number of records
   that left it, and a series knows how many of its records its trace holds, so nothing counts twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import Any, NamedTuple, Protocol, TypeVar

from metrics_framework.recording.bounds import BucketCounts
from metrics_framework.recording.windows import SLOT_NS, Windows

R = TypeVar("R")

PENDING = 4_096
"""How many records all series of a ledger may have in their buffers, or the next two where that is more."""

MIN_PENDING = 32
MAX_PENDING = 512
"""How many records one series may have in its buffer before it is folded."""

TOGETHER = 512
"""How many series a read folds at once."""

HARD_CAP = 1 << 20
"""How many items a buffer has at most, however long somebody else holds the lock."""


class State(NamedTuple):
    """What is published of a series.

    Attributes:
        consumed: How many records were ever taken out of its buffer.
        slot_ns: The slot of the last one; a record without a time belongs there too.
        trace: What they amount to; ``None`` while there are none.
        buckets: What is kept for the bounds of the metric's description, if it has any.
    """

    consumed: int = 0
    slot_ns: int = 0
    trace: Any = None
    buckets: BucketCounts | None = None


NOTHING = State()


class Buffered(Protocol):
    """What a ledger folds: a series, as a rule."""

    buffer: list[Any]
    state: State


class Entry(NamedTuple):
    """One committed fold: the windows from then on, and the states that came with them."""

    windows: Windows[Any]
    states: Sequence[tuple[Buffered, State]]


class Ledger:
    """Folds the series that share one set of time windows.

    Args:
        now: Reads the monotonic clock.
        of: Makes a trace of a batch of records; raises ``TypeError`` where one of them bears a time.
        members: Returns the series that share the windows.
        retention_ns: Returns how long slots are kept.
        dropped: Called for each record that did not fit under `HARD_CAP`.

    Attributes:
        limit: How many items a buffer may have before it is folded.
        bounds: Upper bounds that values are counted by, beside their traces.
        journal: What was published last.
    """

    __slots__ = ("_dropped", "_members", "_of", "_retention_ns", "bounds", "journal", "limit", "lock", "now")

    def __init__(
        self,
        now: Callable[[], int],
        of: Callable[[Sequence[Any]], Any],
        members: Callable[[], Iterable[Buffered]],
        retention_ns: Callable[[], int],
        dropped: Callable[[], None],
    ) -> None:
        self.now = now
        self.limit = MAX_PENDING
        self.bounds: tuple[float, ...] = ()
        self._of = of
        self._retention_ns = retention_ns
        self._dropped = dropped
        self._members = members
        self.reset()

    def reset(self) -> None:
        """Begin anew, in a child process or at the start; nobody else may be at work."""
        self.lock = threading.RLock()
        self.journal = Entry(Windows(), ())

    def share(self, members: int) -> None:
        """Say how many series there are: the more, the less each may hold back."""
        self.limit = min(max(PENDING // max(members, 1), MIN_PENDING), MAX_PENDING)

    def relieve(self, series: Buffered) -> None:
        """Fold a series whose buffer is full, unless somebody holds the lock: then it stays as it is."""
        lock = self.lock
        if not _is_owned(lock):
            try:
                if lock.acquire(blocking=False):
                    self.fold([series])
                    lock.release()
            except BaseException:
                _heal(lock)
                raise
        if len(series.buffer) > HARD_CAP:
            self._shorten(series)
            self._dropped()

    def read(self, question: Callable[[Windows[Any]], R]) -> R:
        """Answer a question about the windows and the states, once every finished record is in them."""
        lock = self.lock
        if _is_owned(lock):
            self._settle()
            return question(self.journal.windows)
        try:
            with lock:
                self.fold_all()
                return question(self.journal.windows)
        except BaseException:
            _heal(lock)
            raise

    def fold_all(self) -> None:
        """Fold every series that has something in its buffer; the lock is held."""
        # A removed series that came back is a member twice, and must not be folded twice at once.
        pending = [series for series in dict.fromkeys(self._members()) if len(series.buffer) > 1]
        for first in range(0, len(pending), TOGETHER):
            self.fold(pending[first : first + TOGETHER])

    def fold(self, many: Sequence[Buffered]) -> None:
        """Move what is in the buffers of some series into their traces and the windows; the lock is held."""
        self._settle()
        cuts: list[tuple[list[Any], int, int]] = []
        states: list[tuple[Buffered, State]] = []
        slots: dict[int, list[tuple[Sequence[Any], Any]]] = {}
        for series in many:
            state, buffer = series.state, series.buffer
            size = len(buffer)
            batch = buffer[1 + state.consumed - buffer[0] : size]
            cuts.append((buffer, size, state.consumed + len(batch)))
            if batch:
                states += self._absorb(series, state, batch, slots)
        if states:
            self.commit(self._with_slots(slots), states)
        for buffer, size, consumed in cuts:
            # One assignment, so that records and what counts them leave together.
            buffer[:size] = [consumed]

    def commit(self, windows: Windows[Any], states: Sequence[tuple[Buffered, State]]) -> None:
        """Publish; the lock is held."""
        self.journal = Entry(windows, states)
        self._settle()
        self.journal = Entry(windows, ())

    def count_by(self, bounds: tuple[float, ...]) -> None:
        """Count values by bounds, from zero where they are others than before."""
        if bounds != self.bounds:
            self.read(lambda windows: self._recount(windows, bounds))

    def _recount(self, windows: Windows[Any], bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.commit(windows, [(one, one.state._replace(buckets=None)) for one in self._members()])

    def remove(self, series: Buffered) -> None:
        """Let a series begin at nothing; what it recorded stays in the windows."""
        if not _is_owned(self.lock):
            self.read(lambda _: self.forget(series))

    def forget(self, series: Buffered) -> None:
        """Let a series begin at nothing; the lock is held."""
        self.commit(self.journal.windows, [(series, State(series.state.consumed, series.state.slot_ns))])

    def _shorten(self, series: Buffered) -> None:
        """Take back what is too much; nothing, if somebody has folded meanwhile."""
        del series.buffer[HARD_CAP:]

    def _settle(self) -> None:
        """Finish what was committed, which a fold that was broken off may have left to do."""
        for target, state in self.journal.states:
            target.state = state

    def _absorb(
        self,
        series: Buffered,
        state: State,
        batch: Sequence[Any],
        slots: dict[int, list[tuple[Sequence[Any], Any]]],
    ) -> Sequence[tuple[Buffered, State]]:
        """Return what a batch makes of the states, and add its records to those of their slots."""
        trace, buckets, slot = state.trace, state.buckets, state.slot_ns
        if self.bounds and (buckets is None or buckets.bounds != self.bounds):
            buckets = BucketCounts.between(self.bounds)
        for slot, values, part in _by_slot(batch, state.slot_ns, self._of):
            slots.setdefault(slot, []).append((values, part))
            trace = part if trace is None else trace.merge(part)
            if buckets is not None:
                buckets = buckets.with_values(values)
        return [(series, State(state.consumed + len(batch), slot, trace, buckets))]

    def _with_slots(self, slots: dict[int, list[tuple[Sequence[Any], Any]]]) -> Windows[Any]:
        windows, retention_ns = self.journal.windows, self._retention_ns()
        for slot, parts in sorted(slots.items(), key=_first):
            # Of many series a trace is made anew: merging would look at every bucket of each of them.
            part = (
                parts[0][1] if len(parts) == 1 else self._of([one for values, _ in parts for one in values])
            )
            windows = windows.add(slot, part, retention_ns)
        return windows


_first = itemgetter(0)


def _by_slot(
    batch: Sequence[Any], slot: int, of: Callable[[Sequence[Any]], Any]
) -> Iterable[tuple[int, Sequence[Any], Any]]:
    """Split a batch where the slot changes: at a record that is a pair of itself and its time."""
    if batch[0].__class__ is tuple:
        value, now = batch[0]
        slot, batch = now - now % SLOT_NS, [value, *batch[1:]]
    try:
        return [(slot, batch, of(batch))]  # nearly always
    except TypeError:
        parts: list[tuple[int, list[Any]]] = [(slot, [])]
        for record in batch:
            if record.__class__ is tuple:
                record, now = record
                entered = now - now % SLOT_NS
                if entered != parts[-1][0]:
                    parts.append((entered, []))
            parts[-1][1].append(record)
        return [(slot, values, of(values)) for slot, values in parts if values]


def _is_owned(lock: threading.RLock) -> bool:
    # Also what threading.Condition asks of the lock that it is given, so every kind of RLock has it.
    return lock._is_owned()  # type: ignore[attr-defined, no-any-return]


def _heal(lock: threading.RLock) -> None:
    """Release a lock that an exception left held."""
    # One call and no question before it: another exception can only be raised when it has been done.
    with suppress(RuntimeError):  # it was not held any more
        lock.release()
