"""Looking from threads: async callbacks are called on an event loop in a thread of its own."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from metrics_framework.callbacks.evaluator import Evaluator
from metrics_framework.callbacks.work import Evaluation, Work

if TYPE_CHECKING:
    from metrics_framework.callbacks.loop_thread import LoopThread


class ThreadLooks:
    """Looks from threads.

    Args:
        evaluator: Begins and judges the calls.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._begin()
        _LOOKS.add(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._thread: LoopThread | None = None
        self._end: weakref.finalize[[], ThreadLooks] | None = None

    def collect(self, works: Iterable[Work]) -> None:
        """Call all works at once, and return when each has returned or its deadline has gone by."""
        self._replace_blocked()
        looks = self._evaluator.look(works, self._start)
        while looks:
            for look in looks:
                look.evaluation.wait()
            looks = self._evaluator.look(self._evaluator.judge(looks), self._start)

    def close(self) -> None:
        """End the thread of the async works; the next look would start another one."""
        with self._lock:
            end, self._end, self._thread = self._end, None, None
        if end is not None:
            end()

    def _start(self, evaluations: Sequence[Evaluation]) -> None:
        from metrics_framework.callbacks.loop_thread import LoopThread  # asyncio is slow to import

        try:
            with self._lock:  # until they have begun, as on a loop that was stopped they never would
                if self._thread is None:
                    self._thread = LoopThread()
                    self._end = weakref.finalize(self, self._thread.stop)
                    self._end.atexit = False
                self._thread.start(self._evaluator, evaluations)
        except Exception as error:  # noqa: BLE001 - no thread or no file descriptor to be had
            for evaluation in evaluations:
                self._evaluator.refuse(evaluation, error)

    def _replace_blocked(self) -> None:
        thread = self._thread
        held_up = thread.held_up() if thread is not None else None
        if held_up is not None:
            self.close()
            for evaluation in held_up:
                self._evaluator.end(evaluation)

    def _begin_in_child(self) -> None:
        if self._thread is not None and self._end is not None:
            # Neither stopped nor closed: its selector and its pipe are the parent's as well.
            self._end.detach()
            _INHERITED.append(self._thread)
        self._begin()


_LOOKS: weakref.WeakSet[ThreadLooks] = weakref.WeakSet()
_INHERITED: list[LoopThread] = []


def _begin_in_child() -> None:
    for looks in list(_LOOKS):
        looks._begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)
