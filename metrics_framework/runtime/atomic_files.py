"""Files on their way to their final names: what bears one is whole, whatever happens while it is written."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self
from uuid import uuid4

from metrics_framework.errors import OutputError

if sys.platform != "win32":
    import fcntl

_TEMPORARY = ".writing-{}.tmp"
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_FOLDER_FLUSH = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class AtomicFile:
    """A file that is on the disk and has no final name yet.

    It is locked until the end of its ``with`` block, under a final name as well: that shows that its writer
    lives. A writer that is killed leaves at most the temporary name.

    Args:
        folder: Where it is; the folder exists.
        content: All of it.

    Raises:
        OSError: If the disk refuses; nothing is left then.
    """

    def __init__(self, folder: Path, content: bytes) -> None:
        self._folder = folder
        descriptor, self._temporary = self._open()
        self._file = open(descriptor, "wb")  # noqa: PTH123, SIM115 - a descriptor has no path; closed by the block
        try:
            self._file.write(content)
            self._file.flush()
            os.fsync(descriptor)
        except BaseException:
            self._discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._discard()

    def publish(self, path: Path) -> bool:
        """Give it a final name.

        Returns:
            Whether the name was free; one that is taken is never overwritten.
        """
        try:
            os.link(self._temporary, path)  # unlike a rename it refuses a name that is taken
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if os.path.lexists(path):
                return False
            self._temporary.rename(path)
        return True

    def _open(self) -> tuple[int, Path]:
        while True:
            path = self._folder / _TEMPORARY.format(uuid4().hex)
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            # A file system without locks protects nothing from being removed either: nobody gets the lock.
            with suppress(OSError):
                _lock(descriptor, wait=True)
            # Between its making and its locking another writer may have taken it for a leftover.
            if path.exists():
                return descriptor, path
            os.close(descriptor)

    def _discard(self) -> None:
        # Closing flushes what a full disk refused before, and fails again. Windows removes no open file.
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed left under temporary names."""
    for path in folder.glob(_TEMPORARY.format("*")):
        remove_abandoned(path)


def remove_abandoned(path: Path, unless: Path | None = None) -> None:
    """Remove a file whose writer does not live any more.

    Args:
        path: The file; what cannot be removed is left alone.
        unless: A file whose existence saves it, looked for when no writer can make it any more.
    """
    # An OSError says that another writer has it open, or was faster to remove it.
    with suppress(OSError):
        if sys.platform == "win32":
            if unless is None or not unless.exists():
                path.unlink()  # which Windows refuses while the file is open
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            _lock(descriptor, wait=False)
            if unless is None or not unless.exists():
                path.unlink()
        finally:
            os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the file system can.

    Raises:
        OSError: If the disk refuses.
    """
    if sys.platform == "win32":
        return  # folders cannot be flushed there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FLUSH:
            raise
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> None:
    """Lock an open file until it is closed, by whatever ends the process.

    Raises:
        BlockingIOError: If another process has it locked and ``wait`` is false.
    """
    if sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in place of the one that is there.

    It is written under a hidden name beside it first, which a process that is killed meanwhile leaves there.

    Raises:
        OutputError: If the disk refuses; the old file is still there then.
    """
    temporary = path.with_name(f".{uuid4().hex}.tmp")
    try:
        try:
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # a ValueError for a path that no system can have
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise OutputError(f"cannot write {str(path)!r}: {reason}") from error
