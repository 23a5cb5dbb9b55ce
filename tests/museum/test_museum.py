"""Adapters that others might have written, against the Protocols alone, pass the conformance kit.

Each is found by its name, as an installed package is; its test is its constructor and what it declares.
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
    """Makes the minimal package's parts, which declare nothing."""

    def make(self, clock):
        """Make them on an empty list."""
        collector = load_adapter("museum-minimal.collector")(clock)
        return Parts(collector=collector, aggregator=load_adapter("museum-minimal.aggregator")(collector))


class TestMinimalCollector(Minimal, MetricCollectorContract):
    """A dict of lists is a `MetricCollector`."""


class TestMinimalAggregator(Minimal, MetricsAggregatorContract):
    """Statistics of lists are a `MetricsAggregator`."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
class TestMinimalMonitor(ResourceMonitorContract):
    """The standard library and /proc are a `ResourceMonitor`."""

    unknown_keys = frozenset({"percent", "process_percent"})

    def make_monitor(self):
        """Make it."""
        return load_adapter("museum-minimal.monitor")(load_adapter("museum-minimal.collector")())


class FourParts:
    """Makes the four parts of a package on one backend."""

    room: str

    def make(self, clock):
        """Make them on an empty backend."""
        backend = load_adapter(f"{self.room}.backend")(clock)
        return Parts(
            *(
                load_adapter(f"{self.room}.{part}")(backend)
                for part in ("collector", "timer", "tracker", "aggregator")
            )
        )


class Prometheus(FourParts):
    """prometheus_client keeps totals and buckets, behind locks."""

    room = "museum-prometheus"
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

    room = "museum-opentelemetry"
    keeps_windows = False
    reentrant = False
    takes_negatives = False
    quantile_error = 0.05
    unknown_keys = frozenset(
        {"stddev", "counter.count", "gauge.count", "gauge.avg", "gauge.min", "gauge.max"}
    )

    @pytest.fixture(autouse=True)
    def installed(self):
        """Skip where the SDK is not there."""
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


def test_the_museum_knows_nothing_of_our_store():
    """What others write needs no module of ours but the contracts, their values, errors and clock."""
    allowed = {"protocols", "values", "errors", "clock"}
    sources = list(Path(__file__).parent.glob("museum-*/*.py"))
    assert len(sources) == 3
    for source in sources:
        imported = re.findall(r"^from metrics_framework\.(\w+)", source.read_text(), re.MULTILINE)
        assert set(imported) <= allowed
        assert "metrics_adapters" not in source.read_text()
