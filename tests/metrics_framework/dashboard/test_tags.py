"""The tag filter, and the text of documents."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_adapters.in_memory import InMemoryCollector
from metrics_framework import MetricsSystem
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError
from metrics_framework.processes.group import KEY_VARIABLE
from metrics_framework.recording import Budgets, Store
from tests.metrics_framework.dashboard.documents import Resources, checked, panels, shown
from tests.metrics_framework.processes.programs import programs
from tests.metrics_framework.runtime.children import forks

TYPES = ["overview", "performance", "errors", "resources", "batch"]
OPERATIONAL = ["overview", "performance", "errors"]


def new_system(clock: ManualClock, **store: Any) -> Any:
    """Return a system with a manual clock and constant resources."""
    collector = InMemoryCollector(Store(clock, on_error="log", **store))
    return MetricsSystem(collector=collector, clock=clock, resource_monitor=Resources())


def record(system: Any, name: str, tags: dict[str, str], value: int) -> None:
    """Record an operation, a counter, a gauge and a histogram."""
    system.aggregator.store.record_operation(name, tags, value * 1_000_000, "Odd" if value % 2 else None)
    system.collector.record_counter(f"{name}.bytes", value, tags)
    system.collector.record_histogram(f"{name}.size", value, tags)


def numbers(document: dict[str, Any]) -> dict[str, Any]:
    """Return the panels without what no filter changes, and without notes."""
    found = {panel["id"]: panel for panel in document["panels"]}
    for unfiltered in ("records", "losses", "recent-failures"):
        found.pop(unfiltered, None)
    return {name: {**panel, "description": ""} for name, panel in found.items()}


# -- the filter ------------------------------------------------------------------------------------------

EVENTS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 30, 500]),
        st.sampled_from(["http", "db"]),
        st.sampled_from("ab"),
        st.sampled_from("xy"),
        st.integers(1, 50),
    ),
    min_size=1,
    max_size=25,
)


@pytest.mark.slow
@given(EVENTS, st.sampled_from(OPERATIONAL), st.booleans())
@settings(max_examples=50)
def test_a_filter_shows_what_recording_only_these_series_would(events, dashboard_type, window_by):
    """All panels have the same numbers; without ``window_by``, only lines are coarser."""
    clock = ManualClock()
    everything, some = new_system(clock), new_system(clock)
    for name in ("http", "db"):
        for each in (name, f"{name}.bytes", f"{name}.size"):
            if window_by:
                everything.collector.describe(each, window_by=["route"])
    for pause, name, route, host, value in events:
        clock.advance(pause)
        tags = {"route": route, "host": host}
        record(everything, name, tags, value)
        if route == "a":
            record(some, name, tags, value)
    clock.advance(20)
    # All records, so that coarse and fine windows have the same.
    filtered = checked(
        everything.create_dashboard_data(dashboard_type, tags={"route": "a"}, window=timedelta(hours=1))
    )
    expected = checked(some.create_dashboard_data(dashboard_type, window=timedelta(hours=1)))
    assert filtered["tags"] == {"route": "a"}
    mine, theirs = numbers(filtered), numbers(expected)
    if clock.monotonic_ns() > 3_500e9:
        return  # the older edge of the window splits the records
    if not window_by:
        for panel in (*mine.values(), *theirs.values()):
            for one in panel["series"]:
                one["points"], cells = [], one.pop("cells", [])
                rows: dict[Any, int] = {}
                for _, _, low, high, count in cells:
                    rows[low, high] = rows.get((low, high), 0) + count
                one["rows"] = rows
    for panel in (*mine.values(), *theirs.values()):
        if panel["unit"] == "ops/sec":  # a rate is that of the time that a window covers
            panel["series"] = sorted(one["name"] for one in panel["series"])
    assert mine == theirs


def test_a_refused_line_is_missing_and_the_panel_says_why(clock):
    """Windows of too many series are not put together; tables by single series go on."""
    system = new_system(clock)
    for number in range(150):
        record(system, "http", {"method": "GET", "route": f"/{number}"}, 2)
        record(system, "http", {"method": "PUT", "route": f"/{number}"}, 3)
        clock.advance(1)
    found = panels(system, "performance", tags={"method": "GET"})
    for one in ("throughput", "duration-p95", "percentiles", "latency-heat-map"):
        assert found[one]["series"] == []
        assert " Not shown by these tags: 'http" in found[one]["description"]
        assert "window_by=['method']" in found[one]["description"]
    assert [one["values"][1] for one in found["top-operations"]["series"]] == [2.0] * 10
    assert shown(found["time-spent"]) == [("http", {}, 300)]
    assert shown(panels(system, "overview", tags={"method": "GET"})["errors-overall"]) == [
        ("all operations", {}, 0)
    ]
    assert "Not shown" not in str(panels(system, "performance", tags={"route": "/1"}))


def test_records_past_the_budget_are_not_shown_by_tags(clock):
    """They are counted together with others, which the panel says."""
    system = new_system(clock, budgets=Budgets(series_per_name=3))
    for number in range(6):
        record(system, "http", {"route": f"/{number}"}, 2)
    panel = panels(system, "overview", tags={"route": "/1"})["throughput"]
    assert panel["series"] == []
    assert "past its budget of series" in panel["description"]


def test_constant_tags_match_everything(clock):
    """A filter by a tag of the service changes nothing; its other values have no series."""
    system = new_system(clock, tags={"service": "shop"})
    for _ in range(20):
        record(system, "http", {"route": "/"}, 2)
        clock.advance(10)
    for dashboard_type in OPERATIONAL:
        everything = checked(system.create_dashboard_data(dashboard_type))
        assert everything["known_tags"] == {"route": ["/"], "service": ["shop"]}
        assert numbers(system.create_dashboard_data(dashboard_type, tags={"service": "shop"})) == numbers(
            everything
        )
    assert panels(system, "overview", tags={"service": "bank"})["throughput"]["series"] == []


def test_resources_without_the_tag_are_shown(clock):
    """The machine has no route. The gauges of a worker can be filtered."""
    system = new_system(clock)
    for worker in "01":
        system.collector.record_gauge("process.memory.usage", 10 + int(worker), {"worker": worker})
        system.collector.record_gauge("system.memory.utilization", 0.5)
    record(system, "http", {"route": "/"}, 2)
    clock.advance(20)
    plain = numbers(system.create_dashboard_data("resources"))
    assert numbers(system.create_dashboard_data("resources", tags={"route": "/"})) == plain
    memory = panels(system, "resources", tags={"worker": "1"})
    assert ("process.memory.usage", {}, 11) in shown(memory["process-memory"])
    assert shown(memory["memory"]) == [("system.memory.utilization", {}, 50.0)]
    names = [
        name for name, _, _ in shown(panels(system, "resources", tags={"worker": "9"})["process-memory"])
    ]
    assert names == ["process.memory.peak"]  # which the monitor reads, and no worker has recorded


def test_known_tags_are_those_of_the_most_series(clock):
    """There are at most 30 keys and 50 values of each."""
    system = new_system(clock)
    for number in range(60):
        system.collector.increment(
            "orders", {"customer": str(number), "country": "NL" if number < 40 else "BE"}
        )
    for number in range(40):
        system.collector.increment("rare", {f"tag{number}": "x"})
    known = checked(system.create_dashboard_data("batch"))["known_tags"]
    assert list(known)[:2] == ["country", "customer"]
    assert len(known) == 30
    assert known["country"] == ["NL", "BE"]
    assert len(known["customer"]) == 50
    assert checked(system.create_dashboard_data("batch", tags={"country": "BE"}))["known_tags"] == known


# -- arguments -------------------------------------------------------------------------------------------


def test_the_window_is_at_most_the_retention(clock):
    """The document says what it is."""
    system = new_system(clock, retention=timedelta(minutes=5))
    assert system.create_dashboard_data(window=timedelta(minutes=1))["window_seconds"] == 60
    assert system.create_dashboard_data(window=timedelta(hours=1))["window_seconds"] == 300


@pytest.mark.parametrize(
    "options", [{"window": timedelta(0)}, {"window": 60}, {"tags": "route"}, {"tags": ["route"]}]
)
def test_arguments_are_checked(clock, options):
    """The error quotes the value."""
    with pytest.raises(InvalidInputError):
        new_system(clock).create_dashboard_data(**options)


# -- text ------------------------------------------------------------------------------------------------

TEXT = st.text(min_size=1, max_size=4) | st.sampled_from(
    ["<script>alert(1)</script>", "\u202egnp", "\ud800", "\x00", "n" * 300, "é" * 1_000, "http"]
)
HOSTILE = st.lists(
    st.tuples(
        st.sampled_from(["operation", "counter", "timer", "histogram", "gauge", "failure"]),
        TEXT,
        st.dictionaries(TEXT, TEXT, max_size=2),
        st.sampled_from([0, 1, 40.5, 1e-9, 1e300]),
        st.sampled_from([0, 0.5, 20, 5_000]),
    ),
    max_size=15,
)


@pytest.mark.slow
@given(HOSTILE, st.sampled_from(TYPES), st.dictionaries(TEXT, TEXT, max_size=1))
def test_the_documents_of_any_system_follow_the_schema(events, dashboard_type, tags):
    """Whatever was recorded, and by whatever tags: text is short and can be encoded, numbers are finite."""
    clock = ManualClock()
    system = new_system(clock)
    for kind, name, given_tags, value, pause in events:
        if kind == "operation":
            system.aggregator.store.record_operation(name, given_tags, int(min(value, 1e9)), name)
        elif kind == "failure":
            system.tracker.record_failure(name, name)
        else:
            getattr(system.collector, f"record_{kind}")(name, value, tags=given_tags)
        clock.advance(pause)
    checked(system.create_dashboard_data(dashboard_type))
    checked(system.create_dashboard_data(dashboard_type, tags=tags))
    for _, _, given_tags, _, _ in events[:1]:
        checked(system.create_dashboard_data(dashboard_type, tags=given_tags))


def test_long_text_ends_with_an_ellipsis(clock):
    """Names, tags and error types have 200 characters at most, and such tags are not offered as filters."""
    system = new_system(clock)
    long = "x" * 100_000
    system.aggregator.store.record_operation(long, {"route": long}, 1_000_000, long)
    found = panels(system, "errors")
    assert shown(found["failures-by-kind"])[0][0] == f"{'x' * 199}…"
    assert len(str(system.create_dashboard_data("performance", tags={"route": long}))) < 20_000
    assert system.create_dashboard_data("performance")["known_tags"] == {}


# -- several processes -----------------------------------------------------------------------------------

_WORK = """
for number in range({count}):
    with metrics.measure("checkout", {{"route": "/{route}", "all": "1"}}):
        pass
    metrics.tracker.record_failure("login", "{route}")
