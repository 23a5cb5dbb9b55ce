"""v1 snapshots on disk."""

from metrics_adapters.snapshot_writer.writer import SnapshotWriter

__all__ = ["SnapshotWriter"]
