"""Gauge callbacks looked at from threads: one that raises or hangs costs its own sample only."""

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
from metrics_framework.callbacks.workers import MOST_THREADS
from metrics_framework.recording import Store
from tests.metrics_framework.runtime.test_background import in_a_child

PATIENCE = 20.0
SHORT = 0.05
"""The deadline of what is to miss it."""
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


class Hanging:
    """A callback that answers when the test lets it."""

    def __init__(self, value=1):
        self.value = value
        self.calls = 0
        self.called = threading.Semaphore(0)
        self.go_on = threading.Event()

    def __call__(self):
        """Wait, and answer."""
        self.calls += 1
        self.called.release()
        assert self.go_on.wait(PATIENCE)
        return self.value


@pytest.fixture
def collector(clock):
    """Return a collector on the clock that the test moves."""
    return InMemoryCollector(Store(clock))


@pytest.fixture
def callbacks(collector, clock):
    """Return callbacks into that collector; the thread of their loop ends with the test."""
    callbacks = GaugeCallbacks(collector, clock=clock)
    yield callbacks
    callbacks.close()
    wait_for(lambda: not threads())


def wait_for(condition):
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def threads():
    """Return the threads of callbacks."""
    names = ("metrics-callback", "metrics-async-callbacks")
    return [thread for thread in threading.enumerate() if thread.name in names]


def last(collector, name, tags=None):
    """Return the last value of a gauge, or the total of a counter."""
    readings = [one for one in collector.store.readings() if one.name == name and one.tags == (tags or {})]
    return readings[0].summary.get("last", readings[0].summary.get("sum")) if readings else None


def failures(collector, name, error_type):
    """Return how often a callback failed in that way."""
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


def test_a_value_is_read_at_every_look_and_not_before(callbacks, collector):
    """Adding calls nothing; each look records what the function returns then."""
    queue = SimpleQueue()
    callbacks.add("queue.size", queue.qsize)
    assert last(collector, "queue.size") is None
    for size in range(3):
        callbacks.collect()
        assert last(collector, "queue.size") == size
        queue.put(size)


def test_a_decorated_function_stays_itself(callbacks, collector):
    """As a decorator it takes tags too, and returns the very function."""

    def size():
        return 7

    assert callbacks.add("queue.size", tags={"queue": "mail"})(size) is size
    assert callbacks.add("queue.size", size) is size
    callbacks.collect()
    assert last(collector, "queue.size", {"queue": "mail"}) == last(collector, "queue.size") == 7


async def seven():
    """Answer after a real wait."""
    await asyncio.sleep(0.001)
    return 7


class Awaited:
    """Callables whose answers are to be awaited."""

    async def __call__(self):
        """Answer after a real wait."""
        return await seven()

    async def method(self):
        """Answer after a real wait."""
        return await seven()


@pytest.mark.parametrize(
    "function",
    [seven, lambda: seven(), Awaited(), Awaited().method, functools.partial(seven)],
    ids=["function", "lambda", "callable object", "method", "partial"],
)
def test_whatever_returns_something_to_await_is_awaited(callbacks, collector, function):
    """Coroutine functions in every guise are callbacks."""
    callbacks.add("pool.size", function, deadline=PATIENCE)
    for _ in range(2):
        callbacks.collect()
        assert last(collector, "pool.size") == 7
    assert callbacks.states() == [CallbackState("pool.size", {}, 0.0, None)]


def test_async_callbacks_share_one_loop_of_a_thread_of_their_own(callbacks):
    """So what one of them opens is good for the next look."""
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


def test_adding_again_replaces(callbacks, collector):
    """Same name and tags, in whatever order: the last one counts."""
    callbacks.add("size", lambda: 1, {"a": "1", "b": "2"})
    callbacks.add("size", lambda: 2, {"b": "2", "a": "1"})
    callbacks.collect()
    assert last(collector, "size", {"a": "1", "b": "2"}) == 2
    assert len(callbacks.states()) == 1


