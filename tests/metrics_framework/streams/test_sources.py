"""Every record becomes an event that says what its metric is with it."""

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

SOON = 20.0


class Views:
    """The parts on one store with a clock that the test moves, and its streams."""

    def __init__(self, **options: object) -> None:
        self.clock = ManualClock()
        self.store = Store(self.clock, **options)
        self.collector = InMemoryCollector(self.store)
        self.timer = InMemoryTimer(self.store)
        self.tracker = InMemoryTracker(self.store)
        self.publisher = Publisher(StoreSource(self.store))

    def value_now(self, event: StreamEvent) -> MetricValue:
        """Return what the aggregator says of an event's series."""
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
def views():
    """Return the parts on an empty store, and end the streams."""
    views = Views()
    yield views
    views.publisher.close()


def test_an_event_says_what_the_aggregator_says(views):
    """Of each kind, the last event of a series has the value, unit and count that a reading has."""
    views.collector.describe("size", unit=MetricUnit.BYTES)
    views.clock.advance(2)
    for before in (True, False):
        subscription = None if before else views.publisher.subscribe()
        for step in range(3):
            views.collector.record_counter("requests", 2, {"one": "a"})
            views.collector.record_counter("seconds", 0.1 * step)
            views.collector.record_gauge("level", step)
            views.collector.gauge("moved").increment(3)
            views.collector.record_histogram("size", 10.0 * step)
            views.collector.record_timer("wait", step, MetricUnit.SECONDS)
            views.timer.time_operation("work", lambda: views.clock.advance(0.2))
            views.tracker.record_success("work")
            views.tracker.record_failure("work", "TimeoutError")
            views.clock.advance(0.7)
    views.publisher.close()
    events = list(subscription)
    assert [event.sequence for event in events] == list(range(1, 28))
    assert all(event.dropped == 0 for event in events)
    for event in {(e.value.name, e.value.metric_type): e for e in events}.values():
        now, value = views.value_now(event), event.value
        assert (value.value, value.unit, value.timestamp) == (now.value, now.unit, now.timestamp)
        assert value.metadata["count"] == now.metadata["count"]
        if value.metric_type is MetricType.RATE:
            assert value.metadata["success_rate"] == now.metadata["success_rate"]


def test_each_event_says_what_was_recorded(views):
    """Beside what the metric is, there is what this record said: a step, a level, a value, an ending."""
    views.collector.record_counter("requests", 5)
    with views.publisher.subscribe() as subscription:
        for value in (2, 3):
            views.collector.record_counter("requests", value)
        views.collector.gauge("level").decrement(4)
        views.collector.record_timer("wait", 2, MetricUnit.SECONDS)
        views.tracker.record_failure("work", "OSError")
        views.tracker.record_success("work")
        found = [subscription.get(SOON).value for _ in range(6)]
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
def test_totals_are_those_of_the_store(numbers):
    """A counter's running total ends at that of the store and never falls, both except for rounding."""
    views = Views()
    subscription = views.publisher.subscribe()
    for number in numbers:
        views.collector.record_counter("sum", number)
    views.publisher.close()
    totals = [event.value.value for event in subscription]
    assert len(totals) == len(numbers)
    assert totals[-1] == pytest.approx(views.store.summary("sum")["total"], rel=1e-12)
    assert all(later >= earlier * (1 - 1e-12) for earlier, later in pairwise(totals))


def test_slots_and_removed_series_cost_no_event(views):
    """Records of several time slots, and of series that are removed and come back, are all there, once."""
    views.collector.describe("level", merge="sum")
    counter, gauge = views.collector.counter("requests", {"a": "b"}), views.collector.gauge("level")
    subscription = views.publisher.subscribe()
    for _ in range(5):
        for _ in range(40):
            counter.add(1)
            gauge.set(2)
            views.clock.advance(0.3)
        views.store.remove("requests", {"a": "b"})
        views.store.remove("level", {})
    views.publisher.close()
    events = list(subscription)
    assert len(events) == 400
    assert [e.value.value for e in events if e.value.name == "requests"] == [*range(1, 41)] * 5


