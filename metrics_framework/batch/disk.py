"""Row storage on disk: a temporary file that vanishes with the process, and a journal that outlives it."""

from __future__ import annotations

import hashlib
import json
import marshal
import math
import os
import shlex
import sys
import tempfile
import weakref
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from metrics_framework.batch.rows import (
    FIELDS,
    NO_TOTALS,
    ROWS_PER_CHUNK,
    FileRow,
    Totals,
    to_storable,
)
from metrics_framework.errors import InvalidInputError, OutputError, reason_of
from metrics_framework.log import log_event
from metrics_framework.runtime.strict_json import to_finite
from metrics_framework.validation import is_finite_number

if sys.platform != "win32":
    import fcntl

JOURNAL_VERSION = 1
"""Version of the journal format."""

_JOURNAL_START = b'{"batch_journal":1,"batch_id":"'
_READ_BYTES = 1 << 18
_MAX_TIME = 253_402_300_800.0
"""The end of the year 9999, in seconds since the epoch."""


class SpillFile:
    """An unnamed temporary file. The operating system removes it, however the process ends.

    Args:
        folder: Holds the file; by default the system's folder for temporary files.
    """

    is_durable = False

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = folder
        self._file: _OffsetFile | None = None

    def write(self, rows: Sequence[FileRow], offset: int) -> int:
        """Write rows at an offset; see `RowStorage`."""
        if self._file is None:
            with tempfile.TemporaryFile(prefix="batch-", dir=self._folder) as file:
                self._file = _OffsetFile(os.dup(file.fileno()))
        # marshal takes a twentieth of the time of JSON. It is safe: only this process writes the file.
        rows = to_storable(rows)
        frames = b""
        for begin in range(0, len(rows), ROWS_PER_CHUNK):
            content = marshal.dumps(list(rows[begin : begin + ROWS_PER_CHUNK]))
            frames += len(content).to_bytes(4, "little") + content
        return self._file.write(frames, offset)

    def write_event(self, event: dict[str, Any], offset: int) -> int:
        """Write nothing: a temporary file holds rows only."""
        return offset

    def read(self, end: int) -> Iterator[Sequence[FileRow]]:
        """Yield all rows before an offset; see `RowStorage`."""
        offset = 0
        while offset < end:
            size = int.from_bytes(self._read(4, offset), "little")
            yield marshal.loads(self._read(size, offset + 4))  # noqa: S302 - our own, see above
            offset += 4 + size

    def _read(self, size: int, offset: int) -> bytes:
        assert self._file is not None
        content = self._file.read(size, offset)
        if len(content) < size:
            raise OutputError("the temporary file with the details of a batch was truncated")
        return content

    def close(self) -> None:
        """Close the file, which removes it."""
        if self._file is not None:
            self._file.close()


class Journal:
    """A file of JSON lines that outlives the process: an array for each file, an object for each event.

    Each line is handed to the operating system before `write` returns, so a killed process loses none. A line
    that is incomplete is overwritten.

    Args:
        path: The file. If it is to be written, missing folders and the file are created.
        writable: Whether to open it for writing, which locks it.

    Raises:
        OutputError: If it cannot be opened.
        InvalidInputError: If it is to be written and another process has locked it.
    """

    is_durable = True

    def __init__(self, path: str | Path, *, writable: bool = True) -> None:
        self.path = Path(path)
        self._file = _open(self.path, writable)

    def write(self, rows: Sequence[FileRow], offset: int) -> int:
        """Write rows at an offset; see `RowStorage`."""
        return self._file.write(b"".join(map(_to_line, to_storable(rows))), offset)

    def write_event(self, event: dict[str, Any], offset: int) -> int:
        """Write an event at an offset, flush the file to the disk, and return the offset of the end.

        Raises:
            OSError: If writing fails.
        """
        end = self._file.write(_to_line(event), offset)
        self._file.flush()
        return end

    def read(self, end: int) -> Iterator[Sequence[FileRow]]:
        """Yield all rows before an offset; see `RowStorage`."""
        for entries, _ in self.entries(end):
            rows = [tuple(entry) for entry in entries if isinstance(entry, list)]
            if rows:
                yield rows

    def entries(self, end: int | None = None) -> Iterator[tuple[list[Any], int]]:
        """Yield the contents of complete lines, in chunks, each with the offset of its end.

        A list is a file, a dict an event, ``None`` a line that cannot be read.

        Args:
            end: The offset to stop at; by default the end of the last complete line.
        """
        offset, rest = 0, b""
        while end is None or offset + len(rest) < end:
            begin = offset + len(rest)
            content = self._file.read(_READ_BYTES if end is None else min(_READ_BYTES, end - begin), begin)
            if not content:
                return
            complete, newline, rest = (rest + content).rpartition(b"\n")
            if newline:
                offset += len(complete) + 1
                yield [_parse_line(line) for line in complete.split(b"\n")], offset

    def has_header(self) -> bool:
        """Return whether the file starts as a journal does. An empty or shorter file counts if it matches."""
        return _JOURNAL_START.startswith(self._file.read(len(_JOURNAL_START), 0))

    def rewrite(self, is_unwanted: Callable[[FileRow], bool]) -> None:
        """Rewrite the file without unwanted rows and without lines that cannot be read.

        Raises:
            OutputError: If writing fails. The file is unchanged then.
        """
        temporary = self.path.with_name(f".{self.path.name}.tmp")  # safe: the journal is locked
        try:
            with suppress(FileNotFoundError):
                temporary.unlink()
            new_file, offset = _open(temporary, writable=True), 0
            for entries, _ in self.entries():
                wanted = [
                    entry
                    for entry in entries
                    if isinstance(entry, dict) or (entry and not is_unwanted(entry))
                ]
                offset = new_file.write(b"".join(map(_to_line, wanted)), offset)
            new_file.flush()
            temporary.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise OutputError(f"cannot rewrite the journal {str(self.path)!r}: {reason_of(error)}") from error
        self._file.close()
        self._file = new_file

    def truncate(self, offset: int) -> None:
        """Truncate the file at an offset."""
        self._file.truncate(offset)

    def close(self) -> None:
        """Close and unlock the file."""
        self._file.close()


