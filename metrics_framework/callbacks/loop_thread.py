"""An event loop in a thread of its own, for async callbacks that are looked at from a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from metrics_framework.callbacks.evaluator import Evaluator
from metrics_framework.callbacks.on_asyncio import start_call
from metrics_framework.callbacks.work import Evaluation


class LoopThread:
    """A daemon thread that runs an event loop until it is stopped."""

    def __init__(self) -> None:
        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = runner.get_loop()
        self._calls: set[Evaluation] = set()
        try:
            threading.Thread(target=_run, args=[runner], name="metrics-async-callbacks", daemon=True).start()
        except BaseException:
            runner.close()
            raise

    def start(self, evaluator: Evaluator, evaluations: Sequence[Evaluation]) -> None:
        """Call works on the loop; not after `stop`, which would leave them waiting."""

        def start_all() -> None:
            for evaluation in evaluations:
                start_call(evaluator, evaluation)

        for evaluation in evaluations:
            self._calls.add(evaluation)
            evaluation.then(partial(self._calls.discard, evaluation))
        self._loop.call_soon_threadsafe(start_all)

    def held_up(self) -> list[Evaluation] | None:
        """Return the calls that cannot go on since another, whose deadline went by, blocks the loop.

        Returns:
            ``None`` where no call does so.
        """
        step, calls = asyncio.current_task(self._loop), list(self._calls)
        if step is None or not any(call.task is step and not call.seconds_left for call in calls):
            return None
        return [call for call in calls if call.task is not step]

    def stop(self) -> None:
        """End the thread, as soon as nothing blocks its loop; a second call does nothing."""
        with suppress(RuntimeError):  # it was closed
            self._loop.call_soon_threadsafe(self._loop.stop)


def _run(runner: asyncio.Runner) -> None:
    with runner:
        runner.get_loop().run_forever()
