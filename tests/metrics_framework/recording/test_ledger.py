"""Folding: once each, by whoever holds the lock, while records never wait."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psutil
import pytest

from metrics_adapters.in_memory import InMemoryCollector, InMemoryTracker
from metrics_framework.clock import ManualClock
from metrics_framework.recording import Store, ledger
from metrics_framework.recording.gauges import ITEMS
from metrics_framework.recording.instruments import FEW
from metrics_framework.recording.ledger import MAX_PENDING, MIN_PENDING, PENDING

PROMPT_S = 5
"""Far more than a record takes, far less than for ever."""


@pytest.fixture
def store(clock) -> Store:
    """Return a store on a clock that stands still."""
    return Store(clock)


@pytest.fixture
def collector(store) -> InMemoryCollector:
    """Return the store's collector."""
    return InMemoryCollector(store)


@contextlib.contextmanager
def held(lock: Any) -> Iterator[None]:
    """Have another thread hold a lock."""
    holding, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            holding.set()
            release.wait()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    holding.wait()
    try:
        yield
    finally:
        release.set()
        thread.join()


def numbers(series: Any) -> tuple[int, int]:
    """Return count and sum of a counter as they are published."""
    trace = series.state
    return (0, 0) if trace is None else (trace.records, trace.total)


def test_folding_again_changes_nothing(collector):
    """A fold of what is folded, by itself or by reads, leaves all numbers and the windows alone."""
    series = collector.counter("name")
    for _ in range(5):
        series.add(3)
    with series.ledger.lock:
        for _ in range(3):
            series.ledger.fold([series])
            assert numbers(series) == (5, 15)
            assert len(series.buffer) == 1
        windows = series.ledger.journal.windows
        series.ledger.fold_all()
        assert series.ledger.journal.windows is windows
    for _ in range(3):
        assert collector.store.summary("name")["total"] == 15


def test_a_fold_that_was_broken_off_is_not_done_twice(collector):
    """What is committed but still in the buffer counts once; what was appended since counts too."""
    series = collector.counter("name")
    series.add(1)
    series.add(2)
    ledger = series.ledger
    with ledger.lock:
        before = list(series.buffer)
        ledger.fold([series])
        # As a fold leaves it that is broken off after its commit: the buffer is as it was.
        ledger.journal = ledger.journal._replace(cuts=[(series.buffer, len(before), series.buffer[0])])
        series.buffer[:] = before
    series.add(4)
    summary = collector.store.summary("name")
    assert (summary["count"], summary["sum"]) == (3, 7)
    assert len(series.buffer) == 1


def test_a_cut_is_never_made_twice(collector):
    """Records that came after a cut stay, where whoever finishes a fold finds that it was made already."""
    series = collector.counter("name")
    series.add(1)
    ledger = series.ledger
    with ledger.lock:
        ledger.fold([series])
        series.add(10)
        series.add(100)
        ledger.journal = ledger.journal._replace(cuts=[(series.buffer, 2, series.buffer[0])])
    assert collector.store.summary("name")["sum"] == 111


def test_a_commit_that_was_broken_off_is_finished_by_the_next(collector):
    """States that were committed and not set are set before anything else is folded."""
    one, other = collector.counter("name", {"a": "1"}), collector.counter("name", {"a": "2"})
    one.add(1)
    other.add(10)
    with one.ledger.lock:
        buffer, state = list(one.buffer), one.state
        one.ledger.fold([one])
        # As if the fold had been broken off right behind the assignment that publishes it.
        cuts = [(one.buffer, len(buffer), one.buffer[0])]
        one.ledger.journal = one.ledger.journal._replace(states=[(one, one.state)], cuts=cuts)
        one.buffer[:], one.state = buffer, state
    found = {each.tags["a"]: each.summary["sum"] for each in collector.store.readings()}
    assert found == {"1": 1, "2": 10}
    assert collector.store.summary("name")["sum"] == 11


def test_what_is_published_never_changes(collector):
    """States and windows that somebody holds stay as they are while recording goes on."""
    series = collector.histogram("name")
    for value in range(200):
        series.observe(float(value))
    state, windows = series.ledger.read(lambda windows: (series.state, windows))
    before = (state.count, state.sum, windows.open[1].count)
    for value in range(2_000):
        series.observe(float(value))
    collector.store.readings()
    assert (state.count, state.sum, windows.open[1].count) == before == (200, 19_900.0, 200)


def test_a_full_buffer_is_folded_by_its_record(collector):
    """Nobody has to read: the record that goes past the limit folds."""
    series = collector.counter("name")
    series.ledger.limit = 20
    for _ in range(19):
        series.add()
    assert len(series.buffer) == 20
    assert numbers(series) == (0, 0)
    series.add()
    assert (numbers(series), len(series.buffer)) == ((20, 20), 1)


@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram", "timer"])
def test_a_record_does_not_wait_for_the_lock(collector, kind):
    """Where another thread holds the lock, records return at once, leave the buffer, and nothing is lost."""
    series = getattr(collector, kind)("name")
    record = {"counter": "add", "gauge": "set"}.get(kind, "observe")
    series.ledger.limit = 3
    with held(series.ledger.lock):
        began = time.monotonic()
        for _ in range(2_000):
            getattr(series, record)(1.0)
        assert time.monotonic() - began < PROMPT_S
        buffer = getattr(series.ledger, "buffer", series.buffer)
        assert len(buffer) == 1 + 2_000 * (ITEMS if kind == "gauge" else 1)
        assert series.state is None
    assert collector.store.summary("name")["count"] == 2_000
    assert collector.store.dropped == 0


