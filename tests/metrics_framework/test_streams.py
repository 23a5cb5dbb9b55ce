"""Streams yield what changes, whatever the aggregator is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework import streams
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import Store
from metrics_framework.streams import StreamFilter, stream_changes
from metrics_framework.values import MetricType, MetricUnit, MetricValue

PATIENCE = 20.0


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Let streams look for changes all the time."""
    monkeypatch.setattr(streams, "STREAM_SECONDS", 0.001)


@dataclass
class Views:
    """The parts on one store with a clock that the test moves."""

    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        store = Store(self.clock)
        self.collector = InMemoryCollector(store)
        self.timer = InMemoryTimer(store)
        self.tracker = InMemoryTracker(store)
        self.aggregator = InMemoryAggregator(store)

    def changes(self, **filters: object) -> AsyncIterator[MetricValue]:
        """Open a stream."""
        return stream_changes(self.aggregator, StreamFilter.parse(filters))


@pytest.fixture
def views() -> Views:
    """Return the parts on an empty store."""
    return Views()


async def first(stream: AsyncIterator[MetricValue], number: int = 1) -> list[tuple[str, float]]:
    """Return names and values of the first things that a stream yields."""
    async with asyncio.timeout(PATIENCE):
        return [(value.name, value.value) for value in [await anext(stream) for _ in range(number)]]


def test_a_change_is_yielded_as_its_new_value(views):
    """Only what changes after the call is yielded, with the value that it has then."""
    views.collector.record_counter("requests", 5)
    views.collector.record_gauge("level", 3)

    async def main() -> None:
        async with aclosing(views.changes()) as stream:
            views.collector.record_counter("requests", 2)
            assert await first(stream) == [("requests", 7)]
            views.collector.record_gauge("level", 4)
            assert await first(stream) == [("level", 4)]

    asyncio.run(main())


def test_what_is_new_is_a_change(views):
    """A metric, a series and an operation that did not exist are yielded when they appear."""
    views.collector.increment("requests", {"endpoint": "/"})

    async def main() -> None:
        async with aclosing(views.changes()) as stream:
            views.collector.increment("requests", {"endpoint": "/status"})
            views.timer.time_operation("work", lambda: views.clock.advance(1))
            views.tracker.record_success("work")
            assert await first(stream, 3) == [("requests", 1), ("work", 1_000.0), ("work", 1.0)]

    asyncio.run(main())


def test_a_metric_and_an_operation_of_one_name_do_not_hide_each_other(views):
    """A timer that is a metric and an operation that is timed change on their own."""
    views.collector.record_timer("work", 5)
    views.timer.time_operation("work", lambda: views.clock.advance(1))

    async def main() -> None:
        async with aclosing(views.changes()) as stream:
            views.collector.record_timer("work", 7)
            assert await first(stream) == [("work", 7.0)]
            views.timer.time_operation("work", lambda: views.clock.advance(2))
            assert await first(stream) == [("work", 2_000.0)]

    asyncio.run(main())


def test_what_did_not_change_is_not_yielded(views):
    """However much time goes by, and though rates fall with it, nothing is repeated."""
    views.tracker.record_success("old")
    views.timer.time_operation("old", lambda: views.clock.advance(1))
    views.collector.increment("old")
    found = []

    async def follow(stream: AsyncIterator[MetricValue]) -> None:
        async for value in stream:
            found.append(value.name)
            if value.name == "last":
                return

    async def main() -> None:
        async with aclosing(views.changes()) as stream, asyncio.timeout(PATIENCE):
            following = asyncio.create_task(follow(stream))
            for number in range(20):
                views.clock.advance(60)
                views.collector.increment(f"new.{number}")
                while f"new.{number}" not in found:
                    await asyncio.sleep(0)
            views.collector.increment("last")
            await following

    asyncio.run(main())
    assert found == [*(f"new.{number}" for number in range(20)), "last"]


def test_setting_a_gauge_to_the_same_level_is_news(views):
    """A record is a change, whether or not the number is another one."""
    views.collector.record_gauge("level", 3)

    async def main() -> None:
        async with aclosing(views.changes()) as stream:
            views.collector.record_gauge("level", 3)
            assert await first(stream) == [("level", 3)]

    asyncio.run(main())