def test_removing_forgets_the_callback_and_its_gauge_alone(callbacks, collector):
    """A value that nobody reads any more is not shown for ever; other series of the name stay."""
    callbacks.add("size", lambda: 1)
    callbacks.add("size", lambda: 2, {"queue": "mail"})
    callbacks.collect()
    assert callbacks.remove("size")
    assert not callbacks.remove("size")
    assert not callbacks.remove("never")
    callbacks.collect()
    assert (last(collector, "size"), last(collector, "size", {"queue": "mail"})) == (None, 2)


def test_a_callback_may_remove_and_look(callbacks, collector):
    """A callback that uses what it belongs to neither deadlocks nor brings its gauge back."""
    callbacks.add("once", lambda: callbacks.remove("once") + 0)
    callbacks.add("looks", lambda: callbacks.collect() or 1, deadline=SHORT)
    callbacks.collect()
    assert last(collector, "once") is None
    assert callbacks.states()[0].failure == "timeout"


def test_what_is_added_is_kept_until_it_is_removed(callbacks):
    """A bound method keeps its object alive; removing it lets the object go."""

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


def test_a_foreign_collector_needs_nothing_beyond_the_contract():
    """Without `describe` and `remove` callbacks work as well."""
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
def test_a_failure_costs_its_own_sample_only(callbacks, collector, function, error_type, is_async):
    """Whatever is raised or returned, it is counted and the others are read."""

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


def test_a_failing_callback_keeps_its_last_good_value_with_its_age(callbacks, collector, clock):
    """The gauge stays; its age grows while the callback fails, and is 0 again afterwards."""
    answers = deque([5, None, None, 6])
    callbacks.add("size", answers.popleft)
    ages = []
    for _ in range(4):
        callbacks.collect()
        clock.advance(10)
        ages.append((last(collector, "size"), age(collector, "size")))
    assert ages == [(5, None), (5, 10), (5, 20), (6, 0)]


def test_states_say_how_each_callback_is(callbacks, clock):
    """They are there without a look: never read, well, failed since, failed always."""
    answers = deque([5])
    callbacks.add("size", answers.popleft, {"queue": "mail"})
    callbacks.add("bad", raises(OSError()))
    assert [(one.age_seconds, one.failure) for one in callbacks.states()] == [(None, None)] * 2
    callbacks.collect()
    clock.advance(2)
    callbacks.collect()
    clock.advance(1)
    assert callbacks.states() == [
        CallbackState("size", {"queue": "mail"}, 3.0, "IndexError"),
        CallbackState("bad", {}, None, "OSError"),
    ]


def test_the_accounts_bear_the_tags_of_the_callback(callbacks, collector):
    """Callbacks of one name are told apart."""
    for queue in ("a", "b"):
        callbacks.add("size", raises(OSError()), {"queue": queue})
    callbacks.collect()
    tags = {"callback": "size", "error_type": "OSError", "queue": "b"}
    assert last(collector, "metrics_framework.callback.failures", tags) == 1


def test_the_accounts_are_zero_before_the_first_failure_and_only_with_callbacks(callbacks, collector):
    """A question about failures has an answer from the first callback on."""
    with pytest.raises(UnknownMetricError):
        collector.store.summary("metrics_framework.callback.failures")
    callbacks.add("size", lambda: 1)
    callbacks.collect()
    assert [one.name for one in collector.store.readings()] == ["size"]


def test_a_fault_is_logged_once_until_all_is_well_again(callbacks, caplog):
    """Not at every scrape; and again after it had worked."""
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


def test_a_collector_that_raises_costs_the_sample_and_nothing_else(caplog):
    """Neither the look nor the accounts fail with it."""

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


def test_one_that_hangs_is_missed_and_not_called_again(callbacks, collector, clock, caplog):
    """Each look counts it, its thread stays one, and what it returns at last is a good value."""
    hanging = Hanging(value=9)
    callbacks.add("slow", hanging, deadline=SHORT)
    callbacks.add("quick", lambda: 1, deadline=PATIENCE)
    for look in range(1, 4):
        callbacks.collect()
        assert failures(collector, "slow", "timeout") == look
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


