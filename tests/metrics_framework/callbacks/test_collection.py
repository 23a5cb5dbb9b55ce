"""Collections on asyncio and trio: they never block the event loop, and leave nothing on it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections import deque

import pytest
import trio

from metrics_adapters.in_memory import InMemoryCollector
from metrics_framework import InvalidInputError, MetricsSystem
from metrics_framework.callbacks import CallbackState, GaugeCallbacks
from metrics_framework.recording import Store
from tests.metrics_framework.callbacks.test_gauges import (
    SHORT_DEADLINE_SECONDS,
    WAIT_SECONDS,
    Hanging,
    failures,
    last,
    threads,
    wait_for,
)


class Asyncio:
    """Runs tests on asyncio."""

    sleep = staticmethod(asyncio.sleep)
    cancelled = asyncio.CancelledError

    @staticmethod
    def run(function):
        """Run an async function, and check that it leaves no task."""

        async def main():
            result = await function()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return result

        return asyncio.run(main(), debug=True)

    @staticmethod
    @contextlib.asynccontextmanager
    async def beside(function):
        """Run an async function during the block, and cancel it at the end."""
        task = asyncio.create_task(function())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Trio:
    """Runs tests on trio."""

    sleep = staticmethod(trio.sleep)
    cancelled = trio.Cancelled

    @staticmethod
    def run(function):
        """Run an async function. Trio itself leaves no task."""
        return trio.run(function)

    @staticmethod
    @contextlib.asynccontextmanager
    async def beside(function):
        """Run an async function during the block, and cancel it at the end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(function)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture(params=[Asyncio, Trio], ids=["asyncio", "trio"])
def loops(request):
    """Return the class that runs the test."""
    return request.param


@pytest.fixture
def collector(clock):
    """Return a collector with a manual clock."""
    return InMemoryCollector(Store(clock))


@pytest.fixture
def callbacks(collector, clock):
    """Return callbacks for that collector, and check that no thread is left."""
    callbacks = GaugeCallbacks(collector, clock=clock)
    yield callbacks
    callbacks.close()
    wait_for(lambda: not threads())
    gc.collect()  # warns of a coroutine that was never awaited


def test_async_callbacks_run_on_the_loop_and_sync_ones_in_threads(loops, callbacks, collector):
    """Both values are recorded, also of a function that only proves to be async."""
    where = {}

    async def on_loop():
        await loops.sleep(0.001)
        where["async"] = threading.current_thread()
        return 1

    def in_thread():
        where["sync"] = threading.current_thread()
        return 2

    callbacks.add("async", on_loop)
    callbacks.add("sync", in_thread)
    callbacks.add("hidden", lambda: on_loop())
    for _ in range(2):
        loops.run(callbacks.collect_async)
    assert [last(collector, name) for name in ("async", "sync", "hidden")] == [1, 2, 1]
    assert where["async"] is threading.current_thread() is not where["sync"]
    assert [state.failure for state in callbacks.states()] == [None] * 3


def test_a_collection_without_callbacks_returns(loops, callbacks):
    """There is nothing to wait for."""
    loops.run(callbacks.collect_async)


def test_a_callback_that_blocks_does_not_block_the_loop(loops, callbacks, collector):
    """Other tasks run while a sync callback hangs, and the collection ends at its deadline."""
    hanging = Hanging(value=9)
    turns = []

    async def turn():
        while True:
            turns.append(1)
            await loops.sleep(0.001)

    async def collect():
        async with loops.beside(turn):
            await callbacks.collect_async()

    callbacks.add("slow", hanging, deadline=SHORT_DEADLINE_SECONDS)
    callbacks.add("quick", lambda: 1, deadline=WAIT_SECONDS)
    loops.run(collect)
    loops.run(collect)
    assert len(turns) > 3
    assert (hanging.calls, failures(collector, "slow", "timeout"), last(collector, "quick")) == (1, 2, 1)
    hanging.go_on.set()
    wait_for(lambda: last(collector, "slow") == 9)


@pytest.mark.slow
def test_async_callbacks_run_concurrently_and_are_cancelled_at_their_deadlines(loops, callbacks, collector):
    """A hundred that hang take as long as one. Each can clean up, and is called again the next time."""
    cleaned = []

    async def hang():
        try:
            await loops.sleep(WAIT_SECONDS)
        except loops.cancelled:
            cleaned.append(1)
            raise

    for number in range(100):
        callbacks.add(f"slow.{number}", hang, deadline=0.1)
    start = time.monotonic()
    loops.run(callbacks.collect_async)
    loops.run(callbacks.collect_async)
    assert 0.2 <= time.monotonic() - start < 20
    assert len(cleaned) == 200
    assert [failures(collector, f"slow.{number}", "timeout") for number in range(100)] == [2] * 100


