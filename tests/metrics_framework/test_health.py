"""Health: a verdict by thresholds, and the readings behind it, with any parts."""

from __future__ import annotations

import math
import platform
import re
import socket
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTracker
from metrics_adapters.null import NullMonitor
from metrics_framework import (
    InvalidInputError,
    MetricsSystem,
    MetricType,
    MetricUnit,
    MetricValue,
    Thresholds,
    __version__,
)
from metrics_framework.clock import ManualClock, utc
from metrics_framework.health import RESOURCE_GAUGES, DetailedMonitor, record_resources
from metrics_framework.recording import Store
from metrics_framework.recording.engine import ENGINE

PATIENCE = 20.0


class Monitor:
    """A monitor whose readings the test chooses."""

    def __init__(self, memory=40.0, cpu=30.0):
        self.memory = memory
        self.cpu = cpu

    def get_memory_usage(self):
        """Return the chosen memory, or raise it."""
        if isinstance(self.memory, Exception):
            raise self.memory
        return {"percent": self.memory}

    def get_cpu_usage(self):
        """Return the chosen CPU."""
        return {"percent": self.cpu}

    def get_disk_usage(self, path="/"):
        """Return nothing."""
        return {}

    def get_network_stats(self):
        """Return nothing."""
        return {}

    def start_resource_monitoring(self, interval=60.0):
        """Do nothing."""

    def stop_resource_monitoring(self):
        """Do nothing."""


class Tracker:
    """A foreign tracker."""

    def record_success(self, operation, metadata=None):
        """Do nothing."""

    def record_failure(self, operation, error_type, metadata=None):
        """Do nothing."""

    def get_success_rate(self, operation, time_window=None):
        """Raise: the tests do not need it."""
        raise NotImplementedError

    def get_failure_breakdown(self, operation, time_window=None):
        """Raise: the tests do not need it."""
        raise NotImplementedError


class Aggregator:
    """An aggregator with an answer of the test's choice, which counts its calls."""

    def __init__(self, answer=()):
        self.answer = answer
        self.asked = 0

    def get_metrics_by_tag(self, tag_filter):
        """Return the answer, or raise it."""
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return list(self.answer)

    def get_metric_summary(self, metric_name, time_window=None):
        """Raise: the tests do not need it."""
        raise NotImplementedError

    def export_metrics(self, format="json"):
        """Raise: the tests do not need it."""
        raise NotImplementedError

    def get_top_metrics(self, metric_type, limit=10):
        """Raise: the tests do not need it."""
        raise NotImplementedError


def outcome(clock: ManualClock, **metadata: object) -> MetricValue:
    """Return the outcomes of an operation as an aggregator reports them."""
    unit = MetricUnit.OPERATIONS_PER_SECOND
    return MetricValue("work", 1.0, MetricType.RATE, unit, utc(clock), {}, metadata)


@pytest.fixture
def system(clock: ManualClock):
    """Return a system on the test's clock with a monitor that reads the same everywhere."""
    with MetricsSystem(resource_monitor=Monitor(), clock=clock) as system:
        yield system


def track(system: MetricsSystem, successes: int, failures: int, operation: str = "work") -> None:
    """Track outcomes of an operation."""
    for _ in range(successes):
        system.tracker.record_success(operation)
    for _ in range(failures):
        system.tracker.record_failure(operation, "timeout")


def test_health_contains_its_readings(system, clock):
    """The result has the readings beside the judgement."""
    system.collector.increment("orders", {"region": "north"})
    system.collector.increment("orders", {"region": "south"})
    track(system, 3, 1)
    clock.advance(12)
    assert system.get_system_health() == {
        "healthy": True,
        "error_rate": 0.25,
        "operations": 4,
        "uptime_seconds": 12.0,
        "series": 3,
        "recorded": 6,
        "rejected": 0,
        "overflowed": 0,
        "compiled": ENGINE == "compiled",
        "memory_percent": 40.0,
        "cpu_percent": 30.0,
        "overhead_percent": 0.0,
    }


def test_a_system_without_events_is_healthy(system):
    """A system without tracked operations has no errors."""
    health = system.get_system_health()
    assert (health["healthy"], health["error_rate"]) == (True, 0.0)


