"""Metric families: names, bounds and base units."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.utils import floatToGoString

from metrics_framework.exposition.families import (
    bound_text,
    exposed_names,
    family_name,
)
from metrics_framework.exposition.names import in_base_unit
from metrics_framework.recording.buckets import seconds_as
from metrics_framework.recording.exposed_names import Named
from metrics_framework.values import MetricType, MetricUnit


@pytest.mark.parametrize(
    ("named", "unit", "family"),
    [
        (Named("http.requests", MetricType.COUNTER, False), None, "http_requests"),
        (Named("http.requests.total", MetricType.COUNTER, False), None, "http_requests"),
        (Named("sent", MetricType.COUNTER, False), MetricUnit.MEGABYTES, "sent_bytes"),
        (Named("sent_bytes", MetricType.GAUGE, False), MetricUnit.KILOBYTES, "sent_bytes"),
        (Named("9 lives", MetricType.GAUGE, False), MetricUnit.OPERATIONS_PER_SECOND, "_9_lives"),
        (Named("job:rate::5m", MetricType.GAUGE, False), None, "job_rate_5m"),
        (Named("wait", MetricType.HISTOGRAM, False), MetricUnit.MICROSECONDS, "wait_seconds"),
        (Named("wait", MetricType.TIMER, False), MetricUnit.BYTES, "wait_seconds"),
        (Named("job", MetricType.TIMER, True), None, "job_duration_seconds"),
        (Named("job", MetricType.RATE, True), MetricUnit.BYTES, "job_operations"),
    ],
    ids=lambda value: value.name if isinstance(value, Named) else None,
)
def test_names_follow_opentelemetry(named, unit, family):
    """The base unit is the suffix, an operation has two families, and that of a counter lacks `_total`."""
    assert family_name(named, unit) == family
    assert family in exposed_names(named, unit)


def test_a_family_reserves_the_names_of_its_samples():
    """They have the suffixes that OpenMetrics reserves for the type."""
    assert exposed_names(Named("c", MetricType.COUNTER, False), None) == ["c", "c_total", "c_created"]
    assert exposed_names(Named("g", MetricType.GAUGE, False), None) == ["g"]
    assert exposed_names(Named("h", MetricType.HISTOGRAM, False), None) == [
        "h", "h_bucket", "h_sum", "h_count", "h_created"
    ]  # fmt: skip


@given(st.floats(allow_nan=False))
def test_bounds_are_written_as_prometheus_client_writes_them(bound):
    """Without a conversion, the text of a bound equals that of prometheus_client."""
    assert bound_text(bound, MetricUnit.COUNT) == floatToGoString(bound)


@given(st.integers(1, 10**6), st.integers(-6, 3))
def test_bounds_in_seconds_survive_the_conversion(digits, exponent):
    """Bounds in seconds are recorded in milliseconds and exposed unchanged."""
    seconds = float(f"{digits}e{exponent}")
    (milliseconds,) = seconds_as(MetricUnit.MILLISECONDS, [seconds])
    assert milliseconds == float(f"{digits}e{exponent + 3}")
    assert bound_text(milliseconds, MetricUnit.MILLISECONDS) == floatToGoString(seconds)
    assert seconds_as(MetricUnit.BYTES, [seconds]) == seconds_as(None, [seconds]) == (seconds,)


@pytest.mark.parametrize(
    ("number", "unit", "base"),
    [
        (250, MetricUnit.MILLISECONDS, 0.25),
        (3, MetricUnit.MICROSECONDS, 3e-6),
        (5.5, MetricUnit.KILOBYTES, 5_500),
        (2, MetricUnit.MEGABYTES, 2_000_000),
        (1e308, MetricUnit.MEGABYTES, math.inf),
        (10**400, MetricUnit.COUNT, math.inf),
        (-(10**400), MetricUnit.BYTES, -math.inf),
    ],
)
def test_numbers_are_in_base_units(number, unit, base):
    """The base units are seconds and bytes; numbers beyond the largest float are infinite."""
    assert in_base_unit(number, unit) == base