@pytest.mark.parametrize(
    ("raised", "error_type"),
    [(OSError("full"), "OSError"), (ExceptionGroup("g", [OSError()]), "OSError")],
)
def test_a_failure_affects_no_other_callback(loops, callbacks, collector, raised, error_type):
    """The failure is counted."""

    async def bad():
        await loops.sleep(0)
        raise raised

    async def good():
        await loops.sleep(0.001)
        return 1

    callbacks.add("bad", bad)
    callbacks.add("good", good)
    loops.run(callbacks.collect_async)
    assert (failures(collector, "bad", error_type), last(collector, "good")) == (1, 1)


def test_an_interrupt_in_a_callback_reaches_the_program(loops, callbacks):
    """Ctrl-C during a callback is not the callback's failure, and the next collection succeeds."""
    answers = deque([KeyboardInterrupt(), None])

    async def interrupted():
        await loops.sleep(0)
        answer = answers.popleft()
        if answer is not None:
            raise answer
        return 1

    callbacks.add("size", interrupted)
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - trio wraps it in groups
        loops.run(callbacks.collect_async)
    error = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, KeyboardInterrupt)
    assert callbacks.states() == [CallbackState("size", {}, None, None)]
    loops.run(callbacks.collect_async)
    assert callbacks.states() == [CallbackState("size", {}, 0.0, None)]


def test_a_cancelled_collection_leaves_no_task(loops, callbacks, collector):
    """Its async callbacks are cancelled without a failure; a sync one continues in its thread."""
    hanging = Hanging(value=9)
    begun, cleaned = [], []

    async def waits():
        begun.append(1)
        try:
            await loops.sleep(WAIT_SECONDS)
        except loops.cancelled:
            cleaned.append(1)
            raise

    async def collect():
        async with loops.beside(callbacks.collect_async):
            while not (begun and hanging.calls):
                await loops.sleep(0.001)

    callbacks.add("async", waits, deadline=WAIT_SECONDS)
    callbacks.add("sync", hanging, deadline=WAIT_SECONDS)
    loops.run(collect)
    assert (begun, cleaned) == ([1], [1])
    assert [state.failure for state in callbacks.states()] == [None, None]
    hanging.go_on.set()
    wait_for(lambda: last(collector, "sync") == 9)


def test_a_collection_repeats_a_call_that_another_one_cancelled(loops, callbacks, collector):
    """A scraper that disconnects does not affect another one."""
    waits = deque([WAIT_SECONDS, 0])
    begun = []

    async def size():
        begun.append(1)
        await loops.sleep(waits.popleft())
        return 1

    async def collect():
        async with contextlib.AsyncExitStack() as others:
            first = await others.enter_async_context(contextlib.AsyncExitStack())
            await first.enter_async_context(loops.beside(callbacks.collect_async))
            while not begun:
                await loops.sleep(0.001)
            await others.enter_async_context(loops.beside(callbacks.collect_async))
            await loops.sleep(0.01)
            await first.aclose()
            while last(collector, "pool.size") is None:
                await loops.sleep(0.001)

    callbacks.add("pool.size", size, deadline=WAIT_SECONDS)

    if loops is Trio:  # its nurseries must end in the order in which they nest

        async def collect_on_trio():
            first = trio.CancelScope()

            async def cancellable():
                with first:
                    await callbacks.collect_async()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancellable)
                while not begun:
                    await trio.sleep(0.001)
                nursery.start_soon(callbacks.collect_async)
                await trio.sleep(0.01)
                first.cancel()

        trio.run(collect_on_trio)
    else:
        loops.run(collect)
    assert (len(begun), last(collector, "pool.size")) == (2, 1)


def test_a_thread_and_a_loop_share_a_call(loops, callbacks, collector):
    """A collection in a thread waits for a call that runs on the event loop."""
    begun, done = threading.Event(), threading.Event()
    calls = []

    async def size():
        calls.append(1)
        begun.set()
        while not done.is_set():
            await loops.sleep(0.001)
        return 1

    callbacks.add("pool.size", size, deadline=WAIT_SECONDS)
    collected = []

    def collect():
        assert begun.wait(WAIT_SECONDS)
        threading.Timer(0.02, done.set).start()
        callbacks.collect()
        collected.append(last(collector, "pool.size"))

    other = threading.Thread(target=collect)
    other.start()
    loops.run(callbacks.collect_async)
    other.join(WAIT_SECONDS)
    assert collected == [1]
    assert len(calls) <= 2  # the thread may have started after the call returned


