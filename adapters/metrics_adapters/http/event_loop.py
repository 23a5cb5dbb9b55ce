"""What an endpoint asks of the event loop that it runs on: asyncio's, or trio's where trio runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_in_thread
from functools import partial
from typing import Any

from metrics_adapters.http.shared_call import Start
from metrics_framework.runtime.event_loops import running_trio


async def checkpoint() -> None:
    """Let others go on."""
    await (asyncio.sleep(0) if (module := running_trio()) is None else module.lowlevel.checkpoint())


async def wait(future: Future[Any], seconds: float) -> None:
    """Wait until a future is done, or for so many seconds."""
    if (module := running_trio()) is None:
        mirror = asyncio.wrap_future(future)
        mirror.add_done_callback(lambda done: done.cancelled() or done.exception())  # it is seen to elsewhere
        await asyncio.wait([mirror], timeout=seconds)
    else:
        await module.to_thread.run_sync(wait_in_thread, [future], seconds, abandon_on_cancel=True)


async def done_within(seconds: float, work: Callable[[], Awaitable[None]]) -> bool:
    """Do some work, and return whether it came to its end in so many seconds; else it was cancelled."""
    if (module := running_trio()) is None:
        try:
            async with asyncio.timeout(seconds):
                await work()
        except TimeoutError:
            return False
        return True
    with module.move_on_after(seconds) as scope:
        await work()
    return not scope.cancelled_caught


def new_event() -> Any:
    """Return an event of the loop, which has ``set()`` and ``wait()``."""
    return asyncio.Event() if (module := running_trio()) is None else module.Event()


async def first_of(*works: Callable[[], Awaitable[None]]) -> None:
    """Do several works at a time until one of them ends, and cancel the others.

    Raises:
        Exception: What it ended with.
    """
    if (module := running_trio()) is not None:
        async with module.open_nursery() as nursery:

            async def do(work: Callable[[], Awaitable[None]]) -> None:
                await work()
                nursery.cancel_scope.cancel()

            for work in works:
                nursery.start_soon(do, work)
        return
    tasks = [asyncio.ensure_future(work()) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def in_task(work: Callable[[], Awaitable[object]]) -> Start[object]:
    """Return what makes a call in a task of its own."""

    def start(future: Future[object]) -> None:
        if (module := running_trio()) is not None:
            module.lowlevel.spawn_system_task(_settled, future, work)
            return
        task = asyncio.ensure_future(work())
        _TASKS.add(task)
        task.add_done_callback(partial(_settle, future))

    return start


_ENDED = "its event loop came to its end"
_TASKS: set[asyncio.Future[object]] = set()  # the event loop itself keeps none of them alive


async def _settled(future: Future[object], work: Callable[[], Awaitable[object]]) -> None:
    try:
        result = await work()
    except Exception as error:  # noqa: BLE001 - who waits is told; it would end the event loop
        future.set_exception(error)
    except BaseException:
        future.set_exception(RuntimeError(_ENDED))
        raise
    else:
        future.set_result(result)


def _settle(future: Future[object], task: asyncio.Future[object]) -> None:
    _TASKS.discard(task)
    if task.cancelled():
        future.set_exception(RuntimeError(_ENDED))
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())
