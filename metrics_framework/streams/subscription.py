"""One subscriber: a bounded buffer that one thread fills and whoever subscribed empties."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from metrics_framework.runtime.event_loops import Notifier, checkpoint
from metrics_framework.streams.events import EventChunk, StreamEvent, StreamFilter
from metrics_framework.values import MetricValue

MAX_BURST_EVENTS = 64
"""After how many events at most, which were there at once, other tasks of the loop have their turn."""

BufferItem = tuple[EventChunk | list[StreamEvent], int]
"""Events, and the index of the first one that was neither taken nor dropped yet."""


class Subscription:
    """The events that one subscriber gets: an async iterator, an iterator of a thread, and a context manager.

    Its buffer is bounded: where it is full, the oldest event in it is dropped, and counted. It stays usable
    when a wait is cancelled: no event is lost by that. Closed, or no longer used by anyone, it costs nothing.

    Args:
        chosen: What it gets.
        buffer: How many events wait for the subscriber at most.
        keeper: What has to live as long as somebody reads.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> metrics = MetricsSystem()
        >>> with metrics.subscribe({"name": "orders"}) as subscription:
        ...     metrics.collector.increment("orders")
        ...     event = subscription.get(timeout=10)
        >>> event.sequence, event.value.value, event.dropped
        (1, 1, 0)
    """

    def __init__(self, stream_filter: StreamFilter, buffer: int, publisher: object) -> None:
        self._filter = stream_filter
        self._max_buffered = buffer
        self._publisher = publisher
        self._notifier = Notifier()
        self._is_closed = False
        self._has_ended = False
        self._error: BaseException | None = None
        self._dropped = 0
        self._lost_before = 0  # before the oldest event that waits
        self._taken = 0
        self.reset()

    def reset(self) -> None:
        """Give up what waits; nobody else may be at work."""
        self._lock = threading.RLock()
        self._buffer_items: deque[BufferItem | int] = deque()  # a number: so many events are missing here
        self._buffered = 0

    # -- for the subscriber ----------------------------------------------------------------------------

    @property
    def dropped(self) -> int:
        """How many events were lost in all: dropped for want of room, or missed before it resumed."""
        return self._dropped

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, by `close`; then it gets nothing any more, not even what waits."""
        return self._is_closed

    @property
    def is_over(self) -> bool:
        """Whether nothing is left, and nothing will come."""
        return self._is_closed or (self._has_ended and not self._buffer_items)

    def close(self) -> None:
        """Get nothing any more; whoever waits for it is woken. A second call does nothing."""
        with self._lock:
            self._is_closed = True
            self._buffer_items.clear()
            self._buffered = 0
        self._notifier.notify()

    def get(self, timeout: float | None = None) -> StreamEvent | None:
        """Return the next event, from a thread.

        Args:
            timeout: How many seconds to wait for it; ``None`` for as long as it takes, 0 not at all.

        Returns:
            ``None`` where none came in time, or all is over (`is_over`).
        """
        until = None if timeout is None else time.monotonic() + timeout
        while (event := self._take()) is None and not self.is_over:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                break
            self._notifier.wait(self._is_due, left)
        return event

    def __iter__(self) -> Iterator[StreamEvent]:
        while (event := self.get()) is not None:
            yield event

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamEvent:
        self._taken += 1
        if self._taken % MAX_BURST_EVENTS == 0:
            await checkpoint()  # before an event is taken, so that none is lost where a task is cancelled
        while (event := self._take()) is None:
            if self.is_over:
                raise StopAsyncIteration
            await self._notifier.wait_async(self._is_due)
            self._taken = 0
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def _is_due(self) -> bool:
        return self._is_closed or self._has_ended or self._buffered > 0

    def _take(self) -> StreamEvent | None:
        with self._lock:
            found = self._next()
            if found is None:
                if self._has_ended and self._error is not None and not self._is_closed:
                    raise self._error
                return None
            self._buffered -= 1
            lost, self._lost_before = self._lost_before, 0
        events, index = found
        event = events[index]  # making it may take a while
        return event.with_dropped(lost) if lost else event

    def _next(self) -> BufferItem | None:
        while self._buffer_items and not self._is_closed:
            item = self._buffer_items[0]
            if isinstance(item, int):
                self._buffer_items.popleft()
                self._lost_before += item
                continue
            events, index = item
            if index + 1 < len(events):
                self._buffer_items[0] = (events, index + 1)
            else:
                self._buffer_items.popleft()
            return item
        return None

    # -- for who publishes -----------------------------------------------------------------------------

    def deliver(self, chunks: Sequence[EventChunk], after: int = 0) -> None:
        """Take in what the filter takes of some events, and wake who waits for it, once.

        Args:
            runs: The events, in their order.
            after: The sequence number up to which they are left out.
        """
        items = [item for chunk in chunks if (item := self._select(chunk, after)) is not None]
        if not items:
            return
        with self._lock:
            if self._is_closed:
                return
            self._buffer_items += items
            self._buffered += sum(len(events) - index for events, index in items)
            if self._buffered > self._max_buffered:
                self._drop(self._buffered - self._max_buffered)
        self._notifier.notify()

    def count_missed(self, number: int) -> None:
        """Take in that some events cannot be had any more; they count, whichever the filter takes."""
        with self._lock:
            if number and not self._is_closed:
                self._buffer_items.append(number)
                self._dropped += number

    def end(self, error: BaseException | None = None) -> None:
        """Say that no more will come, and why, where that is an error."""
        self._error = error
        self._has_ended = True
        self._notifier.notify()

    def _select(self, chunk: EventChunk, after: int) -> BufferItem | None:
        stream_filter = self._filter
        skipped = max(after + 1 - chunk.first, 0)
        if skipped >= len(chunk) or not (
            stream_filter.matches_all or chunk.series.is_matched_by(stream_filter)
        ):
            return None
        if stream_filter.sample_rate == 1:
            return chunk, skipped
        # Made now: a few events of each run must not keep all the others of it in memory.
        sample = [
            chunk[index]
            for index in range(skipped, len(chunk))
            if stream_filter.is_in_sample(chunk.first + index)
        ]
        return (sample, 0) if sample else None

    def _drop(self, number: int) -> None:
        self._buffered -= number
        self._dropped += number
        self._lost_before += number
        while number:
            item = self._buffer_items.popleft()
            if isinstance(item, int):
                self._lost_before += item
                continue
            events, index = item
            if len(events) - index > number:
                self._buffer_items.appendleft((events, index + number))
                return
            number -= len(events) - index


class ValueStream:
    """What `MetricsSystem.metrics_stream` returns: the values of a subscription.

    A value after some that this stream lost has their number in ``metadata["dropped"]``.

    Args:
        subscription: Where they come from; closed by `aclose`.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MetricValue:
        event = await anext(self._subscription)
        if not event.dropped:
            return event.value
        return replace(event.value, metadata={**event.value.metadata, "dropped": event.dropped})

    async def aclose(self) -> None:
        """End it: whoever waits for a value is told that there are no more."""
        self._subscription.close()