def test_a_look_returns_at_the_deadline(callbacks):
    """It takes as long as the longest deadline that is missed, not as their sum."""
    hanging = Hanging()
    for number in range(20):
        callbacks.add(f"slow.{number}", hanging, deadline=0.1)
    start = time.monotonic()
    callbacks.collect()
    seconds = time.monotonic() - start
    hanging.go_on.set()
    assert 0.1 <= seconds < 1.9


def test_more_that_hang_than_there_are_threads_keep_no_other_waiting(callbacks, collector):
    """A place that hangs is given to another, so that a later look reads everything else."""
    hanging = Hanging()
    for number in range(MOST_THREADS + 5):
        callbacks.add(f"slow.{number}", hanging, deadline=SHORT)
    callbacks.collect()
    assert hanging.calls >= MOST_THREADS
    callbacks.add("quick", lambda: 1, deadline=PATIENCE)
    callbacks.collect()
    assert last(collector, "quick") == 1
    wait_for(lambda: hanging.calls == MOST_THREADS + 5)
    hanging.go_on.set()


def test_no_more_threads_than_the_limit_call_at_once(callbacks, collector):
    """What is not called yet waits for a free thread, and is called."""
    hanging = Hanging()
    for number in range(2 * MOST_THREADS):
        callbacks.add(f"slow.{number}", hanging, deadline=PATIENCE)
    with ThreadPoolExecutor(1) as other:
        looking = other.submit(callbacks.collect)
        for _ in range(MOST_THREADS):
            assert hanging.called.acquire(timeout=PATIENCE)
        assert hanging.calls == MOST_THREADS
        hanging.go_on.set()
        looking.result(PATIENCE)
    assert all(state.failure is None for state in callbacks.states())


def test_what_was_removed_while_it_hung_is_not_recorded(callbacks, collector):
    """Its late value comes to nothing, and the name is free for another one."""
    hanging = Hanging(value=9)
    callbacks.add("slow", hanging, deadline=SHORT)
    callbacks.collect()
    callbacks.remove("slow")
    callbacks.add("slow", lambda: 1)
    callbacks.collect()
    hanging.go_on.set()
    wait_for(lambda: not threads())
    assert last(collector, "slow") == 1


def test_an_async_callback_is_cancelled_at_its_deadline(callbacks, collector):
    """So it can be called again at the next look, and its cleaning up is done."""
    cleaned = []

    async def hang():
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            cleaned.append(True)

    callbacks.add("slow", hang, deadline=SHORT)
    callbacks.add("quick", seven)
    for look in range(1, 3):
        callbacks.collect()
        wait_for(lambda look=look: len(cleaned) == look)
        assert failures(collector, "slow", "timeout") == look
    assert last(collector, "quick") == 7


def test_an_async_callback_that_blocks_its_loop_is_left_behind(callbacks, collector):
    """The others are called on another loop from the next look on; it is not called again."""
    hanging = Hanging(value=9)

    async def blocks():
        return hanging()

    callbacks.add("blocks", blocks, deadline=SHORT)
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


def test_an_async_callback_whose_work_was_cancelled_has_failed(callbacks, collector):
    """A cancellation that nobody asked the callback for is its failure, not that of the look."""

    async def cancelled():
        raise asyncio.CancelledError

    callbacks.add("pool.size", cancelled)
    callbacks.collect()
    assert failures(collector, "pool.size", "CancelledError") == 1


# -- many who look -------------------------------------------------------------------------------------------


def test_looks_at_the_same_time_share_the_call(callbacks, collector):
    """Ten scrapers cost one call, all get its value, and a deadline that goes by counts once."""
    hanging = Hanging()
    callbacks.add("shared", hanging, deadline=PATIENCE)
    with ThreadPoolExecutor(10) as scrapers:
        looking = [scrapers.submit(callbacks.collect) for _ in range(10)]
        assert hanging.called.acquire(timeout=PATIENCE)
        hanging.go_on.set()
        for one in looking:
            one.result(PATIENCE)
    assert last(collector, "shared") == 1
    assert hanging.calls <= 10  # those who came after the answer made calls of their own


