"""The shutdown of a system, once: by a call, at the exit of the interpreter, or on SIGTERM.

SIGTERM can interrupt code that holds a lock which the final snapshot needs. The signal handler therefore
never waits: it starts a thread for the work, and the application continues until that has finished. Then the
signal is sent again, and the previous handler of SIGTERM receives it.

At the exit and on SIGTERM, the deadlines of several systems run at the same time: a shutdown has two steps,
and all of them begin before one of them waits.
"""

from __future__ import annotations

import _thread
import atexit
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

from metrics_framework.errors import InvalidInputError
from metrics_framework.runtime.deadline import in_worker
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork


class Shutdown:
    """Runs the shutdown of a system exactly once, and only in the process that created the system.

    Args:
        work: Begins the shutdown, and returns a function that waits for its end. Neither may raise.
        in_child: Called in a forked child.

    Attributes:
        lock: Held during the shutdown. It is re-entrant, because a signal handler may need it.
        begun: Whether the shutdown has begun.
    """

    def __init__(self, work: Callable[[], Callable[[], object]], in_child: Callable[[], object]) -> None:
        self.lock = threading.RLock()
        self.begun = False
        self._work = work
        self._wait: Callable[[], object] | None = None  # only between the two steps
        self._in_child = in_child
        self._is_inherited = False
        self._handled_sigterm = False  # in the parent
        self._on_exit = False
        self._on_sigterm = False
        self._is_pending = False  # a SIGTERM was received and not passed on yet
        self._previous_handler: Any = signal.SIG_DFL
        reset_after_fork(self, Shutdown._reset_in_child, ForkOrder.STATE)

    @property
    def on_exit(self) -> bool:
        """Whether the shutdown runs at the exit of the interpreter."""
        return self._on_exit

    @property
    def is_inherited(self) -> bool:
        """Whether a forked child inherited the system, so that its shutdown is left to the parent."""
        return self._is_inherited

    def adopt(self) -> None:
        """Make this process, a forked child, the one that runs the shutdown."""
        self._is_inherited = False
        self._on_sigterm = self._handled_sigterm

    def run(self) -> None:
        """Run the shutdown, or wait until another thread has run it.

        The thread of an output does not wait, because the shutdown waits for it.
        """
        if self.begun and in_worker():
            return
        with self.lock:
            try:
                self._begin()
            finally:
                self._finish()

    def _begin(self) -> None:
        """Take the first step, once. The lock is held."""
        if self.begun:
            return
        self.begun = True
        wait: Callable[[], object] = _do_nothing
        try:
            if not self._is_inherited:
                wait = self._work()
        finally:
            self._wait = wait

    def _finish(self) -> None:
        """Take the second step, once, after the first. The lock is held."""
        wait, self._wait = self._wait, None
        if wait is None:
            return
        try:
            wait()
        finally:
            self._on_sigterm = False  # from now on the handler passes the signal on
            if self._is_pending:
                _send_sigterm()
            self.watch(on_exit=False, on_sigterm=False)

    def watch(self, *, on_exit: bool | None = None, on_sigterm: bool | None = None) -> None:
        """Enable or disable the shutdown at exit and on SIGTERM. ``None`` changes nothing.

        An ignored SIGTERM stays ignored. Only the main thread can remove the handler; until then it passes
        the signal on.

        Raises:
            InvalidInputError: If ``on_sigterm`` is true and `check_sigterm` fails.
        """
        if on_sigterm and not self._on_sigterm:
            check_sigterm()
            previous = signal.getsignal(signal.SIGTERM)
            if self in _receivers(previous):  # in a forked child, or after it was disabled
                self._on_sigterm = True
            elif previous is not signal.SIG_IGN:
                self._previous_handler = previous  # before the handler can be called
                signal.signal(signal.SIGTERM, self._handle)
                self._on_sigterm = True
        elif on_sigterm is False:
            self._on_sigterm = False
            if _is_main_thread():
                self._restore()
        if on_exit is not None:
            self._on_exit = on_exit
        atexit.unregister(self._at_exit)
        with suppress(ValueError):
            _registered.remove(self)
        if self._on_exit or self._on_sigterm:
            atexit.register(self._at_exit)
            _registered.append(self)

    def _reset_in_child(self) -> None:
        """Leave the shutdown to the parent. Threads of the parent may hold the lock."""
        self.lock = threading.RLock()
        self._is_inherited = True
        self._handled_sigterm = self._on_sigterm or self._handled_sigterm
        self._on_sigterm = self._is_pending = False
        self._wait = None
        self._in_child()

    def _at_exit(self) -> None:
        with suppress(ValueError):
            _registered.remove(self)
        if self._is_due_at_exit():
            with self.lock:
                self._begin()
            _begun.append(self)
        # A system that was created earlier is still open until its turn: other exit functions may record.
        if not any(other._is_due_at_exit() for other in _registered):
            _finish_begun()

    def _is_due_at_exit(self) -> bool:
        # The exit must not interrupt a thread that SIGTERM has started, either.
        return self._on_exit or self._is_pending or self.begun

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Set pending first, then check. `run` does the reverse, so that no signal is lost.
        self._is_pending = True
        if not self._on_sigterm:
            self._is_pending = False
            self._pass_on(number, frame)
        elif not self.begun or self._wait is not None:
            try:
                _thread.start_new_thread(self._run_on_sigterm, ())
            except RuntimeError:  # an exiting interpreter starts no threads
                self._run_on_sigterm()

    def _run_on_sigterm(self) -> None:
        """Run this shutdown, and at the same time those that get the signal directly after it."""
        every = [self, *(other for other in _receivers(self._previous_handler) if other._on_sigterm)]
        for each in every:
            with each.lock:
                each._begin()
        for each in every:
            each.run()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if callable(self._previous_handler):
            self._restore()
            self._previous_handler(number, frame)
        else:
            signal.signal(number, self._previous_handler)
            signal.raise_signal(number)

    def _restore(self) -> None:
        # A handler that replaced ours stays, and may still call ours.
        if signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._previous_handler)


_registered: list[Shutdown] = []
"""The shutdowns with an exit function, the newest last."""

_begun: list[Shutdown] = []
"""The shutdowns whose first step the exit has taken."""


@atexit.register
def _finish_begun() -> None:
    # Registered before the exit function of any system, so that it is called after all of them.
    while _begun:
        _begun.pop(0).run()


def _receivers(handler: object) -> Iterator[Shutdown]:
    """Yield the shutdowns to which a handler of SIGTERM belongs and passes the signal on directly."""
    while isinstance(owner := getattr(handler, "__self__", None), Shutdown):
        yield owner
        handler = owner._previous_handler


def _do_nothing() -> None:
    pass


def check_sigterm() -> None:
    """Check that SIGTERM can be handled.

    Raises:
        InvalidInputError: If this is not the main thread, or the current handler was not installed by Python.
    """
    if not _is_main_thread():
        raise InvalidInputError(
            "shutdown_on_sigterm: only the main thread can handle signals, and this thread is"
            f" {threading.current_thread().name!r}: create and configure the system in the main thread"
        )
    if signal.getsignal(signal.SIGTERM) is None:
        raise InvalidInputError(
            "shutdown_on_sigterm: the handler of SIGTERM was not installed by Python and cannot be restored:"
            " call shutdown_metrics from that handler"
        )


def _is_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


def _send_sigterm() -> None:
    # To the main thread, so that the signal interrupts its waits.
    main = threading.main_thread().ident
    if sys.platform != "win32" and main is not None:
        signal.pthread_kill(main, signal.SIGTERM)
    else:
        signal.raise_signal(signal.SIGTERM)
