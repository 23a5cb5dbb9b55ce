"""Sources turn the records of a store, or the changes of any aggregator, into events."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework.clock import ManualClock
from metrics_framework.recording import Store
from metrics_framework.streams import PollingSource, Publisher, StoreSource, StreamEvent, sources
from metrics_framework.values import MetricType, MetricUnit, MetricValue

WAIT_SECONDS = 20.0


class Adapters:
    """In-memory adapters on one store with a manual clock, and a publisher of the store."""

    def __init__(self, **options: object) -> None:
        self.clock = ManualClock()
        self.store = Store(self.clock, **options)
        self.collector = InMemoryCollector(self.store)
        self.timer = InMemoryTimer(self.store)
        self.tracker = InMemoryTracker(self.store)
        self.publisher = Publisher(StoreSource(self.store))

    def value_now(self, event: StreamEvent) -> MetricValue:
        """Return the aggregator's value of an event's series."""
        (found,) = (
            value
            for value in InMemoryAggregator(self.store).get_metrics_by_tag(event.value.tags)
            if (value.name, value.metric_type, value.tags, value.metadata.get("operation"))
            == (
                event.value.name,
                event.value.metric_type,
                event.value.tags,
                event.value.metadata.get("operation"),
            )
        )
        return found


@pytest.fixture
def adapters():
    """Return adapters on an empty store, and close the publisher."""
    adapters = Adapters()
    yield adapters
    adapters.publisher.close()


def test_an_event_agrees_with_the_aggregator(adapters):
    """The last event of a series has the aggregator's value, unit and count, for every type of metric."""
    adapters.collector.describe("size", unit=MetricUnit.BYTES)
    adapters.clock.advance(2)
    for before in (True, False):
        subscription = None if before else adapters.publisher.subscribe()
        for step in range(3):
            adapters.collector.record_counter("requests", 2, {"one": "a"})
            adapters.collector.record_counter("seconds", 0.1 * step)
            adapters.collector.record_gauge("level", step)
            adapters.collector.gauge("moved").increment(3)
            adapters.collector.record_histogram("size", 10.0 * step)
            adapters.collector.record_timer("wait", step, MetricUnit.SECONDS)
            adapters.timer.time_operation("work", lambda: adapters.clock.advance(0.2))
            adapters.tracker.record_success("work")
            adapters.tracker.record_failure("work", "TimeoutError")
            adapters.clock.advance(0.7)
    adapters.publisher.close()
    events = list(subscription)
    assert [event.sequence for event in events] == list(range(1, 28))
    assert all(event.dropped == 0 for event in events)
    for event in {(e.value.name, e.value.metric_type): e for e in events}.values():
        now, value = adapters.value_now(event), event.value
        assert (value.value, value.unit) == (now.value, now.unit)
        assert value.timestamp <= now.timestamp  # the moments of the event and of this reading
        assert value.metadata["count"] == now.metadata["count"]
        if value.metric_type is MetricType.RATE:
            assert value.metadata["success_rate"] == now.metadata["success_rate"]


def test_an_event_has_the_record_in_its_metadata(adapters):
    """The record is a step, a level, a value or an outcome."""
    adapters.collector.record_counter("requests", 5)
    with adapters.publisher.subscribe() as subscription:
        for value in (2, 3):
            adapters.collector.record_counter("requests", value)
        adapters.collector.gauge("level").decrement(4)
        adapters.collector.record_timer("wait", 2, MetricUnit.SECONDS)
        adapters.tracker.record_failure("work", "OSError")
        adapters.tracker.record_success("work")
        found = [subscription.get(WAIT_SECONDS).value for _ in range(6)]
    assert [(value.name, value.value, value.metadata["recorded"]) for value in found[:4]] == [
        ("requests", 7, 2),
        ("requests", 10, 3),
        ("level", -4, -4),
        ("wait", 2_000.0, 2_000.0),
    ]
    assert [value.metadata["count"] for value in found] == [2, 3, 1, 1, 1, 2]
    assert [value.metadata["recorded"] for value in found[4:]] == ["OSError", None]
    assert [value.metadata["success_rate"] for value in found[4:]] == [0.0, 0.5]
    assert all(value.metadata["operation"] for value in found[4:])


@given(st.lists(st.one_of(st.integers(0, 10**18), st.floats(0, 1e300)), min_size=1, max_size=40))
def test_running_totals_agree_with_the_store(numbers):
    """They end at the store's total and never fall, except for rounding."""
    adapters = Adapters()
    subscription = adapters.publisher.subscribe()
    for number in numbers:
        adapters.collector.record_counter("sum", number)
    adapters.publisher.close()
    totals = [event.value.value for event in subscription]
    assert len(totals) == len(numbers)
    assert totals[-1] == pytest.approx(adapters.store.summary("sum")["total"], rel=1e-12)
    assert all(later >= earlier * (1 - 1e-12) for earlier, later in pairwise(totals))


