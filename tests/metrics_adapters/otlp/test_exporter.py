"""The OTLP exporter sends to receivers that decode with the official classes."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.sdk.metrics.export import MetricExportResult

from metrics_adapters.otlp import OtlpExporter
from metrics_adapters.otlp.exporter import MAX_SERIES_PER_REQUEST
from metrics_adapters.otlp.histograms import sent_value
from metrics_framework import MetricsSystem
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, OutputError, RefusedError
from metrics_framework.recording import Distribution
from metrics_framework.values import MetricType, MetricUnit, MetricValue
from tests.metrics_adapters.otlp.receivers import GrpcReceiver, HttpReceiver, receiving
from tests.servers.receivers import free_ports

BOTH = pytest.mark.parametrize("kind", [HttpReceiver, GrpcReceiver])
START_NS = 1_767_225_600 * 10**9


def attributes(point: Any) -> dict[str, str]:
    """Return the attributes of a point or a resource."""
    return {one.key: one.value.string_value for one in point.attributes}


def points(metric: Any) -> dict[frozenset[tuple[str, str]], Any]:
    """Return the points of a metric by their attributes."""
    found = getattr(metric, metric.WhichOneof("data")).data_points
    return {frozenset(attributes(point).items()): point for point in found}


def only(metric: Any) -> Any:
    """Return the one point of a metric."""
    (point,) = points(metric).values()
    return point


@BOTH
def test_every_kind_of_metric_arrives(kind, clock):
    """Counters, gauges, distributions and operations arrive with names, units, descriptions and numbers."""
    metrics = MetricsSystem(clock=clock, tags={"service": "shop", "region": "eu"})
    collector = metrics.collector
    collector.describe("http.requests", help="Requests.", unit=MetricUnit.COUNT)
    collector.describe("cache.size", unit=MetricUnit.MEGABYTES)
    collector.record_counter("http.requests", 3, {"page": "/"})
    collector.record_gauge("cache.size", -1.5)
    values = [0.0, 1.0, 2.5, 1e6]
    for value in values:
        collector.record_histogram("payload", value)
    collector.record_timer("wait", 2, MetricUnit.SECONDS)
    metrics.tracker.record_success("order")
    metrics.tracker.record_failure("order", "timeout")
    timer_id = metrics.timer.start_timer("order")
    clock.advance(0.25)
    metrics.timer.stop_timer(timer_id)
    with receiving(kind) as (receiver, exporter):
        exporter.export(metrics)
        found = receiver.script.metrics()
        (resource,) = receiver.script.taken[0].message.resource_metrics
    assert sorted(found) == [
        "cache.size",
        "http.requests",
        "order.duration",
        "order.operations",
        "payload",
        "wait",
    ]
    encode_resource = attributes(resource.resource)
    assert (encode_resource["service.name"], encode_resource["region"]) == ("shop", "eu")
    assert encode_resource["telemetry.sdk.name"] == "metrics_framework"

    requests = found["http.requests"]
    assert (requests.unit, requests.description, requests.sum.is_monotonic) == ("{count}", "Requests.", True)
    assert requests.sum.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    point = points(requests)[frozenset({("page", "/")})]
    assert (point.as_int, point.start_time_unix_nano) == (3, START_NS)
    assert point.time_unix_nano == START_NS + 250_000_000

    assert (found["cache.size"].unit, only(found["cache.size"]).as_double) == (
        "MBy",
        -1.5,
    )
    payload = only(found["payload"])
    assert (payload.count, payload.sum, payload.min, payload.max) == (4, sum(values), 0.0, 1e6)
    assert payload.zero_count == 1
    assert found["payload"].unit == ""
    part = sent_value(Distribution.of(values))
    assert payload.scale == part.scale
    assert payload.positive.offset == part.positive.low
    assert tuple(payload.positive.bucket_counts) == tuple(part.positive.counts)
    assert (found["wait"].unit, only(found["wait"]).sum) == ("ms", 2_000.0)

    assert (found["order.duration"].unit, only(found["order.duration"]).max) == ("ms", 250.0)
    ends = {key: point.as_int for key, point in points(found["order.operations"]).items()}
    assert ends == {
        frozenset({("outcome", "success")}): 1,
        frozenset({("outcome", "failure"), ("error.type", "timeout")}): 1,
    }


def test_an_operation_and_a_metric_may_share_a_name():
    """They arrive in different scopes."""
    metrics = MetricsSystem()
    metrics.collector.record_timer("order.duration", 5)
    with metrics.measure("order"):
        pass
    with receiving(HttpReceiver) as (receiver, exporter):
        exporter.export(metrics)
        (resource,) = receiver.script.taken[0].message.resource_metrics
    names = {(scope.scope.name, metric.name) for scope in resource.scope_metrics for metric in scope.metrics}
    assert ("metrics_framework", "order.duration") in names
    assert ("metrics_framework.operations", "order.duration") in names


def test_a_tag_cannot_pass_for_an_outcome():
    """A tag of an operation with the name of an outcome attribute is renamed."""
    metrics = MetricsSystem()
    with metrics.measure("order", tags={"outcome": "mine"}):
        pass
    with receiving(HttpReceiver) as (receiver, exporter):
        exporter.export(metrics)
        assert [*points(receiver.script.metrics()["order.operations"])] == [
            frozenset({("exported_outcome", "mine"), ("outcome", "success")})
        ]


@BOTH
def test_headers_and_compression_arrive(kind):
    """The receiver gets the headers, and compressed or uncompressed messages."""
    for compression in ("gzip", "none"):
        with receiving(kind, headers={"X-Scope": "a b"}, compression=compression) as (receiver, exporter):
            metrics = MetricsSystem()
            metrics.collector.increment("orders")
            exporter.export(metrics)
            (taken,) = receiver.script.taken
            assert taken.headers["x-scope"] == "a b"
            if kind is HttpReceiver:
                assert taken.path == "/v1/metrics"
                assert taken.headers.get("content-encoding") == ("gzip" if compression == "gzip" else None)


@pytest.mark.heavy
@BOTH
@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_a_restarted_receiver_gets_all_numbers(kind, temporality):
    """The export during the failure returns `False`, and the next one sends all numbers."""
    with receiving(kind, temporality=temporality, timeout=1.5) as (receiver, exporter):
        metrics = MetricsSystem(outputs=[exporter])

        def record_and_export() -> bool:
            metrics.collector.record_counter("orders", 2)
            for value in (1.0, 300.0):
                metrics.collector.record_histogram("payload", value)
            return asyncio.run(metrics.export_metrics_async([exporter.name]))[exporter.name]

        assert record_and_export()
        receiver.script.answers = [None] * 10
        assert not record_and_export()
        receiver.stop()
        assert not record_and_export()
        receiver.script.answers = []
        receiver.start()
        assert record_and_export()
        found = receiver.script.metrics()
        missed = 4 if temporality == "cumulative" else 3
        assert only(found["orders"]).as_int == 2 * missed
        assert (only(found["payload"]).count, only(found["payload"]).sum) == (2 * missed, 301.0 * missed)
        first = only(receiver.script.metrics(0)["orders"])
        start = first.start_time_unix_nano if temporality == "cumulative" else first.time_unix_nano
        assert only(found["orders"]).start_time_unix_nano == start
        metrics.shutdown_metrics()


@pytest.mark.heavy
def test_retry_after_is_honored_within_the_time_limit():
    """The request is repeated after that time, in the same export."""
    metrics = MetricsSystem()
    metrics.collector.increment("orders")
    with receiving(HttpReceiver) as (receiver, exporter):
        receiver.script.answers = [(503, {"Retry-After": "1"})]
        begin = time.monotonic()
        exporter.export(metrics)
        assert time.monotonic() - begin >= 1
        assert len(receiver.script.taken) == 1


def test_retry_after_beyond_the_time_limit_is_left_to_the_next_export():
    """The export fails at once with an `OutputError`."""
    metrics = MetricsSystem()
    metrics.collector.increment("orders")
    with receiving(HttpReceiver) as (receiver, exporter):
        receiver.script.answers = [(503, {"Retry-After": "60"})]
        with pytest.raises(OutputError, match="the response is 503, Retry-After: 60") as caught:
            exporter.export(metrics)
        assert not isinstance(caught.value, RefusedError)
        exporter.export(metrics)
        assert len(receiver.script.taken) == 1


@pytest.mark.parametrize("value", ["0", "-5", "0.001", "nan", "soon"])
def test_a_receiver_cannot_ask_for_immediate_retries(value):
    """A retry follows after a pause in any case, so that no receiver gets hundreds of requests a second."""
    metrics = MetricsSystem()
    metrics.collector.increment("orders")
    with receiving(HttpReceiver, timeout=0.5) as (receiver, exporter):
        receiver.script.answers = [(503, {"Retry-After": value})] * 3
        with pytest.raises(OutputError, match="the response is 503"):
            exporter.export(metrics)
        assert len(receiver.script.answers) == 2


def test_retry_information_that_cannot_be_decoded_is_ignored():
    """The error is that of the response, and the numbers are sent again later."""
    metrics = MetricsSystem()
    metrics.collector.increment("orders")
    with receiving(GrpcReceiver, timeout=0.5) as (receiver, exporter):
        garbage = (("google.rpc.retryinfo-bin", b"\xff\xff"),)
        receiver.script.answers = [(grpc.StatusCode.UNAVAILABLE, garbage)]
        with pytest.raises(OutputError, match="the response is UNAVAILABLE"):
            exporter.export(metrics)
        exporter.export(metrics)
        assert len(receiver.script.taken) == 1


@pytest.mark.heavy
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_receiver_without_a_response_times_out(protocol):
    """An export ends at the time limit if the server never responds."""
    metrics = MetricsSystem()
    metrics.collector.increment("orders")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        exporter = OtlpExporter(url, protocol=protocol, timeout=0.5)
        begin = time.monotonic()
        with pytest.raises(OutputError):
            exporter.export(metrics)
        assert time.monotonic() - begin < 10
        exporter.close()


@pytest.mark.parametrize(
    ("kind", "answer", "said"),
    [
        (HttpReceiver, (400, {}), "400"),
        (HttpReceiver, (401, {}), "401"),
        (HttpReceiver, (307, {"Location": "http://elsewhere/"}), "307, a redirect"),
        (GrpcReceiver, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        (GrpcReceiver, grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    ],
)
def test_a_rejection_is_a_refused_error(kind, answer, said, caplog):
    """The error is raised and not logged, and the next delta contains the numbers."""
    metrics = MetricsSystem()
    metrics.collector.increment("orders")
    with receiving(kind, temporality="delta") as (receiver, exporter), caplog.at_level(logging.DEBUG):
        receiver.script.answers = [answer]
        with pytest.raises(RefusedError, match=said):
            exporter.export(metrics)
        assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]
        exporter.export(metrics)
        assert only(receiver.script.metrics()["orders"]).as_int == 1


@pytest.mark.slow
def test_a_proxy_of_the_environment_is_used(monkeypatch):
    """As by the official exporter, for all hosts except those in ``no_proxy``."""
    metrics = MetricsSystem()
    metrics.collector.increment("orders")
    with receiving(HttpReceiver) as (proxy, direct):
        monkeypatch.setenv("http_proxy", f"http://me:word@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        direct.export(metrics)
        OtlpExporter("http://collector.invalid:4318").export(metrics)
        assert [taken.path for taken in proxy.script.taken] == [
            "/v1/metrics",
            "http://collector.invalid:4318/v1/metrics",
        ]
        assert proxy.script.taken[1].headers["host"] == "collector.invalid:4318"
        monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
        with pytest.raises(OutputError, match="the proxy of the environment is not supported: set one like"):
            OtlpExporter("http://collector.invalid:4318", timeout=1).export(metrics)


def test_no_retry_delays_a_final_export():
    """The official exporters retry for seconds; in a final export nothing does."""
    (port,) = free_ports(socket.SOCK_STREAM, 1)
    metrics = MetricsSystem(outputs=[OtlpExporter(f"http://127.0.0.1:{port}")], shutdown_timeout=60)
    metrics.collector.increment("orders")
    begin = time.monotonic()
    metrics.shutdown_metrics()
    assert time.monotonic() - begin < 5
    assert "Connection refused" in str(metrics.export_failures)


@BOTH
def test_rejected_points_are_reported_and_not_sent_again(kind):
    """A partial success is a `RefusedError` with the number of points and the reason."""
    metrics = MetricsSystem()
    metrics.collector.increment("orders")
    with receiving(kind, temporality="delta") as (receiver, exporter):
        receiver.script.rejects = 3
        with pytest.raises(RefusedError, match="rejected 3 points: too old"):
            exporter.export(metrics)
        exporter.export(metrics)
        assert len(receiver.script.taken) == 1


@pytest.mark.heavy
def test_a_message_that_is_too_large_is_refused():
    """The official exporter would not send it."""
    metrics = MetricsSystem()
    metrics.collector.record_gauge("depth", 1, {"text": "x" * (65 * 1024 * 1024)})
    with receiving(HttpReceiver) as (receiver, exporter):
        with pytest.raises(RefusedError, match="more than"):
            exporter.export(metrics)
        assert receiver.script.taken == []


def test_a_message_that_was_not_sent_is_not_marked_as_received(monkeypatch):
    """If the official exporter reports success without a request, the next export sends it again."""
    metrics = MetricsSystem()
    metrics.collector.increment("orders")
    with receiving(HttpReceiver, temporality="delta") as (receiver, exporter):
        with monkeypatch.context() as patch:
            patch.setattr(OTLPMetricExporter, "export", lambda *_: MetricExportResult.SUCCESS)
            with pytest.raises(OutputError, match="sent nothing"):
                exporter.export(metrics)
        exporter.export(metrics)
        assert only(receiver.script.metrics()["orders"]).as_int == 1


def test_a_response_is_quoted_in_one_line():
    """A long response of several lines is shortened."""
    metrics = MetricsSystem()
    metrics.collector.increment("orders")
    with receiving(HttpReceiver) as (receiver, exporter):
        receiver.script.answers = [(500, {}), (413, {"Retry-After": "x" * 1000})]
        with pytest.raises(OutputError, match="the response is 500"):
            exporter.export(metrics)
        with pytest.raises(OutputError) as caught:
            exporter.export(metrics)
    assert len(str(caught.value)) < 700


def test_only_exports_silence_the_official_exporters(caplog):
    """Their loggers work outside of our exports."""
    with receiving(HttpReceiver) as (_, exporter):
        exporter.export(MetricsSystem())
    name = "opentelemetry.exporter.otlp.proto.http.metric_exporter"
    with caplog.at_level(logging.WARNING):
        logging.getLogger(name).warning("theirs")
    assert [record.message for record in caplog.records if record.name == name] == ["theirs"]


@pytest.mark.slow
def test_many_series_are_sent_in_several_requests():
    """Each request has a limited number of series, and each series is sent once."""
    metrics = MetricsSystem()
    counter = metrics.collector.record_counter
    for number in range(MAX_SERIES_PER_REQUEST + 1):
        counter("orders", 1, {"user": str(number)})
    with receiving(HttpReceiver) as (receiver, exporter):
        exporter.export(metrics)
        sizes = [len(points(receiver.script.metrics(place)["orders"])) for place in range(2)]
    assert sizes == [MAX_SERIES_PER_REQUEST, 1]


def test_an_empty_export_sends_nothing():
    """A system without records, or a delta without new records, sends no request."""
    metrics = MetricsSystem()
    with receiving(HttpReceiver, temporality="delta") as (receiver, exporter):
        exporter.export(metrics)
        assert receiver.script.taken == []
        metrics.collector.increment("orders")
        exporter.export(metrics)
        exporter.export(metrics)
        assert len(receiver.script.taken) == 1


def test_an_exporter_starts_over_for_another_system():
    """The received numbers of one system do not affect another."""
    with receiving(HttpReceiver, temporality="delta") as (receiver, exporter):
        for number in (3, 4):
            metrics = MetricsSystem()
            metrics.collector.record_counter("orders", number)
            exporter.export(metrics)
        assert only(receiver.script.metrics()["orders"]).as_int == 4


def test_timestamps_never_decrease(clock):
    """If the wall clock is set back, the end of a point is not before its start."""
    metrics = MetricsSystem(clock=clock)
    metrics.collector.increment("orders")
    with receiving(HttpReceiver) as (receiver, exporter):
        clock.advance(5)
        exporter.export(metrics)
        clock.set_wall(datetime(2020, 1, 1, tzinfo=UTC))
        exporter.export(metrics)
        before, after = (only(receiver.script.metrics(place)["orders"]) for place in range(2))
    assert after.time_unix_nano >= before.time_unix_nano
    assert after.start_time_unix_nano == before.start_time_unix_nano == START_NS


TEXTS = st.text(min_size=1, max_size=20) | st.sampled_from(["\udc80", "a\0b", "日本", "x" * 300, "é\ud800"])
NUMBERS = st.one_of(
    st.integers(-(10**30), 10**30), st.floats(allow_nan=False, allow_infinity=False), st.just(2**63)
)


@pytest.mark.heavy
@settings(max_examples=40)
@given(st.dictionaries(TEXTS, st.tuples(st.dictionaries(TEXTS, TEXTS, max_size=3), NUMBERS), max_size=8))
def test_any_name_tag_and_number_arrives(recorded):
    """The official decoder returns them as they were recorded."""
    metrics = MetricsSystem(clock=ManualClock())
    for name, (tags, number) in recorded.items():
        metrics.collector.record_gauge(name, number, tags)
    receiver, exporter = SHARED
    receiver.script.taken.clear()
    exporter.export(metrics)
    if not recorded:
        assert receiver.script.taken == []
        return
    found = receiver.script.metrics()
    assert len(found) == len({utf8(name) for name in recorded})
    for name, (tags, number) in recorded.items():
        point = only(found[utf8(name)])
        assert attributes(point) == {utf8(tag): utf8(text) for tag, text in tags.items()}
        kept = point.as_int if point.WhichOneof("value") == "as_int" else point.as_double
        assert kept == number or kept == float(number)


def utf8(text: str) -> str:
    """Return a text as UTF-8 can encode it."""
    return text.encode(errors="backslashreplace").decode()


SHARED: tuple[Any, OtlpExporter]


@pytest.fixture(scope="module", autouse=True)
def _shared():
    """Run one receiver for all examples of a test."""
    global SHARED
    with receiving(HttpReceiver) as SHARED:
        yield


class Foreign:
    """A third-party aggregator without a store."""

    def __init__(self, *values: MetricValue) -> None:
        self.values = list(values)

    def get_metric_summary(self, metric_name, time_window=None):
        """Never called."""
        raise NotImplementedError

    def get_metrics_by_tag(self, tag_filter):
        """Return all series."""
        return self.values

    def export_metrics(self, format="json"):
        """Never called."""
        raise NotImplementedError

    def get_top_metrics(self, metric_type, limit=10):
        """Never called."""
        raise NotImplementedError


def value(
    name: str, number: float, metric_type: MetricType, unit: MetricUnit, **metadata: Any
) -> MetricValue:
    """Return the value of one series."""
    return MetricValue(name, number, metric_type, unit, datetime.now(UTC), {"a": "b"}, metadata)


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_an_aggregator_without_a_store_is_exported(temporality):
    """It is exported as sums, gauges, outcomes, and histograms of known bounds or of one bucket."""
    buckets = {"counts": {"1.0": 2, "5.0": 3, "inf": 4}, "sum": 30.0}
    foreign = Foreign(
        value("orders", 7, MetricType.COUNTER, MetricUnit.COUNT),
        value("depth", 2.5, MetricType.GAUGE, MetricUnit.BYTES, help="How deep."),
        value("size", 5, MetricType.HISTOGRAM, MetricUnit.BYTES, count=4, sum=30.0, buckets=buckets),
        value("wait", 9, MetricType.TIMER, MetricUnit.MILLISECONDS, count=2, sum=12.0, min=3.0, max=9.0),
        value("vague", 9, MetricType.HISTOGRAM, MetricUnit.COUNT),
        value("rate", 9, MetricType.RATE, MetricUnit.OPERATIONS_PER_SECOND),
        value("op", 1, MetricType.TIMER, MetricUnit.MILLISECONDS, operation=True, count=1, sum=1.0),
        value(
            "op",
            1,
            MetricType.RATE,
            MetricUnit.OPERATIONS_PER_SECOND,
            operation=True,
            count=4,
            success_rate=0.75,
        ),
    )
    metrics = MetricsSystem(aggregator=foreign)
    with receiving(HttpReceiver, temporality=temporality) as (receiver, exporter):
        exporter.export(metrics)
        found = receiver.script.metrics()
        assert sorted(found) == ["depth", "op.duration", "op.operations", "orders", "size", "wait"]
        assert only(found["orders"]).as_int == 7
        assert (found["depth"].description, only(found["depth"]).as_double) == ("How deep.", 2.5)
        size = only(found["size"])
        assert (list(size.explicit_bounds), list(size.bucket_counts), size.sum) == (
            [1.0, 5.0],
            [2, 1, 1],
            30.0,
        )
        wait = only(found["wait"])
        assert (list(wait.bucket_counts), wait.count, wait.min, wait.max) == ([2], 2, 3.0, 9.0)
        assert {point.as_int for point in points(found["op.operations"]).values()} == {3, 1}
        foreign.values[0].value = 9
        exporter.export(metrics)
        assert only(receiver.script.metrics()["orders"]).as_int == (9 if temporality == "cumulative" else 2)
        if temporality == "delta":
            assert sorted(receiver.script.metrics()) == ["depth", "orders"]


@pytest.mark.parametrize(
    ("endpoint", "arguments", "said"),
    [
        ("collector:4318", {}, "does not begin with http://"),
        ("http://", {}, "it has no host"),
        ("http://host:port", {}, "malformed"),
        ("http://u:secret@host", {}, "it has a user"),
        ("http://host/#x", {}, "a fragment"),
        ("http://host/path", {"protocol": "grpc"}, "which gRPC does not use"),
        (b"http://host", {}, "does not begin"),
        (None, {}, "endpoint= is not"),
        ("http://host", {"protocol": "udp"}, "'http' or 'grpc'"),
        ("http://host", {"temporality": "both"}, "'cumulative' or 'delta'"),
        ("http://host", {"compression": "zip"}, "'gzip' or 'none'"),
        ("http://host", {"timeout": 0}, "timeout=0"),
        ("http://host", {"timeout": True}, "timeout=True"),
        ("http://host", {"headers": {"a b": "secret"}}, "'a b' is not a header name"),
        ("http://host", {"headers": {"a": "secret\n"}}, "the value of 'a'"),
        ("http://host", {"headers": {"a": "secreté"}, "protocol": "grpc"}, "ASCII"),
        ("http://host", {"headers": {"Content-Type": "secret"}}, "set by the exporter"),
        ("http://host", {"resource": ["x"]}, "x"),
    ],
)
def test_a_wrong_argument_is_an_error_without_secrets(endpoint, arguments, said):
    """The error names the argument."""
    with pytest.raises(InvalidInputError, match=said) as caught:
        OtlpExporter(endpoint, **arguments)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "protocol", "name"),
    [
        ("http://host:4318", "http", "otlp+http://host:4318"),
        ("https://host/otlp/v1/metrics?key=secret", "http", "otlp+https://host"),
        ("http://[::1]:4317/", "grpc", "otlp+grpc://[::1]:4317"),
    ],
)
def test_the_name_is_the_address_without_secrets(endpoint, protocol, name):
    """The name is the address of the receiver, without parts that may be secrets."""
    exporter = OtlpExporter(endpoint, protocol=protocol, headers={"api-key": "secret"})
    assert exporter.name == name
    assert "secret" not in repr(exporter)
    exporter.close()


def test_the_service_is_named_by_argument_tag_or_environment(monkeypatch):
    """``service.name`` is the argument's, else the tag's, else the environment's."""
    metrics, nameless = MetricsSystem(tags={"service": "tagged"}), MetricsSystem()
    for system in (metrics, nameless):
        system.collector.increment("orders")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "from-environment")

    def name_of(system: MetricsSystem, **arguments: Any) -> str:
        with receiving(HttpReceiver, **arguments) as (receiver, exporter):
            exporter.export(system)
            return attributes(receiver.script.taken[0].message.resource_metrics[0].resource)["service.name"]

    assert name_of(metrics, resource={"service.name": "given"}) == "given"
    assert name_of(metrics) == "tagged"
    assert name_of(nameless) == "from-environment"


