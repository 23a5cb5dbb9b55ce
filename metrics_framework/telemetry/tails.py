"""One file that is being written, and how far it has been read."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

from metrics_framework.errors import InvalidInputError
from metrics_framework.telemetry.manifests import cannot_read
from metrics_framework.telemetry.reading import GZIP, MAX_LINE_BYTES

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
