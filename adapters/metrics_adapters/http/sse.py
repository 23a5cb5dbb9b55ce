"""The stream endpoint: server-sent events (SSE) of the metrics that change, or of a dashboard.

The format is that of the HTML standard. Each client has a small buffer of its own, and a subscription of its
own or the documents that it shares with other clients.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qsl
from weakref import WeakKeyDictionary

from metrics_adapters.http.asgi import send_response
from metrics_adapters.http.dashboards import DashboardDocument, DashboardQuery, Dashboards
from metrics_adapters.http.scrape import EndpointResponse, TimedCall, in_thread, text_response, unavailable
from metrics_adapters.http.types import Receive, Scope, Send
from metrics_framework.errors import ClosedError, InvalidInputError, nearest
from metrics_framework.log import Isolation, log_event
from metrics_framework.runtime.event_loops import create_event, run_until_first, run_within
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork, run_after_fork
from metrics_framework.streams import Subscription
from metrics_framework.system import MetricsSystem
from metrics_framework.validation import safe_repr

CONTENT_TYPE = "text/event-stream; charset=utf-8"

HEARTBEAT_COMMENT = b": heartbeat\n\n"
"""Clients ignore a comment. It keeps proxies from closing an idle stream."""

RESTARTED_EVENT = b"event: restarted\ndata: {}\n\n"
"""Tells a client that reconnects that its last event came from another process, so it cannot resume."""

DASHBOARD_FIELD = "dashboard"
"""The query field for the documents of a dashboard in place of the metrics."""

LAST_EVENT_ID_FIELD = "last_event_id"
"""The query field for clients that cannot send the header ``Last-Event-ID``."""

RETRY_SECONDS = 2.0
"""How long a client waits before it reconnects."""

_BUFFER_BYTES = 1 << 14  # of events, in addition to the subscription; they are sent at once
_MAX_FIELDS = 100
_EVENT_ID = re.compile(r"([0-9]{1,18})(?:-([0-9a-f]+))?")
_FAILED = "a stream failed"
_HEADERS = [
    ("Content-Type", CONTENT_TYPE),
    ("Cache-Control", "no-store"),
    ("X-Accel-Buffering", "no"),  # nginx would buffer events until a page is full
]


class StreamEndpoint:
    """The streams of one system.

    Args:
        system: The system.
        max_clients: The number of concurrent clients. Further ones get status 503.
        buffer: The number of events that are buffered for a slow client. Further ones are dropped and
            counted.
        heartbeat: The seconds without an event after which a client is sent a comment.
        timeout: The seconds that a client has to read what it was sent, before it is disconnected.
        history: Whether the page has a history of runs, which dashboards tell it.
    """

    def __init__(
        self,
        system: MetricsSystem,
        *,
        max_clients: int,
        buffer: int,
        heartbeat: float,
        timeout: float,
        history: bool = False,
    ) -> None:
        self._system = system
        self._max_clients = max_clients
        self._buffer = buffer
        self._heartbeat = heartbeat
        self._timeout = timeout
        self._isolation = Isolation()
        self._dashboards = Dashboards(
            system, self._counts, history=history, timeout=timeout, max_queries=max_clients
        )
        self.reset()
        reset_after_fork(self, StreamEndpoint.reset, ForkOrder.LOCKS)

    def reset(self) -> None:
        """Forget all clients: in a forked child, they belong to the parent."""
        self._clients: set[_Client] = set()
        self._dropped = 0  # of clients that have left
        self._slots = threading.BoundedSemaphore(self._max_clients)

    @property
    def clients(self) -> int:
        """The number of clients."""
        return len(self._clients)

    def _counts(self) -> dict[str, int]:
        clients = list(self._clients)
        dropped = self._dropped + sum(client.dropped for client in clients)
        return {"open": len(clients), "maximum": self._max_clients, "dropped": dropped}

    def end(self) -> None:
        """End all streams of this event loop once their buffered events are sent."""
        for client in list(self._clients):
            client.end()

    async def respond(self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send) -> None:
        """Serve a client until it leaves, is disconnected, or the system is shut down."""
        slots = self._slots
        if not slots.acquire(blocking=False):
            busy = unavailable("too many stream clients", RETRY_SECONDS)
            await send_response(busy, scope["method"], send)
            return
        try:
            await self._admit(scope, headers, receive, send)
        finally:
            slots.release()

    async def _admit(self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send) -> None:
        method = scope["method"]
        client: _Client
        try:
            fields = query_fields(scope.get("query_string", b""))
            if any(name == DASHBOARD_FIELD for name, _ in fields):
                client = self._dashboard_client(fields, send)
            else:
                client = await self._metric_client(fields, headers, send)
        except InvalidInputError as error:
            await send_response(text_response(HTTPStatus.BAD_REQUEST, str(error)), method, send)
            return
        except (ClosedError, TimeoutError, RuntimeError) as error:  # RuntimeError: no thread can be started
            await send_response(unavailable(str(error), RETRY_SECONDS), method, send)
            return
        except Exception as error:  # noqa: BLE001 - a custom part of the system may raise anything
            self._isolation.call(_FAILED, partial(_raise, error))
            failed = text_response(HTTPStatus.INTERNAL_SERVER_ERROR, "the stream failed: see the log")
            await send_response(failed, method, send)
            return
        if method == "HEAD":
            client.close()
            await send_response(EndpointResponse(HTTPStatus.OK, _HEADERS, []), method, send)
            return
        self._clients.add(client)
        try:
            await client.serve(receive)
        finally:
            self._clients.discard(client)
            self._dropped += client.dropped

    async def _metric_client(
        self, fields: Iterable[tuple[str, str]], headers: Mapping[str, str], send: Send
    ) -> _MetricClient:
        epoch = _epoch_of(self._system)
        filters, last = stream_filters(fields)
        resumed = resume_point(headers.get("last-event-id") or last, epoch)
        subscription = await self._subscribe(filters, resumed.after)
        opening = retry_field(RETRY_SECONDS) + (RESTARTED_EVENT if resumed.restarted else b"")
        return _MetricClient(
            opening, send, self._heartbeat, self._timeout, self._isolation, subscription, epoch
        )

    def _dashboard_client(self, fields: list[tuple[str, str]], send: Send) -> _DashboardClient:
        if self._system.is_shut_down:
            raise ClosedError("this MetricsSystem is shut down")
        query = self._dashboards.query(_known_fields(fields, DASHBOARD_FIELD, "window"), _tags(fields))
        return _DashboardClient(
            retry_field(RETRY_SECONDS),
            send,
            self._heartbeat,
            self._timeout,
            self._isolation,
            self._dashboards,
            query,
            lambda: self._system.is_shut_down,
        )

    async def _subscribe(self, filters: dict[str, Any], after: int | None) -> Subscription:
        # In a thread, because the first subscription reads every series.
        call = TimedCall[Subscription](self._timeout)
        subscribe = partial(self._system.subscribe, filters, buffer=self._buffer, after=after)
        in_thread(subscribe)(call.future)
        await call.wait_async()
        return call.outcome()


class _Client:
    """One client and its buffer.

    One task fills the buffer while there is room, and another sends it.
    """

    def __init__(
        self, opening: bytes, send: Send, heartbeat: float, timeout: float, isolation: Isolation
    ) -> None:
        self._buffer = bytearray(opening)
        self._send = send
        self._heartbeat = heartbeat
        self._timeout = timeout
        self._isolation = isolation
        self._filled = create_event()
        self._emptied = create_event()
        self._is_ending = False
        self._reads_in_time = True

    @property
    def dropped(self) -> int:
        """The number of events that it lost."""
        return 0

    def close(self) -> None:
        """Release what it reads from."""

    async def _fill_buffer(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """End the stream once the buffer is sent."""
        self._is_ending = True
        self._filled.set()

    async def serve(self, receive: Receive) -> None:
        """Send events until the client leaves, is too slow, or the stream ends."""
        try:
            await run_until_first(partial(_wait_for_disconnect, receive), self._fill, self._send_all)
        finally:
            self.close()
            dropped = self.dropped
            if not self._reads_in_time:
                log_event("warning", "a stream was not read in time", seconds=self._timeout, dropped=dropped)
            elif dropped:
                log_event("info", "a stream lost events: it was read too slowly", dropped=dropped)

    async def _fill(self) -> None:
        try:
            await self._fill_buffer()
        except Exception as error:  # noqa: BLE001 - a custom part of the system may raise anything
            self._isolation.call(_FAILED, partial(_raise, error))
        self.end()
        await create_event().wait()  # never set: `_send_all` finishes first, after the buffer is sent

    def _add(self, text: bytes) -> None:
        self._buffer += text
        self._filled.set()

    async def _wait_for_room(self, limit: int) -> None:
        """Wait until the buffer has less than a number of bytes."""
        while len(self._buffer) >= limit:
            self._emptied = create_event()
            await self._emptied.wait()

    async def _send_all(self) -> None:
        """Send the buffer whenever it is filled, until the stream ends or the client is too slow."""
        try:
            start = {"type": "http.response.start", "status": 200, "headers": _RAW_HEADERS}
            await self._send_in_time(start)
            is_last = False
            while self._reads_in_time and not is_last:
                if not self._buffer and not self._is_ending:
                    self._filled = create_event()
                    if not await run_within(self._heartbeat, self._filled.wait):
                        self._buffer += HEARTBEAT_COMMENT
                data, is_last = bytes(self._buffer), self._is_ending
                self._buffer.clear()
                self._emptied.set()
                if data:
                    await self._send_in_time({"type": "http.response.body", "body": data, "more_body": True})
            if self._reads_in_time:
                await self._send_in_time({"type": "http.response.body", "body": b""})
        except OSError:
            pass  # the client has disconnected

    async def _send_in_time(self, message: dict[str, Any]) -> None:
        self._reads_in_time = await run_within(self._timeout, lambda: self._send(message))


class _MetricClient(_Client):
    """A client that gets the metrics that change.

    A client that does not read fills only its own subscription, which is bounded.
    """

    def __init__(
        self,
        opening: bytes,
        send: Send,
        heartbeat: float,
        timeout: float,
        isolation: Isolation,
        subscription: Subscription,
        epoch: str,
    ) -> None:
        super().__init__(opening, send, heartbeat, timeout, isolation)
        self._subscription = subscription
        self._epoch = epoch

    @property
    def dropped(self) -> int:
        """The number of events that it lost. It is final after `close`."""
        return self._subscription.dropped

    def close(self) -> None:
        """Close the subscription."""
        self._subscription.close()

    async def _fill_buffer(self) -> None:
        reported = 0
        async for event in self._subscription:
            if event.dropped:
                reported += event.dropped
                self._add(dropped_event(event.dropped, event.sequence - 1, self._epoch))
            self._add(metric_event(event.sequence, self._epoch, event.json()))
            await self._wait_for_room(_BUFFER_BYTES)
        unreported = self._subscription.dropped - reported
        if unreported > 0:
            self._add(dropped_event(unreported, None, self._epoch))


class _DashboardClient(_Client):
    """A client that gets the documents of a dashboard.

    The buffer has at most one of them, so a client that reads slowly gets the newest one each time, and never
    a queue of old ones.
    """

    def __init__(
        self,
        opening: bytes,
        send: Send,
        heartbeat: float,
        timeout: float,
        isolation: Isolation,
        dashboards: Dashboards,
        query: DashboardQuery,
        is_over: Callable[[], bool],
    ) -> None:
        super().__init__(opening, send, heartbeat, timeout, isolation)
        self._dashboards = dashboards
        self._query = query
        self._is_over = is_over

    async def _fill_buffer(self) -> None:
        document: DashboardDocument | None = None
        with self._dashboards.follow(self._query):
            while not self._is_over():
                await self._wait_for_room(1)
                document = await self._dashboards.next(self._query, document)
                self._add(document.event)


_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in _HEADERS]


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # the body of the request, which is ignored


def _raise(error: Exception) -> None:
    raise error


# An epoch identifies the sequence numbers of one system in one process: a forked child starts new ones.
_EPOCHS: WeakKeyDictionary[MetricsSystem, str] = WeakKeyDictionary()


def _epoch_of(system: MetricsSystem) -> str:
    return _EPOCHS.setdefault(system, secrets.token_hex(4))


run_after_fork(_EPOCHS.clear, ForkOrder.STATE)


# -- the text of events --


def metric_event(sequence: int, epoch: str, data: bytes) -> bytes:
    """Return the text of one metric event.

    Args:
        sequence: Its sequence number.
        epoch: Distinguishes the sequence numbers of different processes.
        data: JSON without a line break.
    """
    return b"id: %d-%b\nevent: metric\ndata: %b\n\n" % (sequence, epoch.encode(), data)


def dropped_event(count: int, last: int | None, epoch: str) -> bytes:
    """Return the event that reports dropped events.

    Args:
        count: The number of dropped events.
        last: The sequence number of the last of them, from which a client that reconnects resumes: it neither
            counts them twice nor gets them again. ``None`` at the end of the stream, where it is unknown.
        epoch: As for `metric_event`.
    """
    event_id = b"" if last is None else b"id: %d-%b\n" % (last, epoch.encode())
    return b'%bevent: dropped\ndata: {"dropped": %d}\n\n' % (event_id, count)


def retry_field(seconds: float) -> bytes:
    """Return the field that states how long a client waits before it reconnects."""
    return b"retry: %d\n\n" % round(seconds * 1000)


# -- the query and the last event id --


class ResumePoint(NamedTuple):
    """The point at which a client resumes.

    Attributes:
        after: The sequence number of the last event that it received; ``None`` if it starts with new events.
        restarted: Whether its last event came from another process.
    """

    after: int | None
    restarted: bool


def resume_point(last_event_id: str | None, epoch: str) -> ResumePoint:
    """Return the point at which a client resumes.

    A number without an epoch counts as one of this process. Malformed ids count as those of another process.

    Args:
        last_event_id: The id that the client sent; ``None`` or empty if it is new.
        epoch: The epoch of this process.

    Example:
        >>> resume_point("7-a1", "a1"), resume_point("7-b2", "a1")
        (ResumePoint(after=7, restarted=False), ResumePoint(after=None, restarted=True))
    """
    if not last_event_id:
        return ResumePoint(None, restarted=False)
    match = _EVENT_ID.fullmatch(last_event_id.strip())
    if match is None or match[2] not in (None, epoch):
        return ResumePoint(None, restarted=True)
    return ResumePoint(int(match[1]), restarted=False)


def query_fields(query: bytes) -> list[tuple[str, str]]:
    """Return the fields of a query.

    Raises:
        InvalidInputError: If there are more than 100.
    """
    try:
        return parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise InvalidInputError(f"the query has more than {_MAX_FIELDS} fields") from None


def stream_filters(fields: Iterable[tuple[str, str]]) -> tuple[dict[str, Any], str | None]:
    """Return the filters of a query and the id of the last event that the client received.

    Args:
        fields: ``name``, ``type``, and one ``tag`` for each tag.

    Raises:
        InvalidInputError: If a field is unknown or repeated, or a tag has no value.

    Example:
        >>> stream_filters([("name", "http.*"), ("tag", "route:/")])
        ({'name': 'http.*', 'tags': {'route': '/'}}, None)
    """
    filters: dict[str, Any] = dict(_known_fields(fields, "name", "type", LAST_EVENT_ID_FIELD))
    last = filters.pop(LAST_EVENT_ID_FIELD, None)
    if tags := _tags(fields):
        filters["tags"] = tags
    return filters, last


def snapshot_tags(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the tags in a query, for the metadata of a snapshot.

    Raises:
        InvalidInputError: If there is another field, or a tag is malformed or repeated.
    """
    _known_fields(fields)
    return _tags(fields)


def _known_fields(fields: Iterable[tuple[str, str]], *names: str) -> dict[str, str]:
    """Return all fields except tags. Unknown and repeated fields are errors."""
    found: dict[str, str] = {}
    for key, text in fields:
        if key == "tag":
            continue
        if key not in names:
            raise InvalidInputError(f"unknown field {safe_repr(key)}.{nearest(key, ('tag', *names))}")
        if key in found:
            raise InvalidInputError(f"field {key!r} occurs twice")
        found[key] = text
    return found


def _tags(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for field, text in fields:
        if field != "tag":
            continue
        key, colon, value = text.partition(":")
        if not key or not colon:
            raise InvalidInputError(f"tag={safe_repr(text)} is not a key and a value, such as 'route:/'")
        if key in tags:
            raise InvalidInputError(f"tag {safe_repr(key)} occurs twice")
        tags[key] = value
    return tags