"""
_READ = """(lambda documents: {
    one["type"]: {
        panel["id"]: sorted(
            (each["name"], *each["tags"].items(), round(each["value"], 6))
            for each in panel["series"]
        )
        for panel in one["panels"] if panel["id"] in
        ("errors-overall", "series", "failures-by-kind", "latency-heat-map", "time-spent", "duration-p95")
    } | {"known": one["known_tags"]}
    for one in documents
})(metrics.create_dashboard_data(kind, tags=tags) for kind in ("overview", "performance", "errors"))"""


@pytest.mark.heavy
@forks
def test_workers_agree(tmp_path: Path) -> None:
    """With shared numbers, the document of each worker has the records of all, with and without tags."""
    create = f"from metrics_framework import MetricsSystem\nmetrics = MetricsSystem(shared={str(tmp_path)!r})"
    with programs() as start:
        many = [start(create, **{KEY_VARIABLE: "shop"}) for _ in range(2)]
        for route, worker in zip("ab", many, strict=True):
            worker.do(_WORK.format(route=route, count=300))
        for tags in ({}, {"route": "/a"}, {"all": "1"}):
            for worker in many:
                worker.do("import time; time.sleep(1); tags = " + repr(tags))
            one, other = (worker.do(_READ.replace("\n", " ")) for worker in many)
            assert one == other
            expected = 300 if "route" in tags else 600
            assert one["performance"]["latency-heat-map"] == [("checkout", expected)]
            assert one["overview"]["known"] == {"all": ["1"], "route": ["/a", "/b"]}
