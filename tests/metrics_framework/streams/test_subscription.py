"""A subscriber's buffer is bounded, what it loses is counted, and it can be read from anywhere."""

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

SOON = 20.0


class Stream:
    """A store with a collector, and its streams."""

    def __init__(self) -> None:
        self.store = Store()
        self.collector = InMemoryCollector(self.store)
        self.publisher = Publisher(StoreSource(self.store))
        self.subscribe = self.publisher.subscribe

    def record(self, number: int = 1, name: str = "requests") -> None:
        """Record some times."""
        for _ in range(number):
            self.collector.increment(name)

    def publish(self) -> None:
        """Have published what was recorded until now."""
        self.subscribe().close()


@pytest.fixture
def stream():
    """Return a stream, and end it."""
    stream = Stream()
    yield stream
    stream.publisher.close()


class Asyncio:
    """What the tests need of asyncio."""

    sleep = staticmethod(asyncio.sleep)

    @staticmethod
    def run(function):
        """Run an async function, and check that it leaves no task."""

        async def main():
            result = await asyncio.wait_for(function(), SOON)
            assert len(asyncio.all_tasks()) == 1
            return result

        return asyncio.run(main(), debug=True)

    @staticmethod
    async def beside(function, seconds):
        """Run an async function for so long, then cancel it."""
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(function(), seconds)


class Trio:
    """What the tests need of trio."""

    sleep = staticmethod(trio.sleep)

    @staticmethod
    def run(function):
        """Run an async function; trio itself lets no task be left."""

        async def main():
            with trio.fail_after(SOON):
                return await function()

        return trio.run(main)

    @staticmethod
    async def beside(function, seconds):
        """Run an async function for so long, then cancel it."""
        with trio.move_on_after(seconds) as scope:
            await function()
        assert scope.cancelled_caught


@pytest.fixture(params=[Asyncio, Trio], ids=["asyncio", "trio"])
def loop(request):
    """Return what runs async functions."""
    return request.param


# -- accounts ---------------------------------------------------------------------------------------------

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
def test_what_was_delivered_and_dropped_is_what_was_recorded(buffers, steps):
    """Whatever a subscriber's filter, buffer and pace: nothing is unaccounted for, and all in order."""
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
        for event in events:  # each loss is said where it happened
            at += event.dropped
            assert event.sequence == expected[at]
            at += 1


@pytest.mark.parametrize(
    ("buffer", "expected"), [(4, [(1, 0), (7, 5), (8, 0), (9, 0)]), (2, [(8, 7), (9, 0)])]
)
def test_what_is_missing_is_said_where_it_is_missing(buffer, expected):
    """What nobody has any more counts before the event after it, also where that one was dropped as well."""
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
def test_one_that_stops_reading_harms_nobody(stream):
    """Beside one that never reads and a slow one a third gets all; each account is right to the last."""
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


def test_a_subscriber_gets_what_is_recorded_after_it_came(stream):
    """What was recorded before is left out, for the first one and for those that come later."""
    stream.record(3)
    first = stream.subscribe()
    stream.record(2)
    second = stream.subscribe()
    stream.record(1)
    stream.publisher.close()
    assert [event.sequence for event in first] == [1, 2, 3]
    assert [event.sequence for event in second] == [3]


# -- coming back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("filters", [None, {"name": "requests"}, {"sample_rate": 0.4}])
def test_who_comes_back_goes_on_where_it_was(stream, filters):
    """With the number of its last event a subscriber gets what it missed, and then what is new."""
    whole = stream.subscribe(filters)
    stream.record(100)
    with stream.subscribe(filters) as subscription:
        stream.record(100)
        had = [subscription.get(SOON).sequence for _ in range(10)]
    stream.record(100)
    again = stream.subscribe(filters, after=had[-1])
    stream.record(100)
    stream.publisher.close()
    had += [event.sequence for event in again]
    assert again.dropped == 0
    assert had == [event.sequence for event in whole if event.sequence >= had[0]]


def test_what_is_not_kept_any_more_counts_as_dropped(stream, monkeypatch):
    """Events that the replay does not reach back to are dropped, visibly before the first one that it has."""
    monkeypatch.setattr("metrics_framework.streams.publisher.MAX_REPLAY_EVENTS", 100)
    stream.subscribe()
    with stream.subscribe() as subscription:
        stream.record(1)
        last = subscription.get(SOON).sequence
    for _ in range(50):
        stream.record(10)
        stream.publish()
    again = stream.subscribe(after=last)
    event = again.get(SOON)
    assert event.dropped == again.dropped == event.sequence - 2
    assert 100 <= 501 - again.dropped - 1 < 120


