"""Dashboards are plain data with the time series of an aggregator and the readings of a monitor."""

from __future__ import annotations

import math
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from types import SimpleNamespace

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_adapters.null import NullAggregator
from metrics_adapters.resources import PsutilMonitor
from metrics_framework import MetricsSystem
from metrics_framework.batch import BatchMetrics
from metrics_framework.clock import ManualClock, utc
from metrics_framework.dashboard import (
    History,
    HistoryAggregator,
    Interval,
    create_dashboard,
    dashboard_schema,
    outcomes,
)
from metrics_framework.errors import InvalidInputError
from metrics_framework.health import record_resources
from metrics_framework.recording import Store
from metrics_framework.values import MetricType, MetricUnit, MetricValue
from tests.metrics_framework.dashboard.documents import Resources as Monitor
from tests.metrics_framework.dashboard.documents import checked

MEMORY, DISK, NETWORK = "system.memory.utilization", "system.filesystem.utilization", "system.network.io"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TYPES = ["overview", "performance", "errors", "resources", "batch"]
SCHEMA = dashboard_schema()


class Contract:
    """A third-party aggregator that only has the methods of the contract."""

    def __init__(self, values=(), summaries=None):
        self.values, self.summaries, self.listings = list(values), summaries or {}, 0

    def get_metrics_by_tag(self, tag_filter):
        """Return the values of the test."""
        self.listings += 1
        return self.values

    def get_metric_summary(self, metric_name, time_window=None):
        """Return the summary of the test."""
        return self.summaries[metric_name]


@pytest.fixture
def aggregator(clock: ManualClock) -> InMemoryAggregator:
    """Return an aggregator with ten minutes of a small application."""
    store = Store(clock)
    collector, timer, tracker = InMemoryCollector(store), InMemoryTimer(store), InMemoryTracker(store)
    collector.describe("size", unit=MetricUnit.BYTES)
    for minute in range(10):
        collector.record_counter("requests", 30, {"endpoint": "/"})
        collector.record_counter("requests", 30, {"endpoint": "/status"})
        collector.record_histogram("size", 500 + minute)
        collector.record_timer("query", 20 + minute)
        timer.time_operation("checkout", lambda: clock.advance(10))
        for _ in range(3):
            tracker.record_success("checkout")
        tracker.record_failure("checkout", "timeout")
        record_resources(Monitor(), collector)
        clock.advance(50)
    tracker.record_failure("login", "auth")
    tracker.record_failure("login", "auth")
    tracker.record_success("search")
    return InMemoryAggregator(store)


def panels(aggregator, dashboard_type, monitor=None, **options):
    """Return the panels of a dashboard by id."""
    now = utc(aggregator.store.clock) if isinstance(aggregator, InMemoryAggregator) else NOW
    dashboard = checked(create_dashboard(dashboard_type, aggregator, monitor or Monitor(), now, **options))
    return {panel["id"]: panel for panel in dashboard["panels"]}


def values(panel):
    """Return the series of a panel as tuples."""
    return [(each["name"], each["tags"], each["value"]) for each in panel["series"]]


