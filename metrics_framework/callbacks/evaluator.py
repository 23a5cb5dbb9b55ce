"""Begins calls, and judges how each of them went; who looks waits for them in ways of their own."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from metrics_framework.callbacks.work import Evaluation, Work
from metrics_framework.callbacks.workers import Workers


class Look(NamedTuple):
    """Somebody's interest in a call.

    Attributes:
        evaluation: The call; others may look at it too.
        was_missed: Whether its deadline had gone by before.
    """

    evaluation: Evaluation
    was_missed: bool


class Evaluator:
    """Calls works.

    Args:
        take: Told of the value that a work returned, in whatever thread; what it raises is a failure of the
            work.
        failed: Told of a failure that counts, by its reason and in words.
    """

    def __init__(
        self, take: Callable[[Work, object], object], failed: Callable[[Work, str, str], object]
    ) -> None:
        self._take = take
        self._failed = failed
        self.begin()
        _EVALUATORS.add(self)

    def begin(self) -> None:
        """Begin with no call under way, as a forked child does: the threads are its parent's."""
        # Re-entrant: what garbage collection calls in the middle of anything may remove a callback.
        self._lock = threading.RLock()
        self._workers = Workers(self.call, self.refuse)

    # -- for those who wait, in threads and on loops ------------------------------------------------------

    def look(
        self, works: Iterable[Work], start_async: Callable[[Sequence[Evaluation]], object]
    ) -> list[Look]:
        """Begin to call works, except those that are being called: these are joined.

        Args:
            works: The works.
            start_async: Begins to call those that are async.
        """
        looks: list[Look] = []
        new: list[Evaluation] = []
        try:
            with self._lock:
                for work in works:
                    if work.is_removed:
                        continue
                    evaluation = work.running
                    if evaluation is None or _is_lost(evaluation):
                        evaluation = Evaluation(work)
                        new.append(evaluation)
                        work.running = evaluation
                    looks.append(Look(evaluation, evaluation.is_missed))
            self._workers.start([one for one in new if not one.work.is_async])
            asynchronous = [one for one in new if one.work.is_async]
            if asynchronous:
                start_async(asynchronous)
        except BaseException:  # an interrupt: what has begun goes on, and nobody waits for the rest
            for evaluation in new:
                if not evaluation.is_begun:
                    self.end(evaluation)
            raise
        return looks

    def judge(self, looks: Iterable[Look]) -> list[Work]:
        """Count the deadlines that were missed; return the works whose calls were abandoned by others."""
        again: list[Work] = []
        for look in looks:
            evaluation = look.evaluation
            if not evaluation.is_over:
                self.miss(evaluation)
            if not evaluation.is_settled:
                again.append(evaluation.work)
            elif evaluation.is_missed:
                self._count_missed(look)
        return again

    # -- for those who call ------------------------------------------------------------------------------

    def call(self, evaluation: Evaluation) -> None:
        """Call a work here and now; one that proves to be async is left to be called on a loop."""
        work = evaluation.work
        evaluation.is_begun = True
        try:
            if not evaluation.is_over:
                value = work.function()
                if isinstance(value, Awaitable):
                    work.is_async = True
                    getattr(value, "close", lambda: None)()
                else:
                    self._succeed(evaluation, value)
        except BaseException as error:  # noqa: BLE001 - also what would end the thread
            self.fail(evaluation, error)
        finally:
            self.end(evaluation)

    async def call_async(self, evaluation: Evaluation) -> None:
        """Call a work and await what it returns; whoever calls this ends the evaluation."""
        evaluation.is_begun = True
        try:
            value = evaluation.work.function()
            if isinstance(value, Awaitable):
                value = await value
            self._succeed(evaluation, value)
        except Exception as error:  # noqa: BLE001 - a callback may raise anything
            self.fail(evaluation, error)
        except (KeyboardInterrupt, SystemExit, GeneratorExit) as error:  # each would end the loop
            in_main = threading.current_thread() is threading.main_thread()
            if in_main and not isinstance(error, GeneratorExit):  # the program's own
                raise
            self.fail(evaluation, error)

    def miss(self, evaluation: Evaluation) -> None:
        """Note that the deadline went by; who looks counts it, and so finds it counted when the look ends."""
        with self._lock:
            if not evaluation.is_over and not evaluation.is_settled:
                evaluation.is_settled = evaluation.is_missed = True

    def fail(self, evaluation: Evaluation, error: BaseException) -> None:
        """Count a failure, unless the deadline had been missed before."""
        with self._lock:
            counts = not evaluation.is_over and not evaluation.is_settled
            evaluation.is_settled = True
        if counts:
            self._failed(evaluation.work, type(error).__name__, _shown(error))

    def end(self, evaluation: Evaluation) -> None:
        """Expect nothing of a call any more; where it is not settled, who waits for it begins another."""
        with self._lock:
            if evaluation.work.running is evaluation:
                evaluation.work.running = None
        evaluation.end()

    def refuse(self, evaluation: Evaluation, error: Exception) -> None:
        """Count a call that could not even begin."""
        self.fail(evaluation, error)
        self.end(evaluation)

    def _count_missed(self, look: Look) -> None:
        evaluation, work = look.evaluation, look.evaluation.work
        with self._lock:  # once, and again for each who began to look after that
            counts = look.was_missed or not evaluation.is_counted
            evaluation.is_counted = True
        if not evaluation.is_over:
            self._workers.give_up(evaluation)
        if counts:
            self._failed(work, "timeout", f"no answer within {work.deadline:g} seconds")

    def _succeed(self, evaluation: Evaluation, value: object) -> None:
        work = evaluation.work
        if evaluation.is_over:
            return
        self._take(work, value)
        with self._lock:
            if not evaluation.is_missed:  # a late value is good, but all is not well
                evaluation.is_settled = True
                work.failure = None


def _is_lost(evaluation: Evaluation) -> bool:
    """Say whether a call's loop was closed before the call came to its end."""
    return evaluation.task is not None and evaluation.task.get_loop().is_closed()


def _shown(error: BaseException) -> str:
    with suppress(Exception):
        return repr(error)
    return f"<{type(error).__name__}>"


_EVALUATORS: weakref.WeakSet[Evaluator] = weakref.WeakSet()


def _begin_in_child() -> None:
    for evaluator in list(_EVALUATORS):
        evaluator.begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)
