"""The registry aggregator: it returns the metrics that an application counts with prometheus_client."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from datetime import timedelta
from types import SimpleNamespace

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    Metric,
    Summary,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, SummaryMetricFamily, UntypedMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from metrics_adapters.prometheus import RegistryAggregator
from metrics_adapters.prometheus.registry_reader import QUANTILES, histogram_quantile
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.testing.conformance import MetricsAggregatorContract, Parts
from metrics_framework.values import MetricType, MetricUnit

# -- the contract ------------------------------------------------------------------------------------------


class PrometheusClient:
    """A collector that creates objects of prometheus_client at their first use."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry, self._made = registry, {}

    def _metric(self, kind, name, tags, **more):
        if name not in self._made:
            self._made[name] = kind(name, "Help.", list(tags or ()), registry=self._registry, **more)
        return self._made[name].labels(**tags) if tags else self._made[name]

    def record_counter(self, name, value=1, tags=None):
        """Increment a `Counter`."""
        self._metric(Counter, name, tags).inc(value)

    def record_gauge(self, name, value, tags=None):
        """Set a `Gauge`."""
        self._metric(Gauge, name, tags).set(value)

    def record_histogram(self, name, value, tags=None):
        """Observe with a `Histogram` whose buckets suit the kit's numbers."""
        self._metric(Histogram, name, tags, buckets=range(0, 1_001, 5)).observe(value)

    def record_timer(self, name, duration, unit=MetricUnit.MILLISECONDS, tags=None):
        """Observe seconds with a `Histogram`, as is the custom."""
        self._metric(Histogram, f"{name}_seconds", tags).observe(duration / 1e3)

    def increment(self, name, tags=None):
        """Increment a `Counter`."""
        self.record_counter(name, 1, tags)

    def decrement(self, name, tags=None):
        """Decrement a `Gauge`."""
        self._metric(Gauge, name, tags).dec()


class AsDeclared(RegistryAggregator):
    """The aggregator with the names that the kit recorded: without ``_total`` and ``_seconds``."""

    def get_metric_summary(self, metric_name, time_window=None):
        """Answer for either name."""
        try:
            return super().get_metric_summary(metric_name, time_window)
        except UnknownMetricError:
            if not any(value.name == f"{metric_name}_seconds" for value in super().get_metrics_by_tag({})):
                raise
            return super().get_metric_summary(f"{metric_name}_seconds", time_window)

    def get_metrics_by_tag(self, tag_filter):
        """List everything without endings."""
        values = super().get_metrics_by_tag(tag_filter)
        for value in values:
            value.name = value.name.removesuffix("_total").removesuffix("_seconds")
        return values


class TestContract(MetricsAggregatorContract):
    """`RegistryAggregator` fulfils the contract of `MetricsAggregator`, as far as a registry can."""

    keeps_windows = False
    unknown_keys = frozenset(
        {"min", "max", "stddev", "counter.count", "gauge.count", "gauge.seconds", "gauge.avg"}
    )
    quantile_error = 0.15  # estimated within buckets of 5

    @pytest.fixture
    def clock(self, monkeypatch):
        """Let prometheus_client say by the test's clock when a metric was made."""
        clock = ManualClock()
        by_clock = SimpleNamespace(time=lambda: clock.time_ns() / 1e9)
        monkeypatch.setattr(prometheus_client.metrics, "time", by_clock)
        return clock

    def make(self, clock):
        """Make a private registry."""
        registry = CollectorRegistry()
        return Parts(collector=PrometheusClient(registry), aggregator=AsDeclared(registry, clock))

    @pytest.mark.parametrize("metric_type", ["counter", "gauge", "histogram", "timer"])
    def test_a_series_is_a_value_with_its_summary(self, collector, aggregator, parts, metric_type):
        """The value is a total, a last value or an estimated p95; the summary is in the metadata."""
        for number in (1, 3, 2):
            getattr(collector, f"record_{metric_type}")("m", number, tags={"x": "1"})
        (value,) = aggregator.get_metrics_by_tag({"x": "1"})
        assert value.metric_type is MetricType(metric_type)
        assert value.tags == {"x": "1"}
        assert value.timestamp.utcoffset() == timedelta(0)
        assert set(value.metadata) - {"help", "buckets"} == self.keys(metric_type)
        if metric_type in ("counter", "gauge"):
            assert value.value == {"counter": 6, "gauge": 2}[metric_type]
        else:
            assert abs(value.value - 3) <= 5  # the width of a bucket
            assert value.metadata["count"] == 3
        if metric_type == "timer":
            assert value.unit is MetricUnit.MILLISECONDS

    def test_a_metric_that_was_never_recorded_is_unknown(self, collector, aggregator, parts):
        """The error names the nearest metric that was; older releases allow no dot in a name."""
        collector.record_counter("http_requests", 1)
        with pytest.raises(UnknownMetricError, match="http_requests"):
            aggregator.get_metric_summary("http_reqests")

    def test_a_signal_handler_may_read(self, collector, aggregator, parts):
        """Not supported: the values of prometheus_client have locks that a handler would wait for."""
        pytest.skip("prometheus_client takes locks")