def test_time_slots_and_removed_series_lose_no_event(adapters):
    """Records of several time slots, and of series that are removed meanwhile, are delivered once."""
    adapters.collector.describe("level", merge="sum")
    counter, gauge = adapters.collector.counter("requests", {"a": "b"}), adapters.collector.gauge("level")
    subscription = adapters.publisher.subscribe()
    for _ in range(5):
        for _ in range(40):
            counter.add(1)
            gauge.set(2)
            adapters.clock.advance(0.3)
        adapters.store.remove("requests", {"a": "b"})
        adapters.store.remove("level", {})
    adapters.publisher.close()
    events = list(subscription)
    assert len(events) == 400
    assert [e.value.value for e in events if e.value.name == "requests"] == [*range(1, 41)] * 5


def test_constant_tags_and_rules_apply_to_events():
    """A series has the same name and tags as in the aggregator."""
    from metrics_framework.recording import Rule

    adapters = Adapters(tags={"service": "shop"}, rules=[Rule("old.*", rename="new")])
    with adapters.publisher.subscribe({"tags": {"service": "shop"}}) as subscription:
        adapters.collector.increment("old.orders", {"size": "xl"})
        value = subscription.get(WAIT_SECONDS).value
    adapters.publisher.close()
    assert (value.name, value.tags) == ("new", {"service": "shop", "size": "xl"})


def test_an_event_is_encoded_once(adapters):
    """All subscribers get the same bytes, even those that lost earlier events."""
    quick, slow = adapters.publisher.subscribe(), adapters.publisher.subscribe(buffer=1)
    for _ in range(3):
        adapters.collector.increment("requests", {"path": "/\udcff é"})
    adapters.publisher.close()
    *_, last = quick
    late = slow.get(WAIT_SECONDS)
    assert (late.sequence, late.dropped, last.dropped) == (3, 2, 0)
    assert late.json() is last.json()
    assert json.loads(last.json()) == {
        "name": "requests",
        "type": "counter",
        "value": 3,
        "unit": "count",
        "timestamp": "2026-01-01T00:00:00+00:00",
        "tags": {"path": r"/\udcff é"},
        "metadata": {"count": 3, "recorded": 1},
        "sequence": 3,
    }
    assert "sequence=3" in repr(last)


def test_a_number_that_json_cannot_represent_is_null(adapters):
    """The rest of the event is encoded as usual."""
    subscription = adapters.publisher.subscribe()
    for _ in range(2):
        adapters.collector.record_counter("large", 1.7e308)
    adapters.publisher.close()
    assert [json.loads(event.json())["value"] for event in subscription] == [1.7e308, None]


def test_records_that_overflow_the_log_are_counted(adapters, monkeypatch):
    """If the publisher thread is late, records that the log cannot hold count as dropped."""
    monkeypatch.setattr(sources, "MAX_PENDING_RECORDS", 1_000)
    subscription = adapters.publisher.subscribe(buffer=100_000)
    with adapters.publisher._lock:  # the thread waits for it
        for each in range(20_000):
            adapters.collector.increment(f"requests.{each % 3}")
    adapters.publisher.subscribe().close()  # publishes
    adapters.collector.increment("requests.late")
    adapters.publisher.close()
    events = list(subscription)
    assert len(events) + subscription.dropped == 20_001
    assert 1_000 < len(events) < 4_000
    assert [event.sequence for event in events[:1_000]] == list(range(1, 1_001))
    assert sum(event.dropped for event in events) == subscription.dropped
    assert (events[-1].value.name, events[-1].sequence) == ("requests.late", 20_001)
    assert events[-1].value.value == 1


def test_a_p95_belongs_to_the_moment_of_reading(adapters):
    """It does not change afterwards. For a removed series, it is computed from the records."""
    subscription = adapters.publisher.subscribe()
    for value in (1.0, 2.0):
        adapters.collector.record_histogram("size", value)
    adapters.publisher.subscribe().close()  # publishes
    adapters.collector.record_histogram("size", 100.0)
    adapters.collector.record_histogram("gone", 7.0)
    adapters.collector.remove("gone")
    adapters.publisher.close()
    assert [(event.value.name, event.value.value) for event in subscription] == [
        ("size", 2.0), ("size", 2.0), ("size", 100.0), ("gone", 7.0)
    ]  # fmt: skip


