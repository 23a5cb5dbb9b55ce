"""The stream: each client has a subscription, and nothing but what it has not read yet."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qsl
from weakref import WeakKeyDictionary

from metrics_adapters.http.asgi import send_answer
from metrics_adapters.http.scrape import Answer, Call, in_thread, short_answer
from metrics_adapters.http.types import Receive, Scope, Send
from metrics_framework.errors import ClosedError, InvalidInputError, nearest
from metrics_framework.log import Isolation, log_event
from metrics_framework.runtime.event_loops import create_event, run_until_first, run_within
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork, run_after_fork
from metrics_framework.streams import Subscription
from metrics_framework.system import MetricsSystem
from metrics_framework.validation import safe_repr

CONTENT_TYPE = "text/event-stream; charset=utf-8"

HEARTBEAT = b": heartbeat\n\n"
"""A comment, which a client leaves out: it keeps proxies from closing a stream on which nothing happens."""

RESTARTED = b"event: restarted\ndata: {}\n\n"
"""Tells a client which comes back that its last event was of another process: there is no way to resume."""

LAST_EVENT_ID = "last_event_id"
"""What the query calls `Last-Event-ID`, for clients that cannot send a header."""

_MAX_FIELDS = 100
_ID = re.compile(r"([0-9]{1,18})(?:-([0-9a-f]+))?")
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
        self.reset()
        reset_after_fork(self, Streams.reset, ForkOrder.STATE)

    def reset(self) -> None:
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
        await call.wait_async()
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
        self._filled = create_event()
        self._emptied = create_event()
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
                await run_until_first(partial(_gone, receive), self._take, self._talk)
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
        await create_event().wait()  # for ever: who sends comes to the end

    async def _take_all(self) -> None:
        said = 0
        async for event in self._subscription:
            if event.dropped:
                said += event.dropped
                self._add(dropped_frame(event.dropped, event.sequence - 1, self._mark))
            self._add(metric_frame(event.sequence, self._mark, event.json()))
            while len(self._waiting) >= _PIECE:
                self._emptied = create_event()
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
                    self._filled = create_event()
                    if not await run_within(self._heartbeat, self._filled.wait):
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
        self._in_time = await run_within(self._timeout, lambda: self._send(message))


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


run_after_fork(_MARKS.clear, ForkOrder.STATE)


def metric_frame(sequence: int, mark: str, data: bytes) -> bytes:
    """Return one event.

    Args:
        sequence: Its number.
        mark: Tells the numbers of one process from those of another.
        data: JSON without a line break.
    """
    return b"id: %d-%b\nevent: metric\ndata: %b\n\n" % (sequence, mark.encode(), data)


def dropped_frame(count: int, last: int | None, mark: str) -> bytes:
    """Return what tells how many events were lost here.

    Args:
        count: How many.
        last: The number of the last one of them: who is cut off after this goes on from there, and neither
            learns of them again nor gets those that are still kept. ``None`` where it is not known, at the
            end of all events.
        mark: As for `metric_frame`.
    """
    number = b"" if last is None else b"id: %d-%b\n" % (last, mark.encode())
    return b'%bevent: dropped\ndata: {"dropped": %d}\n\n' % (number, count)


def retry_frame(seconds: float) -> bytes:
    """Return what tells a client when to come back after it was cut off."""
    return b"retry: %d\n\n" % round(seconds * 1000)


class Resumption(NamedTuple):
    """Where a client wants to go on.

    Attributes:
        after: The number of the last event that it has; ``None`` where it begins anew.
        restarted: Whether what it has is of another process.
    """

    after: int | None
    restarted: bool


def resumption(last_event_id: str | None, mark: str) -> Resumption:
    """Return where a client wants to go on.

    A number without a mark is taken as one of this process; what is no id at all, as of another one.

    Args:
        last_event_id: What it says; nothing where it is new.
        mark: That of this process.

    Example:
        >>> resumption("7-a1", "a1"), resumption("7-b2", "a1")
        (Resumption(after=7, restarted=False), Resumption(after=None, restarted=True))
    """
    if not last_event_id:
        return Resumption(None, restarted=False)
    found = _ID.fullmatch(last_event_id.strip())
    if found is None or found[2] not in (None, mark):
        return Resumption(None, restarted=True)
    return Resumption(int(found[1]), restarted=False)


def fields_of(query: bytes) -> list[tuple[str, str]]:
    """Return the fields of a query.

    Raises:
        InvalidInputError: If there are more than 100.
    """
    try:
        return parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise InvalidInputError(f"the query has more than {_MAX_FIELDS} fields") from None


def filters_of(fields: Iterable[tuple[str, str]]) -> tuple[dict[str, Any], str | None]:
    """Return the filters that a query asks for, and the last event that it says was received.

    Args:
        fields: ``name``, ``type``, and ``tag`` for each tag.

    Raises:
        InvalidInputError: If one is unknown, or is there twice, or a tag has no value.

    Example:
        >>> filters_of([("name", "http.*"), ("tag", "route:/")])
        ({'name': 'http.*', 'tags': {'route': '/'}}, None)
    """
    filters: dict[str, Any] = dict(_known(fields, "name", "type", LAST_EVENT_ID))
    last = filters.pop(LAST_EVENT_ID, None)
    if tags := _tags(fields):
        filters["tags"] = tags
    return filters, last


def metadata_of(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the tags that a query has for the metadata of a snapshot.

    Raises:
        InvalidInputError: If there is anything else, or a tag that is none.
    """
    _known(fields)
    return _tags(fields)


def _known(fields: Iterable[tuple[str, str]], *names: str) -> dict[str, str]:
    """Return all fields but tags, which may be there once and have to be known."""
    found: dict[str, str] = {}
    for key, text in fields:
        if key == "tag":
            continue
        if key not in names:
            raise InvalidInputError(f"unknown field {safe_repr(key)}.{nearest(key, ('tag', *names))}")
        if key in found:
            raise InvalidInputError(f"field {key!r} is there twice")
        found[key] = text
    return found


def _tags(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for field, text in fields:
        if field != "tag":
            continue
        key, colon, value = text.partition(":")
        if not key or not colon:
            raise InvalidInputError(f"tag={safe_repr(text)} is no key and value like 'route:/'")
        if key in tags:
            raise InvalidInputError(f"tag {safe_repr(key)} is there twice")
        tags[key] = value
    return tags
