"""Parts that somebody else wrote are asked for what has changed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework.clock import ManualClock
from metrics_framework.recording import Store
from metrics_framework.streams import Polled, Streams, hub, polled
from metrics_framework.values import MetricType, MetricUnit, MetricValue

SOON = 20.0


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Look for changes all the time."""
    monkeypatch.setattr(polled, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(hub, "TICK_SECONDS", 0.001)


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


def test_another_value_is_a_change():
    """Where an adapter counts no records, values are compared; what is new is a change."""
    foreign = Foreign(level=1.0, still=5.0)
    streams = Streams(Polled(foreign))
    subscription = streams.subscribe()
    foreign.values["level"] = 2.0
    assert subscription.get(SOON).value.value == 2.0
    foreign.values["new"] = 7.0
    assert subscription.get(SOON).value.name == "new"
    streams.close()
    assert subscription.get(SOON) is None


def test_a_record_is_a_change_also_where_the_number_is_the_same():
    """Where there are counts they are compared, so a falling rate is no change and a record is one."""
    clock = ManualClock()
    store = Store(clock)
    collector, tracker, timer = InMemoryCollector(store), InMemoryTracker(store), InMemoryTimer(store)
    collector.record_gauge("level", 3)
    tracker.record_success("work")
    timer.time_operation("work", lambda: clock.advance(1))
    streams = Streams(Polled(InMemoryAggregator(store)))
    subscription = streams.subscribe()
    clock.advance(60)
    collector.record_gauge("level", 3)
    assert subscription.get(SOON).value.name == "level"
    timer.time_operation("work", lambda: clock.advance(1))
    assert subscription.get(SOON).value.metric_type is MetricType.TIMER
    streams.close()
    assert list(subscription) == []


def test_an_error_reaches_who_reads_after_what_came_before_it():
    """A stream that can go on no more says why; who subscribes again is answered once it can."""
    foreign = Foreign(level=1.0)
    streams = Streams(Polled(foreign))
    subscription, other = streams.subscribe(), streams.subscribe()
    foreign.values["level"] = 2.0
    assert other.get(SOON).value.value == 2.0
    foreign.error = OSError("gone")
    assert subscription.get(SOON).value.value == 2.0
    for each in (subscription, other):
        with pytest.raises(OSError, match="gone"):
            each.get(SOON)
    with pytest.raises(OSError, match="gone"):
        streams.subscribe()
    foreign.error = None
    again = streams.subscribe(after=1)
    foreign.values["level"] = 3.0
    event = again.get(SOON)
    assert event.value.value == 3.0
    assert event.dropped == 1, "nobody knows what happened meanwhile, and that is said"
    streams.close()


def test_who_subscribes_later_gets_later_changes():
    """What changed before a second subscriber came is for the first one alone."""
    foreign = Foreign(level=1.0)
    streams = Streams(Polled(foreign))
    first = streams.subscribe()
    foreign.values["level"] = 2.0
    second = streams.subscribe()
    foreign.values["level"] = 3.0
    streams.close()
    assert [event.value.value for event in first][-1] == 3.0
    assert [event.value.value for event in second] == [3.0]
