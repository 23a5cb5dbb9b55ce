"""Calls of callbacks: how a call starts, how it ends, and which thread makes it.

A callback is the application's code, so it may block or raise. At most one call of it is in progress.
Collections that run at the same time share that call.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from metrics_framework.error_types import error_type_of
from metrics_framework.log import raise_interrupt
from metrics_framework.runtime.cooperative import cooperatively
from metrics_framework.runtime.event_loops import Notifier
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork
from metrics_framework.validation import safe_repr

if TYPE_CHECKING:
    import asyncio

MAX_THREADS = 32
"""How many sync calls run at once. Calls that have timed out do not count."""


class Callback:
    """A function that collections call, and the outcome of its last call.

    `CallRunner` clears ``failure`` after a success. Its owner sets it, in the function ``on_failure``.

    Args:
        name: Names the callback in metrics and in the log.
        function: The function, which is called without arguments.
        deadline: Seconds that a call may take.
        tags: Tags of the gauge.
        is_recorded: Whether the return value is recorded as a gauge.

    Attributes:
        is_async: Whether the return value must be awaited.
        is_removed: Whether the callback was removed, so that its return value is discarded.
        current_call: The call in progress, if any. A call that has timed out is in progress until it returns.
        good_ns: When the last good value arrived, on the owner's clock.
        failure: The reason of the last failure; ``None`` since the last success.
        has_failed: Whether a call has ever failed.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[], Any],
        deadline: float,
        tags: Mapping[str, str] | None = None,
        *,
        is_recorded: bool = True,
    ) -> None:
        self.name = name
        self.function = function
        self.deadline = deadline
        self.tags = dict(tags or {})
        self.is_recorded = is_recorded
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object whose `__call__` is async
        )
        self.is_removed = False
        self.reset()
        reset_after_fork(self, Callback.reset, ForkOrder.STATE)

    def reset(self) -> None:
        """Discard all outcomes, as in a forked child: its store is empty and its threads are gone."""
        self.current_call: CallbackCall | None = None
        self.good_ns: int | None = None
        self.failure: str | None = None
        self.has_failed = False


