"""Heat maps, top operations, recent failures, losses and batch jobs."""

from __future__ import annotations

import asyncio
import math
import sys
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_adapters.in_memory import InMemoryCollector
from metrics_adapters.null import NullCollector, NullTimer, NullTracker
from metrics_framework import MetricsSystem
from metrics_framework.batch import BatchMetrics
from metrics_framework.clock import ManualClock, utc
from metrics_framework.dashboard.heat_map import MAX_HEAT_ROWS, heat_map_cells
from metrics_framework.recording import Budgets, Distribution, Store
from metrics_framework.recording.aggregates import INT64_MAX
from metrics_framework.values import MetricType, MetricUnit, MetricValue
from tests.metrics_framework.dashboard.documents import Resources, panels, shown

HOUR = timedelta(hours=1)


@pytest.fixture
def system(clock: ManualClock) -> MetricsSystem:
    """Return a system with a manual clock."""
    return MetricsSystem(clock=clock, resource_monitor=Resources())


def measure(
    system: Any, operation: str, tags: dict[str, str] | None, milliseconds: float, error: str = ""
) -> None:
    """Record an operation of a duration, and its outcome."""
    system.aggregator.store.record_operation(operation, tags, round(milliseconds * 1e6), error or None)


# -- heat maps -------------------------------------------------------------------------------------------

DURATIONS = st.lists(
    st.floats(0, 1e6)
    | st.sampled_from([0.0, 1e-300, 5e-324, 1.0, 2.0, 1024.0, sys.float_info.max, INT64_MAX, 1 + 1e-15]),
    max_size=20,
)


@given(st.lists(st.tuples(DURATIONS, st.sampled_from([1, 20])), max_size=6))
def test_the_cells_hold_each_value_once(columns):
    """The counts of a column add up, its bounds hold its values, and all bounds are on one short grid."""
    intervals = [
        (float(place), place + 1.0, Distribution.of(values * times))
        for place, (values, times) in enumerate(columns)
    ]
    cells = heat_map_cells(intervals)
    rows = {(low, high) for _, _, low, high, _ in cells}
    assert len(rows) <= MAX_HEAT_ROWS
    for start, end, distribution in intervals:
        values = sorted(distribution.state.exact or ())
        mine = sorted((low, high, count) for begin, _, low, high, count in cells if begin == start)
        assert sum(count for _, _, count in mine) == distribution.count
        assert all(end == one[1] for one in cells if one[0] == start)
        for low, high, count in mine if values else ():
            # A logarithm is rounded: a value that is a bound itself may be on its other side.
            inside = [value for value in values if low * (1 + 1e-12) < value <= high * (1 - 1e-12)]
            around = [value for value in values if low * (1 - 1e-12) <= value <= high * (1 + 1e-12)]
            assert len(inside) <= count <= len(around) or low == 0
    grid = sorted({math.log2(high / low) for low, high in rows if low > 1e-300 and high < 1e300})
    assert not grid or grid[-1] == pytest.approx(grid[0])


EVENTS = st.lists(
    st.tuples(st.sampled_from([0, 0.5, 7, 64, 700]), st.floats(0, 1e5), st.sampled_from([1, 3, 200])),
    max_size=20,
)


@pytest.mark.slow
@given(EVENTS, st.sampled_from([0, 10, 3_000]), st.sampled_from([60, 3_600]))
@settings(max_examples=40)
def test_a_heat_map_has_each_duration_of_its_time(events, rest, seconds):
    """Its counts add up to the durations in the time of its cells, and its value is their number."""
    clock = ManualClock()
    system = MetricsSystem(clock=clock)
    start, taken = clock.time_ns() / 1e9, []
    for pause, duration, times in events:
        clock.advance(pause)
        for _ in range(times):
            measure(system, "checkout", {"route": str(times)}, duration)
            taken.append(clock.time_ns() / 1e9)
    clock.advance(rest)
    found = panels(system, "performance", window=timedelta(seconds=seconds))["latency-heat-map"]["series"]
    edge = clock.time_ns() / 1e9 - seconds
    if not found:
        assert all(moment < edge for moment in taken)
        return
    (one,) = found
    cells = one["cells"]
    assert one["value"] == sum(cell[4] for cell in cells)
    begin = min(cell[0] for cell in cells)
    assert start - 1 <= begin
    assert one["value"] == sum(begin <= moment for moment in taken)
    assert all(begin <= moment for moment in taken if moment >= edge)
    assert len({cell[0] for cell in cells}) <= 62


def test_a_heat_map_shows_the_operations_with_the_most_time(system, clock):
    """There are three at most, the one with the most time first; timers that are metrics count, too."""
    for number in range(5):
        for _ in range(3):
            measure(system, f"op {number}", None, 10 * number + 1)
        clock.advance(1)
    system.collector.record_timer("query", 1, MetricUnit.SECONDS)
    found = panels(system, "performance")["latency-heat-map"]["series"]
    assert [(one["name"], one["value"]) for one in found] == [("query", 1), ("op 4", 3), ("op 3", 3)]


