"""The snapshot writer: a file that bears its final name is whole, whatever happens while it is written."""

from __future__ import annotations

import errno
import os
import re
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path
from uuid import uuid4

from metrics_framework.errors import OutputError
from metrics_framework.snapshots import PerformanceSnapshot, dump_snapshot

if sys.platform != "win32":
    import fcntl

DEFAULT_FOLDER = "snapshots"

_TEMPORARY = ".writing-{}.tmp"
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_FOLDER_FLUSH = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class SnapshotWriter:
    """Writes snapshots into a folder, each into a file of its own, and never overwrites one.

    A file is written under a temporary name, flushed to the disk, and only then given its final name; then
    the folder is flushed. A process that is killed leaves at most a temporary file, which the next write
    removes.

    Args:
        folder: Where the files go; it is made when the first one is written.
    """

    name = "snapshot_writer"

    def __init__(self, folder: str | Path = DEFAULT_FOLDER) -> None:
        self.folder = Path(folder)

    def write(self, snapshot: PerformanceSnapshot) -> Path:
        """Write a snapshot.

        Returns:
            The path of the new file: its name begins with the snapshot's time, so that names sort by age.

        Raises:
            OutputError: If the disk refuses; no file bears a final name then.
        """
        content = dump_snapshot(snapshot).encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            descriptor, temporary = self._open_temporary()
            try:
                with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
                    file.write(content)
                    file.flush()
                    os.fsync(descriptor)
                    path = self._give_final_name(temporary, _stem(snapshot))
            finally:
                temporary.unlink(missing_ok=True)
            try:
                self._flush_folder()
            except OSError:
                path.unlink(missing_ok=True)  # who is told of an error may write it again
                raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"cannot write a snapshot into {str(self.folder)!r}: {reason}") from error
        return path

    def _open_temporary(self) -> tuple[int, Path]:
        """Open a new file, locked for as long as it is open, which shows that its writer lives."""
        while True:
            path = self.folder / _TEMPORARY.format(uuid4().hex)
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            # A file system without locks protects nothing from being removed either: nobody gets the lock.
            with suppress(OSError):
                _lock(descriptor, wait=True)
            # Between its making and its locking another writer may have taken it for a leftover.
            if path.exists():
                return descriptor, path
            os.close(descriptor)

    def _give_final_name(self, temporary: Path, stem: str) -> Path:
        """Name a finished file; a name that is taken gets a number."""
        for number in count(1):
            path = self.folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
            try:
                os.link(temporary, path)  # unlike a rename it refuses a name that is taken
            except FileExistsError:
                continue
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                if path.exists():
                    continue
                temporary.rename(path)
            return path
        raise AssertionError("the numbers have no end")

    def _remove_leftovers(self) -> None:
        for path in self.folder.glob(_TEMPORARY.format("*")):
            # An OSError says that another writer has it open, or was faster to remove it.
            with suppress(OSError):
                if sys.platform == "win32":
                    path.unlink()  # which Windows refuses while the file is open
                    continue
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    _lock(descriptor, wait=False)
                    path.unlink()
                finally:
                    os.close(descriptor)

    def _flush_folder(self) -> None:
        if sys.platform == "win32":
            return  # folders cannot be flushed there
        descriptor = os.open(self.folder, os.O_RDONLY)
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


def _stem(snapshot: PerformanceSnapshot) -> str:
    """Return a file name without its ending: the time in UTC, of fixed width, and the start of the run id."""
    moment = snapshot.metadata.timestamp.isoformat(timespec="microseconds")[
        : len("2026-01-01T10:00:00.000000")
    ]
    run = re.sub(r"[^0-9A-Za-z]", "", snapshot.metadata.run_id)[:8] or "run"
    return f"{re.sub('[-:]', '', moment)}Z-{run}"
