"""Stream clients on real sockets that account for received and lost events."""

from __future__ import annotations

import json
import socket
import struct
import threading
from contextlib import contextmanager

import httpx

from tests.metrics_adapters.http.clients import TIMEOUT_SECONDS

RESET = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
"""A socket with this option is reset when it is closed."""


class Reader:
    """Reads the lines of a stream without filters and accounts for each event.

    Attributes:
        at: The number up to which every event was received or reported as lost.
        received: The number of received events.
        dropped: The number of events reported as lost.
        restarted: Whether a restart of the numbers was reported.
        last_event_id: The last id, with which a client resumes.
        value: The data of the last metric.
    """

    def __init__(self, lines, at=0):
        self.lines, self.at = lines, at
        self.received = self.dropped = 0
        self.restarted = False
        self.last_event_id = self.value = None

    def read(self, until=None):
        """Read until a number of events are accounted for, or to the end of the stream."""
        block = {}
        while until is None or self.at < until:
            line = next(self.lines, None)
            if line is None:
                return
            if line:
                field, _, text = line.partition(": ")
                block[field] = text
                continue
            self._take(block)
            block = {}

    def _take(self, block):
        # Like a browser, it keeps an id at the end of its event.
        self.last_event_id = block.get("id", self.last_event_id)
        event = block.get("event")
        if event == "metric":
            self.value = json.loads(block["data"])
            assert self.value["sequence"] == self.at + 1
            self.at += 1
            self.received += 1
        elif event == "dropped":
            lost = json.loads(block["data"])["dropped"]
            assert lost > 0
            self.at += lost
            self.dropped += lost
        elif event == "restarted":
            self.restarted = True
        if "id" in block:
            assert int(block["id"].partition("-")[0]) == self.at


@contextmanager
def reading(url, path="/stream", after=None, options=()):
    """Open a stream, and yield its reader once the client is subscribed.

    Args:
        url: The URL of the server.
        path: The path of the stream.
        after: The reader whose stream this one resumes.
        options: The options of the socket.
    """
    headers = {} if after is None else {"last-event-id": after.last_event_id}
    transport = httpx.HTTPTransport(verify=False, socket_options=options)
    with (
        httpx.Client(transport=transport, timeout=TIMEOUT_SECONDS) as client,
        client.stream("GET", f"{url}{path}", headers=headers) as response,
    ):
        assert response.status_code == 200
        yield Reader(response.iter_lines(), 0 if after is None else after.at)


@contextmanager
def reading_in_threads(url, count):
    """Yield a number of readers, each of which reads to the end of the stream in a thread."""
    readers, begun = [], threading.Semaphore(0)

    def read():
        with reading(url) as reader:
            readers.append(reader)
            begun.release()
            reader.read()

    threads = [threading.Thread(target=read) for _ in range(count)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=TIMEOUT_SECONDS)
    yield readers
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
        assert not thread.is_alive()
