"""Threads for what may block: no more than are needed, none between two looks."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from metrics_framework.callbacks.work import Evaluation
from metrics_framework.runtime.cooperative import cooperatively

MOST_THREADS = 32
"""How many calls run at once, beside those whose deadline went by: these keep no other waiting."""


class Workers:
    """Daemon threads that live as long as there is something to call.

    The first thread often has called all that is quick before a second one would have started.

    Args:
        call: Calls the function of an evaluation, and raises nothing.
        refuse: Told of an evaluation for which no thread is to be had, and why.
    """

    def __init__(
        self, call: Callable[[Evaluation], object], refuse: Callable[[Evaluation, Exception], object]
    ) -> None:
        self._call = call
        self._refuse = refuse
        self._lock = threading.RLock()
        self._pending: deque[Evaluation] = deque()
        self._busy: dict[Evaluation, object] = {}
        self._places: set[object] = set()  # one for each thread, taken and left by itself

    def start(self, evaluations: Iterable[Evaluation]) -> None:
        """Begin to call them; the last ones where all threads are busy now, once one is free."""
        self._pending.extend(evaluations)
        self._reinforce()

    def give_up(self, evaluation: Evaluation) -> None:
        """No longer count the thread that calls this; it ends when the call returns, if that ever happens."""
        with self._lock:
            if evaluation not in self._busy:
                return
            self._places.discard(self._busy.pop(evaluation))
        self._reinforce()

    def _reinforce(self) -> None:
        for _ in range(len(self._pending)):
            place = object()
            with self._lock:
                if not self._pending or len(self._places) >= MOST_THREADS:
                    return
                self._places.add(place)
            try:
                threading.Thread(
                    target=self._work, args=[place], name="metrics-callback", daemon=True
                ).start()
            except BaseException as error:
                with self._lock:
                    self._places.discard(place)
                if not isinstance(error, RuntimeError):  # an interrupt
                    raise
                self._do_without(error)  # no more threads to be had
                return

    def _do_without(self, error: RuntimeError) -> None:
        with self._lock:
            if self._places:  # a thread that there is calls the rest
                return
            refused = list(self._pending)
            self._pending.clear()
        for evaluation in refused:
            self._refuse(evaluation, error)

    def _work(self, place: object) -> None:
        while True:
            with self._lock:
                if not self._pending:
                    self._places.discard(place)
                    return
                evaluation = self._pending.popleft()
                self._busy[evaluation] = place
            with cooperatively():
                self._call(evaluation)
            with self._lock:
                if evaluation not in self._busy:  # given up: another thread may have this one's place
                    return
                del self._busy[evaluation]
            del evaluation  # or it would keep what it read alive
