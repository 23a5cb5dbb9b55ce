"""v1 snapshots on disk: the writer, recorders that write their numbers, and the history of snapshots."""

from typing import TYPE_CHECKING

from metrics_adapters.snapshot_writer.writer import SnapshotWriter

if TYPE_CHECKING:
    from metrics_adapters.snapshot_writer.history import SnapshotAggregator
    from metrics_adapters.snapshot_writer.recorders import SnapshotCollector, SnapshotTimer, SnapshotTracker

__all__ = ["SnapshotAggregator", "SnapshotCollector", "SnapshotTimer", "SnapshotTracker", "SnapshotWriter"]


def __getattr__(name: str) -> object:
    if name in __all__:  # imported on use: a program that only writes snapshots needs neither
        from metrics_adapters.snapshot_writer import history, recorders

        return getattr(history if name == "SnapshotAggregator" else recorders, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