@pytest.mark.parametrize(
    ("successes", "failures", "healthy"),
    [
        (10, 10, True),
        (9, 11, False),
        (500, 500, True),
        (499, 501, False),
        (0, 20, False),
        (0, 19, True),
        (1, 0, True),
    ],
)
def test_a_process_is_unhealthy_if_most_of_20_operations_fail(system, successes, failures, healthy):
    """Exactly half is still healthy, and so are fewer than 20 operations, of which the rate is reported."""
    track(system, successes, failures)
    health = system.get_system_health()
    assert (health["healthy"], health["error_rate"], health["operations"]) == (
        healthy,
        failures / (successes + failures),
        successes + failures,
    )


def test_the_error_rate_is_of_all_operations_together(system):
    """A rare operation that always fails does not outweigh a frequent one that never fails."""
    track(system, 99, 0, "frequent")
    track(system, 0, 1, "rare")
    health = system.get_system_health()
    assert (health["healthy"], health["error_rate"]) == (True, 0.01)


@pytest.mark.parametrize(("percent", "healthy"), [(95.0, True), (95.1, False)])
def test_a_full_machine_is_unhealthy(clock, percent, healthy):
    """A system is unhealthy above 95 % of the machine's memory."""
    system = MetricsSystem(resource_monitor=Monitor(memory=percent), clock=clock)
    assert system.get_system_health()["healthy"] is healthy


def test_health_of_this_machine():
    """The default monitor reads this machine."""
    with MetricsSystem() as metrics:
        health = metrics.get_system_health()
    assert 0 < health["memory_percent"] <= 100
    assert 0 <= health["cpu_percent"] <= 100


# -- the window ----------------------------------------------------------------------------------------------


def test_the_error_rate_is_of_the_last_five_minutes(system, clock):
    """Older failures do not count: 300 seconds, plus the tenth by which a window may be longer."""
    track(system, 0, 5)
    assert system.get_system_health()["error_rate"] == 1.0
    clock.advance(290)
    track(system, 5, 0)
    assert system.get_system_health()["error_rate"] == 0.5
    clock.advance(60)
    health = system.get_system_health()
    assert (health["error_rate"], health["healthy"], health["recorded"]) == (0.0, True, 10)


def test_the_window_can_be_chosen(clock):
    """The window of the thresholds is that of the error rate, at most the retention."""
    thresholds = Thresholds(window=timedelta(days=365))
    system = MetricsSystem(resource_monitor=Monitor(), thresholds=thresholds, clock=clock)
    track(system, 0, 1)
    clock.advance(86_400)
    assert system.get_system_health()["error_rate"] == 1.0
    system.initialize_metrics({"healthy_window": 60})
    assert system.get_system_health()["error_rate"] == 0.0


# -- thresholds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "healthy"),
    [
        ({}, True),
        ({"memory_percent": 39.9}, False),
        ({"memory_percent": 40}, True),
        ({"cpu_percent": 29.9}, False),
        ({"cpu_percent": 30}, True),
        ({"error_rate": 0.24}, False),
        ({"error_rate": 0.25}, True),
        ({"error_rate": 0.24, "min_operations": 5}, True),
        ({"error_rate": 0.24, "operations": ["work"]}, False),
        ({"error_rate": 0.24, "operations": ["w*"]}, False),
        ({"error_rate": 0.24, "operations": ["other"]}, True),
        ({"error_rate": 0.24, "operations": []}, True),
        ({"error_rate": 0.24, "ignored_errors": ["timeout"]}, True),
        ({"error_rate": 0.24, "ignored_errors": ["time*"]}, True),
        ({"error_rate": 0.24, "ignored_errors": ()}, False),
    ],
)
def test_each_threshold_judges_its_reading(clock, limits, healthy):
    """A reading at its limit is healthy; a reading above it is not."""
    thresholds = Thresholds(**{"error_rate": 0.3, "min_operations": 4, **limits})
    system = MetricsSystem(resource_monitor=Monitor(), thresholds=thresholds, clock=clock)
    track(system, 3, 1)
    assert system.get_system_health()["healthy"] is healthy


