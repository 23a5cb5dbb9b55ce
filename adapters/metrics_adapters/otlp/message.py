"""The data model of OTLP, and its encoding as Protocol Buffers.

The official classes encode each point. What they encode slowly is encoded here: a repeated field may stand
anywhere in its message, so constant parts are encoded once and joined with the rest as bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

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

from metrics_adapters.otlp.histograms import (
    ConsecutiveCounts,
    ExplicitCounts,
    ExponentialCounts,
    RecordedValue,
    SentValue,
    as_double,
)
from metrics_framework._version import __version__
from metrics_framework.runtime.cooperative import yield_gil

Kind = Literal["counter", "gauge", "histogram", "exponential"]

_ATTRIBUTES: dict[Kind, int] = {
    "counter": NumberDataPoint.ATTRIBUTES_FIELD_NUMBER,
    "gauge": NumberDataPoint.ATTRIBUTES_FIELD_NUMBER,
    "histogram": HistogramDataPoint.ATTRIBUTES_FIELD_NUMBER,
    "exponential": ExponentialHistogramDataPoint.ATTRIBUTES_FIELD_NUMBER,
}
"""The number of the field with the attributes, by kind of point."""


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
_POINTS = Sum.DATA_POINTS_FIELD_NUMBER  # the same for all kinds


Temporality = Literal["cumulative", "delta"]


class MetricStream(NamedTuple):
    """The description of all series of one name.

    Attributes:
        is_operation: Whether it belongs to an operation, whose name may also be that of a metric.
        name: The recorded name, for an operation with ``.duration`` or ``.operations``.
        kind: The kind of its points.
        unit: The unit in UCUM, or an empty string.
        help: The description, or an empty string.
    """

    is_operation: bool
    name: str
    kind: Kind
    unit: str
    help: str


class SeriesValue(NamedTuple):
    """One series and its current value.

    Attributes:
        stream: The description of its name.
        key: Identifies the series.
        attributes: Its attributes, encoded as fields of a point.
        value: Its value.
        created_ns: When it was created, on the clock of its store; 0 if that is not known.
    """

    stream: MetricStream
    key: Hashable
    attributes: bytes
    value: RecordedValue
    created_ns: int = 0

    @classmethod
    def of(cls, stream: MetricStream, attributes: Mapping[str, str], value: RecordedValue) -> SeriesValue:
        """Return the value of a series that is identified by its attributes."""
        key = stream, frozenset(attributes.items())
        return cls(stream, key, encoded_attributes(stream.kind, attributes), value)


class Point(NamedTuple):
    """A data point of a series.

    Attributes:
        series: The series and its current value.
        start_ns: The start of the time that the point covers, in nanoseconds since the epoch.
        value: The value that is sent.
    """

    series: SeriesValue
    start_ns: int
    value: SentValue


def encode_resource(resource: Resource) -> bytes:
    """Return the encoded resource of a message."""
    message = encode_metrics(MetricsData([ResourceMetrics(resource, [], resource.schema_url)]))
    return _bytes(message.resource_metrics[0])


def encode_message(points: Iterable[Point], now_ns: int, resource: bytes, temporality: Temporality) -> bytes:
    """Return points as one message.

    Args:
        points: The data points.
        now_ns: When they were read, in nanoseconds since the epoch.
        resource: The resource, from `encode_resource`.
        temporality: Whether points count since the start, or since the last message.
    """
    by_stream: dict[MetricStream, list[bytes]] = {}
    for point in points:
        yield_gil()
        stream = point.series.stream
        written = point.series.attributes + _FORMS[stream.kind].point(point, now_ns)
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


def _metric(stream: MetricStream, points: list[bytes], temporality: Temporality) -> bytes:
    form = _FORMS[stream.kind]
    about = Metric(name=stream.name, description=stream.help, unit=stream.unit)
    data = _bytes(form.about(_TEMPORALITIES[temporality])) + b"".join(points)
    return _bytes(about) + field(form.number, data)


def _number(point: Point, now_ns: int) -> bytes:
    number = point.value
    assert isinstance(number, int | float)
    start_ns = 0 if point.series.stream.kind == "gauge" else point.start_ns
    if isinstance(number, int) and number in _INT64:
        return _bytes(NumberDataPoint(start_time_unix_nano=start_ns, time_unix_nano=now_ns, as_int=number))
    number = as_double(number)
    return _bytes(NumberDataPoint(start_time_unix_nano=start_ns, time_unix_nano=now_ns, as_double=number))


def _counted(point: Point, now_ns: int) -> bytes:
    value = point.value
    assert isinstance(value, ExplicitCounts)
    sent = HistogramDataPoint(
        start_time_unix_nano=point.start_ns,
        time_unix_nano=now_ns,
        count=sum(value.counts),
        sum=value.sum,
        bucket_counts=value.counts,
        explicit_bounds=value.bounds,
        min=value.min,
        max=value.max,
    )
    return _bytes(sent)


def _exponential(point: Point, now_ns: int) -> bytes:
    value = point.value
    assert isinstance(value, ExponentialCounts)
    sent = ExponentialHistogramDataPoint(
        start_time_unix_nano=point.start_ns,
        time_unix_nano=now_ns,
        count=value.number,
        sum=value.sum,
        scale=value.scale,
        zero_count=value.zeros,
        min=value.min,
        max=value.max,
    )
    written = _bytes(sent)
    if value.positive.counts:
        written += field(ExponentialHistogramDataPoint.POSITIVE_FIELD_NUMBER, _buckets(value.positive))
    if value.negative.counts:
        written += field(ExponentialHistogramDataPoint.NEGATIVE_FIELD_NUMBER, _buckets(value.negative))
    return written


def _buckets(cells: ConsecutiveCounts) -> bytes:
    buckets, (low, counts) = ExponentialHistogramDataPoint.Buckets, cells
    if isinstance(counts, bytes) and counts.isascii():
        # Each number below 128 is one byte, and the official class would iterate over all of them.
        return _bytes(buckets(offset=low)) + field(buckets.BUCKET_COUNTS_FIELD_NUMBER, counts)
    return _bytes(buckets(offset=low, bucket_counts=counts))


def _bytes(sent: Any) -> bytes:
    written: bytes = sent.SerializeToString()
    return written


class _Form(NamedTuple):
    """The encoding of one kind of metric.

    Attributes:
        number: The number of the field with the points.
        about: Returns the message around the points, for a temporality.
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


def encoded_attributes(kind: Kind, attributes: Mapping[str, str]) -> bytes:
    """Return attributes as fields of a point of that kind."""
    number = _ATTRIBUTES[kind]
    return b"".join([attribute(number, name, value) for name, value in attributes.items()])


def field(number: int, value: bytes) -> bytes:
    """Return a field that holds a message, a text, or packed numbers.

    Args:
        number: The number of the field, 15 at most.
        value: The value of the field.
    """
    size = len(value)
    if size < 0x80:
        return bytes((number << 3 | 2, size)) + value
    return bytes((number << 3 | 2,)) + _varint(size) + value


def attribute(number: int, name: str, value: str) -> bytes:
    """Return a field with an attribute. A lone surrogate is written as Python's escape."""
    value_bytes = field(1, value.encode(errors="backslashreplace"))
    return field(number, field(1, name.encode(errors="backslashreplace")) + field(2, value_bytes))


def _varint(number: int) -> bytes:
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
