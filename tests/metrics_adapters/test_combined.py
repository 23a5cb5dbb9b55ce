"""The combined aggregator returns the metrics of all its members."""

from __future__ import annotations

import json
import logging
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from metrics_adapters.combined import CombinedAggregator
from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_adapters.null import NullAggregator
from metrics_adapters.prometheus import RegistryAggregator
from metrics_adapters.resources import PsutilMonitor
from metrics_framework import MetricsSystem
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.plugins import load_adapter
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.recording import Store
from metrics_framework.testing.conformance import MetricsAggregatorContract, Parts
from metrics_framework.values import MetricType


class TestContract(MetricsAggregatorContract):
    """Combined with an empty aggregator, it behaves like its other member."""

    def make(self, clock):
        """Combine an empty store with a null aggregator."""
        store = Store(clock)
        return Parts(
            collector=InMemoryCollector(store),
            aggregator=CombinedAggregator(NullAggregator(), InMemoryAggregator(store)),
        )


@pytest.fixture
def stores(clock):
    """Return two stores."""
    return Store(clock), Store(clock)


@pytest.fixture
def both(stores):
    """Return the two stores' aggregators as one."""
    return CombinedAggregator(*map(InMemoryAggregator, stores))


def messages(caplog, level) -> list[str]:
    """Return the messages of one level."""
    return [record.getMessage() for record in caplog.records if record.levelno == level]


class Broken:
    """An aggregator whose methods fail."""

    def get_metric_summary(self, metric_name, time_window=None):
        """Fail."""
        raise ConnectionError("away")

    def get_metrics_by_tag(self, tag_filter):
        """Fail."""
        raise ConnectionError("away")

    def export_metrics(self, format="json"):
        """Fail."""
        raise ConnectionError("away")

    def get_top_metrics(self, metric_type, limit=10):
        """Fail."""
        raise ConnectionError("away")


def test_it_is_found_by_its_name():
    """It fulfils the Protocol and is in the table of adapters."""
    assert load_adapter("combined") is CombinedAggregator
    assert isinstance(CombinedAggregator(NullAggregator()), MetricsAggregator)


def test_results_contain_all_members(stores, both):
    """Summaries, lists, exports and rankings contain the metrics of both."""
    InMemoryCollector(stores[0]).record_counter("mine", 3, {"x": "1"})
    InMemoryCollector(stores[1]).record_counter("theirs", 5, {"x": "1"})
    InMemoryCollector(stores[1]).record_gauge("other", 7)
    assert both.get_metric_summary("mine")["total"] == 3
    assert both.get_metric_summary("theirs", timedelta(minutes=1))["total"] == 5
    assert {value.name for value in both.get_metrics_by_tag({"x": "1"})} == {"mine", "theirs"}
    exported = json.loads(both.export_metrics())["metrics"]
    assert {metric["name"] for metric in exported} == {"mine", "theirs", "other"}
    assert [value.name for value in both.get_top_metrics(MetricType.COUNTER)] == ["theirs", "mine"]
    assert [value.name for value in both.get_top_metrics(MetricType.COUNTER, 1)] == ["theirs"]


def test_the_first_member_with_a_name_wins(stores, both, caplog):
    """All results for a shared name are those of the first, which is logged once."""
    InMemoryCollector(stores[0]).record_counter("orders", 1, {"x": "1"})
    InMemoryCollector(stores[1]).record_counter("orders", 9, {"x": "2"})
    for _ in range(2):
        assert both.get_metric_summary("orders")["total"] == 1
        assert both.get_metrics_by_tag({"x": "2"}) == []
        assert [value.value for value in both.get_metrics_by_tag({})] == [1]
        assert [value.value for value in both.get_top_metrics(MetricType.COUNTER)] == [1]
    (message,) = messages(caplog, logging.WARNING)
    assert "['orders']" in message


def test_hidden_series_do_not_shorten_a_ranking(stores, both):
    """Other series take their places."""
    for number in range(5):
        InMemoryCollector(stores[0]).record_counter(f"shared.{number}", 1)
        InMemoryCollector(stores[1]).record_counter(f"shared.{number}", 100)
        InMemoryCollector(stores[1]).record_counter(f"own.{number}", 10 + number)
    top = [value.name for value in both.get_top_metrics(MetricType.COUNTER, 5)]
    assert top == ["own.4", "own.3", "own.2", "own.1", "own.0"]


def test_a_metric_and_an_operation_may_share_a_name(stores, both, caplog):
    """They have separate namespaces."""
    InMemoryCollector(stores[0]).record_counter("checkout", 1)
    InMemoryTimer(stores[1]).time_operation("checkout", int)
    InMemoryTracker(stores[1]).record_success("checkout")
    assert len(both.get_metrics_by_tag({})) == 3
    assert not messages(caplog, logging.WARNING)


@pytest.mark.parametrize("first", [True, False])
def test_a_failing_member_affects_no_other(stores, caplog, first):
    """The results contain the other members, and the failure is logged once."""
    InMemoryCollector(stores[0]).record_counter("orders", 2)
    well = InMemoryAggregator(stores[0])
    combined = CombinedAggregator(*((Broken(), well) if first else (well, Broken())))
    for _ in range(2):
        assert combined.get_metric_summary("orders")["total"] == 2
        assert len(combined.get_metrics_by_tag({})) == 1
        assert len(combined.get_top_metrics(MetricType.COUNTER)) == 1
        assert "orders" in combined.export_metrics("prometheus")
    (message,) = messages(caplog, logging.ERROR)
    assert "away" in message