def test_a_read_waits_for_the_lock(collector):
    """A read of another thread ends only when the lock is given back, and then sees every record."""
    series = collector.counter("name")
    series.add(2)
    found: list[float] = []
    reader = threading.Thread(
        target=lambda: found.append(collector.store.summary("name")["sum"]), daemon=True
    )
    with held(series.ledger.lock):
        reader.start()
        reader.join(0.05)
        assert reader.is_alive()
        series.add(5)
    reader.join(PROMPT_S)
    assert found == [7]


def test_a_read_inside_of_a_fold_sees_what_was_published_last(collector):
    """The thread that holds the lock itself does not wait; it sees the last fold and counts nothing twice."""
    series = collector.counter("name")
    series.add(1)
    assert collector.store.summary("name")["sum"] == 1
    with series.ledger.lock:
        series.add(2)
        assert collector.store.summary("name")["sum"] == 1
    assert collector.store.summary("name")["sum"] == 3


@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram"])
def test_a_buffer_has_a_hard_cap(collector, monkeypatch, kind):
    """Records past the cap are taken back and counted as dropped; all before it are kept."""
    monkeypatch.setattr(ledger, "HARD_CAP", 301)
    series = getattr(collector, kind)("name")
    record = {"counter": "add", "gauge": "set"}.get(kind, "observe")
    series.ledger.limit = 30
    size = ITEMS if kind == "gauge" else 1
    with held(series.ledger.lock):
        for number in range(500):
            getattr(series, record)(number)
        assert len(getattr(series.ledger, "buffer", series.buffer)) == 301
    kept = 300 // size
    assert collector.store.dropped == 500 - kept
    summary = collector.store.summary("name")
    assert summary["count"] == kept
    expected = {"counter": ("sum", sum(range(kept))), "gauge": ("last", kept - 1)}
    key, value = expected.get(kind, ("max", kept - 1))
    assert summary[key] == value
    getattr(series, record)(1)
    assert collector.store.summary("name")["count"] == kept + 1
    assert collector.store.dropped == 500 - kept


def test_many_series_share_the_limit(collector):
    """The more series, the less each holds back, down to a floor; gauges have one buffer and need not."""
    for number in range(1, 400):
        series = collector.counter("name", {"n": str(number)})
        assert series.ledger.limit == min(max(PENDING // number, MIN_PENDING), MAX_PENDING)
    one = collector.gauge("gauge", {"n": "0"})
    limit = one.ledger.limit
    for number in range(300):
        assert collector.gauge("gauge", {"n": str(number)}).ledger.limit == limit


def test_what_waits_stays_within_the_limit(collector):
    """However many records and series there are, what is pending is bounded."""
    series = [collector.counter("name", {"n": str(number)}) for number in range(64)]
    for _ in range(300):
        for each in series:
            each.add()
            assert len(each.buffer) <= PENDING // 64 + 1
    assert collector.store.summary("name")["total"] == 300 * 64


def test_slots_are_kept_apart_without_a_fold_in_between(clock, store, collector):
    """Records on both sides of a second's edge land in their own slots though they wait in one buffer."""
    tracker = InMemoryTracker(store)
    records = {
        "counter": lambda: collector.record_counter("counter", 1),
        "histogram": lambda: collector.record_histogram("histogram", 1.0),
        "timer": lambda: collector.record_timer("timer", 1.0),
        "gauge": lambda: collector.record_gauge("gauge", 1.0),
        "operation": lambda: tracker.record_success("operation"),
    }
    clock.advance(0.75)
    for record in records.values():
        record()
    clock.advance(0.249_999_999)
    for record in records.values():
        record()
    clock.advance(0.000_000_001)
    for _ in range(3):
        for record in records.values():
            record()
    clock.advance(5)
    # Now 6.0: the last 4 seconds hold nothing, 5 seconds the second slot, 6 both.
    for window, count in ((4.0, 0), (5.0, 3), (5.5, 5), (6.0, 5)):
        asked = timedelta(seconds=window)
        expected = count if window != 5.5 else 5
        for name in ("counter", "histogram", "timer", "gauge"):
            assert store.summary(name, asked)["count"] == expected, (name, window)
        assert store.outcomes("operation", asked).count == expected
    assert store.recorded == 25


def test_slots_of_many_seconds_in_one_buffer(clock, store, collector):
    """A buffer that nobody folds for seconds splits into a slot for each of them."""
    series = collector.counter("name")
    for second in range(6):
        series.add(10**second)
        clock.advance(1)
    assert len(series.buffer) == 7
    for back in range(1, 7):
        expected = sum(10**second for second in range(6 - back, 6))
        assert store.summary("name", timedelta(seconds=back))["sum"] == expected


def test_a_slot_that_ends_is_folded_soon(clock, collector):
    """The first record of a slot folds what waits, unless it is only a few."""
    series = collector.counter("name")
    for _ in range(FEW + 5):
        series.add()
    assert numbers(series) == (0, 0)
    clock.advance(1)
    series.add()
    assert numbers(series) == (FEW + 6, FEW + 6)


@pytest.mark.heavy
def test_values_that_nobody_reads_take_no_memory():
    """Ten million values into a histogram that nobody reads take no more memory than the first million."""
    collector = InMemoryCollector(Store(ManualClock()))
    observe = collector.histogram("name").observe
    values = [float(number % 997 + 1) for number in range(10_000)]
    process = psutil.Process()

    def million() -> None:
        for _ in range(100):
            for value in values:
                observe(value)

    million()
    gc.collect()
    before = process.memory_info().rss
    for _ in range(9):
        million()
    gc.collect()
    assert process.memory_info().rss < before + 1_000_000
    assert len(collector.histogram("name").buffer) <= MAX_PENDING + 1
    summary = collector.store.summary("name")
    assert (summary["count"], summary["sum"]) == (10_000_000, 1_000 * sum(values))
