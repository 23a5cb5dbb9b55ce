"""Text formats: the text can be parsed back into the same values."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, SnapshotError
from metrics_framework.exposition.formats import FORMATS, render, to_plain
from metrics_framework.exposition.text import to_prometheus
from metrics_framework.recording import Store
from metrics_framework.snapshots import Environment, PerformanceSnapshot, document_violations
from metrics_framework.values import MetricType, MetricUnit, MetricValue

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.lists(
    st.builds(
        MetricValue,
        name=st.text(min_size=1),
        value=NUMBERS,
        metric_type=st.sampled_from(MetricType),
        unit=st.sampled_from(MetricUnit),
        timestamp=st.datetimes(timezones=st.just(UTC)),
        tags=st.dictionaries(st.text(min_size=1), st.text(), max_size=3),
        metadata=st.dictionaries(st.text(), NUMBERS | st.booleans() | st.text(), max_size=3),
    ),
    max_size=5,
)


def from_plain(plain: dict[str, Any]) -> MetricValue:
    """Convert plain data back into a value."""
    return MetricValue(
        plain["name"],
        plain["value"],
        MetricType(plain["type"]),
        MetricUnit(plain["unit"]),
        datetime.fromisoformat(plain["timestamp"]),
        plain["tags"],
        plain["metadata"],
    )


def from_csv(text: str) -> list[MetricValue]:
    """Parse a table."""
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [
        from_plain({**row, **{key: json.loads(row[key]) for key in ("value", "tags", "metadata")}})
        for row in rows
    ]


@given(VALUES)
def test_json_reads_back_as_the_same_values(values):
    """The document has every value under `metrics`, in order and complete."""
    assert [from_plain(plain) for plain in json.loads(render(values, "json"))["metrics"]] == values


@given(VALUES)
def test_json_lines_read_back_as_the_same_values(values):
    """Each value is one line, even if its texts have line breaks, and the last line ends in one."""
    text = render(iter(values), "jsonl")
    lines = text.split("\n")
    assert lines.pop() == ""
    assert [from_plain(json.loads(line)) for line in lines] == values


@given(VALUES)
def test_csv_reads_back_as_the_same_values(values):
    """Each value is one row, even if its texts have commas, quotes or line breaks."""
    assert from_csv(render(values, "csv")) == values


@pytest.mark.parametrize("format", list(FORMATS))
def test_every_text_can_be_encoded(format):
    """A lone surrogate, as in a file name that is not UTF-8, is escaped or replaced."""
    store = Store(clock=ManualClock())
    InMemoryCollector(store).record_gauge("files.\ud800", 1, {"path.\udcff": "\udcff"})
    text = InMemoryAggregator(store).export_metrics(format)
    assert "files" in text.encode().decode()
    if format == "csv":
        assert next(csv.DictReader(io.StringIO(text, newline="")))["name"] == "files.\\ud800"


def test_csv_without_values_has_a_header():
    """An empty table still names its columns."""
    assert render([], "csv") == "name,type,value,unit,timestamp,tags,metadata\r\n"


def test_a_value_as_plain_data():
    """Plain data has the keys of every format, and text for types that JSON lacks."""
    value = MetricValue(
        "http.requests",
        3,
        MetricType.COUNTER,
        MetricUnit.COUNT,
        datetime(2026, 1, 1, tzinfo=UTC),
        {"endpoint": "/"},
        {"count": 3},
    )
    assert to_plain(value) == {
        "name": "http.requests",
        "type": "counter",
        "value": 3,
        "unit": "count",
        "timestamp": "2026-01-01T00:00:00+00:00",
        "tags": {"endpoint": "/"},
        "metadata": {"count": 3},
    }


@pytest.mark.parametrize("unknown", ["xml", "JSON", "", None, [], 3])
def test_an_unknown_format_lists_the_known_ones(unknown):
    """The error contains the argument and names every format."""
    with pytest.raises(InvalidInputError) as caught:
        render([], unknown)
    assert repr(unknown) in str(caught.value)
    for known in FORMATS:
        assert known in str(caught.value)


def test_json_jsonl_and_csv_are_known():
    """The core has these formats besides Prometheus text."""
    assert {"json", "jsonl", "csv"} <= FORMATS.keys()


# -- formats of the in-memory aggregator -------------------------------------------------------------------


def test_prometheus_is_one_of_the_formats():
    """Its text is the one that a server scrapes."""
    value = MetricValue(
        "hits", 3, MetricType.COUNTER, MetricUnit.COUNT, datetime(2026, 1, 1, tzinfo=UTC), {}, {}
    )
    assert list(FORMATS) == ["json", "jsonl", "csv", "prometheus"]
    assert render(iter([value]), "prometheus") == to_prometheus([value])
    assert "hits_total 3\n" in render([value], "prometheus")


@pytest.mark.parametrize("unknown", ["xml", "Snapshot", "", None, [], 3])
def test_the_in_memory_aggregator_lists_snapshot_too(unknown):
    """Its error names all five formats, even if the store is empty."""
    with pytest.raises(InvalidInputError) as caught:
        InMemoryAggregator().export_metrics(unknown)
    message = f"format {unknown!r} is unknown; use one of json, jsonl, csv, prometheus, snapshot"
    assert str(caught.value) == message


def test_the_snapshot_format_is_a_valid_v1_document(clock):
    """It parses as a snapshot with latency, throughput and custom keys, at the time of its store."""
    store = Store(clock)
    collector, timer, tracker = InMemoryCollector(store), InMemoryTimer(store), InMemoryTracker(store)
    aggregator = InMemoryAggregator(store)
    clock.advance(6)
    for _ in range(4):
        timer.time_operation("git.push", lambda: clock.advance(0.5))
    tracker.record_success("git.push")
    tracker.record_failure("git.push", "timeout")
    collector.record_counter("commits.created", 3, {"branch": "größe"})
    collector.record_gauge("queue", 7)
    text = aggregator.export_metrics("snapshot")
    document = json.loads(text)
    assert document_violations(document) == []
    assert text.endswith("}\n")
    snapshot = PerformanceSnapshot.from_dict(document)
    latency = snapshot.metrics.latency
    assert latency is not None
    assert latency.mean == 500.0
    assert latency.p50 == latency.p95 == latency.p99 == pytest.approx(500.0, rel=0.05)
    assert snapshot.metrics.throughput == 0.5
    assert snapshot.metrics.custom == {
        "commits/created[branch:größe]": 3,
        "operation:git/push/success_rate": 0.5,
        "queue": 7,
    }
    assert snapshot.metadata.tags["latency_metric"] == "git.push"
    assert snapshot.metadata.timestamp == datetime(2026, 1, 1, 0, 0, 8, tzinfo=UTC)
    assert snapshot.metadata.environment in Environment


def test_the_snapshot_format_has_no_resources():
    """Only a resource monitor knows memory and CPU, so they are left out."""
    collector = InMemoryCollector(Store(ManualClock()))
    collector.increment("hits")
    document = json.loads(InMemoryAggregator(collector.store).export_metrics("snapshot"))
    assert document["schema_version"] == 1
    assert document["metrics"] == {"custom": {"hits": 1}}


def test_each_snapshot_has_its_own_run_id():
    """Two exports of the same numbers differ only in their ids."""
    collector = InMemoryCollector(Store(ManualClock()))
    collector.increment("hits")
    aggregator = InMemoryAggregator(collector.store)
    first, second = (json.loads(aggregator.export_metrics("snapshot")) for _ in range(2))
    assert first["metadata"].pop("run_id") != second["metadata"].pop("run_id")
    assert first == second


def test_a_snapshot_of_an_empty_store_is_an_error():
    """Without records no valid document exists, which the error says."""
    with pytest.raises(SnapshotError, match="metrics: must hold at least one of"):
        InMemoryAggregator().export_metrics("snapshot")
