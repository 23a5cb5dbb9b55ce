"""The stream: each client has a subscription, and nothing but what it has not read yet."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any
from weakref import WeakKeyDictionary

from metrics_adapters.http.asgi_exchange import Receive, Scope, Send, send_answer
from metrics_adapters.http.event_loop import done_within, first_of, new_event, wait
from metrics_adapters.http.frames import (
    CONTENT_TYPE,
    HEARTBEAT,
    RESTARTED,
    dropped_frame,
    fields_of,
    filters_of,
    metric_frame,
    resumption,
    retry_frame,
)
from metrics_adapters.http.scrape import Answer, short_answer
from metrics_adapters.http.shared_call import Call, in_thread
from metrics_framework.errors import ClosedError, InvalidInputError
from metrics_framework.log import Isolation, log_event
from metrics_framework.streams import Subscription
from metrics_framework.system import MetricsSystem

RETRY_SECONDS = 2.0
"""After how many seconds a client comes back that was cut off."""

_PIECE = 1 << 14  # how many bytes wait for a client beside its subscription, and are sent at once
_FAILED = "a stream failed"  # in the log
_HEADERS = [
    ("Content-Type", CONTENT_TYPE),
    ("Cache-Control", "no-store"),
    ("X-Accel-Buffering", "no"),  # nginx would keep events back until it has a page of them
]


class Streams:
    """The streams of one system.

    Args:
        system: Whose metrics they are.
        max_clients: How many there are at a time; others are told to come again.
        buffer: How many events wait for a client that reads slowly; beyond, they are dropped and counted.
        heartbeat: After how many seconds without an event a client is sent a comment.
        timeout: How many seconds a client has to take in what it is sent, before it is cut off.
    """

    def __init__(
        self, system: MetricsSystem, *, max_clients: int, buffer: int, heartbeat: float, timeout: float
    ) -> None:
        self._system = system
        self._max_clients = max_clients
        self._buffer = buffer
        self._heartbeat = heartbeat
        self._timeout = timeout
        self._isolation = Isolation()
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the clients: in a forked child they are the parent's."""
        self._clients: set[_Client] = set()
        self._places = threading.BoundedSemaphore(self._max_clients)

    @property
    def clients(self) -> int:
        """How many streams there are."""
        return len(self._clients)

    def end(self) -> None:
        """End all streams of this event loop, after what waits for their clients."""
        for client in list(self._clients):
            client.end()

    async def respond(self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send) -> None:
        """Serve a client until it goes, is cut off, or the system is shut down."""
        method = scope["method"]
        if not self._places.acquire(blocking=False):
            busy = "as many clients as may be have a stream"
            await send_answer(_unavailable(busy), method, send)
            return
        places = self._places
        try:
            await self._admit(scope, headers, receive, send)
        finally:
            places.release()

    async def _admit(self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send) -> None:
        method = scope["method"]
        mark = _mark_of(self._system)
        try:
            filters, last = filters_of(fields_of(scope.get("query_string", b"")))
            resumed = resumption(headers.get("last-event-id") or last, mark)
            subscription = await self._subscribed(filters, resumed.after)
        except InvalidInputError as error:
            await send_answer(short_answer(HTTPStatus.BAD_REQUEST, str(error)), method, send)
            return
        except (ClosedError, TimeoutError, RuntimeError) as error:  # the last where there are no more threads
            await send_answer(_unavailable(str(error)), method, send)
            return
        except Exception as error:  # noqa: BLE001 - a part of someone else's may raise anything
            self._isolation.call(_FAILED, partial(_raise, error))
            failed = short_answer(HTTPStatus.INTERNAL_SERVER_ERROR, "the stream failed; see the log")
            await send_answer(failed, method, send)
            return
        if method == "HEAD":
            subscription.close()
            await send_answer(Answer(HTTPStatus.OK, _HEADERS, []), method, send)
            return
        opening = retry_frame(RETRY_SECONDS) + (RESTARTED if resumed.restarted else b"")
        client = _Client(subscription, mark, opening, send, self._heartbeat, self._timeout, self._isolation)
        self._clients.add(client)
        try:
            await client.serve(receive)
        finally:
            self._clients.discard(client)

    async def _subscribed(self, filters: dict[str, Any], after: int | None) -> Subscription:
        # In a thread: for the first one, every series there is is looked at.
        call = Call[Subscription](self._timeout)
        subscribe = partial(self._system.subscribe, filters, buffer=self._buffer, after=after)
        in_thread(subscribe)(call.future)
        await wait(call.future, call.seconds_left())
        return call.outcome()


