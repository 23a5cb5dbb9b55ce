"""The publisher: one thread that delivers recorded events to all subscribers of a system.

The thread runs only while there are subscribers.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from metrics_framework.errors import ClosedError, InvalidInputError
from metrics_framework.runtime.background import Background
from metrics_framework.streams.deltas import Deltas
from metrics_framework.streams.events import EventChunk, StreamFilter
from metrics_framework.streams.subscription import Subscription, ValueStream
from metrics_framework.validation import check_count

PUBLISH_SECONDS = 0.05
"""Seconds between two deliveries of new events."""

IDLE_STOP_SECONDS = 30.0
"""How long the thread keeps running after the last subscriber leaves, in case one reconnects."""

DEFAULT_BUFFER_EVENTS = 10_000
"""How many events a subscriber's buffer holds by default."""

MAX_REPLAY_EVENTS = 10_000
"""How many past events are kept for subscribers that resume."""


class StreamSource(Protocol):
    """A source of events. See `StoreSource` and `PollingSource`."""

    def start(self, sequence: int) -> int:
        """Collect events from now on; return how many were missed since the event of that number."""
        ...

    def stop(self) -> None:
        """Stop collecting events."""
        ...

    def collect(self, *, now: bool) -> tuple[list[EventChunk], int]:
        """Return the events since the last call, and how many newer ones were lost.

        Args:
            now: Whether to return every event; otherwise some may wait for a later call.
        """
        ...

    def reset(self) -> None:
        """Reset in a forked child."""
        ...


class Subscriber(Protocol):
    """A receiver of events. See `Subscription` and `Deltas`."""

    @property
    def is_closed(self) -> bool:
        """Whether the reader has closed it."""
        ...

    @property
    def dropped(self) -> int:
        """The number of events that it lost."""
        ...

    def deliver(self, chunks: Sequence[EventChunk], after: int = 0) -> None:
        """Buffer the events that its filter matches, of those with a number above ``after``."""
        ...

    def count_missed(self, number: int) -> None:
        """Count events that are no longer available."""
        ...

    def end(self, error: BaseException | None = None) -> None:
        """End the stream after the buffered events, with an error if there is one."""
        ...

    def reset(self) -> None:
        """Discard the buffered events."""
        ...


