"""Deltas: one value for each series and period, however fast records are made and lists are read."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import trio

from metrics_adapters.in_memory import InMemoryCollector, InMemoryTimer
from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import Store
from metrics_framework.streams import Publisher, StoreSource

WAIT_SECONDS = 20.0


@pytest.fixture
def publisher():
    """Return the publisher of an empty store, and close it."""
    publisher = Publisher(StoreSource(Store()))
    yield publisher
    publisher.close()


@pytest.fixture
def collector(publisher):
    """Return a collector that records into the store."""
    return InMemoryCollector(publisher._source._store)


def on_asyncio(function):
    """Run an async function on asyncio."""
    return asyncio.run(asyncio.wait_for(function(), WAIT_SECONDS), debug=True)


def on_trio(function):
    """Run an async function on trio."""

    async def main():
        with trio.fail_after(WAIT_SECONDS):
            return await function()

    return trio.run(main)


@pytest.mark.slow
@pytest.mark.parametrize("run", [on_asyncio, on_trio])
def test_a_list_has_one_value_for_each_series_that_changed(publisher, collector, run):
    """It is the last value, with the number of records. Series without records are left out."""
    collector.increment("still")

    async def main():
        deltas = publisher.deltas(0.2)
        for level in range(1_000):
            collector.increment("requests", {"path": "/"})
            collector.increment("requests", {"path": "/status"})
            collector.record_gauge("level", level)
        first = await anext(deltas)
        collector.increment("requests", {"path": "/"})
        second = await anext(deltas)
        await deltas.aclose()
        assert [some async for some in deltas] == []
        return first, second

    first, second = run(main)
    assert sorted((v.name, v.value, v.metadata["records"]) for v in first) == [
        ("level", 999, 1_000),
        ("requests", 1_000, 1_000),
        ("requests", 1_000, 1_000),
    ]
    assert [(v.value, v.metadata["records"], v.tags) for v in second] == [(1_001, 1, {"path": "/"})]


def test_steps_of_a_counter_add_up_over_removals(publisher, collector):
    """The sums of steps are the true total, although the value starts again when the series is removed."""

    async def read():
        found = []
        deltas = publisher.deltas(0.01, None)
        for number in range(1, 6):
            collector.record_counter("orders", number)
            collector.record_counter("orders", 10)
            collector.remove("orders")
            collector.record_counter("orders", 100)
            found += await asyncio.wait_for(deltas.__anext__(), WAIT_SECONDS)
        await deltas.aclose()
        return found

    found = on_asyncio(read)
    assert sum(value.metadata["recorded"] for value in found) == 15 + 50 + 500
    assert {value.value for value in found} == {100}


@pytest.mark.slow
def test_lists_are_a_period_apart_and_never_empty(publisher, collector):
    """A change after a long pause is delivered immediately."""

    async def main():
        begin = time.monotonic()
        deltas = publisher.deltas(0.3)
        collector.increment("requests")
        await anext(deltas)
        first = time.monotonic() - begin
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(deltas), 0.6)
        collector.increment("requests")
        assert [value.value for value in await anext(deltas)] == [2]
        return first

    assert on_asyncio(main) >= 0.3


@pytest.mark.slow
def test_a_slow_reader_loses_no_change(publisher, collector):
    """The next list has all changes since the last one, with the right numbers of records."""
    deltas = publisher.deltas(0.01)
    stop = threading.Event()

    def record():
        while not stop.is_set():
            for each in range(100):
                collector.increment(f"requests.{each % 10}")
            time.sleep(0.001)

    thread = threading.Thread(target=record)
    thread.start()

    async def main():
        records = {}
        for pause in (0, 0.2, 0, 0.1, 0):
            await asyncio.sleep(pause)
            for value in await anext(deltas):
                records[value.name] = records.get(value.name, 0) + value.metadata["records"]
                assert records[value.name] == value.value == value.metadata["count"]
        stop.set()
        await asyncio.to_thread(thread.join)
        await asyncio.to_thread(publisher.close)
        async for values in deltas:
            for value in values:
                records[value.name] += value.metadata["records"]
        return records

    records = on_asyncio(main)
    assert sum(records.values()) == publisher._source._store.recorded


def test_operations_and_metrics_of_the_same_name_are_distinct(publisher, collector):
    """A timer metric and a timed operation are two series."""
    deltas = publisher.deltas(0.01, {"name": "work"})
    collector.record_timer("work", 5)
    collector.increment("other")
    InMemoryTimer(publisher._source._store).time_operation("work", lambda: None)
    publisher.close()

    async def main():
        return [[value.metadata.get("operation", False) for value in some] async for some in deltas]

    assert on_asyncio(main) == [[False, True]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every=0"),
        ({"every": -1.0}, r"every=-1\.0"),
        ({"every": float("inf")}, "every=inf"),
        ({"every": float("nan")}, "every=nan"),
        ({"every": 1e300}, r"every=1e\+300 is not a positive number of seconds: .* up to \d+"),
        ({"every": 10**400}, "every=10+ is not a positive"),
        ({"every": "1"}, "every='1'"),
        ({"every": 1, "filters": {"sample_rate": 0.5}}, "sample_rate=0.5"),
        ({"every": 1, "filters": {"names": "a"}}, "Did you mean 'name'"),
    ],
)
def test_bad_arguments_are_errors(publisher, arguments, message):
    """The period must be positive and not too long, and deltas cannot be sampled."""
    with pytest.raises(InvalidInputError, match=message):
        publisher.deltas(**arguments)
