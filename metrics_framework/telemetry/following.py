"""Following telemetry while it is written: a file that grows, is cut or rotated, or a folder of segments."""

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
    GZIP,
    MAX_LINE_BYTES,
    Flaw,
    FlawLog,
    OnFlaw,
    cannot_read,
    is_growing_segment,
    project_line,
    segment_order,
    segments_in,
)

REPLACED_READ_SECONDS = 5.0
"""How long a file is read on after another one took its place: its writer may not have noticed yet."""


class TelemetryFollower:
    """Yields each event of a file or a folder once, as soon as its line is whole.

    A file may grow, be truncated and written anew, be replaced, or be rotated: renamed, or copied and
    truncated, to its name with a number (``events.jsonl.1``), also several times between two looks. In a
    folder segments are read one after the other as they come. What is not there yet is waited for.

    For one thread at a time.

    Args:
        path: A file of JSON lines, or a folder of segments.
        on_flaw: Called with each line that is no event; by default the first of them are logged.
        clock: By which the time goes by that a replaced file is read on.

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
        self._rotations: RotatedFiles | None = None
        self._tails: list[Tail] = []  # in the order they were written; the last one is the present
        self._segment = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def poll(self) -> Iterator[ProjectedTelemetryRecord]:
        """Yield what has come since the last look; what is not taken is left to the next one.

        Raises:
            OutputError: If the file is there and cannot be read.
            InvalidInputError: If it is packed with gzip.
        """
        if self._path.is_dir():
            yield from self._poll_folder()
            return
        self._look_for_others()
        for tail in list(self._tails):
            if tail is not self._tails[-1] or tail.is_marked:
                yield from self._records(tail)
        yield from self._drop_replaced()

    def close(self) -> None:
        """Close the files; a later `poll` would begin anew."""
        self._forget()
        self._log.close()

    def _forget(self) -> None:
        for tail in self._tails:
            tail.close()
        self._tails, self._segment, self._rotations = [], "", None

    # -- a folder --------------------------------------------------------------------------------------

    def _poll_folder(self) -> Iterator[ProjectedTelemetryRecord]:
        segments = [path for path in segments_in(self._path) if is_growing_segment(path.name)]
        newest = segments[-1] if segments else None
        if self._segment and (newest is None or segment_order(newest.name) < segment_order(self._segment)):
            self._forget()  # the newest one is never removed, so the folder was begun anew
        for tail in list(self._tails):
            if not tail.is_at(tail.path):
                tail.close()
                self._tails = [opened] if (opened := open_tail(tail.path)) else []
            elif tail.was_rewritten():
                tail.restart()
        for path in segments:
            if self._segment and segment_order(path.name) <= segment_order(self._segment):
                continue
            for tail in self._tails:  # whatever has a successor is complete
                yield from self._records(tail)
            complete, self._tails = self._tails, []
            for tail in complete:
                yield from self._end(tail)
            self._tails = [opened] if (opened := open_tail(path)) else []
            self._segment = path.name
        for tail in self._tails:
            yield from self._records(tail)

    # -- a file ----------------------------------------------------------------------------------------

    def _look_for_others(self) -> None:
        """Find what took the place of the present file, and what came and went since the last look."""
        if self._rotations is None:
            self._rotations = RotatedFiles(self._path)
        present = self._tails[-1] if self._tails else None
        if present is None or not present.is_at(self._path):
            newest = open_tail(self._path)
            if newest is None:  # not there yet, or just being replaced
                return
            if present is not None and present.was_rewritten():  # and then renamed
                present.restart()
            newest.pin_head()
            self._take_up([*self._rotations.since(present, newest), newest])
            return
        if present.was_rewritten():
            self._take_up([*self._rotations.since(present, present), self._tails.pop()])
            present.restart()
        if not present.is_marked:
            # First pinned, then looked around: so what is found in the meantime is older than what is read.
            present.pin_head()
            self._take_up([*self._rotations.since(present, present), self._tails.pop()])

    def _take_up(self, tails: list[Tail]) -> None:
        self._tails += tails
        for tail in self._tails[:-1]:
            if tail.replaced_ns is None:
                tail.replaced_ns = self._clock.monotonic_ns()

    def _drop_replaced(self) -> Iterator[ProjectedTelemetryRecord]:
        now = self._clock.monotonic_ns()
        for tail in self._tails[:-1]:
            if tail.replaced_ns is not None and now - tail.replaced_ns >= REPLACED_READ_SECONDS * 1e9:
                self._tails.remove(tail)
                yield from self._end(tail)

    # -- lines -----------------------------------------------------------------------------------------

    def _records(self, tail: Tail) -> Iterator[ProjectedTelemetryRecord]:
        for line in tail.lines():
            if (record := self._project(tail, line)) is not None:
                yield record

    def _end(self, tail: Tail) -> Iterator[ProjectedTelemetryRecord]:
        """Take the last line of a file that nobody writes any more, whole or not."""
        line = tail.remainder()
        tail.close()
        if line and (record := self._project(tail, line)) is not None:
            yield record

    def _project(self, tail: Tail, line: bytes) -> ProjectedTelemetryRecord | None:
        try:
            return project_line(line)
        except InvalidInputError as error:
            self._on_flaw(Flaw(str(tail.path), tail.number, str(error)))
            return None


_CHUNK_BYTES = 1024 * 1024
_MARK_BYTES = 4096
_HEAD_BYTES = 4096


class Tail:
    """Reads the lines of a file as they become whole.

    The position is always the end of a whole line, so a half-written one is read again. The bytes before it,
    the mark, come along with every read: where they are others, the file was written anew. At the beginning
    of the file the first line can be pinned instead.

    Args:
        path: The file.

    Attributes:
        path: The same.
        number: How many lines were read.
        replaced_ns: When another file took its place, by a monotonic clock; ``None`` before.

    Raises:
        OSError: If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self.replaced_ns: int | None = None
        self._stream = io.FileIO(path)
        self._offset = 0
        self._mark = self._pin = b""
        self._is_within_long_line = False

    @property
    def identity(self) -> tuple[int, int]:
        """What tells the file from others, whatever it is called."""
        status = os.fstat(self._stream.fileno())
        return (status.st_dev, status.st_ino)

    def is_at(self, path: Path) -> bool:
        """Return whether the file is called ``path``, or nothing is."""
        try:
            status = path.stat()
        except OSError:
            return True
        return self.identity == (status.st_dev, status.st_ino)

    @property
    def is_marked(self) -> bool:
        """Whether anything would tell what is read here from something in its place."""
        return bool(self._mark or self._pin)

    @property
    def pin(self) -> bytes:
        """The first line, where it was pinned and not read yet."""
        return self._pin

    def pin_head(self) -> None:
        """Pin the first line, if it is whole, at the beginning of the file."""
        head = self.head()
        if head.endswith(b"\n") or len(head) == _HEAD_BYTES:
            self._pin = head

    def head(self) -> bytes:
        """Return the first line, as far as it is written and not too long."""
        self._stream.seek(0)
        head = self._stream.read(_HEAD_BYTES)
        return head[: head.find(b"\n") + 1] or head

    def was_rewritten(self) -> bool:
        """Return whether what was read is no longer there."""
        return self._read(0) is None

    def continues_in(self, other: Tail) -> bool:
        """Return whether another file holds what was read of this one, at the same place."""
        if not self.is_marked:
            return False
        other.resume(self)
        found = not other.was_rewritten()
        if not found:
            other.restart()
        return found

    def resume(self, other: Tail) -> None:
        """Go on where another one is."""
        self._offset, self._mark, self._pin, self.number = (
            other._offset,
            other._mark,
            other._pin,
            other.number,
        )

    def restart(self) -> None:
        """Go back to the beginning."""
        self._offset, self.number, self._is_within_long_line = 0, 0, False
        self._mark = self._pin = b""

    def lines(self) -> Iterator[bytes]:
        """Yield the lines that have become whole; none any more where the file was written anew.

        Raises:
            InvalidInputError: If the file is packed with gzip.
            OutputError: If it cannot be read.
        """
        size = _CHUNK_BYTES
        while (chunk := self._read(size)) is not None:
            if self._offset == 0 and chunk.startswith(GZIP):
                raise InvalidInputError(f"{str(self.path)!r} is packed with gzip, and cannot be followed")
            end = chunk.rfind(b"\n") + 1
            if end:
                yield from self._advance(chunk[:end])
            elif len(chunk) > MAX_LINE_BYTES:
                yield from self._skip(chunk)
            elif len(chunk) >= size:
                size *= 2
            else:
                return

    def remainder(self) -> bytes:
        """Return the half-written line at the end, and consider it read."""
        chunk = self._read(MAX_LINE_BYTES) or b""
        if chunk:
            self._move(chunk)
        return chunk

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _read(self, size: int) -> bytes | None:
        """Return some ``size`` bytes from the position on; ``None`` where the mark or the pin is gone.

        Raises:
            OutputError: If the system refuses it.
        """
        # In one read, so that nobody can write the file anew between the mark and the rest.
        try:
            self._stream.seek(self._offset - len(self._mark))
            data = self._stream.read(len(self._mark) + max(size, len(self._pin)))
        except OSError as error:
            raise cannot_read(self.path, error) from error
        return data[len(self._mark) :] if data.startswith(self._mark + self._pin) else None

    def _advance(self, chunk: bytes) -> Iterator[bytes]:
        begin = 0
        while begin < len(chunk):
            end = chunk.index(b"\n", begin) + 1
            line = chunk[begin:end]
            begin = end
            was_within = self._is_within_long_line
            self._move(line)
            if not was_within:
                # Whoever writes on at the old place of a file that was truncated leaves zeros before it.
                yield line.lstrip(b"\0")

    def _skip(self, chunk: bytes) -> Iterator[bytes]:
        was_within = self._is_within_long_line
        self._move(chunk)
        self._is_within_long_line = True
        if not was_within:
            yield chunk

    def _move(self, read: bytes) -> None:
        self._offset += len(read)
        self._pin = b""
        self._mark = (self._mark + read[-_MARK_BYTES:])[-_MARK_BYTES:]
        if not self._is_within_long_line:
            self.number += 1
        if read.endswith(b"\n"):
            self._is_within_long_line = False


