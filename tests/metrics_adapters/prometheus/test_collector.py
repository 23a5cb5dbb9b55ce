"""The Prometheus collector on a prometheus_client registry: scrapes contain exactly the recorded metrics."""

from __future__ import annotations

import asyncio
import http.server
import io
import math
import re
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
    make_asgi_app,
    make_wsgi_app,
    push_to_gateway,
    start_http_server,
    write_to_textfile,
)
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.utils import floatToGoString

from metrics_adapters.in_memory import (
    InMemoryAggregator,
    InMemoryCollector,
    InMemoryTimer,
    InMemoryTracker,
)
from metrics_adapters.prometheus import Exposition, PrometheusCollector, RegistryAggregator
from metrics_framework import MetricsSystem, MetricUnit, Rule
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.exposition import families as families_module
from metrics_framework.exposition.families import ExposedFamilies, FamilyReader
from metrics_framework.recording import Store
from metrics_framework.recording.buckets import default_bounds
from metrics_framework.testing.conformance import (
    MetricCollectorContract,
    MetricsAggregatorContract,
    Parts,
    PerformanceTimerContract,
    SuccessFailureTrackerContract,
)

FORMATS = {"text": (generate_latest, parse_text), "OpenMetrics": (generate_openmetrics, parse_openmetrics)}


@pytest.fixture
def registry() -> CollectorRegistry:
    """Return an empty registry."""
    return CollectorRegistry()


@pytest.fixture
def collector(registry, clock) -> PrometheusCollector:
    """Return a collector on a store of the test's clock."""
    return PrometheusCollector(registry, Store(clock))


