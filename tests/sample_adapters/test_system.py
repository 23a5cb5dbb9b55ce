"""A system with only third-party parts offers all that a system offers."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.resources import files

import jsonschema
import pytest

from metrics_framework import MetricsSystem, PerformanceSnapshot
from metrics_framework.plugins import load_adapter
from metrics_framework.streams import sources
from metrics_framework.testing.conformance import AsyncMetricsSystemContract, MetricsSystemContract

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sample monitor reads /proc")

DASHBOARDS = ("overview", "performance", "errors", "resources")


class Output:
    """An output that keeps its snapshots."""

    name = "sample"

    def __init__(self):
        self.written = []

    def write(self, snapshot):
        """Keep a snapshot."""
        self.written.append(snapshot)


def make_system(package, clock, **options):
    """Return a system with five parts of the sample adapters."""
    if package == "sample-opentelemetry":
        pytest.importorskip("opentelemetry.sdk.metrics")
    backend = load_adapter(f"{package}.backend")(clock)
    parts = {
        part: load_adapter(f"{package}.{part}")(backend)
        for part in ("collector", "timer", "tracker", "aggregator")
    }
    monitor = load_adapter("sample-minimal.monitor")(parts["collector"])
    return MetricsSystem(**parts, resource_monitor=monitor, clock=clock, **options)


class SystemFactory:
    """Creates a system from one package."""

    package: str

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch):
        """Shorten the polling interval of streams."""
        monkeypatch.setattr(sources, "POLL_SECONDS", 0.001)

    def make_system(self, clock):
        """Create it."""
        return make_system(self.package, clock)


class Prometheus(SystemFactory):
    """Creates a system on prometheus_client."""

    package = "sample-prometheus"


class TestPrometheusSystem(Prometheus, MetricsSystemContract):
    """The facade in front of prometheus_client is a `MetricsSystem`."""


class TestPrometheusAsyncSystem(Prometheus, AsyncMetricsSystemContract):
    """The facade in front of prometheus_client is an `AsyncMetricsSystem`."""


class OpenTelemetry(SystemFactory):
    """Creates a system on the OpenTelemetry SDK."""

    package = "sample-opentelemetry"


class TestOpenTelemetrySystem(OpenTelemetry, MetricsSystemContract):
    """The facade in front of the OpenTelemetry SDK is a `MetricsSystem`."""


class TestOpenTelemetryAsyncSystem(OpenTelemetry, AsyncMetricsSystemContract):
    """The facade in front of the OpenTelemetry SDK is an `AsyncMetricsSystem`."""


@pytest.fixture(params=["sample-prometheus", "sample-opentelemetry"])
def output_and_system(request, clock):
    """Return an output and a system with some records that writes to it."""
    output = Output()
    system = make_system(request.param, clock, outputs=[output])
    for number in range(1, 11):
        timer_id = system.timer.start_timer("checkout")
        clock.advance(number / 10)
        system.timer.stop_timer(timer_id)
        system.tracker.record_success("checkout")
        system.collector.record_counter("orders", 2, {"country": "NL"})
        system.collector.record_gauge("queue", number)
        system.collector.record_histogram("size", number)
    system.tracker.record_failure("checkout", "timeout")
    yield output, system
    system.shutdown_metrics()


@pytest.fixture
def system(output_and_system):
    """Return that system."""
    return output_and_system[1]


def assert_valid(snapshot):
    """Assert that a snapshot is a valid v1 document for the models and for the JSON schema."""
    document = snapshot.to_dict()
    assert PerformanceSnapshot.from_dict(json.loads(json.dumps(document))) == snapshot
    schema = files("metrics_framework.snapshots") / "schema" / "performance-snapshot-v1.json"
    jsonschema.validate(document, json.loads(schema.read_text()))


def test_it_emits_a_valid_snapshot(system):
    """Latency, throughput, memory and custom keys come from the third-party parts."""
    snapshot = system.snapshot()
    assert_valid(snapshot)
    assert snapshot.metrics.latency.mean == pytest.approx(550)
    assert snapshot.metrics.throughput == pytest.approx(10 / 5.5)
    assert snapshot.metrics.memory_mb > 1
    custom = snapshot.metrics.custom
    assert custom["orders[country:NL]"] == 20
    assert custom["queue"] == 10
    rates = [value for key, value in custom.items() if "success_rate" in key]
    assert rates == [pytest.approx(10 / 11)]


def test_it_reports_its_health(system):
    """Health uses the outcomes of the third-party tracker and the readings of its monitor."""
    health = system.get_system_health()
    assert health["error_rate"] == pytest.approx(1 / 11)
    assert health["operations"] == 11
    assert health["healthy"] is True
    assert 0 < health["memory_percent"] <= 100
    assert health["series"] == 5


@pytest.mark.parametrize("dashboard", DASHBOARDS)
def test_it_creates_every_dashboard(system, dashboard):
    """Each dashboard has panels with content, as plain data."""
    data = json.loads(json.dumps(system.create_dashboard_data(dashboard)))
    shown = {row["name"] for panel in data["panels"] for row in panel["series"]}
    machine = {"system.memory.utilization", "process.memory.usage"}
    assert shown >= (machine if dashboard == "resources" else {"checkout"})


def test_it_streams_what_changes(system, monkeypatch):
    """A third-party aggregator is polled; changed values are streamed."""
    monkeypatch.setattr(sources, "POLL_SECONDS", 0.001)

    async def changed():
        stream = system.metrics_stream({"name": "or*", "tags": {"country": "NL"}})
        system.collector.increment("orders", {"country": "NL"})
        system.collector.increment("orders", {"country": "BE"})
        async with asyncio.timeout(20):
            value = await anext(stream)
        await stream.aclose()
        return value.name, value.tags, value.value

    assert asyncio.run(changed()) == ("orders", {"country": "NL"}, 21)


def test_it_exports(output_and_system):
    """Snapshots go to an output on demand and at shutdown; text comes from the third-party aggregator."""
    output, system = output_and_system
    assert asyncio.run(system.export_metrics_async(["sample", "nowhere"])) == {
        "sample": True,
        "nowhere": False,
    }
    system.shutdown_metrics()
    assert len(output.written) == 2
    for snapshot in output.written:
        assert_valid(snapshot)
    assert "orders" in system.aggregator.export_metrics("json")


def test_it_measures(system):
    """A measured block records into the third-party timer and tracker."""
    with pytest.raises(KeyError), system.measure("refund", {"country": "NL"}):
        raise KeyError
    with system.measure("refund"):
        pass
    assert system.timer.get_timing_stats("refund")["count"] == 2
    assert system.tracker.get_failure_breakdown("refund") == {"KeyError": 1}


def test_it_records_resources_in_third_party_gauges(system):
    """The third-party collector records the readings of the third-party monitor."""
    asyncio.run(system.collect_metrics_async())
    assert system.aggregator.get_metric_summary("process.memory.usage")["last"] > 1_000_000