@pytest.mark.parametrize("value", [-0.01, 101, float("nan"), float("inf"), "1", True], ids=str)
@pytest.mark.parametrize("what", ["error_rate", "memory_percent", "cpu_percent"])
def test_a_threshold_out_of_range_is_an_error(what, value):
    """The error names the threshold, its value and the range."""
    with pytest.raises(InvalidInputError, match=f"threshold {what}=.*from 0 to"):
        Thresholds(**{what: value})


@pytest.mark.parametrize("window", [timedelta(0), timedelta(seconds=-1), 300, None], ids=str)
def test_a_window_is_a_positive_duration(window):
    """Any other value raises an error."""
    with pytest.raises(InvalidInputError, match=r"threshold window=.*positive duration"):
        Thresholds(window=window)


@pytest.mark.parametrize("what", ["operations", "ignored_errors"])
@pytest.mark.parametrize("patterns", ["work", [""], [7], 7], ids=str)
def test_patterns_are_a_list_of_strings(what, patterns):
    """The error names the threshold."""
    with pytest.raises(InvalidInputError, match=f"threshold {what}"):
        Thresholds(**{what: patterns})


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "20"], ids=str)
def test_the_minimum_is_a_whole_number(count):
    """Any other value raises an error."""
    with pytest.raises(InvalidInputError, match="threshold min_operations="):
        Thresholds(min_operations=count)


def test_thresholds_must_be_thresholds():
    """The constructor rejects a dict."""
    with pytest.raises(InvalidInputError, match="is not a Thresholds"):
        MetricsSystem(thresholds={"error_rate": 0.1})


# -- the readings --------------------------------------------------------------------------------------------


def test_faulty_records_are_counted(clock):
    """Rejected records and those that lost a tag are readings of the store."""
    system = MetricsSystem.from_config({"on_error": "log", "max_series_per_name": 2}, environ={})
    system.collector.record_counter("orders", -1)
    for user in range(5):
        system.collector.increment("orders", {"user": str(user)})
    health = system.get_system_health()
    assert (health["recorded"], health["rejected"]) == (5, 1)
    assert health["overflowed"] > 0
    assert health["healthy"] is True


def test_every_reading_is_a_plain_number(system):
    """Values are bool, float or int, even if a monitor returns a similar type."""

    class Percent(float):
        pass

    system.resource_monitor.memory = Percent(40)
    assert {type(value) for value in system.get_system_health().values()} == {bool, float, int}


def test_the_overhead_is_the_cpu_time_of_the_collection_thread():
    """Recording threads and waiting do not count."""
    spun = threading.Event()

    class Spinning(Monitor):
        def get_memory_usage(self):
            if threading.current_thread() is not threading.main_thread():
                until = time.thread_time_ns() + 50_000_000
                while time.thread_time_ns() < until:
                    pass
                spun.set()
            return {"percent": 1.0}

    clock = ManualClock()
    system = MetricsSystem(resource_monitor=Spinning(), clock=clock)
    clock.advance(1)
    assert system.get_system_health()["overhead_percent"] == 0.0
    system.initialize_metrics({"collection_interval": 3_600})
    assert spun.wait(PATIENCE)
    system.shutdown_metrics()
    # 50 ms and a little more of one second, on the test's clock.
    assert 5.0 <= system.get_system_health()["overhead_percent"] < 10.0
    clock.advance(99)
    assert 0.05 <= system.get_system_health()["overhead_percent"] < 0.1


# -- foreign parts -------------------------------------------------------------------------------------------


def test_a_foreign_tracker_is_judged_by_the_aggregator(clock):
    """If outcomes are not in a store, those of the aggregator since the start count."""
    aggregator = Aggregator([outcome(clock, count=4, success_rate=0.75)])
    system = MetricsSystem(tracker=Tracker(), aggregator=aggregator, resource_monitor=Monitor(), clock=clock)
    clock.advance(86_400)
    assert system.get_system_health()["error_rate"] == 0.25


def test_a_foreign_aggregator_is_not_called_if_there_is_a_store(clock):
    """A health check sends no query to a server if the tracker has a store."""
    aggregator = Aggregator()
    store = Store(clock)
    system = MetricsSystem(
        tracker=InMemoryTracker(store), aggregator=aggregator, resource_monitor=Monitor(), clock=clock
    )
    track(system, 1, 1)
    assert system.get_system_health()["error_rate"] == 0.5
    assert aggregator.asked == 0