def scraped(registry, kind="OpenMetrics"):
    """Return name and labels to value, as a server parses them."""
    generate, parse = FORMATS[kind]
    samples = [sample for one in parse(generate(registry).decode()) for sample in one.samples]
    found = {(sample.name, *sorted(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples)
    return found


def messages(caplog):
    """Return the logged messages."""
    return [record.getMessage() for record in caplog.records]


# -- the contracts -----------------------------------------------------------------------------------------


class Exposed:
    """Creates the parts on a store that a registry exposes."""

    def make(self, clock):
        """Create the parts on an empty store and registry."""
        collector = PrometheusCollector(CollectorRegistry(), Store(clock))
        store = collector.store
        return Parts(collector, InMemoryTimer(store), InMemoryTracker(store), InMemoryAggregator(store))


class TestCollector(Exposed, MetricCollectorContract):
    """`PrometheusCollector` is a `MetricCollector`."""


class TestTimer(Exposed, PerformanceTimerContract):
    """A timer on its store fulfils the contract of `PerformanceTimer`."""


class TestTracker(Exposed, SuccessFailureTrackerContract):
    """A tracker on its store fulfils the contract of `SuccessFailureTracker`."""


class TestAggregator(Exposed, MetricsAggregatorContract):
    """An aggregator of its store fulfils the contract of `MetricsAggregator`."""


# -- names, units and values -------------------------------------------------------------------------------


@pytest.mark.smoke
def test_records_are_scraped(registry, collector):
    """Each type has its Prometheus name, base unit, labels and help text."""
    collector.describe("http.requests", help="Requests\nserved \\ answered.")
    collector.describe("cache.size", unit=MetricUnit.KILOBYTES)
    collector.describe("upload", unit=MetricUnit.BYTES, buckets=(1_000, 1_000_000))
    collector.record_counter("http.requests", 3, {"http.route": '/"quoted"\n\\'})
    collector.record_gauge("cache.size", 1.5)
    collector.record_histogram("upload", 20_000)
    collector.record_timer("http.latency", 33)
    found = scraped(registry)
    assert found == scraped(registry, "text")
    assert found[("http_requests_total", ("http_route", '/"quoted"\n\\'))] == 3
    assert found[("cache_size_bytes",)] == 1_500
    assert found[("upload_bytes_bucket", ("le", "1000.0"))] == 0
    assert found[("upload_bytes_bucket", ("le", "1e+06"))] == 1
    assert found[("upload_bytes_sum",)] == 20_000
    assert found[("http_latency_seconds_bucket", ("le", "0.025"))] == 0
    assert found[("http_latency_seconds_bucket", ("le", "0.05"))] == 1
    assert found[("http_latency_seconds_sum",)] == 0.033
    (requests,) = [one for one in registry.collect() if one.name == "http_requests"]
    assert (requests.type, requests.documentation) == ("counter", "Requests\nserved \\ answered.")


def test_operations_are_a_histogram_and_a_counter_of_outcomes(registry):
    """A measured operation has durations in seconds, and outcomes by error type."""
    with MetricsSystem(collector=PrometheusCollector(registry)) as metrics:
        with metrics.measure("db.query", {"table": "users"}):
            pass
        with pytest.raises(KeyError), metrics.measure("db.query", {"table": "users"}):
            raise KeyError
        found = scraped(registry)
        count = metrics.timer.get_timing_stats("db.query")["count"]
    assert found[("db_query_duration_seconds_count", ("table", "users"))] == count == 2
    outcome = ("db_query_operations_total", ("error_type", ""), ("outcome", "success"), ("table", "users"))
    assert found[outcome] == 1
    failure = ("error_type", "KeyError"), ("outcome", "failure"), ("table", "users")
    assert found[("db_query_operations_total", *failure)] == 1


def test_a_whole_system_has_no_name_conflicts(registry):
    """The resource metrics of a system are exposed beside those of prometheus_client."""
    with MetricsSystem(collector=PrometheusCollector(registry)) as metrics:
        asyncio.run(metrics.collect_metrics_async())
        recorded = {value.name for value in metrics.aggregator.get_metrics_by_tag({})}
        exposed = [one.name for one in registry.collect()]
        assert {metrics.collector.recorded_name(name) for name in exposed} >= recorded
        assert len(set(exposed)) == len(exposed) >= len(recorded)
        assert len(scraped(registry, "text")) == len(scraped(registry)) > 10


@pytest.mark.parametrize("kind", FORMATS)
def test_the_samples_are_exactly_those_of_the_store(registry, collector, kind):
    """Both parsers find all series of the store and no others."""
    for number in range(50):
        tags = {"number": str(number % 7)}
        collector.record_counter("counter", number / 4, tags)
        collector.record_gauge("gauge", -number, tags)
        collector.record_histogram("histogram", number / 5, tags)
        collector.record_timer("timer", number * 40, MetricUnit.MILLISECONDS, tags)
    found = scraped(registry, kind)
    for reading in collector.store.readings():
        labels = tuple(reading.tags.items())
        if reading.name == "counter":
            assert found.pop(("counter_total", *labels)) == reading.summary["sum"]
        elif reading.name == "gauge":
            assert found.pop(("gauge", *labels)) == reading.summary["last"]
        else:
            name, per = ("timer_seconds", 1e3) if reading.name == "timer" else ("histogram", 1)
            assert found.pop((f"{name}_count", *labels)) == reading.summary["count"]
            assert found.pop((f"{name}_sum", *labels)) == pytest.approx(reading.summary["sum"] / per)
            for bound, count in reading.buckets.cumulated().items():
                le = floatToGoString(bound / per)
                assert found.pop((f"{name}_bucket", *sorted((*labels, ("le", le))))) == count
    assert found == {}


def test_constant_tags_and_rules_apply(registry):
    """A scrape has the constant tags of the store and the names after its rules."""
    rules = [Rule("noisy.*", rename="lib.{name}"), Rule("lib.noisy.time", buckets=(100, 250))]
    collector = PrometheusCollector(registry, Store(tags={"service": "shop"}, rules=rules))
    collector.record_timer("noisy.time", 200)
    found = scraped(registry)
    service = ("service", "shop")
    assert found[("lib_noisy_time_seconds_bucket", ("le", "0.1"), service)] == 0
    assert found[("lib_noisy_time_seconds_bucket", ("le", "0.25"), service)] == 1
    assert collector.recorded_name("lib_noisy_time_seconds") == "lib.noisy.time"


# -- buckets -----------------------------------------------------------------------------------------------


def test_a_value_on_a_bound_is_in_its_bucket(registry, collector):
    """A duration equal to a default bound counts in its bucket, as in prometheus_client."""
    theirs, bounds = CollectorRegistry(), default_bounds(MetricUnit.SECONDS)
    histogram = Histogram("t_seconds", "Help.", buckets=bounds, registry=theirs)
    for bound in bounds:
        collector.record_timer("t", bound, MetricUnit.SECONDS)
        histogram.observe(bound)
    ours = {key: value for key, value in scraped(registry, "text").items() if "_sum" not in key[0]}
    assert ours.items() <= scraped(theirs, "text").items()


def test_bounds_before_the_first_scrape_count_all_values(registry, collector):
    """Bounds that are set after the first records also count the earlier values."""
    for value in (0.5, 3, 7):
        collector.record_histogram("h", value)
    InMemoryTimer(collector.store).time_operation("op", int)
    collector.describe("h", buckets=(1, 5))
    collector.describe("op", buckets=(0.5, 60_000))
    collector.record_histogram("h", 4)
    found = scraped(registry)
    assert [found[("h_bucket", ("le", le))] for le in ("1.0", "5.0", "+Inf")] == [1, 3, 4]
    assert (found[("h_count",)], found[("h_sum",)]) == (4, 14.5)
    assert found[("op_duration_seconds_bucket", ("le", "60.0"))] == 1


def test_new_bounds_restart_a_histogram(registry, collector):
    """New bounds after a scrape restart the series at zero, which Prometheus treats as a counter reset."""
    collector.record_histogram("h", 3)
    collector.record_timer("t", 3)
    InMemoryTimer(collector.store).time_operation("op", int)
    scraped(registry)
    collector.describe("h", buckets=(1, 5))
    collector.describe("op", buckets=(0.5, 60_000))
    found = scraped(registry)
    assert found[("h_count",)] == found[("h_bucket", ("le", "+Inf"))] == found[("h_sum",)] == 0
    assert found[("op_duration_seconds_bucket", ("le", "60.0"))] == 0
    assert found[("t_seconds_count",)] == 1
    collector.record_histogram("h", 4)
    InMemoryTimer(collector.store).time_operation("op", int)
    found = scraped(registry)
    assert {key[1][1] for key in found if key[0] == "h_bucket"} == {"1.0", "5.0", "+Inf"}
    assert found[("h_bucket", ("le", "5.0"))] == found[("h_count",)] == 1
    assert found[("op_duration_seconds_bucket", ("le", "60.0"))] == 1


def test_bounds_do_not_affect_other_types_of_the_same_name(registry, collector):
    """A tracked operation may have buckets for its durations, and a counter ignores buckets."""
    for name in ("op", "c"):
        collector.describe(name, buckets=(1, 2))
    InMemoryTracker(collector.store).record_success("op")
    collector.increment("c")
    collector.describe("c", buckets=(1, 3))
    assert scraped(registry)[("c_total",)] == 1
    assert scraped(registry)[("op_operations_total", ("error_type", ""), ("outcome", "success"))] == 1


def test_a_sum_that_can_fall_is_left_out(registry, collector):
    """With negative values or bounds, the buckets and the count are exposed."""
    collector.record_histogram("h", -3)
    collector.describe("below", buckets=(-5, 5))
    collector.record_histogram("below", 1)
    found = scraped(registry, "text")
    assert {key[0] for key in found} == {"h_bucket", "h_count", "below_bucket", "below_count"}
    assert found[("h_count",)] == found[("below_count",)] == 1


def test_default_buckets_of_a_store_are_kept(registry, clock):
    """A store keeps its own default buckets, which are in seconds for timers."""
    collector = PrometheusCollector(registry, Store(clock, default_buckets=(0.0333, 7)))
    collector.record_timer("t", 33.3)
    collector.record_histogram("h", 5)
    found = scraped(registry)
    assert {key[1][1] for key in found if key[0] == "t_seconds_bucket"} == {"0.0333", "7.0", "+Inf"}
    assert found[("t_seconds_bucket", ("le", "0.0333"))] == 1
    assert found[("h_bucket", ("le", "7.0"))] == 1


# -- name conflicts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("record_counter", "http.requests"), ("record_counter", "http_requests")),
        (("record_counter", "a"), ("record_counter", "a.total")),
        (("record_counter", "a"), ("record_gauge", "a.total")),
        (("record_histogram", "a"), ("record_gauge", "a_count")),
        (("record_gauge", "a.sum"), ("record_histogram", "a")),
        (("record_histogram", "a"), ("record_gauge", "a.bucket")),
        (("record_counter", "a"), ("record_gauge", "a_created")),
        (("record_timer", "a"), ("record_gauge", "a_seconds")),
    ],
    ids=lambda pair: "-".join(pair),
)
def test_conflicting_names_raise_an_error_that_names_both(registry, collector, first, second):
    """The first record of the second name fails, and the first metric is unaffected."""
    getattr(collector, first[0])(first[1], 1)
    for _ in range(2):
        with pytest.raises(InvalidInputError) as error:
            getattr(collector, second[0])(second[1], 1, tags={"any": "tag"})
        assert repr(first[1]) in str(error.value)
        assert repr(second[1]) in str(error.value)
    getattr(collector, first[0])(first[1], 1)
    assert {reading.name for reading in collector.store.readings()} == {first[1]}
    scraped(registry)