def test_a_missed_deadline_counts_once_for_all_who_waited_for_it(callbacks, collector):
    """Two scrapers at once see one failure."""
    hanging = Hanging()
    callbacks.add("slow", hanging, deadline=0.3)
    with ThreadPoolExecutor(2) as scrapers:
        first = scrapers.submit(callbacks.collect)
        assert hanging.called.acquire(timeout=PATIENCE)
        callbacks.collect()
        first.result(PATIENCE)
    assert (hanging.calls, failures(collector, "slow", "timeout")) == (1, 1)
    hanging.go_on.set()


def test_threads_may_add_remove_and_look_at_once(callbacks, collector):
    """Nothing raises, hangs or is called twice at a time."""
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
        callbacks.add(f"shared.{number}", callback(number), deadline=PATIENCE)
    with ThreadPoolExecutor(4) as others:
        for done in [others.submit(work, number) for number in range(4)]:
            done.result(PATIENCE)
    assert twice == []
    assert all(state.failure is None for state in callbacks.states())


def test_ctrl_c_ends_the_look_at_once(callbacks, collector):
    """The call goes on in its thread, and its value is recorded."""
    hanging = Hanging(value=3)
    callbacks.add("slow", hanging, deadline=PATIENCE)

    def interrupt():
        assert hanging.called.acquire(timeout=PATIENCE)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with ThreadPoolExecutor(1) as other:
            done = other.submit(interrupt)
            with pytest.raises(KeyboardInterrupt):
                callbacks.collect()
            done.result(PATIENCE)
    finally:
        signal.signal(signal.SIGINT, before)
    hanging.go_on.set()
    wait_for(lambda: last(collector, "slow") == 3)
    callbacks.collect()
    assert callbacks.states()[0].failure is None


def test_without_threads_to_be_had_a_look_still_returns(callbacks, collector, monkeypatch):
    """Each callback has failed, by what the system says; afterwards all is well."""
    callbacks.add("sync", lambda: 1)
    callbacks.add("async", seven)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", raises_on_start)
        callbacks.collect()
    assert {state.failure for state in callbacks.states()} == {"RuntimeError"}
    callbacks.collect()
    assert {state.failure for state in callbacks.states()} == {None}


def raises_on_start(thread):
    """Refuse to start a thread, as a full system does."""
    raise RuntimeError("can't start new thread")


# -- life ----------------------------------------------------------------------------------------------------


def test_threads_end_with_the_callbacks(collector):
    """Nobody has to close anything."""
    callbacks = GaugeCallbacks(collector)
    callbacks.add("pool.size", seven)
    callbacks.collect()
    assert len(threads()) == 1
    del callbacks
    gc.collect()
    wait_for(lambda: not threads())


def test_after_a_close_a_look_begins_anew(callbacks, collector):
    """Closing ends the thread of the async callbacks, and costs no sample."""
    callbacks.add("pool.size", seven, deadline=PATIENCE)
    callbacks.collect()
    callbacks.close()
    callbacks.close()
    wait_for(lambda: not threads())
    callbacks.collect()
    assert len(threads()) == 1
    assert callbacks.states()[0].failure is None


def test_one_who_waits_while_it_is_closed_gets_a_value(callbacks, collector):
    """A call that is cut off by a close is made again."""
    entered = threading.Semaphore(0)
    waits = deque([PATIENCE, 0])

    async def size():
        entered.release()
        await asyncio.sleep(waits.popleft())
        return 1

    callbacks.add("pool.size", size, deadline=2 * PATIENCE)
    with ThreadPoolExecutor(1) as other:
        looking = other.submit(callbacks.collect)
        assert entered.acquire(timeout=PATIENCE)
        callbacks.close()
        looking.result(PATIENCE)
    assert last(collector, "pool.size") == 1
    assert failures(collector, "pool.size", "CancelledError") is None


