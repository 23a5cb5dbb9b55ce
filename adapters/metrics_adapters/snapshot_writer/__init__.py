"""v1 snapshots on disk: writing them, recording that ends in them, and asking about those that are there."""

from typing import TYPE_CHECKING

from metrics_adapters.snapshot_writer.history import SnapshotAggregator
from metrics_adapters.snapshot_writer.writer import SnapshotWriter

if TYPE_CHECKING:
    from metrics_adapters.snapshot_writer.recorders import SnapshotCollector, SnapshotTimer, SnapshotTracker

__all__ = ["SnapshotAggregator", "SnapshotCollector", "SnapshotTimer", "SnapshotTracker", "SnapshotWriter"]


def __getattr__(name: str) -> object:
    if name in __all__:  # who writes a snapshot that is there needs nothing to record with
        from metrics_adapters.snapshot_writer import recorders

        return getattr(recorders, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
