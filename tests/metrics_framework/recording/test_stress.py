"""Long tests of recording with threads, signals, garbage, forks, odd clocks and much data.

They run on the engine that is loaded. `make soak` runs them at full length.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_adapters.prometheus import Exposition, serve
from metrics_framework import MetricsSystem
from metrics_framework.clock import ManualClock
from metrics_framework.recording import Store
from tests.metrics_framework.recording.test_fork import in_a_child
from tests.threads import switching, together

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7_200)]

ROOT = Path(__file__).parents[3]
THREADS = 8
HOUR = timedelta(hours=1)
PATIENCE_S = 20
"""How long a read may take that nothing can hold up."""

VALUE = 0.25
"""What is recorded: any number of it has an exact sum."""

needs_signals = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there are no such signals here")


class SignalInterrupt(BaseException):
    """Raised by a signal handler."""


def in_a_thread(read: Callable[[], Any]) -> Any:
    """Return the result of a read in another thread, which must not block."""
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(read()), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert result, "the read waits for something, or raised"
    return result[0]


class StressedApplication:
    """A store, its views, and instruments of every kind, bound and by name.

    `record` makes `RECORDS` records. All values are equal, so that sums tell the counts.
    """

    RECORDS = 16

    def __init__(self, store: Store | None = None) -> None:
        self.store = Store() if store is None else store
        self.collector = InMemoryCollector(self.store)
        self.timer, self.tracker = InMemoryTimer(self.store), InMemoryTracker(self.store)
        self.aggregator = InMemoryAggregator(self.store)
        self.measure = MetricsSystem(
            collector=self.collector, timer=self.timer, tracker=self.tracker, aggregator=self.aggregator
        ).measure
        self.exposition = Exposition(self.store)
        self.collector.describe("histogram", buckets=(0.1, 0.5, 1.0))
        self.collector.describe("bound.histogram", buckets=(0.1, 0.5, 1.0))
        self.collector.describe("level", merge="sum")
        self.tags = [{"a": str(number), "b": "x"} for number in range(7)]
        self.counter = self.collector.counter("bound.counter")
        self.gauge = self.collector.gauge("bound.gauge", {"a": "1"})
        self.histogram = self.collector.histogram("bound.histogram", {"a": "1"})
        self.bound_timer = self.collector.timer("bound.timer")

    def record(self, number: int) -> None:
        """Record once in each way."""
        collector, tags = self.collector, self.tags[number % 7]
        collector.record_counter("counter", 3, tags)
        collector.record_gauge("gauge", VALUE, tags)
        collector.record_histogram("histogram", VALUE, {"b": "x", "a": str(number % 5)})
        collector.record_timer("timer", VALUE, tags=tags)
        collector.increment("level", tags) if number % 2 else collector.decrement("level", tags)
        collector.record_counter("plain")
        self.counter.add(VALUE)
        self.gauge.increment(2)
        self.histogram.observe(VALUE)
        self.bound_timer.observe(VALUE)
        with self.bound_timer.time():
            pass
        self.timer.stop_timer(self.timer.start_timer("by id"), success=number % 2 == 0)
        self.tracker.record_success("tracked")
        self.tracker.record_failure("tracked", f"error {number % 3}")
        with self.measure("measured", tags) as measurement:  # two records
            measurement.error_type = "odd" if number % 2 else None

    def check(self, rounds: int) -> None:
        """Check the counts of a number of `record` calls, half of them with number-like values."""
        store = self.store
        assert store.recorded == rounds * self.RECORDS
        assert store.rejected == store.overflowed == store.abandoned == 0
        for window in (None, HOUR):
            summary = {
                name: store.summary(name, window)
                for name in (
                    "counter", "gauge", "histogram", "timer", "level", "plain",
                    "bound.counter", "bound.gauge", "bound.histogram", "bound.timer",
                )
            }  # fmt: skip
            for name, each in summary.items():
                assert each["count"] == (2 * rounds if name == "bound.timer" else rounds), name
            assert summary["counter"]["sum"] == 3 * rounds
            assert summary["plain"]["total"] == rounds
            assert summary["bound.counter"]["total"] == VALUE * rounds
            assert summary["gauge"]["min"] == summary["gauge"]["max"] == VALUE
            assert (summary["level"]["last"], summary["bound.gauge"]["last"]) == (0, 2 * rounds)
            for name in ("histogram", "timer", "bound.histogram"):
                assert summary[name]["sum"] == VALUE * rounds
                assert summary[name]["min"] == summary[name]["p50"] == summary[name]["max"] == VALUE
            tracked, measured = store.outcomes("tracked", window), store.outcomes("measured", window)
            assert (tracked.successes, sum(tracked.failures.values())) == (rounds, rounds)
            assert (measured.successes, measured.failures) == (rounds / 2, {"odd": rounds / 2})
            assert store.timing_summary("measured", window)["count"] == rounds
        assert store.distribution("measured", operation=True).failures == rounds / 2
        assert store.distribution("by id", operation=True).failures == rounds / 2
        counted = [each for each in store.readings() if each.buckets is not None]
        for name in ("histogram", "bound.histogram"):
            buckets = [each.buckets for each in counted if each.name == name and each.buckets is not None]
            assert sum(each.counts[1] for each in buckets) == sum(map(sum, (each.counts for each in buckets)))
            assert sum(each.counts[1] for each in buckets) == rounds
            assert sum(each.total for each in buckets) == VALUE * rounds


# -- threads -----------------------------------------------------------------------------------------------


def test_five_million_records_of_eight_threads_are_exact(soak):
    """The threads switch every microsecond and record in every way."""
    application = StressedApplication()
    rounds = soak(5_000_000) // THREADS // application.RECORDS // 2 * 2

    def work() -> None:
        for number in range(rounds):
            application.record(number)

    with switching():
        together(*[work] * THREADS)
    application.check(THREADS * rounds)


@pytest.mark.parametrize("interval", [0.005, 1e-5])
def test_a_million_reads_beside_two_saturating_writers_are_never_torn(soak, interval):
    """Count, sum, buckets and extremes of each reading are of the same records, in every kind of read."""
    application = StressedApplication()
    collector, store = application.collector, application.store
    counter, histogram = application.counter, application.histogram
    level = collector.gauge("steps")
    outcomes = store.find_outcomes("endings", None)
    assert outcomes is not None
    stop = threading.Event()
    reads = soak(1_000_000 if interval == 0.005 else 100_000)
    written: list[int] = []

    def write() -> None:
        count = 0
        while not stop.is_set():
            for _ in range(50):
                histogram.observe(VALUE)
                counter.add(VALUE)
                level.increment()
                outcomes.finish("error")
                collector.record_timer("timer", VALUE, tags={"a": "1"})
            count += 50
        written.append(count)

    def read_series(number: int, before: int) -> int:
        distribution, counts, total = histogram.counted()
        assert distribution.count * VALUE == distribution.sum == total
        assert counts == (0, distribution.count, 0, 0)
        assert distribution.count >= before
        if number % 3 == 0:
            totals = counter.state()
            assert totals.value == totals.records * VALUE
            levels = level.state()
            assert levels.last == levels.max == levels.records
            ends = outcomes.state()
            assert ends.records == sum(ends.endings.values()) == ends.failures.get("error", 0)
        return int(distribution.count)

    def read_store() -> None:
        for window in (None, timedelta(seconds=3)):
            summary = store.summary("bound.histogram", window)
            assert summary["sum"] == summary["count"] * VALUE
            if summary["count"]:
                assert summary["min"] == summary["p50"] == summary["p99"] == summary["max"] == VALUE
            summary = store.summary("bound.counter", window)
            assert summary["sum"] == summary["count"] * VALUE <= summary["total"]
        for reading in store.readings():
            if reading.distribution is not None:
                assert reading.summary["sum"] == reading.summary["count"] * VALUE
            if reading.buckets is not None:
                assert sum(reading.buckets.counts) == reading.summary["count"]
        lines = dict(
            line.rsplit(" ", 1)
            for line in application.exposition.render().decode().splitlines()
            if line.startswith("bound_histogram")
        )
        count = int(lines['bound_histogram_count{a="1"}'])
        assert float(lines['bound_histogram_sum{a="1"}']) == count * VALUE
        assert int(lines['bound_histogram_bucket{a="1",le="0.1"}']) == 0
        assert int(lines['bound_histogram_bucket{a="1",le="0.5"}']) == count

    def read() -> None:
        try:
            before = 0
            for number in range(reads):
                before = read_series(number, before)
                if number % 1_000 == 0:
                    read_store()
        finally:
            stop.set()

    histogram.observe(VALUE)
    counter.add(VALUE)
    level.increment()
    outcomes.finish("error")
    with switching(interval):
        together(write, write, read)
    assert store.summary("bound.histogram")["count"] == sum(written) + 1 > 1


# -- signals -----------------------------------------------------------------------------------------------


class Interruptions:
    """Records that signal handlers interrupt, and their expected counts.

    A handler raises only while `run` has armed it, at most once each time.
    """

    def __init__(self) -> None:
        self.application = StressedApplication()
        self.is_armed = False
        self.is_handling = False
        self.raised = self.handled = self.done = 0

    def raise_it(self, *_: object) -> None:
        """Raise, if armed."""
        if self.is_armed:
            self.raised += 1
            raise SignalInterrupt

    def record_read_and_raise(self, *_: object) -> None:
        """Record, sometimes read everything, and raise, if armed."""
        if not self.is_armed or self.is_handling:
            return
        self.is_handling = True
        try:
            self.application.histogram.observe(VALUE)
            self.handled += 1
            if self.handled % 50 == 0:
                summary = self.application.aggregator.get_metric_summary("bound.histogram")
                assert summary["sum"] == summary["count"] * VALUE
            if self.handled % 200 == 0:
                assert "bound_histogram" in self.application.aggregator.export_metrics("prometheus")
        finally:
            self.is_handling = False
        self.raise_it()

    def run(self) -> None:
        """Record and read until a handler raises."""
        observe, read = self.application.histogram.observe, self.application.aggregator.get_metric_summary
        try:
            try:
                self.is_armed = True
                for _ in range(5_000):
                    for _ in range(100):
                        observe(VALUE)
                        self.done += 1
                    read("bound.histogram")
                    read("bound.histogram", timedelta(minutes=1))
            finally:
                self.is_armed = False
        except SignalInterrupt:
            self.is_armed = False

    def check(self) -> None:
        """Check from another thread that only interrupted records are missing, and that recording works."""
        application = self.application
        found = in_a_thread(lambda: application.store.summary("bound.histogram"))
        assert self.done + self.handled <= found["count"] <= self.done + self.handled + self.raised
        assert found["sum"] == found["count"] * VALUE
        (reading,) = in_a_thread(application.store.readings)
        assert reading.buckets.counts == (0, found["count"], 0, 0)
        for _ in range(1_000):
            application.histogram.observe(VALUE)
        after = in_a_thread(lambda: application.store.summary("bound.histogram"))
        assert after["count"] == found["count"] + 1_000


@contextlib.contextmanager
def handling(handler: Callable[..., None], *numbers: int) -> Iterator[None]:
    """Handle signals; a deadlock ends the process with a trace."""
    before = [signal.signal(number, handler) for number in numbers]
    faulthandler.dump_traceback_later(600, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        for number, previous in zip(numbers, before, strict=True):
            signal.signal(number, previous)


@contextlib.contextmanager
def always_read(application: StressedApplication) -> Iterator[None]:
    """Let another thread read all the time: each of its reads ends soon."""
    stop, since = threading.Event(), [time.monotonic()]
    longest = [0.0]

    def read() -> None:
        while not stop.is_set():
            since[0] = time.monotonic()
            summary = application.aggregator.get_metric_summary("bound.histogram")
            assert summary["sum"] == summary["count"] * VALUE
            longest[0] = max(longest[0], time.monotonic() - since[0])
            time.sleep(0.01)

    application.histogram.observe(VALUE)
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert longest[0] < PATIENCE_S


@pytest.mark.usefixtures("no_gc_callbacks")
@needs_signals
def test_a_handler_twice_a_millisecond_that_records_reads_and_raises_costs_interrupted_records_only(soak):
    """For a minute, a timer's handler interrupts records and reads."""
    interruptions = Interruptions()
    end = time.monotonic() + soak(60)
    timer_before = signal.getitimer(signal.ITIMER_REAL)
    with (
        always_read(interruptions.application),
        handling(interruptions.record_read_and_raise, signal.SIGALRM),
    ):
        interruptions.done += 1  # the record of the reader
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            while time.monotonic() < end:
                interruptions.run()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    signal.setitimer(signal.ITIMER_REAL, *timer_before)
    assert interruptions.raised > 100
    interruptions.check()