def test_health_does_not_use_the_network(monkeypatch):
    """The default parts open no socket for a health check."""
    with MetricsSystem() as system:

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("a socket was opened")

        monkeypatch.setattr(socket, "socket", refuse)
        assert system.get_system_health()["healthy"] in (True, False)


@pytest.mark.parametrize(
    ("parts", "reading"),
    [
        ({"resource_monitor": Monitor(memory=RuntimeError("broken"))}, "memory_percent"),
        ({"resource_monitor": Monitor(memory="forty, broken")}, "memory_percent"),
        ({"resource_monitor": Monitor(cpu=[])}, "cpu_percent"),
        ({"tracker": Tracker(), "aggregator": Aggregator(ValueError("broken"))}, "error_rate"),
    ],
    ids=["memory", "text", "cpu", "outcomes"],
)
def test_a_failing_part_is_unhealthy_and_the_rest_is_read(clock, caplog, parts, reading):
    """The failed reading is 0 and logged once; all others are present."""
    system = MetricsSystem(**{"resource_monitor": Monitor(), **parts}, clock=clock)
    clock.advance(2)
    for _ in range(3):
        health = system.get_system_health()
    assert health["healthy"] is False
    assert health[reading] == 0.0
    assert health["uptime_seconds"] == 2.0
    assert {"memory_percent": 40.0, "cpu_percent": 30.0, "error_rate": 0.0} | {reading: 0.0} == {
        key: health[key] for key in ("memory_percent", "cpu_percent", "error_rate")
    }
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_part_that_recovers_is_healthy_again(clock, caplog):
    """The next failure is logged again."""
    monitor = Monitor()
    system = MetricsSystem(resource_monitor=monitor, clock=clock)
    for memory, healthy in ((RuntimeError("one"), False), (40.0, True), (RuntimeError("two"), False)):
        monitor.memory = memory
        assert system.get_system_health()["healthy"] is healthy
    assert len(caplog.records) == 2


def test_a_monitor_that_returns_nan_is_unhealthy(clock):
    """NaN is not within any limit."""
    system = MetricsSystem(resource_monitor=Monitor(memory=float("nan")), clock=clock)
    assert system.get_system_health()["healthy"] is False


# -- resources -------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "resources.md"
RUNTIME = {"process.runtime.info"} | (
    {"cpython.gc.collections", "cpython.gc.collected_objects", "cpython.gc.uncollectable_objects"}
    if sys.implementation.name == "cpython"
    else set()
)
MEMORY = {
    "used": 1.0,
    "available": 2.0,
    "total": 3.0,
    "percent": 40.0,
    "process_rss": 5.0,
    "process_peak_rss": 6.0,
}
CPU = {
    "percent": 50.0,
    "process_percent": 150.0,
    "load_1m": 1.0,
    "load_5m": 5.0,
    "load_15m": 15.0,
    "count": 4.0,
}
DISK = {"used": 10.0, "free": 20.0, "total": 31.0, "percent": 33.0}
NETWORK = {
    "bytes_sent": 1,
    "bytes_received": 2,
    "packets_sent": 3,
    "packets_received": 4,
    "errors_in": 5,
    "errors_out": 6,
    "drops_in": 7,
    "drops_out": 8,
}


class FakeMonitor(NullMonitor):
    """A monitor that knows nothing beyond the contract, whose readings or errors the test chooses."""

    def __init__(self, memory=MEMORY, cpu=CPU, disk=DISK, network=NETWORK):
        self.readings = {"memory": memory, "cpu": cpu, "disk": disk, "network": network}

    def read(self, kind):
        """Return a reading, or raise it."""
        reading = self.readings[kind]
        if isinstance(reading, Exception):
            raise reading
        return reading

    def get_memory_usage(self):
        """Return the chosen memory."""
        return self.read("memory")

    def get_cpu_usage(self):
        """Return the chosen CPU."""
        return self.read("cpu")

    def get_disk_usage(self, path="/"):
        """Return the chosen disk."""
        self.path = path
        return self.read("disk")

    def get_network_stats(self):
        """Return the chosen network."""
        return self.read("network")


class Detailed(FakeMonitor):
    """A monitor with more readings than the Protocol has."""

    disks = ("/", "/data")

    def get_process_usage(self):
        """Return what a process holds."""
        return {"threads": 7, "file_descriptors": 8, "handles": 9, "uptime": 1.5}


