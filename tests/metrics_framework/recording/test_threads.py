"""Concurrent threads: nothing is lost or counted twice, and no read is torn."""

from __future__ import annotations

import contextlib
import random
import threading
from datetime import timedelta

import pytest

from metrics_adapters.in_memory import InMemoryCollector, InMemoryTracker
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.recording import Budgets, Store
from metrics_framework.recording.engine import ENGINE
from tests.threads import switching, together

pytestmark = pytest.mark.heavy

THREADS = 8
DAY = timedelta(days=1)


def test_two_million_records_of_eight_threads():
    """All numbers of 50 series, with tags in two orders, are exact."""
    store = Store()
    collector, tracker = InMemoryCollector(store), InMemoryTracker(store)
    collector.describe("gauge", merge="sum")
    collector.describe("histogram", buckets=(0.5, 1.0))
    series = 50
    orders = [({"a": str(n), "b": "x"}, {"b": "x", "a": str(n)}) for n in range(series)]
    for one, _ in orders:
        collector.record_gauge("gauge", 0, one)
    rounds = 1_100 if ENGINE == "compiled" else 160

    def work() -> None:
        for number in range(rounds):
            for each, (one, other) in enumerate(orders):
                tags = other if (number + each) % 2 else one
                collector.record_counter("counter", 1, tags)
                collector.record_histogram("histogram", 1.0, tags)
                collector.record_histogram("histogram", 1.0, tags)
                if number % 2:
                    (collector.decrement if number % 4 == 3 else collector.increment)("gauge", tags)
                if each % 2:
                    tracker.record_success("operation")
                    tracker.record_success("operation")
            for _ in range(10):
                collector.record_counter("plain")

    with switching():
        together(*[work] * THREADS)
    each = THREADS * rounds
    total = each * series
    for window in (None, DAY):
        counter, histogram = store.summary("counter", window), store.summary("histogram", window)
        gauge = store.summary("gauge", window)
        assert (counter["count"], counter["sum"], counter["total"]) == (total, total, total)
        assert (histogram["count"], histogram["sum"]) == (2 * total, 2 * total)
        assert (histogram["min"], histogram["p50"], histogram["max"]) == (1.0, 1.0, 1.0)
        assert (gauge["count"], gauge["last"]) == (total // 2 + series, 0)
        assert store.outcomes("operation", window).successes == total
        assert store.summary("plain", window)["sum"] == 10 * each
    readings = store.readings()
    for name, count, key, value in (
        ("counter", each, "sum", each),
        ("histogram", 2 * each, "sum", 2 * each),
        ("gauge", each // 2 + 1, "last", 0),
    ):
        mine = [reading for reading in readings if reading.name == name]
        assert len(mine) == series
        assert {reading.summary["count"] for reading in mine} == {count}
        assert {reading.summary[key] for reading in mine} == {value}
    assert {reading.buckets.counts for reading in readings if reading.buckets} == {(0, 2 * each, 0)}
    assert store.recorded == total * 4 + total // 2 + series + 10 * each


@pytest.mark.parametrize("interval", [0.005, 1e-5])
def test_no_read_is_torn(interval):
    """Beside two writers, none of a million reads is torn (fewer in pure Python, or with quick switches)."""
    store = Store()
    collector = InMemoryCollector(store)
    collector.describe("name", buckets=(0.5, 1.0))
    series = collector.histogram("name")
    series.observe(1.0)
    stop = threading.Event()
    reads = (1_000_000 if ENGINE == "compiled" else 50_000) if interval == 0.005 else 20_000
    written = [0, 0]

    def writer(which: int) -> None:
        observe, is_set, count = series.observe, stop.is_set, 0
        while not is_set():
            for _ in range(100):
                observe(1.0)
            count += 100
        written[which] = count

    def reader() -> None:
        try:
            before = 0
            for number in range(reads):
                distribution, counts, total = series.counted()
                count = distribution.count
                assert count == distribution.sum == counts[1] == total
                assert count >= before
                before = count
                if number % 1_000 == 0:
                    summary = store.summary("name", DAY)
                    assert summary["count"] == summary["sum"] >= before
                    (reading,) = store.readings()
                    assert reading.summary["count"] == reading.summary["sum"] == reading.buckets.counts[1]
                    assert sum(reading.distribution.buckets.positive.counts()) == reading.summary["count"]
        finally:
            stop.set()

    with switching(interval):
        together(lambda: writer(0), lambda: writer(1), reader)
    assert store.summary("name")["count"] == sum(written) + 1 > 1


def test_new_series_of_eight_threads():
    """Series that eight threads create at the same time exist once, with the records of all threads."""
    store = Store()
    collector, tracker = InMemoryCollector(store), InMemoryTracker(store)
    names, values, rounds = 30, 20, 3

    def work(seed: int) -> None:
        order = [(name, value) for name in range(names) for value in range(values)] * rounds
        # The same way for all, so that they meet; a little out of step, so that each is first sometimes.
        for name, value in order[seed:] + order[:seed]:
            collector.record_counter(f"counter{name}", 1, {"a": str(value), "b": "x"})
            collector.record_histogram(f"histogram{name}", 1.0, {"b": "x", "a": str(value)})
            collector.record_gauge(f"gauge{name}", 1.0, {"a": str(value)})
            tracker.record_success(f"operation{name}")

    with switching():
        together(*[lambda seed=seed: work(seed) for seed in range(THREADS)])
    assert store.series_count == 3 * names * values + names
    readings = store.readings()
    assert len(readings) == 3 * names * values
    assert {reading.summary["count"] for reading in readings} == {THREADS * rounds}
    for name in range(names):
        for kind in ("counter", "histogram", "gauge"):
            assert store.summary(f"{kind}{name}")["count"] == THREADS * rounds * values
        assert store.outcomes(f"operation{name}").successes == THREADS * rounds * values


def test_removals_beside_records():
    """While one thread removes series, no record of six others is lost from the total of the name."""
    store = Store()
    collector = InMemoryCollector(store)
    tags = [{"series": str(n)} for n in range(5)]
    bound = [collector.counter("name", each) for each in tags]
    busy = threading.Semaphore(0)
    writers, rounds = 6, 8_000

    def by_name() -> None:
        for number in range(rounds):
            collector.record_counter("name", 1, tags[number % 5])
        busy.release()

    def by_hand() -> None:
        for number in range(rounds):
            bound[number % 5].add()
        busy.release()

    def remove() -> None:
        chance = random.Random(1)
        done = 0
        while done < writers:
            store.remove("name", chance.choice(tags))
            done += busy.acquire(timeout=0.001)

    with switching():
        together(*[by_name] * 3, *[by_hand] * 3, remove)
    summary = store.summary("name")
    assert (summary["count"], summary["sum"], summary["total"]) == (writers * rounds,) * 3
    assert sum(each.summary["sum"] for each in store.readings()) <= writers * rounds


def test_expiry_beside_records():
    """The total of a name is exact while its series expire and are restored."""
    store = Store(expire_after=timedelta(microseconds=1))
    collector = InMemoryCollector(store)
    bound = collector.counter("name", {"series": "0"})
    writers, rounds = 4, 8_000
    busy = threading.Semaphore(0)

    def write() -> None:
        for number in range(rounds):
            collector.record_counter("name", 1, {"series": str(number % 5)})
            bound.add()
        busy.release()

    def read() -> None:
        before, done = 0, 0
        while done < writers:
            total = store.summary("name")["total"]
            assert total >= before
            before = total
            done += busy.acquire(timeout=0.001)

    with switching():
        together(*[write] * writers, read)
    assert store.summary("name")["total"] == 2 * writers * rounds


def test_gauges_that_go_up_and_down_in_threads():
    """Increments and decrements of eight threads on one bound gauge cancel out exactly."""
    collector = InMemoryCollector(Store())
    gauge = collector.gauge("name")

    def work() -> None:
        for _ in range(5_000):
            gauge.increment(3)
            gauge.decrement()
            gauge.decrement(2)

    with switching():
        together(*[work] * THREADS)
    summary = collector.store.summary("name")
    assert (summary["last"], summary["count"]) == (0, THREADS * 15_000)
    assert summary["max"] <= 3 * THREADS
    assert summary["min"] >= 0 - 3 * THREADS


def test_windows_by_tag_beside_records():
    """While threads record into many series over many slots, windows by tag are exact or refused."""
    clock = ManualClock()
    store = Store(clock, budgets=Budgets(recent_bytes=200_000))
    collector = InMemoryCollector(store)
    rounds, writers = 3_000, 4
    busy = threading.Semaphore(0)

    def write() -> None:
        for number in range(rounds):
            collector.record_counter("name", 1, {"series": str(number % 50)})
            if number % 10 == 0:
                clock.advance(1)
        busy.release()

    def read() -> None:
        done = 0
        while done < writers:
            with contextlib.suppress(InvalidInputError, UnknownMetricError):
                summary = store.summary("name", timedelta(minutes=5), {"series": "7"})
                assert summary["count"] == summary["sum"] <= summary["total"]
            done += busy.acquire(timeout=0.001)

    with switching():
        together(*[write] * writers, read)
    for number in range(50):
        total = store.summary("name", None, {"series": str(number)})["total"]
        assert total == writers * rounds / 50
