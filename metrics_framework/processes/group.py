"""The group of worker processes that share their numbers: its folder, members, locks and elected worker.

A group belongs to the process that started its workers, such as gunicorn's master. Each worker keeps its
files in the folder of the group. This module does not read them: it knows only that the name of a
file begins with the process that writes it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import NamedTuple

from metrics_framework.errors import InvalidInputError
from metrics_framework.runtime.boot import boot_id
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork
from metrics_framework.validation import safe_repr

if sys.platform != "win32":
    import fcntl

MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - `default_root` checks the folder that it creates there
"""A folder in memory that all users may write in, where the system has one."""

KEY_VARIABLE = "METRICS_FRAMEWORK_SHARED_KEY"
"""The environment variable that hands the key of a group down to child processes, or sets it."""

LOCK_SECONDS = 1.0
"""How long a process waits for the lock of a group at most, for example while its holder is stopped."""

STALE_SECONDS = 24 * 3600.0
"""The age of its last sign of life at which a group is removed whose processes cannot be seen from here."""

SIGN_OF_LIFE_SECONDS = 60.0
"""How often a worker gives a sign of life."""

_FORKED_WITHOUT_EXEC = 0x40
"""Linux sets this flag, PF_FORKNOEXEC, for a process that runs the program of its parent."""

_NAMED_KEY = r"[A-Za-z][A-Za-z0-9_.-]{0,99}"
_PROCESS = r"([0-9]{1,10})-([0-9]{1,20})"
_INHERITED_KEY = re.compile(rf"(?P<setter>{_PROCESS}):(?P<key>{_PROCESS}|{_NAMED_KEY})")
_GROUP_FOLDER = re.compile(rf"(?P<host>[0-9]+-[0-9a-f]+)-(?P<key>{_PROCESS}|{_NAMED_KEY})(_[0-9]+)?")


# -- processes -------------------------------------------------------------------------------------------


class Process(NamedTuple):
    """A process, told apart from another one that gets the same process id later.

    Attributes:
        pid: The process id.
        start: When it started: clock ticks since the boot on Linux, hundredths of a second since the epoch
            elsewhere.
    """

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the process that has an id now; ``None`` if there is none, or if it has ended."""
        try:
            found = _status(pid)
        except OSError:
            return None
        return None if found is None else cls(pid, found.start)

    @classmethod
    def parse(cls, text: str) -> Process | None:
        """Return the process that a text, such as the name of a file, begins with; ``None`` without one."""
        found = re.match(rf"{_PROCESS}(?![0-9])", text)
        return None if found is None else cls(int(found[1]), int(found[2]))

    @property
    def is_alive(self) -> bool:
        """Whether it runs or is stopped. A process that was killed and not waited for yet is not alive."""
        try:
            found = _status(self.pid)
        except (
            OSError
        ):  # this process has too many open files, for example: that says nothing about the other
            return _has_process(self.pid)
        return found is not None and found.start == self.start

    def __str__(self) -> str:
        return f"{self.pid}-{self.start}"


class _Status(NamedTuple):
    start: int
    parent: int
    session: int
    is_forked: bool  # it runs the program of its parent


def _status(pid: int) -> _Status | None:
    """Return the status of a living process; ``None`` if it is not alive.

    Raises:
        OSError: If the system does not tell.
    """
    if sys.platform != "linux":
        return _portable_status(pid)
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - called for each worker at each scrape
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if _has_proc() else _unseen_status(pid)
    if len(fields) < 20 or fields[0] in (b"Z", b"X", b"x"):
        return None
    start, parent, session, flags = (int(fields[number]) for number in (19, 1, 3, 6))
    return _Status(start, parent, session, bool(flags & _FORKED_WITHOUT_EXEC))


@cache
def _has_proc() -> bool:
    return Path("/proc/self/stat").exists()


def _unseen_status(pid: int) -> _Status | None:
    """Return the status of a living process without /proc, which is little more than its id."""
    if not _has_process(pid):
        return None
    return _Status(0, os.getppid() if pid == os.getpid() else 0, 0, False)


def _has_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        pass
    return True


def _has_forked_child() -> bool:
    """Return whether a child of this process runs its program, as far as the system tells.

    It may be a worker that has not joined yet.
    """
    for file in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended, or the child
            children = map(int, file.read_text(encoding="ascii").split())
            if any(found.is_forked for found in map(_status, children) if found is not None):
                return True
    return False


def _portable_status(pid: int) -> _Status | None:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        parent = process.ppid()
        try:
            is_forked = process.cmdline() == psutil.Process(parent).cmdline()
        except psutil.Error:
            is_forked = False
        return _Status(round(process.create_time() * 100), parent, 0, is_forked)
    except psutil.Error:
        return None