def test_operations_and_metrics_may_conflict(collector):
    """The durations and outcomes of operations have exposed names too."""
    collector.record_timer("job.duration", 1)
    collector.increment("job.operations")
    with pytest.raises(InvalidInputError, match=r"operation 'job'.*'job\.duration'"):
        InMemoryTimer(collector.store).start_timer("job")
    with pytest.raises(InvalidInputError, match=r"operation 'job'.*'job\.operations'"):
        InMemoryTracker(collector.store).record_success("job")


def test_a_conflict_is_counted_if_errors_are_logged(registry, caplog):
    """With on_error="log" nothing raises, and the log names both metrics."""
    collector = PrometheusCollector(registry, Store(on_error="log"))
    collector.increment("a.b")
    collector.increment("a_b")
    assert scraped(registry) == {("a_b_total",): 1}
    assert collector.store.rejected == 1
    assert any("'a.b'" in one and "'a_b'" in one for one in messages(caplog))


def test_a_name_is_free_after_its_metric_is_removed(registry, collector):
    """A removed metric, or one whose only record failed, reserves no name."""
    collector.increment("a.b")
    collector.remove("a.b")
    collector.increment("a_b")
    with pytest.raises(InvalidInputError, match="finite"):
        collector.record_gauge("g.h", math.inf)
    collector.record_gauge("g_h", 1)
    with pytest.raises(InvalidInputError, match="g_h"):
        collector.record_gauge("g.h", 1)
    assert scraped(registry) == {("a_b_total",): 1, ("g_h",): 1}


