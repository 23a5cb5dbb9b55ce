"""Gauge callbacks looked at from asyncio and trio: the loop is never blocked, and nothing is left on it."""

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
    PATIENCE,
    SHORT,
    Hanging,
    failures,
    last,
    threads,
    wait_for,
)


class Asyncio:
    """What the tests need of asyncio."""

    sleep = staticmethod(asyncio.sleep)
    cancelled = asyncio.CancelledError

    @staticmethod
    def run(function):
        """Run an async function; see that it leaves no task."""

        async def main():
            result = await function()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return result

        return asyncio.run(main(), debug=True)

    @staticmethod
    @contextlib.asynccontextmanager
    async def beside(function):
        """Run an async function beside the block, and cancel it at its end."""
        task = asyncio.create_task(function())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Trio:
    """What the tests need of trio."""

    sleep = staticmethod(trio.sleep)
    cancelled = trio.Cancelled

    @staticmethod
    def run(function):
        """Run an async function; trio itself lets no task be left."""
        return trio.run(function)

    @staticmethod
    @contextlib.asynccontextmanager
    async def beside(function):
        """Run an async function beside the block, and cancel it at its end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(function)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture(params=[Asyncio, Trio], ids=["asyncio", "trio"])
def loops(request):
    """Return one way of running async functions, then the other."""
    return request.param


@pytest.fixture
def collector(clock):
    """Return a collector on the clock that the test moves."""
    return InMemoryCollector(Store(clock))


@pytest.fixture
def callbacks(collector, clock):
    """Return callbacks into that collector; nothing is left of them."""
    callbacks = GaugeCallbacks(collector, clock=clock)
    yield callbacks
    callbacks.close()
    wait_for(lambda: not threads())
    gc.collect()  # a coroutine that was never awaited would say so now


def test_async_callbacks_run_on_the_loop_and_sync_ones_off_it(loops, callbacks, collector):
    """Each kind is called where it belongs, and both values are recorded."""
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


def test_without_callbacks_a_look_is_nothing(loops, callbacks):
    """It returns."""
    loops.run(callbacks.collect_async)


def test_a_callback_that_blocks_does_not_block_the_loop(loops, callbacks, collector):
    """The loop goes on while a sync one hangs, and the look ends at its deadline."""
    hanging = Hanging(value=9)
    turns = []

    async def turn():
        while True:
            turns.append(1)
            await loops.sleep(0.001)

    async def look():
        async with loops.beside(turn):
            await callbacks.collect_async()

    callbacks.add("slow", hanging, deadline=SHORT)
    callbacks.add("quick", lambda: 1, deadline=PATIENCE)
    loops.run(look)
    loops.run(look)
    assert len(turns) > 3
    assert (hanging.calls, failures(collector, "slow", "timeout"), last(collector, "quick")) == (1, 2, 1)
    hanging.go_on.set()
    wait_for(lambda: last(collector, "slow") == 9)


def test_async_callbacks_run_at_once_and_are_cancelled_at_their_deadlines(loops, callbacks, collector):
    """Ten that hang take as long as one; each cleans up, and is called again the next time."""
    cleaned = []

    async def hang():
        try:
            await loops.sleep(PATIENCE)
        except loops.cancelled:
            cleaned.append(1)
            raise

    for number in range(10):
        callbacks.add(f"slow.{number}", hang, deadline=0.1)
    start = time.monotonic()
    loops.run(callbacks.collect_async)
    loops.run(callbacks.collect_async)
    assert 0.2 <= time.monotonic() - start < 2
    assert len(cleaned) == 20
    assert [failures(collector, f"slow.{number}", "timeout") for number in range(10)] == [2] * 10


@pytest.mark.parametrize(
    ("raised", "error_type"),
    [(OSError("full"), "OSError"), (ExceptionGroup("g", [OSError()]), "ExceptionGroup")],
)
def test_a_failure_costs_its_own_sample_only(loops, callbacks, collector, raised, error_type):
    """The others are read, and the failure is counted."""

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


def test_an_interrupt_in_a_callback_goes_to_the_program(loops, callbacks):
    """Ctrl-C may land in a callback, and is not the callback's failure; afterwards all works again."""
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


def test_a_look_that_is_cancelled_leaves_nothing(loops, callbacks, collector):
    """Async callbacks are cancelled with it and are no failures; a sync one goes on in its thread."""
    hanging = Hanging(value=9)
    begun, cleaned = [], []

    async def waits():
        begun.append(1)
        try:
            await loops.sleep(PATIENCE)
        except loops.cancelled:
            cleaned.append(1)
            raise

    async def look():
        async with loops.beside(callbacks.collect_async):
            while not (begun and hanging.calls):
                await loops.sleep(0.001)

    callbacks.add("async", waits, deadline=PATIENCE)
    callbacks.add("sync", hanging, deadline=PATIENCE)
    loops.run(look)
    assert (begun, cleaned) == ([1], [1])
    assert [state.failure for state in callbacks.states()] == [None, None]
    hanging.go_on.set()
    wait_for(lambda: last(collector, "sync") == 9)


