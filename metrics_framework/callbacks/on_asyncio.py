"""Looking from asyncio: async callbacks are called on the running loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress

from metrics_framework.callbacks.evaluator import Evaluator
from metrics_framework.callbacks.work import Evaluation, Work

CLEANING_SECONDS = 0.1
"""How long a call that is cancelled has to clean up before nobody waits for it any more."""


async def collect(evaluator: Evaluator, works: Iterable[Work]) -> None:
    """Call all works; async ones on the running loop, cancelled at their deadlines."""
    started: list[Evaluation] = []

    def start(evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            start_call(evaluator, evaluation)
            started.append(evaluation)

    try:
        looks = evaluator.look(works, start)
        while looks:
            for look in looks:
                await _wait(look.evaluation)
            looks = evaluator.look(evaluator.judge(looks), start)
    finally:
        left = [one for one in started if one.task is not None and not one.task.done()]
        for evaluation in left:
            if evaluation.task is not None and not evaluation.is_missed:  # else its own timer cancels it
                evaluation.task.cancel()
        if left:
            await asyncio.wait([one.task for one in left if one.task is not None], timeout=CLEANING_SECONDS)


def start_call(evaluator: Evaluator, evaluation: Evaluation) -> None:
    """Call a work in a task of the running loop, which is cancelled at the deadline."""
    if evaluation.is_over:
        return
    loop = asyncio.get_running_loop()
    task = evaluation.task = loop.create_task(evaluator.call_async(evaluation), name="metrics-callback")

    def miss() -> None:
        evaluator.miss(evaluation)
        task.cancel()

    timer = loop.call_later(evaluation.seconds_left, miss)

    def end(task: asyncio.Task[None]) -> None:
        timer.cancel()
        if not task.cancelled():
            task.exception()  # an interrupt, which the loop raises too; asyncio complains if nobody looks
        elif not task.cancelling():  # nobody cancelled it: what it awaited was cancelled
            evaluator.fail(evaluation, asyncio.CancelledError())
        evaluator.end(evaluation)

    task.add_done_callback(end)


async def _wait(evaluation: Evaluation) -> None:
    if evaluation.is_over or not evaluation.seconds_left:
        return
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop was closed in the meantime
            loop.call_soon_threadsafe(_set, over)

    evaluation.then(wake)
    with suppress(TimeoutError):
        async with asyncio.timeout(evaluation.seconds_left):
            await over


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