def test_collections_that_time_out_leave_no_waiter_behind(loops, callbacks):
    """Neither a collection in a task nor one in a thread stays registered with a hanging call."""
    hanging = Hanging()
    callbacks.add("slow", hanging, deadline=SHORT_DEADLINE_SECONDS)

    async def collect():
        async with loops.beside(callbacks.collect_async), loops.beside(callbacks.collect_async):
            await callbacks.collect_async()

    loops.run(collect)
    loops.run(collect)
    callbacks.collect()
    (callback,) = callbacks._callbacks.values()
    assert callback.current_call._finished._wakes == []
    hanging.go_on.set()


def test_a_callback_that_ignores_its_cancellation_is_not_called_again(callbacks, collector):
    """The collection ends without it, and its late value is recorded."""
    calls = []

    async def stubborn(end):
        calls.append(1)
        while not end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await end.wait()
        return 5

    async def main():
        end = asyncio.Event()
        callbacks.add("size", lambda: stubborn(end), deadline=SHORT_DEADLINE_SECONDS)
        for count in range(1, 3):
            await callbacks.collect_async()
            assert failures(collector, "size", "timeout") == count
        assert len(calls) == 1
        end.set()
        while last(collector, "size") != 5:
            await asyncio.sleep(0)

    asyncio.run(main())
    assert callbacks.states()[0].failure == "timeout"


def test_a_call_whose_loop_was_closed_is_made_again(callbacks, collector):
    """Otherwise its callback would hang forever."""
    waits = deque([WAIT_SECONDS] * 3)

    async def size():
        while True:
            try:
                await asyncio.sleep(waits.popleft() if waits else WAIT_SECONDS)
                return 1
            except asyncio.CancelledError:
                pass

    callbacks.add("size", size, deadline=SHORT_DEADLINE_SECONDS)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(callbacks.collect_async())
    (task,) = asyncio.all_tasks(loop)
    loop.close()
    task._log_destroy_pending = False
    waits.clear()
    waits.append(0)
    callbacks.collect()
    assert last(collector, "size") == 1


def test_trio_as_a_guest_of_asyncio_is_detected(callbacks, collector):
    """The callbacks run on trio."""

    async def size():
        await trio.sleep(0.001)
        return 1

    callbacks.add("size", size)

    async def main():
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        trio.lowlevel.start_guest_run(
            callbacks.collect_async,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=ended.set_result,
        )
        (await ended).unwrap()

    asyncio.run(main())
    assert last(collector, "size") == 1


def test_collecting_without_an_event_loop_is_an_error(callbacks):
    """The message names the supported event loops, and the method for threads."""
    with pytest.raises(InvalidInputError, match="no asyncio or trio event loop is running"):
        callbacks.collect_async().send(None)


# -- in a system ---------------------------------------------------------------------------------------------


def test_a_system_collects_resources_and_callbacks(loops):
    """Both are recorded when `collect_metrics_async` returns."""
    with MetricsSystem() as metrics:

        @metrics.callbacks.add("pool.size")
        async def size():
            await loops.sleep(0.001)
            return 3

        loops.run(metrics.collect_metrics_async)
        assert metrics.aggregator.get_metric_summary("pool.size")["last"] == 3
        assert metrics.aggregator.get_metric_summary("process.memory.usage")["last"] > 0


def test_hanging_resources_do_not_delay_callbacks(loops, monkeypatch):
    """They have a deadline, count as a failure of a callback, and are not read twice at the same time."""
    monkeypatch.setattr("metrics_framework.system.RESOURCES_DEADLINE", SHORT_DEADLINE_SECONDS)
    reading, calls = threading.Event(), []

    class Monitor(type(MetricsSystem().resource_monitor)):
        def get_memory_usage(self):
            calls.append(1)
            assert reading.wait(WAIT_SECONDS)
            return super().get_memory_usage()

    collector = InMemoryCollector()
    with MetricsSystem(collector=collector, resource_monitor=Monitor(collector)) as metrics:
        metrics.callbacks.add("size", lambda: 1, deadline=WAIT_SECONDS)
        for count in range(1, 3):
            loops.run(metrics.collect_metrics_async)
            assert failures(collector, "resources", "timeout") == count
        assert (last(collector, "size"), len(calls)) == (1, 1)
        reading.set()
        wait_for(lambda: last(collector, "process.memory.usage") is not None)
        wait_for(lambda: not threads())