class CallbackCall:
    """One call of a callback.

    Attributes:
        callback: The callback.
        task: The asyncio task that makes the call, if any.
        is_started: Whether a thread or task has taken up the call.
        has_outcome: Whether the call has succeeded, failed or timed out.
        is_timed_out: Whether the call exceeded its deadline.
        is_timeout_counted: Whether a collection has counted the time-out.
        is_finished: Whether waiters can stop waiting. A finished call without an outcome was abandoned.
    """

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.task: asyncio.Task[None] | None = None
        self.is_started = False
        self.has_outcome = False
        self.is_timed_out = False
        self.is_timeout_counted = False
        self.is_finished = False
        self._deadline = time.monotonic() + callback.deadline
        self._finished = Notifier()

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; zero after it."""
        return max(0.0, self._deadline - time.monotonic())

    def wait(self) -> None:
        """Block this thread until the call is finished or its deadline passes."""
        self._finished.wait(self._is_finished, self.seconds_left)

    async def wait_async(self) -> None:
        """Wait in a task until the call is finished or its deadline passes."""
        await self._finished.wait_async(self._is_finished, self.seconds_left)

    def on_finish(self, function: Callable[[], object]) -> None:
        """Call a function in the thread that finishes the call; at once if the call is finished already."""
        self._finished.add(function)
        if self.is_finished:
            self._finished.notify()

    def finish(self) -> None:
        """Wake the waiters for good."""
        self.is_finished = True
        self._finished.notify()

    def _is_finished(self) -> bool:
        return self.is_finished


class JoinedCall(NamedTuple):
    """A call that a collection waits for.

    Attributes:
        call: The call; other collections may wait for it too.
        was_timed_out: Whether it had timed out before this collection joined.
    """

    call: CallbackCall
    was_timed_out: bool


class CallRunner:
    """Makes the calls of callbacks and determines their outcomes. Thread-safe.

    Args:
        on_value: Receives each return value, in the thread that made the call. If it raises, the call fails.
        on_failure: Receives each failure: the callback, the error type or ``timeout``, and a message.
    """

    def __init__(
        self,
        on_value: Callable[[Callback, object], object],
        on_failure: Callable[[Callback, str, str], object],
    ) -> None:
        self._on_value = on_value
        self._on_failure = on_failure
        self.reset()
        reset_after_fork(self, CallRunner.reset, ForkOrder.STATE)

    def reset(self) -> None:
        """Start without calls and threads, as in a forked child."""
        # Reentrant, because a finalizer may remove a callback while this thread holds the lock.
        self._lock = threading.RLock()
        self._threads = CallThreads(self.call, self.refuse)

    # -- for collections ---------------------------------------------------------------------------------

    def start(
        self, callbacks: Iterable[Callback], start_async: Callable[[Sequence[CallbackCall]], object]
    ) -> list[JoinedCall]:
        """Start a call of each callback, or join the call in progress.

        Args:
            callbacks: The callbacks.
            start_async: Starts the new calls of async callbacks.
        """
        joined: list[JoinedCall] = []
        new: list[CallbackCall] = []
        try:
            with self._lock:
                for callback in callbacks:
                    if callback.is_removed:
                        continue
                    call = callback.current_call
                    if call is None or _is_loop_closed(call):
                        call = callback.current_call = CallbackCall(callback)
                        new.append(call)
                    joined.append(JoinedCall(call, call.is_timed_out))
            self._threads.start([call for call in new if not call.callback.is_async])
            async_calls = [call for call in new if call.callback.is_async]
            if async_calls:
                start_async(async_calls)
        except BaseException:
            # An interrupt. Calls that have started continue; the others would never finish.
            for call in new:
                if not call.is_started:
                    self.finish(call)
            raise
        return joined

    def count_timeouts(self, joined: Iterable[JoinedCall]) -> list[Callback]:
        """Count the calls that have timed out.

        Returns:
            The callbacks whose calls were abandoned by another collection and must be called again.
        """
        again: list[Callback] = []
        for each in joined:
            call = each.call
            if not call.is_finished:
                self.time_out(call)
            if not call.has_outcome:
                again.append(call.callback)
            elif call.is_timed_out:
                self._count_timeout(each)
        return again

    # -- for threads and tasks that make calls -----------------------------------------------------------

    def call(self, call: CallbackCall) -> None:
        """Make a call in this thread. If the function proves to be async, it ends without an outcome."""
        callback = call.callback
        call.is_started = True
        try:
            if not call.is_finished:
                value = callback.function()
                if isinstance(value, Awaitable):
                    callback.is_async = True
                    getattr(value, "close", lambda: None)()
                else:
                    self._succeed(call, value)
        except BaseException as error:  # noqa: BLE001 - SystemExit, too, would end the thread
            self.fail(call, error)
        finally:
            self.finish(call)

    async def call_async(self, call: CallbackCall) -> None:
        """Make a call in this task and await its return value. The caller finishes the call."""
        call.is_started = True
        try:
            value = call.callback.function()
            if isinstance(value, Awaitable):
                value = await value
            self._succeed(call, value)
        except Exception as error:  # noqa: BLE001 - a callback may raise anything
            self.fail(call, error)
        except (KeyboardInterrupt, SystemExit, GeneratorExit) as error:  # each would end the event loop
            raise_interrupt(error)
            self.fail(call, error)

    def time_out(self, call: CallbackCall) -> None:
        """Mark a call as timed out. The collections count it, so that it is counted when they return."""
        with self._lock:
            if not call.is_finished and not call.has_outcome:
                call.has_outcome = call.is_timed_out = True

    def fail(self, call: CallbackCall, error: BaseException) -> None:
        """Report a failure, unless the call has an outcome already."""
        with self._lock:
            is_first = not call.is_finished and not call.has_outcome
            call.has_outcome = True
        if is_first:
            self._on_failure(call.callback, error_type_of(error), safe_repr(error))

    def finish(self, call: CallbackCall) -> None:
        """Finish a call. If it has no outcome, its waiters start a new one."""
        with self._lock:
            if call.callback.current_call is call:
                call.callback.current_call = None
        call.finish()

    def refuse(self, call: CallbackCall, error: Exception) -> None:
        """Fail a call that could not be started."""
        self.fail(call, error)
        self.finish(call)

    def _count_timeout(self, joined: JoinedCall) -> None:
        call, callback = joined.call, joined.call.callback
        with self._lock:
            # Collections that waited together count one failure; one that joined later counts its own.
            is_counted = call.is_timeout_counted and not joined.was_timed_out
            call.is_timeout_counted = True
        if not call.is_finished:
            self._threads.abandon(call)
        if not is_counted:
            self._on_failure(callback, "timeout", f"no answer within {callback.deadline:g} seconds")

    def _succeed(self, call: CallbackCall, value: object) -> None:
        if call.is_finished:
            return
        self._on_value(call.callback, value)
        with self._lock:
            if not call.is_timed_out:  # a late value is recorded, but the time-out stays a failure
                call.has_outcome = True
                call.callback.failure = None


class CallThreads:
    """Daemon threads for sync calls. They exist only while there are calls to make.

    New threads start while calls are pending: the first one often makes all quick calls before a second one
    would have started.

    Args:
        call: Makes a call. It must not raise.
        refuse: Receives a call for which no thread could be started, and the error.
    """

    def __init__(
        self, call: Callable[[CallbackCall], object], refuse: Callable[[CallbackCall, Exception], object]
    ) -> None:
        self._call = call
        self._refuse = refuse
        self._lock = threading.RLock()
        self._pending: deque[CallbackCall] = deque()
        self._running: dict[CallbackCall, object] = {}  # each with the slot of its thread
        self._slots: set[object] = set()  # one for each thread that has not been abandoned

    def start(self, calls: Iterable[CallbackCall]) -> None:
        """Make calls. If all slots are taken, the last ones wait for a free thread."""
        self._pending.extend(calls)
        self._start_threads()

    def abandon(self, call: CallbackCall) -> None:
        """Free the slot of the thread that makes a call. The thread ends if the call ever returns."""
        with self._lock:
            if call not in self._running:
                return
            self._slots.discard(self._running.pop(call))
        self._start_threads()

    def _start_threads(self) -> None:
        for _ in range(len(self._pending)):
            slot = object()
            with self._lock:
                if not self._pending or len(self._slots) >= MAX_THREADS:
                    return
                self._slots.add(slot)
            try:
                threading.Thread(target=self._run, args=[slot], name="metrics-callback", daemon=True).start()
            except BaseException as error:
                with self._lock:
                    self._slots.discard(slot)
                if not isinstance(error, RuntimeError):  # an interrupt
                    raise
                self._refuse_pending(error)  # the system has no more threads
                return

    def _refuse_pending(self, error: RuntimeError) -> None:
        with self._lock:
            if self._slots:  # a running thread makes the pending calls
                return
            refused = list(self._pending)
            self._pending.clear()
        for call in refused:
            self._refuse(call, error)

    def _run(self, slot: object) -> None:
        while True:
            with self._lock:
                if not self._pending:
                    self._slots.discard(slot)
                    return
                call = self._pending.popleft()
                self._running[call] = slot
            with cooperatively():
                self._call(call)
            with self._lock:
                if call not in self._running:  # abandoned: another thread may have taken the slot
                    return
                del self._running[call]
            del call  # otherwise the callback would stay alive until the next call


def _is_loop_closed(call: CallbackCall) -> bool:
    return call.task is not None and call.task.get_loop().is_closed()
