"""Subscriptions: bounded buffers that the publisher fills and a subscriber reads."""

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
"""How many events a task takes without waiting before the other tasks of its event loop run."""

BufferedEvents = tuple[EventChunk | list[StreamEvent], int]
"""Events, and the index of the first one that has not been taken or dropped."""


class Subscription:
    """The events of one subscriber: an iterator, an async iterator and a context manager. Thread-safe.

    If the buffer is full, its oldest events are dropped and counted. Cancelling a wait loses no event.

    Args:
        stream_filter: Selects the events.
        buffer: How many events wait for the subscriber at most.
        publisher: Stays alive as long as this object.

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
        self._lost_before = 0  # events lost directly before the oldest buffered one
        self._taken = 0
        self.reset()

    def reset(self) -> None:
        """Discard the buffered events. No other thread may use this object meanwhile."""
        self._lock = threading.RLock()
        # An integer stands for a number of events that are missing at this point.
        self._buffer_items: deque[BufferedEvents | int] = deque()
        self._buffered = 0

    # -- for the reader --------------------------------------------------------------------------------

    @property
    def dropped(self) -> int:
        """How many events were lost in total, in a full buffer or before the subscription resumed."""
        return self._dropped

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called. A closed subscription yields nothing, not even buffered events."""
        return self._is_closed

    @property
    def is_finished(self) -> bool:
        """Whether there are no more events: it is closed, or has ended and all were read."""
        return self._is_closed or (self._has_ended and not self._buffer_items)

    def close(self) -> None:
        """Unsubscribe, and wake waiting readers. A second call does nothing."""
        with self._lock:
            self._is_closed = True
            self._buffer_items.clear()
            self._buffered = 0
        self._notifier.notify()

    def get(self, timeout: float | None = None) -> StreamEvent | None:
        """Return the next event, from a thread.

        Args:
            timeout: Seconds to wait for an event; ``None`` for any time, 0 for not at all.

        Returns:
            ``None`` if there was no event in time, or if there will be no more (`is_finished`).
        """
        until = None if timeout is None else time.monotonic() + timeout
        while (event := self._take()) is None and not self.is_finished:
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
            await checkpoint()  # before an event is taken, so that a cancellation loses none
        while (event := self._take()) is None:
            if self.is_finished:
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
        event = events[index]  # without the lock: creating it may take a while
        return event.with_dropped(lost) if lost else event

    def _next(self) -> BufferedEvents | None:
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

    # -- for the publisher -----------------------------------------------------------------------------

    def deliver(self, chunks: Sequence[EventChunk], after: int = 0) -> None:
        """Buffer the events that the filter matches, and wake waiting readers.

        Args:
            chunks: The events, in order.
            after: Events up to this sequence number are left out.
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
        """Count events that are no longer available, whether or not the filter would match them."""
        with self._lock:
            if number and not self._is_closed:
                self._buffer_items.append(number)
                self._dropped += number

    def end(self, error: BaseException | None = None) -> None:
        """End the stream after the buffered events, with an error if there is one."""
        self._error = error
        self._has_ended = True
        self._notifier.notify()

    def _select(self, chunk: EventChunk, after: int) -> BufferedEvents | None:
        stream_filter = self._filter
        skipped = max(after + 1 - chunk.first, 0)
        if skipped >= len(chunk) or not (
            stream_filter.matches_all or chunk.series.is_matched_by(stream_filter)
        ):
            return None
        if stream_filter.sample_rate == 1:
            return chunk, skipped
        # Created now: a few sampled events must not keep the rest of their chunk in memory.
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
    """The values of a subscription, returned by `MetricsSystem.metrics_stream`.

    The first value after a loss has the number of lost events in ``metadata["dropped"]``.

    Args:
        subscription: Provides the events. `aclose` closes it.
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
        """Close the stream. It ends for a task that waits for a value."""
        self._subscription.close()