def test_the_schema_is_valid():
    """It is a valid schema of draft 2020-12, and each call returns a new copy."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"].endswith("2020-12/schema")
    dashboard_schema().clear()
    assert dashboard_schema() == SCHEMA
    assert set(SCHEMA["$defs"]["unit"]["enum"]) == {unit.value for unit in MetricUnit}
    assert SCHEMA["properties"]["type"]["enum"] == TYPES


@pytest.mark.parametrize("dashboard_type", TYPES)
@pytest.mark.parametrize("what", ["busy", "empty", "null"])
def test_all_dashboards_have_the_same_structure(aggregator, dashboard_type, what):
    """A dashboard can be drawn and sent without knowing its type, even if it is empty."""
    asked = {"busy": aggregator, "empty": InMemoryAggregator(), "null": NullAggregator()}[what]
    dashboard = checked(create_dashboard(dashboard_type, asked, PsutilMonitor(), NOW))
    assert (dashboard["type"], dashboard["generated_at"]) == (dashboard_type, "2026-01-01T00:00:00+00:00")
    assert (dashboard["schema_version"], dashboard["window_seconds"]) == (1, 3600.0)


def test_the_overview_has_numbers_lines_and_losses(aggregator):
    """The numbers for a glance, then rate, errors and duration, and losses."""
    shown = panels(aggregator, "overview")
    assert [(panel["kind"], one) for one, panel in shown.items()] == [
        ("stat", "errors-overall"),
        ("stat", "cpu"),
        ("stat", "memory"),
        ("stat", "records"),
        ("stat", "series"),
        ("line", "throughput"),
        ("line", "error-rate"),
        ("line", "duration-p95"),
        ("table", "losses"),
    ]
    assert values(shown["errors-overall"]) == [("all operations", {}, pytest.approx(100 * 12 / 43))]
    assert values(shown["duration-p95"]) == [("checkout", {}, 10_000.0), ("query", {}, 29.0)]
    assert values(shown["error-rate"]) == [("login", {}, 100.0), ("checkout", {}, 25.0), ("search", {}, 0.0)]
    assert values(shown["throughput"])[:2] == [("requests", {}, 1.0), ("checkout", {}, pytest.approx(4 / 60))]
    assert values(shown["series"]) == [("series", {}, len(aggregator.get_metrics_by_tag({})))]
    (records,) = values(shown["records"])
    assert records[2] == pytest.approx(aggregator.store.recorded / 600)
    assert values(shown["losses"]) == [
        ("rejected", {}, 0),
        ("overflowed", {}, 0),
        ("abandoned timers", {}, 0),
    ]
    units = [panel["unit"] for panel in shown.values()]
    assert units[3:] == ["ops/sec", "count", "ops/sec", "percent", "milliseconds", "count"]


def test_lines_have_the_points_of_the_window(aggregator):
    """Each interval is a point at its start, with only its own records."""
    checkout = panels(aggregator, "overview", window=timedelta(minutes=10), points=20)["error-rate"][
        "series"
    ][1]
    assert checkout["name"] == "checkout"
    assert {value for _, value in checkout["points"]} == {25.0}
    assert len(checkout["points"]) == 10
    requests = panels(aggregator, "performance", window=timedelta(minutes=10))["throughput"]["series"][0]
    moments = [moment - NOW.timestamp() for moment, _ in requests["points"]]
    widths = [end - start for start, end in pairwise([*moments, 600.0])]
    assert set(widths[:-1]) == {16.0, 32.0}
    counts = [value * width for (_, value), width in zip(requests["points"], widths, strict=True)]
    assert counts == pytest.approx([60 * round(count / 60) for count in counts])
    assert sum(counts) == pytest.approx(600)
    assert 0.0 in {value for _, value in requests["points"]}


def test_a_short_interval_has_no_rate(clock):
    """One event in the first millisecond of an interval is not a thousand events per second."""
    store = Store(clock)
    for _ in range(64 * 5):
        store.find("counter", "requests", None).add(1)
        clock.advance(1)
    store.find("counter", "requests", None).add(1)
    clock.advance(0.001)
    requests = panels(InMemoryAggregator(store), "overview")["throughput"]["series"][0]
    assert {value for _, value in requests["points"]} == {1.0}


def test_thresholds_come_from_the_caller(aggregator):
    """A panel has its threshold in its own unit."""
    shown = panels(aggregator, "overview", error_rate=0.25, memory_percent=80)
    critical = {"severity": "critical", "direction": "above"}
    assert shown["error-rate"]["thresholds"] == [{"value": 25.0, **critical}]
    assert shown["memory"]["thresholds"] == [{"value": 80, **critical}]
    assert panels(aggregator, "errors")["errors-overall"]["thresholds"] == [{"value": 5.0, **critical}]


def test_performance_shows_the_total_time(aggregator):
    """It also has throughput, durations, and the largest values by unit."""
    shown = panels(aggregator, "performance")
    assert values(shown["time-spent"]) == [("checkout", {}, 100_000.0), ("query", {}, 245)]
    assert values(shown["values-in-bytes-p95"]) == [("size", {}, 509.0)]
    assert shown["values-in-bytes-p95"]["unit"] == "bytes"
    assert list(shown) == [
        "throughput",
        "percentiles",
        "duration-p95",
        "latency-heat-map",
        "top-operations",
        "time-spent",
        "values-in-bytes-p95",
    ]


def test_errors_are_shown_by_operation_and_by_kind(aggregator):
    """Each error type is a row of its operation, the most frequent first."""
    shown = panels(aggregator, "errors")
    assert values(shown["failures-by-kind"]) == [
        ("checkout", {"error_type": "timeout"}, 10),
        ("login", {"error_type": "auth"}, 2),
    ]
    assert values(shown["failures"])[0] == ("checkout", {}, pytest.approx(10 / 600))


def test_errors_before_the_window_are_not_shown_by_kind(aggregator, clock):
    """The table counts the window, not the whole run."""
    clock.advance(7_200)
    assert values(panels(aggregator, "errors")["failures-by-kind"]) == []
    assert panels(aggregator, "errors")["error-rate"]["series"] == []


def test_resources_show_recorded_gauges(aggregator):
    """Memory, CPU, load and disk have lines, in percent of the machine."""
    shown = panels(aggregator, "resources", SimpleNamespace(), memory_percent=80, cpu_percent=90)
    assert values(shown["memory"]) == [(MEMORY, {}, 97.0)]
    assert len(shown["memory"]["series"][0]["points"]) >= 10
    assert values(shown["cpu"]) == [
        ("system.cpu.utilization", {}, 50.0),
        ("process.cpu.utilization", {}, 90.0),
    ]
    assert values(shown["process-memory"]) == [
        ("process.memory.usage", {}, 2.0),
        ("process.memory.peak", {}, 3.0),
    ]
    assert values(shown["disk"]) == [(DISK, {}, 80.0)]
    assert len(shown["disk"]["series"][0]["points"]) >= 10
    limits = {one: [(each["value"], each["severity"]) for each in shown[one]["thresholds"]] for one in shown}
    assert limits == {
        "cpu": [(90, "critical")],
        "load": [(2.0, "warning")],
        "cpu-limit": [],
        "memory-limit": [],
        "memory": [(80, "critical")],
        "process-memory": [],
        "disk": [(90.0, "warning")],
        "network": [],
        "network-totals": [],
        "network-errors": [],
    }
    assert shown["network-totals"]["series"] == shown["network-errors"]["series"] == []


def test_resources_that_were_not_recorded_are_read_now():
    """Without background monitoring, the point is the current reading of the monitor."""
    shown = panels(InMemoryAggregator(Store(ManualClock())), "resources")
    assert shown["memory"]["series"] == [
        {"name": MEMORY, "tags": {}, "points": [[NOW.timestamp(), 97.0]], "value": 97.0}
    ]
    assert values(shown["disk"]) == [(DISK, {"system.filesystem.mountpoint": "/"}, 80.0)]
    assert shown["network"]["series"] == []  # a rate needs two readings
    sent, received = ({"network.io.direction": way} for way in ("transmit", "receive"))
    assert values(shown["network-totals"]) == [(NETWORK, sent, 5)]
    assert values(shown["network-errors"]) == [
        ("system.network.errors", received, 1),
        ("system.network.packet.dropped", sent, 7),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("interval", [10, 60])
def test_the_networks_rate_comes_from_its_totals(clock, interval):
    """The line is the traffic per second in both directions, however often totals are read."""
    store, monitor = Store(clock), Monitor()
    sent = 0
    monitor.get_network_stats = lambda: {"bytes_sent": sent, "bytes_received": 10**9 + 3 * sent}
    for second in range(3_000):
        if second % interval == 0:
            record_resources(monitor, InMemoryCollector(store))
        clock.advance(1)
        sent += 100
    (line,) = panels(InMemoryAggregator(store), "resources", monitor)["network"]["series"]
    assert (line["name"], line["value"]) == (NETWORK, pytest.approx(400, rel=0.1))
    assert len(line["points"]) > 30
    assert [value for _, value in line["points"][2:-2]] == pytest.approx(
        [400] * (len(line["points"]) - 4), rel=0.3
    )


def test_a_total_that_is_reset_is_a_gap(clock):
    """If the counters of the interfaces decrease, there is no rate, and never a negative one."""
    store, monitor = Store(clock), Monitor()
    total = 0
    monitor.get_network_stats = lambda: {"bytes_sent": total}
    for second in range(600):
        total = 0 if second == 300 else total + 50
        record_resources(monitor, InMemoryCollector(store))
        clock.advance(1)
    (line,) = panels(InMemoryAggregator(store), "resources", monitor)["network"]["series"]
    assert all(0 <= value <= 51 for _, value in line["points"])


def test_the_disk_line_is_the_fullest_disk(clock):
    """The line is the fullest of several disks, in any order of reading."""

    class Disks(Monitor):
        disks = ("/", "/data", "/tmp")

        def get_disk_usage(self, path="/"):
            return {"percent": {"/": 40.0, "/data": 95.0, "/tmp": 10.0}[path]}

        def get_process_usage(self):
            return {}

        def start_resource_monitoring(self, interval=60.0):
            pass

        def stop_resource_monitoring(self):
            pass

    store = Store(clock)
    unread = panels(InMemoryAggregator(store), "resources", Disks())["disk"]
    assert {one["tags"]["system.filesystem.mountpoint"]: one["value"] for one in unread["series"]} == {
        "/": 40.0,
        "/data": 95.0,
        "/tmp": 10.0,
    }
    record_resources(Disks(), InMemoryCollector(store))
    clock.advance(10)
    assert values(panels(InMemoryAggregator(store), "resources", Disks())["disk"]) == [(DISK, {}, 95.0)]


@pytest.mark.parametrize("recorded", [False, True], ids=["read now", "recorded"])
def test_the_real_monitor_fills_the_resources(clock, recorded):
    """Every panel has values of this machine and process, in its own unit."""
    store, monitor = Store(clock), PsutilMonitor()
    for _ in range(5 if recorded else 0):
        record_resources(monitor, InMemoryCollector(store))
        clock.advance(30)
    shown = panels(InMemoryAggregator(store), "resources", monitor)
    filled = {one for one, panel in shown.items() if panel["series"]}
    assert filled | {"network"} == set(shown)
    assert ("network" in filled) == recorded
    for one in ("cpu", "memory", "disk"):
        assert all(0 <= series["value"] <= 100 for series in shown[one]["series"])
    assert shown["memory"]["series"][0]["value"] > 1  # in percent, not a share
    process, peak = shown["process-memory"]["series"]
    assert 1e6 < process["value"] <= peak["value"]
    assert shown["load"]["thresholds"][0]["value"] >= 1


@pytest.mark.parametrize("recorded", [False, True], ids=["read now", "recorded"])
def test_missing_readings_leave_their_panels_empty(clock, caplog, recorded):
    """Readings of another monitor may be missing or not numbers. Other panels are not affected."""

    class Poor(Monitor):
        def get_memory_usage(self):
            return {"percent": 30}

        def get_cpu_usage(self):
            return {"percent": "a lot", "process_percent": 10.0}

        def get_disk_usage(self, path="/"):
            return {}

        def get_network_stats(self):
            return {}

    store = Store(clock)
    if recorded:
        record_resources(Poor(), InMemoryCollector(store))
        caplog.clear()
    shown = panels(InMemoryAggregator(store), "resources", Poor())
    assert {one: values(panel) for one, panel in shown.items() if panel["series"]} == {
        "memory": [(MEMORY, {}, 30.0)]
    }
    assert caplog.records == []


def test_a_panel_stays_readable(clock):
    """A chart has at most five lines and a table ten rows: the largest."""
    store = Store(clock)
    tracker, collector = InMemoryTracker(store), InMemoryCollector(store)
    for number in range(25):
        for _ in range(number):
            tracker.record_success(f"operation {number}")
        tracker.record_failure(f"operation {number}", f"error {number}")
        collector.record_timer(f"timer {number}", number)
    clock.advance(10)
    aggregator = InMemoryAggregator(store)
    for dashboard_type in ("overview", "performance", "errors"):
        for name, panel in panels(aggregator, dashboard_type).items():
            assert len(panel["series"]) <= (5 if panel["kind"] == "line" else 10)
            if name in ("percentiles", "losses", "recent-failures"):
                continue
            shown = [each["value"] for each in panel["series"]]
            assert shown == sorted(shown, reverse=True)
    assert panels(aggregator, "overview")["error-rate"]["series"][0]["name"] == "operation 0"
    assert len(panels(aggregator, "performance")["time-spent"]["series"]) == 10


def test_an_operation_that_is_timed_and_tracked_is_one_line(aggregator):
    """Its rate is that of its outcomes. An operation that is only timed has the rate of its durations."""
    names = [series["name"] for series in panels(aggregator, "overview")["throughput"]["series"]]
    assert sorted(names) == ["checkout", "login", "query", "requests", "search"]


def test_a_batch_is_one_line(clock):
    """Its timer has the name of its outcomes, and the counters of its items would hide other lines."""
    metrics = MetricsSystem(clock=clock)
    with BatchMetrics("nightly", system=metrics) as batch:
        for name in "ab":
            batch.record_file(name, duration=0.5, samples=100_000)
    metrics.collector.increment("orders")
    clock.advance(60)
    shown = panels(metrics.aggregator, "overview")["throughput"]["series"]
    assert sorted(series["name"] for series in shown) == ["batch.file", "orders"]


@pytest.mark.parametrize("dashboard_type", TYPES)
def test_everything_is_listed_once(aggregator, dashboard_type, monkeypatch):
    """All series are read once per dashboard, because that is expensive."""
    read, asked = aggregator.read, []
    monkeypatch.setattr(aggregator, "read", lambda: asked.append(1) or read())
    panels(aggregator, dashboard_type)
    assert asked == [1]


# -- third-party parts ----------------------------------------------------------------------------------


def value(name, number, metric_type, unit=MetricUnit.COUNT, tags=None, **metadata):
    """Return the value of a metric."""
    return MetricValue(name, number, metric_type, unit, NOW, tags or {}, metadata)


def test_an_aggregator_without_history_has_one_point():
    """The contract alone is enough for a dashboard: a point with the summary of the window."""
    foreign = Contract(
        [
            value("requests", 90, MetricType.COUNTER, rate=9.0),
            value(
                "op", 2.0, MetricType.RATE, tags={"a": "1"}, success_rate=0.5, count=30, failures={"x": 15}
            ),
            value("op", 1.0, MetricType.RATE, tags={"a": "2"}, success_rate=1.0, count=10, failures={}),
        ],
        {"requests": {"count": 5, "rate": 4.0}, MEMORY: {"last": 0.12}},
    )
    assert not isinstance(foreign, HistoryAggregator)
    shown = panels(foreign, "overview")
    now = NOW.timestamp()
    assert [each["points"] for each in shown["throughput"]["series"]] == [[[now, 4.0]], [[now, 3.0]]]
    assert shown["error-rate"]["series"][0]["points"] == [[now, 37.5]]
    assert values(shown["memory"]) == [(MEMORY, {}, 12.0)]
    assert values(panels(foreign, "errors")["failures-by-kind"]) == [("op", {"error_type": "x"}, 15.0)]


def test_the_in_memory_aggregator_has_a_history(aggregator):
    """It implements `HistoryAggregator`."""
    assert isinstance(aggregator, HistoryAggregator)


def test_a_line_and_its_value_have_the_same_records(aggregator, clock):
    """Each metric is read once, so a record in the middle of a dashboard is in both or in neither."""
    asked = Counter()

    class Recording(InMemoryAggregator):
        """Records into every operation at each reading."""

        def get_outcome_history(self, operation, time_window, points, *, tags=None):
            """Record, and read."""
            asked[operation] += 1
            InMemoryTracker(self.store).record_failure(operation, "Late")
            return super().get_outcome_history(operation, time_window, points, tags=tags)

    shown = panels(Recording(aggregator.store), "errors")
    assert asked
    assert set(asked.values()) == {1}
    for one in shown["error-rate"]["series"]:
        clock.advance(1)
        history = aggregator.get_outcome_history(one["name"], timedelta(hours=1), 60)
        assert one["value"] == pytest.approx(100 * (1 - history.whole.summary["success_rate"]))


def test_an_aggregator_without_windows_is_not_an_error(caplog):
    """If it refuses a window, as it may, current numbers are shown and nothing is logged."""
    foreign = Contract([value("requests", 90, MetricType.COUNTER, rate=9.0)], {})

    def refuse(metric_name, time_window=None):
        raise InvalidInputError(f"time_window={time_window!r}: no windows are kept")

    foreign.get_metric_summary = refuse
    (shown,) = panels(foreign, "overview")["throughput"]["series"]
    assert shown["value"] == 9.0
    assert caplog.records == []


class Broken:
    """Raises on every call."""

    def __getattr__(self, name):
        def fail(*_):
            raise ZeroDivisionError(name)

        return fail


@pytest.mark.parametrize("dashboard_type", TYPES[:4])
def test_a_broken_part_does_not_affect_the_other(aggregator, dashboard_type, caplog):
    """The error is logged, and the panels of the other part are complete."""
    without_monitor = panels(aggregator, dashboard_type, Broken())
    assert any(panel["series"] for panel in without_monitor.values())
    caplog.clear()
    without_aggregator = panels(Broken(), dashboard_type)
    assert caplog.text.count("ZeroDivisionError") == 1
    if dashboard_type in ("overview", "resources"):
        assert without_aggregator["cpu"]["series"]


HOSTILE_NUMBERS = (
    st.floats()
    | st.integers(-(10**400), 10**400)
    | st.sampled_from([10**5000, Decimal("NaN"), Decimal(3), True, None, "5", "x", b"1", math.inf, [1]])
)
HOSTILE_TEXT = st.text(st.characters(), max_size=5) | st.sampled_from(["\ud800", "</script>", "\x00", ""])
HOSTILE_VALUES = st.builds(
    MetricValue,
    HOSTILE_TEXT,
    HOSTILE_NUMBERS,
    st.sampled_from(MetricType),
    st.sampled_from(MetricUnit),
    st.just(NOW),
    st.dictionaries(HOSTILE_TEXT, HOSTILE_TEXT, max_size=2) | st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "success_rate": HOSTILE_NUMBERS,
            "count": HOSTILE_NUMBERS,
            "rate": HOSTILE_NUMBERS,
            "sum": HOSTILE_NUMBERS,
            "operation": st.booleans(),
            "failures": st.dictionaries(HOSTILE_TEXT, HOSTILE_NUMBERS, max_size=3) | HOSTILE_NUMBERS,
        },
    )
    | st.none(),
)


@given(
    st.lists(HOSTILE_VALUES, max_size=8),
    st.dictionaries(st.sampled_from(["rate", "p95", "sum", "last", "avg", "count"]), HOSTILE_NUMBERS),
    st.sampled_from(TYPES),
)
def test_a_dashboard_of_any_aggregator_is_valid(listed, summary, dashboard_type):
    """Any numbers, names and tags give a dashboard that is valid JSON and follows the schema."""
    foreign = Contract(listed, {each.name: summary for each in listed})
    now = NOW
    checked(create_dashboard(dashboard_type, foreign, Monitor(), now))

    def history(name, window, points, *, tags=None):
        interval = Interval(now - window / points, now, summary)
        return History(interval, [interval])

    for method in ("get_metric_history", "get_timing_history", "get_outcome_history"):
        setattr(foreign, method, history)
    assert isinstance(foreign, HistoryAggregator)
    checked(create_dashboard(dashboard_type, foreign, Monitor(), now))


def test_recorded_values_may_be_huge_or_hostile(clock):
    """Numbers near the largest float and names from any alphabet are drawn as far as possible."""
    store = Store(clock)
    collector, tracker = InMemoryCollector(store), InMemoryTracker(store)
    for _ in range(3):
        collector.record_counter("<script>", sys.float_info.max, {"\u202e": "\U0001f600"})
        collector.record_timer("t\n", sys.float_info.max)
        collector.record_gauge(MEMORY, -sys.float_info.max)
        tracker.record_failure("op", "'; DROP TABLE")
        clock.advance(100)
    aggregator = InMemoryAggregator(store)
    assert panels(aggregator, "overview")["throughput"]["series"][0]["name"] == "<script>"
    for dashboard_type in TYPES:
        panels(aggregator, dashboard_type)


# -- arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unknown", ["overviews", "", None, 3, ["overview"]])
def test_an_unknown_dashboard_is_an_error(aggregator, unknown):
    """The error quotes the type and names similar ones."""
    with pytest.raises(InvalidInputError) as caught:
        create_dashboard(unknown, aggregator, PsutilMonitor(), NOW)
    assert repr(unknown) in str(caught.value)
    assert "overview" in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"window": timedelta(0)},
        {"window": 60},
        {"points": 1},
        {"points": 2.0},
        {"error_rate": 5},
        {"memory_percent": math.nan},
        {"error_rate": "5 %"},
        {"cpu_percent": 101},
    ],
)
def test_a_window_points_and_thresholds_are_checked(aggregator, options):
    """The error quotes the value."""
    with pytest.raises(InvalidInputError, match=f"{next(iter(options))}="):
        create_dashboard("overview", aggregator, Monitor(), NOW, **options)


def test_outcomes_are_operations_only(aggregator):
    """Outcomes are the rates of operations, not those of counters."""
    assert {value.name for value in outcomes(aggregator)} == {"checkout", "login", "search"}