def _runs_same_program(status: _Status) -> bool:
    """Return whether the parent of this process runs its executable, as far as the system tells.

    Args:
        status: The status of this process.
    """
    if sys.platform != "linux":
        return True
    try:
        own = Path("/proc/self/exe").readlink()
        return own == Path(f"/proc/{status.parent}/exe").readlink()
    except PermissionError:  # this process has changed its user, like a worker of a gunicorn that root starts
        parent = _status(status.parent)
        return parent is not None and parent.session == status.session
    except OSError:
        return False


def _is_ancestor(process: Process) -> bool:
    """Return whether a process is this one, or started it, directly or not, and is alive."""
    pid = os.getpid()
    while pid > 0 and (found := _status(pid)) is not None:
        if process == (pid, found.start):
            return True
        pid = found.parent
    return False


def _this_process() -> Process:
    return Process.of(os.getpid()) or Process(os.getpid(), 0)


# -- the key ---------------------------------------------------------------------------------------------


def find_key(environ: MutableMapping[str, str]) -> str:
    """Return the key of the group of this process, and hand it down to child processes.

    It is, in this order: the value of `KEY_VARIABLE`, if an application set it, or if this process or one
    that started it did; the process that started this one with multiprocessing, or by a fork; this process.

    Args:
        environ: The environment. `KEY_VARIABLE` is set in it.

    Raises:
        InvalidInputError: If the variable was set to something else than a key.
    """
    text = environ.get(KEY_VARIABLE, "")
    inherited = _INHERITED_KEY.fullmatch(text)
    if inherited is not None:
        setter = Process.parse(inherited["setter"])
        if setter is not None and _is_ancestor(setter):
            return _hand_down(environ, _this_process(), inherited["key"])
    elif text:
        if re.fullmatch(_NAMED_KEY, text) is None:
            raise InvalidInputError(
                f"{KEY_VARIABLE}={safe_repr(text)} is not the name of a group of processes: use a letter, and"
                " up to 99 more letters, digits, dots, dashes and underscores, like shop-web"
            )
        return text
    me = _this_process()
    return _hand_down(environ, me, str(_starter() or me))


def _hand_down(environ: MutableMapping[str, str], process: Process, key: str) -> str:
    """Hand the key of a group down to the children of a process, and return it.

    Each worker does it itself: a daemon is not a descendant of the process that created its system.
    """
    environ[KEY_VARIABLE] = f"{process}:{key}"
    return key


def _starter() -> Process | None:
    """Return the process of which this one is a worker; ``None`` if it is a program of its own."""
    # Not imported for this: a process that multiprocessing started has imported it.
    multiprocessing = sys.modules.get("multiprocessing.process")
    started_by = multiprocessing.parent_process() if multiprocessing is not None else None
    if started_by is not None and (starter := Process.of(started_by.pid)) is not None:
        return starter
    status = _status(os.getpid())
    # The parent of an orphan is the init process, which runs another program.
    if status is None or not status.is_forked or not _runs_same_program(status):
        return None
    return Process.of(status.parent)


# -- folders ---------------------------------------------------------------------------------------------


@cache
def _host() -> str:
    """Return what tells process ids apart that mean different processes: the pid namespace and the boot."""
    namespace = 0
    with suppress(OSError):
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    return f"{namespace}-{(boot_id() or '0').partition('-')[0]}"


def default_root() -> Path:
    """Return the folder of the groups of this user: in memory where possible, else among temporary files.

    Raises:
        OSError: If it cannot be created, or if another user may change it.
    """
    name = f"metrics-framework-{os.geteuid() if sys.platform != 'win32' else 0}"
    first_error: OSError | None = None
    for parent in (MEMORY_FOLDER, Path(tempfile.gettempdir())):
        root = parent / name
        try:
            if not parent.is_dir():
                continue
            root.mkdir(mode=0o700, exist_ok=True)
            status = root.lstat()
            is_private = stat.S_ISDIR(status.st_mode) and not stat.S_IMODE(status.st_mode) & 0o022
            if not is_private or (sys.platform != "win32" and status.st_uid != os.geteuid()):
                raise PermissionError(f"{str(root)!r} may be changed by other users")
            if not os.access(root, os.W_OK | os.X_OK):
                raise PermissionError(f"{str(root)!r} is not writable")
            return root
        except OSError as error:
            first_error = first_error or error
    raise first_error or FileNotFoundError(tempfile.gettempdir())


def remove_old_groups(root: Path) -> None:
    """Remove the folders of groups whose processes have all ended.

    A group of another container or another machine is removed a day after its last sign of life. Errors are
    ignored: the next process tries again.
    """
    with suppress(OSError):
        for folder in list(root.iterdir()):
            name = _GROUP_FOLDER.fullmatch(folder.name)
            with suppress(OSError):
                if name is not None and folder not in _open_folders and _is_old(folder, name):
                    shutil.rmtree(folder, ignore_errors=True)


