"""Follows telemetry while it is written: a growing file that may be rotated, or a folder of segments."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError
from metrics_framework.telemetry.projection import ProjectedTelemetryRecord
from metrics_framework.telemetry.reading import (
    GZIP_MAGIC,
    MAX_LINE_BYTES,
    Flaw,
    FlawLog,
    OnFlaw,
    cannot_read,
    events_of_line,
    is_growing_segment,
    project_line,
    segment_order,
    segments_in,
)

REPLACED_READ_SECONDS = 5.0
"""How long a replaced file is still read, in case its writer has not noticed the replacement yet."""

_CHUNK_BYTES = 1024 * 1024
_MAX_FINGERPRINT_BYTES = 4096
_MAX_FIRST_LINE_BYTES = 4096

_MAX_LISTINGS = 100
"""How often a folder is listed again if it changes while it is read."""


class TelemetryFollower:
    """Yields each event of a file or a folder once, as soon as its line is complete.

    A file may grow, be truncated and rewritten, be replaced, or be rotated: renamed, or copied and truncated,
    to its name with a number (``events.jsonl.1``), also several times between two polls. In a folder,
    segments are read one after the other. A file that does not exist yet is awaited.

    Not thread-safe: use it from one thread at a time.

    Args:
        path: A file of JSON lines, or a folder of segments.
        on_flaw: Receives each line that is not an event; by default the first of them are logged.
        clock: Measures how long a replaced file is still read.

    Example:
        >>> with TelemetryFollower("not-there-yet.jsonl") as follower:
        ...     list(follower.poll())
        []
    """

    def __init__(
        self, path: str | Path, on_flaw: OnFlaw | None = None, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._path = Path(path)
        self._log = FlawLog()
        self._on_flaw = on_flaw or self._log.add
        self._clock = clock
        self._rotated: RotatedFiles | None = None
        self._tails: list[Tail] = []  # in the order of writing; the last one is the current file
        self._segment = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def poll(self) -> Iterator[ProjectedTelemetryRecord]:
        """Yield the events since the last poll. Events that are not consumed come with the next poll.

        Raises:
            OutputError: If the file exists and cannot be read.
            InvalidInputError: If the file is compressed with gzip.
        """
        if self._path.is_dir():
            yield from self._poll_folder()
            return
        self._find_other_files()
        for tail in list(self._tails):
            if tail is not self._tails[-1] or tail.has_fingerprint:
                yield from self._records(tail)
        yield from self._drop_replaced()

    def close(self) -> None:
        """Close the files. A later `poll` starts from the beginning."""
        self._reset()
        self._log.close()

    def _reset(self) -> None:
        for tail in self._tails:
            tail.close()
        self._tails, self._segment, self._rotated = [], "", None

    # -- a folder --------------------------------------------------------------------------------------

    def _poll_folder(self) -> Iterator[ProjectedTelemetryRecord]:
        segments = [path for path in segments_in(self._path) if is_growing_segment(path.name)]
        newest = segments[-1] if segments else None
        if self._segment and (newest is None or segment_order(newest.name) < segment_order(self._segment)):
            self._reset()  # retention never removes the newest segment, so this is a new folder
        for tail in list(self._tails):
            if not tail.is_at(tail.path):
                tail.close()
                self._tails = [opened] if (opened := open_tail(tail.path)) else []
            elif tail.was_rewritten():
                tail.restart()
        for path in segments:
            if self._segment and segment_order(path.name) <= segment_order(self._segment):
                continue
            for tail in self._tails:  # a segment with a successor is complete
                yield from self._records(tail)
            complete, self._tails = self._tails, []
            for tail in complete:
                yield from self._finish(tail)
            self._tails = [opened] if (opened := open_tail(path)) else []
            self._segment = path.name
        for tail in self._tails:
            yield from self._records(tail)

    # -- a file ----------------------------------------------------------------------------------------

    def _find_other_files(self) -> None:
        """Find the file that replaced the current one, and files that were rotated since the last poll."""
        if self._rotated is None:
            self._rotated = RotatedFiles(self._path)
        current = self._tails[-1] if self._tails else None
        if current is None or not current.is_at(self._path):
            newest = open_tail(self._path)
            if newest is None:  # it does not exist yet, or is being replaced
                return
            if current is not None and current.was_rewritten():  # before it was renamed
                current.restart()
            newest.expect_first_line()
            self._append([*self._rotated.since(current, newest), newest])
            return
        if current.was_rewritten():
            self._append([*self._rotated.since(current, current), self._tails.pop()])
            current.restart()
        if not current.has_fingerprint:
            # In this order, files that are found after the first line was read are older than it.
            current.expect_first_line()
            self._append([*self._rotated.since(current, current), self._tails.pop()])

    def _append(self, tails: list[Tail]) -> None:
        self._tails += tails
        for tail in self._tails[:-1]:
            if tail.replaced_ns is None:
                tail.replaced_ns = self._clock.monotonic_ns()

    def _drop_replaced(self) -> Iterator[ProjectedTelemetryRecord]:
        now = self._clock.monotonic_ns()
        for tail in self._tails[:-1]:
            if tail.replaced_ns is not None and now - tail.replaced_ns >= REPLACED_READ_SECONDS * 1e9:
                self._tails.remove(tail)
                yield from self._finish(tail)

    # -- lines -----------------------------------------------------------------------------------------

    def _records(self, tail: Tail) -> Iterator[ProjectedTelemetryRecord]:
        for line in tail.lines():
            yield from self._project(tail, line)

    def _finish(self, tail: Tail) -> Iterator[ProjectedTelemetryRecord]:
        """Close a file that is no longer written, and yield its last line, even if it has no end."""
        line = tail.remainder()
        tail.close()
        yield from self._project(tail, line)

    def _project(self, tail: Tail, line: bytes) -> list[ProjectedTelemetryRecord]:
        records, fault = events_of_line(line, project_line)
        if fault is not None:
            self._on_flaw(Flaw(str(tail.path), tail.number, fault))
        return records


class Tail:
    """Reads the lines of a growing file as they are completed.

    The position is always the end of a complete line, so an incomplete line is read again later. The bytes
    before the position are the fingerprint. Each read includes them; if they have changed, the file was
    rewritten. At the start of the file, the expected first line has the same purpose.

    Args:
        path: The file.

    Attributes:
        path: The file.
        number: The number of lines read.
        replaced_ns: When another file replaced it, by a monotonic clock; ``None`` before.

    Raises:
        OSError: If the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self.replaced_ns: int | None = None
        self._stream = io.FileIO(path)
        self._offset = 0
        self._fingerprint = self._expected = b""
        self._is_within_long_line = False

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode, which do not depend on the name."""
        status = os.fstat(self._stream.fileno())
        return (status.st_dev, status.st_ino)

    def is_at(self, path: Path) -> bool:
        """Return whether the file at ``path`` is this one, or there is none."""
        try:
            status = path.stat()
        except OSError:
            return True
        return self.identity == (status.st_dev, status.st_ino)

    @property
    def has_fingerprint(self) -> bool:
        """Whether a rewrite of the file can be detected."""
        return bool(self._fingerprint or self._expected)

    @property
    def expected_first_line(self) -> bytes:
        """The first line that `expect_first_line` found; empty once it was read."""
        return self._expected

    def expect_first_line(self) -> None:
        """Remember the first line, if it is complete, to detect a rewrite before it is read."""
        head = self.head()
        if head.endswith(b"\n") or len(head) == _MAX_FIRST_LINE_BYTES:
            self._expected = head

    def head(self) -> bytes:
        """Return the first line, as far as it is written, up to a limit."""
        self._stream.seek(0)
        head = self._stream.read(_MAX_FIRST_LINE_BYTES)
        return head[: head.find(b"\n") + 1] or head

    def was_rewritten(self) -> bool:
        """Return whether the fingerprint or the expected first line has changed."""
        return self._read(0) is None

    def continues_in(self, other: Tail) -> bool:
        """Return whether another file has the same content before the position. If so, move it there."""
        if not self.has_fingerprint:
            return False
        other._resume(self)
        found = not other.was_rewritten()
        if not found:
            other.restart()
        return found

    def restart(self) -> None:
        """Return to the start of the file."""
        self._offset, self.number, self._is_within_long_line = 0, 0, False
        self._fingerprint = self._expected = b""

    def lines(self) -> Iterator[bytes]:
        """Yield the new complete lines. Stop if the file was rewritten.

        Raises:
            InvalidInputError: If the file is compressed with gzip.
            OutputError: If the file cannot be read.
        """
        size = _CHUNK_BYTES
        while (chunk := self._read(size)) is not None:
            if self._offset == 0 and chunk.startswith(GZIP_MAGIC):
                raise InvalidInputError(
                    f"{str(self.path)!r} is compressed with gzip and cannot be followed: decompress it first"
                )
            end = chunk.rfind(b"\n") + 1
            if end:
                yield from self._advance(chunk[:end])
            elif len(chunk) > MAX_LINE_BYTES:
                gap = chunk.rfind(b"\0") + 1
                yield from self._skip_gap(chunk[:gap]) if gap else self._skip(chunk)
            elif len(chunk) >= size:
                size *= 2
            else:
                return

    def remainder(self) -> bytes:
        """Return the incomplete line at the end, and move past it."""
        chunk = self._read(MAX_LINE_BYTES) or b""
        if chunk:
            self._move(chunk)
        return chunk

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _resume(self, other: Tail) -> None:
        self._offset, self.number = other._offset, other.number
        self._fingerprint, self._expected = other._fingerprint, other._expected

    def _read(self, size: int) -> bytes | None:
        """Return about ``size`` bytes from the position, or ``None`` if the file was rewritten.

        Raises:
            OutputError: If the file cannot be read.
        """
        # One read, so that the file cannot be rewritten between the fingerprint and the rest.
        try:
            self._stream.seek(self._offset - len(self._fingerprint))
            data = self._stream.read(len(self._fingerprint) + max(size, len(self._expected)))
        except OSError as error:
            raise cannot_read(self.path, error) from error
        is_same = data.startswith(self._fingerprint + self._expected)
        return data[len(self._fingerprint) :] if is_same else None

    def _advance(self, chunk: bytes) -> Iterator[bytes]:
        begin = 0
        while begin < len(chunk):
            end = chunk.index(b"\n", begin) + 1
            line = chunk[begin:end]
            begin = end
            was_within = self._is_within_long_line
            self._move(line)
            if not was_within:
                yield line

    def _skip_gap(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the start of a line that is long because of a gap of null bytes, up to the end of the gap."""
        self._move(chunk)
        self.number -= not self._is_within_long_line  # the line goes on
        self._is_within_long_line = False
        yield chunk

    def _skip(self, chunk: bytes) -> Iterator[bytes]:
        was_within = self._is_within_long_line
        self._move(chunk)
        self._is_within_long_line = True
        if not was_within:
            yield chunk

    def _move(self, read: bytes) -> None:
        self._offset += len(read)
        self._expected = b""
        self._fingerprint = (self._fingerprint + read[-_MAX_FINGERPRINT_BYTES:])[-_MAX_FINGERPRINT_BYTES:]
        if not self._is_within_long_line:
            self.number += 1
        if read.endswith(b"\n"):
            self._is_within_long_line = False


