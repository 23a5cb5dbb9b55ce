"""Which kind of event loop runs here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from metrics_framework.callbacks.evaluator import Evaluator
from metrics_framework.callbacks.work import Work
from metrics_framework.errors import InvalidInputError
from metrics_framework.runtime.event_loops import running_trio


def looking() -> Callable[[Evaluator, Iterable[Work]], Awaitable[None]]:
    """Return the way of looking from the running loop.

    Raises:
        InvalidInputError: Where no loop of asyncio or trio runs.
    """
    if running_trio() is not None:
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
