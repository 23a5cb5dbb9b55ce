"""The encoding equals that of the official classes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics._internal.point import Buckets
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

from metrics_adapters.otlp.histograms import ExplicitCounts, sent_value
from metrics_adapters.otlp.message import MetricStream, Point, SeriesValue, encode_message, encode_resource
from metrics_framework._version import __version__
from metrics_framework.recording import Distribution

NOW = 1_767_225_600 * 10**9
RESOURCE = Resource({"service.name": "shop", "process.pid": 7}, "https://example.org/schema")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["x" * 127, "x" * 128, "é" * 9_000]
)
ATTRIBUTES = st.dictionaries(TEXTS, TEXTS, max_size=3)
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False)
VALUES = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=300)
TIMES = st.integers(1, NOW)


def metric_of(stream: MetricStream, points: list[Point]) -> Metric:
    """Return points as objects of the official classes."""
    temporality = AggregationTemporality.DELTA
    told = []
    for series, start, value in points:
        attributes = dict(series.key)
        if stream.kind == "exponential":
            told.append(
                ExponentialHistogramDataPoint(
                    attributes, start, NOW, value.number, value.sum, value.scale, value.zeros,
                    Buckets(*value.positive), Buckets(*value.negative), 0, value.min, value.max,
                )
            )  # fmt: skip
        elif stream.kind == "histogram":
            told.append(
                HistogramDataPoint(
                    attributes, start, NOW, sum(value.counts), value.sum, value.counts, value.bounds,
                    value.min, value.max,
                )
            )  # fmt: skip
        else:
            told.append(NumberDataPoint(attributes, start, NOW, value))
    data = {
        "counter": lambda: Sum(told, temporality, True),
        "gauge": lambda: Gauge(told),
        "histogram": lambda: Histogram(told, temporality),
        "exponential": lambda: ExponentialHistogram(told, temporality),
    }[stream.kind]()
    return Metric(stream.name, stream.help, stream.unit, data)


def value_of(stream: MetricStream, attributes: dict[str, str]) -> SeriesValue:
    """Return the value of a series whose key has its attributes in order."""
    return SeriesValue.of(stream, attributes, 0)._replace(key=tuple(attributes.items()))


def parts(kind: str):
    """Return values that a kind of metric may send."""
    if kind == "exponential":
        return VALUES.map(Distribution.of).map(sent_value)
    if kind == "histogram":
        return st.builds(
            ExplicitCounts,
            st.just((1.0, 5.0)),
            st.tuples(*[st.integers(0, 1 << 40)] * 3),
            st.floats(0, 1e9),
            st.none() | st.floats(0, 1),
            st.none() | st.floats(1, 9),
        )
    return NUMBERS


@settings(max_examples=40, deadline=None)
@given(st.data())
@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram", "exponential"])
def test_the_official_classes_encode_the_same(kind, data):
    """A message decodes to the message of the official exporter, in every field."""
    stream = MetricStream(data.draw(st.booleans()), data.draw(TEXTS), kind, "ms", data.draw(TEXTS))
    points = [
        Point(value_of(stream, data.draw(ATTRIBUTES)), data.draw(TIMES), data.draw(parts(kind)))
        for _ in range(data.draw(st.integers(1, 4)))
    ]
    found = ExportMetricsServiceRequest.FromString(
        encode_message(points, NOW, encode_resource(RESOURCE), "delta")
    )
    scope = "metrics_framework.operations" if stream.is_operation else "metrics_framework"
    scopes = [ScopeMetrics(InstrumentationScope(scope, __version__), [metric_of(stream, points)], "")]
    official = encode_metrics(MetricsData([ResourceMetrics(RESOURCE, scopes, "")]))
    assert found == official