def test_constant_tags_and_rules_are_those_of_a_reading():
    """A series has the tags and the name that it has where it is read."""
    from metrics_framework.recording import Rule

    views = Views(tags={"service": "shop"}, rules=[Rule("old.*", rename="new")])
    with views.publisher.subscribe({"tags": {"service": "shop"}}) as subscription:
        views.collector.increment("old.orders", {"size": "xl"})
        value = subscription.get(SOON).value
    views.publisher.close()
    assert (value.name, value.tags) == ("new", {"service": "shop", "size": "xl"})


def test_an_event_is_encoded_once(views):
    """All subscribers get the same bytes, whichever of them lost events before it."""
    quick, slow = views.publisher.subscribe(), views.publisher.subscribe(buffer=1)
    for _ in range(3):
        views.collector.increment("requests", {"path": "/\udcff é"})
    views.publisher.close()
    *_, last = quick
    late = slow.get(SOON)
    assert (late.sequence, late.dropped, last.dropped) == (3, 2, 0)
    assert late.json() is last.json()
    assert json.loads(last.json()) == {
        "name": "requests",
        "type": "counter",
        "value": 3,
        "unit": "count",
        "timestamp": "2026-01-01T00:00:00+00:00",
        "tags": {"path": "/\udcff é"},
        "metadata": {"count": 3, "recorded": 1},
        "sequence": 3,
    }
    assert "sequence=3" in repr(last)


def test_what_is_no_number_in_json_is_null(views):
    """A total beyond the largest float is null, and the rest of the event is as it is."""
    subscription = views.publisher.subscribe()
    for _ in range(2):
        views.collector.record_counter("large", 1.7e308)
    views.publisher.close()
    assert [json.loads(event.json())["value"] for event in subscription] == [1.7e308, None]


def test_what_nobody_publishes_in_time_is_counted(views, monkeypatch):
    """If the publisher thread is late, a limited number of records waits; newer ones count as dropped."""
    monkeypatch.setattr(sources, "MAX_PENDING_RECORDS", 1_000)
    subscription = views.publisher.subscribe(buffer=100_000)
    with views.publisher._lock:  # the thread waits for it
        for each in range(20_000):
            views.collector.increment(f"requests.{each % 3}")
    views.publisher.subscribe().close()  # publishes
    views.collector.increment("requests.late")
    views.publisher.close()
    events = list(subscription)
    assert len(events) + subscription.dropped == 20_001
    assert 1_000 < len(events) < 4_000
    assert [event.sequence for event in events[:1_000]] == list(range(1, 1_001))
    assert sum(event.dropped for event in events) == subscription.dropped
    assert (events[-1].value.name, events[-1].sequence) == ("requests.late", 20_001)
    assert events[-1].value.value == 1


def test_a_p95_is_that_of_the_moment_of_reading(views):
    """It does not change afterwards; of a series that was removed meanwhile it is that of the records."""
    subscription = views.publisher.subscribe()
    for value in (1.0, 2.0):
        views.collector.record_histogram("size", value)
    views.publisher.subscribe().close()  # publishes
    views.collector.record_histogram("size", 100.0)
    views.collector.record_histogram("gone", 7.0)
    views.collector.remove("gone")
    views.publisher.close()
    assert [(event.value.name, event.value.value) for event in subscription] == [
        ("size", 2.0), ("size", 2.0), ("size", 100.0), ("gone", 7.0)
    ]  # fmt: skip


