"""Clients in the same process, on each event loop."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial

import anyio
import httpx
import trio

from metrics_framework.runtime.event_loops import create_event, run_until_first

TIMEOUT_SECONDS = 20.0
RUNNERS = {"asyncio": asyncio.run, "trio": lambda main: trio.run(lambda: main)}


async def until(holds):
    """Let other tasks run until a condition holds."""
    end = time.monotonic() + TIMEOUT_SECONDS
    while not holds():
        assert time.monotonic() < end, "the condition was never true"
        await anyio.sleep(0.001)  # the publisher thread must run, too


def subscriptions(system):
    """Return the open subscriptions of a system."""
    publisher = system._publisher
    with publisher._lock:
        return [each for each in publisher._subscribers if not each.is_closed]


def publish(system):
    """Publish everything that was recorded, as each tick does."""
    system.subscribe().close()


async def get(app, path, method="GET", root_path="", **headers) -> httpx.Response:
    """Return the response that a client of the application receives."""
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        headers = {name.replace("_", "-"): text for name, text in headers.items()}
        return await client.request(method, path, headers=headers)


class StreamClient:
    """A stream client in this process."""

    def __init__(self, app, query="", path="/stream", method="GET", **headers):
        self.app = app
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()],
        }
        self.messages = []
        self.reads = True
        self.left = False
        self.served = False

    async def serve(self):
        """Run the application for this client."""
        await self.app(self.scope, self.receive, self.send)
        self.served = True

    async def receive(self):
        """Report that the client has left, once it has."""
        await until(lambda: self.left)
        return {"type": "http.disconnect"}

    async def send(self, message):
        """Take a message, while the client reads."""
        await until(lambda: self.reads)
        self.messages.append(message)

    @property
    def status(self):
        """The status of the response."""
        return self.messages[0]["status"]

    @property
    def headers(self):
        """The headers of the response."""
        return {name.decode(): text.decode() for name, text in self.messages[0]["headers"]}

    @property
    def text(self):
        """Everything that was sent so far."""
        return b"".join(message.get("body", b"") for message in self.messages).decode()

    @property
    def blocks(self):
        """All events and comments that were sent so far, except the first."""
        return self.text.split("\n\n")[1:-1]

    async def read(self, count):
        """Wait for a number of events and comments, and return all."""
        await until(lambda: len(self.blocks) >= count)
        return self.blocks


def metric(block):
    """Return the number, the epoch and the data of an event."""
    number, event, data = block.split("\n")
    assert (number[:4], event, data[:6]) == ("id: ", "event: metric", "data: ")
    sequence, _, epoch = number[4:].partition("-")
    return int(sequence), epoch, json.loads(data[6:])


def sequences(blocks):
    """Return the numbers of the metric events among blocks."""
    return [metric(block)[0] for block in blocks if "event: metric" in block]


def talk(run, script, *clients):
    """Serve clients until a script ends."""

    async def stay(client):
        await client.serve()
        await create_event().wait()

    async def main():
        await run_until_first(script, *(partial(stay, client) for client in clients))

    run(main())
