"""Waiting for other threads and tasks, in a thread, in asyncio and in trio.

Neither asyncio nor trio is imported before it is needed: they are slow to import.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from metrics_framework.errors import InvalidInputError

_SIGNAL_SECONDS = 0.1
"""The longest delay of Ctrl-C: Python misses a signal that arrives just before a lock starts to wait."""


def running_trio() -> Any:
    """Return the module ``trio`` if it runs the current task, else ``None``.

    Ask this before you ask asyncio: trio can be a guest of asyncio's event loop, which is running then, too.
    """
    trio = sys.modules.get("trio")
    return trio if trio is not None and trio.lowlevel.in_trio_task() else None


class Notifier:
    """Wakes waiters in threads, asyncio and trio. `notify` never blocks.

    Change the condition first, then call `notify`: a waiter checks the condition after it has registered.
    """

    def __init__(self) -> None:
        self._wakes: list[Callable[[], object]] = []

    def notify(self) -> None:
        """Wake all current waiters."""
        # `pop` gives each waiter to one of several threads.
        while self._wakes:
            try:
                wake = self._wakes.pop()
            except IndexError:
                return
            wake()

    def add(self, wake: Callable[[], object]) -> None:
        """Call ``wake`` once, at the next notification, in the thread that notifies."""
        self._wakes.append(wake)

    def discard(self, wake: Callable[[], object]) -> None:
        """Remove a function that was added and not called yet."""
        with suppress(ValueError):
            self._wakes.remove(wake)

    def wait(self, is_due: Callable[[], bool], seconds: float | None) -> None:
        """Block this thread until ``is_due`` returns true or ``seconds`` have passed."""
        until = None if seconds is None else time.monotonic() + seconds
        # A lock: a signal handler that raises can leave an Event half set.
        woken = threading.Lock()
        woken.acquire()
        self.add(woken.release)
        try:
            while not is_due():
                left = _SIGNAL_SECONDS if until is None else min(until - time.monotonic(), _SIGNAL_SECONDS)
                if left <= 0 or woken.acquire(timeout=left):
                    return
        finally:
            self.discard(woken.release)

    async def wait_async(self, is_due: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait in a task of the running event loop until ``is_due`` returns true or ``seconds`` have passed.

        Raises:
            InvalidInputError: If no event loop of asyncio or trio is running.
        """
        await _loop().wait(self, is_due, seconds)


async def checkpoint() -> None:
    """Let the other tasks of the running event loop run. The task can be cancelled here."""
    await _loop().checkpoint()


async def run_within(
    seconds: float,
    function: Callable[[], Awaitable[object]],
    on_start: Callable[[Callable[[], object]], object] = lambda cancel: None,
) -> bool:
    """Run an async function, and return whether it finished in time; otherwise it was cancelled.

    Args:
        seconds: The time limit.
        function: The function.
        on_start: Gets a function that cancels it earlier, from any thread.
    """
    if (trio := running_trio()) is not None:
        token = trio.lowlevel.current_trio_token()
        with trio.move_on_after(seconds) as scope:

            def cancel_on_trio() -> None:
                with suppress(trio.RunFinishedError):
                    token.run_sync_soon(scope.cancel)

            on_start(cancel_on_trio)
            await function()
        return not scope.cancelled_caught
    import asyncio

    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds) as limit:

            def end() -> None:
                with suppress(RuntimeError):  # it has finished
                    limit.reschedule(loop.time())

            def cancel() -> None:
                with suppress(RuntimeError):  # the loop was closed
                    loop.call_soon_threadsafe(end)

            on_start(cancel)
            await function()
    except TimeoutError:
        return False
    return True


async def run_until_first(*functions: Callable[[], Awaitable[object]]) -> None:
    """Run async functions concurrently until one of them finishes, then cancel the others.

    Raises:
        Exception: If a function raised it before another finished; in an exception group on trio.
    """
    if (trio := running_trio()) is not None:
        async with trio.open_nursery() as nursery:

            async def run(function: Callable[[], Awaitable[object]]) -> None:
                await function()
                nursery.cancel_scope.cancel()

            for function in functions:
                nursery.start_soon(run, function)
        return
    import asyncio

    tasks = [asyncio.ensure_future(function()) for function in functions]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def create_event() -> Any:
    """Return an event of the running event loop. It has ``set()`` and ``wait()``."""
    if (trio := running_trio()) is not None:
        return trio.Event()
    import asyncio

    return asyncio.Event()


class _Asyncio:
    @staticmethod
    async def wait(notifier: Notifier, is_due: Callable[[], bool], seconds: float | None) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not woken.done():
                woken.set_result(None)

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(settle)

        notifier.add(wake)
        try:
            if not is_due():
                await asyncio.wait([woken], timeout=seconds)
        finally:
            notifier.discard(wake)

    @staticmethod
    def checkpoint() -> Awaitable[None]:
        import asyncio

        return asyncio.sleep(0)


class _Trio:
    @staticmethod
    async def wait(notifier: Notifier, is_due: Callable[[], bool], seconds: float | None) -> None:
        import trio

        woken, token = trio.Event(), trio.lowlevel.current_trio_token()

        def wake() -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(woken.set)

        notifier.add(wake)
        try:
            if not is_due():
                with trio.move_on_after(float("inf") if seconds is None else max(seconds, 0.0)):
                    await woken.wait()
        finally:
            notifier.discard(wake)

    @staticmethod
    def checkpoint() -> Awaitable[None]:
        import trio

        return trio.lowlevel.checkpoint()


def _loop() -> type[_Asyncio] | type[_Trio]:
    if running_trio() is not None:
        return _Trio
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise InvalidInputError(
            "no asyncio or trio event loop is running: await this in an asyncio or trio task, or call the "
            "blocking method (collect, get) from a thread"
        ) from None
    return _Asyncio
