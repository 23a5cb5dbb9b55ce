"""Rows: the details of one file as a tuple, the totals of many, and the store of a batch's rows.

A tuple takes a third of the memory of a `FileMetrics`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from math import inf
from numbers import Integral, Real
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from metrics_framework.batch.models import FileMetrics
from metrics_framework.log import log_event
from metrics_framework.recording import Distribution

FileRow = tuple[Any, ...]
"""The details of a file, in the order of `FIELDS`."""

FIELDS = (
    "filename",
    "end_time",
    "duration",
    "samples",
    "measurements",
    "status",
    "error_type",
    "error_message",
    "memory_peak",
)

ROWS_PER_CHUNK = 1_000
"""How many rows are written or read at once."""

_RETRY_EVERY_ROWS = 100
_MAX_UNWRITTEN_ROWS = ROWS_PER_CHUNK - 1  # one more fills a chunk

_STORABLE_TYPES = {str, int, float, bool, type(None)}


def to_metrics(row: FileRow) -> FileMetrics:
    """Return a row as a `FileMetrics`."""
    filename, end, duration, *rest = row
    return FileMetrics(filename, end - duration, end, duration, *rest)


def is_storable(rows: Sequence[FileRow]) -> bool:
    """Return whether rows hold only numbers, strings and ``None``, of exactly the builtin types."""
    return _have_usual_types(rows) or set(map(type, chain.from_iterable(rows))) <= _STORABLE_TYPES


def _have_usual_types(rows: Sequence[FileRow]) -> bool:
    """Return whether each value has the type of its field. Takes a third of the time of the general check."""
    for name, end, duration, samples, measurements, status, error_type, error_message, memory_peak in rows:
        if not (
            type(name) is str
            and type(end) is float
            and type(duration) is float
            and type(samples) is int
            and type(measurements) is int
            and type(status) is str
            and (error_type is None or type(error_type) is str)
            and (error_message is None or type(error_message) is str)
            and (memory_peak is None or type(memory_peak) is int)
        ):
            return False
    return True


def to_storable(rows: Sequence[FileRow]) -> Sequence[FileRow]:
    """Return rows that can be written to disk, with values other than numbers converted by `str`."""
    if is_storable(rows):
        return rows
    return [tuple(map(_storable_value, row)) for row in rows]


def _storable_value(value: Any) -> Any:
    if type(value) in _STORABLE_TYPES:
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - the value may be any object, and must not end the batch
        return object.__repr__(value)


class Counts(NamedTuple):
    """Number of files by outcome.

    Attributes:
        files: All recorded files.
        processed: Files that succeeded.
        errors: Files that failed.
        skipped: Files that were skipped.
    """

    files: int = 0
    processed: int = 0
    errors: int = 0
    skipped: int = 0

    def plus(self, rows: Sequence[FileRow]) -> Counts:
        """Return these counts plus those of some rows."""
        others = [row[5] for row in rows if row[5] != "success"]
        return Counts(
            self.files + len(rows),
            self.processed + len(rows) - len(others),
            self.errors + others.count("error"),
            self.skipped + others.count("skipped"),
        )


class Totals(NamedTuple):
    """Totals of rows that are no longer in memory.

    Attributes:
        counts: Number of files by outcome.
        error_types: Number of failures by error type.
        durations: Seconds of the files that succeeded with a finite duration above zero.
        infinite: Number of files that succeeded with an infinite duration.
        samples: Sum over the files that succeeded.
        measurements: Sum over the files that succeeded.
        fault: The first error of adding a row. It is raised when a summary is requested.
    """

    counts: Counts = Counts()
    error_types: dict[str, int] = {}  # noqa: RUF012 - never changed, only replaced
    durations: Distribution = Distribution()
    samples: int | float = 0
    measurements: int | float = 0
    fault: Exception | None = None
    infinite: int = 0

    def plus(self, rows: Sequence[FileRow]) -> Totals:
        """Return these totals plus those of some rows. Never raises; see `fault`."""
        counts = self.counts.plus(rows)
        error_types = count_error_types(rows, dict(self.error_types))
        succeeded = [row for row in rows if row[5] == "success"]
        try:
            durations = [row[2] for row in succeeded if row[2] > 0]
            finite = [duration for duration in durations if duration != inf]
            return Totals(
                counts,
                error_types,
                self.durations.merge(Distribution.of(finite)),
                self.samples + sum(map(itemgetter(3), succeeded)),
                self.measurements + sum(map(itemgetter(4), succeeded)),
                self.fault,
                self.infinite + len(durations) - len(finite),
            )
        except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
            # Rows hold values as the caller passed them. An exception of a signal handler is none of these
            # types, and propagates.
            return self._replace(counts=counts, error_types=error_types, fault=self.fault or error)


NO_TOTALS = Totals()
"""The totals of no rows."""


def count_error_types(rows: Iterable[FileRow], counted: dict[str, int]) -> dict[str, int]:
    """Add the failures of some rows to a count by error type, and return it."""
    for error_type in [row[6] for row in rows if row[5] == "error"]:
        try:
            if error_type:
                counted[error_type] = counted.get(error_type, 0) + 1
        except TypeError:  # unhashable: `record_file` has raised this to its caller
            continue
    return counted


class RowStorage(Protocol):
    """Storage for rows outside memory; `RowStore` relies on it.

    An offset is a number that `write` or `write_event` returned. Bytes after the current offset belong to an
    incomplete write, and the next write replaces them.
    """

    is_durable: bool
    """Whether rows outlive the process. If so, each row is written as soon as it is recorded."""

    def write(self, rows: Sequence[FileRow], offset: int) -> int:
        """Write rows at an offset, and return the offset of their end.

        Raises:
            OSError: If writing fails. Everything before the offset is unchanged.
        """
        ...

    def write_event(self, event: dict[str, Any], offset: int) -> int:
        """Write an event of the batch itself if storage is durable, and return the offset of its end.

        Raises:
            OSError: As `write`.
        """
        ...

    def read(self, end: int) -> Iterator[Sequence[FileRow]]:
        """Yield all rows before an offset, in chunks."""
        ...

    def close(self) -> None:
        """Close the storage. Later reads and writes fail."""
        ...


class _StoreState(NamedTuple):
    """The rows of a `RowStore` that are no longer only in its list.

    Attributes:
        totals: Totals of the rows removed from the list.
        offset: End of the rows in the storage.
        written: How many rows of the list are also in the storage.
        removed: How many rows at the head of the list the totals include, if ``last`` is the last of them.
        last: The last row that the totals include.
        lost: How many rows are neither in the list nor in the storage.
    """

    totals: Totals = NO_TOTALS
    offset: int = 0
    written: int = 0
    removed: int = 0
    last: FileRow | None = None
    lost: int = 0


class RowStore:
    """The rows of a batch: in memory up to a limit, the rest on disk, and totals of all. Thread-safe.

    Recording appends to a list and takes no lock. When the list is long enough, its rows are added to the
    totals, written to the storage and removed from the list. The new totals are published in one assignment
    with the last row that they include. So if removing the rows is interrupted, no row is counted twice.

    Args:
        in_memory: Most rows to keep in memory.
        storage: Receives the other rows, or every row at once if it is durable.
        offset: End of the rows that the storage holds already.
        totals: Totals of those rows.
        rows: Rows that are in the storage but not in the totals.

    Attributes:
        rows: The rows in memory. Recording code appends to it, and then calls `flush` if there are more than
            ``flush_above``. A method that did both would cost a tenth of recording a file.
        flush_above: How many rows may be in the list without a `flush`.
    """

    def __init__(
        self,
        in_memory: int,
        storage: RowStorage,
        offset: int = 0,
        totals: Totals = NO_TOTALS,
        rows: Sequence[FileRow] = (),
    ) -> None:
        self._in_memory = in_memory
        self._storage = storage
        self._set_limit(min(in_memory, _MAX_UNWRITTEN_ROWS) if totals.counts.files else in_memory)
        self.rows = list(rows)
        self._state = _StoreState(totals, offset, written=len(rows))
        self._lock = threading.RLock()
        self._is_busy = False
        self._has_write_error = False
        self._unlogged_error: str | None = None

    def flush(self) -> None:
        """Write rows that are due, and remove rows from memory if there are too many."""
        with self._exclusive() as is_exclusive:
            # If the disk is full, writing is not retried for every file.
            if (
                is_exclusive
                and self._storage.is_durable
                and not (self._has_write_error and len(self.rows) % _RETRY_EVERY_ROWS)
            ):
                self._write()
            if is_exclusive and len(self.rows) > self._limit:
                self._move_to_storage()
        self._log_write_error()

    def write_event(self, event: dict[str, object]) -> None:
        """Write an event of the batch itself, such as its start, after the rows. Needs durable storage."""
        if not self._storage.is_durable:
            return
        with self._exclusive() as is_exclusive:
            if not is_exclusive:
                return
            self._write()
            try:
                offset = self._storage.write_event(event, self._state.offset)
                self._state = self._state._replace(offset=offset)
            except OSError as error:
                self._set_write_error(error)
        self._log_write_error()

    @property
    def lost(self) -> int:
        """How many rows are neither in memory nor in the storage, because writing failed."""
        return self._state.lost

    def totals_and_rows(self) -> tuple[Totals, list[FileRow]]:
        """Return the totals of the rows that are no longer in memory, and the rows that are."""
        state, rows = self._read_state()
        return state.totals, rows

    def read(self) -> Iterator[Sequence[FileRow]]:
        """Yield all current rows in their order, in chunks."""
        state, rows = self._read_state()
        if state.totals.counts.files:
            yield from self._storage.read(state.offset)
            rows = rows[state.written :]
        for begin in range(0, len(rows), ROWS_PER_CHUNK):
            yield rows[begin : begin + ROWS_PER_CHUNK]

    def close(self) -> None:
        """Close the storage. Rows that are not in memory can no longer be read."""
        self._storage.close()

    def _read_state(self) -> tuple[_StoreState, list[FileRow]]:
        with self._lock:
            state, rows = self._state, list(self.rows)
        return state, rows[_removed_rows(state, rows) :]

    @contextmanager
    def _exclusive(self) -> Iterator[bool]:
        """Exclude other threads. Yields ``False`` if this thread is inside already, in a signal handler."""
        with self._lock:
            if self._is_busy:
                yield False
                return
            try:
                self._is_busy = True
                yield True
            finally:
                self._is_busy = False

    def _write(self) -> bool:
        """Write the rows that the storage does not hold yet, and return whether it holds all now."""
        state = self._state
        unwritten = self.rows[_removed_rows(state, self.rows) + state.written :]
        if unwritten:
            try:
                offset = self._storage.write(unwritten, state.offset)
            except (OSError, ValueError) as error:  # a ValueError: an integer is too long for decimal digits
                if isinstance(error, OSError) and error.errno is None:
                    raise  # from a signal handler, not from the disk: a TimeoutError, for example
                self._set_write_error(error)
                return False
            self._state = state._replace(offset=offset, written=state.written + len(unwritten))
        self._has_write_error = False
        return True

    def _move_to_storage(self) -> None:
        """Remove the rows from the list. Rows that cannot be written are lost."""
        rows = self.rows
        del rows[: _removed_rows(self._state, rows)]  # left over if the last removal was interrupted
        is_complete = self._write()
        state = self._state
        removed = rows[: state.written] if is_complete else rows[:]
        self._state = _StoreState(
            state.totals.plus(removed),
            state.offset,
            written=0,
            removed=len(removed),
            last=removed[-1] if removed else None,
            lost=state.lost + len(removed) - state.written,
        )
        del rows[: len(removed)]
        self._set_limit(min(self._in_memory, _MAX_UNWRITTEN_ROWS))

    def _set_limit(self, limit: int) -> None:
        self._limit = limit
        self.flush_above = 0 if self._storage.is_durable else limit

    def _set_write_error(self, error: Exception) -> None:
        if not self._has_write_error:
            self._unlogged_error = str(error)
        self._has_write_error = True

    def _log_write_error(self) -> None:
        """Log a write error. Not called under the lock, because log handlers may be slow or record files."""
        if self._unlogged_error is not None:
            error, self._unlogged_error = self._unlogged_error, None
            log_event("error", "details of a batch not written; its totals stay right", error=error)


def _removed_rows(state: _StoreState, rows: list[FileRow]) -> int:
    """Return how many rows at the head of a list the totals include already."""
    # Compares by identity: another file may have an equal row.
    return state.removed if 0 < state.removed <= len(rows) and rows[state.removed - 1] is state.last else 0