TWO_SIGNALS = """
import os, random, signal, sys, time
end, source = time.monotonic() + float(sys.argv[2]), random.Random(1)
while time.monotonic() < end and os.getppid() == int(sys.argv[1]):
    time.sleep(source.uniform(0.001, 0.004))
    os.kill(int(sys.argv[1]), signal.SIGUSR1)
    os.kill(int(sys.argv[1]), signal.SIGUSR2)
"""
"""Sends two signals at once, over and over, until its time is up or its parent is gone."""


@pytest.mark.usefixtures("no_gc_callbacks")
@needs_signals
def test_two_signals_at_once_that_both_raise_cost_interrupted_records_only(soak):
    """For a minute, two handlers raise in immediate succession; no later read blocks, in any thread."""
    interruptions = Interruptions()
    seconds = soak(60)
    numbers = (signal.SIGUSR1, signal.SIGUSR2)
    with always_read(interruptions.application), handling(interruptions.raise_it, *numbers):
        interruptions.done += 1  # the record of the reader
        sender = subprocess.Popen([sys.executable, "-c", TWO_SIGNALS, str(os.getpid()), str(seconds)])
        while sender.poll() is None:
            interruptions.run()
        assert sender.returncode == 0
    assert interruptions.raised > 100
    interruptions.check()


