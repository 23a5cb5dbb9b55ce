"""What is sent, in the official SDK's data classes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from opentelemetry.sdk.metrics._internal.point import Buckets as SentBuckets
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from metrics_adapters.otlp.contents import Counted, Exponential, as_double
from metrics_adapters.otlp.readings import Stream
from metrics_adapters.otlp.sent import Point, Temporality
from metrics_framework._version import __version__

# Two scopes, since an operation may have the name of a metric.
_SCOPES = {
    False: InstrumentationScope("metrics_framework", __version__),
    True: InstrumentationScope("metrics_framework.operations", __version__),
}
_TEMPORALITIES = {
    "cumulative": AggregationTemporality.CUMULATIVE,
    "delta": AggregationTemporality.DELTA,
}
_INT64 = range(-(1 << 63), 1 << 63)
_UNKNOWN: Any = None
"""What the data classes do not foresee, and the protocol does: a field that is left out."""


def message(
    points: Iterable[Point], now_ns: int, resource: Resource, temporality: Temporality
) -> MetricsData:
    """Return points as one message.

    Args:
        points: What is sent.
        now_ns: When it was read, in nanoseconds since the epoch.
        resource: Whose numbers these are.
        temporality: Whether they count since the start, or since the last message.
    """
    by_stream: dict[Stream, list[Point]] = {}
    for point in points:
        by_stream.setdefault(point.reading.key.stream, []).append(point)
    scopes: dict[bool, list[Metric]] = {}
    for stream, many in by_stream.items():
        metric = _metric(stream, many, now_ns, _TEMPORALITIES[temporality])
        scopes.setdefault(stream.is_operation, []).append(metric)
    return MetricsData(
        [
            ResourceMetrics(
                resource,
                [ScopeMetrics(_SCOPES[which], metrics, "") for which, metrics in scopes.items()],
                "",
            )
        ]
    )


def _metric(stream: Stream, points: list[Point], now_ns: int, temporality: AggregationTemporality) -> Metric:
    data: Sum | Gauge | Histogram | ExponentialHistogram
    if stream.kind == "gauge":
        data = Gauge([_number(point, now_ns) for point in points])
    elif stream.kind == "counter":
        data = Sum([_number(point, now_ns) for point in points], temporality, is_monotonic=True)
    elif isinstance(points[0].part, Counted):
        data = Histogram([_counted(point, now_ns) for point in points], temporality)
    else:
        data = ExponentialHistogram([_exponential(point, now_ns) for point in points], temporality)
    return Metric(stream.name, stream.help, stream.unit, data)


def _number(point: Point, now_ns: int) -> NumberDataPoint:
    number = point.part
    assert isinstance(number, int | float)
    if not isinstance(number, int) or number not in _INT64:
        number = as_double(number)
    return NumberDataPoint(dict(point.reading.key.attributes), point.start_ns, now_ns, number)


def _counted(point: Point, now_ns: int) -> HistogramDataPoint:
    part = point.part
    assert isinstance(part, Counted)
    return HistogramDataPoint(
        dict(point.reading.key.attributes),
        point.start_ns,
        now_ns,
        sum(part.counts),
        part.sum,
        part.counts,
        part.bounds,
        _UNKNOWN if part.min is None else part.min,
        _UNKNOWN if part.max is None else part.max,
    )


def _exponential(point: Point, now_ns: int) -> ExponentialHistogramDataPoint:
    part = point.part
    assert isinstance(part, Exponential)
    return ExponentialHistogramDataPoint(
        attributes=dict(point.reading.key.attributes),
        start_time_unix_nano=point.start_ns,
        time_unix_nano=now_ns,
        count=part.number,
        sum=_UNKNOWN if part.sum is None else part.sum,
        scale=part.scale,
        zero_count=part.zeros,
        positive=SentBuckets(*part.positive),
        negative=SentBuckets(*part.negative),
        flags=0,
        min=_UNKNOWN if part.min is None else part.min,
        max=_UNKNOWN if part.max is None else part.max,
    )