@pytest.fixture
def store(clock: ManualClock) -> Store:
    """Return a store on the test's clock."""
    return Store(clock)


def recorded(store: Store) -> dict[tuple[str, str], float]:
    """Return the value of each series by its name and the values of its tags."""
    found = InMemoryAggregator(store).get_metrics_by_tag({})
    assert {value.metric_type for value in found} <= {MetricType.GAUGE}
    return {
        (value.name, " ".join(value.tags.values())): value.value
        for value in found
        if value.name not in RUNTIME
    }


def names(store: Store) -> set[str]:
    """Return the names of the recorded gauges."""
    return {name for name, _ in recorded(store)}


def test_each_reading_is_a_gauge(store):
    """Every key of the contract has its conventional name and tags; shares are from 0 to 1."""
    monitor = FakeMonitor()
    record_resources(monitor, InMemoryCollector(store))
    assert monitor.path == "/"
    assert recorded(store) == {
        ("system.memory.usage", "used"): 1.0,
        ("system.memory.available", ""): 2.0,
        ("system.memory.limit", ""): 3.0,
        ("system.memory.utilization", "used"): 0.4,
        ("process.memory.usage", ""): 5.0,
        ("process.memory.peak", ""): 6.0,
        ("system.cpu.utilization", ""): 0.5,
        ("process.cpu.utilization", ""): 0.375,  # 1.5 of 4 CPUs
        ("system.cpu.load_average.1m", ""): 1.0,
        ("system.cpu.load_average.5m", ""): 5.0,
        ("system.cpu.load_average.15m", ""): 15.0,
        ("system.cpu.logical.count", ""): 4.0,
        ("system.filesystem.usage", "/ used"): 10.0,
        ("system.filesystem.usage", "/ free"): 20.0,
        ("system.filesystem.limit", "/"): 31.0,
        ("system.filesystem.utilization", "/ used"): 0.33,
        ("system.network.io", "transmit"): 1,
        ("system.network.io", "receive"): 2,
        ("system.network.packet.count", "transmit"): 3,
        ("system.network.packet.count", "receive"): 4,
        ("system.network.errors", "transmit"): 6,
        ("system.network.errors", "receive"): 5,
        ("system.network.packet.dropped", "transmit"): 8,
        ("system.network.packet.dropped", "receive"): 7,
    }


def test_readings_of_a_detailed_monitor_are_recorded(store):
    """Its disks and its process usage complete the set of gauges."""
    assert isinstance(Detailed(), DetailedMonitor)
    assert not isinstance(FakeMonitor(), DetailedMonitor)
    record_resources(Detailed(), InMemoryCollector(store))
    found = recorded(store)
    assert (
        found["system.filesystem.usage", "/ free"] == found["system.filesystem.usage", "/data free"] == 20.0
    )
    assert found["process.thread.count", ""] == 7
    assert found["process.unix.file_descriptor.count", ""] == 8
    assert found["process.windows.handle.count", ""] == 9
    assert found["process.uptime", ""] == 1.5
    assert names(store) | RUNTIME == RESOURCE_GAUGES


def test_the_interpreter_is_recorded_with_any_monitor(store):
    """A constant 1 has the runtime as tags, and the garbage collector is counted by generation."""
    record_resources(NullMonitor(), InMemoryCollector(store))
    found = InMemoryAggregator(store).get_metrics_by_tag({})
    assert {value.name for value in found} == RUNTIME
    (info,) = [value for value in found if value.name == "process.runtime.info"]
    assert info.value == 1
    assert info.tags["process.runtime.name"] == sys.implementation.name
    assert info.tags["process.runtime.version"] == platform.python_version()
    assert info.tags["telemetry.sdk.version"] == __version__
    assert info.tags["os.type"] in platform.system().lower()
    assert info.tags["host.arch"]
    for name in RUNTIME - {"process.runtime.info"}:
        assert [value.tags for value in found if value.name == name] == [
            {"cpython.gc.generation": str(generation)} for generation in range(3)
        ]


