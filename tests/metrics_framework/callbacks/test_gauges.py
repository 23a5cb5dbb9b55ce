"""Collections from threads: a callback that raises or hangs affects no other callback."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import pytest

from metrics_adapters.in_memory import InMemoryCollector
from metrics_adapters.null import NullCollector
from metrics_framework import InvalidInputError, MetricsSystem, UnknownMetricError
from metrics_framework.callbacks import CallbackState, GaugeCallbacks
from metrics_framework.callbacks.calls import MAX_THREADS
from metrics_framework.recording import Store
from tests.metrics_framework.runtime.test_background import in_a_child
from tests.threads import new_threads

WAIT_SECONDS = 20.0
SHORT_DEADLINE_SECONDS = 0.05
"""The deadline of callbacks that are to exceed it."""
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="requires os.fork")


class Hanging:
    """A callback that returns when the test sets `go_on`."""

    def __init__(self, value=1):
        self.value = value
        self.calls = 0
        self.called = threading.Semaphore(0)
        self.go_on = threading.Event()

    def __call__(self):
        """Wait and return the value."""
        self.calls += 1
        self.called.release()
        assert self.go_on.wait(WAIT_SECONDS)
        return self.value


@pytest.fixture
def collector(clock):
    """Return a collector with a manual clock."""
    return InMemoryCollector(Store(clock))


@pytest.fixture
def callbacks(collector, clock):
    """Return callbacks for that collector; all their threads end with the test."""
    callbacks = GaugeCallbacks(collector, clock=clock)
    yield callbacks
    callbacks.close()
    wait_for(lambda: not threads())


def wait_for(condition):
    """Wait until a condition is true."""
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def threads():
    """Return the running threads of callbacks."""
    return new_threads("metrics-callback", "metrics-async-callbacks")


def last(collector, name, tags=None):
    """Return the last value of a gauge, or the total of a counter."""
    readings = [one for one in collector.store.readings() if one.name == name and one.tags == (tags or {})]
    return readings[0].summary.get("last", readings[0].summary.get("sum")) if readings else None


def failures(collector, name, error_type):
    """Return how often a callback has failed with an error type."""
    return last(
        collector, "metrics_framework.callback.failures", {"callback": name, "error_type": error_type}
    )


def age(collector, name):
    """Return the recorded age of a callback's last good value."""
    return last(collector, "metrics_framework.callback.age", {"callback": name})


def raises(error):
    """Return a callback that raises."""

    def callback():
        raise error

    return callback


# -- values --------------------------------------------------------------------------------------------------


def test_each_collection_records_the_current_value(callbacks, collector):
    """Adding a callback does not call it."""
    queue = SimpleQueue()
    callbacks.add("queue.size", queue.qsize)
    assert last(collector, "queue.size") is None
    for size in range(3):
        callbacks.collect()
        assert last(collector, "queue.size") == size
        queue.put(size)


def test_add_returns_the_function_itself(callbacks, collector):
    """As a decorator, too, which accepts tags."""

    def size():
        return 7

    assert callbacks.add("queue.size", tags={"queue": "mail"})(size) is size
    assert callbacks.add("queue.size", size) is size
    callbacks.collect()
    assert last(collector, "queue.size", {"queue": "mail"}) == last(collector, "queue.size") == 7


async def seven():
    """Return 7 after a short wait."""
    await asyncio.sleep(0.001)
    return 7


class Awaited:
    """Callables that return awaitables."""

    async def __call__(self):
        """Return 7 after a short wait."""
        return await seven()

    async def method(self):
        """Return 7 after a short wait."""
        return await seven()


@pytest.mark.parametrize(
    "function",
    [seven, lambda: seven(), Awaited(), Awaited().method, functools.partial(seven)],
    ids=["function", "lambda", "callable object", "method", "partial"],
)
def test_every_kind_of_async_callable_is_awaited(callbacks, collector, function):
    """A function that only returns a coroutine proves to be async at its first call."""
    callbacks.add("pool.size", function, deadline=WAIT_SECONDS)
    for _ in range(2):
        callbacks.collect()
        assert last(collector, "pool.size") == 7
    assert callbacks.states() == [CallbackState("pool.size", {}, 0.0, None)]


def test_async_callbacks_share_the_loop_of_one_thread(callbacks):
    """Connections that one of them opens stay usable in the next collection."""
    loops = []

    async def loop():
        loops.append((asyncio.get_running_loop(), threading.current_thread().name))
        return 1

    callbacks.add("a", loop)
    callbacks.add("b", loop)
    callbacks.collect()
    callbacks.collect()
    assert len(loops) == 4
    assert len(set(loops)) == 1
    assert loops[0][1] == "metrics-async-callbacks"


