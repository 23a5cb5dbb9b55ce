"""Changes, coalesced: one value for each series that changed in a period, however often it did."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from metrics_framework.errors import InvalidInputError
from metrics_framework.runtime.event_loops import Notifier
from metrics_framework.streams.events import Run, StreamEvent
from metrics_framework.streams.filters import StreamFilter
from metrics_framework.validation import check_seconds
from metrics_framework.values import MetricValue


class Deltas:
    """What `MetricsSystem.deltas` returns: an async iterator of lists.

    It never drops anything: what it keeps is the last event of each series that has changed.

    Args:
        every: Seconds from one list to the next, at least.
        chosen: What it gets.
        keeper: What has to live as long as somebody reads.

    Raises:
        InvalidInputError: If ``every`` is no positive number, or a sample is asked for.
    """

    def __init__(self, every: float, chosen: StreamFilter, keeper: object) -> None:
        check_seconds("every", every)
        if chosen.sample_rate != 1:
            raise InvalidInputError(
                f"filter sample_rate={chosen.sample_rate!r} has no meaning here: each series has one value"
            )
        self._every = every
        self._chosen = chosen
        self._keeper = keeper
        self._notifier = Notifier()
        self._due = time.monotonic() + every
        self._is_closed = False
        self._has_ended = False
        self._error: BaseException | None = None
        self.forget()

    def forget(self) -> None:
        """Give up what waits; nobody else may be at work."""
        self._lock = threading.RLock()
        self._changed: dict[object, tuple[Run, int]] = {}

    # -- for the subscriber ----------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, by `aclose`."""
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
        return [
            replace(value, metadata={**value.metadata, "records": records})
            for value, records in ((_last(run).value, records) for run, records in changed.values())
        ]

    async def aclose(self) -> None:
        """End it: whoever waits for a list is told that there are no more."""
        self._is_closed = True
        with self._lock:
            self._changed.clear()
        self._notifier.notify()

    def _is_due(self) -> bool:
        if self._is_closed or self._has_ended:
            return True
        return bool(self._changed) and time.monotonic() >= self._due

    # -- for who publishes -----------------------------------------------------------------------------

    def offer(self, runs: Sequence[Run], after: int = 0) -> None:
        """Take in what the filter takes of some events."""
        with self._lock:
            for run in runs:
                if self._chosen.takes_all or run.subject.is_taken_by(self._chosen):
                    _, records = self._changed.get(run.subject.key, (None, 0))
                    self._changed[run.subject.key] = (run, records + len(run))
            changed = list(self._changed.values()) if time.monotonic() >= self._due else []
        for run, _ in changed:
            _last(run)  # made here, and not on somebody's event loop
        if changed:
            self._notifier.notify()

    def miss(self, number: int) -> None:
        """Take in that some events cannot be had: their series change again, or show with the next one."""

    def end(self, error: BaseException | None = None) -> None:
        """Say that no more will come, and why, where that is an error."""
        self._error = error
        self._has_ended = True
        self._notifier.notify()


def _last(run: Run) -> StreamEvent:
    return run[len(run) - 1]
