"""Resource readings become gauges."""

from __future__ import annotations

import math
import platform
import re
import sys
from pathlib import Path

import pytest

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector
from metrics_adapters.null import NullMonitor
from metrics_framework import __version__
from metrics_framework.clock import ManualClock
from metrics_framework.recording import Store
from metrics_framework.resources import RESOURCE_GAUGES, DetailedMonitor, record_resources
from metrics_framework.values import MetricType

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


class Monitor(NullMonitor):
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


class Detailed(Monitor):
    """A monitor that knows more than the contract asks for."""

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
    """Return the names that were recorded of the monitor."""
    return {name for name, _ in recorded(store)}


def test_each_reading_is_a_gauge(store):
    """Every key of the contract is recorded under its conventional name and tags; shares are of 1."""
    monitor = Monitor()
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


def test_what_a_monitor_knows_beyond_the_contract_is_recorded(store):
    """Each of its disks and what its process holds are recorded, and with them there is every gauge."""
    assert isinstance(Detailed(), DetailedMonitor)
    assert not isinstance(Monitor(), DetailedMonitor)
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


def test_the_interpreter_is_recorded_whatever_the_monitor(store):
    """What runs is the tags of a constant 1, and the garbage collector is counted by generation."""
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
    """A key that is missing records nothing and is no fault, and a key beyond the contract is no gauge."""
    monitor = Monitor(
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
def test_a_fault_of_a_monitor_costs_its_own_gauges_only(store, caplog, kind, fault):
    """Where a reading raises or is nonsense, the others are recorded, and one warning says so."""
    whole = Store(ManualClock())
    record_resources(Monitor(**{kind: {}}), InMemoryCollector(whole))
    record_resources(Monitor(**{kind: fault}), InMemoryCollector(store))
    assert recorded(store) == recorded(whole)
    known = not isinstance(fault, dict) or bool(fault.keys() & (Monitor().readings[kind]).keys())
    assert [record.levelname for record in caplog.records] == ["WARNING"] * known


def test_a_failing_kind_is_said_once_until_it_works_again(store, caplog):
    """With the same set of failing kinds a failure that goes on is one warning, also beside another one."""
    monitor, collector, failing = Monitor(), InMemoryCollector(store), set()

    def warnings(**readings) -> int:
        caplog.clear()
        for _ in range(3):
            monitor.readings = {**Monitor().readings, **readings}
            record_resources(monitor, collector, failing)
        return len(caplog.records)

    assert warnings(memory=OSError("first")) == 1
    assert warnings(memory=OSError("second")) == 0
    assert warnings(memory=OSError("second"), network=OSError("third")) == 1
    assert warnings() == 0
    assert failing == set()
    assert warnings(memory=OSError("fourth")) == 1


def test_a_name_that_is_something_else_costs_that_gauge_only(store, caplog):
    """Where a name is a counter already the other gauges are recorded, and one warning names it."""
    collector, failing = InMemoryCollector(store), set()
    collector.increment("system.cpu.utilization")
    for _ in range(3):
        record_resources(Monitor(), collector, failing)
    assert store.summary("system.cpu.utilization")["total"] == 1
    assert store.summary("process.cpu.utilization")["count"] == 3
    (warning,) = caplog.records
    assert "system.cpu.utilization" in warning.getMessage()
    assert "process.cpu.utilization" not in warning.getMessage()


def test_the_page_lists_every_gauge_with_its_tags(store):
    """The table in the documentation has exactly the recorded names, each with the tags that it gets."""
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


def test_series_of_one_gauge_make_sense_together(clock):
    """Running totals add up and of several disks the fullest counts, unless the user said otherwise."""
    store = Store(clock)
    collector = InMemoryCollector(store)
    collector.describe("system.network.io", merge="max", help="mine")
    collector.describe("system.network.errors", help="mine as well")

    class Disks(Monitor):
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
