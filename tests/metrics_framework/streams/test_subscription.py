"""Subscriptions have bounded buffers, count lost events, and can be read in threads and tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_adapters.in_memory import InMemoryCollector
from metrics_framework.errors import ClosedError, InvalidInputError
from metrics_framework.recording import Store
from metrics_framework.streams import Publisher, StoreSource, StreamFilter, Subscription
from metrics_framework.streams.sources import PolledChunk
from metrics_framework.values import MetricType, MetricUnit, MetricValue

WAIT_SECONDS = 20.0


class Stream:
    """A store with a collector and a publisher."""

    def __init__(self) -> None:
        self.store = Store()
        self.collector = InMemoryCollector(self.store)
        self.publisher = Publisher(StoreSource(self.store))
        self.subscribe = self.publisher.subscribe

    def record(self, number: int = 1, name: str = "requests") -> None:
        """Increment a counter a number of times."""
        for _ in range(number):
            self.collector.increment(name)

    def publish(self) -> None:
        """Publish everything recorded until now."""
        self.subscribe().close()


@pytest.fixture
def stream():
    """Return a stream, and close its publisher."""
    stream = Stream()
    yield stream
    stream.publisher.close()


class Asyncio:
    """Runs tests on asyncio."""

    sleep = staticmethod(asyncio.sleep)

    @staticmethod
    def run(function):
        """Run an async function, and check that it leaves no task."""

        async def main():
            result = await asyncio.wait_for(function(), WAIT_SECONDS)
            assert len(asyncio.all_tasks()) == 1
            return result

        return asyncio.run(main(), debug=True)

    @staticmethod
    async def beside(function, seconds):
        """Run an async function for some seconds, then cancel it."""
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(function(), seconds)


class Trio:
    """Runs tests on trio."""

    sleep = staticmethod(trio.sleep)

    @staticmethod
    def run(function):
        """Run an async function. Trio itself leaves no task."""

        async def main():
            with trio.fail_after(WAIT_SECONDS):
                return await function()

        return trio.run(main)

    @staticmethod
    async def beside(function, seconds):
        """Run an async function for some seconds, then cancel it."""
        with trio.move_on_after(seconds) as scope:
            await function()
        assert scope.cancelled_caught


@pytest.fixture(params=[Asyncio, Trio], ids=["asyncio", "trio"])
def loop(request):
    """Return the class that runs the test."""
    return request.param


# -- counts -----------------------------------------------------------------------------------------------

FILTERS = [
    {},
    {"name": "odd"},
    {"name": "e*"},
    {"sample_rate": 0.3},
    {"name": "odd", "sample_rate": 0.5},
]


@settings(max_examples=60, deadline=None)
@given(
    buffers=st.lists(st.integers(1, 30), min_size=len(FILTERS), max_size=len(FILTERS)),
    steps=st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["odd", "even"]), st.integers(1, 40)),
            st.tuples(st.just("take"), st.integers(0, 4), st.integers(1, 20)),
            st.just(("publish",)),
        ),
        max_size=30,
    ),
)
def test_delivered_and_dropped_events_add_up_to_the_records(buffers, steps):
    """Every event is delivered in order or counted, for any filter, buffer and pace of the reader."""
    stream = Stream()
    whole = stream.subscribe(buffer=1_000_000)
    subscriptions = [
        stream.subscribe(filters, buffer=buffer) for filters, buffer in zip(FILTERS, buffers, strict=True)
    ]
    delivered = [[] for _ in FILTERS]
    for step in steps:
        if step[0] == "publish":
            stream.publish()
        elif step[0] == "take":
            for _ in range(step[2]):
                event = subscriptions[step[1]].get(0)
                delivered[step[1]] += [] if event is None else [event]
        else:
            stream.record(step[1], step[0])
    stream.publisher.close()
    every = list(whole)
    assert [event.sequence for event in every] == list(range(1, stream.store.recorded + 1))
    for filters, buffer, subscription, events in zip(FILTERS, buffers, subscriptions, delivered, strict=True):
        rest = list(subscription)
        assert len(rest) <= buffer
        events += rest
        stream_filter = StreamFilter.parse(filters)
        expected = [
            event.sequence
            for event in every
            if stream_filter.matches(event.value.name, event.value.metric_type, {})
            and stream_filter.is_in_sample(event.sequence)
        ]
        assert len(events) + subscription.dropped == len(expected)
        assert sum(event.dropped for event in events) == subscription.dropped
        at = 0
        for event in events:  # each loss is reported where it happened
            at += event.dropped
            assert event.sequence == expected[at]
            at += 1


@pytest.mark.parametrize(
    ("buffer", "expected"), [(4, [(1, 0), (7, 5), (8, 0), (9, 0)]), (2, [(8, 7), (9, 0)])]
)
def test_missing_events_are_reported_where_they_are_missing(buffer, expected):
    """They count before the next event. If it was dropped as well, they count before the one after it."""
    now = datetime.now(tz=UTC)
    chunks = {}
    for sequence in (1, 7, 8, 9):
        chunks[sequence] = PolledChunk(MetricValue("a", 1, MetricType.GAUGE, MetricUnit.COUNT, now, {}, {}))
        chunks[sequence].first = sequence
    subscription = Subscription(StreamFilter(), buffer, None)
    subscription.deliver([chunks[1]])
    subscription.count_missed(5)
    subscription.deliver([chunks[7], chunks[8], chunks[9]])
    subscription.end()
    events = list(subscription)
    assert [(event.sequence, event.dropped) for event in events] == expected
    assert subscription.dropped == sum(dropped for _, dropped in expected)


@pytest.mark.heavy
def test_a_subscriber_that_stops_reading_affects_no_other(stream):
    """A fast reader gets everything beside a slow one and one that never reads, and all counts are exact."""
    dead, slow = stream.subscribe(buffer=10), stream.subscribe(buffer=100)
    quick = stream.subscribe(buffer=1_000_000)
    taken: dict[str, int] = {"slow": 0, "quick": 0}

    def read(name, subscription, seconds):
        for _ in subscription:
            taken[name] += 1
            if seconds and taken[name] % 10 == 0:
                time.sleep(seconds)

    readers = [
        threading.Thread(target=read, args=["slow", slow, 0.005]),
        threading.Thread(target=read, args=["quick", quick, 0]),
    ]
    recorders = [threading.Thread(target=stream.record, args=[10_000]) for _ in range(4)]
    for thread in (*readers, *recorders):
        thread.start()
    for thread in recorders:
        thread.join()
    stream.publisher.close()
    for thread in readers:
        thread.join()
    assert (taken["quick"], quick.dropped) == (40_000, 0)
    assert taken["slow"] + slow.dropped == 40_000
    assert 10 + dead.dropped == 40_000
    assert [dead.get().dropped, dead.get().dropped] == [39_990, 0]


def test_a_subscriber_gets_later_records_only(stream):
    """Earlier records are left out, for the first subscriber and for later ones."""
    stream.record(3)
    first = stream.subscribe()
    stream.record(2)
    second = stream.subscribe()
    stream.record(1)
    stream.publisher.close()
    assert [event.sequence for event in first] == [1, 2, 3]
    assert [event.sequence for event in second] == [3]


# -- resuming ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("filters", [None, {"name": "requests"}, {"sample_rate": 0.4}])
def test_a_subscriber_resumes_after_its_last_event(stream, filters):
    """It gets the events that it missed, and then new ones."""
    whole = stream.subscribe(filters)
    stream.record(100)
    with stream.subscribe(filters) as subscription:
        stream.record(100)
        had = [subscription.get(WAIT_SECONDS).sequence for _ in range(10)]
    stream.record(100)
    again = stream.subscribe(filters, after=had[-1])
    stream.record(100)
    stream.publisher.close()
    had += [event.sequence for event in again]
    assert again.dropped == 0
    assert had == [event.sequence for event in whole if event.sequence >= had[0]]


def test_events_older_than_the_replay_count_as_dropped(stream, monkeypatch):
    """They count before the oldest event of the replay."""
    monkeypatch.setattr("metrics_framework.streams.publisher.MAX_REPLAY_EVENTS", 100)
    stream.subscribe()
    with stream.subscribe() as subscription:
        stream.record(1)
        last = subscription.get(WAIT_SECONDS).sequence
    for _ in range(50):
        stream.record(10)
        stream.publish()
    again = stream.subscribe(after=last)
    event = again.get(WAIT_SECONDS)
    assert event.dropped == again.dropped == event.sequence - 2
    assert 100 <= 501 - again.dropped - 1 < 120


def test_records_made_without_subscribers_count_as_dropped(stream, monkeypatch):
    """A stopped publisher keeps no events, but the number of records is known."""
    monkeypatch.setattr("metrics_framework.streams.publisher.IDLE_STOP_SECONDS", 0.0)
    monkeypatch.setattr("metrics_framework.streams.publisher.PUBLISH_SECONDS", 0.001)
    with stream.subscribe() as subscription:
        stream.record(3)
        last = [subscription.get(WAIT_SECONDS) for _ in range(3)][-1]
    wait_for_stop(stream.publisher)
    stream.record(7)
    again = stream.subscribe(after=last.sequence)
    stream.record(1)
    event = again.get(WAIT_SECONDS)
    assert (event.sequence, event.dropped) == (11, 7)
    assert event.value.metadata["count"] == 11


def test_a_sequence_number_of_another_process_is_ignored(stream):
    """A client that reconnects to a restarted service gets new events."""
    stream.record(5)
    subscription = stream.subscribe(after=1_000)
    stream.record(1)
    assert subscription.get(WAIT_SECONDS).dropped == 0


def wait_for_stop(publisher):
    """Wait until the publisher has stopped."""
    until = time.monotonic() + WAIT_SECONDS
    while publisher._thread is not None:
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize(
    "options",
    [{"buffer": 0}, {"buffer": 1.5}, {"buffer": True}, {"after": -1}, {"after": "3"}, {"after": True}],
)
def test_bad_options_are_errors(stream, options):
    """A buffer holds at least one event, and a sequence number is an integer of 0 or more."""
    with pytest.raises(InvalidInputError, match=f"{next(iter(options))}="):
        stream.subscribe(**options)


# -- threads ----------------------------------------------------------------------------------------------


def test_get_waits_for_the_timeout(stream):
    """It returns a buffered event immediately, waits for a new one, and returns None at the end."""
    subscription = stream.subscribe()
    assert subscription.get(0) is None
    assert subscription.get(0.01) is None
    threading.Timer(0.05, stream.record).start()
    assert subscription.get(WAIT_SECONDS).sequence == 1
    threading.Timer(0.05, stream.publisher.close).start()
    assert subscription.get() is None
    assert subscription.is_finished


def test_closing_wakes_waiting_readers(stream):
    """`get` returns None if another thread closes the subscription."""
    subscription = stream.subscribe()
    threading.Timer(0.05, subscription.close).start()
    assert subscription.get(WAIT_SECONDS) is None
    assert subscription.is_closed
    subscription.close()
    stream.record()
    stream.publish()
    assert subscription.get(0) is None


def test_two_threads_may_share_a_subscription(stream):
    """Each event goes to one of them."""
    subscription = stream.subscribe(buffer=100_000)
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.extend(event.sequence for event in subscription))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for _ in range(20):
        stream.record(50)
        stream.publish()
    stream.publisher.close()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert sorted(found) == list(range(1, 1_001))


# -- tasks ------------------------------------------------------------------------------------------------


def test_a_task_reads_records_of_another_thread(stream, loop):
    """It gets all of them until the stream ends."""

    async def main():
        found = []
        async with stream.subscribe() as subscription:
            thread = threading.Thread(target=lambda: (stream.record(500), stream.publisher.close()))
            thread.start()
            found += [event.sequence async for event in subscription]
            thread.join()
        return found

    assert loop.run(main) == list(range(1, 501))


def test_a_cancelled_wait_loses_no_event(stream, loop):
    """The subscription stays usable, and no waiter is left behind."""

    async def main():
        subscription = stream.subscribe()
        for _ in range(3):
            await loop.beside(subscription.__anext__, 0.01)
        assert subscription._notifier._wakes == []
        stream.record(2)
        return [(await anext(subscription)).sequence for _ in range(2)]

    assert loop.run(main) == [1, 2]


@pytest.mark.slow
def test_a_task_can_be_cancelled_between_many_events(stream, loop):
    """Other tasks run however many events are buffered, and the events that were not taken stay."""
    stream.subscribe(after=0)
    subscription = stream.subscribe(buffer=1_000_000)
    stream.record(200_000)
    stream.publish()
    last = 0

    async def main():
        nonlocal last

        async def read():
            nonlocal last
            async for event in subscription:
                assert event.sequence == last + 1
                last = event.sequence

        await loop.beside(read, 0.05)
        assert (await anext(subscription)).sequence == last + 1

    loop.run(main)
    assert 0 < last < 200_000


def test_a_closed_event_loop_does_not_break_its_subscription(stream):
    """If the loop was closed during a wait, the publisher continues, and another loop can read."""
    subscription = stream.subscribe()

    def wait_and_die():
        loop = asyncio.new_event_loop()
        task = loop.create_task(anext(subscription))
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
        return task

    task = wait_and_die()
    stream.record(2)
    stream.publish()
    assert asyncio.run(first(subscription)) == 1
    assert subscription.get(WAIT_SECONDS).sequence == 2
    task._log_destroy_pending = False
    del task


async def first(subscription):
    """Return the number of the next event."""
    return (await anext(subscription)).sequence


def test_awaiting_without_an_event_loop_is_an_error(stream):
    """The message names the method for threads."""
    waiting = anext(stream.subscribe())
    with pytest.raises(InvalidInputError, match="no asyncio or trio event loop is running"):
        waiting.send(None)


def test_subscribing_after_the_end_is_an_error(stream):
    """The message says that the system is shut down."""
    stream.publisher.close()
    with pytest.raises(ClosedError, match="shut down"):
        stream.subscribe()
