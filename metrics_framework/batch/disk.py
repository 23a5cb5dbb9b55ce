"""Rows on a disk: in a nameless file that is gone with the process, or in a journal that outlives it."""

from __future__ import annotations

import json
import marshal
import os
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from metrics_framework.batch.rows import FIELDS, Row, plain
from metrics_framework.errors import InvalidInputError, OutputError

if sys.platform != "win32":
    import fcntl

CHUNK = 1_000
"""How many rows are written or read at a time."""

_READ_BYTES = 1 << 18


class Disk(Protocol):
    """Where rows go that memory has no place for; `Records` relies on it.

    A place is a number that `write` returned. What lies behind it was never finished, and is written over.
    """

    def write(self, rows: Sequence[Row], place: int) -> int:
        """Write rows at a place, and return the place behind them.

        Raises:
            OSError: If the disk refuses; what is before the place is as it was.
        """
        ...

    def read(self, end: int) -> Iterator[Sequence[Row]]:
        """Yield all rows before a place, some at a time."""
        ...

    def close(self) -> None:
        """Let go of it; it can be neither written nor read any more."""
        ...


class Spill:
    """A nameless temporary file, which the system removes however the process ends.

    Args:
        folder: Where it is; the system's folder for temporary files by default.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = folder
        self._file: _File | None = None

    def write(self, rows: Sequence[Row], place: int) -> int:
        """Write rows at a place; see `Disk`."""
        if self._file is None:
            with tempfile.TemporaryFile(prefix="batch-", dir=self._folder) as file:
                self._file = _File(os.dup(file.fileno()))
        # marshal takes a twentieth of the time of JSON, and nobody else can have written here.
        rows = plain(rows)
        frames = b""
        for begin in range(0, len(rows), CHUNK):
            content = marshal.dumps(list(rows[begin : begin + CHUNK]))
            frames += len(content).to_bytes(4, "little") + content
        return self._file.write(frames, place)

    def read(self, end: int) -> Iterator[Sequence[Row]]:
        """Yield all rows before a place; see `Disk`."""
        place = 0
        while place < end:
            size = int.from_bytes(self._read(4, place), "little")
            yield marshal.loads(self._read(size, place + 4))  # noqa: S302 - our own, see above
            place += 4 + size

    def _read(self, size: int, place: int) -> bytes:
        assert self._file is not None
        content = self._file.read(size, place)
        if len(content) < size:
            raise OutputError("the temporary file of a batch's details was cut short")
        return content

    def close(self) -> None:
        """Remove it."""
        if self._file is not None:
            self._file.close()


class Journal:
    """A file of JSON lines that outlives the process: an array for each file, an object for a fact.

    Every line is handed to the system before `write` returns, so a process that is killed has lost nothing.
    A line that was not finished is written over.

    Args:
        path: Where it is; made if need be.
        writable: Whether it is to be gone on with; then nobody else can.

    Raises:
        OutputError: If it cannot be opened.
        InvalidInputError: If another process goes on with it.
    """

    def __init__(self, path: str | Path, *, writable: bool = True) -> None:
        self.path = Path(path)
        self._file = _open(self.path, writable)

    def write(self, rows: Sequence[Row], place: int) -> int:
        """Write rows at a place; see `Disk`."""
        return self._file.write(b"".join(map(_line, plain(rows))), place)

    def note(self, fact: dict[str, Any], place: int) -> int:
        """Write something about the batch itself at a place, and return the place behind it.

        Raises:
            OSError: If the disk refuses.
        """
        return self._file.write(_line(fact), place)

    def read(self, end: int) -> Iterator[Sequence[Row]]:
        """Yield all rows before a place; see `Disk`."""
        for entries, _ in self.entries(end):
            rows = [tuple(entry) for entry in entries if isinstance(entry, list)]
            if rows:
                yield rows

    def entries(self, end: int | None = None) -> Iterator[tuple[list[Any], int]]:
        """Yield what finished lines hold, some at a time, and the place behind them.

        An array is a file, an object a fact; of a line that nobody can read there is ``None``.

        Args:
            end: Where to stop; behind the last finished line by default.
        """
        place, rest = 0, b""
        while end is None or place + len(rest) < end:
            begin = place + len(rest)
            content = self._file.read(_READ_BYTES if end is None else min(_READ_BYTES, end - begin), begin)
            if not content:
                return
            finished, newline, rest = (rest + content).rpartition(b"\n")
            if newline:
                place += len(finished) + 1
                yield [_entry(line) for line in finished.split(b"\n")], place

    def begins_with(self, head: bytes) -> bool:
        """Say whether it begins with those bytes, or has not got further than them."""
        content = self._file.read(len(head), 0)
        return head.startswith(content)

    def cut_out(self, is_unwanted: Callable[[Row], bool]) -> None:
        """Write it anew without some of its rows and without lines that nobody can read.

        Raises:
            OutputError: If the disk refuses; then it is what it was.
        """
        temporary = self.path.with_name(f".{self.path.name}.tmp")  # nobody else writes it: ours is locked
        try:
            with suppress(FileNotFoundError):
                temporary.unlink()
            anew, place = _open(temporary, writable=True), 0
            for entries, _ in self.entries():
                wanted = [
                    entry
                    for entry in entries
                    if isinstance(entry, dict) or (entry and not is_unwanted(entry))
                ]
                place = anew.write(b"".join(map(_line, wanted)), place)
            anew.flush()
            temporary.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise OutputError(
                f"cannot write the journal {str(self.path)!r} anew: {error.strerror or error}"
            ) from error
        self._file.close()
        self._file = anew

    def cut_off(self, place: int) -> None:
        """Let it end at a place."""
        self._file.cut_off(place)

    def flush(self) -> None:
        """Wait until the disk has it."""
        self._file.flush()

    def close(self) -> None:
        """Let others go on with it."""
        self._file.close()


class _File:
    """An open file that is read and written at places, by several threads; nobody has to close it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)

    def read(self, size: int, place: int) -> bytes:
        """Return what is at a place, less at the end of the file."""
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, place)
        os.lseek(self._descriptor, place, os.SEEK_SET)
        return os.read(self._descriptor, size)

    def write(self, content: bytes, place: int) -> int:
        """Write all of a content at a place and return the place behind it, or leave nothing of it."""
        end = place
        try:
            while content:
                if hasattr(os, "pwrite"):
                    size = os.pwrite(self._descriptor, content, end)
                else:
                    os.lseek(self._descriptor, end, os.SEEK_SET)
                    size = os.write(self._descriptor, content)
                content, end = content[size:], end + size
        except BaseException:
            self.cut_off(place)
            raise
        return end

    def cut_off(self, place: int) -> None:
        """Let it end at a place."""
        with suppress(OSError):  # what is no file on a disk has no end
            os.ftruncate(self._descriptor, place)

    def flush(self) -> None:
        """Wait until the disk has it."""
        with suppress(OSError):  # what is no file on a disk cannot be flushed
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close it; a second call does nothing, and from then on everything fails."""
        self._descriptor = -1  # the number may soon be another file's
        self._close()


def _open(path: Path, writable: bool) -> _File:
    flags = (os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY) | getattr(os, "O_BINARY", 0)
    try:
        if writable:
            path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o666)
    except (OSError, ValueError) as error:  # a ValueError for a path that no system can have
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise OutputError(f"cannot open the journal {str(path)!r}: {reason}") from error
    file = _File(descriptor)
    if writable and not _is_ours(descriptor, path):
        file.close()
        raise InvalidInputError(f"the journal {str(path)!r} is in use by another batch")
    return file


def _is_ours(descriptor: int, path: Path) -> bool:
    """Lock an open file until it is closed, by whatever ends the process; say whether nobody else has it."""
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    try:  # whoever wrote it anew meanwhile had it
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def _line(entry: Any) -> bytes:
    return _encode(entry).encode() + b"\n"


def _entry(line: bytes) -> list[Any] | dict[str, Any] | None:
    """Return what a line holds; ``None`` where it is not one of ours."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(entry, dict):
        return entry
    if not isinstance(entry, list) or len(entry) != len(FIELDS):
        return None
    numbers = entry[1:5]
    return entry if all(isinstance(number, int | float) for number in numbers) else None
