"""The publisher thread and the log of records exist only while there are subscribers."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import tracemalloc
import weakref
from pathlib import Path

import pytest

from metrics_adapters.in_memory import InMemoryCollector
from metrics_framework import MetricsSystem
from metrics_framework.errors import ClosedError
from metrics_framework.recording import Store
from metrics_framework.streams import PollingSource, Publisher, StoreSource, publisher_of

WAIT_SECONDS = 20.0


@pytest.fixture
def store():
    """Return an empty store."""
    return Store()


@pytest.fixture
def publisher(store):
    """Return a publisher of the store, and close it."""
    publisher = Publisher(StoreSource(store))
    yield publisher
    publisher.close()


def threads() -> int:
    """Count the publisher threads."""
    return sum(thread.name.startswith("metrics-metrics-stream") for thread in threading.enumerate())


def is_logging(source: StoreSource) -> bool:
    """Return whether the store logs records for a source."""
    return source._log is not None


def wait_for(condition) -> None:
    """Wait until a condition is true."""
    until = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture
def quick_stop(monkeypatch):
    """Stop an idle publisher immediately."""
    monkeypatch.setattr("metrics_framework.streams.publisher.IDLE_STOP_SECONDS", 0.0)
    monkeypatch.setattr("metrics_framework.streams.publisher.PUBLISH_SECONDS", 0.001)


def test_thread_and_log_exist_only_while_there_are_subscribers(publisher, quick_stop):
    """They start with the first subscriber and stop after the last one."""
    assert (is_logging(publisher._source), threads()) == (False, 0)
    with publisher.subscribe(), publisher.subscribe():
        assert (is_logging(publisher._source), threads()) == (True, 1)
    wait_for(lambda: not threads())
    assert not is_logging(publisher._source)


def test_a_garbage_collected_subscription_is_closed(publisher, quick_stop):
    """It leaves neither a log nor a thread."""
    subscription = publisher.subscribe()
    wait_for(threads)
    gone = weakref.ref(subscription)
    del subscription
    wait_for(lambda: not threads())
    assert gone() is None
    assert not is_logging(publisher._source)


def test_a_garbage_collected_publisher_is_stopped(store):
    """Without `close`, it leaves neither a log nor a thread."""
    source = StoreSource(store)
    publisher = Publisher(source)
    subscription = publisher.subscribe()
    wait_for(threads)
    del publisher, subscription
    gc.collect()
    wait_for(lambda: not threads())
    assert not is_logging(source)


def test_a_subscription_keeps_its_publisher_alive(store):
    """Records arrive although the program holds only the subscription."""
    subscription = Publisher(StoreSource(store)).subscribe()
    gc.collect()
    InMemoryCollector(store).increment("requests")
    assert subscription.get(WAIT_SECONDS).sequence == 1
    subscription.close()


def test_two_publishers_may_share_a_store(store):
    """Each has its own stream, and closing one does not affect the other."""
    one, other = Publisher(StoreSource(store)), Publisher(StoreSource(store))
    first, second = one.subscribe(), other.subscribe()
    collector = InMemoryCollector(store)
    collector.increment("requests")
    one.close()
    collector.increment("requests")
    other.close()
    assert [event.sequence for event in first] == [1]
    assert [event.sequence for event in second] == [1, 2]
    assert not is_logging(one._source)
    assert not is_logging(other._source)


@pytest.mark.heavy
def test_a_thousand_subscribers_leave_nothing_behind(store, publisher, quick_stop):
    """Closed or garbage-collected, in threads and tasks: no memory, thread, file or log is left."""
    collector = InMemoryCollector(store)

    async def on_a_loop(number):
        async with publisher.subscribe() as subscription:
            for _ in range(number):
                await anext(subscription)

    async def wave():
        tasks = [asyncio.create_task(on_a_loop(1 + each % 3)) for each in range(100)]
        tasks += [asyncio.create_task(on_a_loop(10_000)) for _ in range(25)]
        kept = [publisher.subscribe(buffer=1 + each) for each in range(125)]
        await asyncio.sleep(0)
        for each in range(300):
            collector.increment(f"requests.{each % 7}")
        await asyncio.wait(tasks[:100])
        for task in tasks[100:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for subscription in kept[:60]:
            subscription.close()

    asyncio.run(wave())
    wait_for(lambda: not threads())
    gc.collect()
    files = open_files()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(4):
        asyncio.run(wave())
    wait_for(lambda: not threads())
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 300_000
    assert not is_logging(publisher._source)
    assert open_files() == files


def test_records_made_while_a_stream_starts_are_counted(store, publisher, quick_stop):
    """Another thread's records are delivered, or count as dropped for a subscriber that resumes."""
    collector, done = InMemoryCollector(store), threading.Event()

    def record():
        while not done.wait(0.0001):
            collector.increment("requests")

    thread = threading.Thread(target=record)
    thread.start()
    try:
        last, before = 0, None
        for _ in range(20):
            with publisher.subscribe(after=last) as subscription:
                event = subscription.get(WAIT_SECONDS)
            assert event.dropped == event.sequence - last - 1
            # The total and the sequence number count the same records.
            if before is None:
                before = event.value.value - event.sequence
            assert event.value.value - event.sequence == before
            last = event.sequence
            wait_for(lambda: not is_logging(publisher._source))
    finally:
        done.set()
        thread.join()


