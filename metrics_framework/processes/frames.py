"""Frames: the unit in which workers write their files, with a checksum that reveals damage.

A frame is a header (magic, version, length and CRC-32 of the content) and a content: a list of items in
JSON. A kill in the middle of a write, a full disk or a bad block damages a frame. A reader uses all frames
before the first bad one, and none after it: a worker writes its file again if one of its frames is cut. In a
file that several workers append to, the reader skips damaged frames.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

VERSION = 1
"""The version of the items. Files of other versions are skipped."""

MAX_FRAME_BYTES = 64 << 20
"""A frame of more bytes is damaged."""

_HEADER = struct.Struct("<4sIII")
_MAGIC = b"MFfr"
_ITEMS_PER_FRAME = 2_000


def pack(items: Iterable[Any]) -> Iterator[bytes]:
    """Yield items in frames."""
    some: list[Any] = []
    for item in items:
        some.append(item)
        if len(some) >= _ITEMS_PER_FRAME:
            yield _frame(some)
            some = []
    if some:
        yield _frame(some)


def _frame(items: list[Any]) -> bytes:
    content = json.dumps(items, separators=(",", ":")).encode()
    return _HEADER.pack(_MAGIC, VERSION, len(content), zlib.crc32(content)) + content


class FrameReader:
    """Reads the frames of a file that another process appends to, and those of a file that replaces it.

    Args:
        path: The file, which need not exist.
        skips_damage: Whether frames after a bad one count.

    Attributes:
        fault: The fault of the first bad frame; ``None`` without one.
    """

    def __init__(self, path: Path, *, skips_damage: bool = False) -> None:
        self.path = path
        self._skips_damage = skips_damage
        self.fault: str | None = None
        self._status: tuple[int, ...] = ()
        self._first = b""
        self._offset = 0

    def poll(self) -> tuple[bool, list[Any]]:
        """Return the items that were added since the last call.

        Returns:
            Whether the file was replaced, so that earlier items no longer count; and the items.

        Raises:
            OSError: If the file cannot be read. The next call tries again.
        """
        if _status(self.path.stat()) == self._status:
            return False, []
        with self.path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            first = file.read(_HEADER.size)
            # The first header has a checksum: unlike the number of the file, no later file has the same one.
            is_replaced = first != self._first or status.st_size < self._offset
            offset = 0 if is_replaced else self._offset
            file.seek(offset)
            content = file.readall()
        items, used, self.fault = (_unpack_good if self._skips_damage else _unpack)(content)
        self._status, self._first, self._offset = _status(status), first, offset + used
        return is_replaced, items

    def restart(self) -> None:
        """Read the file from its start at the next call, as if it was replaced."""
        self._status, self._first, self._offset = (), b"", 0


def _status(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _unpack(content: bytes) -> tuple[list[Any], int, str | None]:
    """Return the items of the frames up to a bad one, their length, and the fault of the bad one."""
    items: list[Any] = []
    offset = 0
    while offset < len(content):
        if offset + _HEADER.size > len(content):
            return items, offset, "the last frame is cut"
        magic, version, length, checksum = _HEADER.unpack_from(content, offset)
        if magic != _MAGIC:
            return items, offset, "a frame does not begin with its magic bytes"
        if version != VERSION:
            return (
                items,
                offset,
                f"its frames have version {version}, and this library reads version {VERSION}",
            )
        start = offset + _HEADER.size
        if length > MAX_FRAME_BYTES or start + length > len(content):
            return items, offset, "the last frame is cut"
        part = content[start : start + length]
        if zlib.crc32(part) != checksum:
            return items, offset, "the checksum of a frame is wrong"
        try:
            items += json.loads(part)
        except (ValueError, TypeError, RecursionError):
            return items, offset, "a frame is not a list in JSON"
        offset = start + length
    return items, offset, None


def _unpack_good(content: bytes) -> tuple[list[Any], int, str | None]:
    """Return what `_unpack` returns, with the frames after each bad one.

    The last bad frame may be one that another process is still writing, so the next read begins with it.
    """
    items, used, fault = _unpack(content)
    begin = used
    while fault is not None and (begin := content.find(_MAGIC, begin + 1)) >= 0:
        more, length, next_fault = _unpack(content[begin:])
        if length:
            items += more
            used = begin = begin + length
            fault = next_fault
    return items, used, fault


class _Descriptor:
    """An open file. The reference of a thread that writes keeps it open, so that its number is not reused."""

    def __init__(self, path: Path, flags: int) -> None:
        self.number = os.open(path, flags | os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self.number)


class FrameFile:
    """A file that this process appends frames to. Several threads may use it at the same time.

    Args:
        path: The file. It is created, or emptied.

    Raises:
        OSError: If it cannot be created.

    Attributes:
        size: Its size in bytes.
        is_broken: Whether a frame in it is cut or missing, so that it must be written again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.is_broken = False
        self._open = _Descriptor(path, os.O_TRUNC)

    def append(self, items: Iterable[Any]) -> None:
        """Append items.

        Raises:
            OSError: If the disk refuses a frame.
        """
        opened = self._open
        for frame in pack(items):
            try:
                written = os.write(opened.number, frame)  # one call, so that frames never mix
            except OSError:
                self.is_broken = True
                raise
            self.size += written
            if written < len(frame):
                self.is_broken = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def replace(self, items: Iterable[Any]) -> None:
        """Replace the file with one that has some items only. Readers see the old one or the new one.

        Raises:
            OSError: If the disk refuses it. The old file stays.
        """
        file = write_file(self.path, items)
        self._open, self.size, self.is_broken = file._open, file.size, False


def write_file(path: Path, items: Iterable[Any]) -> FrameFile:
    """Write items to a file in place of the one that has the name, in one step, and return it.

    Unlike an `AtomicFile` it is not flushed to the disk, because no group outlives a reboot, and it stays
    open for more items.

    Raises:
        OSError: If the disk refuses it. The old file stays.
    """
    file = FrameFile(path.with_name(f"{path.name}.{os.getpid()}.new"))
    try:
        file.append(items)
        file.path.replace(path)
    except BaseException:
        with suppress(OSError):
            file.path.unlink()
        raise
    file.path = path
    return file


def append_to(path: Path, items: Sequence[Any]) -> None:
    """Append items to a file that other processes append to and replace as well.

    Raises:
        OSError: If the disk refuses it.
    """
    while True:
        opened = _Descriptor(path, 0)
        for frame in pack(items):
            if os.write(opened.number, frame) < len(frame):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(opened.number), path.stat()):
                return  # otherwise it was replaced in the meantime, perhaps without these items
