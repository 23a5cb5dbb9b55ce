"""There is a thread and a log of records while there are subscribers, and neither of them afterwards."""

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

SOON = 20.0


@pytest.fixture
def store():
    """Return an empty store."""
    return Store()


@pytest.fixture
def publisher(store):
    """Return its streams, which rest at once where nobody listens."""
    publisher = Publisher(StoreSource(store))
    yield publisher
    publisher.close()


def threads() -> int:
    """Count the threads of streams."""
    return sum(thread.name.startswith("metrics-metrics-stream") for thread in threading.enumerate())


def is_logging(source: StoreSource) -> bool:
    """Return whether the store logs its records for a source."""
    return source._log is not None


def wait_for(condition) -> None:
    """Wait until something is so."""
    until = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture
def restless(monkeypatch):
    """Let streams rest at once."""
    monkeypatch.setattr("metrics_framework.streams.publisher.IDLE_STOP_SECONDS", 0.0)
    monkeypatch.setattr("metrics_framework.streams.publisher.PUBLISH_SECONDS", 0.001)


def test_records_are_logged_only_for_subscribers(publisher, restless):
    """Before the first subscriber and after the last one there is neither a log nor a thread."""
    assert (is_logging(publisher._source), threads()) == (False, 0)
    with publisher.subscribe(), publisher.subscribe():
        assert (is_logging(publisher._source), threads()) == (True, 1)
    wait_for(lambda: not threads())
    assert not is_logging(publisher._source)


def test_a_subscription_that_nobody_holds_is_gone(publisher, restless):
    """Who forgets to close a subscription leaves nothing behind once it is garbage."""
    subscription = publisher.subscribe()
    wait_for(threads)
    gone = weakref.ref(subscription)
    del subscription
    wait_for(lambda: not threads())
    assert gone() is None
    assert not is_logging(publisher._source)


def test_a_system_that_nobody_holds_is_gone(store):
    """A system and its subscriptions that are dropped without an end leave neither a log nor a thread."""
    source = StoreSource(store)
    publisher = Publisher(source)
    subscription = publisher.subscribe()
    wait_for(threads)
    del publisher, subscription
    gc.collect()
    wait_for(lambda: not threads())
    assert not is_logging(source)


def test_a_subscription_keeps_its_stream_alive(store):
    """As long as somebody reads, records arrive."""
    subscription = Publisher(StoreSource(store)).subscribe()
    gc.collect()
    InMemoryCollector(store).increment("requests")
    assert subscription.get(SOON).sequence == 1
    subscription.close()


def test_two_systems_may_share_a_store(store):
    """Each has a stream of its own, and one that ends does not end the other."""
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
def test_a_thousand_subscribers_come_and_go(store, publisher, restless):
    """In waves, closed or just dropped, in threads and on loops: no memory, thread, file or log is left."""
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


def test_records_made_while_a_stream_starts_are_not_forgotten(store, publisher, restless):
    """Another thread's records are delivered, or counted as missed by a subscriber that comes back."""
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
                event = subscription.get(SOON)
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


def test_a_stopped_source_gets_no_records(store):
    """A store logs records for it only between its start and its end, which may come twice."""
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
def test_memory_is_bounded_however_much_is_recorded(store, publisher):
    """One that never reads and the replay hold so many events, not more, also for a small sample."""
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_has_streams_of_its_own():
    """A forked child's inherited subscriptions are over, new ones get its records, and the parent's go on."""
    with MetricsSystem() as metrics:
        inherited = metrics.subscribe()
        metrics.collector.increment("requests")
        child = os.fork()
        if child == 0:
            try:
                over = inherited.get(SOON) is None and inherited.is_finished
                own = metrics.subscribe()
                metrics.collector.increment("requests")
                event = own.get(SOON)
                os._exit(0 if over and (event.sequence, event.value.value) == (1, 1) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        metrics.collector.increment("requests")
        assert [inherited.get(SOON).value.value for _ in range(2)] == [1, 2]


def test_the_end_of_a_system_ends_its_streams():
    """Streams end with what was recorded until then; afterwards there is no thread, and no subscribing."""
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
    """Count the open files of this process, where the system says."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


async def everything(stream):
    """Return all that a stream yields."""
    return [each async for each in stream]


def test_a_signal_handler_may_end_a_system_that_is_being_subscribed_to(store, publisher, monkeypatch):
    """The end of a system in the middle of a subscription, on its own thread, waits for nobody."""
    source = publisher._source
    start = source.start

    def start_and_end(sequence):
        publisher.close()
        return start(sequence)

    monkeypatch.setattr(source, "start", start_and_end)
    subscription = publisher.subscribe()
    assert subscription.get(0) is None
    publisher.close()
    assert subscription.get(SOON) is None


def test_values_say_what_was_lost(store, publisher, monkeypatch):
    """A value of `metrics_stream` after some that were dropped has their number in its metadata."""
    monkeypatch.setattr("metrics_framework.streams.publisher.DEFAULT_BUFFER_EVENTS", 2)
    values = publisher.values()
    for _ in range(5):
        InMemoryCollector(store).increment("requests")
    publisher.close()
    found = asyncio.run(everything(values))
    assert [(value.value, value.metadata.get("dropped")) for value in found] == [(4, 3), (5, None)]


def test_a_stream_of_values_is_closed_and_left(store, publisher, restless):
    """Closing a stream, or leaving its loop and dropping it, ends it without a trace."""

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


def test_only_a_store_that_all_numbers_are_in_is_listened_to():
    """Any aggregator but the in-memory one is asked, also where it has a store among others."""
    from metrics_adapters.combined import CombinedAggregator
    from metrics_adapters.in_memory import InMemoryAggregator

    assert isinstance(publisher_of(InMemoryAggregator())._source, StoreSource)
    assert isinstance(publisher_of(CombinedAggregator(InMemoryAggregator()))._source, PollingSource)
