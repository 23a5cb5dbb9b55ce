"""Items on their way through a loop, and how far it has got."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sized
from typing import Generic, TypeVar

from metrics_framework.batch.files import Batch
from metrics_framework.batch.progress import Progress, make_progress

T = TypeVar("T")

_SHOW_NS = 100_000_000


class Track(Generic[T]):
    """The use of `BatchMetrics.track`: an item is done when the next one is asked for."""

    def __init__(
        self, batch: Batch, items: Iterable[T] | AsyncIterable[T], total: int | None, title: str
    ) -> None:
        self._batch = batch
        self._items = items
        self._total = len(items) if total is None and isinstance(items, Sized) else total
        self._title = title

    def __iter__(self) -> Iterator[T]:
        if not isinstance(self._items, Iterable):
            raise TypeError("these items come asynchronously: use `async for`")
        with _Shown(self) as shown:
            for item in self._items:
                yield item
                shown.advance()

    async def __aiter__(self) -> AsyncIterator[T]:
        with _Shown(self) as shown:
            if isinstance(self._items, AsyncIterable):
                async for item in self._items:
                    yield item
                    shown.advance()
            else:
                for item in self._items:
                    yield item
                    shown.advance()

    def begin(self) -> Progress:
        """Begin to show progress."""
        return make_progress(self._title, self._total, self._batch.clock)

    def errors(self) -> int:
        """Return how many files failed so far."""
        return self._batch.counts.errors

    def now_ns(self) -> int:
        """Read the monotonic clock."""
        return self._batch.clock.monotonic_ns()


class _Shown:
    """One loop's progress, shown a few times a second."""

    def __init__(self, track: Track[T]) -> None:
        self._track = track
        self._progress = track.begin()
        self._errors_before = track.errors()
        self._done = 0
        self._next_ns = 0

    def __enter__(self) -> _Shown:
        return self

    def advance(self) -> None:
        self._done += 1
        now = self._track.now_ns()
        if now >= self._next_ns:
            self._show()
            self._next_ns = now + _SHOW_NS

    def __exit__(self, *error: object) -> None:
        self._show()
        self._progress.stop()

    def _show(self) -> None:
        self._progress.update(self._done, self._track.errors() - self._errors_before)
