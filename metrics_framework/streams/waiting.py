"""Waiting for another thread: in a thread, on a loop of asyncio, or on one of trio."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from metrics_framework.errors import InvalidInputError
from metrics_framework.runtime.event_loops import running_trio

_SIGNAL_SECONDS = 0.1
"""How late Ctrl-C may be noticed: Python misses a signal that comes just before a lock begins to wait."""


class Bell:
    """Wakes all who wait for it, whatever they wait in; who rings it never waits."""

    def __init__(self) -> None:
        self._wakes: list[Callable[[], object]] = []

    def ring(self) -> None:
        """Wake all who wait now."""
        # Each popped once, whichever of two threads is faster.
        while self._wakes:
            try:
                wake = self._wakes.pop()
            except IndexError:
                return
            wake()

    def add(self, wake: Callable[[], object]) -> None:
        """Have something called at the next ring, once."""
        self._wakes.append(wake)

    def discard(self, wake: Callable[[], object]) -> None:
        """Take back what was added; nothing, where the bell was faster."""
        with suppress(ValueError):
            self._wakes.remove(wake)

    def wait(self, is_due: Callable[[], bool], seconds: float | None) -> None:
        """Wait in this thread, until something is due or so many seconds have gone by."""
        until = None if seconds is None else time.monotonic() + seconds
        woken = threading.Lock()  # not an event: what a signal handler raises cannot leave it half set
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
        """Wait on the running loop, until something is due or so many seconds have gone by.

        Raises:
            InvalidInputError: On a loop that is neither of asyncio nor of trio.
        """
        await _loop().wait(self, is_due, seconds)


async def checkpoint() -> None:
    """Let the other tasks of the running loop have their turn; here a task can be cancelled."""
    await _loop().checkpoint()


class _Asyncio:
    @staticmethod
    async def wait(bell: Bell, is_due: Callable[[], bool], seconds: float | None) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not woken.done():
                woken.set_result(None)

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(settle)

        bell.add(wake)
        try:
            if not is_due():
                await asyncio.wait([woken], timeout=seconds)
        finally:
            bell.discard(wake)

    @staticmethod
    def checkpoint() -> Awaitable[None]:
        import asyncio

        return asyncio.sleep(0)


class _Trio:
    @staticmethod
    async def wait(bell: Bell, is_due: Callable[[], bool], seconds: float | None) -> None:
        import trio

        woken, token = trio.Event(), trio.lowlevel.current_trio_token()

        def wake() -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(woken.set)

        bell.add(wake)
        try:
            if not is_due():
                with trio.move_on_after(float("inf") if seconds is None else max(seconds, 0.0)):
                    await woken.wait()
        finally:
            bell.discard(wake)

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
            "a stream can be awaited in asyncio and in trio; elsewhere call get() in a thread"
        ) from None
    return _Asyncio
