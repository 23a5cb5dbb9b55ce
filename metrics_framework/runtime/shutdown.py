"""The end of a system: once, whatever asks for it first - a call, the interpreter's exit, SIGTERM.

SIGTERM may land in the middle of anything, also of code that holds a lock which the final snapshot needs. So
its handler never waits: it hands the work to a thread of its own, and the application goes on until that has
finished. Then the signal is sent again, and whoever handled SIGTERM before gets it.
"""

from __future__ import annotations

import _thread
import atexit
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from metrics_framework.errors import InvalidInputError
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork


class Shutdown:
    """Does the last work of a system exactly once, and only in the process that made the system.

    Args:
        work: What to do; it must not raise.
        in_child: Called in a forked child.

    Attributes:
        lock: Held while the work is done; re-entrant, because a signal handler may need it.
        begun: Whether the end has begun.
    """

    def __init__(self, work: Callable[[], object], in_child: Callable[[], object]) -> None:
        self.lock = threading.RLock()
        self.begun = False
        self._work = work
        self._in_child = in_child
        self._is_inherited = False
        self._on_exit = False
        self._on_sigterm = False
        self._is_owed = False  # a SIGTERM that came and was not passed on yet
        self._before: Any = signal.SIG_DFL
        reset_after_fork(self, Shutdown._reset_in_child, ForkOrder.STATE)

    @property
    def on_exit(self) -> bool:
        """Whether the interpreter's exit is watched."""
        return self._on_exit

    def run(self) -> None:
        """Do the work, or wait until another thread has done it."""
        with self.lock:
            if self.begun:
                return
            self.begun = True
            try:
                if not self._is_inherited:
                    self._work()
            finally:
                self._on_sigterm = False  # from here on the handler passes the signal on
                if self._is_owed:
                    _send_sigterm()
                self.watch(on_exit=False, on_sigterm=False)

    def watch(self, *, on_exit: bool | None = None, on_sigterm: bool | None = None) -> None:
        """Begin or cease to do the work at the interpreter's exit and on SIGTERM; ``None`` changes nothing.

        Where SIGTERM is ignored, it stays ignored. The handler is taken away in the main thread only; until
        then it passes the signal on.

        Raises:
            InvalidInputError: As `check_sigterm` does, where SIGTERM is to be watched.
        """
        if on_sigterm and not self._on_sigterm:
            check_sigterm()
            before = signal.getsignal(signal.SIGTERM)
            if before is not signal.SIG_IGN:
                self._before = before  # known before the handler may be called
                signal.signal(signal.SIGTERM, self._handle)
                self._on_sigterm = True
        elif on_sigterm is False:
            self._on_sigterm = False
            if _is_main_thread():
                self._restore()
        if on_exit is not None:
            self._on_exit = on_exit
        atexit.unregister(self._at_exit)
        if self._on_exit or self._on_sigterm:
            atexit.register(self._at_exit)

    def _reset_in_child(self) -> None:
        """Leave the last work to the parent; its threads, and what they held, are not here."""
        self.lock = threading.RLock()
        self._is_inherited = True
        self._on_sigterm = self._is_owed = False
        self._in_child()

    def _at_exit(self) -> None:
        # Also without on_exit: the thread that was told to do it on SIGTERM must not be cut short.
        if self._on_exit or self._is_owed:
            self.run()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Owed first, looked second; whoever ends the work does it the other way round. So none gets lost.
        self._is_owed = True
        if not self._on_sigterm:
            self._is_owed = False
            self._pass_on(number, frame)
        elif not self.begun:
            try:
                _thread.start_new_thread(self.run, ())
            except RuntimeError:  # the interpreter is on its way out and starts no more threads
                self.run()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if callable(self._before):
            self._restore()
            self._before(number, frame)
        else:
            signal.signal(number, self._before)
            signal.raise_signal(number)

    def _restore(self) -> None:
        # A handler that was installed over ours stays, and may still call ours.
        if signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._before)


def check_sigterm() -> None:
    """Check that SIGTERM can be watched.

    Raises:
        InvalidInputError: Outside of the main thread, or where its present handler is not Python's.
    """
    if not _is_main_thread():
        raise InvalidInputError(
            "shutdown_on_sigterm: only the main thread can handle signals, and this is"
            f" {threading.current_thread().name!r}; make and configure the system in the main thread"
        )
    if signal.getsignal(signal.SIGTERM) is None:
        raise InvalidInputError(
            "shutdown_on_sigterm: SIGTERM is handled outside of Python, where it cannot be passed on to;"
            " call shutdown_metrics from there"
        )


def _is_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


def _send_sigterm() -> None:
    # To the main thread, so that whatever it waits for is interrupted.
    main = threading.main_thread().ident
    if sys.platform != "win32" and main is not None:
        signal.pthread_kill(main, signal.SIGTERM)
    else:
        signal.raise_signal(signal.SIGTERM)
