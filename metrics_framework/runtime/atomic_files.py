"""Atomic file writing: a file gets its final name only when all of its content is on the disk.

`AtomicFile.publish` links: it refuses a name that is already used. `AtomicFile.replace` and `replace_file`
rename: they replace the file that has the name. A killed writer leaves at most a file with a temporary name,
which `remove_leftovers` removes.
"""

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

_TEMPORARY_NAME = ".writing-{}.tmp"
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_FOLDER_FLUSH = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class AtomicFile:
    """A file that is written and flushed to the disk, and has a temporary name.

    Use it in a ``with`` block, and call `publish` or `replace` there. Until the end of the block the file is
    locked, also under its final name, which shows that its writer is alive. The block removes the temporary
    name.

    Args:
        folder: An existing folder.
        content: The whole content.
        mode: The permissions, before the umask.

    Raises:
        OSError: If the disk refuses the file. Nothing is left behind.
    """

    def __init__(self, folder: Path, content: bytes, mode: int = 0o666) -> None:
        self._folder = folder
        descriptor, self._temporary = self._open(mode)
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
        """Give the file a final name, unless another file has it.

        Returns:
            Whether the name was free. An existing file is never overwritten.
        """
        try:
            os.link(self._temporary, path)  # unlike a rename, a link refuses a name that is used
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if os.path.lexists(path):
                return False
            self._temporary.rename(path)
        return True

    def replace(self, path: Path) -> None:
        """Give the file a final name. It replaces the file that has the name."""
        if sys.platform == "win32":
            self._file.close()  # Windows does not rename an open file
        self._temporary.replace(path)

    def _open(self, mode: int) -> tuple[int, Path]:
        while True:
            path = self._folder / _TEMPORARY_NAME.format(uuid4().hex)
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
            # On a file system without locks, `remove_abandoned` cannot lock a file either and keeps it.
            with suppress(OSError):
                _lock(descriptor, wait=True)
            # Before it was locked, another writer may have removed the file as a leftover.
            if path.exists():
                return descriptor, path
            os.close(descriptor)

    def _discard(self) -> None:
        # Closing flushes again what a full disk refused, and fails again. Windows cannot remove an open file.
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink()


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in place of the one that exists; only its owner may write to it.

    Raises:
        OutputError: If the disk refuses the file. The old file is unchanged.
    """
    try:
        with AtomicFile(path.parent, content, 0o644) as file:
            file.replace(path)
    except (OSError, ValueError) as error:  # ValueError: the path contains a null character
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise OutputError(f"cannot write {str(path)!r}: {reason}") from error


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed writers."""
    for path in folder.glob(_TEMPORARY_NAME.format("*")):
        remove_abandoned(path)


def remove_abandoned(path: Path, unless: Path | None = None) -> None:
    """Remove a file, unless its writer is alive.

    Args:
        path: The file. It is kept if it cannot be removed.
        unless: Keep the file if this one exists. This is checked after the file is locked, when a
            writer can no longer create it.
    """
    # An OSError means that the file is open in another writer, or already removed.
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
    """Flush the names in a folder to the disk, if the file system can.

    Raises:
        OSError: If the disk fails.
    """
    if sys.platform == "win32":
        return  # Windows cannot flush folders
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FLUSH:
            raise
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> None:
    """Lock an open file until it is closed, also by the end of the process.

    Raises:
        BlockingIOError: If another process holds the lock and ``wait`` is false.
    """
    if sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
