"""Atomic file writing: a file gets its final name only when all of its content is on the disk.

`AtomicFile.publish` links: it refuses a name that is already used. `AtomicFile.replace` and `replace_file`
rename: they replace the file that has the name. A killed writer leaves at most a file with a temporary name,
which `remove_leftovers` removes. `read_file` reads a whole file, but neither a pipe nor more than a limit.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self
from uuid import uuid4

from metrics_framework.errors import OutputError, reason_of

if sys.platform != "win32":
    import fcntl

_CHUNK_BYTES = 1 << 20
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
        content: The whole content, also in parts.
        mode: The permissions, before the umask.

    Raises:
        OSError: If the disk refuses the file. Nothing is left behind.
    """

    def __init__(self, folder: Path, content: bytes | Iterable[bytes], mode: int = 0o666) -> None:
        self._folder = folder
        descriptor, self._temporary = self._open(mode)
        self._file = open(descriptor, "wb")  # noqa: PTH123, SIM115 - a descriptor has no path; closed by the block
        try:
            self._file.writelines((content,) if isinstance(content, bytes) else content)
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

    def adopt_permissions(self, path: Path) -> None:
        """Take over the permissions and the group of another file, if it exists and the system allows it."""
        if sys.platform == "win32":
            return
        with suppress(OSError):
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                with suppress(OSError):  # a group of which this user is not a member
                    os.fchown(self._file.fileno(), -1, status.st_gid)
                os.fchmod(self._file.fileno(), stat.S_IMODE(status.st_mode) & 0o777)

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


def read_file(path: Path, max_bytes: int, *, pipe: bool = True) -> bytes:
    """Return the content of a file.

    Args:
        path: The file.
        max_bytes: The largest size.
        pipe: Whether it may be a pipe or a terminal, such as ``/dev/stdin``, which blocks until its end.

    Raises:
        OSError: If it cannot be read, is larger, or is not a regular file and ``pipe`` is false.
        ValueError: If the path contains a null character.
    """
    with open(open_file(path, pipe=pipe), "rb", buffering=0) as file:
        content = bytearray()
        while chunk := file.read(min(max_bytes + 1 - len(content), _CHUNK_BYTES)):
            content += chunk
            if len(content) > max_bytes:
                raise OSError(errno.EFBIG, f"it has more than {max_bytes} bytes")
    return bytes(content)


def open_file(path: Path, *, pipe: bool = False) -> int:
    """Return a descriptor for reading.

    Args:
        path: The file.
        pipe: Whether it may be something else than a regular file.

    Raises:
        OSError: If it cannot be opened or is not a regular file.
        ValueError: If the path contains a null character.
    """
    # Without O_NONBLOCK, opening a FIFO would block until a process writes to it.
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | (0 if pipe else getattr(os, "O_NONBLOCK", 0))
    descriptor = os.open(path, flags)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or (pipe and not stat.S_ISDIR(mode)):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "it is not a regular file")


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in place of the one that exists.

    The new file has the permissions and the group of the old one; if there was none, its owner may write it
    and everybody may read it, as far as the umask allows. A symbolic link is followed, and stays.

    Raises:
        OutputError: If the disk refuses the file. The old file is unchanged.
    """
    try:
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        with AtomicFile(target.parent, content, 0o644) as file:
            file.adopt_permissions(target)
            file.replace(target)
    except (OSError, ValueError) as error:  # ValueError: the path contains a null character
        raise OutputError(f"cannot write {str(path)!r}: {reason_of(error)}") from error


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files of killed writers.

    Returns:
        The paths with the name of such a file that are not regular files, such as a FIFO. They are kept.
    """
    found = list(folder.glob(_TEMPORARY_NAME.format("*")))
    strange = [path for path in found if os.path.lexists(path) and (path.is_symlink() or not path.is_file())]
    for path in found:
        if path not in strange:
            remove_abandoned(path)
    return [path for path in strange if os.path.lexists(path)]


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
        descriptor = open_file(path)
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