# -- metrics of a registry ---------------------------------------------------------------------------------


@pytest.fixture
def registry() -> CollectorRegistry:
    """Return a registry of the test's own."""
    return CollectorRegistry()


def named(aggregator, name):
    """Return the listed values of one name."""
    return [value for value in aggregator.get_metrics_by_tag({}) if value.name == name]


def errors(caplog) -> list[str]:
    """Return the messages of the library's errors."""
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_a_counter_is_its_total(registry):
    """A counter has its exposed name, and can also be summarized by its declared name."""
    requests = Counter("http_requests", "Requests served.", ["method"], registry=registry)
    requests.labels("GET").inc(3)
    requests.labels("POST").inc()
    aggregator = RegistryAggregator(registry)
    found = {value.tags["method"]: value for value in named(aggregator, "http_requests_total")}
    assert {method: value.value for method, value in found.items()} == {"GET": 3, "POST": 1}
    assert found["GET"].metric_type is MetricType.COUNTER
    assert found["GET"].unit is MetricUnit.COUNT
    assert found["GET"].metadata["help"] == "Requests served."
    for name in ("http_requests_total", "http_requests"):
        summary = aggregator.get_metric_summary(name)
        assert (summary["sum"], summary["total"]) == (4, 4)


def test_a_rate_is_since_the_oldest_series(clock):
    """`seconds` is the age of the oldest series, and divides the rate."""

    class Aged:
        def collect(self):
            family = CounterMetricFamily("requests", "Help.", labels=["method"])
            family.add_metric(["GET"], 30, created=clock.time_ns() / 1e9 - 60)
            family.add_metric(["PUT"], 10, created=clock.time_ns() / 1e9 - 100)
            family.add_metric(["NEW"], 20, created=clock.time_ns() / 1e9 + 5)
            yield family

    aggregator = RegistryAggregator(Aged(), clock)
    assert aggregator.get_metric_summary("requests") == {"sum": 60, "total": 60, "seconds": 100, "rate": 0.6}
    top = aggregator.get_top_metrics(MetricType.RATE)
    assert [(value.tags["method"], value.value) for value in top] == [("GET", 0.5), ("PUT", 0.1), ("NEW", 0)]


def test_without_an_age_there_is_no_rate():
    """If the registry does not know the creation time, the rate is left out."""

    class Ageless:
        def collect(self):
            metric = Metric("requests", "Help.", "counter")
            metric.add_sample("requests_total", {}, 3)
            yield metric

    aggregator = RegistryAggregator(Ageless())
    assert aggregator.get_metric_summary("requests_total") == {"sum": 3, "total": 3}
    assert aggregator.get_top_metrics(MetricType.RATE) == []


def test_a_gauge_is_its_value(registry):
    """A single series is the value of its name; several have no common value, and each is listed."""
    Gauge("temperature", "Help.", registry=registry).set(-3.5)
    depth = Gauge("depth", "Help.", ["queue"], registry=registry)
    depth.labels("a").set(1)
    depth.labels("b").set(2)
    aggregator = RegistryAggregator(registry)
    assert aggregator.get_metric_summary("temperature") == {"last": -3.5}
    assert aggregator.get_metric_summary("depth") == {}
    assert sorted(value.value for value in named(aggregator, "depth")) == [1, 2]


