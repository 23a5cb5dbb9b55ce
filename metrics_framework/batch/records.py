"""Keeps the details of files: in memory while they are few, then on a disk, and their totals always.

Recording appends to a list and waits for nobody. When the list is long enough its rows are added to the
totals, written to the disk and cut off. What was added is published in one piece, together with the last row
that it holds, so that whatever interrupts the cutting off, no row is ever added twice.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from metrics_framework.batch.disk import CHUNK, Disk, Journal
from metrics_framework.batch.rows import NOTHING, Row, Totals
from metrics_framework.log import log_event

_PATIENCE = 100

_FEW = CHUNK - 1  # one more, and there is a chunk to write


class _State(NamedTuple):
    """What is no longer in the list.

    Attributes:
        totals: Of the rows that were cut off.
        place: Up to where the disk holds rows.
        written: How many rows of the list the disk holds, too.
        cut: How many rows at the head of the list the totals hold, if ``last`` is the last of them.
        last: The last row that the totals hold.
        lost: How many rows neither the list nor the disk holds.
    """

    totals: Totals = NOTHING
    place: int = 0
    written: int = 0
    cut: int = 0
    last: Row | None = None
    lost: int = 0


class Records:
    """Rows of a batch, from any thread.

    Args:
        in_memory: How many rows to keep in memory at most.
        disk: Where the others go. What goes into a journal does so at once.
        place: Up to where the disk holds rows already.
        totals: What those amount to.
        rows: Rows that the disk holds and the totals do not.

    Attributes:
        rows: Those in memory. Who adds one settles when there are more than are ``due``: a method that did
            both would be a tenth of what recording a file takes.
        due: How many rows may be there unsettled.
    """

    def __init__(
        self,
        in_memory: int,
        disk: Disk,
        place: int = 0,
        totals: Totals = NOTHING,
        rows: Sequence[Row] = (),
    ) -> None:
        self._in_memory = in_memory
        self._disk = disk
        self._at_once = isinstance(disk, Journal)
        self._set_limit(min(in_memory, _FEW) if totals.counts.files else in_memory)
        self.rows = list(rows)
        self._state = _State(totals, place, written=len(rows))
        self._lock = threading.RLock()
        self._busy = False
        self._is_refused = False
        self._unsaid: str | None = None

    def settle(self) -> None:
        """Write what has to be written, and cut off what memory has no place for."""
        with self._alone() as alone:
            # A disk that is full is not asked again for every file.
            if alone and self._at_once and not (self._is_refused and len(self.rows) % _PATIENCE):
                self._write()
            if alone and len(self.rows) > self._limit:
                self._relieve()
        self._say()

    def note(self, fact: dict[str, object]) -> None:
        """Write something about the batch itself, where there is a journal."""
        if not isinstance(self._disk, Journal):
            return
        with self._alone() as alone:
            if not alone:
                return
            self._write()
            try:
                self._state = self._state._replace(place=self._disk.note(fact, self._state.place))
            except OSError as error:
                self._refuse(error)
            self._disk.flush()
        self._say()

    @property
    def lost(self) -> int:
        """How many rows are neither in memory nor on the disk, which refused them."""
        return self._state.lost

    def seen(self) -> tuple[Totals, list[Row]]:
        """Return the totals of the rows that are no longer in memory, and the others."""
        state, rows = self._now()
        return state.totals, rows

    def read(self) -> Iterator[Sequence[Row]]:
        """Yield all rows that there are now, in their order, some at a time."""
        state, rows = self._now()
        if state.totals.counts.files:
            yield from self._disk.read(state.place)
            rows = rows[state.written :]
        for begin in range(0, len(rows), CHUNK):
            yield rows[begin : begin + CHUNK]

    def close(self) -> None:
        """Let go of the disk; what is not in memory can no longer be read."""
        self._disk.close()

    def _now(self) -> tuple[_State, list[Row]]:
        with self._lock:
            state, rows = self._state, list(self.rows)
        return state, rows[_cut(state, rows) :]

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Keep other threads out; what interrupts this one, a signal handler say, gets ``False``."""
        with self._lock:
            if self._busy:
                yield False
                return
            try:
                self._busy = True
                yield True
            finally:
                self._busy = False

    def _write(self) -> bool:
        """Write what the disk does not hold yet, and say whether it holds everything now."""
        state = self._state
        fresh = self.rows[_cut(state, self.rows) + state.written :]
        if fresh:
            try:
                place = self._disk.write(fresh, state.place)
            except (OSError, ValueError) as error:  # a ValueError for an integer that has no decimal form
                if isinstance(error, OSError) and error.errno is None:
                    raise  # not the disk's but a signal handler's: a TimeoutError, say
                self._refuse(error)
                return False
            self._state = state._replace(place=place, written=state.written + len(fresh))
        self._is_refused = False
        return True

    def _relieve(self) -> None:
        """Cut off the rows that are in the list, whether the disk takes them or not."""
        rows = self.rows
        del rows[: _cut(self._state, rows)]  # where the last cutting off was interrupted
        is_whole = self._write()
        state = self._state
        gone = rows[: state.written] if is_whole else rows[:]
        self._state = _State(
            state.totals.plus(gone),
            state.place,
            written=0,
            cut=len(gone),
            last=gone[-1] if gone else None,
            lost=state.lost + len(gone) - state.written,
        )
        del rows[: len(gone)]
        self._set_limit(min(self._in_memory, _FEW))

    def _set_limit(self, limit: int) -> None:
        self._limit = limit
        self.due = 0 if self._at_once else limit

    def _refuse(self, error: Exception) -> None:
        if not self._is_refused:
            self._unsaid = str(error)
        self._is_refused = True

    def _say(self) -> None:
        """Log what the disk refused; not while others are kept out, as a log may be anybody's."""
        if self._unsaid is not None:
            error, self._unsaid = self._unsaid, None
            log_event("error", "details of a batch not written; its totals stay right", error=error)


def _cut(state: _State, rows: list[Row]) -> int:
    """Return how many rows at the head of a list the totals hold already."""
    # The very row, not one that is equal to it.
    return state.cut if 0 < state.cut <= len(rows) and rows[state.cut - 1] is state.last else 0
