"""Streams records to subscribers in one way and prints the numbers. Each run is a separate process.

``python -m benchmarks.streaming_workers WAY MEASURE SUBSCRIBERS`` prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from benchmarks.peers import TAGS
from metrics_framework import MetricsSystem
from metrics_framework.streams import Subscription

RECORDS = 100_000


class Ours:
    """A subscription for each subscriber."""

    def __init__(self, subscribers: int) -> None:
        self._system = MetricsSystem()
        self.record: Callable[..., Any] = self._system.collector.record_counter
        self._subscriptions = [self._system.subscribe(buffer=10 * RECORDS) for _ in range(subscribers)]

    def streams(self, loop: asyncio.AbstractEventLoop) -> list[Subscription]:
        """Return the streams of the subscribers."""
        return self._subscriptions

    def end(self) -> None:
        """End the streams."""
        self._system.shutdown_metrics()


class Queues:
    """The same collector, and after each record an object is put into an asyncio.Queue of each subscriber."""

    def __init__(self, subscribers: int) -> None:
        self._system = MetricsSystem()
        self._queues: list[asyncio.Queue[Any]] = [asyncio.Queue() for _ in range(subscribers)]

    def streams(self, loop: asyncio.AbstractEventLoop) -> list[AsyncIterator[Any]]:
        """Return the streams of the subscribers."""
        self._loop = loop
        return [self._read(queue) for queue in self._queues]

    def record(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Record, and notify all subscribers."""
        self._system.collector.record_counter(name, value, tags)
        event = {"name": name, "value": value, "tags": tags, "timestamp": time.time()}
        for queue in self._queues:
            self._loop.call_soon_threadsafe(queue.put_nowait, event)

    def end(self) -> None:
        """End the streams."""
        for queue in self._queues:
            self._loop.call_soon_threadsafe(queue.put_nowait, None)

    async def _read(self, queue: asyncio.Queue[Any]) -> AsyncIterator[Any]:
        while (event := await queue.get()) is not None:
            yield event


WAYS: dict[str, Callable[[int], Any]] = {"metrics_framework": Ours, "asyncio.Queue": Queues}


def measure(way: str, subscribers: int, *, encoded: bool) -> dict[str, float]:
    """Record as fast as possible while all subscribers read on one event loop in another thread.

    Returns:
        Nanoseconds of CPU that a record costs its thread, and how many events a second arrived in all.
    """
    streaming = WAYS[way](subscribers)
    arrived = 0
    ready = threading.Event()

    async def read(stream: AsyncIterator[Any]) -> int:
        number = 0
        async for event in stream:
            if encoded:
                event.json()
            number += 1
        return number

    async def main() -> None:
        nonlocal arrived
        streams = streaming.streams(asyncio.get_running_loop())
        ready.set()
        arrived = sum(await asyncio.gather(*map(read, streams)))

    loop = threading.Thread(target=asyncio.run, args=[main()])
    loop.start()
    ready.wait()
    record, wall = streaming.record, time.perf_counter()
    begin = time.thread_time()
    for _ in range(RECORDS):
        record("measured", 1, TAGS)
    spent = time.thread_time() - begin
    streaming.end()
    loop.join()
    seconds = time.perf_counter() - wall
    assert arrived == subscribers * RECORDS
    return {"ns": spent / RECORDS * 1e9, "per_second": arrived / seconds}


if __name__ == "__main__":
    _, chosen_way, chosen_measure, number = sys.argv
    print(json.dumps(measure(chosen_way, int(number), encoded=chosen_measure == "encoded")))