def test_the_suffix_of_a_name_is_the_unit(registry):
    """Counters and gauges have the unit of their name, or counts if it has none."""
    Counter("sent_bytes", "Help.", registry=registry).inc(5)
    Gauge("uptime", "Help.", unit="seconds", registry=registry).set(2)
    Gauge("furlongs", "Help.", registry=registry).set(2)
    units = {value.name: value.unit for value in RegistryAggregator(registry).get_metrics_by_tag({})}
    assert units == {
        "sent_bytes_total": MetricUnit.BYTES,
        "uptime_seconds": MetricUnit.SECONDS,
        "furlongs": MetricUnit.COUNT,
    }
    assert RegistryAggregator(registry).get_metric_summary("uptime_seconds") == {"last": 2}


@pytest.mark.parametrize(
    ("unit", "milliseconds"), [("seconds", 1e3), ("milliseconds", 1), ("microseconds", 1e-3)]
)
@pytest.mark.parametrize("kind", [Histogram, Summary])
def test_durations_are_milliseconds(registry, kind, unit, milliseconds):
    """A histogram or summary in a unit of time is a timer, with all values in milliseconds."""
    latency = kind(f"latency_{unit}", "Help.", registry=registry)
    for value in (0.3, 0.3, 0.6):
        latency.observe(value)
    (value,) = named(RegistryAggregator(registry), f"latency_{unit}")
    assert value.metric_type is MetricType.TIMER
    assert value.unit is MetricUnit.MILLISECONDS
    assert value.metadata["count"] == 3
    assert value.metadata["sum"] == pytest.approx(1.2 * milliseconds)
    assert value.metadata["avg"] == pytest.approx(0.4 * milliseconds)
    if kind is Histogram:
        assert 0.25 * milliseconds < value.metadata["p50"] <= 0.5 * milliseconds
        assert 0.5 * milliseconds < value.value <= 0.75 * milliseconds


def test_a_histogram_merges_its_series(registry):
    """The summary of a name merges the buckets of its series."""
    sizes = Histogram("size_bytes", "Help.", ["kind"], buckets=[10, 20, 30], registry=registry)
    for number in range(1, 11):
        sizes.labels("small").observe(number)
        sizes.labels("large").observe(20 + number)
    aggregator = RegistryAggregator(registry)
    summary = aggregator.get_metric_summary("size_bytes")
    assert (summary["count"], summary["sum"], summary["avg"]) == (20, 310, 15.5)
    assert summary["p50"] == 10
    assert summary["p90"] == 28
    assert {value.unit for value in named(aggregator, "size_bytes")} == {MetricUnit.BYTES}
    assert {value.metric_type for value in named(aggregator, "size_bytes")} == {MetricType.HISTOGRAM}
    assert {"min", "max", "stddev"}.isdisjoint(summary)


def test_series_with_different_buckets_have_no_common_quantiles():
    """Count and sum are known, and quantiles are left out."""

    class Two:
        def collect(self):
            for kind, bound in (("a", "1.0"), ("b", "2.0")):
                metric = Metric("size", "Help.", "histogram")
                metric.add_sample("size_bucket", {"kind": kind, "le": bound}, 1)
                metric.add_sample("size_bucket", {"kind": kind, "le": "+Inf"}, 2)
                metric.add_sample("size_sum", {"kind": kind}, 4)
                yield metric

    assert RegistryAggregator(Two()).get_metric_summary("size") == {"count": 4, "sum": 8, "avg": 2}


def test_a_histogram_without_values_has_no_average(registry):
    """Its name is known, but it is not listed."""
    Histogram("latency_seconds", "Help.", registry=registry)
    aggregator = RegistryAggregator(registry)
    summary = aggregator.get_metric_summary("latency_seconds")
    assert (summary["count"], summary["sum"], summary["rate"]) == (0, 0, 0)
    assert set(summary) == {"count", "sum", "rate", "seconds"}
    assert aggregator.get_metrics_by_tag({}) == []


