"""Projected events become gauges and counters of a system."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from metrics_adapters.in_memory import InMemoryCollector
from metrics_adapters.prometheus import PrometheusCollector
from metrics_framework import MetricsSystem
from metrics_framework.errors import MetricTypeError
from metrics_framework.telemetry import (
    TELEMETRY_GAUGES,
    TelemetryRecorder,
    project_telemetry_mapping,
    read_projected_telemetry,
)
from metrics_framework.telemetry import gauges as gauges_module
from metrics_framework.values import MetricUnit
from tests.metrics_framework.telemetry.made import event

SAMPLE = Path(__file__).parent / "data" / "telemetry_sample.jsonl"
TAGS = {"source_kind": "cuda", "host": "node-1", "rank": "1", "device": "0"}


@pytest.fixture
def metrics(clock) -> MetricsSystem:
    """Return a system."""
    return MetricsSystem(clock=clock)


@pytest.fixture
def recorder(metrics: MetricsSystem) -> TelemetryRecorder:
    """Return a recorder for the system."""
    return TelemetryRecorder(metrics.collector)


def last(metrics: MetricsSystem, name: str) -> dict[tuple[str, ...], float]:
    """Return the value of each series, by rank and device."""
    return {
        (value.tags.get("rank", ""), value.tags.get("device", "")): value.value
        for value in metrics.aggregator.get_metrics_by_tag({})
        if value.name == f"telemetry.{name}"
    }


def test_measurements_become_gauges(metrics, recorder):
    """They are separate by kind of source, host, rank and device. Missing ones are not recorded."""
    recorder.record(project_telemetry_mapping(event()))
    values = {value.name: value for value in metrics.aggregator.get_metrics_by_tag({})}
    assert {name: value.value for name, value in values.items()} == {
        "telemetry.events": 1,
        "telemetry.memory.allocator.allocated": 1024,
        "telemetry.memory.allocator.reserved": 2048,
        "telemetry.memory.allocator.change": -5,
        "telemetry.memory.device.used": 4096,
        "telemetry.memory.device.free": 4096,
        "telemetry.memory.device.total": 8192,
    }
    assert values["telemetry.memory.device.used"].tags == TAGS
    assert values["telemetry.memory.device.used"].unit is MetricUnit.BYTES
    assert values["telemetry.events"].tags == {**TAGS, "event_type": "sample", "severity": "info"}


def test_gpu_metadata_becomes_gauges(metrics, recorder):
    """The values of a GPU monitor become gauges too."""
    metadata = {"gpu.utilization": 0.5, "gpu.power_watts": 200.5, "gpu.temperature_celsius": 60}
    recorder.record(project_telemetry_mapping(event(metadata=metadata)))
    for name, value in metadata.items():
        assert last(metrics, name) == {("1", "0"): value}


def test_ranks_and_devices_are_kept_apart_and_merged(metrics, recorder):
    """Allocated memory merges to the sum, memory of devices, which may be shared, to the maximum."""
    for rank, device, used in ((0, 0, 10), (1, 1, 30)):
        changes = {"allocator_allocated_bytes": used, "device_used_bytes": used}
        recorder.record(project_telemetry_mapping(event(rank=rank, device_id=device, **changes)))
    assert last(metrics, "memory.device.used") == {("0", "0"): 10, ("1", "1"): 30}
    assert metrics.aggregator.get_metric_summary("telemetry.memory.allocator.allocated")["last"] == 40
    assert metrics.aggregator.get_metric_summary("telemetry.memory.device.used")["last"] == 30


def test_an_older_event_sets_no_gauge(metrics, recorder):
    """It is counted: files of several writers are not in order."""
    for at, used, shown in ((2, 20, 20), (1, 10, 20), (2, 21, 21)):
        recorder.record(project_telemetry_mapping(event(timestamp_ns=at, device_used_bytes=used)))
        assert last(metrics, "memory.device.used") == {("1", "0"): shown}
    recorder.record(project_telemetry_mapping(event(timestamp_ns=1, device_used_bytes=5, rank=0)))
    assert last(metrics, "memory.device.used") == {("1", "0"): 21, ("0", "0"): 5}
    assert metrics.aggregator.get_metric_summary("telemetry.events")["total"] == 4


def test_the_times_of_sources_are_bounded(recorder, monkeypatch):
    """A file with ever new hosts does not use unlimited memory."""
    monkeypatch.setattr(gauges_module, "MAX_SOURCES", 5)
    for number in range(20):
        recorder.record(project_telemetry_mapping(event(host=f"node-{number}")))
    assert len(recorder._latest) == 5


@pytest.mark.parametrize("value", [None, True, "7", float("nan"), float("inf"), 10**400, [1]])
def test_values_that_are_not_numbers_are_left_out(metrics, recorder, value):
    """All other values of the event are recorded."""
    recorder.record(project_telemetry_mapping(event(device_used_bytes=value, host=[value], rank=None)))
    assert last(metrics, "memory.device.used") == {}
    assert last(metrics, "memory.device.free") == {("unknown", "0"): 4096}


def test_a_description_by_the_application_is_kept(clock):
    """The recorder does not overwrite it."""
    collector = InMemoryCollector()
    collector.store.describe("telemetry.memory.device.used", help="Mine.", merge="min")
    TelemetryRecorder(collector)
    assert collector.store.description("telemetry.memory.device.used").help == "Mine."
    assert collector.store.description("telemetry.memory.device.free").merge == "max"


def test_a_name_of_another_type_is_an_error(metrics, recorder):
    """The collector refuses it, as for any record."""
    metrics.collector.record_histogram("telemetry.memory.device.used", 1)
    with pytest.raises(MetricTypeError):
        recorder.record(project_telemetry_mapping(event()))


def test_gauges_are_documented():
    """Each attribute and each name is unique, and the documentation lists them."""
    page = (Path(__file__).parents[3] / "docs" / "telemetry.md").read_text()
    for gauge in TELEMETRY_GAUGES:
        assert f"| `{gauge.name}` | `{gauge.attribute}` | {gauge.merge} |" in page
    assert len({gauge.name for gauge in TELEMETRY_GAUGES}) == len(TELEMETRY_GAUGES)


def test_a_file_reaches_prometheus():
    """A scrape has the measurements of the last event."""
    registry = CollectorRegistry()
    recorder = TelemetryRecorder(PrometheusCollector(registry))
    assert recorder.record_all(read_projected_telemetry(SAMPLE)) == 101
    final = json.loads(SAMPLE.read_text().splitlines()[-1])
    tags = {"source_kind": "cpu", "host": "vm", "rank": "1", "device": "-1"}
    assert (
        registry.get_sample_value("telemetry_memory_allocator_allocated_bytes", tags)
        == final["allocator_allocated_bytes"]
    )
    kinds = {"sample": 59, "peak": 20, "allocation": 20, "start": 1, "stop": 1}
    severities = {"sample": "info", "start": "info", "stop": "info"}
    for kind, count in kinds.items():
        severity = {"severity": severities.get(kind, "none")}
        assert (
            registry.get_sample_value("telemetry_events_total", {**tags, "event_type": kind, **severity})
            == count
        )
    assert b"# HELP telemetry_events_total Telemetry events." in generate_latest(registry)


odd = st.text(max_size=5) | st.integers() | st.floats() | st.none() | st.booleans() | st.lists(st.none())


@settings(max_examples=100)
@given(
    kind=st.text(min_size=1, max_size=5).filter(str.strip),
    changes=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("host", "rank", "device_id", "device_used_bytes", "collector"), odd)
    ),
    severity=odd,
)
def test_any_event_can_be_recorded_and_scraped(kind, changes, severity):
    """This holds for any names and numbers."""
    registry = CollectorRegistry()
    recorder = TelemetryRecorder(PrometheusCollector(registry))
    recorder.record(
        project_telemetry_mapping(event(event_type=kind, metadata={"severity": severity}, **changes))
    )
    assert b"telemetry_events_total{" in generate_latest(registry)


def test_an_event_reaches_a_snapshot(metrics, recorder):
    """Its measurements are custom metrics."""
    recorder.record(project_telemetry_mapping(event()))
    custom = metrics.snapshot().metrics.custom
    key = "telemetry/memory/device/used[device:0,host:node-1,rank:1,source_kind:cuda]"
    assert custom[key] == 4096


def test_an_event_reaches_a_stream(recorder, metrics):
    """Its gauges are changes."""

    async def first() -> object:
        stream = metrics.metrics_stream({"name": "telemetry.memory.device.used"})
        recorder.record(project_telemetry_mapping(event()))
        return (await anext(stream)).value

    assert asyncio.run(first()) == 4096