# -- garbage -----------------------------------------------------------------------------------------------


def test_garbage_and_its_collector_record_and_read_amid_threads(soak):
    """A million records of threads, finalizers of cycles, and callbacks of the collector all count."""
    application = StressedApplication()
    numbers = itertools.count()
    reads = itertools.count()

    def record() -> None:
        application.record(next(numbers))

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            record()
            if next(reads) % 100 == 0:
                application.store.readings()

    def callback(phase: str, info: dict[str, int]) -> None:
        record()
        if next(reads) % 100 == 0:
            application.store.summary("histogram", HOUR)

    rounds = soak(1_000_000) // application.RECORDS // 4
    before = gc.get_threshold()
    gc.callbacks.append(callback)
    try:
        gc.set_threshold(50, 50, 1_000)

        def work() -> None:
            for number in range(rounds):
                record()
                if number % 4 == 0:
                    Cycle()

        together(*[work] * 4)
    finally:
        gc.callbacks.remove(callback)
        gc.set_threshold(*before)
        gc.collect()
    count = next(numbers)
    if count % 2:
        application.record(count)
    assert count > 4 * rounds
    application.check(count + count % 2)


# -- forks -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_children_forked_under_recording_threads_start_empty_and_record(soak):
    """Each of a thousand children, forked during records and reads of threads, is exact."""
    application = StressedApplication()
    stop = threading.Event()

    def work() -> int:
        number = 0
        while not stop.is_set():
            application.record(number)
            if number % 50 == 0:
                application.store.summary("histogram", HOUR)
            number += 1
        if number % 2:
            application.record(number)
        counts.append(number + number % 2)
        return number

    def child() -> Any:
        empty = application.store.recorded == 0 and application.store.readings() == []
        for number in range(20):
            application.record(number)
        application.check(20)
        return [empty, len(application.aggregator.export_metrics("json")) > 1_000]

    counts: list[int] = []
    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(soak(1_000)):
            assert in_a_child(child) == [True, True]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    application.check(sum(counts))