class _Client:
    """One client and what waits for it.

    A task takes events from the subscription as long as little waits, and another sends; so one that does not
    read holds up its own subscription alone, which is bounded.
    """

    def __init__(
        self,
        subscription: Subscription,
        mark: str,
        opening: bytes,
        send: Send,
        heartbeat: float,
        timeout: float,
        isolation: Isolation,
    ) -> None:
        self._subscription = subscription
        self._mark = mark
        self._waiting = bytearray(opening)
        self._send = send
        self._heartbeat = heartbeat
        self._timeout = timeout
        self._isolation = isolation
        self._filled = new_event()
        self._emptied = new_event()
        self._over = False
        self._in_time = True

    def end(self) -> None:
        """Have the stream end after what waits."""
        self._over = True
        self._filled.set()

    async def serve(self, receive: Receive) -> None:
        """Talk until one side ends it."""
        try:
            with self._subscription:
                await first_of(partial(_gone, receive), self._take, self._talk)
        finally:
            # Now that the subscription is closed, it is the last word.
            dropped = self._subscription.dropped
            if not self._in_time:
                log_event("warning", "a stream was not read in time", seconds=self._timeout, dropped=dropped)
            elif dropped:
                log_event("info", "a stream lost events: it was read too slowly", dropped=dropped)

    async def _take(self) -> None:
        try:
            await self._take_all()
        except Exception as error:  # noqa: BLE001 - a part of someone else's may raise anything
            self._isolation.call(_FAILED, partial(_raise, error))
        self.end()
        await new_event().wait()  # for ever: who sends comes to the end

    async def _take_all(self) -> None:
        said = 0
        async for event in self._subscription:
            if event.dropped:
                said += event.dropped
                self._add(dropped_frame(event.dropped, event.sequence - 1, self._mark))
            self._add(metric_frame(event.sequence, self._mark, event.json()))
            while len(self._waiting) >= _PIECE:
                self._emptied = new_event()
                await self._emptied.wait()
        unsaid = self._subscription.dropped - said
        if unsaid > 0:
            self._add(dropped_frame(unsaid, None, self._mark))

    def _add(self, frame: bytes) -> None:
        self._waiting += frame
        self._filled.set()

    async def _talk(self) -> None:
        """Send what comes, until there is no more or nobody takes it."""
        try:
            await self._send_in_time({"type": "http.response.start", "status": 200, "headers": _RAW_HEADERS})
            over = False
            while self._in_time and not over:
                if not self._waiting and not self._over:
                    self._filled = new_event()
                    if not await done_within(self._heartbeat, self._filled.wait):
                        self._waiting += HEARTBEAT
                data, over = bytes(self._waiting), self._over
                self._waiting.clear()
                self._emptied.set()
                if data:
                    await self._send_in_time({"type": "http.response.body", "body": data, "more_body": True})
            if self._in_time:
                await self._send_in_time({"type": "http.response.body", "body": b""})
        except OSError:
            pass  # the client is gone

    async def _send_in_time(self, message: dict[str, Any]) -> None:
        self._in_time = await done_within(self._timeout, lambda: self._send(message))


_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in _HEADERS]


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # a body, which says nothing here


def _raise(error: Exception) -> None:
    raise error


def _unavailable(text: str) -> Answer:
    retry = ("Retry-After", str(round(RETRY_SECONDS)))
    return short_answer(HTTPStatus.SERVICE_UNAVAILABLE, text, retry)


# The marks of this process: its systems count their events from anew, as those of a forked child do.
_MARKS: WeakKeyDictionary[MetricsSystem, str] = WeakKeyDictionary()


def _mark_of(system: MetricsSystem) -> str:
    return _MARKS.setdefault(system, secrets.token_hex(4))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_MARKS.clear)