def test_an_operation_is_not_a_metric(stores, both):
    """The error says so, and names the calls that read an operation."""
    InMemoryTimer(stores[1]).time_operation("checkout", int)
    with pytest.raises(UnknownMetricError, match="is an operation and not a metric: read it with timer"):
        both.get_metric_summary("checkout")


def test_an_unknown_name_has_suggestions_of_all_members(stores, both):
    """The error quotes the name and suggests names of every member."""
    InMemoryCollector(stores[1]).record_counter("orders", 2)
    with pytest.raises(UnknownMetricError, match=r"'ordres'.*'orders'"):
        both.get_metric_summary("ordres")


@pytest.mark.parametrize("limit", [0, True, "3"])
@pytest.mark.parametrize(
    "members", [(), (Broken(),), (InMemoryAggregator(),)], ids=["none", "broken", "well"]
)
def test_bad_input_is_an_error(limit, members):
    """This also holds without members."""
    with pytest.raises(InvalidInputError, match="limit"):
        CombinedAggregator(*members).get_top_metrics(MetricType.COUNTER, limit)


@pytest.mark.parametrize("member", [InMemoryAggregator, InMemoryCollector()], ids=["class", "collector"])
def test_a_member_must_be_an_aggregator(member):
    """A class, or another part, is refused."""
    with pytest.raises(InvalidInputError):
        CombinedAggregator(NullAggregator(), member)


# -- beside a user's prometheus_client metrics -------------------------------------------------------------


@pytest.fixture
def registry():
    """Return a registry with metrics of an application that existed before."""
    registry = CollectorRegistry()
    requests = Counter("http_requests", "Requests.", ["method"], registry=registry)
    requests.labels("GET").inc(40)
    Gauge("queue_depth", "Waiting.", registry=registry).set(7)
    latency = Histogram("http_request_duration_seconds", "Latency.", registry=registry)
    for _ in range(40):
        latency.observe(0.04)
    return registry


def test_a_system_shows_existing_metrics_beside_its_own(registry):
    """Snapshot and dashboards contain them. Health counts the series of its own store only."""
    aggregator = CombinedAggregator(InMemoryAggregator(), RegistryAggregator(registry))
    with MetricsSystem(aggregator=aggregator) as metrics:
        metrics.collector.increment("orders")
        metrics.timer.time_operation("checkout", int)
        custom = metrics.snapshot().metrics.custom
        overview = metrics.create_dashboard_data("overview")
        performance = metrics.create_dashboard_data("performance")
        series = metrics.get_system_health()["series"]
    assert custom["orders"] == 1
    assert custom["http_requests_total[method:GET]"] == 40
    assert custom["queue_depth"] == 7
    shown = {panel["id"]: {row["name"] for row in panel["series"]} for panel in overview["panels"]}
    assert shown["duration-p95"] == {"http_request_duration_seconds", "checkout"}
    assert shown["throughput"] >= {"http_requests_total", "orders"}
    (slowest,) = (panel["series"][0] for panel in performance["panels"] if panel["id"] == "duration-p95")
    assert slowest["value"] == pytest.approx(48.75)
    assert series == 2


def test_a_latency_may_be_a_histogram_in_seconds(registry):
    """The latency of a snapshot is in milliseconds, and its throughput is the rate of the histogram."""
    aggregator = CombinedAggregator(InMemoryAggregator(), RegistryAggregator(registry))
    with MetricsSystem(aggregator=aggregator, latency_metric="http_request_duration_seconds") as metrics:
        metrics.timer.time_operation("checkout", int)
        snapshot = metrics.snapshot()
    latency = snapshot.metrics.latency
    assert latency.mean == pytest.approx(40)
    assert 25 < latency.p50 <= latency.p95 <= latency.p99 <= 50
    assert snapshot.metrics.throughput > 0
    assert snapshot.metadata.tags["latency_metric"] == "http_request_duration_seconds"
    assert "http_request_duration_seconds/p95" not in snapshot.metrics.custom


def test_parts_with_another_store_are_still_refused(registry):
    """A combined aggregator over one store does not go with a collector on another."""
    aggregator = CombinedAggregator(RegistryAggregator(registry), InMemoryAggregator())
    with pytest.raises(InvalidInputError, match="have different stores"):
        MetricsSystem(aggregator=aggregator, collector=InMemoryCollector())
    assert MetricsSystem(aggregator=aggregator).collector.store is aggregator.store


def test_without_a_store_it_has_none(registry):
    """Aggregators without a store have nothing to record into."""
    assert CombinedAggregator(RegistryAggregator(registry)).store is None


def test_a_stream_sees_existing_metrics_change(registry):
    """A change of a counter of prometheus_client is an event of the stream."""
    import asyncio

    depth = registry._names_to_collectors["queue_depth"]

    async def first_change():
        with MetricsSystem(
            aggregator=CombinedAggregator(InMemoryAggregator(), RegistryAggregator(registry)),
            resource_monitor=PsutilMonitor(),
        ) as metrics:
            stream = metrics.metrics_stream({"name": "queue_*"})
            depth.set(8)
            return await asyncio.wait_for(anext(stream), 30)

    assert asyncio.run(first_change()).value == 8
