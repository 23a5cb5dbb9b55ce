"""v1 snapshots on disk: writing them, and asking about those that were written."""

from metrics_adapters.snapshot_writer.aggregator import SnapshotAggregator
from metrics_adapters.snapshot_writer.writer import SnapshotWriter

__all__ = ["SnapshotAggregator", "SnapshotWriter"]