@forks
def test_a_forked_child_waits_for_nothing_of_its_parent():
    """Calls that hang in the parent are made anew in the child, with threads and a loop of its own."""
    collector = InMemoryCollector()
    callbacks = GaugeCallbacks(collector)
    hanging = Hanging()
    parent = os.getpid()
    callbacks.add("slow", lambda: hanging() if os.getpid() == parent else 2, deadline=SHORT)
    callbacks.add("pool.size", seven)
    callbacks.collect()

    def look():
        before = callbacks.states()
        callbacks.collect()
        return [(one.age_seconds, one.failure) for one in before], last(collector, "slow"), callbacks.states()

    fresh = [CallbackState("slow", {}, 0.0, None), CallbackState("pool.size", {}, 0.0, None)]
    assert in_a_child(look) == str(([(None, None)] * 2, 2, fresh))
    hanging.go_on.set()
    callbacks.collect()  # the parent's own loop still answers
    assert callbacks.states()[1].failure is None
    callbacks.close()


@pytest.mark.heavy
def test_a_program_ends_while_callbacks_hang_and_complains_of_nothing():
    """Neither a hung thread nor the loop's keeps the interpreter, or leaves a warning."""
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    complaints = [line for line in done.stderr.splitlines() if "gauge callback failed" not in line]
    assert (done.returncode, done.stdout, complaints) == (0, "['timeout', 'timeout']\n", [])


@pytest.mark.heavy
def test_sync_callbacks_cost_no_asyncio():
    """Who has no async callback does not wait for its import."""
    code = (
        "import sys\n"
        "from metrics_framework.callbacks import GaugeCallbacks\n"
        "from metrics_adapters.null import NullCollector\n"
        "callbacks = GaugeCallbacks(NullCollector())\n"
        "callbacks.add('size', lambda: 1)\n"
        "callbacks.collect()\n"
        "print({'asyncio', 'trio', 'anyio'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("set()\n", "")


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deadline", [0, -1, float("nan"), float("inf"), "1", None, True, 1e300])
def test_a_deadline_is_a_positive_number(callbacks, deadline):
    """Anything else is refused with what it may be."""
    with pytest.raises(InvalidInputError, match=r"callback 'size': deadline=.* is not a positive number"):
        callbacks.add("size", lambda: 1, deadline=deadline)


def test_a_called_coroutine_function_is_refused_with_the_remedy(callbacks):
    """Its object could be awaited once; no warning about it comes in addition."""
    with pytest.raises(InvalidInputError, match="pass the function, without calling it"):
        callbacks.add("size", seven())
    gc.collect()


@pytest.mark.parametrize("function", [3, "size", object()])
def test_what_cannot_be_called_is_refused_with_the_remedy(callbacks, function):
    """The common mistake is to call the function."""
    with pytest.raises(InvalidInputError, match="without the parentheses"):
        callbacks.add("size", function)
    with pytest.raises(InvalidInputError, match="without the parentheses"):
        callbacks.add("size")(function)


@pytest.mark.parametrize("arguments", [("",), (3,), ("size", None, "tag"), ("size", None, {"": "x"})])
def test_names_and_tags_are_checked_at_once(callbacks, arguments):
    """Not at the first look, where nobody sees it."""
    with pytest.raises(InvalidInputError):
        callbacks.add(*arguments)


# -- in a system ---------------------------------------------------------------------------------------------


def test_a_system_looks_at_every_interval():
    """Its thread reads the callbacks too, and an age is exposed in seconds."""
    with MetricsSystem() as metrics:
        looked, fails = threading.Semaphore(0), deque([5])
        metrics.callbacks.add("queue.size", fails.popleft)
        metrics.callbacks.add("looked", lambda: looked.release() or 1)
        metrics.initialize_metrics({"collection_interval": 0.01})
        for _ in range(3):
            assert looked.acquire(timeout=PATIENCE)
        text = metrics.aggregator.export_metrics("prometheus")
    assert "\nqueue_size 5" in text
    assert '\nmetrics_framework_callback_age_seconds{callback="queue.size"} ' in text
    assert (
        '\nmetrics_framework_callback_failures_total{callback="queue.size",error_type="IndexError"} ' in text
    )


def test_a_shutdown_ends_the_threads_of_callbacks():
    """Also those of the async ones."""
    with MetricsSystem() as metrics:
        metrics.callbacks.add("pool.size", seven)
        metrics.callbacks.collect()
        assert metrics.aggregator.get_metric_summary("pool.size")["last"] == 7
    wait_for(lambda: not threads())