@pytest.mark.heavy
def test_threads_that_record_lose_nothing(views):
    """Records of several threads, with readers between, are streamed once, each series' in order."""
    subscription = views.publisher.subscribe(buffer=1_000_000)
    rounds = 10_000

    def record(which: int) -> None:
        for _ in range(rounds):
            views.collector.increment("requests", {"thread": str(which)})
            views.collector.record_gauge("level", which, {"thread": str(which)})

    threads = [threading.Thread(target=record, args=[which]) for which in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        views.store.readings()
    views.publisher.close()
    counts: dict[tuple[str, str], list[int]] = {}
    for event in subscription:
        counts.setdefault((event.value.name, event.value.tags["thread"]), []).append(
            event.value.metadata["count"]
        )
    assert len(counts) == 8
    assert all(found == list(range(1, rounds + 1)) for found in counts.values())


@pytest.fixture
def quick(monkeypatch):
    """Look for changes all the time."""
    monkeypatch.setattr(sources, "POLL_SECONDS", 0.0)
    monkeypatch.setattr("metrics_framework.streams.publisher.PUBLISH_SECONDS", 0.001)


class Foreign:
    """An aggregator of somebody else's, that answers with what it is told to."""

    def __init__(self, **values: float) -> None:
        self.values = values
        self.error: Exception | None = None

    def get_metrics_by_tag(self, tag_filter: dict[str, str]) -> list[MetricValue]:
        """Answer."""
        if self.error is not None:
            raise self.error
        now = datetime.now(tz=UTC)
        return [
            MetricValue(name, value, MetricType.GAUGE, MetricUnit.COUNT, now, {}, {})
            for name, value in self.values.items()
        ]


@pytest.mark.usefixtures("quick")
def test_another_value_is_a_change():
    """Where an adapter counts no records, values are compared; what is new is a change."""
    foreign = Foreign(level=1.0, still=5.0)
    publisher = Publisher(PollingSource(foreign))
    subscription = publisher.subscribe()
    foreign.values["level"] = 2.0
    assert subscription.get(SOON).value.value == 2.0
    foreign.values["new"] = 7.0
    assert subscription.get(SOON).value.name == "new"
    publisher.close()
    assert subscription.get(SOON) is None


@pytest.mark.usefixtures("quick")
def test_a_record_is_a_change_also_where_the_number_is_the_same():
    """Where there are counts they are compared, so a falling rate is no change and a record is one."""
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
    assert subscription.get(SOON).value.name == "level"
    timer.time_operation("work", lambda: clock.advance(1))
    assert subscription.get(SOON).value.metric_type is MetricType.TIMER
    publisher.close()
    assert list(subscription) == []


@pytest.mark.usefixtures("quick")
def test_an_error_reaches_who_reads_after_what_came_before_it():
    """A stream that can go on no more says why; who subscribes again is answered once it can."""
    foreign = Foreign(level=1.0)
    publisher = Publisher(PollingSource(foreign))
    subscription, other = publisher.subscribe(), publisher.subscribe()
    foreign.values["level"] = 2.0
    assert other.get(SOON).value.value == 2.0
    foreign.error = OSError("gone")
    assert subscription.get(SOON).value.value == 2.0
    for each in (subscription, other):
        with pytest.raises(OSError, match="gone"):
            each.get(SOON)
    with pytest.raises(OSError, match="gone"):
        publisher.subscribe()
    foreign.error = None
    again = publisher.subscribe(after=1)
    foreign.values["level"] = 3.0
    event = again.get(SOON)
    assert event.value.value == 3.0
    assert event.dropped == 1, "nobody knows what happened meanwhile, and that is said"
    publisher.close()


@pytest.mark.usefixtures("quick")
def test_who_subscribes_later_gets_later_changes():
    """What changed before a second subscriber came is for the first one alone."""
    foreign = Foreign(level=1.0)
    publisher = Publisher(PollingSource(foreign))
    first = publisher.subscribe()
    foreign.values["level"] = 2.0
    second = publisher.subscribe()
    foreign.values["level"] = 3.0
    publisher.close()
    assert [event.value.value for event in first][-1] == 3.0
    assert [event.value.value for event in second] == [3.0]
