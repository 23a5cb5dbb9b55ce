"""Targets: the store, registry and callbacks of any object that can be exposed."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from metrics_adapters.in_memory import InMemoryCollector, InMemoryTimer
from metrics_adapters.null import NullCollector, NullTimer, NullTracker
from metrics_adapters.prometheus import (
    PrometheusCollector,
    RegistryAggregator,
    make_wsgi_app,
    write_textfile,
)
from metrics_adapters.prometheus.targets import (
    Exposition,
    TextWithoutTimestamps,
    callbacks_of,
    exposition_of,
)
from metrics_framework import MetricsSystem
from metrics_framework.errors import InvalidInputError
from metrics_framework.exposition.names import Escaping
from metrics_framework.exposition.text import Format
from metrics_framework.recording import Store


@pytest.mark.parametrize(
    "make",
    [
        lambda store: store,
        InMemoryCollector,
        InMemoryTimer,
        lambda store: PrometheusCollector(CollectorRegistry(), store),
        lambda store: MetricsSystem(collector=InMemoryCollector(store)),
    ],
    ids=["store", "collector", "timer", "Prometheus collector", "system"],
)
def test_every_kind_of_target_is_exposed(make, clock):
    """A store, a part on one and a system of such parts give the same text."""
    store = Store(clock)
    exposition = exposition_of(make(store))
    InMemoryCollector(store).increment("orders")
    assert b"orders_total 1" in exposition.render().replace(b"{}", b"")


def test_an_exposition_is_returned_unchanged(clock):
    """A registry beside it is an error."""
    exposition = Exposition(Store(clock))
    assert exposition_of(exposition) is exposition
    with pytest.raises(InvalidInputError, match=r"Exposition\(store, registry\)"):
        exposition_of(exposition, CollectorRegistry())


@pytest.mark.parametrize(
    "metrics",
    [None, "metrics", 9100, CollectorRegistry(), NullCollector(), MetricsSystem],
    ids=["nothing", "text", "number", "registry", "null collector", "class"],
)
def test_a_target_without_a_store_is_an_error(metrics):
    """The error shows the argument and what to pass instead."""
    with pytest.raises(InvalidInputError, match=r"has no store and cannot be exposed: pass a .* registry="):
        exposition_of(metrics)


def test_a_wrong_registry_is_an_error(clock):
    """The message is the same as that of the collector."""
    with pytest.raises(InvalidInputError, match="registry='default' is not a CollectorRegistry: pass one"):
        exposition_of(Store(clock), "default")


def test_every_export_path_writes_the_same_text(clock, tmp_path):
    """The text of the endpoint is that of the file, the push and the aggregator, from the first record on."""
    for order in range(4):
        metrics = MetricsSystem(clock=clock)
        for number in range(100):
            metrics.collector.record_timer("wait", number, tags={"a": str(number % 3)})
            metrics.collector.record_histogram("payload.bytes", number * 100)
        metrics.collector.increment("a:b")
        metrics.collector.record_gauge("level", -1)
        with metrics.measure("work"):
            clock.advance(0.1)

        def endpoint(metrics=metrics):
            app = make_wsgi_app(metrics)
            return b"".join(app({"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics"}, lambda *start: None))

        def textfile(metrics=metrics):
            write_textfile(tmp_path / "a.prom", metrics)
            return (tmp_path / "a.prom").read_bytes()

        paths = [
            endpoint,
            textfile,
            lambda metrics=metrics: metrics.aggregator.export_metrics("prometheus").encode(),
            lambda metrics=metrics: TextWithoutTimestamps(None).render(metrics),
        ]
        first, *others = [path() for path in paths[order:] + paths[:order]]
        assert others == [first] * 3
        assert b'wait_seconds_bucket{a="0",le="0.005"} 2\n' in first
        assert b'payload_bytes_bucket{le="4096.0"} 41\n' in first
        assert b'work_duration_seconds_bucket{le="0.1"} 1\n' in first


@pytest.mark.parametrize("escaping", Escaping)
@pytest.mark.parametrize("format", Format)
def test_every_store_on_a_registry_has_the_same_text(clock, format, escaping):
    """It does not matter which of them the endpoint belongs to; the text is valid in both formats."""
    registry = CollectorRegistry()
    one, other = (PrometheusCollector(registry, Store(clock)) for _ in range(2))
    one.increment("orders", {"路由": "/"})
    other.increment("请求")
    other.record_histogram("delay", -1)
    other.record_histogram("size", 3, {"le": "x"})
    beside = Exposition(one.store, registry)
    alone = [Exposition(each.store).render(format, escaping) for each in (one, other)]
    text = b"".join(each.removesuffix(format.end) for each in alone) + format.end
    assert beside.render(format, escaping) == text
    if format is Format.OPENMETRICS:
        assert len(list(parse_openmetrics(text.decode()))) == 4
    assert b"delay" not in beside.render(format, escaping, frozenset(["size_bucket"]))
    assert b"size_bucket" in beside.render(format, escaping, frozenset(["size_bucket"]))


def test_an_aggregator_without_a_store_is_exposed_beside_a_registry(caplog):
    """A metric whose name the registry has is left out, so no family is there twice."""
    own, registry = CollectorRegistry(), CollectorRegistry()
    Counter("jobs", "Own.", registry=own).inc(1)
    Gauge("level", "Own.", registry=own).set(2)
    Counter("jobs", "Theirs.", registry=registry).inc(5)
    system = MetricsSystem(
        collector=NullCollector(),
        timer=NullTimer(),
        tracker=NullTracker(),
        aggregator=RegistryAggregator(own),
    )
    text = TextWithoutTimestamps(registry)
    for _ in range(2):
        families = list(text_string_to_metric_families(text.render_system(system).decode()))
        samples = [sample for family in families for sample in family.samples]
        assert {sample.name: sample.value for sample in samples if "created" not in sample.name} == {
            "level": 2,
            "jobs_total": 5,
        }
        assert len({family.name for family in families}) == len(families)
    assert sum("its name is taken" in record.message for record in caplog.records) == 1


def test_an_exposed_store_has_default_buckets_and_unique_names(clock):
    """This also holds for a store without a Prometheus collector; its own buckets are kept."""
    collector = InMemoryCollector(Store(clock))
    exposition = exposition_of(collector)
    collector.record_timer("latency", 70)
    assert b'le="0.1"' in exposition.render()
    collector.increment("a.b")
    with pytest.raises(InvalidInputError, match="would be exposed"):
        collector.increment("a_b")
    own = Store(clock, default_buckets=[7])
    exposition_of(own)
    assert own.default_buckets == (7,)


class WithCallbacks:
    """Has callbacks, like a system."""

    def __init__(self, callbacks):
        self.callbacks = callbacks


class Callbacks:
    """Has a method `collect`."""

    def collect(self):
        """Do nothing."""


def test_callbacks_are_the_argument_or_those_of_the_system():
    """The argument takes precedence; a system may have none."""
    given, own = Callbacks(), Callbacks()
    assert callbacks_of(WithCallbacks(own)) is own
    assert callbacks_of(WithCallbacks(own), given) is given
    assert callbacks_of(WithCallbacks(None)) is None
    assert callbacks_of(object()) is None


def test_callbacks_without_collect_are_an_error():
    """The error names the missing method."""
    with pytest.raises(InvalidInputError, match=r"has no collect\(\): pass MetricsSystem.callbacks"):
        callbacks_of(object(), print)
