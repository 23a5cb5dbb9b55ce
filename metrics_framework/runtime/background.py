"""A daemon thread that calls a function at an interval."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress

from metrics_framework.log import log_event
from metrics_framework.runtime.cooperative import cooperatively
from metrics_framework.runtime.deadline import seconds_left
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork


class Background:
    """Calls a function at an interval, in a daemon thread, until `stop`.

    The thread keeps the function and its object alive. An error of the function does not stop the thread.

    Args:
        work: The function. It is called at once and then at each interval. If it raises, the error is logged
            once until a call succeeds.
        interval: Seconds from the end of a call to the start of the next.
        name: The name of the thread and of the work in the log.
        in_child: Whether a forked child gets a thread of its own; otherwise the work is stopped there.
    """

    def __init__(
        self, work: Callable[[], object], interval: float, name: str, *, in_child: bool = True
    ) -> None:
        self._work = work
        self._interval = interval
        self._name = name
        self._in_child = in_child
        self._stopped = False
        self._start()

    @property
    def stopped(self) -> bool:
        """Whether no further call starts. One may still be running."""
        return self._stopped

    def stop(self) -> None:
        """Stop the thread and wait for its end, at most until the deadline of the calling thread's work.

        Thread-safe; a second call does nothing. If the work itself calls it, this call of the work is the
        last one.
        """
        self.end()
        if self._thread is not threading.current_thread() and self._thread.is_alive():
            self._thread.join(seconds_left())

    def end(self) -> None:
        """Let the thread end, without waiting for it. A finalizer or a signal handler may call this."""
        self._stopped = True
        # A queue, not an Event: `put` never blocks, even if a finalizer or signal handler interrupts another.
        self._wake.put(None)

    def _start(self) -> None:
        # Looked up now: gevent may have patched it later than the import, and makes threads greenlets.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        name = f"metrics-{self._name.replace(' ', '-')}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        # Before the thread starts: the work may fork.
        reset_after_fork(self, Background._restart_in_child, ForkOrder.THREADS)
        self._thread.start()

    def _run(self) -> None:
        failing = False
        wait = 0.0
        while not self._stopped_within(wait):
            try:
                with cooperatively():
                    self._work()
                failing = False
            except Exception as error:  # noqa: BLE001 - no error of the work ends the thread
                if not failing:
                    log_event("warning", f"{self._name} failed", error=repr(error))
                failing = True
            wait = self._interval

    def _stopped_within(self, seconds: float) -> bool:
        if not self._stopped:
            with suppress(queue.Empty):
                self._wake.get(timeout=seconds)
        return self._stopped

    def _restart_in_child(self) -> None:
        self._stopped = self._stopped or not self._in_child
        # If the work itself forked, its thread is the child's only thread and continues.
        if self._stopped or self._thread is threading.current_thread():
            return
        try:
            self._start()
        except RuntimeError:  # the system allows no more threads
            self._stopped = True
