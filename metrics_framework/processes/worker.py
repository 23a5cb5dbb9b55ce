"""This process as one worker of a group: it shares the numbers of its store, and works in the background."""

from __future__ import annotations

import atexit
import errno
import os
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from metrics_framework.errors import InvalidInputError
from metrics_framework.log import log_event
from metrics_framework.processes.group import Group, default_root, find_key, remove_old_groups
from metrics_framework.processes.sharing import SharedStore
from metrics_framework.runtime.background import Background
from metrics_framework.runtime.deadline import Deadline, keeping
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork
from metrics_framework.validation import word_repr

if TYPE_CHECKING:
    from metrics_framework.recording import Store

END_SECONDS = 1.0
"""How long `WorkerProcess.end` waits for the background thread, in seconds."""

WORK_SECONDS = 0.5
"""How often a worker writes its files, and reads the removals of others."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


class WorkerProcess:
    """This process, or a forked child of it, as one worker of a group.

    Args:
        store: The store whose numbers are shared. It has no records yet.
        group: The group.
        in_child: Called in the background thread of a forked child, once.

    Attributes:
        group: The group.

    Raises:
        OSError: If the files of this worker cannot be created.
    """

    def __init__(self, store: Store, group: Group, in_child: Callable[[], object]) -> None:
        self.group = group
        self._in_child = in_child
        self._begun_in = os.getpid()  # the process for which `in_child` is not called
        self._error: OSError | None = None
        self._user = _user()
        self._has_left = False
        self._has_ended = False
        self._shared = SharedStore(store, group)
        self._shared.begin(group.new_file_stem())
        store.worker = self
        # After the store's own reset, which was registered when the store was created.
        reset_after_fork(self, WorkerProcess._begin_in_child, ForkOrder.STATE)
        atexit.register(self.end)
        self._end_with_child()
        self._end_with_later_child()
        self._background = Background(self._work, WORK_SECONDS, "sharing of numbers")

    @property
    def number(self) -> int:
        """The number of this worker, 0 or more: the smallest one that no other living worker has; else -1."""
        self.group.join()
        return self.group.number

    @property
    def is_elected(self) -> bool:
        """Whether this worker does the work that one worker does for all; see `Group.is_elected`."""
        return not self._has_ended and self.group.is_elected

    def leave(self) -> bool:
        """Make all numbers readable for the others; return whether this is the last worker of the group."""
        self._has_left = True
        self._shared.flush()
        return self.group.leave()

    def end(self) -> None:
        """Stop sharing. Others keep the numbers. Repeated calls do nothing."""
        if self._has_ended:
            return
        with keeping(Deadline(END_SECONDS)):
            self._background.stop()
        if not self._has_left:
            self.leave()
        self._has_ended = True
        self._shared.close()
        self.group.close()
        atexit.unregister(self.end)

    def _work(self) -> None:
        if self._begun_in != os.getpid():
            self._begun_in = os.getpid()
            if self._error is not None:
                _log_private(self.group.folder, self._error)
            self._in_child()
        self._check_user()
        self.group.join()
        self.group.give_sign_of_life()
        self._shared.work()

    def _check_user(self) -> None:
        """Log if this process has changed its user, and may no longer use the folder."""
        user, self._user = self._user, _user()
        folder = self.group.folder
        if user != self._user and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            log_event(
                "error",
                "this process has changed its user and does not see the numbers of the other workers",
                folder=str(folder),
                user=self._user,
                remedy="create the system after the change, in gunicorn without preload_app, or start"
                " gunicorn as the user of its workers",
            )

    def _end_with_child(self) -> None:
        """End with this process if it is a child of multiprocessing, which calls no `atexit` functions."""
        for name in ("multiprocessing", "billiard"):
            process, util = sys.modules.get(f"{name}.process"), sys.modules.get(f"{name}.util")
            if process is not None and util is not None and _is_child(process):
                util.Finalize(None, self.end, exitpriority=0)

    def _end_with_later_child(self) -> None:
        # A child forgets all finalizers when its work begins, also if it has created this system just before,
        # while it imported the main module. Then it calls these functions.
        for name in ("multiprocessing.util", "billiard.util"):
            if (util := sys.modules.get(name)) is not None:
                util.register_after_fork(self, WorkerProcess._end_with_child)

    def _begin_in_child(self) -> None:
        self._end_with_later_child()
        if self._has_ended:
            return
        self._has_left = False
        self.group.join(timeout=0)  # else the background thread does it
        try:
            self._shared.begin_in_child(self.group.new_file_stem())
        except OSError as error:  # nothing may log yet
            self._error = error


def share(
    store: Store | None,
    shared: Literal[True] | str | os.PathLike[str],
    in_child: Callable[[], object],
    environ: MutableMapping[str, str] = os.environ,
) -> WorkerProcess | None:
    """Share the numbers of a store with the other workers of this process's group.

    Args:
        store: The store; ``None`` if the parts of a system have none.
        shared: True, or the folder of the groups, which is created if it does not exist.
        in_child: Called in the background thread of each forked child.
        environ: The environment.

    Returns:
        ``None`` if nothing is shared because this is Windows or the disk is full, which is logged.

    Raises:
        InvalidInputError: If the folder cannot be used, or the store cannot be shared.
    """
    if shared is not True and (not isinstance(shared, str | os.PathLike) or not os.fspath(shared)):
        raise InvalidInputError(f"shared={word_repr(shared)} is not true, false or a folder")
    if store is None:
        raise InvalidInputError(
            f"shared={word_repr(shared)}: the parts of this system have no store whose numbers can be shared:"
            " leave out collector=, timer=, tracker= or aggregator="
        )
    if store.worker is not None or store.recorded:
        raise InvalidInputError(
            f"shared={word_repr(shared)}: the store of this system"
            f" {'is shared' if store.worker else 'has records'} already: create the system first, with a new"
            " store"
        )
    if sys.platform == "win32":
        log_event("warning", "numbers are not shared between processes on Windows")
        return None
    root = Path() if shared is True else Path(shared)
    try:
        root = default_root() if shared is True else root
        root.mkdir(parents=True, exist_ok=True)
        remove_old_groups(root)
        group = Group(root, find_key(environ))
    except OSError as error:
        if error.errno in _FULL:
            _log_private(root, error)
            return None
        where = "" if shared is True else f"={os.fspath(shared)!r}"
        raise InvalidInputError(
            f"shared{where}: cannot share numbers there: {error.strerror or error}; pass a folder that the"
            " workers can write in, like shared='/run/shop/metrics'"
        ) from error
    try:
        return WorkerProcess(store, group, in_child)
    except OSError as error:
        _log_private(group.folder, error)
        group.close()
        return None


def _user() -> int:
    return os.geteuid() if sys.platform != "win32" else 0


def _is_child(process: Any) -> bool:
    """Return whether a module of processes, multiprocessing's or billiard's, has started this process."""
    return bool(process.current_process()._parent_pid is not None)


def _log_private(folder: Path, error: OSError) -> None:
    log_event(
        "error",
        "numbers of this process are not shared",
        folder=str(folder),
        error=error.strerror or str(error),
    )
