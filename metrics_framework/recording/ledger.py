"""Where records become traces: folding the buffers of series, under a lock that no record ever waits for.

A record is one append to a list (`hot`). A ledger empties those lists in bulk, into the traces of the series
and into the time windows that they share. Three rules make that safe against everything that can happen in
the middle of it: another thread, a signal handler that records, reads or raises, the garbage collector.

1. Only whoever holds the lock folds. A record that finds it held leaves its buffer as it is; a read waits,
   unless it is its own thread that folds further up the stack: then it sees what was published last.
2. What is published never changes. A fold works out new traces on the side, and one assignment, of the
   ledger's ``journal``, makes all of them true at once.
3. A fold that was broken off before that assignment never happened. One that was broken off after it is
   finished by whoever comes next: the first item of a buffer is the `Cut` of the fold that emptied it last,
   so what was done already is never done twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple, Protocol, TypeVar

from metrics_framework.recording.bounds import BucketCounts
from metrics_framework.recording.taps import NO_TAP, Folded, Folding, Tap
from metrics_framework.recording.windows import SLOT_NS, Windows

R = TypeVar("R")

PENDING = 8_192
"""How many records all series of a ledger may have in their buffers, or the next two where that is more."""

MIN_PENDING = 32
MAX_PENDING = 512
"""How many records one series may have in its buffer before it is folded."""

TOGETHER = 512
"""How many series a read folds at once."""

MANY = 64
"""How many series may have entered a slot before they are folded, lest a read find all of them waiting."""

HARD_CAP = 1 << 20
"""How many items a buffer has at most, however long somebody else holds the lock."""


class Cut:
    """The first item of a buffer: it stands for all the records that left it.

    Attributes:
        slot_ns: The slot of the last one; a record without a time belongs there too.
    """

    __slots__ = ("slot_ns",)

    def __init__(self, slot_ns: int) -> None:
        self.slot_ns = slot_ns


UNCUT = Cut(0)
"""The first item of a buffer that no record has left yet."""


class Counted(NamedTuple):
    """What is published of a series whose values are counted by bounds: elsewhere it is the trace alone."""

    trace: Any
    buckets: BucketCounts


def parts(state: Any) -> tuple[Any, BucketCounts | None]:
    """Return the trace and the bucket counts of what was published; ``None`` for what there is not."""
    return state if state.__class__ is Counted else (state, None)


class Buffered(Protocol):
    """What a ledger folds: a series, as a rule."""

    buffer: list[Any]
    state: Any


class Entry(NamedTuple):
    """One committed fold: the windows from then on, and what came with them.

    Attributes:
        windows: The windows.
        states: What is published of each series from then on.
        cuts: The buffers, how many of their items were folded, and what takes their place.
        folding: What is said of it to those who listen, if there are any.
    """

    windows: Windows[Any]
    states: Sequence[tuple[Buffered, Any]]
    cuts: Sequence[tuple[list[Any], int, Cut]]
    folding: Folding | None = None


class Ledger:
    """Folds the series that share one set of time windows.

    Args:
        now: Reads the monotonic clock.
        of: Makes a trace of a batch of records; raises ``TypeError`` where one of them bears a time.
        members: Returns the series that share the windows.
        retention_ns: Returns how long slots are kept.
        dropped: Called for each record that did not fit under `HARD_CAP`.
        busy: Called with a series whose buffer was full.
        tap: Where those are who listen.

    Attributes:
        limit: How many items a buffer may have before it is folded.
        bounds: Upper bounds that values are counted by, beside their traces.
        journal: What was published last.
        entered: Series that entered a slot lately. No record depends on being listed: a read asks everybody.
    """

    __slots__ = (
        "_busy",
        "_dropped",
        "_members",
        "_of",
        "_retention_ns",
        "_slot_end",
        "_tap",
        "bounds",
        "entered",
        "journal",
        "limit",
        "lock",
        "now",
    )

    def __init__(
        self,
        now: Callable[[], int],
        of: Callable[[Sequence[Any]], Any],
        members: Callable[[], Iterable[Buffered]],
        retention_ns: Callable[[], int],
        dropped: Callable[[], None],
        busy: Callable[[Any], None],
        tap: Tap = NO_TAP,
    ) -> None:
        self.now = now
        self.limit = MAX_PENDING
        self.bounds: tuple[float, ...] = ()
        self._of = of
        self._retention_ns = retention_ns
        self._dropped = dropped
        self._busy = busy
        self._tap = tap
        self._slot_end = 0
        self._members = members
        self.reset()

    def reset(self) -> None:
        """Begin anew, in a child process or at the start; nobody else may be at work."""
        self.lock = threading.RLock()
        self.journal = Entry(Windows(), (), ())
        self.entered: list[Buffered] = []

    def share(self, members: int) -> None:
        """Say how many series there are: the more, the less each may hold back."""
        self.limit = min(max(PENDING // max(members, 1), MIN_PENDING), MAX_PENDING)

    def slot_end(self, now: int) -> int:
        """Return when the slot of a moment ends: the same object for all series, as each keeps it."""
        end = self._slot_end
        if not end - SLOT_NS <= now < end:
            end = self._slot_end = now - now % SLOT_NS + SLOT_NS
        return end

    def relieve(self, series: Buffered) -> None:
        """Fold a series whose buffer is full, unless somebody holds the lock: then it stays as it is."""
        if self._fold_unless_held((series,)):
            self._busy(series)
        elif len(series.buffer) > HARD_CAP:
            self._shorten(series)
            self._dropped()

    def relieve_entered(self) -> None:
        """Fold the series that entered a slot lately, unless somebody holds the lock: they can wait."""
        many = dict.fromkeys(self.entered)
        self.entered.clear()
        self._fold_unless_held([series for series in many if len(series.buffer) > 1])

    def _fold_unless_held(self, many: Iterable[Buffered]) -> bool:
        lock = self.lock
        if _is_owned(lock):
            return False
        try:
            if not lock.acquire(blocking=False):
                return False
            self.fold(many)
            lock.release()
        except BaseException:
            _heal(lock)
            raise
        return True

    def read(self, question: Callable[[Windows[Any]], R]) -> R:
        """Answer a question about the windows and the states, once every finished record is in them."""
        lock = self.lock
        if _is_owned(lock):
            self._settle_states()  # and no cuts: one of them may be half done further up the stack
            return question(self.journal.windows)
        try:
            with lock:
                self.fold_all()
                return question(self.journal.windows)
        except BaseException:
            _heal(lock)
            raise

    def catch_up(self, many: Iterable[Buffered]) -> None:
        """Publish every finished record of some series: what a read does for all of them.

        Where its own thread is in the middle of a fold further up the stack, nothing is added.
        """
        lock = self.lock
        if _is_owned(lock):
            self._settle_states()
            return
        try:
            with lock:
                self.fold_some(many)
        except BaseException:
            _heal(lock)
            raise

    def fold_all(self) -> None:
        """Fold every series that has something in its buffer; the lock is held."""
        members = iter(self._members())
        while some := list(islice(members, TOGETHER)):
            # A removed series that came back is a member twice, and must not be folded twice at once.
            self.fold_some(dict.fromkeys(some))

    def fold_some(self, many: Iterable[Buffered]) -> None:
        """Fold those of some series that have something in their buffers; the lock is held."""
        self.fold([series for series in many if len(series.buffer) > 1])

    def fold(self, many: Iterable[Buffered]) -> None:
        """Move what is in the buffers of some series into their traces and the windows; the lock is held."""
        self._settle()
        cuts: list[tuple[list[Any], int, Cut]] = []
        states: list[tuple[Buffered, Any]] = []
        slots: dict[int, list[tuple[Sequence[Any], Any]]] = {}
        by_slot: dict[int, Cut] = {}
        sinks = self._tap.sinks
        folding = Folding(sinks) if sinks else None
        for series in many:
            buffer = series.buffer
            size = len(buffer)
            if size == 1:  # another thread was faster
                continue
            slot = self._absorb(series, buffer[0].slot_ns, buffer[1:size], states, slots, folding)
            cut = by_slot.get(slot) or by_slot.setdefault(slot, Cut(slot))
            cuts.append((buffer, size, cut))
        if cuts:
            self.commit(self._with_slots(slots), states, cuts, folding)

    def commit(
        self,
        windows: Windows[Any],
        states: Sequence[tuple[Buffered, Any]],
        cuts: Sequence[tuple[list[Any], int, Cut]] = (),
        folding: Folding | None = None,
    ) -> None:
        """Publish; the lock is held."""
        self.journal = Entry(windows, states, cuts, folding)
        self._settle()
        self.journal = Entry(windows, (), ())

    def count_by(self, bounds: tuple[float, ...]) -> None:
        """Count values by bounds, from zero where they are others than before."""
        if bounds != self.bounds:
            self.read(lambda windows: self._recount(windows, bounds))

    def _recount(self, windows: Windows[Any], bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.commit(windows, [(one, parts(one.state)[0]) for one in self._members()])

    def remove(self, series: Buffered) -> None:
        """Let a series begin at nothing; what it recorded stays in the windows."""
        lock = self.lock
        if _is_owned(lock):
            return
        try:
            with lock:
                self.fold_some((series,))
                self.forget(series)
        except BaseException:
            _heal(lock)
            raise

    def forget(self, series: Buffered) -> None:
        """Let a series begin at nothing; the lock is held."""
        self.commit(self.journal.windows, [(series, None)])

    def _shorten(self, series: Buffered) -> None:
        """Take back what is too much; nothing, if somebody has folded meanwhile."""
        del series.buffer[HARD_CAP:]

    def _settle(self) -> None:
        """Finish what was committed, which a fold that was broken off may have left to do."""
        folding = self.journal.folding
        if folding is not None:  # first: until the buffers are cut, somebody will come and finish
            folding.say()
        self._settle_states()
        for buffer, size, cut in self.journal.cuts:
            if buffer[0] is not cut:
                # One assignment, so that records and what stands for them change places at once.
                buffer[:size] = [cut]

    def _settle_states(self) -> None:
        for series, state in self.journal.states:
            series.state = state

    def _absorb(
        self,
        series: Buffered,
        slot: int,
        batch: Sequence[Any],
        states: list[tuple[Buffered, Any]],
        slots: dict[int, list[tuple[Sequence[Any], Any]]],
        folding: Folding | None,
    ) -> int:
        """Add what a batch makes of the states, and its records to those of their slots.

        Args:
            series: Whose records they are.
            slot: The slot of the record before them.
            batch: The records, at least one.
            states: Where the states go.
            slots: Where the records go, by slot.
            folding: Where they go for those who listen, if there are any.

        Returns:
            The slot of the last one.
        """
        trace, buckets = parts(series.state)
        if not self.bounds:
            buckets = None
        elif buckets is None or buckets.bounds != self.bounds:
            buckets = BucketCounts.between(self.bounds)
        by_slot = _by_slot(batch, slot, self._of)
        for slot, values, part in by_slot:
            slots.setdefault(slot, []).append((values, part))
            trace = part if trace is None else trace.merge(part)
            if buckets is not None:
                buckets = buckets.with_values(values, part.sum)
        state = trace if buckets is None else Counted(trace, buckets)
        states.append((series, state))
        if folding is not None:
            folding.parts.append(Folded(series, batch, series.state, state))
        return slot

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