# -- percentiles and top operations ----------------------------------------------------------------------


def test_percentiles_are_those_of_the_operation_with_the_most_time(system, clock):
    """The panel keeps its id, and its title names the operation."""
    for value in range(1, 101):
        measure(system, "slow", None, value)
        measure(system, "fast", None, value / 1000)
    clock.advance(10)
    panel = panels(system, "performance")["percentiles"]
    assert panel["title"] == "Percentiles, slow"
    assert shown(panel) == [("p50", {}, 50), ("p95", {}, 95), ("p99", {}, 99)]
    assert all(len(one["points"]) == 1 for one in panel["series"])


def test_the_top_operations_are_rows_by_tags(system, clock):
    """A row has rate, percentiles and failures of its own tags, in the window."""
    for _ in range(7_200):
        clock.advance(1)
        measure(system, "http", {"route": "/old"}, 5)
    for second in range(600):
        clock.advance(1)
        measure(system, "http", {"route": "/a"}, 10, "Timeout" if second % 4 == 0 else "")
        measure(system, "http", {"route": "/b"}, 20)
        measure(system, "http", {"route": "/b"}, 30)
        system.tracker.record_failure("login", "auth")
    system.collector.record_timer("query", 5)
    panel = panels(system, "performance", window=timedelta(minutes=5))["top-operations"]
    assert [column["name"] for column in panel["columns"]] == ["rate", "p50", "p95", "p99", "failures"]
    rows = {(one["name"], *one["tags"].values()): one["values"] for one in panel["series"]}
    assert next(iter(rows)) == ("http", "/b")
    assert rows["http", "/a"] == [pytest.approx(1, rel=0.01), 10, 10, 10, pytest.approx(25, rel=0.05)]
    assert rows["http", "/b"] == [pytest.approx(2, rel=0.01), 20, 30, 30, 0]
    assert rows["login",] == [pytest.approx(1, rel=0.01), None, None, None, 100]
    assert rows["query",][1:] == [5, 5, 5, None]
    assert rows["http", "/old"] == [0, None, None, None, None]