FORKED = """
import os, sys
from metrics_adapters.otlp import OtlpExporter
from metrics_framework import MetricsSystem
exporter = OtlpExporter(sys.argv[1], temporality="delta")
metrics = MetricsSystem()
metrics.collector.record_counter("orders", 5)
exporter.export(metrics)
child = os.fork()
metrics.collector.record_counter("orders", 7)
exporter.export(metrics)
os._exit(0) if child == 0 else sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.heavy
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_exports_its_own():
    """A child sends its own records as an instance of its own."""
    with receiving(HttpReceiver) as (receiver, exporter):
        url = exporter.name.removeprefix("otlp+")
        subprocess.run([sys.executable, "-c", FORKED, url], check=True, timeout=60)
        sent = [only(receiver.script.metrics(place)["orders"]).as_int for place in range(3)]
        resources = [one.message.resource_metrics[0].resource for one in receiver.script.taken]
    assert sorted(sent) == [5, 7, 7]
    assert len({attributes(one)["service.instance.id"] for one in resources}) == 2


@pytest.mark.heavy
def test_a_missing_extra_is_named():
    """Without the official packages, the import error names the extra."""
    code = "import sys; sys.modules['opentelemetry'] = None; import metrics_adapters.otlp"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "pip install 'metrics-framework[otlp]'" in done.stderr.splitlines()[-1]
