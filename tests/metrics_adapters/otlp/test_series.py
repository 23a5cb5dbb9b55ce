"""The series of a system, what the receiver has of each, and the start of the next numbers."""

from __future__ import annotations

from datetime import timedelta

from metrics_adapters.in_memory import InMemoryCollector
from metrics_adapters.otlp.message import MetricStream, SeriesValue
from metrics_adapters.otlp.series import ReceivedSeries, StoreReader
from metrics_framework.recording import Store

ORDERS = MetricStream(False, "orders", "counter", "", "")
DEPTH = MetricStream(False, "depth", "gauge", "", "")


def send(sent: ReceivedSeries, series_values: list[SeriesValue], now: int) -> list[tuple[int, object]]:
    """Send all series, and return the start and value of each point."""
    points = sent.points(series_values)
    sent.commit(points, now)
    sent.complete(series_values, now)
    return [(point.start_ns, point.value) for point in points]


def test_cumulative_numbers_count_since_the_start():
    """A first series keeps its start. A later one started at the previous export."""
    sent = ReceivedSeries(100, "cumulative")
    one, other = {"page": "1"}, {"page": "2"}
    assert send(sent, [SeriesValue.of(ORDERS, one, 2)], 110) == [(100, 2)]
    assert send(sent, [SeriesValue.of(ORDERS, one, 5), SeriesValue.of(ORDERS, other, 1)], 120) == [
        (100, 5),
        (110, 1),
    ]
    assert send(sent, [SeriesValue.of(ORDERS, one, 5), SeriesValue.of(ORDERS, other, 4)], 130) == [
        (100, 5),
        (110, 4),
    ]


def test_a_reset_series_has_a_new_start():
    """A total that fell or was missing counts since the last export."""
    sent = ReceivedSeries(100, "cumulative")
    send(sent, [SeriesValue.of(ORDERS, {}, 9)], 110)
    assert send(sent, [SeriesValue.of(ORDERS, {}, 4)], 120) == [(110, 4)]
    assert send(sent, [SeriesValue.of(ORDERS, {}, 6)], 130) == [(110, 6)]
    send(sent, [], 140)
    assert send(sent, [SeriesValue.of(ORDERS, {}, 7)], 150) == [(140, 7)]


def test_a_delta_contains_new_records():
    """Each delta counts since the last one that was received. Without new records there is none."""
    sent = ReceivedSeries(100, "delta")
    assert send(sent, [SeriesValue.of(ORDERS, {}, 2)], 110) == [(100, 2)]
    assert send(sent, [SeriesValue.of(ORDERS, {}, 7)], 120) == [(110, 5)]
    assert send(sent, [SeriesValue.of(ORDERS, {}, 7)], 130) == []
    assert send(sent, [SeriesValue.of(ORDERS, {}, 8)], 140) == [(130, 1)]
    assert send(sent, [SeriesValue.of(ORDERS, {}, 3)], 150) == [(140, 3)]


def test_what_was_not_received_is_in_the_next_delta():
    """A delta without a commit changes nothing."""
    sent = ReceivedSeries(100, "delta")
    send(sent, [SeriesValue.of(ORDERS, {}, 2)], 110)
    sent.points([SeriesValue.of(ORDERS, {}, 5)])
    assert send(sent, [SeriesValue.of(ORDERS, {}, 9)], 130) == [(110, 7)]


def test_series_that_were_received_before_a_failure_are_not_sent_again():
    """After a failure between two requests, the next delta contains the series of the second one."""
    sent = ReceivedSeries(100, "delta")
    first, second = SeriesValue.of(ORDERS, {"page": "1"}, 2), SeriesValue.of(ORDERS, {"page": "2"}, 3)
    sent.commit(sent.points([first]), 110)
    assert send(sent, [first, second], 120) == [(100, 3)]


def test_a_gauge_is_always_sent():
    """A gauge is sent even if it is unchanged."""
    sent = ReceivedSeries(100, "delta")
    assert [value for _, value in send(sent, [SeriesValue.of(DEPTH, {}, 0)], 110)] == [0]
    assert [value for _, value in send(sent, [SeriesValue.of(DEPTH, {}, -3)], 120)] == [-3]


def test_cached_attributes_are_removed_with_their_series(clock):
    """Attributes are encoded once for each series."""
    store = Store(clock, expire_after=timedelta(minutes=1))
    reader, collector = StoreReader(store), InMemoryCollector(store)
    for user in ("1", "2"):
        collector.increment("orders", {"user": user})
        clock.advance(25)
    first = {series.attributes: series for series in reader.read()}
    clock.advance(30)
    second = {series.attributes: series for series in reader.read()}
    (kept,) = second.values()
    assert len(first) == 2
    assert kept.attributes is first[kept.attributes].attributes
    assert [series.tags for series in reader._attributes] == [{"user": "2"}]
