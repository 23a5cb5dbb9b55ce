"""What is sent, in bytes: each point by the official classes, and what they are slow at by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ScopeMetrics,
    Sum,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics as SentResource
from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics
from opentelemetry.sdk.resources import Resource

from metrics_adapters.otlp.contents import Counted
from metrics_adapters.otlp.exponential import Cells, Exponential, as_double
from metrics_adapters.otlp.readings import Kind, Stream
from metrics_adapters.otlp.sent import Point, Temporality
from metrics_adapters.otlp.wire import field
from metrics_framework._version import __version__
from metrics_framework.runtime.cooperative import yield_gil

# Two scopes, since an operation may have the name of a metric.
_SCOPES = {
    is_operation: ScopeMetrics(scope=InstrumentationScope(name=name, version=__version__))
    for is_operation, name in ((False, "metrics_framework"), (True, "metrics_framework.operations"))
}
_TEMPORALITIES = {
    "cumulative": AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE,
    "delta": AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA,
}
_INT64 = range(-(1 << 63), 1 << 63)
_POINTS = Sum.DATA_POINTS_FIELD_NUMBER  # the same of all kinds


def described(resource: Resource) -> bytes:
    """Return what says of a message whose numbers these are."""
    message = encode_metrics(MetricsData([ResourceMetrics(resource, [], resource.schema_url)]))
    return _bytes(message.resource_metrics[0])


def message(points: Iterable[Point], now_ns: int, resource: bytes, temporality: Temporality) -> bytes:
    """Return points as one message.

    Args:
        points: What is sent.
        now_ns: When it was read, in nanoseconds since the epoch.
        resource: Whose numbers these are, from `described`.
        temporality: Whether they count since the start, or since the last message.
    """
    by_stream: dict[Stream, list[bytes]] = {}
    for point in points:
        yield_gil()
        stream = point.reading.stream
        written = point.reading.attributes + _FORMS[stream.kind].point(point, now_ns)
        by_stream.setdefault(stream, []).append(field(_POINTS, written))
    scopes: dict[bool, list[bytes]] = {}
    for stream, many in by_stream.items():
        written = field(ScopeMetrics.METRICS_FIELD_NUMBER, _metric(stream, many, temporality))
        scopes.setdefault(stream.is_operation, []).append(written)
    found = [
        field(SentResource.SCOPE_METRICS_FIELD_NUMBER, _bytes(_SCOPES[which]) + b"".join(metrics))
        for which, metrics in scopes.items()
    ]
    return field(ExportMetricsServiceRequest.RESOURCE_METRICS_FIELD_NUMBER, resource + b"".join(found))


def _metric(stream: Stream, points: list[bytes], temporality: Temporality) -> bytes:
    form = _FORMS[stream.kind]
    about = Metric(name=stream.name, description=stream.help, unit=stream.unit)
    data = _bytes(form.about(_TEMPORALITIES[temporality])) + b"".join(points)
    return _bytes(about) + field(form.number, data)


def _number(point: Point, now_ns: int) -> bytes:
    number = point.part
    assert isinstance(number, int | float)
    start_ns = 0 if point.reading.stream.kind == "gauge" else point.start_ns
    if isinstance(number, int) and number in _INT64:
        return _bytes(NumberDataPoint(start_time_unix_nano=start_ns, time_unix_nano=now_ns, as_int=number))
    number = as_double(number)
    return _bytes(NumberDataPoint(start_time_unix_nano=start_ns, time_unix_nano=now_ns, as_double=number))


def _counted(point: Point, now_ns: int) -> bytes:
    part = point.part
    assert isinstance(part, Counted)
    sent = HistogramDataPoint(
        start_time_unix_nano=point.start_ns,
        time_unix_nano=now_ns,
        count=sum(part.counts),
        sum=part.sum,
        bucket_counts=part.counts,
        explicit_bounds=part.bounds,
        min=part.min,
        max=part.max,
    )
    return _bytes(sent)


def _exponential(point: Point, now_ns: int) -> bytes:
    part = point.part
    assert isinstance(part, Exponential)
    sent = ExponentialHistogramDataPoint(
        start_time_unix_nano=point.start_ns,
        time_unix_nano=now_ns,
        count=part.number,
        sum=part.sum,
        scale=part.scale,
        zero_count=part.zeros,
        min=part.min,
        max=part.max,
    )
    written = _bytes(sent)
    if part.positive.counts:
        written += field(ExponentialHistogramDataPoint.POSITIVE_FIELD_NUMBER, _buckets(part.positive))
    if part.negative.counts:
        written += field(ExponentialHistogramDataPoint.NEGATIVE_FIELD_NUMBER, _buckets(part.negative))
    return written


def _buckets(cells: Cells) -> bytes:
    buckets, (low, counts) = ExponentialHistogramDataPoint.Buckets, cells
    if isinstance(counts, bytes) and counts.isascii():
        # Each number below 128 is a byte, and the class would look at every one of them.
        return _bytes(buckets(offset=low)) + field(buckets.BUCKET_COUNTS_FIELD_NUMBER, counts)
    return _bytes(buckets(offset=low, bucket_counts=counts))


def _bytes(sent: Any) -> bytes:
    written: bytes = sent.SerializeToString()
    return written


class _Form(NamedTuple):
    """How a kind of metric is written.

    Attributes:
        number: The field of a metric that its points are in.
        about: Returns what is said of all points, of their temporality.
        point: Returns a point without its attributes.
    """

    number: int
    about: Callable[[Any], Any]
    point: Callable[[Point, int], bytes]


_FORMS: dict[Kind, _Form] = {
    "counter": _Form(
        Metric.SUM_FIELD_NUMBER,
        lambda temporality: Sum(aggregation_temporality=temporality, is_monotonic=True),
        _number,
    ),
    "gauge": _Form(Metric.GAUGE_FIELD_NUMBER, lambda _: Gauge(), _number),
    "histogram": _Form(
        Metric.HISTOGRAM_FIELD_NUMBER,
        lambda temporality: Histogram(aggregation_temporality=temporality),
        _counted,
    ),
    "exponential": _Form(
        Metric.EXPONENTIAL_HISTOGRAM_FIELD_NUMBER,
        lambda temporality: ExponentialHistogram(aggregation_temporality=temporality),
        _exponential,
    ),
}
