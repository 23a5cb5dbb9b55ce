"""The in-memory aggregator lists, filters, ranks and exports the metrics of a store."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.recording import Store
from metrics_framework.values import MetricType, MetricUnit, MetricValue


@dataclass
class Views:
    """The four parts on one store."""

    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.store = Store(self.clock)
        self.collector = InMemoryCollector(self.store)
        self.timer = InMemoryTimer(self.store)
        self.tracker = InMemoryTracker(self.store)
        self.aggregator = InMemoryAggregator(self.store)


@pytest.fixture
def views() -> Views:
    """Return the four parts on an empty store."""
    return Views()


def by_name(values: list[MetricValue]) -> dict[str, MetricValue]:
    """Return values by name, of which each has one."""
    found = {value.name: value for value in values}
    assert len(found) == len(values)
    return found


def test_an_empty_store_has_no_metrics():
    """It lists and ranks nothing."""
    aggregator = InMemoryAggregator()
    assert aggregator.get_metrics_by_tag({}) == []
    assert [aggregator.get_top_metrics(each) for each in MetricType] == [[]] * 5
    assert json.loads(aggregator.export_metrics()) == {"metrics": []}
    with pytest.raises(UnknownMetricError):
        aggregator.get_metric_summary("requests")


@pytest.mark.smoke
def test_an_aggregator_sees_what_a_collector_on_its_store_records():
    """A collector and an aggregator are connected by their store."""
    store = Store()
    InMemoryCollector(store).record_counter("requests", 3)
    assert InMemoryAggregator(store).get_metric_summary("requests")["total"] == 3


def test_the_value_of_each_type(views):
    """The value of a counter is its total, of a gauge its level, and of a distribution its p95."""
    views.collector.record_counter("counter", 3)
    views.collector.record_counter("counter", 4)
    views.collector.record_gauge("gauge", 9)
    views.collector.record_gauge("gauge", -2)
    for value in range(1, 101):
        views.collector.record_histogram("histogram", value)
        views.collector.record_timer("timer", value, MetricUnit.SECONDS)
    found = by_name(views.aggregator.get_metrics_by_tag({}))
    assert {name: (value.value, value.metric_type, value.unit) for name, value in found.items()} == {
        "counter": (7, MetricType.COUNTER, MetricUnit.COUNT),
        "gauge": (-2, MetricType.GAUGE, MetricUnit.COUNT),
        "histogram": (95, MetricType.HISTOGRAM, MetricUnit.COUNT),
        "timer": (95_000, MetricType.TIMER, MetricUnit.MILLISECONDS),
    }


def test_a_value_carries_its_summary(views):
    """The metadata is the summary of the series, and the timestamp is in UTC."""
    views.collector.record_counter("requests", 3, {"endpoint": "/"})
    views.collector.record_counter("requests", 5, {"endpoint": "/status"})
    views.clock.advance(10)
    found = {value.tags["endpoint"]: value for value in views.aggregator.get_metrics_by_tag({})}
    assert found["/"].metadata == {"count": 1, "seconds": 10.0, "sum": 3, "rate": 0.3, "total": 3}
    assert found["/status"].value == 5
    assert found["/"].timestamp == datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC)
    assert "operation" not in found["/"].metadata


def test_operations_are_listed_beside_metrics(views):
    """A timed operation is a timer and a tracked one a rate, both marked as operations."""
    views.collector.increment("work")
    views.timer.time_operation("work", lambda: views.clock.advance(4))
    views.tracker.record_success("work")
    views.tracker.record_failure("work", "timeout")
    counter, timed, tracked = views.aggregator.get_metrics_by_tag({})
    assert (counter.metric_type, timed.metric_type, tracked.metric_type) == (
        MetricType.COUNTER,
        MetricType.TIMER,
        MetricType.RATE,
    )
    assert (timed.value, timed.unit, timed.tags) == (4_000.0, MetricUnit.MILLISECONDS, {})
    assert timed.metadata == {**views.timer.get_timing_stats("work"), "operation": True}
    assert (tracked.value, tracked.unit, tracked.tags) == (0.5, MetricUnit.OPERATIONS_PER_SECOND, {})
    assert tracked.metadata == {
        "operation": True,
        "count": 2,
        "seconds": 4.0,
        "successes": 1,
        "failures": {"timeout": 1},
        "success_rate": 0.5,
    }


# -- filters ---------------------------------------------------------------------------------------------


def test_a_filter_matches_series_with_all_its_tags(views):
    """Further tags of a series do not matter; a missing or different one does."""
    for tags in (
        {"region": "north", "method": "GET"},
        {"region": "north"},
        {"region": "south", "method": "GET"},
        None,
    ):
        views.collector.increment("requests", tags)

    def matching(tag_filter: dict[str, str]) -> list[dict[str, str]]:
        return [value.tags for value in views.aggregator.get_metrics_by_tag(tag_filter)]

    assert matching({"region": "north"}) == [{"region": "north", "method": "GET"}, {"region": "north"}]
    assert matching({"method": "GET", "region": "north"}) == [{"region": "north", "method": "GET"}]
    assert matching({"region": "west"}) == []
    assert matching({"zone": "north"}) == []
    assert len(matching({})) == 4


def test_a_filter_sees_every_metric_and_no_operation(views):
    """Series of different metrics match alike; operations have no tags, so no filter finds them."""
    views.collector.increment("requests", {"region": "north"})
    views.collector.record_gauge("level", 3, {"region": "north"})
    views.timer.time_operation("work", lambda: None)
    views.tracker.record_success("work")
    assert by_name(views.aggregator.get_metrics_by_tag({"region": "north"})).keys() == {"requests", "level"}
    assert len(views.aggregator.get_metrics_by_tag({})) == 4


def test_a_filter_is_converted_as_tags_are(views):
    """A number matches the tag that was recorded with it. Anything but a mapping is refused."""
    views.collector.increment("requests", {"status": 200})
    assert len(views.aggregator.get_metrics_by_tag({"status": 200})) == 1
    with pytest.raises(InvalidInputError, match="tags="):
        views.aggregator.get_metrics_by_tag(["status"])


# -- rankings --------------------------------------------------------------------------------------------


def test_the_largest_come_first(views):
    """The top of a type is sorted by value, and no longer than the limit."""
    for number in (3, 1, 4, 15, 9, 2):
        views.collector.record_gauge(f"gauge.{number}", number)
        views.collector.record_counter(f"counter.{number}", 100 + number)
    top = views.aggregator.get_top_metrics(MetricType.GAUGE, 3)
    assert [value.value for value in top] == [15, 9, 4]
    assert {value.metric_type for value in top} == {MetricType.GAUGE}


def test_the_default_limit_is_ten(views):
    """A ranking shows ten series, or all if there are fewer."""
    for number in range(12):
        views.collector.record_counter("requests", number, {"number": str(number)})
    assert len(views.aggregator.get_top_metrics(MetricType.COUNTER)) == 10
    assert len(views.aggregator.get_top_metrics(MetricType.COUNTER, 100)) == 12


def test_timers_and_timed_operations_rank_together(views):
    """A ranking of timers includes measured operations."""
    views.collector.record_timer("fast", 10)
    views.collector.record_timer("slow", 3_000)
    views.timer.time_operation("slower", lambda: views.clock.advance(5))
    assert [value.name for value in views.aggregator.get_top_metrics(MetricType.TIMER)] == [
        "slower",
        "slow",
        "fast",
    ]


def test_rates_are_derived_from_counters_and_operations(views):
    """By rate, counters rank by additions a second and operations by outcomes a second."""
    views.clock.advance(10)
    views.collector.record_counter("bytes", 1_000, {"way": "out"})
    views.collector.record_counter("requests", 20)
    for _ in range(50):
        views.tracker.record_success("work")
    views.collector.record_gauge("level", 10**6)
    top = views.aggregator.get_top_metrics(MetricType.RATE)
    assert [(value.name, value.value) for value in top] == [
        ("bytes", 100.0),
        ("work", 5.0),
        ("requests", 2.0),
    ]
    assert {(value.metric_type, value.unit) for value in top} == {
        (MetricType.RATE, MetricUnit.OPERATIONS_PER_SECOND)
    }
    assert top[0].tags == {"way": "out"}


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "10", None])
def test_a_limit_is_a_whole_number(views, limit):
    """A limit below 1, or one that is not an integer, is refused."""
    with pytest.raises(InvalidInputError, match="limit="):
        views.aggregator.get_top_metrics(MetricType.COUNTER, limit)


def test_a_type_is_a_metric_type(views):
    """The name of a type is refused."""
    with pytest.raises(InvalidInputError, match="metric_type='timer' is not a MetricType"):
        views.aggregator.get_top_metrics("timer")


# -- summaries and exports -----------------------------------------------------------------------------------


def test_summaries_are_those_of_the_store(views):
    """A summary covers all series of a name in a time window."""
    views.collector.record_counter("requests", 3, {"endpoint": "/"})
    views.clock.advance(100)
    views.collector.record_counter("requests", 5)
    window = timedelta(seconds=10)
    assert views.aggregator.get_metric_summary("requests", window) == {
        "count": 1,
        "seconds": 10.0,
        "sum": 5,
        "rate": 0.5,
        "total": 8,
    }
    assert views.aggregator.get_metric_summary("requests")["sum"] == 8


@pytest.mark.parametrize("format", ["json", "jsonl", "csv"])
def test_every_format_holds_every_metric(views, format):
    """Each format contains the values of all series and operations."""
    views.collector.record_counter("requests", 3, {"endpoint": '/a,"b"\n'})
    views.collector.record_gauge("level", -2)
    views.timer.time_operation("work", lambda: views.clock.advance(1))
    views.tracker.record_failure("work", "timeout")
    text = views.aggregator.export_metrics(format)
    match format:
        case "json":
            rows = json.loads(text)["metrics"]
        case "jsonl":
            rows = [json.loads(line) for line in text.splitlines()]
        case _:
            rows = [
                {**row, "value": float(row["value"]), "tags": json.loads(row["tags"])}
                for row in csv.DictReader(io.StringIO(text, newline=""))
            ]
    assert [(row["name"], row["type"], row["value"], row["tags"]) for row in rows] == [
        ("requests", "counter", 3, {"endpoint": '/a,"b"\n'}),
        ("level", "gauge", -2, {}),
        ("work", "timer", 1_000, {}),
        ("work", "rate", 1, {}),
    ]


def test_json_is_the_default_format(views):
    """Without a format the export is JSON."""
    views.collector.increment("requests")
    assert views.aggregator.export_metrics() == views.aggregator.export_metrics("json")


def test_an_unknown_format_is_an_error(views):
    """The error lists the known formats."""
    with pytest.raises(InvalidInputError, match="json, jsonl, csv"):
        views.aggregator.export_metrics("yaml")


# -- descriptions ------------------------------------------------------------------------------------------


def test_a_described_unit_is_that_of_the_value(views):
    """Unit and help of a value are those of its description. The unit of a timer is always milliseconds."""
    for name in ("counter", "gauge", "histogram", "timer"):
        views.collector.describe(name, unit=MetricUnit.BYTES, help=f"A {name}.")
    views.collector.increment("counter")
    views.collector.record_gauge("gauge", 1)
    views.collector.record_histogram("histogram", 1)
    views.collector.record_timer("timer", 1)
    found = by_name(views.aggregator.get_metrics_by_tag({}))
    assert {name: value.unit for name, value in found.items()} == {
        "counter": MetricUnit.BYTES,
        "gauge": MetricUnit.BYTES,
        "histogram": MetricUnit.BYTES,
        "timer": MetricUnit.MILLISECONDS,
    }
    assert {value.metadata["help"] for value in found.values()} == {f"A {name}." for name in found}


def test_buckets_are_in_the_metadata(views):
    """Counts by described bounds are cumulative, with the text of the bound as key, and the sum of values."""
    views.collector.describe("size", buckets=(0.5, 10, float("inf")))
    views.collector.record_histogram("size", 0.5)
    views.collector.record_histogram("size", 7)
    views.collector.record_histogram("size", 11)
    (value,) = views.aggregator.get_metrics_by_tag({})
    assert value.metadata["buckets"] == {"counts": {"0.5": 1, "10.0": 2, "inf": 3}, "sum": 18.5}
    assert json.loads(views.aggregator.export_metrics())["metrics"][0]["metadata"]["buckets"] == {
        "counts": {"0.5": 1, "10.0": 2, "inf": 3},
        "sum": 18.5,
    }


def test_a_bound_instrument_is_listed_from_its_first_record_on(views):
    """An instrument without records has no value to list, in any format."""
    bound = views.collector.gauge("level", {"pool": "a"})
    assert views.aggregator.get_metrics_by_tag({}) == []
    assert views.aggregator.get_metric_summary("level")["count"] == 0
    bound.set(0)
    (value,) = views.aggregator.get_metrics_by_tag({"pool": "a"})
    assert (value.value, value.metadata["count"]) == (0, 1)


def test_removed_series_are_not_listed(views):
    """A removed series, and a removed metric, are in no list and no export."""
    views.collector.increment("requests", {"region": "north"})
    views.collector.increment("requests", {"region": "south"})
    views.collector.increment("other")
    views.collector.remove("requests", {"region": "north"})
    assert {value.tags.get("region") for value in views.aggregator.get_metrics_by_tag({})} == {"south", None}
    assert views.aggregator.get_metric_summary("requests")["total"] == 2
    views.collector.remove("requests")
    assert by_name(views.aggregator.get_metrics_by_tag({})).keys() == {"other"}
    assert "requests" not in views.aggregator.export_metrics("prometheus")
