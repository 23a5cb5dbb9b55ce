"""Dashboards are plain data that shows what an aggregator and a monitor answer."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_adapters.resources import PsutilMonitor
from metrics_framework.clock import ManualClock
from metrics_framework.dashboard import create_dashboard, outcomes
from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TYPES = ["overview", "performance", "errors", "resources"]


@pytest.fixture
def aggregator(clock: ManualClock) -> InMemoryAggregator:
    """Return an aggregator over a small application's numbers."""
    store = Store(clock)
    collector, timer, tracker = InMemoryCollector(store), InMemoryTimer(store), InMemoryTracker(store)
    collector.record_counter("requests", 30, {"endpoint": "/"})
    collector.record_histogram("size", 500)
    collector.record_gauge("level", 10**9)
    collector.record_timer("query", 20)
    timer.time_operation("checkout", lambda: clock.advance(10))
    for _ in range(3):
        tracker.record_success("checkout")
    tracker.record_failure("checkout", "timeout")
    tracker.record_failure("login", "auth")
    tracker.record_failure("login", "auth")
    tracker.record_success("search")
    return InMemoryAggregator(store)


def panels(aggregator, dashboard_type, monitor=None):
    """Return a dashboard's panels by their titles."""
    dashboard = create_dashboard(dashboard_type, aggregator, monitor or PsutilMonitor(), NOW)
    return {panel["title"]: panel for panel in dashboard["panels"]}


def series(panel):
    """Return what a panel shows as tuples."""
    return [(each["name"], each["tags"], each["value"]) for each in panel["series"]]


@pytest.mark.parametrize("dashboard_type", TYPES)
@pytest.mark.parametrize("filled", [True, False])
def test_every_dashboard_has_one_shape(aggregator, dashboard_type, filled):
    """A dashboard can be drawn and sent without knowing its type, also where nothing was recorded."""
    dashboard = create_dashboard(
        dashboard_type, aggregator if filled else InMemoryAggregator(), PsutilMonitor(), NOW
    )
    assert dashboard.keys() == {"type", "generated_at", "panels"}
    assert (dashboard["type"], dashboard["generated_at"]) == (dashboard_type, "2026-01-01T00:00:00+00:00")
    assert dashboard["panels"]
    for panel in dashboard["panels"]:
        assert panel.keys() == {"title", "kind", "unit", "series"}
        for each in panel["series"]:
            assert each.keys() == {"name", "tags", "value"}
    assert json.loads(json.dumps(dashboard, allow_nan=False)) == dashboard


def test_the_overview_shows_what_is_slow_what_fails_and_what_is_busy(aggregator):
    """Three panels answer an operator's first three questions."""
    slowest, failing, busiest = panels(aggregator, "overview").values()
    assert series(slowest) == [("checkout", {}, 10_000.0), ("query", {}, 20.0)]
    assert slowest["unit"] == "milliseconds"
    assert series(failing) == [("login", {}, 100.0), ("checkout", {}, 25.0), ("search", {}, 0.0)]
    assert failing["unit"] == "percent"
    assert series(busiest)[:2] == [("requests", {"endpoint": "/"}, 3.0), ("checkout", {}, 0.4)]
    assert busiest["unit"] == "ops/sec"


def test_performance_shows_distributions_too(aggregator):
    """Beside slow and busy operations there are the largest histograms."""
    shown = panels(aggregator, "performance")
    assert series(shown["Largest distributions, p95"]) == [("size", {}, 500)]
    assert len(shown) == 3


def test_errors_are_shown_by_operation_and_by_kind(aggregator):
    """Each kind of failure is a row of its operation, the most frequent first."""
    _, by_kind = panels(aggregator, "errors").values()
    assert series(by_kind) == [
        ("login", {"error_type": "auth"}, 2.0),
        ("checkout", {"error_type": "timeout"}, 1.0),
    ]


def test_resources_show_memory_and_cpu(aggregator):
    """What the monitor reads now is shown, memory in bytes and CPU in percent."""
    monitor = SimpleNamespace(
        get_memory_usage=lambda: {
            "process_rss": 1.0,
            "process_peak_rss": 2.0,
            "used": 3.0,
            "total": 4.0,
            "x": 5.0,
        },
        get_cpu_usage=lambda: {"percent": 50.0, "count": 2.0},
    )
    memory, cpu = panels(aggregator, "resources", monitor).values()
    assert series(memory) == [
        ("process_rss", {}, 1.0),
        ("process_peak_rss", {}, 2.0),
        ("used", {}, 3.0),
        ("total", {}, 4.0),
    ]
    assert series(cpu) == [("percent", {}, 50.0)]
    assert (memory["unit"], cpu["unit"]) == ("bytes", "percent")


def test_a_panel_shows_ten_rows_at_most(clock):
    """However many operations there are, a panel stays readable and shows the worst."""
    store = Store(clock)
    tracker, collector = InMemoryTracker(store), InMemoryCollector(store)
    for number in range(25):
        for _ in range(number):
            tracker.record_success(f"operation {number}")
        tracker.record_failure(f"operation {number}", f"error {number}")
        collector.record_timer(f"timer {number}", number)
    aggregator = InMemoryAggregator(store)
    for dashboard_type in ("overview", "errors"):
        for panel in panels(aggregator, dashboard_type).values():
            assert len(panel["series"]) == 10
            values = [each["value"] for each in panel["series"]]
            assert values == sorted(values, reverse=True)
    assert panels(aggregator, "overview")["Failures by operation"]["series"][0]["name"] == "operation 0"


@pytest.mark.parametrize("unknown", ["overviews", "", None, 3])
def test_an_unknown_dashboard_is_an_error(aggregator, unknown):
    """The error quotes what was asked for and names dashboards that there are."""
    with pytest.raises(InvalidInputError) as caught:
        create_dashboard(unknown, aggregator, PsutilMonitor(), NOW)
    assert repr(unknown) in str(caught.value)
    assert "overview" in str(caught.value)


def test_outcomes_are_operations_only(aggregator):
    """What is known of how operations ended is their rates, not those of counters."""
    assert {value.name for value in outcomes(aggregator)} == {"checkout", "login", "search"}
