"""Workers of one group in one process: each is a store of its own, and the test moves their clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from metrics_framework.clock import ManualClock
from metrics_framework.processes.sharing import SharedStore
from metrics_framework.recording import Store


class FakeGroup:
    """The group of workers of a test.

    Attributes:
        folder: The folder of their files.
        alive: The stems of the workers that are alive.
        is_locked: Whether another process has the lock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.alive: set[str] = set()
        self.is_locked = False

    def is_alive(self, stem: str) -> bool:
        """Return whether a worker is alive."""
        return stem in self.alive

    @contextmanager
    def try_lock(self) -> Iterator[bool]:
        """Return the lock of the group."""
        if self.is_locked:
            yield False
            return
        self.is_locked = True
        try:
            yield True
        finally:
            self.is_locked = False


class Worker:
    """One worker: a store that shares its numbers.

    Attributes:
        stem: The stem of its files.
        store: Its store.
        shared: Shares the numbers of the store.
    """

    def __init__(self, workers: Workers, number: int, **options: Any) -> None:
        self.stem = f"{number}-{number}-0"
        self.store = Store(workers.clock, **options)
        self.shared = SharedStore(self.store, workers.group)
        self._workers = workers
        workers.group.alive.add(self.stem)
        self.shared.begin(self.stem)

    def read(self) -> Store:
        """Return its store at the end of an interval: each worker has just written its numbers."""
        self._workers.flush()
        return self.store

    def end(self) -> None:
        """End: all that it recorded is in its files."""
        self.shared.close()
        self._workers.group.alive.discard(self.stem)


class Workers:
    """Makes workers of one group.

    Args:
        folder: The folder of their files.
        clock: The clock of all.
        **options: The options of each store.
    """

    def __init__(self, folder: Path, clock: ManualClock | None = None, **options: Any) -> None:
        self.clock = ManualClock() if clock is None else clock
        self.clock.advance(1_000)  # series at the time 0 count as not recorded
        self.group = FakeGroup(folder)
        self._options = options
        self._made: list[Worker] = []

    def make(self, **options: Any) -> Worker:
        """Start a worker."""
        worker = Worker(self, len(self._made) + 1, **{**self._options, **options})
        self._made.append(worker)
        return worker

    def some(self, number: int) -> list[Worker]:
        """Start some workers."""
        return [self.make() for _ in range(number)]

    def flush(self) -> None:
        """Let each live worker write its numbers."""
        for worker in self._made:
            if worker.stem in self.group.alive:
                worker.shared.flush()


def total(worker: Worker, name: str) -> Any:
    """Return the total of a counter as a reader of the worker sees it."""
    return worker.read().summary(name)["total"]


MINUTE = timedelta(minutes=1)