class _OffsetFile:
    """An open file for reads and writes at offsets, from any thread. It closes itself when unreferenced."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)

    def read(self, size: int, offset: int) -> bytes:
        """Return ``size`` bytes from an offset, or fewer at the end of the file."""
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, offset)
        os.lseek(self._descriptor, offset, os.SEEK_SET)
        return os.read(self._descriptor, size)

    def write(self, content: bytes, offset: int) -> int:
        """Write all of ``content`` at an offset and return its end, or write nothing on an error."""
        end = offset
        try:
            while content:
                if hasattr(os, "pwrite"):
                    size = os.pwrite(self._descriptor, content, end)
                else:
                    os.lseek(self._descriptor, end, os.SEEK_SET)
                    size = os.write(self._descriptor, content)
                content, end = content[size:], end + size
        except BaseException:
            self.truncate(offset)
            raise
        return end

    def truncate(self, offset: int) -> None:
        """Truncate the file at an offset."""
        with suppress(OSError):  # a device or a pipe cannot be truncated
            os.ftruncate(self._descriptor, offset)

    def flush(self) -> None:
        """Wait until the disk holds all writes."""
        with suppress(OSError):  # a device or a pipe cannot be flushed
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file. A second call does nothing; reads and writes fail from now on."""
        self._descriptor = -1  # the system may give the number to another file
        self._close()


def _open(path: Path, writable: bool) -> _OffsetFile:
    flags = (os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY) | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_NONBLOCK", 0)  # opening a FIFO would block
    try:
        if writable:
            path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o666)
    except (OSError, ValueError) as error:  # a ValueError for an invalid path, such as one with a null byte
        raise OutputError(f"cannot open the journal {str(path)!r}: {reason_of(error)}") from error
    file = _OffsetFile(descriptor)
    if writable and not _lock(descriptor, path):
        file.close()
        raise InvalidInputError(
            f"the journal {str(path)!r} is in use by another batch: close it, or use another file"
        )
    return file


def _lock(descriptor: int, path: Path) -> bool:
    """Lock an open file until it is closed, and return whether this process has the lock."""
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    try:  # the previous owner of the lock may have replaced the file by `rewrite` in between
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False).encode


def _to_line(entry: Any) -> bytes:
    try:
        text = _encode(entry)
    except ValueError:  # NaN or an infinity
        text = _encode(to_finite(entry))
    return text.encode() + b"\n"


def _parse_line(line: bytes) -> list[Any] | dict[str, Any] | None:
    """Return the content of a line, or ``None`` if it is neither a row nor an event."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(entry, dict):
        return entry
    if not isinstance(entry, list) or len(entry) != len(FIELDS):
        return None
    entry[1:5] = [math.nan if number is None else number for number in entry[1:5]]
    is_row = _is_time(entry[1]) and all(isinstance(number, int | float) for number in entry[2:5])
    return entry if is_row else None


def _is_time(value: object) -> TypeGuard[float]:
    """Return whether a value is a time in seconds since the epoch that has a date."""
    return is_finite_number(value) and 0 <= value < _MAX_TIME


class NameSet:
    """A set of names in 8 bytes each. A false match needs two names with equal 64-bit hashes."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._is_sorted = True

    def add(self, names: Iterable[str]) -> None:
        """Add names."""
        self._hashes.extend(map(_hash, names))
        self._is_sorted = False

    def __contains__(self, name: str) -> bool:
        if not self._is_sorted:
            self._hashes, self._is_sorted = array("Q", sorted(self._hashes)), True
        wanted = _hash(name)
        at = bisect_left(self._hashes, wanted)
        return at < len(self._hashes) and self._hashes[at] == wanted

    def __len__(self) -> int:
        return len(self._hashes)