def _is_old(folder: Path, name: re.Match[str]) -> bool:
    if name["host"] == _host() and (starter := _process_of(name["key"])) is not None:
        return not starter.is_alive and not any(each.is_alive for each in _owners(folder))
    # Its processes cannot be seen from here, or others may join it at any time.
    signs = [each.stat().st_mtime for each in (folder, folder / "lock") if each.exists()]
    return time.time() - max(signs) > STALE_SECONDS


def _process_of(key: str) -> Process | None:
    """Return the process that a key names; ``None`` if the application set the key."""
    return Process.parse(key) if re.fullmatch(_PROCESS, key) else None


def _owners(folder: Path) -> set[Process]:
    """Return the processes that own files of a folder."""
    with suppress(OSError):
        return {owner for path in folder.iterdir() if (owner := Process.parse(path.name))}
    return set()


# -- locks -----------------------------------------------------------------------------------------------


class FileLock:
    """A lock between processes that no child inherits, and that ends with its process.

    It is a POSIX record lock. Those belong to a process and a file: any other descriptor of the file in this
    process would free the lock when it is closed, so nothing else may open it.

    Args:
        path: The file, which is created.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin()
        # A child has no locks of its parent, and a thread of the parent may hold the lock between threads.
        reset_after_fork(self, FileLock._begin_in_child, ForkOrder.LOCKS)

    def _begin(self) -> None:
        self._descriptor: int | None = None
        self._threads = threading.Lock()

    def _begin_in_child(self) -> None:
        self.close()
        self._begin()

    def close(self) -> None:
        """Free the lock and close the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)

    def acquire(self) -> bool:
        """Take the lock if no other process has it; return whether it was free. Never blocks.

        The same process can take it any number of times.
        """
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            if sys.platform != "win32":
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process has it, or the folder is gone
            return False
        return True

    @contextmanager
    def held(self, timeout: float = LOCK_SECONDS) -> Iterator[bool]:
        """Hold the lock against other threads and processes in a block.

        Args:
            timeout: How long to wait for it, in seconds; 0 never blocks.

        Yields:
            Whether the lock is held.
        """
        end = time.monotonic() + timeout
        threads = self._threads
        if not threads.acquire(timeout=timeout) if timeout > 0 else not threads.acquire(blocking=False):
            yield False
            return
        try:
            pause = 0.001
            while not (is_held := self.acquire()) and time.monotonic() + pause < end:
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
            try:
                yield is_held
            finally:
                if is_held and self._descriptor is not None and sys.platform != "win32":
                    with suppress(OSError):
                        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        finally:
            threads.release()


# -- the group -------------------------------------------------------------------------------------------


class Member(NamedTuple):
    """A worker of a group.

    Attributes:
        process: Its process.
        number: Its number: the smallest that no other living worker had when it joined.
        is_leaving: Whether it has begun its shutdown.
        is_forked: Whether it is a forked child of another member, and may end without a shutdown.
    """

    process: Process
    number: int
    is_leaving: bool
    is_forked: bool


_file_numbers = count(1)
_open_folders: dict[Path, int] = {}
"""The folders that systems of this process use, with the process: a child uses those of its parent too."""