def test_bounds_below_zero_leave_the_sum_unknown(registry):
    """prometheus_client keeps no sum there: summaries, lists and exports have the rest."""
    balance = Histogram("balance", "Help.", buckets=[-10, 0, 10], registry=registry)
    assert RegistryAggregator(registry).get_metrics_by_tag({}) == []
    for value in (-20, -5, 5):
        balance.observe(value)
    aggregator = RegistryAggregator(registry)
    summary = aggregator.get_metric_summary("balance")
    assert summary["count"] == 3
    assert summary["p50"] == -5
    assert "sum" not in summary
    assert "avg" not in summary
    (listed,) = aggregator.get_metrics_by_tag({})
    assert listed.value == summary["p95"] == pytest.approx(8.5)
    assert listed.metadata["buckets"] == {"counts": {"-10.0": 1, "0.0": 2, "10.0": 3, "inf": 3}}
    assert [value.name for value in aggregator.get_top_metrics(MetricType.HISTOGRAM)] == ["balance"]
    for format in ("json", "jsonl", "csv"):
        assert "balance" in aggregator.export_metrics(format)
    (family,) = text_string_to_metric_families(aggregator.export_metrics("prometheus"))
    (theirs, *_) = text_string_to_metric_families(generate_latest(registry).decode())
    assert family.samples == theirs.samples


def test_a_summary_has_its_exposed_quantiles():
    """Quantiles of a custom collector are returned; those of two series cannot be merged."""

    class Custom:
        def __init__(self, *kinds):
            self.kinds = kinds

        def collect(self):
            family = SummaryMetricFamily("latency_seconds", "Help.", labels=["kind"])
            for kind in self.kinds:
                family.add_metric([kind], count_value=4, sum_value=2)
                family.add_sample("latency_seconds", {"kind": kind, "quantile": "0.95"}, 0.75)
            yield family

    one = RegistryAggregator(Custom("a"))
    assert one.get_metric_summary("latency_seconds") == {"count": 4, "sum": 2e3, "avg": 500, "p95": 750}
    assert [value.value for value in one.get_top_metrics(MetricType.TIMER)] == [750]
    two = RegistryAggregator(Custom("a", "b"))
    assert two.get_metric_summary("latency_seconds") == {"count": 8, "sum": 4e3, "avg": 500}


def test_a_summary_without_quantiles_is_never_ranked(registry):
    """It is listed with its average, which must not be compared with a p95."""
    Summary("latency_seconds", "Help.", registry=registry).observe(9)
    Histogram("query_seconds", "Help.", registry=registry).observe(0.5)
    aggregator = RegistryAggregator(registry)
    assert named(aggregator, "latency_seconds")[0].value == 9_000
    assert [value.name for value in aggregator.get_top_metrics(MetricType.TIMER)] == ["query_seconds"]


def test_info_enums_and_untyped_numbers_are_gauges(registry):
    """Each is listed by its exposed name if it is finite."""
    Info("build", "Help.", registry=registry).info({"version": "1.2"})
    Enum("state", "Help.", states=["up", "down"], registry=registry).state("down")
    Gauge("nothing", "Help.", registry=registry).set(math.nan)
    Gauge("everything", "Help.", registry=registry).set(math.inf)

    class Untyped:
        def collect(self):
            yield UntypedMetricFamily("answer", "Help.", value=42)
            yield UntypedMetricFamily("text", "Help.", value="forty-two")

    registry.register(Untyped())
    found = RegistryAggregator(registry).get_metrics_by_tag({})
    assert {value.metric_type for value in found} == {MetricType.GAUGE}
    assert {(value.name, *value.tags.values()): value.value for value in found} == {
        ("build_info", "1.2"): 1,
        ("state", "up"): 0,
        ("state", "down"): 1,
        ("answer",): 42,
    }


def test_the_default_is_the_default_registry():
    """Without arguments, it reads the default registry of prometheus_client."""
    names = {value.name for value in RegistryAggregator().get_metrics_by_tag({})}
    assert {"python_info", "python_gc_collections_total"} <= names


