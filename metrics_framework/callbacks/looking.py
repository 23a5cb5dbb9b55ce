"""Which kind of event loop runs here."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable

from metrics_framework.callbacks.evaluator import Evaluator
from metrics_framework.callbacks.work import Work
from metrics_framework.errors import InvalidInputError


def looking() -> Callable[[Evaluator, Iterable[Work]], Awaitable[None]]:
    """Return the way of looking from the running loop.

    Raises:
        InvalidInputError: Where no loop of asyncio or trio runs.
    """
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():  # asked first: it may be a guest of asyncio's loop
        from metrics_framework.callbacks import on_trio

        return on_trio.collect
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise InvalidInputError(
            "callbacks can be awaited in asyncio and in trio; elsewhere call collect() in a thread"
        ) from None
    from metrics_framework.callbacks import on_asyncio

    return on_asyncio.collect