def test_a_unit_that_makes_names_conflict_is_an_error(registry, collector):
    """A description that would cause a name conflict fails and changes nothing."""
    collector.record_gauge("size.bytes", 1)
    collector.record_gauge("size", 2)
    with pytest.raises(InvalidInputError, match=r"'size'.*'size\.bytes'"):
        collector.describe("size", unit=MetricUnit.BYTES)
    assert collector.store.description("size").unit is None
    collector.describe("size", unit=MetricUnit.PERCENT)
    assert scraped(registry) == {("size_bytes",): 1, ("size_percent",): 2}
    collector.record_gauge("size_", 3)
    assert scraped(registry)[("size",)] == 3


def test_a_store_with_conflicting_names_is_rejected(registry):
    """The constructor of the collector checks existing metrics."""
    store = Store()
    for name in ("a.b", "a_b"):
        InMemoryTracker(store).record_success(name)
    with pytest.raises(InvalidInputError, match=r"'a_b'.*'a\.b'"):
        PrometheusCollector(registry, store)
    assert scraped(registry) == {}


@pytest.mark.parametrize("ours_first", [True, False])
def test_metrics_of_the_application_take_precedence(registry, collector, caplog, ours_first):
    """If both have a name, that of prometheus_client is exposed, which is logged once."""
    if ours_first:
        collector.increment("jobs")
    Counter("jobs", "Theirs.", registry=registry).inc(5)
    collector.increment("jobs")
    collector.increment("ours")
    for _ in range(2):
        found = {key: value for key, value in scraped(registry).items() if "_created" not in key[0]}
        assert found == {("jobs_total",): 5, ("ours_total",): 1}
    assert len(messages(caplog)) == 1


