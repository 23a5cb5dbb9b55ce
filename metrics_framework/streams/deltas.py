"""Deltas: one value for each series that changed in a period, however many records it has."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Self

from metrics_framework.errors import InvalidInputError
from metrics_framework.recording.aggregates import sum_of
from metrics_framework.runtime.event_loops import Notifier
from metrics_framework.streams.events import EventChunk, StreamEvent, StreamFilter
from metrics_framework.validation import check_seconds
from metrics_framework.values import MetricValue


class _Change(NamedTuple):
    """The change of one series in a period.

    Attributes:
        chunk: The last chunk.
        records: The number of records.
        step: The sum of the records of a counter; ``None`` for another metric.
    """

    chunk: EventChunk
    records: int
    step: int | float | None

    def last(self) -> StreamEvent:
        return self.chunk[len(self.chunk) - 1]

    def value(self) -> MetricValue:
        value = self.last().value
        recorded = {} if self.step is None else {"recorded": self.step}
        return replace(value, metadata={**value.metadata, "records": self.records, **recorded})


class Deltas:
    """An async iterator of lists of changed values, returned by `MetricsSystem.deltas`.

    It drops nothing, because it keeps only the last event of each series that has changed.

    Args:
        every: The minimum number of seconds between two lists.
        stream_filter: Selects the series.
        publisher: Stays alive as long as this object.

    Raises:
        InvalidInputError: If ``every`` is not a valid number of seconds, or the filter has a sample rate.
    """

    def __init__(self, every: float, stream_filter: StreamFilter, publisher: object) -> None:
        check_seconds("every", every)
        if stream_filter.sample_rate != 1:
            raise InvalidInputError(
                f"filter sample_rate={stream_filter.sample_rate!r} is not supported by deltas, which have one"
                " value for each series: remove it"
            )
        self._every = every
        self._filter = stream_filter
        self._publisher = publisher
        self._notifier = Notifier()
        self._due = time.monotonic() + every
        self._is_closed = False
        self._has_ended = False
        self._error: BaseException | None = None
        self.reset()

    def reset(self) -> None:
        """Discard all pending changes. No other thread may use this object meanwhile."""
        self._lock = threading.RLock()
        self._changed: dict[object, _Change] = {}

    # -- for the reader --------------------------------------------------------------------------------

    @property
    def dropped(self) -> int:
        """The number of lost events: always 0."""
        return 0

    @property
    def is_closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._is_closed

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[MetricValue]:
        while not self._is_due():
            left = self._due - time.monotonic()
            await self._notifier.wait_async(self._is_due, left if left > 0 else None)
        if self._is_closed:
            raise StopAsyncIteration
        with self._lock:
            changed, self._changed = self._changed, {}
        if not changed:
            if self._error is not None:
                raise self._error
            raise StopAsyncIteration
        self._due = time.monotonic() + self._every
        return [change.value() for change in changed.values()]

    async def aclose(self) -> None:
        """Close the iterator. It ends for a task that waits for a list."""
        self._is_closed = True
        with self._lock:
            self._changed.clear()
        self._notifier.notify()

    def _is_due(self) -> bool:
        if self._is_closed or self._has_ended:
            return True
        return bool(self._changed) and time.monotonic() >= self._due

    # -- for the publisher -----------------------------------------------------------------------------

    def deliver(self, chunks: Sequence[EventChunk], after: int = 0) -> None:
        """Note the series that have changed."""
        with self._lock:
            for chunk in chunks:
                if self._filter.matches_all or chunk.series.is_matched_by(self._filter):
                    before, step = self._changed.get(chunk.series.key), chunk.step
                    records = len(chunk)
                    if before is not None:
                        records += before.records
                        step = None if step is None or before.step is None else sum_of([before.step, step])
                    self._changed[chunk.series.key] = _Change(chunk, records, step)
            changed = list(self._changed.values()) if time.monotonic() >= self._due else []
        for change in changed:
            change.last()  # created in this thread, to keep the event loop free
        if changed:
            self._notifier.notify()

    def count_missed(self, number: int) -> None:
        """Do nothing: a missed change of a series shows with its next one."""

    def end(self, error: BaseException | None = None) -> None:
        """End the iterator after the pending changes, with an error if there is one."""
        self._error = error
        self._has_ended = True
        self._notifier.notify()
