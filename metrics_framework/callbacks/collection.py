"""Collections: call all callbacks at once and wait for them, in a thread, in asyncio or in trio.

asyncio and trio are slow to import, and a program without async callbacks needs neither, so functions import
them where they use them.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from metrics_framework.callbacks.calls import Callback, CallbackCall, CallRunner
from metrics_framework.runtime.event_loops import checkpoint, running_trio
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork

if TYPE_CHECKING:
    import asyncio

CLEANUP_SECONDS = 0.1
"""How long a collection on asyncio waits for the cleanup of the calls that it cancelled."""


# -- in a task ----------------------------------------------------------------------------------------------


async def collect_async(runner: CallRunner, callbacks: Iterable[Callback]) -> None:
    """Call all callbacks from a task of the running event loop, without blocking it.

    Async callbacks run on this loop and are cancelled at their deadlines.

    Raises:
        InvalidInputError: If no event loop of asyncio or trio is running.
    """
    await checkpoint()  # raises the error even if there are no callbacks
    if running_trio() is not None:
        await _collect_on_trio(runner, callbacks)
    else:
        await _collect_on_asyncio(runner, callbacks)


async def _collect_on_asyncio(runner: CallRunner, callbacks: Iterable[Callback]) -> None:
    import asyncio

    started: list[CallbackCall] = []

    def start(calls: Sequence[CallbackCall]) -> None:
        for call in calls:
            _start_task(runner, call)
            started.append(call)

    try:
        await _call_and_wait(runner, callbacks, start)
    finally:
        pending = [(call, call.task) for call in started if call.task is not None and not call.task.done()]
        for call, task in pending:
            if not call.is_timed_out:  # otherwise its timer cancels it
                task.cancel()
        if pending:
            await asyncio.wait([task for _, task in pending], timeout=CLEANUP_SECONDS)


async def _collect_on_trio(runner: CallRunner, callbacks: Iterable[Callback]) -> None:
    import trio

    async with trio.open_nursery() as nursery:

        def start(calls: Sequence[CallbackCall]) -> None:
            for call in calls:
                nursery.start_soon(_call_on_trio, runner, call)

        await _call_and_wait(runner, callbacks, start)


async def _call_and_wait(
    runner: CallRunner, callbacks: Iterable[Callback], start: Callable[[Sequence[CallbackCall]], object]
) -> None:
    joined = runner.start(callbacks, start)
    while joined:
        for each in joined:
            await each.call.wait_async()
        joined = runner.start(runner.count_timeouts(joined), start)


def _start_task(runner: CallRunner, call: CallbackCall) -> None:
    """Make a call in a task of the running asyncio loop, and cancel the task at the deadline."""
    import asyncio

    if call.is_finished:
        return
    loop = asyncio.get_running_loop()
    task = call.task = loop.create_task(runner.call_async(call), name="metrics-callback")

    def time_out() -> None:
        runner.time_out(call)
        task.cancel()

    timer = loop.call_later(call.seconds_left, time_out)

    def finish(task: asyncio.Task[None]) -> None:
        timer.cancel()
        if not task.cancelled():
            # The loop raises an interrupt, too. asyncio logs an exception that was never retrieved.
            task.exception()
        elif not task.cancelling():  # the callback raised CancelledError itself
            runner.fail(call, asyncio.CancelledError())
        runner.finish(call)

    task.add_done_callback(finish)


async def _call_on_trio(runner: CallRunner, call: CallbackCall) -> None:
    import trio

    try:
        with trio.move_on_after(call.seconds_left) as scope:
            await runner.call_async(call)
        if scope.cancelled_caught:
            runner.time_out(call)
    finally:
        runner.finish(call)


# -- in a thread --------------------------------------------------------------------------------------------


class ThreadCollector:
    """Collects from threads. Async callbacks run on an event loop in one daemon thread.

    The thread starts with the first async callback and ends with `close` or with this object.

    Args:
        runner: Makes the calls.
    """

    def __init__(self, runner: CallRunner) -> None:
        self._runner = runner
        self._reset()
        reset_after_fork(self, ThreadCollector._reset_in_child, ForkOrder.STATE)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._loop_thread: EventLoopThread | None = None
        self._finalizer: weakref.finalize[[], ThreadCollector] | None = None

    def collect(self, callbacks: Iterable[Callback]) -> None:
        """Call all callbacks at once. Return when each has finished or timed out."""
        self._replace_blocked_loop()
        joined = self._runner.start(callbacks, self._start)
        while joined:
            for each in joined:
                each.call.wait()
            joined = self._runner.start(self._runner.count_timeouts(joined), self._start)

    def close(self) -> None:
        """Stop the event loop thread. The next collection with an async callback starts a new one."""
        with self._lock:
            stop, self._finalizer, self._loop_thread = self._finalizer, None, None
        if stop is not None:
            stop()

    def _start(self, calls: Sequence[CallbackCall]) -> None:
        try:
            with self._lock:  # so that `close` cannot stop the loop before it has the calls
                if self._loop_thread is None:
                    self._loop_thread = EventLoopThread()
                    self._finalizer = weakref.finalize(self, self._loop_thread.stop)
                    self._finalizer.atexit = False
                self._loop_thread.start(self._runner, calls)
        except Exception as error:  # noqa: BLE001 - no more threads or file descriptors
            for call in calls:
                self._runner.refuse(call, error)

    def _replace_blocked_loop(self) -> None:
        thread = self._loop_thread
        blocked = thread.blocked_calls() if thread is not None else None
        if blocked is not None:
            self.close()
            for call in blocked:
                self._runner.finish(call)

    def _reset_in_child(self) -> None:
        if self._loop_thread is not None and self._finalizer is not None:
            # Closing the loop would remove its pipe from the selector, which the parent still uses.
            self._finalizer.detach()
            _inherited_threads.append(self._loop_thread)
        self._reset()


_inherited_threads: list[EventLoopThread] = []
"""Threads of the parent, kept in a forked child so that their event loops are never closed."""


class EventLoopThread:
    """A daemon thread that runs an asyncio event loop until `stop`."""

    def __init__(self) -> None:
        import asyncio

        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = runner.get_loop()
        self._calls: set[CallbackCall] = set()
        try:
            threading.Thread(
                target=_run_loop, args=[runner], name="metrics-async-callbacks", daemon=True
            ).start()
        except BaseException:
            runner.close()
            raise

    def start(self, runner: CallRunner, calls: Sequence[CallbackCall]) -> None:
        """Make calls on the loop. They would never start after `stop`."""

        def start_all() -> None:
            for call in calls:
                _start_task(runner, call)

        for call in calls:
            self._calls.add(call)
            call.on_finish(partial(self._calls.discard, call))
        self._loop.call_soon_threadsafe(start_all)

    def blocked_calls(self) -> list[CallbackCall] | None:
        """Return the calls that cannot continue because a timed-out call blocks the loop.

        Returns:
            ``None`` if no call blocks the loop.
        """
        import asyncio

        current, calls = asyncio.current_task(self._loop), list(self._calls)
        if current is None or not any(call.task is current and not call.seconds_left for call in calls):
            return None
        return [call for call in calls if call.task is not current]

    def stop(self) -> None:
        """Stop the loop and the thread once no call blocks them. A second call does nothing."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._loop.stop)


def _run_loop(runner: asyncio.Runner) -> None:
    with runner:
        runner.get_loop().run_forever()