def test_series_with_different_tags_are_all_exposed(registry, collector, caplog):
    """Any mixture of tag names is exposed, and logged once per metric."""
    for tags in (None, {"a": "1"}, {"a": "1", "b": "2"}):
        collector.increment("c", tags)
    collector.record_gauge("g", 1, {"a": "1"})
    for _ in range(3):
        assert len(scraped(registry)) == 4
    (message,) = messages(caplog)
    assert "'c'" in message


def test_of_series_with_the_same_labels_the_first_is_exposed(registry, collector, caplog):
    """The second series is left out, which is logged."""
    collector.record_gauge("g", 1, {"a.b": "x"})
    collector.record_gauge("g", 2, {"a_b": "x"})
    collector.record_gauge("joined", 1, {"a.b": "x", "a_b": "y"})
    assert scraped(registry) == {("g", ("a_b", "x")): 1, ("joined", ("a_b", "x;y")): 1}
    assert len(messages(caplog)) == 1


def test_later_changes_are_in_the_next_scrape(registry, collector):
    """A scrape has the series, names and help texts of its moment, whatever an earlier scrape had."""
    bound = collector.gauge("g", {"a": "unrecorded"})
    collector.record_gauge("g", 0, {"a": "1"})
    assert scraped(registry) == {("g", ("a", "1")): 0}
    collector.record_gauge("g", 2, {"a": "2"})
    assert scraped(registry) == {("g", ("a", "1")): 0, ("g", ("a", "2")): 2}
    collector.remove("g", {"a": "1"})
    bound.set(3)
    collector.describe("g", unit=MetricUnit.BYTES)
    assert scraped(registry) == {("g_bytes", ("a", "2")): 2, ("g_bytes", ("a", "unrecorded")): 3}
    collector.remove("g")
    collector.increment("g")  # the description remains
    assert scraped(registry) == {("g_bytes_total",): 1}


def test_recorded_name_finds_the_recorded_name(collector):
    """Any name of a family or sample works; an unknown one is an error."""
    collector.increment("http.requests")
    InMemoryTimer(collector.store).time_operation("db.query", int)
    for name in ("http_requests_total", "http_requests"):
        assert collector.recorded_name(name) == "http.requests"
    for name in ("db_query_duration_seconds", "db_query_duration_seconds_bucket"):
        assert collector.recorded_name(name) == "db.query"
    with pytest.raises(UnknownMetricError, match="http_requests_total"):
        collector.recorded_name("http_request_total")
    collector.remove("http.requests")
    with pytest.raises(UnknownMetricError):
        collector.recorded_name("http_requests_total")


# -- the registry ------------------------------------------------------------------------------------------


def test_the_default_registry_is_that_of_prometheus_client():
    """Without a registry, the default one exposes the metrics until `unregister`."""
    collector = PrometheusCollector()
    try:
        collector.increment("tests.of.the.default.registry")
        assert ("tests_of_the_default_registry_total",) in scraped(REGISTRY)
    finally:
        collector.unregister()
    assert ("tests_of_the_default_registry_total",) not in scraped(REGISTRY)


def test_a_store_may_be_in_two_registries(registry, collector):
    """Two collectors on one store expose the same metrics, and both find recorded names."""
    other = CollectorRegistry()
    second = PrometheusCollector(other, collector.store)
    collector.increment("a.b")
    assert scraped(other) == scraped(registry) == {("a_b_total",): 1}
    assert collector.recorded_name("a_b") == second.recorded_name("a_b") == "a.b"
    with pytest.raises(InvalidInputError, match="a_b"):
        second.increment("a_b")


def test_two_stores_on_a_registry_share_its_names(registry, collector):
    """The second store to use an exposed name gets an error, unless the name is free again."""
    second = PrometheusCollector(registry, Store())
    collector.increment("http.requests")
    second.increment("jobs")
    second.record_gauge("size", 1)
    for record in (
        lambda: second.increment("http_requests"),
        lambda: second.record_gauge("http.requests.total", 1),
        lambda: collector.record_histogram("jobs", 1),
    ):
        with pytest.raises(InvalidInputError, match=r"would be exposed as .* in another store"):
            record()
    collector.record_gauge("size.bytes", 1)
    with pytest.raises(InvalidInputError, match="'size' would be exposed as 'size_bytes'"):
        second.describe("size", unit=MetricUnit.BYTES)
    with pytest.raises(InvalidInputError, match="would be exposed as 'size'"):
        collector.record_gauge("size", 1)  # the description was not changed
    assert scraped(registry) == {
        ("http_requests_total",): 1,
        ("jobs_total",): 1,
        ("size",): 1,
        ("size_bytes",): 1,
    }
    second.remove("jobs")
    collector.record_histogram("jobs", 1)
    collector.unregister()
    second.increment("http_requests")
    collector.increment("size")
    assert scraped(registry) == {("size",): 1, ("http_requests_total",): 1}