def open_tail(path: Path) -> Tail | None:
    """Open a file; ``None`` if it does not exist or is being replaced.

    Raises:
        OutputError: If the file cannot be opened.
    """
    try:
        return Tail(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_read(path, error) from error


class _SeenFile(NamedTuple):
    """The newest rotated file of an earlier poll.

    Attributes:
        identity: Device and inode. A new file may get those of a deleted one.
        head: The first line, as far as it was written.
    """

    identity: tuple[int, int]
    head: bytes

    def is_same(self, tail: Tail) -> bool:
        head = tail.head()
        if head.endswith(b"\n") and head == self.head:
            return True
        return tail.identity == self.identity and head.startswith(self.head)


class RotatedFiles:
    """Finds the rotated files beside a file: its name with a number, of which 1 is the newest.

    Some programs rotate by renaming the file and creating a new one, others by copying and truncating it.
    Several rotations may happen between two polls.

    Args:
        path: The file. Files that were rotated before are never returned.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pattern = re.compile(re.escape(path.name) + r"\.(\d{1,9})")
        self._seen: _SeenFile | None = None
        tails = self._open_all()
        if tails:
            self._seen = _SeenFile(tails[0].identity, tails[0].head())
        _close(tails)

    def since(self, before: Tail | None, current: Tail) -> list[Tail]:
        """Open the files that were rotated since the last poll, oldest first.

        Args:
            before: The current file at the last poll, which is not opened again.
            current: The current file now. If it is the same file and was truncated, the copy of its old
                content continues at the position that was read.
        """
        tails = self._open_all()
        found: list[Tail] = []
        newest: _SeenFile | None = None
        for tail in tails:
            if not tail.head():  # empty, or about to be copied
                continue
            if _is_of(tail, current):
                # The current file is being rotated. Newer files are left to the next poll.
                _close(found)
                found, newest = [], None
                continue
            newest = newest or _SeenFile(tail.identity, tail.head())
            if before is not None and tail.identity == before.identity:
                break
            if before is current and current.continues_in(tail):
                found.append(tail)
                break
            if self._seen is not None and self._seen.is_same(tail):
                break
            found.append(tail)
        self._seen = newest or self._seen
        _close(tail for tail in tails if tail not in found)
        return found[::-1]

    def _open_all(self) -> list[Tail]:
        """Open all rotated files, newest first."""
        for _ in range(_MAX_LISTINGS):
            names = self._names()
            tails = [tail for _, name, _ in names if (tail := open_tail(self._path.with_name(name)))]
            # A rotation may rename them meanwhile, and a folder that changes may be listed incompletely.
            if [tail.identity for tail in tails] == [identity for *_, identity in names] and (
                names == self._names()
            ):
                return tails
            _close(tails)
        return []

    def _names(self) -> list[tuple[int, str, tuple[int, int]]]:
        names: list[tuple[int, str, tuple[int, int]]] = []
        with suppress(OSError):
            for path in self._path.parent.iterdir():
                if found := self._pattern.fullmatch(path.name):
                    with suppress(FileNotFoundError):
                        status = path.stat()
                        names.append((int(found[1]), path.name, (status.st_dev, status.st_ino)))
        return sorted(names)


def _is_of(tail: Tail, current: Tail) -> bool:
    """Return whether a rotated file is the current one, or a copy of its content."""
    # The copy was opened first: if the current file is truncated in between, it is a copy of older content.
    return tail.identity == current.identity or tail.head() in (current.expected_first_line, current.head())


def _close(tails: Iterable[Tail]) -> None:
    for tail in tails:
        tail.close()
