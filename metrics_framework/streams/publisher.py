"""Who publishes: one thread for all subscribers, which there is only while somebody subscribes."""

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

PUBLISH_SECONDS = 0.05
"""How often is published what was recorded."""

IDLE_STOP_SECONDS = 30.0
"""How long it goes on after the last subscriber went away, who may come back."""

DEFAULT_BUFFER_EVENTS = 10_000
"""How many events wait for a subscriber at most, unless they say otherwise."""

MAX_REPLAY_EVENTS = 10_000
"""How many events are kept for subscribers who come back."""


class StreamSource(Protocol):
    """Where events come from."""

    def start(self, sequence: int) -> int:
        """Take in events from now on; return how many were missed since the event of that number."""
        ...

    def stop(self) -> None:
        """Take in no more events."""
        ...

    def collect(self, *, now: bool) -> tuple[list[EventChunk], int]:
        """Return the events since the last call, and how many newer ones were lost.

        Args:
            now: Whether every event must be among them; else some may wait for a later call.
        """
        ...

    def reset(self) -> None:
        """Start over in a child process."""
        ...


class Subscriber(Protocol):
    """What events are published to; see `Subscription`."""

    @property
    def is_closed(self) -> bool:
        """Whether it wants no more."""
        ...

    def deliver(self, chunks: Sequence[EventChunk], after: int = 0) -> None:
        """Take in events."""
        ...

    def count_missed(self, number: int) -> None:
        """Take in that some events cannot be had any more."""
        ...

    def end(self, error: BaseException | None = None) -> None:
        """Take in that no more will come."""
        ...

    def reset(self) -> None:
        """Give up what waits."""
        ...


class Publisher:
    """The streams of one system. Any thread may call any method.

    Args:
        source: Where events come from.
    """

    def __init__(self, source: StreamSource) -> None:
        self._source = source
        self._is_closed = False
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._subscribers: weakref.WeakSet[Any] = weakref.WeakSet()
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
        """Subscribe to what is recorded from now on; see `MetricsSystem.subscribe`."""
        stream_filter = StreamFilter.parse(filters)
        if buffer.__class__ is not int or buffer < 1:
            raise InvalidInputError(f"buffer={buffer!r} is not a whole number of 1 or more")
        if after is not None and (after.__class__ is not int or after < 0):
            raise InvalidInputError(f"after={after!r} is not a sequence number")
        subscription = Subscription(stream_filter, buffer, self)
        if not self._add(subscription, after):
            raise ClosedError("this MetricsSystem was shut down, and with it its stream; make a new one")
        return subscription

    def values(self, filters: Mapping[str, Any] | None = None) -> ValueStream:
        """Return the stream of values; see `MetricsSystem.metrics_stream`."""
        subscription = Subscription(StreamFilter.parse(filters), DEFAULT_BUFFER_EVENTS, self)
        self._add(subscription)
        return ValueStream(subscription)

    def deltas(self, every: float, filters: Mapping[str, Any] | None = None) -> Deltas:
        """Return the stream of coalesced changes; see `MetricsSystem.deltas`."""
        deltas = Deltas(every, StreamFilter.parse(filters), self)
        self._add(deltas)
        return deltas

    # -- life ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Publish what was recorded until now, and end all streams; a second call does nothing."""
        with self._lock:
            self._is_closed = True
            if self._thread is not None:
                self._publish()
                self._stop()
        self._join_stopped()

    def reset_in_child(self) -> None:
        """Begin anew: the subscribers are the parent's, and their streams end here."""
        inherited = list(self._subscribers)
        if self._finalizer is not None:
            self._finalizer.detach()
        self._source.reset()
        self._reset()
        for subscriber in inherited:
            subscriber.reset()
            subscriber.end()

    def _add(self, subscriber: Subscriber, after: int | None = None) -> bool:
        """Add a subscriber; it ends at once where all is over, and then the answer is ``False``."""
        with self._lock:
            if self._is_closed:
                subscriber.end()
                return False
            if self._thread is not None:
                self._publish()  # what was recorded before is for the others
            if self._thread is None:
                self._sequence += self._source.start(self._sequence)
                # A system that is dropped without a shutdown stops its source, once its subscribers are gone.
                self._finalizer = weakref.finalize(self, self._source.stop)
                self._finalizer.atexit = False
                self._thread = Background(self._tick, PUBLISH_SECONDS, "metrics stream", in_child=False)
            self._subscribers.add(subscriber)
            self._idle_since = None
            if after is not None:
                self._resume(subscriber, after)
        self._join_stopped()
        return True

    def _resume(self, subscriber: Subscriber, after: int) -> None:
        if after > self._sequence:
            return  # of another process: nothing is known of it
        expected = after + 1
        for chunk in self._replay:
            if chunk.first + len(chunk) > expected:
                subscriber.count_missed(max(chunk.first - expected, 0))
                subscriber.deliver((chunk,), after)
                expected = chunk.first + len(chunk)
        subscriber.count_missed(self._sequence + 1 - expected)

    # -- the thread ------------------------------------------------------------------------------------

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
        """Hand new events to the subscribers; without ``now`` some of them may wait for the next time."""
        for subscriber in list(self._subscribers):
            if subscriber.is_closed:
                self._subscribers.discard(subscriber)
        try:
            chunks, lost = self._source.collect(now=now)
        except Exception as error:  # noqa: BLE001 - a part of someone else's may raise anything
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
        """End all streams, and listen no more until somebody subscribes."""
        self._source.stop()
        if self._finalizer is not None:
            self._finalizer.detach()  # which refers to the source, and so to the store
        for subscriber in list(self._subscribers):
            subscriber.end(error)
        self._subscribers.clear()
        self._replay.clear()
        self._replay_events = 0
        self._idle_since = None
        if self._thread is not None:
            self._stopped_threads.append(self._thread)
            self._thread = None

    def _join_stopped(self) -> None:
        """Stop the threads that are not needed any more, without the lock: their last round may want it."""
        while self._stopped_threads:
            with suppress(IndexError):  # another thread was faster
                self._stopped_threads.pop().stop()