def test_adding_the_same_name_and_tags_replaces_the_callback(callbacks, collector):
    """The order of the tags does not matter."""
    callbacks.add("size", lambda: 1, {"a": "1", "b": "2"})
    callbacks.add("size", lambda: 2, {"b": "2", "a": "1"})
    callbacks.collect()
    assert last(collector, "size", {"a": "1", "b": "2"}) == 2
    assert len(callbacks.states()) == 1


def test_removing_a_callback_removes_only_its_own_gauge(callbacks, collector):
    """Other series of the same name stay."""
    callbacks.add("size", lambda: 1)
    callbacks.add("size", lambda: 2, {"queue": "mail"})
    callbacks.collect()
    assert callbacks.remove("size")
    assert not callbacks.remove("size")
    assert not callbacks.remove("never")
    callbacks.collect()
    assert (last(collector, "size"), last(collector, "size", {"queue": "mail"})) == (None, 2)


def test_a_callback_may_remove_itself_or_collect(callbacks, collector):
    """Neither deadlocks, and the removed gauge does not come back."""
    callbacks.add("once", lambda: callbacks.remove("once") + 0)
    callbacks.add("collects", lambda: callbacks.collect() or 1, deadline=SHORT_DEADLINE_SECONDS)
    callbacks.collect()
    assert last(collector, "once") is None
    assert callbacks.states()[0].failure == "timeout"


@pytest.mark.slow
def test_the_object_of_a_bound_method_stays_alive_until_removal(callbacks):
    """Removing the callback releases the object."""

    class Pool:
        def size(self):
            return 1

    pool = Pool()
    gone = weakref.ref(pool)
    callbacks.add("pool.size", pool.size)
    del pool
    callbacks.collect()
    wait_for(lambda: not threads())
    gc.collect()
    assert gone() is not None
    callbacks.remove("pool.size")
    gc.collect()
    assert gone() is None


def test_any_collector_that_implements_the_protocol_is_enough():
    """It may lack `describe` and `remove`."""
    gauges = {}

    class Foreign(NullCollector):
        describe = remove = None

        def record_gauge(self, name, value, tags=None):
            gauges[name] = value

    callbacks = GaugeCallbacks(Foreign())
    callbacks.add("size", lambda: 1)
    callbacks.add("bad", lambda: 1 / 0)
    callbacks.collect()
    assert callbacks.remove("size")
    assert gauges == {"size": 1}