@pytest.mark.heavy
def test_records_of_several_threads_are_delivered_in_order(adapters):
    """Each record is delivered once, while another thread reads the store."""
    subscription = adapters.publisher.subscribe(buffer=1_000_000)
    rounds = 10_000

    def record(which: int) -> None:
        for _ in range(rounds):
            adapters.collector.increment("requests", {"thread": str(which)})
            adapters.collector.record_gauge("level", which, {"thread": str(which)})

    threads = [threading.Thread(target=record, args=[which]) for which in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        adapters.store.readings()
    adapters.publisher.close()
    counts: dict[tuple[str, str], list[int]] = {}
    for event in subscription:
        counts.setdefault((event.value.name, event.value.tags["thread"]), []).append(
            event.value.metadata["count"]
        )
    assert len(counts) == 8
    assert all(found == list(range(1, rounds + 1)) for found in counts.values())


@pytest.fixture
def quick(monkeypatch):
    """Poll and publish all the time."""
    monkeypatch.setattr(sources, "POLL_SECONDS", 0.0)
    monkeypatch.setattr("metrics_framework.streams.publisher.PUBLISH_SECONDS", 0.001)


class SampleAggregator:
    """An aggregator that returns the values of the test."""

    def __init__(self, **values: float) -> None:
        self.values = values
        self.error: Exception | None = None

    def get_metrics_by_tag(self, tag_filter: dict[str, str]) -> list[MetricValue]:
        """Return the gauges, or raise the error."""
        if self.error is not None:
            raise self.error
        now = datetime.now(tz=UTC)
        return [
            MetricValue(name, value, MetricType.GAUGE, MetricUnit.COUNT, now, {}, {})
            for name, value in self.values.items()
        ]


@pytest.mark.usefixtures("quick")
def test_a_changed_or_new_value_is_an_event():
    """Values are compared if an adapter has no counts of records."""
    aggregator = SampleAggregator(level=1.0, still=5.0)
    publisher = Publisher(PollingSource(aggregator))
    subscription = publisher.subscribe()
    aggregator.values["level"] = 2.0
    assert subscription.get(WAIT_SECONDS).value.value == 2.0
    aggregator.values["new"] = 7.0
    assert subscription.get(WAIT_SECONDS).value.name == "new"
    publisher.close()
    assert subscription.get(WAIT_SECONDS) is None


@pytest.mark.usefixtures("quick")
def test_a_record_with_the_same_value_is_an_event():
    """Counts are compared if there are any, so a rate that falls without a record is not an event."""
    clock = ManualClock()
    store = Store(clock)
    collector, tracker, timer = InMemoryCollector(store), InMemoryTracker(store), InMemoryTimer(store)
    collector.record_gauge("level", 3)
    tracker.record_success("work")
    timer.time_operation("work", lambda: clock.advance(1))
    publisher = Publisher(PollingSource(InMemoryAggregator(store)))
    subscription = publisher.subscribe()
    clock.advance(60)
    collector.record_gauge("level", 3)
    assert subscription.get(WAIT_SECONDS).value.name == "level"
    timer.time_operation("work", lambda: clock.advance(1))
    assert subscription.get(WAIT_SECONDS).value.metric_type is MetricType.TIMER
    publisher.close()
    assert list(subscription) == []


@pytest.mark.usefixtures("quick")
def test_an_error_of_the_aggregator_follows_buffered_events():
    """Readers get the error at the end of the stream. Subscribing again works once the error is gone."""
    aggregator = SampleAggregator(level=1.0)
    publisher = Publisher(PollingSource(aggregator))
    subscription, other = publisher.subscribe(), publisher.subscribe()
    aggregator.values["level"] = 2.0
    assert other.get(WAIT_SECONDS).value.value == 2.0
    aggregator.error = OSError("gone")
    assert subscription.get(WAIT_SECONDS).value.value == 2.0
    for each in (subscription, other):
        with pytest.raises(OSError, match="gone"):
            each.get(WAIT_SECONDS)
    with pytest.raises(OSError, match="gone"):
        publisher.subscribe()
    aggregator.error = None
    again = publisher.subscribe(after=1)
    aggregator.values["level"] = 3.0
    event = again.get(WAIT_SECONDS)
    assert event.value.value == 3.0
    assert event.dropped == 1, "an unknown number of changes counts as one"
    publisher.close()


@pytest.mark.usefixtures("quick")
def test_a_later_subscriber_gets_later_changes():
    """Only the first subscriber gets the changes from before the second one."""
    aggregator = SampleAggregator(level=1.0)
    publisher = Publisher(PollingSource(aggregator))
    first = publisher.subscribe()
    aggregator.values["level"] = 2.0
    second = publisher.subscribe()
    aggregator.values["level"] = 3.0
    publisher.close()
    assert [event.value.value for event in first][-1] == 3.0
    assert [event.value.value for event in second] == [3.0]
