"""Sample adapters, written in third-party style against the Protocols only, pass the conformance kit.

Each is found by name like an installed package. Its test consists of its constructor and its declared limits.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from metrics_framework.plugins import load_adapter
from metrics_framework.testing.conformance import (
    MetricCollectorContract,
    MetricsAggregatorContract,
    Parts,
    PerformanceTimerContract,
    ResourceMonitorContract,
    SuccessFailureTrackerContract,
)


class Minimal:
    """Creates the parts of the minimal package, which declares no limits."""

    def make(self, clock):
        """Create them without records."""
        collector = load_adapter("sample-minimal.collector")(clock)
        return Parts(collector=collector, aggregator=load_adapter("sample-minimal.aggregator")(collector))


class TestMinimalCollector(Minimal, MetricCollectorContract):
    """A dict of lists is a `MetricCollector`."""


class TestMinimalAggregator(Minimal, MetricsAggregatorContract):
    """Statistics of lists are a `MetricsAggregator`."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
class TestMinimalMonitor(ResourceMonitorContract):
    """The standard library and /proc are a `ResourceMonitor`."""

    unknown_keys = frozenset({"percent", "process_percent"})

    def make_monitor(self):
        """Create it."""
        return load_adapter("sample-minimal.monitor")(load_adapter("sample-minimal.collector")())


class FourParts:
    """Creates the four parts of a package on one backend."""

    package: str

    def make(self, clock):
        """Create them on an empty backend."""
        backend = load_adapter(f"{self.package}.backend")(clock)
        return Parts(
            *(
                load_adapter(f"{self.package}.{part}")(backend)
                for part in ("collector", "timer", "tracker", "aggregator")
            )
        )


class Prometheus(FourParts):
    """prometheus_client keeps totals and buckets, behind locks."""

    package = "sample-prometheus"
    keeps_windows = False
    reentrant = False
    takes_negatives = False
    quantile_error = 0.1
    unknown_keys = frozenset(
        {"min", "max", "stddev", "counter.count", "gauge.count", "gauge.avg"}
        | {f"timer.p{percent}" for percent in (50, 90, 95, 99)}
    )


class TestPrometheusCollector(Prometheus, MetricCollectorContract):
    """Its metrics are a `MetricCollector`."""


class TestPrometheusTimer(Prometheus, PerformanceTimerContract):
    """A summary is a `PerformanceTimer`."""


class TestPrometheusTracker(Prometheus, SuccessFailureTrackerContract):
    """A counter is a `SuccessFailureTracker`."""


class TestPrometheusAggregator(Prometheus, MetricsAggregatorContract):
    """Reading it back is a `MetricsAggregator`."""


class OpenTelemetry(FourParts):
    """OpenTelemetry's SDK keeps totals, exponential buckets and extremes, behind locks."""

    package = "sample-opentelemetry"
    keeps_windows = False
    reentrant = False
    takes_negatives = False
    quantile_error = 0.05
    unknown_keys = frozenset(
        {"stddev", "counter.count", "gauge.count", "gauge.avg", "gauge.min", "gauge.max"}
    )

    @pytest.fixture(autouse=True)
    def installed(self):
        """Skip if the SDK is not installed."""
        pytest.importorskip("opentelemetry.sdk.metrics")

    def close(self, parts):
        """Shut the provider down."""
        parts.collector.backend.provider.shutdown()


class TestOpenTelemetryCollector(OpenTelemetry, MetricCollectorContract):
    """Its instruments are a `MetricCollector`."""


class TestOpenTelemetryTimer(OpenTelemetry, PerformanceTimerContract):
    """A histogram is a `PerformanceTimer`."""


class TestOpenTelemetryTracker(OpenTelemetry, SuccessFailureTrackerContract):
    """A counter is a `SuccessFailureTracker`."""


class TestOpenTelemetryAggregator(OpenTelemetry, MetricsAggregatorContract):
    """Reading it back is a `MetricsAggregator`."""


def test_sample_adapters_do_not_use_our_store():
    """A third-party adapter imports only the Protocols, values, errors and the clock."""
    allowed = {"protocols", "values", "errors", "clock"}
    sources = list(Path(__file__).parent.glob("sample-*/*.py"))
    assert len(sources) == 3
    for source in sources:
        imported = re.findall(r"^from metrics_framework\.(\w+)", source.read_text(), re.MULTILINE)
        assert set(imported) <= allowed
        assert "metrics_adapters" not in source.read_text()
