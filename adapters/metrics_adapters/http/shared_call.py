"""Calls that may take for ever: each is made once for all who wait for it, and waited for so long only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from metrics_framework.runtime.cooperative import cooperatively

T = TypeVar("T")

Start = Callable[["Future[T]"], None]
"""Starts a call whose result, or what it raises, goes to the future."""


class Call(Generic[T]):
    """A call that was begun.

    Attributes:
        future: What its result goes to.
    """

    def __init__(self, patience: float) -> None:
        self.future: Future[T] = Future()
        self.future.set_running_or_notify_cancel()  # so that nobody who waits can cancel it
        self._until = time.monotonic() + patience

    def seconds_left(self) -> float:
        """Return for how long it is still worth waiting."""
        return max(self._until - time.monotonic(), 0.0)

    def outcome(self) -> T:
        """Return the result, or raise what the call raised.

        Raises:
            TimeoutError: If there is none yet.
        """
        if not self.future.done():
            raise TimeoutError("it takes too long")
        return self.future.result()


class SharedCall(Generic[T]):
    """Makes one call at a time; who comes while it runs shares it.

    So a call that hangs costs one thread however many come, and who comes late does not wait for it.

    Args:
        patience: How many seconds a call is waited for, from its begin.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the call that runs: in a forked child nobody makes it."""
        self._lock = threading.Lock()
        self._call: Call[T] | None = None

    def call(self, start: Start[T]) -> Call[T]:
        """Return the call that runs, or else a new one."""
        with self._lock:
            call = self._call
            if call is None or call.future.done():
                call = self._call = Call(self._patience)
                call.future.add_done_callback(self._forget)
                try:
                    start(call.future)
                except Exception as error:  # noqa: BLE001 - such as that there are no more threads to be had
                    call.future.set_exception(error)
            return call

    def _forget(self, done: Future[T]) -> None:
        call = self._call
        if call is not None and call.future is done:
            self._call = None  # its result may be large


def in_thread(work: Callable[[], T]) -> Start[T]:
    """Return what makes a call in a thread of its own, which keeps no interpreter alive."""

    def start(future: Future[T]) -> None:
        threading.Thread(target=run, args=(future,), name="metrics-scrape", daemon=True).start()

    def run(future: Future[T]) -> None:
        try:
            with cooperatively():
                result = work()
        except BaseException as error:  # noqa: BLE001 - those who wait are told, whatever it is
            future.set_exception(error)
        else:
            future.set_result(result)

    return start
