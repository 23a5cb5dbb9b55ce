"""Recorders that write snapshots: the in-memory collector, timer and tracker, with files at the end."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self
from weakref import WeakValueDictionary

from metrics_adapters.in_memory import InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_adapters.snapshot_writer.writer import DEFAULT_FOLDER, SnapshotWriter
from metrics_framework.config import Settings
from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import Store
from metrics_framework.runtime.fork import ForkOrder, run_after_fork
from metrics_framework.snapshots import PerformanceSnapshot
from metrics_framework.system import MetricsSystem


class _StoreWriter:
    """The system that writes a store: its own, until the application passes a recorder to another system."""

    def __init__(self, store: Store, writer: SnapshotWriter) -> None:
        self.writer = writer
        self.system = MetricsSystem(
            collector=InMemoryCollector(store), outputs=[writer], shutdown_on_exit=True
        )
        self.is_own = True

    @classmethod
    def of(cls, store: Store, folder: str | Path | SnapshotWriter) -> _StoreWriter:
        writer = folder if isinstance(folder, SnapshotWriter) else SnapshotWriter(folder, clock=store.clock)
        with _lock:
            store_writer = _STORE_WRITERS.get(id(store))
            if store_writer is None:
                store_writer = _STORE_WRITERS[id(store)] = cls(store, writer)
        if store_writer.writer != writer:
            raise InvalidInputError(
                f"this store is already written to {str(store_writer.writer.folder)!r}, not to"
                f" {str(writer.folder)!r}: for a second folder, pass a writer to MetricsSystem(outputs=…)"
            )
        return store_writer


# Keyed by identity: the values keep their stores alive, so keys that are stores would never be collected.
_STORE_WRITERS: WeakValueDictionary[int, _StoreWriter] = WeakValueDictionary()
_lock = threading.Lock()


def _reset_lock() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


run_after_fork(_reset_lock, ForkOrder.LOCKS)


class _SnapshotRecorder:
    """Base class of the recorders: writes the numbers of their store to files."""

    store: Store

    def __init__(
        self,
        folder: str | Path | SnapshotWriter = DEFAULT_FOLDER,
        store: Store | None = None,
        *,
        collection_interval: float | None = None,
    ) -> None:
        super().__init__(store)  # type: ignore[call-arg] # of the in-memory class, the other base
        config = {"collection_interval": collection_interval}
        Settings.parse(config)  # an invalid interval must not leave a system that writes at exit
        self._store_writer = _StoreWriter.of(self.store, folder)
        self._store_writer.system.initialize_metrics(config)

    def snapshot(self) -> PerformanceSnapshot:
        """Return a snapshot of everything since the start; see `MetricsSystem.snapshot`."""
        return self._store_writer.system.snapshot()

    def write(self) -> Path:
        """Write a snapshot of everything since the start.

        Returns:
            The path of the file.

        Raises:
            OutputError: If the disk refuses the file.
        """
        snapshot, report = self._store_writer.system.build_snapshot()
        return self._store_writer.writer.write(snapshot, report.distributions)

    def close(self) -> None:
        """Write the final snapshot. Does nothing on a second call, or if a system does the writing."""
        if self._store_writer.is_own:
            self._store_writer.system.shutdown_metrics()

    def join_system(self, system: MetricsSystem) -> None:
        """Leave the writing to a system that received this recorder. The system calls it."""
        store_writer = self._store_writer
        if store_writer.system is not system:
            system.take_over(store_writer.system)
            store_writer.system, store_writer.is_own = system, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class SnapshotCollector(_SnapshotRecorder, InMemoryCollector):
    """A `MetricCollector` that writes v1 snapshots of its numbers.

    It records as the in-memory collector does. The final snapshot is written by `close`, at the end of a
    ``with`` block, or at the interpreter's exit, also after an uncaught exception. After `os._exit` or a
    fatal signal, only the snapshots of earlier intervals exist.

    All recorders of one store write it together, once. A `MetricsSystem` that receives one takes over: it
    writes at its interval, at its end and at the interpreter's exit, and `close` does nothing.

    Args:
        folder: The folder for the files, or the `SnapshotWriter` that writes them.
        store: Keeps the numbers. A new store by default.
        collection_interval: Seconds between two snapshots, each with a reading of the machine. By default
            only the final snapshot is written.

    Raises:
        InvalidInputError: If the store is already written to another folder.
        ConfigurationError: If the interval is not positive.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with SnapshotCollector(folder) as metrics:
        ...         metrics.record_counter("rows.imported", 250)
        ...     len(list(Path(folder).glob("*.json")))
        1
    """


class SnapshotTimer(_SnapshotRecorder, InMemoryTimer):
    """A `PerformanceTimer` that writes v1 snapshots. The operation with most records is their latency.

    The arguments, and when files are written, are those of `SnapshotCollector`.
    """


class SnapshotTracker(_SnapshotRecorder, InMemoryTracker):
    """A `SuccessFailureTracker` that writes v1 snapshots of its success rates.

    The arguments, and when files are written, are those of `SnapshotCollector`.
    """