@pytest.mark.slow
def test_workers_of_a_server_are_added_up(tmp_path):
    """In the multiprocess mode of prometheus_client it reads the metrics of all processes."""
    worker = (
        "from prometheus_client import Counter, Histogram\n"
        "Counter('requests', 'Help.').inc(2)\n"
        "Histogram('latency_seconds', 'Help.').observe(0.25)\n"
    )
    reader = (
        "from prometheus_client import CollectorRegistry\n"
        "from prometheus_client.multiprocess import MultiProcessCollector\n"
        "from metrics_adapters.prometheus import RegistryAggregator\n"
        "registry = CollectorRegistry()\n"
        "MultiProcessCollector(registry)\n"
        "aggregator = RegistryAggregator(registry)\n"
        "assert aggregator.get_metric_summary('requests_total') == {'sum': 6, 'total': 6}\n"
        "latency = aggregator.get_metric_summary('latency_seconds')\n"
        "assert (latency['count'], latency['avg']) == (3, 250), latency\n"
        "assert 100 < latency['p50'] <= 250, latency\n"
    )
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for code in (worker, worker, worker, reader):
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)


# -- errors ------------------------------------------------------------------------------------------------


class Broken:
    """A collector that fails after its first metric."""

    def describe(self):
        """Say nothing: it is asked when it is registered."""
        return []

    def collect(self):
        """Fail."""
        yield UntypedMetricFamily("half", "Help.", value=1)
        raise ConnectionError("the database is away")


def test_a_failing_collector_affects_no_other(registry, caplog):
    """Other collectors are read, and one line is logged however often it is read."""
    Counter("before", "Help.", registry=registry).inc()
    registry.register(Broken())
    Counter("after", "Help.", registry=registry).inc()
    aggregator = RegistryAggregator(registry)
    for _ in range(3):
        assert {value.name for value in aggregator.get_metrics_by_tag({})} == {"before_total", "after_total"}
    (message,) = errors(caplog)
    assert "the database is away" in message
    assert "Broken" in message


@pytest.mark.parametrize("answer", [None, [None], [object()]], ids=["None", "list of None", "list of object"])
def test_an_invalid_metric_family_is_an_error_of_its_collector(registry, caplog, answer):
    """It is handled like an exception of the collector."""

    class Nonsense:
        def collect(self):
            return answer

    registry.register(Nonsense())
    Counter("good", "Help.", registry=registry).inc()
    assert [value.name for value in RegistryAggregator(registry).get_metrics_by_tag({})] == ["good_total"]
    assert len(errors(caplog)) == 1


@pytest.mark.slow
def test_metrics_may_change_during_reads(registry):
    """Registering and incrementing in threads does not disturb a reader, and totals never fall."""
    steady = Counter("steady", "Help.", registry=registry)
    end = time.monotonic() + 0.3

    def work(number):
        while time.monotonic() < end:
            passing = Counter(f"passing_{number}", "Help.", registry=registry)
            steady.inc()
            registry.unregister(passing)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    aggregator, totals = RegistryAggregator(registry), []
    while any(thread.is_alive() for thread in threads):
        totals.append(aggregator.get_metric_summary("steady")["total"])
    assert totals == sorted(totals)
    assert len(totals) > 1


# -- methods -----------------------------------------------------------------------------------------------


def test_an_unknown_name_names_the_nearest(registry):
    """The error contains the argument and the nearest known name."""
    Counter("http_requests", "Help.", registry=registry).inc()
    with pytest.raises(UnknownMetricError, match=r"'http_reqests'.*'http_requests_total'"):
        RegistryAggregator(registry).get_metric_summary("http_reqests")


def test_windows_are_not_supported(registry):
    """The error gives the reason and a remedy; an unknown name is reported first."""
    Counter("requests", "Help.", registry=registry).inc()
    aggregator = RegistryAggregator(registry)
    with pytest.raises(InvalidInputError, match=r"datetime\.timedelta\(seconds=60\).*without history.*None"):
        aggregator.get_metric_summary("requests_total", timedelta(minutes=1))
    with pytest.raises(UnknownMetricError):
        aggregator.get_metric_summary("other", timedelta(minutes=1))


@pytest.mark.parametrize("registry", [None, "REGISTRY", CollectorRegistry], ids=["None", "name", "class"])
def test_a_wrong_registry_is_rejected(registry):
    """The error shows the argument."""
    with pytest.raises(InvalidInputError) as caught:
        RegistryAggregator(registry)
    assert repr(registry) in str(caught.value)