class Publisher:
    """Delivers the events of a source to subscribers. Thread-safe.

    Args:
        source: Provides the events.
    """

    def __init__(self, source: StreamSource) -> None:
        self._source = source
        self._is_closed = False
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._subscribers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._dropped_before = 0
        self._thread: Background | None = None
        self._stopped_threads: list[Background] = []
        self._sequence = 0
        self._replay: deque[EventChunk] = deque()
        self._replay_events = 0
        self._idle_since: float | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    # -- for subscribers -------------------------------------------------------------------------------

    def subscribe(
        self,
        filters: Mapping[str, Any] | None = None,
        *,
        buffer: int = DEFAULT_BUFFER_EVENTS,
        after: int | None = None,
    ) -> Subscription:
        """Subscribe to all records from now on. See `MetricsSystem.subscribe`."""
        stream_filter = StreamFilter.parse(filters)
        check_count("buffer", buffer)
        if after is not None and (after.__class__ is not int or after < 0):
            raise InvalidInputError(f"after={after!r} is not a sequence number: pass an integer of 0 or more")
        subscription = Subscription(stream_filter, buffer, self)
        if not self._add(subscription, after):
            raise ClosedError("this MetricsSystem is shut down and publishes no events: create a new one")
        return subscription

    def values(self, filters: Mapping[str, Any] | None = None) -> ValueStream:
        """Return a stream of values. See `MetricsSystem.metrics_stream`."""
        subscription = Subscription(StreamFilter.parse(filters), DEFAULT_BUFFER_EVENTS, self)
        self._add(subscription)
        return ValueStream(subscription)

    def deltas(self, every: float, filters: Mapping[str, Any] | None = None) -> Deltas:
        """Return a stream of changed values. See `MetricsSystem.deltas`."""
        deltas = Deltas(every, StreamFilter.parse(filters), self)
        self._add(deltas)
        return deltas

    @property
    def dropped(self) -> int:
        """The number of events that all subscribers lost, those that have left included."""
        with self._lock:
            dropped: int = sum(subscriber.dropped for subscriber in list(self._subscribers))
            return self._dropped_before + dropped

    # -- start and stop --------------------------------------------------------------------------------

    def close(self) -> None:
        """Publish everything recorded until now, and end all streams. A second call does nothing."""
        with self._lock:
            self._is_closed = True
            if self._thread is not None:
                self._publish()
                self._stop()
        self._join_stopped()

    def reset_in_child(self) -> None:
        """Reset in a forked child. The inherited subscriptions end there; those of the parent continue."""
        inherited = list(self._subscribers)
        if self._finalizer is not None:
            self._finalizer.detach()
        self._source.reset()
        self._reset()
        for subscriber in inherited:
            subscriber.reset()
            subscriber.end()

    def _add(self, subscriber: Subscriber, after: int | None = None) -> bool:
        """Add a subscriber. If the publisher is closed, end its stream and return ``False``."""
        with self._lock:
            if self._is_closed:
                subscriber.end()
                return False
            if self._thread is not None:
                self._publish()  # earlier records are only for the other subscribers
            if self._thread is None:  # checked again: `_publish` stops the publisher on an error
                self._sequence += self._source.start(self._sequence)
                # Subscribers keep their publisher alive, its thread does not.
                reference: weakref.ref[Publisher] = weakref.ref(self)
                self._thread = Background(
                    lambda: _tick(reference), PUBLISH_SECONDS, "metrics stream", in_child=False
                )
                # For a system that is garbage-collected without a shutdown.
                self._finalizer = weakref.finalize(self, _end, self._source, self._thread)
                self._finalizer.atexit = False
            self._subscribers.add(subscriber)
            self._idle_since = None
            if after is not None:
                self._resume(subscriber, after)
        self._join_stopped()
        return True

    def _resume(self, subscriber: Subscriber, after: int) -> None:
        if after > self._sequence:
            return  # a number of another process
        expected = after + 1
        for chunk in self._replay:
            if chunk.first + len(chunk) > expected:
                subscriber.count_missed(max(chunk.first - expected, 0))
                subscriber.deliver((chunk,), after)
                expected = chunk.first + len(chunk)
        subscriber.count_missed(self._sequence + 1 - expected)

    # -- in the thread ---------------------------------------------------------------------------------

    def _tick(self) -> None:
        with self._lock:
            if self._thread is not None:
                self._publish(now=False)
                if self._subscribers:
                    self._idle_since = None
                elif self._idle_since is None:
                    self._idle_since = time.monotonic()
                elif time.monotonic() - self._idle_since >= IDLE_STOP_SECONDS:
                    self._stop()
        self._join_stopped()

    def _publish(self, *, now: bool = True) -> None:
        """Deliver new events. Without ``now``, some of them may wait for the next time."""
        for subscriber in list(self._subscribers):
            if subscriber.is_closed:
                self._subscribers.discard(subscriber)
                self._dropped_before += subscriber.dropped
        try:
            chunks, lost = self._source.collect(now=now)
        except Exception as error:  # noqa: BLE001 - an adapter may raise anything
            self._stop(error)
            return
        subscribers = list(self._subscribers)
        for chunk in chunks:
            chunk.first = self._sequence + 1
            self._sequence += len(chunk)
        if chunks:
            self._keep_for_replay(chunks)
            for subscriber in subscribers:
                subscriber.deliver(chunks)
        if lost:
            self._sequence += lost
            for subscriber in subscribers:
                subscriber.count_missed(lost)

    def _keep_for_replay(self, chunks: Sequence[EventChunk]) -> None:
        self._replay += chunks
        self._replay_events += sum(map(len, chunks))
        while self._replay_events - len(self._replay[0]) >= MAX_REPLAY_EVENTS:
            self._replay_events -= len(self._replay.popleft())

    def _stop(self, error: BaseException | None = None) -> None:
        """End all streams. The next subscriber starts the source and the thread again."""
        self._source.stop()
        if self._finalizer is not None:
            self._finalizer.detach()  # it references the source, and so the store
        for subscriber in list(self._subscribers):
            subscriber.end(error)
            self._dropped_before += subscriber.dropped
        self._subscribers.clear()
        self._replay.clear()
        self._replay_events = 0
        self._idle_since = None
        if self._thread is not None:
            self._stopped_threads.append(self._thread)
            self._thread = None

    def _join_stopped(self) -> None:
        """Wait for stopped threads, without the lock: their last `_tick` may need it."""
        while self._stopped_threads:
            with suppress(IndexError):  # another thread has taken the last one
                self._stopped_threads.pop().stop()


def _tick(reference: weakref.ref[Publisher]) -> None:
    publisher = reference()
    if publisher is not None:
        publisher._tick()


def _end(source: StreamSource, thread: Background) -> None:
    source.stop()
    thread.end()
