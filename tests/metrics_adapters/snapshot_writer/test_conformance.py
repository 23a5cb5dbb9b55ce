"""The snapshot recorders fulfil the contracts: their test is their constructor."""

from __future__ import annotations

import pytest

from metrics_adapters.in_memory import InMemoryAggregator
from metrics_adapters.resources import PsutilMonitor
from metrics_adapters.snapshot_writer import SnapshotCollector, SnapshotTimer, SnapshotTracker
from metrics_framework import MetricsSystem
from metrics_framework.recording import Store
from metrics_framework.streams import sources
from metrics_framework.testing.conformance import (
    AsyncMetricsSystemContract,
    MetricCollectorContract,
    MetricsSystemContract,
    Parts,
    PerformanceTimerContract,
    ResourceMonitorContract,
    SuccessFailureTrackerContract,
)


class SnapshotFolder:
    """Makes the recorders of a store that is written to a folder of the test."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        """Write to a folder of the test, and check a stream for changes frequently."""
        monkeypatch.setattr(sources, "POLL_SECONDS", 0.001)
        self.path = tmp_path

    def make(self, clock):
        """Make the recorders on an empty store."""
        store = Store(clock)
        return Parts(
            SnapshotCollector(self.path, store),
            SnapshotTimer(self.path, store),
            SnapshotTracker(self.path, store),
            InMemoryAggregator(store),
        )

    def close(self, parts):
        """End the run. All of its recorders write one file."""
        for part in (parts.collector, parts.timer, parts.tracker):
            part.close()
        assert len(list(self.path.glob("*.json"))) == 1

    def make_system(self, clock):
        """Make a system of the recorders."""
        parts = self.make(clock)
        return MetricsSystem(
            collector=parts.collector, timer=parts.timer, tracker=parts.tracker, aggregator=parts.aggregator
        )


class TestCollector(SnapshotFolder, MetricCollectorContract):
    """`SnapshotCollector` is a `MetricCollector`."""


class TestTimer(SnapshotFolder, PerformanceTimerContract):
    """`SnapshotTimer` is a `PerformanceTimer`."""


class TestTracker(SnapshotFolder, SuccessFailureTrackerContract):
    """`SnapshotTracker` is a `SuccessFailureTracker`."""


class TestMonitor(SnapshotFolder, ResourceMonitorContract):
    """The monitor that records into a snapshot is a `ResourceMonitor`."""

    def make_monitor(self):
        """Make a monitor."""
        return PsutilMonitor(SnapshotCollector(self.path))


class TestSystem(SnapshotFolder, MetricsSystemContract):
    """A `MetricsSystem` of the recorders fulfils its Protocol."""


class TestAsyncSystem(SnapshotFolder, AsyncMetricsSystemContract):
    """It is an `AsyncMetricsSystem` too."""
