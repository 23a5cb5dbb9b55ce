"""The data model of OTLP, and its messages in bytes."""

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

from metrics_adapters.otlp.histograms import Cells, Content, Counted, Exponential, Part, as_double
from metrics_framework._version import __version__
from metrics_framework.runtime.cooperative import yield_gil

Kind = Literal["counter", "gauge", "histogram", "exponential"]

_ATTRIBUTES: dict[Kind, int] = {
    "counter": NumberDataPoint.ATTRIBUTES_FIELD_NUMBER,
    "gauge": NumberDataPoint.ATTRIBUTES_FIELD_NUMBER,
    "histogram": HistogramDataPoint.ATTRIBUTES_FIELD_NUMBER,
    "exponential": ExponentialHistogramDataPoint.ATTRIBUTES_FIELD_NUMBER,
}
"""The field of a point that its attributes are in."""


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


Temporality = Literal["cumulative", "delta"]


class Stream(NamedTuple):
    """What all series of one name have in common.

    Attributes:
        is_operation: Whether it is of an operation, whose names are apart from those of metrics.
        name: As recorded; an operation's ends in ``.duration`` or ``.operations``.
        kind: What its series hold.
        unit: In UCUM; may be empty.
        help: What it is; may be empty.
    """

    is_operation: bool
    name: str
    kind: Kind
    unit: str
    help: str


class Reading(NamedTuple):
    """One series, and what it holds.

    Attributes:
        stream: What it has in common with others.
        key: What tells it from all others.
        attributes: Its attributes, as the fields of a point.
        content: What it holds.
    """

    stream: Stream
    key: Hashable
    attributes: bytes
    content: Content

    @classmethod
    def of(cls, stream: Stream, attributes: Mapping[str, str], content: Content) -> Reading:
        """Return the reading of a series that is told from others by its attributes."""
        key = stream, frozenset(attributes.items())
        return cls(stream, key, encoded_attributes(stream.kind, attributes), content)


class Point(NamedTuple):
    """What is sent of a series.

    Attributes:
        reading: The series, and all that it holds.
        start_ns: When it began to count what is sent, in nanoseconds since the epoch.
        part: What is sent.
    """

    reading: Reading
    start_ns: int
    part: Part


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


def encoded_attributes(kind: Kind, attributes: Mapping[str, str]) -> bytes:
    """Return attributes as fields of a point of that kind."""
    number = _ATTRIBUTES[kind]
    return b"".join([attribute(number, name, value) for name, value in attributes.items()])


def field(number: int, content: bytes) -> bytes:
    """Return a field that holds a message, a text, or packed numbers.

    Args:
        number: The field's number, 15 at most.
        content: What it holds.
    """
    size = len(content)
    if size < 0x80:
        return bytes((number << 3 | 2, size)) + content
    return bytes((number << 3 | 2,)) + _varint(size) + content


def attribute(number: int, name: str, value: str) -> bytes:
    """Return an attribute, in the field with that number; a lone surrogate becomes Python's escape."""
    value_bytes = field(1, value.encode(errors="backslashreplace"))
    return field(number, field(1, name.encode(errors="backslashreplace")) + field(2, value_bytes))


def _varint(number: int) -> bytes:
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
