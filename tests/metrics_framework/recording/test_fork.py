"""A child process starts at zero, whatever its parent's threads were doing."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework.recording import Store
from tests.metrics_framework.runtime import children

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

PATIENCE_S = 20


def in_a_child(work: Callable[[], Any]) -> Any:
    """Return the result of ``work`` in a forked child, by way of JSON."""
    return json.loads(children.in_a_child(lambda: json.dumps(work())))


@contextlib.contextmanager
def busy(application: ForkedApplication) -> Iterator[None]:
    """Let two threads record and read all the time, so that a fork may interrupt any code."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            application.collector.record_counter("beside", 1, {"a": "1"})
            application.store.summary("beside")

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    application.collector.record_counter("beside", 1, {"a": "1"})
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class ForkedApplication:
    """A store with all kinds of records, and bound instruments."""

    def __init__(self) -> None:
        self.store = Store(on_error="log")
        self.collector = InMemoryCollector(self.store)
        self.timer = InMemoryTimer(self.store)
        self.tracker = InMemoryTracker(self.store)
        self.aggregator = InMemoryAggregator(self.store)
        self.collector.describe("bound histogram", buckets=(1.0,))
        tags = {"a": "1"}
        self.counter = self.collector.counter("bound counter", tags)
        self.gauge = self.collector.gauge("bound gauge", tags)
        self.histogram = self.collector.histogram("bound histogram", tags)
        self.bound_timer = self.collector.timer("bound timer", tags)

    def record(self, times: int) -> None:
        """Record a number of times with each instrument."""
        for _ in range(times):
            self.counter.add()
            self.gauge.increment()
            self.histogram.observe(1.0)
            self.bound_timer.observe(1.0)
            with self.bound_timer.time():
                pass
            for tags in (None, {"a": "1"}):
                self.collector.record_counter("counter", 1, tags)
                self.collector.record_gauge("gauge", 7, tags)
                self.collector.record_histogram("histogram", 2.0, tags)
                self.collector.record_timer("timer", 2.0, tags=tags)
            self.timer.time_operation("operation", int)
            self.tracker.record_success("operation")
            self.tracker.record_failure("operation", "timeout")
            self.collector.record_counter("counter", "bad")

    def numbers(self) -> dict[str, Any]:
        """Return all counts."""
        readings = [*self.store.readings(), *self.store.timing_readings()]
        found: dict[str, Any] = {
            f"{each.name} {each.metric_type.value} {each.tags}": each.summary["count"] for each in readings
        }
        found["buckets"] = [each.buckets.counts[0] for each in readings if each.buckets]
        found["level"] = [each.summary["last"] for each in readings if each.name == "bound gauge"]
        for outcome in self.store.outcome_readings():
            found["outcomes"] = [outcome.successes, outcome.failures]
        found["recorded"], found["rejected"] = self.store.recorded, self.store.rejected
        return found


def expected(times: int) -> dict[str, Any]:
    """Return the numbers of an application after a number of records."""
    application = ForkedApplication()
    application.record(times)
    return json.loads(json.dumps(application.numbers()))


@pytest.mark.slow
@pytest.mark.parametrize("is_read", [False, True])
def test_a_child_begins_at_zero_beside_busy_threads(is_read):
    """The fork happens while threads record and read; the parent keeps its numbers."""
    application = ForkedApplication()
    application.record(5)
    if is_read:
        application.numbers()

    def child() -> Any:
        before = application.numbers()
        application.record(3)
        again = application.numbers()
        exported = application.aggregator.export_metrics()
        return [before, again, len(exported) > 100]

    with busy(application):
        application.record(1)
        answers = [in_a_child(child) for _ in range(5)]
    for answer in answers:
        assert "error" not in answer
        before, again, exported = answer
        assert before == {"buckets": [], "level": [], "recorded": 0, "rejected": 0}
        assert again == expected(3)
        assert exported
    application.record(1)
    numbers = json.loads(json.dumps(application.numbers()))
    beside = numbers.pop("beside counter {'a': '1'}")
    numbers["recorded"] -= beside
    assert numbers == expected(7)


def test_bound_instruments_record_in_a_child():
    """Instruments that were bound before the fork record in the child, into the series of calls by name."""
    application = ForkedApplication()
    application.record(600)

    def child() -> Any:
        application.counter.add(41)
        application.collector.record_counter("bound counter", 1, {"a": "1"})
        application.gauge.decrement(2)
        application.histogram.observe(5.0)
        with application.bound_timer.time():
            pass
        readings = {each.name: [each.tags, each.summary] for each in application.store.readings()}
        return [
            readings["bound counter"][1]["sum"],
            readings["bound gauge"][1]["last"],
            readings["bound histogram"][1]["max"],
            readings["bound timer"][1]["count"],
            [tags for tags, _ in readings.values()],
        ]

    with busy(application):
        answer = in_a_child(child)
    assert answer == [42, -2, 5.0, 1, [{"a": "1"}] * 4]
    assert application.store.summary("bound counter")["total"] == 600
    assert application.store.summary("bound gauge")["last"] == 600


def test_a_child_keeps_descriptions_and_types():
    """Only numbers start from zero."""
    application = ForkedApplication()
    application.record(1)

    def child() -> Any:
        application.histogram.observe(0.5)
        (reading,) = application.store.readings()
        return [reading.name, list(reading.buckets.counts), reading.summary["count"]]

    assert in_a_child(child) == ["bound histogram", [1, 0], 1]


def test_children_of_children_begin_at_zero():
    """A fork of a fork starts at zero as well."""
    application = ForkedApplication()
    application.record(2)

    def child() -> Any:
        application.record(1)
        return [application.store.recorded, in_a_child(lambda: application.store.recorded)]

    recorded, grandchild = in_a_child(child)
    assert recorded > 0
    assert grandchild == 0
    assert application.store.recorded == 2 * recorded


def test_a_child_counts_abandoned_timers_from_zero():
    """Abandoned timers of the parent do not count in the child."""
    application = ForkedApplication()
    application.store.count_abandoned()
    assert in_a_child(lambda: application.timer.abandoned) == 0
    assert application.timer.abandoned == 1


def test_windows_by_tag_begin_at_zero_in_a_child():
    """Recent windows of series and their memory start from zero, too."""
    application = ForkedApplication()
    application.record(1)

    def child() -> Any:
        store = application.store
        used = store._state.cardinality.recent.used
        application.collector.record_counter("counter", 1, {"a": "1"})
        summary = store.summary("counter", timedelta(minutes=1), {"a": "1"})
        return [used, summary["count"], summary["total"], store.core.allows_recent]

    assert in_a_child(child) == [0, 1, 1, True]
