"""Looking from trio: async callbacks are called on the running loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

import trio

from metrics_framework.callbacks.evaluator import Evaluator
from metrics_framework.callbacks.work import Evaluation, Work


async def collect(evaluator: Evaluator, works: Iterable[Work]) -> None:
    """Call all works; async ones in a nursery, cancelled at their deadlines."""
    async with trio.open_nursery() as nursery:

        def start(evaluations: Sequence[Evaluation]) -> None:
            for evaluation in evaluations:
                nursery.start_soon(_call, evaluator, evaluation)

        looks = evaluator.look(works, start)
        while looks:
            for look in looks:
                await _wait(look.evaluation)
            looks = evaluator.look(evaluator.judge(looks), start)


async def _call(evaluator: Evaluator, evaluation: Evaluation) -> None:
    try:
        with trio.move_on_after(evaluation.seconds_left) as scope:
            await evaluator.call_async(evaluation)
        if scope.cancelled_caught:
            evaluator.miss(evaluation)
    finally:
        evaluator.end(evaluation)


async def _wait(evaluation: Evaluation) -> None:
    if evaluation.is_over or not evaluation.seconds_left:
        return
    over, token = trio.Event(), trio.lowlevel.current_trio_token()

    def wake() -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(over.set)

    evaluation.then(wake)
    with trio.move_on_after(evaluation.seconds_left):
        await over.wait()