def _hash(name: str) -> int:
    digest = hashlib.blake2b(str(name).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@dataclass
class JournalState:
    """The state of a batch as its journal holds it, from all earlier sessions.

    Attributes:
        batch_id: The batch; ``None`` if the journal is new.
        command: The command that processes the files, if the journal has it.
        start: When the first session started, in seconds since the epoch.
        end: When the last session finished; ``None`` if it was interrupted.
        last: The last time at which the last session is known to have run.
        paused: Seconds between sessions.
        offset: End of the last complete line.
        rows: Rows that are not in ``totals``; all of them if memory may hold them.
        totals: Totals of the other rows.
        done: Names of all files.
        unreadable: How many lines cannot be read.
    """

    batch_id: str | None = None
    command: Sequence[str] = ()
    start: float | None = None
    end: float | None = None
    last: float = 0.0
    paused: float = 0.0
    offset: int = 0
    rows: list[FileRow] = field(default_factory=list)
    totals: Totals = NO_TOTALS
    done: NameSet = field(default_factory=NameSet)
    unreadable: int = 0

    @classmethod
    def read(
        cls,
        journal: Journal,
        batch_id: str | None,
        in_memory: int,
        *,
        retry_failed: bool = False,
        command: Sequence[str] = (),
    ) -> JournalState:
        """Read a journal.

        Args:
            journal: The open journal.
            batch_id: The expected batch; ``None`` accepts any.
            in_memory: Most rows to keep in memory.
            retry_failed: Whether to remove failed files from the journal first.
            command: The expected command; an empty one accepts any.

        Raises:
            InvalidInputError: If it is the journal of another batch or command, or not a journal.
            OutputError: If it cannot be rewritten.
        """
        if not journal.has_header():
            raise InvalidInputError(f"{str(journal.path)!r} is not the journal of a batch")
        header = cls()
        for entries, _ in journal.entries():
            for entry in entries[:1]:
                header._apply(entry)
            break
        if command and header.command and list(command) != list(header.command):
            raise InvalidInputError(
                f"the batch {header.batch_id!r} runs {shlex.join(header.command)!r}, not"
                f" {shlex.join(command)!r}: pass the same command, or another ID to start a new batch"
            )
        if batch_id is not None and header.batch_id not in (None, batch_id):
            raise InvalidInputError(
                f"{str(journal.path)!r} is the journal of batch {header.batch_id!r}, not of {batch_id!r}:"
                " pass that batch_id, or another journal"
            )
        if retry_failed:
            journal.rewrite(lambda row: row[5] == "error")
        state = cls()
        for entries, offset in journal.entries():
            rows = [tuple(entry) for entry in entries if isinstance(entry, list)]
            for entry in entries:
                if isinstance(entry, list):
                    state.last = max(state.last, entry[1])
                elif isinstance(entry, dict):
                    state._apply(entry)
                else:
                    state.unreadable += 1
            state.done.add(row[0] for row in rows)
            state.offset = offset
            state.rows += rows
            if state.totals is not NO_TOTALS or len(state.rows) > in_memory:
                state.totals, state.rows = state.totals.plus(state.rows), []
        if state.unreadable:
            log_event(
                "warning",
                "lines of a journal cannot be read",
                journal=str(journal.path),
                lines=state.unreadable,
            )
        return state

    def write_header(self, journal: Journal, batch_id: str, command: Sequence[str] = ()) -> None:
        """Write the first line of a new journal.

        Raises:
            OutputError: If writing fails.
        """
        header: dict[str, Any] = {"batch_journal": JOURNAL_VERSION, "batch_id": batch_id, "fields": FIELDS}
        if command:
            header["command"] = list(command)
        try:
            self.offset = journal.write_event(header, 0)
        except OSError as error:
            raise OutputError(
                f"cannot write the journal {str(journal.path)!r}: {reason_of(error)}"
            ) from error
        self.batch_id = batch_id

    def _apply(self, event: dict[str, Any]) -> None:
        if "batch_id" in event:
            self.batch_id = str(event["batch_id"])
        if isinstance(command := event.get("command"), list):
            self.command = [str(part) for part in command]
        start, end = event.get("start"), event.get("finish")
        if _is_time(start):
            if self.start is None:
                self.start = start
            else:
                self.paused += max(0.0, start - self.last)
            self.last, self.end = start, None
        if _is_time(end):
            self.last = self.end = end