def test_what_was_recorded_while_nobody_listened_counts_as_dropped(stream, monkeypatch):
    """Once the stream rested nothing is kept, but how many records there were is known."""
    monkeypatch.setattr("metrics_framework.streams.publisher.IDLE_STOP_SECONDS", 0.0)
    monkeypatch.setattr("metrics_framework.streams.publisher.PUBLISH_SECONDS", 0.001)
    with stream.subscribe() as subscription:
        stream.record(3)
        last = [subscription.get(SOON) for _ in range(3)][-1]
    rests(stream.publisher)
    stream.record(7)
    again = stream.subscribe(after=last.sequence)
    stream.record(1)
    event = again.get(SOON)
    assert (event.sequence, event.dropped) == (11, 7)
    assert event.value.metadata["count"] == 11


def test_a_number_of_another_process_is_as_good_as_none(stream):
    """A client that comes back to a service that was started again gets what is new."""
    stream.record(5)
    subscription = stream.subscribe(after=1_000)
    stream.record(1)
    assert subscription.get(SOON).dropped == 0


def rests(publisher):
    """Wait until nobody is listened for any more."""
    until = time.monotonic() + SOON
    while publisher._thread is not None:
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize(
    "options",
    [{"buffer": 0}, {"buffer": 1.5}, {"buffer": True}, {"after": -1}, {"after": "3"}, {"after": True}],
)
def test_bad_options_are_errors(stream, options):
    """A buffer has room for something, and a sequence number is a number."""
    with pytest.raises(InvalidInputError, match=f"{next(iter(options))}="):
        stream.subscribe(**options)


# -- threads ----------------------------------------------------------------------------------------------


def test_a_thread_waits_for_so_long(stream):
    """`get` returns what is there at once, waits where there is nothing, and returns None at the end."""
    subscription = stream.subscribe()
    assert subscription.get(0) is None
    assert subscription.get(0.01) is None
    threading.Timer(0.05, stream.record).start()
    assert subscription.get(SOON).sequence == 1
    threading.Timer(0.05, stream.publisher.close).start()
    assert subscription.get() is None
    assert subscription.is_finished


def test_closing_wakes_who_waits(stream):
    """Whoever waits for a subscription that another thread closes is told that all is over."""
    subscription = stream.subscribe()
    threading.Timer(0.05, subscription.close).start()
    assert subscription.get(SOON) is None
    assert subscription.is_closed
    subscription.close()
    stream.record()
    stream.publish()
    assert subscription.get(0) is None


def test_two_threads_may_share_a_subscription(stream):
    """Each event goes to one of the threads that read it."""
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
        thread.join(SOON)
    assert sorted(found) == list(range(1, 1_001))


# -- loops ------------------------------------------------------------------------------------------------


def test_a_loop_reads_what_another_thread_records(stream, loop):
    """Events of any thread arrive on the loop, which goes on meanwhile, until the stream ends."""

    async def main():
        found = []
        async with stream.subscribe() as subscription:
            thread = threading.Thread(target=lambda: (stream.record(500), stream.publisher.close()))
            thread.start()
            found += [event.sequence async for event in subscription]
            thread.join()
        return found

    assert loop.run(main) == list(range(1, 501))


def test_a_wait_that_is_cancelled_loses_nothing(stream, loop):
    """Who gives up waiting may go on with the same subscription; nobody is left to be woken."""

    async def main():
        subscription = stream.subscribe()
        for _ in range(3):
            await loop.beside(subscription.__anext__, 0.01)
        assert subscription._notifier._wakes == []
        stream.record(2)
        return [(await anext(subscription)).sequence for _ in range(2)]

    assert loop.run(main) == [1, 2]


def test_a_task_is_cancelled_in_the_middle_of_many_events(stream, loop):
    """However many events are there, other tasks have their turn, and what was not taken stays there."""
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


def test_a_loop_that_is_gone_harms_nobody(stream):
    """A subscriber whose loop died while it waited harms nobody, and another loop can go on with it."""
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
    assert subscription.get(SOON).sequence == 2
    task._log_destroy_pending = False
    del task


async def first(subscription):
    """Return the number of the next event."""
    return (await anext(subscription)).sequence


def test_elsewhere_than_on_a_loop_it_says_what_to_do(stream):
    """Awaiting on a loop of no known kind names the way for threads."""
    waiting = anext(stream.subscribe())
    with pytest.raises(InvalidInputError, match="no asyncio or trio event loop is running"):
        waiting.send(None)


def test_after_the_end_nobody_subscribes(stream):
    """What comes too late is told so."""
    stream.publisher.close()
    with pytest.raises(ClosedError, match="shut down"):
        stream.subscribe()