def open_tail(path: Path) -> Tail | None:
    """Open a file; ``None`` where it is not there, or just being replaced.

    Raises:
        OutputError: If the system refuses it.
    """
    try:
        return Tail(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_read(path, error) from error


_TRIES = 100
"""How often to look at a folder that changes all the time."""


class _Known(NamedTuple):
    """A file that was there before.

    Attributes:
        identity: What the system tells it by; a file that is deleted may leave it to a new one.
        head: The first line, as far as it had been written.
    """

    identity: tuple[int, int]
    head: bytes

    def is_same(self, tail: Tail) -> bool:
        head = tail.head()
        if head.endswith(b"\n") and head == self.head:
            return True
        return tail.identity == self.identity and head.startswith(self.head)


class RotatedFiles:
    """The rotated files beside a file.

    Args:
        path: The file; what was rotated before is known from now on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pattern = re.compile(re.escape(path.name) + r"\.(\d{1,9})")
        self._known: _Known | None = None
        tails = self._files()
        if tails:
            self._known = _Known(tails[0].identity, tails[0].head())
        _close(tails)

    def since(self, before: Tail | None, present: Tail) -> list[Tail]:
        """Open what was rotated away since the last look, oldest first.

        Args:
            before: What was the present file at the last look; it is not opened again.
            present: What is now. Where it is the same file, and was truncated, a copy of what it held goes on
                where the reading was.
        """
        tails = self._files()
        found: list[Tail] = []
        newest: _Known | None = None
        for tail in tails:
            if not tail.head():  # empty, or its copying has just begun
                continue
            if _is_of(tail, present):
                # It is rotated just now. What is newer still is for the next look.
                _close(found)
                found, newest = [], None
                continue
            newest = newest or _Known(tail.identity, tail.head())
            if before is not None and tail.identity == before.identity:
                break
            if before is present and present.continues_in(tail):
                found.append(tail)
                break
            if self._known is not None and self._known.is_same(tail):
                break
            found.append(tail)
        self._known = newest or self._known
        _close(tail for tail in tails if tail not in found)
        return found[::-1]

    def _files(self) -> list[Tail]:
        """Open the rotated files, the newest first."""
        for _ in range(_TRIES):
            names = self._names()
            tails = [tail for _, name, _ in names if (tail := open_tail(self._path.with_name(name)))]
            # Somebody may be renaming them, and a folder that changes while it is read hides some of it.
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


def _is_of(tail: Tail, present: Tail) -> bool:
    """Return whether a rotated file is the present one, or a copy of what that holds."""
    # The copy was opened first: if the present file is truncated in between, it is a copy of the past.
    return tail.identity == present.identity or tail.head() in (present.pin, present.head())


def _close(tails: Iterable[Tail]) -> None:
    for tail in tails:
        tail.close()