def test_a_store_with_a_name_of_another_store_is_rejected(registry, collector):
    """A collector of a store whose names are taken is an error and changes nothing."""
    collector.increment("jobs")
    store = Store()
    InMemoryCollector(store).increment("jobs")
    with pytest.raises(InvalidInputError, match="in another store"):
        PrometheusCollector(registry, store)
    InMemoryCollector(store).increment("others")
    collector.increment("others")
    assert scraped(registry) == {("jobs_total",): 1, ("others_total",): 1}


def test_a_store_is_once_on_a_registry(registry, collector):
    """A second collector of the same store on the same registry would expose each family twice."""
    with pytest.raises(InvalidInputError, match="has a PrometheusCollector of this store already"):
        PrometheusCollector(registry, collector.store)
    collector.unregister()
    collector.unregister()
    PrometheusCollector(registry, collector.store).increment("jobs")
    assert scraped(registry) == {("jobs_total",): 1}


def test_an_exposition_leaves_out_the_names_of_other_stores_on_its_registry(registry, collector, caplog):
    """No family is in the text twice, and the other store's metric is kept, with a warning."""
    collector.record_counter("jobs", 5)
    own = InMemoryCollector(Store())
    own.increment("jobs")
    own.increment("mine")
    exposition = Exposition(own.store, registry)
    for _ in range(2):
        samples = [sample for one in parse_text(exposition.render().decode()) for sample in one.samples]
        assert {sample.name: sample.value for sample in samples} == {"mine_total": 1, "jobs_total": 5}
        assert len(samples) == 2
    assert sum("its name is taken" in message for message in messages(caplog)) == 1
    own_too = PrometheusCollector(registry, Store())
    own_too.increment("others")
    assert b"others_total 1" in Exposition(own_too.store, registry).render()


def test_unregister_does_not_stop_recording(registry, collector):
    """A second call does nothing, and the store keeps its numbers."""
    collector.increment("c")
    collector.unregister()
    collector.unregister()
    collector.increment("c")
    assert scraped(registry) == {}
    assert collector.store.summary("c")["total"] == 2


@pytest.mark.parametrize("wrong", [object, "registry", 5], ids=["object", "text", "number"])
def test_a_wrong_registry_is_rejected(wrong):
    """The error shows the argument and what to pass instead."""
    with pytest.raises(
        InvalidInputError, match=re.escape(f"registry={wrong!r} is not a CollectorRegistry: pass one")
    ):
        PrometheusCollector(wrong)


def test_the_registry_aggregator_leaves_the_store_out(registry, collector):
    """The registry aggregator does not repeat the metrics of the store."""
    Counter("theirs", "Help.", registry=registry).inc()
    collector.increment("ours")
    assert [value.name for value in RegistryAggregator(registry).get_metrics_by_tag({})] == ["theirs_total"]


def test_a_failing_metric_affects_no_other(registry, collector, caplog, monkeypatch):
    """A metric that cannot be exposed is left out and logged once."""
    for name in ("a", "bad", "c"):
        collector.increment(name)
    description = collector.store.description
    monkeypatch.setattr(
        collector.store, "description", lambda name: 1 / 0 if name == "bad" else description(name)
    )
    for _ in range(2):
        assert set(scraped(registry)) == {("a_total",), ("c_total",)}
    assert len(messages(caplog)) == 1


def test_families_are_created_outside_of_locks(registry, collector):
    """Other threads record and read during a collection."""
    collector.record_histogram("h", 1)
    rendering = iter(registry.collect())
    next(rendering)
    done = []

    def work():
        for number in range(2_000):
            collector.record_histogram("h", number)
        done.append(collector.store.summary("h")["count"])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert done == [2_001]