# -- failures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "error_type"),
    [
        (raises(ValueError("no")), "ValueError"),
        (raises(KeyboardInterrupt()), "KeyboardInterrupt"),
        (raises(SystemExit(3)), "SystemExit"),
        (raises(StopIteration()), "StopIteration"),
        (raises(GeneratorExit()), "GeneratorExit"),
        (lambda: None, "InvalidInputError"),
        (lambda: "7", "InvalidInputError"),
        (lambda: float("nan"), "InvalidInputError"),
        (lambda: float("inf"), "InvalidInputError"),
        (lambda: [True], "InvalidInputError"),
        (lambda one: one, "TypeError"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_failure_affects_no_other_callback(callbacks, collector, function, error_type, is_async):
    """Anything raised or returned is counted, and the other callbacks are recorded."""

    async def awaited(*arguments):
        return function(*arguments)

    callbacks.add("first", lambda: 1)
    callbacks.add("bad", awaited if is_async else function)
    callbacks.add("last", seven)
    callbacks.collect()
    callbacks.collect()
    assert (last(collector, "first"), last(collector, "last"), last(collector, "bad")) == (1, 7, None)
    expected = "RuntimeError" if is_async and error_type == "StopIteration" else error_type
    assert failures(collector, "bad", expected) == 2


def test_a_failing_callback_keeps_its_last_good_value(callbacks, collector, clock):
    """The age of the value grows while the callback fails, and is 0 after a success."""
    answers = deque([5, None, None, 6])
    callbacks.add("size", answers.popleft)
    ages = []
    for _ in range(4):
        callbacks.collect()
        clock.advance(10)
        ages.append((last(collector, "size"), age(collector, "size")))
    assert ages == [(5, None), (5, 10), (5, 20), (6, 0)]


def test_states_have_the_age_and_failure_of_each_callback(callbacks, clock):
    """They need no collection: not called yet, failed after a success, and failed always."""
    answers = deque([5])
    callbacks.add("size", answers.popleft, {"queue": "mail"})
    callbacks.add("bad", raises(OSError()))
    assert [(state.age_seconds, state.failure) for state in callbacks.states()] == [(None, None)] * 2
    callbacks.collect()
    clock.advance(2)
    callbacks.collect()
    clock.advance(1)
    assert callbacks.states() == [
        CallbackState("size", {"queue": "mail"}, 3.0, "IndexError"),
        CallbackState("bad", {}, None, "OSError"),
    ]


def test_failures_have_the_tags_of_the_callback(callbacks, collector):
    """Callbacks of the same name are distinct."""
    for queue in ("a", "b"):
        callbacks.add("size", raises(OSError()), {"queue": queue})
    callbacks.collect()
    tags = {"callback": "size", "error_type": "OSError", "queue": "b"}
    assert last(collector, "metrics_framework.callback.failures", tags) == 1


def test_failures_are_not_recorded_before_the_first_one(callbacks, collector):
    """Neither without callbacks nor after a success."""
    with pytest.raises(UnknownMetricError):
        collector.store.summary("metrics_framework.callback.failures")
    callbacks.add("size", lambda: 1)
    callbacks.collect()
    assert [one.name for one in collector.store.readings()] == ["size"]


def test_a_failure_is_logged_once_until_the_callback_succeeds(callbacks, caplog):
    """The next failure after a success is logged again."""
    answers = deque([None, "x", 1, None])
    callbacks.add("size", answers.popleft)
    with caplog.at_level(logging.INFO, "metrics_framework"):
        counts = []
        for _ in range(4):
            callbacks.collect()
            counts.append(len(caplog.records))
    assert counts == [1, 1, 1, 2]
    message = caplog.records[0].getMessage()
    assert all(part in message for part in ("callback='size'", "InvalidInputError", "cannot record None"))


def test_a_collector_that_raises_fails_only_the_callback(caplog):
    """Neither the collection nor the removal raises."""

    class Broken(NullCollector):
        def record_gauge(self, name, value, tags=None):
            raise OSError("full")

        record_counter = describe = remove = record_gauge

    callbacks = GaugeCallbacks(Broken())
    callbacks.add("size", lambda: 1)
    callbacks.collect()
    assert callbacks.states()[0].failure == "OSError"
    callbacks.remove("size")


# -- deadlines -----------------------------------------------------------------------------------------------


def test_a_hanging_callback_times_out_and_is_not_called_again(callbacks, collector, clock, caplog):
    """Each collection counts a time-out, one thread stays blocked, and the late value is recorded."""
    hanging = Hanging(value=9)
    callbacks.add("slow", hanging, deadline=SHORT_DEADLINE_SECONDS)
    callbacks.add("quick", lambda: 1, deadline=WAIT_SECONDS)
    for count in range(1, 4):
        callbacks.collect()
        assert failures(collector, "slow", "timeout") == count
        assert last(collector, "quick") == 1
    assert hanging.calls == 1
    assert len(threads()) == 1
    hanging.go_on.set()
    wait_for(lambda: last(collector, "slow") == 9)
    clock.advance(4)
    assert callbacks.states()[0] == CallbackState("slow", {}, 4.0, "timeout")
    wait_for(lambda: not threads())
    callbacks.collect()
    assert callbacks.states()[0] == CallbackState("slow", {}, 0.0, None)
    assert (hanging.calls, age(collector, "slow"), failures(collector, "slow", "timeout")) == (2, 0, 3)
    assert len(caplog.records) == 1


def test_a_collection_returns_at_the_deadline(callbacks):
    """It takes as long as the longest deadline, not as the sum of all."""
    hanging = Hanging()
    for number in range(MAX_THREADS):
        callbacks.add(f"slow.{number}", hanging, deadline=0.2)
    start = time.monotonic()
    callbacks.collect()
    seconds = time.monotonic() - start
    hanging.go_on.set()
    assert 0.2 <= seconds < 0.2 * MAX_THREADS


def test_more_hanging_callbacks_than_threads_block_no_other(callbacks, collector):
    """A time-out frees the slot of the thread, so that a later collection can call the others."""
    hanging = Hanging()
    for number in range(MAX_THREADS + 5):
        callbacks.add(f"slow.{number}", hanging, deadline=SHORT_DEADLINE_SECONDS)
    callbacks.collect()
    assert hanging.calls >= MAX_THREADS
    callbacks.add("quick", lambda: 1, deadline=WAIT_SECONDS)
    callbacks.collect()
    assert last(collector, "quick") == 1
    wait_for(lambda: hanging.calls == MAX_THREADS + 5)
    hanging.go_on.set()


def test_the_number_of_threads_is_limited(callbacks, collector):
    """The remaining callbacks are called as soon as a thread is free."""
    hanging = Hanging()
    for number in range(2 * MAX_THREADS):
        callbacks.add(f"slow.{number}", hanging, deadline=WAIT_SECONDS)
    with ThreadPoolExecutor(1) as other:
        collection = other.submit(callbacks.collect)
        for _ in range(MAX_THREADS):
            assert hanging.called.acquire(timeout=WAIT_SECONDS)
        assert hanging.calls == MAX_THREADS
        hanging.go_on.set()
        collection.result(WAIT_SECONDS)
    assert all(state.failure is None for state in callbacks.states())


def test_a_callback_removed_while_it_hangs_is_not_recorded(callbacks, collector):
    """Its late value is discarded, and its name can be used again."""
    hanging = Hanging(value=9)
    callbacks.add("slow", hanging, deadline=SHORT_DEADLINE_SECONDS)
    callbacks.collect()
    callbacks.remove("slow")
    callbacks.add("slow", lambda: 1)
    callbacks.collect()
    hanging.go_on.set()
    wait_for(lambda: not threads())
    assert last(collector, "slow") == 1


def test_an_async_callback_is_cancelled_at_its_deadline(callbacks, collector):
    """It can clean up, and the next collection calls it again."""
    cleaned = []

    async def hang():
        try:
            await asyncio.sleep(WAIT_SECONDS)
        finally:
            cleaned.append(True)

    callbacks.add("slow", hang, deadline=SHORT_DEADLINE_SECONDS)
    callbacks.add("quick", seven)
    for count in range(1, 3):
        callbacks.collect()
        wait_for(lambda count=count: len(cleaned) == count)
        assert failures(collector, "slow", "timeout") == count
    assert last(collector, "quick") == 7


@pytest.mark.slow
def test_a_blocked_event_loop_is_replaced(callbacks, collector):
    """The next collection calls the other callbacks on a new loop, and the blocking one not again."""
    hanging = Hanging(value=9)

    async def blocks():
        return hanging()

    callbacks.add("blocks", blocks, deadline=SHORT_DEADLINE_SECONDS)
    callbacks.add("other", seven, deadline=0.5)
    callbacks.collect()
    assert failures(collector, "other", "timeout") == 1
    for _ in range(2):
        callbacks.collect()
        assert last(collector, "other") == 7
    assert hanging.calls == 1
    assert failures(collector, "blocks", "timeout") == 3
    hanging.go_on.set()
    wait_for(lambda: last(collector, "blocks") == 9)
    wait_for(lambda: len(threads()) == 1)


def test_an_async_callback_that_raises_cancelled_error_has_failed(callbacks, collector):
    """The collection itself is not cancelled."""

    async def cancelled():
        raise asyncio.CancelledError

    callbacks.add("pool.size", cancelled)
    callbacks.collect()
    assert failures(collector, "pool.size", "cancelled") == 1


# -- concurrent collections ----------------------------------------------------------------------------------


def test_concurrent_collections_share_a_call(callbacks, collector):
    """Ten scrapers share one call and its value."""
    hanging = Hanging()
    callbacks.add("shared", hanging, deadline=WAIT_SECONDS)
    with ThreadPoolExecutor(10) as scrapers:
        collections = [scrapers.submit(callbacks.collect) for _ in range(10)]
        assert hanging.called.acquire(timeout=WAIT_SECONDS)
        hanging.go_on.set()
        for one in collections:
            one.result(WAIT_SECONDS)
    assert last(collector, "shared") == 1
    assert hanging.calls <= 10  # collections that started after the call returned made their own


@pytest.mark.slow
def test_a_time_out_counts_once_for_concurrent_collections(callbacks, collector):
    """Two scrapers at the same time count one failure."""
    hanging = Hanging()
    callbacks.add("slow", hanging, deadline=0.3)
    with ThreadPoolExecutor(2) as scrapers:
        first = scrapers.submit(callbacks.collect)
        assert hanging.called.acquire(timeout=WAIT_SECONDS)
        callbacks.collect()
        first.result(WAIT_SECONDS)
    assert (hanging.calls, failures(collector, "slow", "timeout")) == (1, 1)
    hanging.go_on.set()


def test_threads_may_add_remove_and_collect_concurrently(callbacks, collector):
    """Nothing raises or hangs, and no callback is called twice at the same time."""
    running, twice = set(), []

    def callback(name):
        def call():
            if name in running:
                twice.append(name)
            running.add(name)
            time.sleep(0)
            running.discard(name)
            return 1

        return call

    def work(number):
        for turn in range(30):
            name = f"{number}.{turn % 3}"
            callbacks.remove(name)
            callbacks.add(f"kept.{number}", lambda: 1)
            callbacks.collect()

    for number in range(4):
        callbacks.add(f"shared.{number}", callback(number), deadline=WAIT_SECONDS)
    with ThreadPoolExecutor(4) as others:
        for done in [others.submit(work, number) for number in range(4)]:
            done.result(WAIT_SECONDS)
    assert twice == []
    assert all(state.failure is None for state in callbacks.states())


def test_ctrl_c_ends_a_collection_immediately(callbacks, collector):
    """The call continues in its thread, and its value is recorded."""
    hanging = Hanging(value=3)
    callbacks.add("slow", hanging, deadline=WAIT_SECONDS)

    def interrupt():
        assert hanging.called.acquire(timeout=WAIT_SECONDS)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with ThreadPoolExecutor(1) as other:
            done = other.submit(interrupt)
            with pytest.raises(KeyboardInterrupt):
                callbacks.collect()
            done.result(WAIT_SECONDS)
    finally:
        signal.signal(signal.SIGINT, before)
    hanging.go_on.set()
    wait_for(lambda: last(collector, "slow") == 3)
    callbacks.collect()
    assert callbacks.states()[0].failure is None


def test_a_collection_returns_if_no_thread_can_be_started(callbacks, collector, monkeypatch):
    """Each callback fails with the system's error; the next collection succeeds."""
    callbacks.add("sync", lambda: 1)
    callbacks.add("async", seven)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", raises_on_start)
        callbacks.collect()
    assert {state.failure for state in callbacks.states()} == {"RuntimeError"}
    callbacks.collect()
    assert {state.failure for state in callbacks.states()} == {None}


def raises_on_start(thread):
    """Raise the error of a system that has no more threads."""
    raise RuntimeError("can't start new thread")


# -- start and stop ------------------------------------------------------------------------------------------


def test_threads_end_when_the_callbacks_are_garbage_collected(collector):
    """`close` is not needed."""
    callbacks = GaugeCallbacks(collector)
    callbacks.add("pool.size", seven)
    callbacks.collect()
    assert len(threads()) == 1
    del callbacks
    gc.collect()
    wait_for(lambda: not threads())


def test_a_collection_after_close_starts_a_new_thread(callbacks, collector):
    """`close` ends the thread of the async callbacks, and no value is lost."""
    callbacks.add("pool.size", seven, deadline=WAIT_SECONDS)
    callbacks.collect()
    callbacks.close()
    callbacks.close()
    wait_for(lambda: not threads())
    callbacks.collect()
    assert len(threads()) == 1
    assert callbacks.states()[0].failure is None


def test_close_during_a_collection_loses_no_value(callbacks, collector):
    """A call that `close` interrupts is made again."""
    entered = threading.Semaphore(0)
    waits = deque([WAIT_SECONDS, 0])

    async def size():
        entered.release()
        await asyncio.sleep(waits.popleft())
        return 1

    callbacks.add("pool.size", size, deadline=2 * WAIT_SECONDS)
    with ThreadPoolExecutor(1) as other:
        collection = other.submit(callbacks.collect)
        assert entered.acquire(timeout=WAIT_SECONDS)
        callbacks.close()
        collection.result(WAIT_SECONDS)
    assert last(collector, "pool.size") == 1
    assert failures(collector, "pool.size", "CancelledError") is None


@forks
def test_a_forked_child_makes_its_own_calls():
    """Callbacks that hang in the parent are called in the child, with its own threads and event loop."""
    collector = InMemoryCollector()
    callbacks = GaugeCallbacks(collector)
    hanging = Hanging()
    parent = os.getpid()
    callbacks.add("slow", lambda: hanging() if os.getpid() == parent else 2, deadline=SHORT_DEADLINE_SECONDS)
    callbacks.add("pool.size", seven)
    callbacks.collect()

    def collect():
        before = callbacks.states()
        callbacks.collect()
        return (
            [(state.age_seconds, state.failure) for state in before],
            last(collector, "slow"),
            callbacks.states(),
        )

    fresh = [CallbackState("slow", {}, 0.0, None), CallbackState("pool.size", {}, 0.0, None)]
    assert in_a_child(collect) == str(([(None, None)] * 2, 2, fresh))
    hanging.go_on.set()
    callbacks.collect()  # the parent's event loop still works
    assert callbacks.states()[1].failure is None
    callbacks.close()


@pytest.mark.heavy
def test_a_program_exits_while_callbacks_hang():
    """Neither a blocked thread nor the event loop delays the exit or causes a warning."""
    code = (
        "import asyncio, threading\n"
        "from metrics_framework import MetricsSystem\n"
        "metrics = MetricsSystem()\n"
        "metrics.callbacks.add('slow', threading.Event().wait, deadline=0.05)\n"
        "@metrics.callbacks.add('async', deadline=0.05)\n"
        "async def size():\n"
        "    await asyncio.sleep(3600)\n"
        "metrics.callbacks.collect()\n"
        "print([state.failure for state in metrics.callbacks.states()])\n"
    )
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS)
    complaints = [line for line in done.stderr.splitlines() if "gauge callback failed" not in line]
    assert (done.returncode, done.stdout, complaints) == (0, "['timeout', 'timeout']\n", [])


@pytest.mark.heavy
def test_sync_callbacks_do_not_import_asyncio():
    """A program without async callbacks does not pay for the import."""
    code = (
        "import sys\n"
        "from metrics_framework.callbacks import GaugeCallbacks\n"
        "from metrics_adapters.null import NullCollector\n"
        "callbacks = GaugeCallbacks(NullCollector())\n"
        "callbacks.add('size', lambda: 1)\n"
        "callbacks.collect()\n"
        "print({'asyncio', 'trio', 'anyio'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert (done.stdout, done.stderr) == ("set()\n", "")


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deadline", [0, -1, float("nan"), float("inf"), "1", None, True, 1e300])
def test_a_bad_deadline_is_an_error(callbacks, deadline):
    """The message says which values are allowed."""
    with pytest.raises(InvalidInputError, match=r"callback 'size': deadline=.* is not a positive number"):
        callbacks.add("size", lambda: 1, deadline=deadline)


def test_a_coroutine_object_is_an_error(callbacks):
    """It could be awaited only once. Python does not warn that it was never awaited."""
    with pytest.raises(InvalidInputError, match="pass the function without calling it"):
        callbacks.add("size", seven())
    gc.collect()


@pytest.mark.parametrize("function", [3, "size", object()])
def test_an_object_that_is_not_callable_is_an_error(callbacks, function):
    """The message names the usual mistake, which is to call the function."""
    with pytest.raises(InvalidInputError, match="without parentheses"):
        callbacks.add("size", function)
    with pytest.raises(InvalidInputError, match="without parentheses"):
        callbacks.add("size")(function)


@pytest.mark.parametrize("arguments", [("",), (3,), ("size", None, "tag"), ("size", None, {"": "x"})])
def test_add_checks_names_and_tags(callbacks, arguments):
    """An error at the first collection would only be logged."""
    with pytest.raises(InvalidInputError):
        callbacks.add(*arguments)


# -- in a system ---------------------------------------------------------------------------------------------


def test_a_system_collects_at_every_interval():
    """Prometheus text has the age in seconds."""
    with MetricsSystem() as metrics:
        collected, sizes = threading.Semaphore(0), deque([5])
        metrics.callbacks.add("queue.size", sizes.popleft)
        metrics.callbacks.add("collected", lambda: collected.release() or 1)
        metrics.initialize_metrics({"collection_interval": 0.01})
        for _ in range(3):
            assert collected.acquire(timeout=WAIT_SECONDS)
        text = metrics.aggregator.export_metrics("prometheus")
    assert "\nqueue_size 5" in text
    assert '\nmetrics_framework_callback_age_seconds{callback="queue.size"} ' in text
    assert (
        '\nmetrics_framework_callback_failures_total{callback="queue.size",error_type="IndexError"} ' in text
    )


def test_a_shutdown_ends_all_threads_of_callbacks():
    """The event loop's thread ends, too."""
    with MetricsSystem() as metrics:
        metrics.callbacks.add("pool.size", seven)
        metrics.callbacks.collect()
        assert metrics.aggregator.get_metric_summary("pool.size")["last"] == 7
    wait_for(lambda: not threads())
