"""Recording that ends in files: the in-memory views of a store, whose numbers are written as snapshots."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Self
from weakref import WeakValueDictionary

from metrics_adapters.in_memory import InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_adapters.snapshot_writer.writer import DEFAULT_FOLDER, SnapshotWriter
from metrics_framework.config import Settings
from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import Store
from metrics_framework.snapshots import PerformanceSnapshot
from metrics_framework.system import AnySystem, MetricsSystem


class _Writing:
    """The one system that writes a store: one of its own, until the application makes one of the views."""

    def __init__(self, store: Store, writer: SnapshotWriter) -> None:
        self.writer = writer
        self.system: AnySystem = MetricsSystem(
            collector=InMemoryCollector(store), outputs=[writer], shutdown_on_exit=True
        )
        self.is_own = True

    @classmethod
    def of(cls, store: Store, folder: str | Path | SnapshotWriter) -> _Writing:
        writer = folder if isinstance(folder, SnapshotWriter) else SnapshotWriter(folder, clock=store.clock)
        with _MAKING:
            writing = _WRITINGS.get(id(store))
            if writing is None:
                writing = _WRITINGS[id(store)] = cls(store, writer)
        if writing.writer != writer:
            raise InvalidInputError(
                f"this store is written into {str(writing.writer.folder)!r} already, and not into"
                f" {str(writer.folder)!r}: pass another writer to MetricsSystem(outputs=…)"
            )
        return writing


# By identity, as a system keeps its store alive: a dictionary of stores would never be rid of one.
_WRITINGS: WeakValueDictionary[int, _Writing] = WeakValueDictionary()
_MAKING = threading.Lock()


def _begin_in_child() -> None:
    global _MAKING  # noqa: PLW0603 - another thread of the parent may have held it
    _MAKING = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)


class _Written:
    """What the views have in common: the numbers of their store become files."""

    store: Store

    def __init__(
        self,
        folder: str | Path | SnapshotWriter = DEFAULT_FOLDER,
        store: Store | None = None,
        *,
        collection_interval: float | None = None,
    ) -> None:
        super().__init__(store)  # type: ignore[call-arg] # that of the view, which is beside this class
        config = {"collection_interval": collection_interval}
        Settings.parse(config)  # whoever is refused leaves nothing behind that would write at the exit
        self._writing = _Writing.of(self.store, folder)
        self._writing.system.initialize_metrics(config)

    def snapshot(self) -> PerformanceSnapshot:
        """Return what was recorded since the start; see `MetricsSystem.snapshot`."""
        return self._writing.system.snapshot()

    def write(self) -> Path:
        """Write a snapshot of what was recorded since the start, now.

        Returns:
            The path of the file.

        Raises:
            OutputError: If the disk refuses.
        """
        snapshot, report = self._writing.system.build_snapshot()
        return self._writing.writer.write(snapshot, report.distributions)

    def close(self) -> None:
        """Write the final snapshot; a second call does nothing, nor does one for the part of a system."""
        if self._writing.is_own:
            self._writing.system.shutdown_metrics()

    def join_system(self, system: AnySystem) -> None:
        """Leave the writing to a system that this became a part of; the system calls it."""
        writing = self._writing
        if writing.system is not system:
            system.take_over(writing.system)
            writing.system, writing.is_own = system, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class SnapshotCollector(_Written, InMemoryCollector):
    """A `MetricCollector` whose numbers end in v1 snapshots.

    It records as the in-memory one does. The final snapshot is written by `close`, at the end of a ``with``
    block, or at the interpreter's exit, also after an exception that nobody caught. `os._exit` and a signal
    that kills leave what an interval has written.

    All views of one store write it together, once. A `MetricsSystem` that is made of one goes on with it: it
    writes at the interval and its end, and at the interpreter's exit, and `close` is left to it.

    Args:
        folder: Where the files go, or the `SnapshotWriter` that writes them.
        store: Where to keep numbers; a store of its own by default.
        collection_interval: Seconds between two readings of the machine, and two snapshots; by default there
            is the final one alone.

    Raises:
        InvalidInputError: If the store is written into another folder already.
        ConfigurationError: If the interval is not positive.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with SnapshotCollector(folder) as metrics:
        ...         metrics.record_counter("rows.imported", 250)
        ...     len(list(Path(folder).glob("*.json")))
        1
    """


class SnapshotTimer(_Written, InMemoryTimer):
    """A `PerformanceTimer` whose durations end in v1 snapshots: the busiest operation is their latency.

    Arguments, and when files are written, are those of `SnapshotCollector`.
    """


class SnapshotTracker(_Written, InMemoryTracker):
    """A `SuccessFailureTracker` whose success rates end in v1 snapshots.

    Arguments, and when files are written, are those of `SnapshotCollector`.
    """
