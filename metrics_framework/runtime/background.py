"""Work that is done again and again in a thread of its own."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from metrics_framework.errors import InvalidInputError
from metrics_framework.log import log_event
from metrics_framework.runtime.cooperative import cooperatively

_AFTER_FORK_SECONDS = 0.1
"""How long a child's thread lets the others begin anew: until then, locks may be those of a lost thread."""


def check_interval(interval: object) -> None:
    """Check that a thread can wait that long.

    Raises:
        InvalidInputError: If ``interval`` is not a positive number of seconds.
    """
    if (
        isinstance(interval, bool)
        or not isinstance(interval, (int, float))
        or not 0 < interval <= threading.TIMEOUT_MAX
    ):
        raise InvalidInputError(f"interval={interval!r} is not a positive number of seconds")


class Background:
    """A daemon thread that calls a function at an interval, and outlives its failures.

    It ends by itself when the object whose method is the work is no longer used by anyone else.

    Args:
        work: What to do, at once and then at every interval. What it raises is logged, once until it
            succeeds again. A bound method does not keep its object alive; a plain function is kept.
        interval: Seconds between two calls.
        name: What the thread and the log call it.
        in_child: Whether it goes on in a forked child, in a thread of the child; else it is stopped there.
    """

    def __init__(
        self, work: Callable[[], object], interval: float, name: str, *, in_child: bool = True
    ) -> None:
        self._work = self._reference(work)
        self._interval = interval
        self._name = name
        self._in_child = in_child
        self._stopped = False
        self._start(0.0)

    @property
    def stopped(self) -> bool:
        """Whether no call will follow the one that may be running."""
        return self._stopped

    def stop(self) -> None:
        """Stop, and wait until nothing runs any more; a second call does nothing.

        May be called from any thread. The work itself may call it too: then nothing follows it.
        """
        self._end()
        if self._thread is not threading.current_thread() and self._thread.is_alive():
            self._thread.join()

    def _reference(self, work: Callable[[], object]) -> Callable[[], Callable[[], object] | None]:
        try:
            return weakref.WeakMethod(work, lambda _: self._end())
        except TypeError:  # no bound method, or one of an object that cannot be referred to weakly
            return lambda: work

    def _end(self) -> None:
        self._stopped = True
        # A queue, not an event: a put cannot wait, also where garbage collection or a signal interrupts one.
        self._wake.put(None)

    def _start(self, wait: float) -> None:
        self._wake: SimpleQueue[None] = SimpleQueue()
        name = f"metrics-{self._name.replace(' ', '-')}"
        self._thread = threading.Thread(target=self._run, args=[wait], name=name, daemon=True)
        _RUNNING.add(self)  # before its work, which may fork
        self._thread.start()

    def _run(self, wait: float) -> None:
        failing = False
        while not self._stopped_within(wait):
            work = self._work()
            if work is None:
                return
            try:
                with cooperatively():
                    work()
                failing = False
            except Exception as error:  # noqa: BLE001 - whatever the work raises, the application goes on
                if not failing:
                    log_event("warning", f"{self._name} failed", error=repr(error))
                failing = True
            del work  # or waiting would keep its object alive
            wait = self._interval

    def _stopped_within(self, seconds: float) -> bool:
        if not self._stopped:
            with suppress(Empty):
                self._wake.get(timeout=seconds)
        return self._stopped

    def _begin_in_child(self) -> None:
        if not self._in_child:
            self._stopped = True
        # Where the work itself forked, its thread is the one that the child has, and goes on.
        if self._stopped or self._thread is threading.current_thread():
            return
        try:
            self._start(_AFTER_FORK_SECONDS)
        except RuntimeError:  # no more threads to be had; nothing may be logged before logging has begun anew
            self._stopped = True


_RUNNING: weakref.WeakSet[Background] = weakref.WeakSet()


def _restart() -> None:
    for background in list(_RUNNING):
        background._begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart)