# -- clocks ------------------------------------------------------------------------------------------------


class JumpingClock(ManualClock):
    """A clock that may go back, as an injected clock might."""

    def jump(self, seconds: float) -> None:
        """Move the clock."""
        self._monotonic_ns = max(self._monotonic_ns + round(seconds * 1e9), 0)


def test_totals_are_exact_whatever_the_clock_does(soak):
    """Four threads record while the clock jumps by up to weeks, in both directions."""
    clock = JumpingClock()
    clock.advance(1_000)
    application = StressedApplication(Store(clock))
    rounds = soak(1_000_000) // application.RECORDS // 4 // 2 * 2
    source = random.Random(5)
    done = threading.Semaphore(0)

    def work() -> None:
        for number in range(rounds):
            application.record(number)
        done.release()

    def jump() -> None:
        finished = 0
        while finished < 4:
            clock.jump(source.choice([0.001, 0.5, 1, 1, 1, 15.9, 16, 100, 3_600, 90_000, 2e6, -0.5, -3, -40]))
            store = application.store
            with contextlib.suppress(LookupError):
                for window in (timedelta(seconds=5), HOUR, timedelta(days=30)):
                    summary = store.summary("plain", window)
                    assert summary["sum"] == summary["count"]
                    store.timing_summary("measured", window)
                store.history("plain", timedelta(days=30), 50)
            finished += done.acquire(timeout=0.001)

    with switching(1e-4):
        together(*[work] * 4, jump)
    store = application.store
    assert store.recorded == 4 * rounds * application.RECORDS
    assert store.summary("plain")["total"] == store.summary("plain")["count"] == 4 * rounds
    assert store.summary("histogram")["sum"] == 4 * rounds * VALUE
    assert store.outcomes("tracked").count == 8 * rounds
    assert store.timing_summary("by id")["count"] == 4 * rounds