class Group:
    """The membership of this process, and of its forked children, in a group.

    Args:
        root: The folder of all groups.
        key: The key of this one.

    Attributes:
        folder: The folder of the group.
        process: This process.
        number: The number of this worker; -1 until `join` has succeeded.

    Raises:
        OSError: If the folder cannot be created or written in.
    """

    def __init__(self, root: Path, key: str) -> None:
        # Each of several systems of a process has its own folder, the same one in all workers.
        self.folder = next(
            folder
            for number in count(1)
            if (folder := root / f"{_host()}-{key}{'' if number == 1 else f'_{number}'}") not in _open_folders
        )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._key = key
        self._starter = _process_of(key)
        self.process = _this_process()
        self.number = -1
        self._is_forked = False
        self._lock = FileLock(self.folder / "lock")
        self._leader = FileLock(self.folder / "leader")
        self._is_elected = False
        self._next_sign = 0.0
        if not self.join(reset=True) and not os.access(self.folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"{str(self.folder)!r} is not writable")
        _open_folders[self.folder] = os.getpid()
        reset_after_fork(self, Group._begin_in_child, ForkOrder.LOCKS)

    def _begin_in_child(self) -> None:
        self.process = _this_process()
        self.number = -1
        self._is_forked = True
        self._is_elected = False
        inherited = _INHERITED_KEY.fullmatch(os.environ.get(KEY_VARIABLE, ""))
        if inherited is not None and inherited["key"] == self._key:
            _hand_down(os.environ, self.process, self._key)

    def new_file_stem(self) -> str:
        """Return a name for new files of this worker, without a suffix, that no file of the group has."""
        return f"{self.process}-{next(_file_numbers)}"

    def try_lock(self) -> AbstractContextManager[bool]:
        """Hold the lock of the group in a block, if it is free. The block gets whether it is held."""
        return self._lock.held(0)

    def is_alive(self, stem: str) -> bool:
        """Return whether the worker is alive that writes a file."""
        owner = Process.parse(stem)
        return owner is not None and owner.is_alive

    # -- members ---------------------------------------------------------------------------------------

    def join(self, *, reset: bool = False, timeout: float = LOCK_SECONDS) -> bool:
        """Get a number for this worker, unless it has one.

        Args:
            reset: Whether a group that the application named begins again if none of its workers is alive.
            timeout: How long to wait for the lock of the group, in seconds; 0 never blocks.

        Returns:
            Whether it has a number. If the folder cannot be locked or written, a later call tries again.
        """
        if self.number >= 0:
            return True
        with self._lock.held(timeout) as is_held:
            if not is_held:
                return False
            if reset and self._starter is None and not self.living_processes():
                self._remove_files()
            others = [member for member in self._living_members() if member.process != self.process]
            taken = {member.number for member in others}
            number = next(number for number in count() if number not in taken)
            if not self._write_members([*others, Member(self.process, number, False, self._is_forked)]):
                return False
            self.number = number
        return True

    def living_processes(self) -> set[Process]:
        """Return the living workers: those that are members, and those that own files of the folder."""
        members = {member.process for member in self._living_members()}
        return members | {owner for owner in _owners(self.folder) - members if owner.is_alive}

    def leave(self) -> bool:
        """State that this worker is about to end; return whether it is the last one.

        The last one is the one that has no living worker beside it that has not called this method. Forked
        children may end without a call, so that the process that created the system does not count them. A
        process with files that is not a member is such a child: a process that creates a system joins first.
        """
        with self._lock.held() as is_held:
            members = self._living_members()
            others = {
                member.process
                for member in members
                if not member.is_leaving and (self._is_forked or not member.is_forked)
            }
            if self._is_forked:
                others |= self.living_processes() - {member.process for member in members}
            others.discard(self.process)
            if is_held:
                rest = [member for member in members if member.process != self.process]
                self._write_members([*rest, Member(self.process, self.number, True, self._is_forked)])
            return not others

    def close(self) -> None:
        """Leave for good, after `leave`. The folder is removed if no process will use it any more."""
        if _open_folders.get(self.folder) == os.getpid():
            del _open_folders[self.folder]
            if not _open_folders and os.environ.get(KEY_VARIABLE, "").startswith(f"{self.process}:"):
                del os.environ[KEY_VARIABLE]  # what this process starts from now on is not a worker
        with self._lock.held() as is_held:
            starter = self._starter
            is_over = starter is None or starter == self.process or not starter.is_alive
            if (
                is_held
                and is_over
                and not self.living_processes() - {self.process}
                and not _has_forked_child()
            ):
                shutil.rmtree(self.folder, ignore_errors=True)
        self._leader.close()
        self._is_elected = False

    def _remove_files(self) -> None:
        for path in list(self.folder.iterdir()):
            if path.name not in ("lock", "leader"):
                with suppress(OSError):
                    path.unlink()

    def _living_members(self) -> list[Member]:
        try:
            stored = json.loads((self.folder / "members").read_bytes())
            members = [
                Member(Process(int(pid), int(start)), int(number), bool(is_leaving), bool(is_forked))
                for pid, start, number, is_leaving, is_forked in stored
            ]
        except (OSError, ValueError, TypeError):  # there are none yet, or the disk was full
            return []
        return [member for member in members if member.process.is_alive]

    def _write_members(self, members: Iterable[Member]) -> bool:
        stored = [[*each.process, *each[1:]] for each in members]
        content = json.dumps(stored, allow_nan=False)
        temporary = self.folder / "members.tmp"  # one writer at a time: the lock is held
        try:
            temporary.write_text(content, encoding="ascii")
            temporary.replace(self.folder / "members")
        except OSError:
            return False
        return True

    # -- the elected worker ----------------------------------------------------------------------------

    @property
    def is_elected(self) -> bool:
        """Whether this worker does the work that one worker does for all. Never blocks.

        The first one that asks is elected, until its process ends.
        """
        if not self._is_elected:
            self._is_elected = self._leader.acquire()
        return self._is_elected

    def give_sign_of_life(self) -> None:
        """Keep other machines and containers from removing the folder. Call it often."""
        now = time.monotonic()
        if now >= self._next_sign:
            self._next_sign = now + SIGN_OF_LIFE_SECONDS
            with suppress(OSError):
                os.utime(self.folder / "lock")