def test_nothing_is_missed_between_the_call_and_the_first_await(views):
    """What is recorded before anyone iterates is yielded."""

    async def main() -> None:
        stream = views.changes()
        views.collector.increment("requests")
        async with aclosing(stream):
            assert await first(stream) == [("requests", 1)]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, {"http.requests", "http.level", "disk.level", "http.work"}),
        ({"name": "http.*"}, {"http.requests", "http.level", "http.work"}),
        ({"name": "http.level"}, {"http.level"}),
        ({"type": "gauge"}, {"http.level", "disk.level"}),
        ({"type": MetricType.RATE}, {"http.work"}),
        ({"tags": {"region": "north"}}, {"http.requests", "disk.level"}),
        ({"name": "http.*", "type": "counter", "tags": {"region": "north"}}, {"http.requests"}),
        ({"name": "HTTP.*"}, set()),
    ],
)
def test_filters_choose_by_name_type_and_tags(views, filters, expected):
    """A pattern of names, a type and tags each narrow what is yielded; all of them must match."""

    async def main() -> set[str]:
        async with aclosing(views.changes(**filters)) as stream:
            views.collector.increment("http.requests", {"region": "north"})
            views.collector.record_gauge("http.level", 1)
            views.collector.record_gauge("disk.level", 1, {"region": "north", "disk": "a"})
            views.tracker.record_success("http.work")
            return {name for name, _ in await first(stream, len(expected))}

    assert asyncio.run(main()) == expected
    assert {value.name for value in StreamFilter.parse(filters).select(views.aggregator)} == expected


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"names": "http.*"}, r"'names'.*Did you mean 'name'"),
        ({3: 4}, "unknown filter 3"),
        ({"name": 3}, "name=3"),
        ({"name": None}, "name=None"),
        ({"tags": "region"}, "tags='region'"),
        ({"tags": None}, "tags=None"),
        ({"type": "timers"}, "type='timers'.*'timer'"),
        ({"type": 3}, "type=3"),
        ({"type": []}, r"type=\[\]"),
    ],
)
def test_an_unknown_filter_is_an_error(filters, message):
    """A filter that is not understood would show everything or nothing, so it is refused."""
    with pytest.raises(InvalidInputError, match=message):
        StreamFilter.parse(filters)


def test_a_foreign_aggregator_without_counts_is_compared_by_value():
    """Where an adapter does not say how many records there were, another value is a change."""
    level = 1.0

    class Foreign:
        def get_metrics_by_tag(self, tag_filter):
            now = datetime.now(tz=UTC)
            return [MetricValue("level", level, MetricType.GAUGE, MetricUnit.COUNT, now, {}, {})]

    async def main() -> None:
        nonlocal level
        async with aclosing(stream_changes(Foreign(), StreamFilter.parse({}))) as stream:
            level = 2.0
            assert await first(stream) == [("level", 2.0)]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(stream)

    asyncio.run(main())


def test_asking_does_not_hold_up_the_event_loop():
    """A slow aggregator is asked in another thread, while the loop goes on."""
    import threading

    asked, answer = threading.Event(), threading.Event()
    calls = []

    class Slow:
        def get_metrics_by_tag(self, tag_filter):
            calls.append(threading.current_thread())
            if len(calls) == 2:
                asked.set()
                assert answer.wait(PATIENCE)
            now = datetime.now(tz=UTC)
            return [MetricValue("calls", len(calls), MetricType.GAUGE, MetricUnit.COUNT, now, {}, {})]

    async def main() -> None:
        stream = stream_changes(Slow(), StreamFilter.parse({}))
        async with aclosing(stream), asyncio.timeout(PATIENCE):
            waiting = asyncio.create_task(first(stream))
            while not asked.is_set():
                await asyncio.sleep(0)
            # The loop runs though the aggregator has not answered.
            assert not waiting.done()
            answer.set()
            assert await waiting == [("calls", 2)]

    asyncio.run(main())
    assert calls[1] is not threading.main_thread()


def test_an_aggregators_error_reaches_whoever_iterates():
    """A stream that can go on no more says why."""

    class Broken:
        calls = 0

        def get_metrics_by_tag(self, tag_filter):
            self.calls += 1
            if self.calls > 1:
                raise OSError("gone")
            return []

    async def main() -> None:
        with pytest.raises(OSError, match="gone"):
            await first(stream_changes(Broken(), StreamFilter.parse({})))

    asyncio.run(main())


def test_a_stream_can_be_cancelled_and_left(views):
    """Cancelling whoever waits, or closing the stream, ends it without a trace."""

    async def main() -> None:
        stream = views.changes()
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        left = views.changes()
        views.collector.increment("requests")
        await first(left)
        await left.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(left)

    asyncio.run(main(), debug=True)


def test_two_streams_do_not_take_from_each_other(views):
    """Each stream yields every change."""

    async def main() -> None:
        async with aclosing(views.changes()) as one, aclosing(views.changes()) as other:
            views.collector.increment("requests")
            assert await first(one) == await first(other) == [("requests", 1)]

    asyncio.run(main())