def test_who_shares_a_call_that_another_cancels_makes_it_again(loops, callbacks, collector):
    """A scraper that hangs up costs the other one nothing."""
    waits = deque([PATIENCE, 0])
    begun = []

    async def size():
        begun.append(1)
        await loops.sleep(waits.popleft())
        return 1

    async def look():
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

    callbacks.add("pool.size", size, deadline=PATIENCE)

    if loops is Trio:  # its nurseries must end in the order in which they nest

        async def look_in_trio():
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

        trio.run(look_in_trio)
    else:
        loops.run(look)
    assert (len(begun), last(collector, "pool.size")) == (2, 1)


def test_a_thread_and_a_loop_share_a_call(loops, callbacks, collector):
    """Who looks from a thread waits for what runs on the loop."""
    begun, done = threading.Event(), threading.Event()
    calls = []

    async def size():
        calls.append(1)
        begun.set()
        while not done.is_set():
            await loops.sleep(0.001)
        return 1

    callbacks.add("pool.size", size, deadline=PATIENCE)
    looked = []

    def look():
        assert begun.wait(PATIENCE)
        threading.Timer(0.02, done.set).start()
        callbacks.collect()
        looked.append(last(collector, "pool.size"))

    other = threading.Thread(target=look)
    other.start()
    loops.run(callbacks.collect_async)
    other.join(PATIENCE)
    assert looked == [1]
    assert len(calls) <= 2  # the thread may have looked after the answer


def test_collections_that_time_out_leave_no_waiter_behind(loops, callbacks):
    """Neither a collection in a task nor one in a thread stays registered with a hanging call."""
    hanging = Hanging()
    callbacks.add("slow", hanging, deadline=SHORT)

    async def collect():
        async with loops.beside(callbacks.collect_async), loops.beside(callbacks.collect_async):
            await callbacks.collect_async()

    loops.run(collect)
    loops.run(collect)
    callbacks.collect()
    (callback,) = callbacks._callbacks.values()
    assert callback.current_call._finished._wakes == []
    hanging.go_on.set()


def test_one_that_ignores_its_cancellation_is_not_called_again(callbacks, collector):
    """The look ends all the same, and what is returned late is a good value."""
    calls = []

    async def stubborn(end):
        calls.append(1)
        while not end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await end.wait()
        return 5

    async def main():
        end = asyncio.Event()
        callbacks.add("size", lambda: stubborn(end), deadline=SHORT)
        for look in range(1, 3):
            await callbacks.collect_async()
            assert failures(collector, "size", "timeout") == look
        assert len(calls) == 1
        end.set()
        while last(collector, "size") != 5:
            await asyncio.sleep(0)

    asyncio.run(main())
    assert callbacks.states()[0].failure == "timeout"


def test_a_call_whose_loop_was_closed_is_made_again(callbacks, collector):
    """A loop that ends in the middle of a call does not leave its callback hanging for ever."""
    waits = deque([PATIENCE] * 3)

    async def size():
        while True:
            try:
                await asyncio.sleep(waits.popleft() if waits else PATIENCE)
                return 1
            except asyncio.CancelledError:
                pass

    callbacks.add("size", size, deadline=SHORT)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(callbacks.collect_async())
    (task,) = asyncio.all_tasks(loop)
    loop.close()
    task._log_destroy_pending = False
    waits.clear()
    waits.append(0)
    callbacks.collect()
    assert last(collector, "size") == 1


def test_a_trio_run_as_a_guest_of_asyncio_is_trio(callbacks, collector):
    """What runs matters, not on whose loop."""

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


def test_without_a_loop_of_a_known_kind_it_is_an_error(callbacks):
    """The message names those that are known, and what to do elsewhere."""
    with pytest.raises(InvalidInputError, match="no asyncio or trio event loop is running"):
        callbacks.collect_async().send(None)


# -- in a system ---------------------------------------------------------------------------------------------


def test_a_system_collects_resources_and_callbacks(loops):
    """Once `collect_metrics_async` returns, both are recorded."""
    with MetricsSystem() as metrics:

        @metrics.callbacks.add("pool.size")
        async def size():
            await loops.sleep(0.001)
            return 3

        loops.run(metrics.collect_metrics_async)
        assert metrics.aggregator.get_metric_summary("pool.size")["last"] == 3
        assert metrics.aggregator.get_metric_summary("process.memory.usage")["last"] > 0


def test_resources_that_hang_do_not_keep_the_others(loops, monkeypatch):
    """They have a deadline, are counted like a callback, and are not read twice at once."""
    monkeypatch.setattr("metrics_framework.system.RESOURCES_DEADLINE", SHORT)
    reading, calls = threading.Event(), []

    class Monitor(type(MetricsSystem().resource_monitor)):
        def get_memory_usage(self):
            calls.append(1)
            assert reading.wait(PATIENCE)
            return super().get_memory_usage()

    collector = InMemoryCollector()
    with MetricsSystem(collector=collector, resource_monitor=Monitor(collector)) as metrics:
        metrics.callbacks.add("size", lambda: 1, deadline=PATIENCE)
        for look in range(1, 3):
            loops.run(metrics.collect_metrics_async)
            assert failures(collector, "resources", "timeout") == look
        assert (last(collector, "size"), len(calls)) == (1, 1)
        reading.set()
        wait_for(lambda: last(collector, "process.memory.usage") is not None)
        wait_for(lambda: not threads())