def test_exports_are_complete(registry):
    """Every format has every series, and JSON is strict."""
    Counter("requests", "Help.", ["method"], registry=registry).labels("GET").inc(3)
    Histogram("latency_seconds", "Help.", registry=registry).observe(0.3)
    aggregator = RegistryAggregator(registry)

    def refuse(constant):
        raise AssertionError(constant)

    document = json.loads(aggregator.export_metrics(), parse_constant=refuse)
    assert [metric["name"] for metric in document["metrics"]] == ["requests_total", "latency_seconds"]
    assert len(aggregator.export_metrics("jsonl").splitlines()) == 2
    assert len(list(csv.DictReader(io.StringIO(aggregator.export_metrics("csv"))))) == 2


def test_prometheus_text_equals_that_of_prometheus_client(registry):
    """It differs only in the creation times of series."""
    Counter("requests", "Requests served.", ["method"], registry=registry).labels("GET").inc(3)
    Counter("cpu_seconds", "Time.", registry=registry).inc(1.5)
    Gauge("sent_bytes", "Sent.", registry=registry).set(5)
    latency = Histogram("latency_seconds", "Time.", ["path"], registry=registry)
    for value in (0.003, 0.07, 0.29, 0.57, 3, 20):
        latency.labels("/").observe(value)

    def samples(text):
        return {
            (sample.name, *sorted(sample.labels.items())): pytest.approx(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    ours = RegistryAggregator(registry).export_metrics("prometheus")
    theirs = generate_latest(registry).decode()
    assert samples(ours) == samples(theirs)
    assert {line for line in ours.splitlines() if line.startswith("# ")} <= set(theirs.splitlines())


# -- quantiles ---------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(-100, 1_000), min_size=1, max_size=60),
    st.sets(st.floats(-50, 900), min_size=1, max_size=8),
)
def test_an_estimate_is_in_the_bucket_of_the_true_quantile(values, bounds):
    """The error is at most the width of a bucket; above the highest bound, the estimate is that bound."""
    ordered, ends = sorted(values), [*sorted(bounds), math.inf]
    buckets = {end: sum(value <= end for value in values) for end in ends}
    estimates = [histogram_quantile(share, buckets) for share in QUANTILES.values()]
    assert estimates == sorted(estimates)
    for share, estimate in zip(QUANTILES.values(), estimates, strict=True):
        exact = ordered[math.ceil(share * len(ordered)) - 1]
        place = bisect_left(ends, exact)
        if ends[place] == math.inf:
            assert estimate == ends[-2]
        elif place == 0:
            assert estimate == pytest.approx(ends[0]) if ends[0] <= 0 else 0 <= estimate <= ends[0]
        else:
            below = ends[place - 1]
            assert below <= estimate <= ends[place] or estimate == pytest.approx(ends[place])


@pytest.mark.parametrize(
    ("share", "buckets", "expected"),
    [
        (0.5, {1: 2, 2: 6, math.inf: 8}, 1.5),
        (0.25, {1: 2, 2: 6, math.inf: 8}, 1),
        (0.9, {1: 2, 2: 6, math.inf: 8}, 2),
        (0.5, {1: 4, math.inf: 4}, 0.5),
        (0.5, {-1: 4, math.inf: 4}, -1),
        (0.5, {1: 3, 2: 2, 3: 4, math.inf: 4}, 2 / 3),
        (0.5, {1: 0, math.inf: 0}, None),
        (0.5, {math.inf: 4}, None),
        (0.5, {1: 4}, None),
        (0.5, {}, None),
    ],
)
def test_quantiles_are_those_of_histogram_quantile(share, buckets, expected):
    """The expected values follow from the rules in the documentation of Prometheus."""
    assert histogram_quantile(share, buckets) == (None if expected is None else pytest.approx(expected))


def test_reading_registers_nothing():
    """The default registry is unchanged."""
    before = {metric.name for metric in REGISTRY.collect()}
    RegistryAggregator().export_metrics()
    assert {metric.name for metric in REGISTRY.collect()} == before