def test_a_reading_that_a_monitor_lacks_is_not_made_up(store, caplog):
    """A missing key records nothing and is not an error; a key beyond the contract is not recorded."""
    monitor = FakeMonitor(
        {"percent": 40.0, "swap": 1.0}, {"process_percent": 50.0}, {"total": 1.0}, {"errors_in": 0}
    )
    record_resources(monitor, InMemoryCollector(store))
    assert recorded(store) == {
        ("system.memory.utilization", "used"): 0.4,
        ("system.filesystem.limit", "/"): 1.0,
        ("system.network.errors", "receive"): 0,
    }
    assert caplog.records == []


@pytest.mark.parametrize("fault", [RuntimeError("no idea"), None, {"percent": "a lot"}, {"total": math.nan}])
@pytest.mark.parametrize("kind", ["memory", "cpu", "disk", "network"])
def test_a_failing_reading_affects_its_own_gauges_only(store, caplog, kind, fault):
    """If a reading raises or is invalid, the others are recorded, and one warning is logged."""
    whole = Store(ManualClock())
    record_resources(FakeMonitor(**{kind: {}}), InMemoryCollector(whole))
    record_resources(FakeMonitor(**{kind: fault}), InMemoryCollector(store))
    assert recorded(store) == recorded(whole)
    known = not isinstance(fault, dict) or bool(fault.keys() & (FakeMonitor().readings[kind]).keys())
    assert [record.levelname for record in caplog.records] == ["WARNING"] * known


def test_a_failing_kind_is_logged_once_until_it_succeeds(store, caplog):
    """With one set of failing kinds, a lasting failure is one warning, even beside another one."""
    monitor, collector, failing = FakeMonitor(), InMemoryCollector(store), set()

    def warnings(**readings) -> int:
        caplog.clear()
        for _ in range(3):
            monitor.readings = {**FakeMonitor().readings, **readings}
            record_resources(monitor, collector, failing)
        return len(caplog.records)

    assert warnings(memory=OSError("first")) == 1
    assert warnings(memory=OSError("second")) == 0
    assert warnings(memory=OSError("second"), network=OSError("third")) == 1
    assert warnings() == 0
    assert failing == set()
    assert warnings(memory=OSError("fourth")) == 1


def test_a_name_of_another_type_affects_that_gauge_only(store, caplog):
    """If a name is a counter, the other gauges are recorded, and one warning names it."""
    collector, failing = InMemoryCollector(store), set()
    collector.increment("system.cpu.utilization")
    for _ in range(3):
        record_resources(FakeMonitor(), collector, failing)
    assert store.summary("system.cpu.utilization")["total"] == 1
    assert store.summary("process.cpu.utilization")["count"] == 3
    (warning,) = caplog.records
    assert "system.cpu.utilization" in warning.getMessage()
    assert "process.cpu.utilization" not in warning.getMessage()


def test_the_page_lists_every_gauge_with_its_tags(store):
    """The table of the documentation has exactly the recorded names with their tags."""
    rows = [
        line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if re.match(r"\| `[a-z]+\.", line)
    ]
    listed = {name.strip(" `"): set(re.findall(r"`([a-z._]+)`", tags)) for name, tags, *_ in rows}
    assert len(listed) == len(rows)
    assert listed.keys() == RESOURCE_GAUGES
    record_resources(Detailed(), InMemoryCollector(store))
    for value in InMemoryAggregator(store).get_metrics_by_tag({}):
        assert listed[value.name] == value.tags.keys(), value.name
    assert all(unit.strip() and what.strip() for _, _, unit, what in rows)


def test_series_of_one_gauge_are_merged(clock):
    """Totals are added and the fullest disk counts, unless the application described it otherwise."""
    store = Store(clock)
    collector = InMemoryCollector(store)
    collector.describe("system.network.io", merge="max", help="mine")
    collector.describe("system.network.errors", help="mine as well")

    class Disks(FakeMonitor):
        disks = ("/data", "/")

        def get_disk_usage(self, path="/"):
            return {"percent": {"/": 20.0, "/data": 90.0}[path]}

        def get_process_usage(self):
            return {}

    record_resources(Disks(), collector)
    assert store.summary("system.network.io")["last"] == 2
    assert store.summary("system.network.packet.count")["last"] == 7
    assert store.summary("system.network.errors")["last"] == 11
    assert store.summary("system.filesystem.utilization")["last"] == 0.9
    assert store.description("system.network.errors").help == "mine as well"