# -- memory ------------------------------------------------------------------------------------------------


def in_a_fresh_process(function: Callable[[int], Any], count: int) -> Any:
    """Return the result of a function of this module in a new process."""
    code = f"import json; from {__name__} import {function.__name__} as f; print(json.dumps(f({count})))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=7_000
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def resident_bytes() -> int:
    """Return the resident memory of this process. With glibc, memory that was freed does not count."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    rss: int = psutil.Process().memory_info().rss
    return rss


def unread_values(count: int) -> list[int]:
    """Record a number of values without a read, and return the memory in use after each tenth."""
    application = StressedApplication()
    source = random.Random(3)
    values = [source.lognormvariate(0, 3) for _ in range(10_000)]
    observe, record = application.histogram.observe, application.collector.record_timer
    finish = application.tracker.record_success
    used = []
    for _ in range(10):
        for each in range(count // 40):
            value = values[each % 10_000]
            observe(value)
            record("timer", value, tags={"a": str(each % 7)})
            application.gauge.set(value)
            finish("operation")
        used.append(resident_bytes())
    return used


def test_ten_million_values_that_are_not_read_take_no_memory(soak):
    """Resident memory does not grow after the first of ten parts."""
    used = in_a_fresh_process(unread_values, soak(10_000_000))
    assert used[-1] - used[0] < 2_000_000, used


def short_lived_series(minutes: int) -> list[Any]:
    """Record a thousand new series a minute, scraped every five; return memory and counts over time."""
    clock = ManualClock()
    store = Store(clock, expire_after=timedelta(minutes=5))
    collector = InMemoryCollector(store)
    seen = []
    with serve(0, metrics=collector) as server:
        for minute in range(minutes):
            for number in range(1_000):
                collector.record_histogram("session", number, {"id": f"{minute}-{number}"})
            clock.advance(60)
            if minute % 5 == 4:
                with urlopen(server.url) as response:
                    exposed = response.read().count(b"session_count")
                seen.append([resident_bytes(), exposed, store.series_count, store.overflowed])
    return seen


def test_series_that_come_and_go_for_hours_take_no_memory_if_only_prometheus_reads(soak):
    """In 240 minutes with 1 000 new series each, memory stops growing, and nothing overflows."""
    seen = in_a_fresh_process(short_lived_series, max(soak(240), 60))
    assert all(overflowed == 0 for *_, overflowed in seen), seen
    assert all(count <= 6_000 for _, _, count, _ in seen), seen
    used = [used for used, *_ in seen]
    # The least of the last: the server may still have a response of 4 MB.
    assert min(used[-3:]) - max(used[3:6]) < 1_000_000, seen