def test_a_stopped_source_receives_no_records(store):
    """The store logs records only between `start` and `stop`, which may be called twice."""
    source, collector = StoreSource(store), InMemoryCollector(store)
    assert source.collect(now=True) == ([], 0)
    collector.increment("requests")
    assert source.start(0) == 0
    collector.increment("requests")
    log = source._log
    (run,), lost = source.collect(now=True)
    assert (len(run), lost) == (1, 0)
    for _ in range(2):
        source.stop()
        collector.increment("requests")
        assert log.drain() == (0, [])
        assert source.collect(now=True) == ([], 0)
    assert source.start(1) == 2


@pytest.mark.heavy
def test_memory_is_bounded(store, publisher):
    """The replay, and a subscriber that never reads, hold few events, even with a small sample."""
    collector = InMemoryCollector(store)
    kept = [publisher.subscribe(buffer=1_000), publisher.subscribe({"sample_rate": 0.001}, buffer=1_000)]
    counter = collector.counter("requests", {"a": "b"})

    def record(number):
        for _ in range(number):
            counter.add(1.5)
        publisher.subscribe().close()

    record(25_000)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(3):
        record(25_000)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 3_000_000
    assert kept[0].dropped == 99_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="requires os.fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_its_own_streams():
    """Inherited subscriptions end in the child, new ones receive its records, and the parent's continue."""
    with MetricsSystem() as metrics:
        inherited = metrics.subscribe()
        metrics.collector.increment("requests")
        child = os.fork()
        if child == 0:
            try:
                over = inherited.get(WAIT_SECONDS) is None and inherited.is_finished
                own = metrics.subscribe()
                metrics.collector.increment("requests")
                event = own.get(WAIT_SECONDS)
                os._exit(0 if over and (event.sequence, event.value.value) == (1, 1) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        metrics.collector.increment("requests")
        assert [inherited.get(WAIT_SECONDS).value.value for _ in range(2)] == [1, 2]


def test_the_shutdown_of_a_system_ends_its_streams():
    """They deliver everything recorded until then. Afterwards no thread runs, and no one can subscribe."""
    metrics = MetricsSystem()
    subscription, stream, deltas = metrics.subscribe(), metrics.metrics_stream(), metrics.deltas(3_600)
    metrics.collector.increment("requests")
    metrics.shutdown_metrics()

    async def rest():
        return [value.value async for value in stream], [[v.value for v in some] async for some in deltas]

    assert [event.value.value for event in subscription] == [1]
    assert asyncio.run(rest()) == ([1], [[1]])
    assert threads() == 0
    with pytest.raises(ClosedError):
        metrics.subscribe()
    assert asyncio.run(everything(metrics.metrics_stream())) == []
    assert asyncio.run(everything(metrics.deltas())) == []


def open_files() -> int:
    """Count the open files of this process, if the system has /proc."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


async def everything(stream):
    """Return everything that a stream yields."""
    return [each async for each in stream]


def test_a_signal_handler_may_close_the_publisher_during_a_subscription(store, publisher, monkeypatch):
    """Closing it in the thread that is subscribing does not deadlock."""
    source = publisher._source
    start = source.start

    def start_and_end(sequence):
        publisher.close()
        return start(sequence)

    monkeypatch.setattr(source, "start", start_and_end)
    subscription = publisher.subscribe()
    assert subscription.get(0) is None
    publisher.close()
    assert subscription.get(WAIT_SECONDS) is None


def test_values_have_the_number_of_dropped_events(store, publisher, monkeypatch):
    """The first value of `metrics_stream` after a loss has it in its metadata."""
    monkeypatch.setattr("metrics_framework.streams.publisher.DEFAULT_BUFFER_EVENTS", 2)
    values = publisher.values()
    for _ in range(5):
        InMemoryCollector(store).increment("requests")
    publisher.close()
    found = asyncio.run(everything(values))
    assert [(value.value, value.metadata.get("dropped")) for value in found] == [(4, 3), (5, None)]


def test_a_value_stream_leaves_nothing_behind(store, publisher, quick_stop):
    """Neither after `aclose` nor after its task was cancelled."""

    async def main():
        stream = publisher.values()
        InMemoryCollector(store).increment("requests")
        assert (await anext(stream)).value == 1
        await stream.aclose()
        assert await everything(stream) == []
        waiting = asyncio.create_task(everything(publisher.values()))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main(), debug=True)
    wait_for(lambda: not threads())


def test_only_the_in_memory_aggregator_is_not_polled():
    """Any other aggregator is polled, even one that contains an in-memory one."""
    from metrics_adapters.combined import CombinedAggregator
    from metrics_adapters.in_memory import InMemoryAggregator

    assert isinstance(publisher_of(InMemoryAggregator())._source, StoreSource)
    assert isinstance(publisher_of(CombinedAggregator(InMemoryAggregator()))._source, PollingSource)
