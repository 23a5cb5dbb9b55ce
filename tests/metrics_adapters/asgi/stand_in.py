"""A system whose stream a test scripts, event by event; it has the surface of the real one."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque

import trio

from metrics_framework import MetricsSystem
from metrics_framework.errors import ClosedError
from metrics_framework.streams import StreamFilter
from metrics_framework.values import MetricType


class Event:
    """One event of a subscription."""

    def __init__(self, sequence, name, value, tags, dropped=0):
        self.sequence, self.name, self.value, self.tags, self.dropped = sequence, name, value, tags, dropped

    def json(self):
        """Return what is sent of it."""
        return json.dumps({"name": self.name, "value": self.value, "tags": self.tags}).encode()


class Subscription:
    """Events that one subscriber has not taken yet; the oldest are dropped where there are too many."""

    def __init__(self, system, chosen, buffer):
        self.system, self.chosen, self.buffer = system, chosen, buffer
        self.events = deque()
        self.dropped = self.lost = 0
        self.closed = False
        self.lock = threading.Lock()
        self.wake = None

    def offer(self, event):
        """Take an event in."""
        metric_type = self.chosen.metric_type or MetricType.COUNTER
        with self.lock:
            if self.chosen.matches(event.name, metric_type, event.tags) and not self.closed:
                self.events.append(Event(event.sequence, event.name, event.value, event.tags))
                while len(self.events) > self.buffer:
                    self.events.popleft()
                    self.dropped += 1
                    self.lost += 1
        self.notify()

    def notify(self):
        """Wake who waits, from any thread."""
        if self.wake is not None:
            self.wake()

    def close(self):
        """Take nothing more."""
        with self.lock:
            self.closed = True
        self.system.subscriptions.discard(self)
        self.notify()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __aiter__(self):
        return self

    async def __anext__(self):
        while not self.events:
            if self.closed or self.system.over:
                raise StopAsyncIteration
            await self.wait()
        with self.lock:
            event = self.events.popleft()
            event.dropped, self.lost = self.lost, 0
        return event

    async def wait(self):
        """Wait until there may be something, on the loop that runs."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            token, event = trio.lowlevel.current_trio_token(), trio.Event()
            self.wake = lambda: token.run_sync_soon(event.set)
        else:
            event = asyncio.Event()
            self.wake = lambda: loop.call_soon_threadsafe(event.set)
        if not self.events and not self.closed and not self.system.over:
            await event.wait()
        self.wake = None


class ScriptedSystem(MetricsSystem):
    """A system that streams what `publish` is told."""

    def __init__(self, **keys):
        super().__init__(**keys)
        self.subscriptions = set()
        self.past = deque(maxlen=1000)
        self.sequence = 0
        self.over = False

    def subscribe(self, filters=None, *, buffer=10_000, after=None):
        """Subscribe, as the real one does."""
        chosen = StreamFilter.parse(filters or {})
        if self.over:
            raise ClosedError("this MetricsSystem was shut down; make a new one")
        subscription = Subscription(self, chosen, buffer)
        if after is not None:
            for event in self.past:
                if event.sequence > after:
                    subscription.offer(event)
        self.subscriptions.add(subscription)
        return subscription

    def publish(self, name, value=1, tags=None):
        """Have something changed."""
        self.sequence += 1
        event = Event(self.sequence, name, value, tags or {})
        self.past.append(event)
        for subscription in list(self.subscriptions):
            subscription.offer(event)

    def shutdown_metrics(self):
        """End all streams."""
        self.over = True
        for subscription in list(self.subscriptions):
            subscription.notify()
        super().shutdown_metrics()