def test_only_the_windows_of_the_rows_are_read(system, clock, monkeypatch):
    """Of many series, those with the most records are rows, and no window of another one is read."""
    for number in range(500):
        for _ in range(1 + number // 10):
            measure(system, "http", {"route": f"/{number}"}, 10)
    clock.advance(60)
    asked = []
    read = system.aggregator.get_timing_history

    def reading(operation, window, points, *, tags=None):
        asked.append((points, tags))
        return read(operation, window, points, tags=tags)

    monkeypatch.setattr(system.aggregator, "get_timing_history", reading)
    panel = panels(system, "performance")["top-operations"]
    assert {one["tags"]["route"] for one in panel["series"]} == {f"/{number}" for number in range(490, 500)}
    assert sorted(tags["route"] for points, tags in asked if points == 1 and tags) == [
        f"/{number}" for number in range(490, 500)
    ]


def test_an_aggregator_without_windows_by_tag_has_rows_since_the_start():
    """Its listing is enough for the table."""

    class Listing:
        """A third-party aggregator with the methods of the contract."""

        def get_metrics_by_tag(self, tag_filter):
            """Return two series."""
            now = utc(ManualClock())
            summary = {
                "count": 40,
                "rate": 4.0,
                "p50": 1.0,
                "p95": 2.0,
                "p99": 3.0,
                "sum": 50.0,
                "operation": True,
            }
            ended = {"count": 40, "success_rate": 0.75, "failures": {"x": 10}, "operation": True}
            milliseconds, per_second = MetricUnit.MILLISECONDS, MetricUnit.OPERATIONS_PER_SECOND
            tags = {"route": "/"}
            return [
                MetricValue("http", 2.0, MetricType.TIMER, milliseconds, now, tags, summary),
                MetricValue("http", 4.0, MetricType.RATE, per_second, now, tags, ended),
            ]

        def get_metric_summary(self, metric_name, time_window=None):
            """Know no metric."""
            raise KeyError(metric_name)

        def get_top_metrics(self, metric_type, limit=10):
            """Return nothing."""
            return []

        def export_metrics(self, format="json"):
            """Return nothing."""
            return ""

    metrics = MetricsSystem(
        collector=NullCollector(), timer=NullTimer(), tracker=NullTracker(), aggregator=Listing()
    )
    found = panels(metrics, "performance")
    (row,) = found["top-operations"]["series"]
    assert (row["tags"], row["values"]) == ({"route": "/"}, [4.0, 1.0, 2.0, 3.0, 25.0])
    assert found["latency-heat-map"]["series"] == []
    by_tag = panels(metrics, "errors", tags={"route": "/"})
    assert shown(by_tag["failures-by-kind"]) == [("http", {"error_type": "x"}, 10.0)]
    assert shown(panels(metrics, "errors", tags={"route": "/x"})["failures-by-kind"]) == []


# -- failures and losses ---------------------------------------------------------------------------------


def test_recent_failures_are_the_last_of_all_operations(system, clock):
    """The newest is first, with its age, and never with its metadata, which may be secret."""
    for number in range(15):
        system.tracker.record_failure(f"op {number % 2}", f"error {number}", {"password": "secret"})
        clock.advance(2)
    panel = panels(system, "errors")["recent-failures"]
    assert [(one["name"], one["tags"]) for one in panel["series"]][:2] == [
        ("op 0", {"error_type": "error 14"}),
        ("op 1", {"error_type": "error 13"}),
    ]
    assert [one["values"] for one in panel["series"]] == [[2.0 * age] for age in range(1, 11)]
    assert "secret" not in str(panel)
    assert "recent-failures" not in panels(system, "errors", tags={"route": "/"})


def test_losses_are_shown_plainly(clock):
    """Rejected and overflowed records, abandoned timers, failed outputs and dropped events are rows."""

    class Output:
        """An output that fails."""

        name = "broken"

        def write(self, snapshot):
            """Fail."""
            raise OSError("disk full")

    store = Store(clock, on_error="log", budgets=Budgets(series_per_name=1))
    with MetricsSystem(collector=InMemoryCollector(store), outputs=[Output()], clock=clock) as metrics:
        assert {value for _, _, value in shown(panels(metrics, "overview")["losses"])} == {0}
        with metrics.subscribe(buffer=1) as subscription:
            for tag in "abc":
                metrics.collector.increment("orders", {"tag": tag})
            metrics.collector.increment("", {})
            metrics._publisher._publish()
            assert subscription.dropped == 2
        metrics._publisher._publish()  # the subscriber has left
        asyncio.run(metrics.export_metrics_async(["broken"]))
        lost = {name: value for name, _, value in shown(panels(metrics, "overview")["losses"])}
    assert lost == {
        "rejected": 1,
        "overflowed": 2,
        "abandoned timers": 0,
        "failed outputs": 1,
        "dropped by streams": 2,
    }


# -- resources -------------------------------------------------------------------------------------------


def test_the_limits_of_the_container_are_shown(system):
    """The monitor reads them, or the gauges of a collection have them."""
    found = panels(system, "resources")
    assert shown(found["memory-limit"]) == [("system.memory.limit", {}, 4.0)]
    assert shown(found["cpu-limit"]) == [("system.cpu.logical.count", {}, 2.0)]


# -- batch jobs ------------------------------------------------------------------------------------------


def test_a_batch_has_its_files(system, clock):
    """Files by outcome, rates, percentiles, samples and error types, also of a renamed operation."""
    for operation, files in (("batch.file", 20), ("nightly", 4)):
        batch = BatchMetrics(operation, system=system, operation=operation, clock=clock)
        with batch:
            for number in range(files):
                clock.advance(1)
                batch.record_file(f"{number}.csv", duration=0.5, samples=100, measurements=2)
            batch.record_error("bad.csv", "ValueError", "too short", duration=0.1)
            batch.record_skip("empty.csv")
    measure(system, "checkout", None, 10)
    found = panels(system, "batch")
    stats = {one: shown(found[f"files-{one}"])[0][2] for one in ("done", "failed", "skipped")}
    assert stats == {"done": 24, "failed": 2, "skipped": 2}
    columns = [column["name"] for column in found["batches"]["columns"]]
    rows = {one["name"]: dict(zip(columns, one["values"], strict=True)) for one in found["batches"]["series"]}
    assert rows.keys() == {"batch.file", "nightly"}
    row = rows["batch.file"]
    assert (row["done"], row["failed"], row["skipped"], row["samples"]) == (20, 1, 1, 2_000)
    assert (row["measurements"], row["p50"]) == (40, 500)
    assert row["rate"] == pytest.approx(21 / 24)
    assert {name for name, _, _ in shown(found["files-per-second"])} == {"batch.file", "nightly"}
    assert {name for name, _, _ in shown(found["samples"])} == {"batch.file.samples", "nightly.samples"}
    assert found["percentiles"]["title"] == "Percentiles, batch.file"
    assert shown(found["failures-by-kind"]) == [
        ("batch.file", {"error_type": "ValueError"}, 1),
        ("nightly", {"error_type": "ValueError"}, 1),
    ]


def test_a_batch_of_skipped_files_is_a_batch(system):
    """It has no timer and no outcomes yet."""
    BatchMetrics("nightly", system=system).record_skip("empty.csv")
    assert shown(panels(system, "batch")["files-skipped"]) == [("skipped", {}, 1)]
    assert [one["name"] for one in panels(system, "batch")["batches"]["series"]] == ["batch.file"]
