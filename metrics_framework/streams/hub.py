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
from metrics_framework.streams.events import Run
from metrics_framework.streams.filters import StreamFilter
from metrics_framework.streams.subscription import Subscription, ValueStream
from metrics_framework.validation import check_count

TICK_SECONDS = 0.05
"""How often is published what was recorded."""

LINGER_SECONDS = 30.0
"""How long it goes on after the last subscriber went away, who may come back."""

BUFFER = 10_000
"""How many events wait for a subscriber at most, unless they say otherwise."""

REPLAY = 10_000
"""How many events are kept for subscribers who come back."""


class Source(Protocol):
    """Where events come from."""

    def start(self, sequence: int) -> int:
        """Take in events from now on; return how many were missed since the event of that number."""
        ...

    def stop(self) -> None:
        """Take in no more events."""
        ...

    def collect(self, *, now: bool) -> tuple[list[Run], int]:
        """Return the events since the last call, and how many newer ones were lost.

        Args:
            now: Whether every event must be among them; else some may wait for a later call.
        """
        ...

    def forget(self) -> None:
        """Start over in a child process."""
        ...


class Listener(Protocol):
    """What events are published to; see `Subscription`."""

    @property
    def is_closed(self) -> bool:
        """Whether it wants no more."""
        ...

    def offer(self, runs: Sequence[Run], after: int = 0) -> None:
        """Take in events."""
        ...

    def miss(self, number: int) -> None:
        """Take in that some events cannot be had any more."""
        ...

    def end(self, error: BaseException | None = None) -> None:
        """Take in that no more will come."""
        ...

    def forget(self) -> None:
        """Give up what waits."""
        ...


class Streams:
    """The streams of one system. Any thread may call any method.

    Args:
        source: Where events come from.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._is_closed = False
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._listeners: weakref.WeakSet[Any] = weakref.WeakSet()
        self._background: Background | None = None
        self._retired: list[Background] = []
        self._sequence = 0
        self._replay: deque[Run] = deque()
        self._replayed = 0
        self._idle_since: float | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    # -- for subscribers -------------------------------------------------------------------------------

    def subscribe(
        self, filters: Mapping[str, Any] | None = None, *, buffer: int = BUFFER, after: int | None = None
    ) -> Subscription:
        """Subscribe to what is recorded from now on; see `MetricsSystem.subscribe`."""
        chosen = StreamFilter.parse(filters)
        check_count("buffer", buffer)
        if after is not None and (after.__class__ is not int or after < 0):
            raise InvalidInputError(f"after={after!r} is not a sequence number")
        subscription = Subscription(chosen, buffer, self)
        if not self._listen(subscription, after):
            raise ClosedError("this MetricsSystem was shut down, and with it its stream; make a new one")
        return subscription

    def values(self, filters: Mapping[str, Any] | None = None) -> ValueStream:
        """Return the stream of values; see `MetricsSystem.metrics_stream`."""
        subscription = Subscription(StreamFilter.parse(filters), BUFFER, self)
        self._listen(subscription)
        return ValueStream(subscription)

    def deltas(self, every: float, filters: Mapping[str, Any] | None = None) -> Deltas:
        """Return the stream of coalesced changes; see `MetricsSystem.deltas`."""
        deltas = Deltas(every, StreamFilter.parse(filters), self)
        self._listen(deltas)
        return deltas

    # -- life ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Publish what was recorded until now, and end all streams; a second call does nothing."""
        with self._lock:
            self._is_closed = True
            if self._background is not None:
                self._publish()
                self._rest()
        self._retire()

    def begin_in_child(self) -> None:
        """Begin anew: the subscribers are the parent's, and their streams end here."""
        inherited = list(self._listeners)
        if self._finalizer is not None:
            self._finalizer.detach()
        self._source.forget()
        self._begin()
        for listener in inherited:
            listener.forget()
            listener.end()

    def _listen(self, listener: Listener, after: int | None = None) -> bool:
        """Add a listener; it ends at once where all is over, and then the answer is ``False``."""
        with self._lock:
            if self._is_closed:
                listener.end()
                return False
            if self._background is not None:
                self._publish()  # what was recorded before is for the others
            if self._background is None:
                self._sequence += self._source.start(self._sequence)
                # A system that is dropped without a shutdown stops its source, once its subscribers are gone.
                self._finalizer = weakref.finalize(self, self._source.stop)
                self._finalizer.atexit = False
                self._background = Background(self._tick, TICK_SECONDS, "metrics stream", in_child=False)
            self._listeners.add(listener)
            self._idle_since = None
            if after is not None:
                self._resume(listener, after)
        self._retire()
        return True

    def _resume(self, listener: Listener, after: int) -> None:
        if after > self._sequence:
            return  # of another process: nothing is known of it
        expected = after + 1
        for run in self._replay:
            if run.first + len(run) > expected:
                listener.miss(max(run.first - expected, 0))
                listener.offer((run,), after)
                expected = run.first + len(run)
        listener.miss(self._sequence + 1 - expected)

    # -- the thread ------------------------------------------------------------------------------------

    def _tick(self) -> None:
        with self._lock:
            if self._background is not None:
                self._publish(now=False)
                if self._listeners:
                    self._idle_since = None
                elif self._idle_since is None:
                    self._idle_since = time.monotonic()
                elif time.monotonic() - self._idle_since >= LINGER_SECONDS:
                    self._rest()
        self._retire()

    def _publish(self, *, now: bool = True) -> None:
        """Hand new events to the listeners; without ``now`` some of them may wait for the next time."""
        for listener in list(self._listeners):
            if listener.is_closed:
                self._listeners.discard(listener)
        try:
            runs, lost = self._source.collect(now=now)
        except Exception as error:  # noqa: BLE001 - a part of someone else's may raise anything
            self._rest(error)
            return
        listeners = list(self._listeners)
        for run in runs:
            run.first = self._sequence + 1
            self._sequence += len(run)
        if runs:
            self._keep(runs)
            for listener in listeners:
                listener.offer(runs)
        if lost:
            self._sequence += lost
            for listener in listeners:
                listener.miss(lost)

    def _keep(self, runs: Sequence[Run]) -> None:
        self._replay += runs
        self._replayed += sum(map(len, runs))
        while self._replayed - len(self._replay[0]) >= REPLAY:
            self._replayed -= len(self._replay.popleft())

    def _rest(self, error: BaseException | None = None) -> None:
        """End all streams, and listen no more until somebody subscribes."""
        self._source.stop()
        if self._finalizer is not None:
            self._finalizer.detach()  # which refers to the source, and so to the store
        for listener in list(self._listeners):
            listener.end(error)
        self._listeners.clear()
        self._replay.clear()
        self._replayed = 0
        self._idle_since = None
        if self._background is not None:
            self._retired.append(self._background)
            self._background = None

    def _retire(self) -> None:
        """Stop the threads that are not needed any more, without the lock: their last round may want it."""
        while self._retired:
            with suppress(IndexError):  # another thread was faster
                self._retired.pop().stop()