@pytest.mark.slow
def test_the_core_does_not_import_prometheus_client():
    """The exposition and the facade work without prometheus_client."""
    code = (
        "import sys; sys.modules['prometheus_client'] = None; import metrics_framework.exposition.text;"
        " from metrics_framework import MetricsSystem; MetricsSystem().collector.increment('a')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- outputs of prometheus_client --------------------------------------------------------------------------


class Recording(http.server.BaseHTTPRequestHandler):
    """A gateway that keeps the pushes that it receives."""

    def do_PUT(self):
        """Receive a push."""
        self.server.pushed.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(202)
        self.end_headers()

    def log_message(self, *_):
        """Print nothing."""


def test_push_to_gateway_sends_the_series(registry, collector):
    """The metrics of a job reach a gateway under its grouping key."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Recording)
    server.pushed = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        collector.increment("jobs.done")
        push_to_gateway(
            f"127.0.0.1:{server.server_port}", "nightly", registry, grouping_key={"shard": "1"}, timeout=10
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    ((path, body),) = server.pushed
    assert path == "/metrics/job/nightly/shard/1"
    assert b"\njobs_done_total 1.0\n" in body


def test_write_to_textfile_writes_the_series(registry, collector, tmp_path):
    """A file for node_exporter contains the metrics."""
    collector.record_gauge("level", 4)
    write_to_textfile(str(tmp_path / "ours.prom"), registry)
    (family,) = parse_text((tmp_path / "ours.prom").read_text())
    assert [tuple(sample[:3]) for sample in family.samples] == [("level", {}, 4.0)]


def test_the_wsgi_app_serves_the_series(registry, collector):
    """The WSGI application of prometheus_client serves the metrics beside its own."""
    Counter("theirs", "Help.", registry=registry).inc()
    collector.increment("ours")
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/metrics",
        "QUERY_STRING": "",
        "wsgi.input": io.BytesIO(),
    }
    answers = []
    body = b"".join(make_wsgi_app(registry)(environ, lambda *answer: answers.append(answer)))
    assert answers[0][0] == "200 OK"
    assert b"\nours_total 1.0\n" in body
    assert b"\ntheirs_total 1.0\n" in body


def test_the_asgi_app_serves_the_series(registry, collector):
    """The ASGI application of prometheus_client serves the metrics, as OpenMetrics on request."""
    collector.increment("ours")
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/metrics",
        "query_string": b"",
        "headers": [(b"accept", b"application/openmetrics-text; version=1.0.0")],
    }
    asyncio.run(make_asgi_app(registry)(scope, receive, send))
    assert sent[0]["status"] == 200
    (family,) = parse_openmetrics(sent[1]["body"].decode())
    assert family.samples[0].name == "ours_total"


@pytest.mark.slow
def test_the_http_server_serves_the_series(registry, collector):
    """The server of prometheus_client serves the metrics."""
    from urllib.request import urlopen

    collector.increment("ours")
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        with urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=10) as answer:
            assert b"\nours_total 1.0\n" in answer.read()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# -- hostile input -----------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(), min_size=1, max_size=12) | st.sampled_from(
    ["le", "__name__", "a\nb 1", 'x"} 1\n', "\\", "# EOF", "\ud800", "\x00", "\r", "quantile", "\u2028", " "]
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["counter", "gauge", "histogram", "timer", "success", "failure"]),
            TEXTS,
            st.dictionaries(TEXTS, st.text(st.characters(), max_size=8) | TEXTS, max_size=3),
            NUMBERS,
            TEXTS,
        ),
        max_size=8,
    )
)
def test_hostile_input_always_parses_and_injects_nothing(records):
    """Whatever is recorded, the text parses, and contains exactly the samples of the store.

    OpenMetrics does so for values that are not negative: prometheus_client writes a count without a sum.
    """
    registry = CollectorRegistry()
    collector = PrometheusCollector(registry, Store(on_error="log"))
    tracker = InMemoryTracker(collector.store)
    for kind, name, tags, number, text in records:
        if kind == "success":
            tracker.record_success(name)
        elif kind == "failure":
            tracker.record_failure(name, text)
        else:
            getattr(collector, f"record_{kind}")(name, number, tags=tags)
        if kind == "gauge":
            collector.describe(name, help=text)
    reader = FamilyReader(ExposedFamilies(collector.store))
    expected = sum(len(one.samples) for one in reader.families())
    can_fall = any(kind == "histogram" and number < 0 for kind, _, _, number, _ in records)
    for kind, (generate, parse) in [*FORMATS.items()][: 1 if can_fall else 2]:
        found = scraped(registry, kind)
        assert len(found) == expected
        lines = generate(registry).decode().split("\n")
        assert len([line for line in lines if line and not line.startswith("# ")]) == expected
        assert len(list(parse("\n".join(lines)))) == len(list(registry.collect()))


# -- under load --------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_scrapes_under_load_are_consistent(registry):
    """With eight writers, the +Inf bucket equals the count, no counter falls, and no record is lost."""
    collector = PrometheusCollector(registry)
    stop, written = threading.Event(), []

    def write(number):
        tags, count = {"writer": str(number % 4)}, 0
        while not stop.is_set():
            collector.increment("c", tags)
            collector.record_histogram("h", count % 13, tags)
            collector.record_timer("t", count % 300, tags=tags)
            count += 1
        written.append(count)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    before, scrapes, end = {}, 0, time.monotonic() + 4
    try:
        while time.monotonic() < end or scrapes < 5:
            found = scraped(registry)
            for key, value in found.items():
                assert value >= before.get(key, 0)
                if key[0].endswith("_count"):
                    infinite = (f"{key[0].removesuffix('_count')}_bucket", ("le", "+Inf"), *key[1:])
                    assert found[infinite] == value
            assert found.keys() >= before.keys()
            before, scrapes = found, scrapes + 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    found = scraped(registry)
    for name in ("c_total", "h_count", "t_seconds_count"):
        assert sum(value for key, value in found.items() if key[0] == name) == sum(written)


@pytest.mark.heavy
def test_of_conflicting_names_one_is_kept_in_any_race(registry):
    """If threads record conflicting names at once, one name has all accepted records."""
    collector = PrometheusCollector(registry)
    for turn in range(200):
        names, refused = (f"r{turn}.a", f"r{turn}_a"), []
        barrier = threading.Barrier(2)

        def work(name, barrier=barrier, refused=refused):
            barrier.wait()
            try:
                collector.increment(name)
            except InvalidInputError:
                refused.append(name)

        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        kept = [one.name for one in collector.store.readings() if one.name in names]
        assert len(kept) == 1
        assert refused == [name for name in names if name not in kept]


# -- restricted registries -------------------------------------------------------------------------------


@pytest.mark.parametrize("finds_unnamed", [False, True])
@pytest.mark.parametrize(
    ("names", "selected"),
    [
        (["orders_total"], ["orders"]),
        (["orders"], ["orders"]),
        (["wait_seconds_count", "own_total"], ["own", "wait_seconds"]),
        (["请求数_total"], ["U___8bf7__6c42__6570__"]),
        (["U___8bf7__6c42__6570___total"], ["U___8bf7__6c42__6570__"]),
        (["db_query_duration_seconds_bucket"], ["db_query_duration_seconds"]),
        (["missing"], []),
        ([], []),
    ],
)
def test_a_restricted_registry_selects_families(clock, monkeypatch, names, selected, finds_unnamed):
    """By the names of families or samples; it reads only the selected families, and each once."""
    registry = CollectorRegistry(support_collectors_without_names=finds_unnamed)
    Counter("own", "Own.", registry=registry)
    collector = PrometheusCollector(registry, Store(clock))
    collector.increment("orders", {"item": "book"})
    collector.increment("请求数")
    collector.record_timer("wait", 5)
    with MetricsSystem(collector=collector).measure("db.query"):
        pass
    read = []
    read_samples = families_module._series_samples
    monkeypatch.setattr(
        families_module, "_series_samples", lambda *args: read.append(args[0]) or read_samples(*args)
    )
    found = list(registry.restricted_registry(names).collect())
    assert sorted(metric.name for metric in found) == selected
    assert all(metric.samples for metric in found)
    assert len(read) == len(set(selected) - {"own"})
    whole = {metric.name: metric.samples for metric in registry.collect()}
    assert all(metric.samples == whole[metric.name] for metric in found if metric.name != "own")
    collector.unregister()
    assert sorted(metric.name for metric in registry.restricted_registry(names).collect()) == sorted(
        set(selected) & {"own"}
    )
