"""What every endpoint does with a scrape, whatever brings it: a server of ours, ASGI or WSGI."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple, Self

from prometheus_client.registry import CollectorRegistry

from metrics_adapters.http.auth import Access
from metrics_adapters.http.negotiation import choose_format, wants_gzip
from metrics_adapters.http.shared_call import Call, SharedCall, Start, in_thread
from metrics_adapters.prometheus.expositions import (
    Callbacks,
    Exposable,
    callbacks_of,
    exposition_of,
)
from metrics_adapters.prometheus.families import count_by_default
from metrics_adapters.prometheus.text import Format
from metrics_framework.log import Isolation
from metrics_framework.runtime.cooperative import cooperatively, yield_gil
from metrics_framework.validation import check_count, check_seconds, check_url_path

PATH = "/metrics"
"""Where metrics are by default."""

MAX_SCRAPES = 10
"""How many scrapes are answered at the same time by default."""

TIMEOUT = 10.0
"""How many seconds a scrape may take by default; Prometheus' own default is to give up after as many."""

PIECE = 1 << 16
"""How many bytes of a body are handled at a time: to compress them takes a quarter of a millisecond."""

METHODS = ("GET", "HEAD")

_FOR_OTHERS = 0.5  # of a scrape's time is what callbacks and foreign metrics are waited for
_COMPRESSION = 1  # leaves a 27th of the bytes; level 6, a 38th, takes twice the time
_GZIP = 16 + zlib.MAX_WBITS


class Request(NamedTuple):
    """What is asked for: the method, and headers, which are ``None`` where they were not sent.

    Attributes:
        method: ``GET`` and so on.
        authorization: ``Authorization``.
        accept: ``Accept``.
        accept_encoding: ``Accept-Encoding``.
        patience: ``X-Prometheus-Scrape-Timeout-Seconds``, after which nobody waits for the answer.
    """

    method: str
    authorization: str | None = None
    accept: str | None = None
    accept_encoding: str | None = None
    patience: str | None = None


class Answer(NamedTuple):
    """What is sent back: a status, headers, and the body in pieces."""

    status: HTTPStatus
    headers: list[tuple[str, str]]
    body: Iterable[bytes]


def short_answer(status: HTTPStatus, text: str, *headers: tuple[str, str]) -> Answer:
    """Return an answer of one line of text."""
    body = f"{text}\n".encode()
    own = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    return Answer(status, [*own, *headers], [body])


def refusal(access: Access) -> Answer:
    """Return the answer to a request that access was not given to."""
    challenges = [("WWW-Authenticate", challenge) for challenge in access.challenges]
    return short_answer(HTTPStatus.UNAUTHORIZED, "credentials are missing or wrong", *challenges)


_FAILED = short_answer(HTTPStatus.INTERNAL_SERVER_ERROR, "the metrics could not be rendered; see the log")


class Endpoint:
    """Metrics that can be scraped.

    Args:
        metrics: What is exposed; see `exposition_of`.
        registry: Whose metrics are appended.
        callbacks: What is called before each scrape; ``metrics.callbacks`` by default, where there are any.
        bearer_token: What a request has to bear; see `Access`.
        basic_auth: User and password that a request has to give.
        path: Where they are.
        max_scrapes: How many are answered at a time; others are told to come again.
        timeout: How many seconds one may take. Callbacks and ``registry`` are waited for half of it; then
            a scrape does without them.

    Raises:
        InvalidInputError: If an argument is not what it has to be.
    """

    def __init__(
        self,
        metrics: Exposable,
        *,
        registry: CollectorRegistry | None = None,
        callbacks: Callbacks | None = None,
        bearer_token: str | None = None,
        basic_auth: tuple[str, str] | None = None,
        path: str = PATH,
        max_scrapes: int = MAX_SCRAPES,
        timeout: float = TIMEOUT,
    ) -> None:
        check_url_path("path", path)
        check_count("max_scrapes", max_scrapes)
        check_seconds("timeout", timeout)
        self.exposition = exposition_of(metrics, registry)
        if self.exposition is not metrics:
            count_by_default(self.exposition.store)
        self.callbacks = callbacks_of(metrics, callbacks)
        self.path = path
        self.timeout = timeout
        self.isolation = Isolation()
        self._access = Access(bearer_token, basic_auth)
        self._max_scrapes = max_scrapes
        self._collecting = SharedCall[object](timeout * _FOR_OTHERS)
        self._foreign = {format: SharedCall[bytes](timeout * _FOR_OTHERS) for format in Format}
        self._places = threading.BoundedSemaphore(max_scrapes)
        _ENDPOINTS.add(self)

    def admit(self, request: Request, path: str) -> Scrape | Answer:
        """Return the scrape that a request may make, or the answer to one that may not.

        A scrape takes a place, which it gives back where it is left as a context manager.

        Args:
            request: What is asked for.
            path: Where it is asked for, without the path of a mount.
        """
        if not self._access.allows(request.authorization):
            return refusal(self._access)
        if request.method not in METHODS:
            allowed = ("Allow", ", ".join(METHODS))
            return short_answer(HTTPStatus.METHOD_NOT_ALLOWED, "metrics can only be read", allowed)
        if path.rstrip("/") != self.path.rstrip("/"):
            return short_answer(HTTPStatus.NOT_FOUND, f"the metrics are at {self.path}")
        places = self._places
        if not places.acquire(blocking=False):
            busy = "as many scrapes as may be are under way"
            return short_answer(HTTPStatus.SERVICE_UNAVAILABLE, busy, ("Retry-After", "1"))
        return Scrape(self, request, places.release)

    def collect(self, start: Start[object]) -> Call[object]:
        """Have the callbacks called, or share in a call that is under way."""
        return self._collecting.call(start)

    def foreign(self, format: Format) -> Call[bytes] | None:
        """Have the registry rendered, or share in a rendering that is under way; ``None`` without one."""
        if self.exposition.registry is None:
            return None
        return self._foreign[format].call(in_thread(partial(self.exposition.foreign, format)))

    def begin_in_child(self) -> None:
        """Forget who was at it: they are in the parent, and so are the places and locks that they held."""
        self._places = threading.BoundedSemaphore(self._max_scrapes)
        self._collecting.begin_anew()
        for call in self._foreign.values():
            call.begin_anew()


class Scrape:
    """One scrape, from being let in to having been answered.

    Nothing is sent before all is made: one that fails is an error, and never a part of the metrics.

    Attributes:
        answer: The answer, once `making` has come to its end.
        seconds: How long it may take.
    """

    def __init__(self, endpoint: Endpoint, request: Request, leave: Callable[[], None]) -> None:
        self._endpoint = endpoint
        self._format = choose_format(request.accept)
        self._gzip = wants_gzip(request.accept_encoding)
        self._is_head = request.method == "HEAD"
        self._leave = leave
        self._has_place = True
        self._callbacks: Call[object] | None = None
        self._foreign: Call[bytes] | None = None
        self.answer = _FAILED
        self.seconds = min(endpoint.timeout, _seconds(request.patience))
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._give_place_back()

    def _give_place_back(self) -> None:
        if self._has_place:
            self._has_place = False
            self._leave()

    def run(self) -> Answer:
        """Return the answer, in a thread that may wait."""
        callbacks = self._endpoint.callbacks
        for future, seconds in self.waiting(None if callbacks is None else in_thread(callbacks.collect)):
            wait([future], seconds)
        with cooperatively():
            for _ in self.making():
                yield_gil()
        return self.answer

    def waiting(self, call_back: Start[object] | None) -> Iterator[tuple[Future[Any], float]]:
        """Begin what may take its time, and yield what is to be waited for, and for how many seconds.

        Args:
            call_back: Starts the callbacks, if there are any.
        """
        if self._is_head:
            return
        self._foreign = self._endpoint.foreign(self._format)
        if call_back is not None:
            self._callbacks = self._endpoint.collect(call_back)
        for call in (self._callbacks, self._foreign):
            if call is not None:
                yield call.future, self._patience(call)

    def making(self) -> Iterator[None]:
        """Make the answer, and yield about every millisecond, for others to go on."""
        body, error = _Body(self._gzip), None
        try:
            if not self._is_head:
                for chunk in self._chunks():
                    body.add(chunk[:PIECE])
                    yield  # also for an empty chunk, which took its time
                    for begin in range(PIECE, len(chunk), PIECE):
                        body.add(chunk[begin : begin + PIECE])
                        yield
                    self._check_time()
        except Exception as raised:  # noqa: BLE001 - the endpoint lives on
            error = raised
        made = self._endpoint.isolation.call("scrape failed", partial(self._made, body, error))
        self.answer = made or _FAILED

    def _chunks(self) -> Iterator[bytes]:
        attempt = self._endpoint.isolation.call
        if self._callbacks is not None:
            attempt("callbacks failed; gauges are scraped as they are", self._callbacks.outcome)
        foreign = None
        if self._foreign is not None:
            foreign = attempt("registry failed; metrics are scraped without it", self._foreign.outcome)
        return self._endpoint.exposition.chunks(self._format, foreign=foreign or b"")

    def _made(self, body: _Body, error: Exception | None) -> Answer:
        if error is not None:
            raise error
        pieces = body.end()
        headers = [("Content-Type", self._format.content_type), ("Cache-Control", "no-store")]
        if self._gzip:
            headers.append(("Content-Encoding", "gzip"))
        if self._is_head:  # it is made for nobody, so that nobody knows its length
            self._give_place_back()
            return Answer(HTTPStatus.OK, headers, [])
        headers.append(("Content-Length", str(sum(map(len, pieces)))))
        return Answer(HTTPStatus.OK, headers, self._sending(pieces))

    def _sending(self, pieces: list[bytes]) -> Iterator[bytes]:
        yield from pieces[:-1]
        # Who has all of an answer may come again at once, and finds the place free.
        self._give_place_back()
        yield from pieces[-1:]

    def _patience(self, call: Call[Any]) -> float:
        own = self._begun + self.seconds * _FOR_OTHERS - time.monotonic()
        return max(min(call.seconds_left(), own), 0.0)

    def _check_time(self) -> None:
        if time.monotonic() > self._begun + self.seconds:
            raise TimeoutError(f"it took more than {self.seconds} seconds")


class _Body:
    """Puts small chunks together and compresses them where that is asked for."""

    def __init__(self, gzip: bool) -> None:
        self._compressor = zlib.compressobj(_COMPRESSION, zlib.DEFLATED, _GZIP) if gzip else None
        self._pieces: list[bytes] = []
        self._rest: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        if self._compressor is not None:
            data = self._compressor.compress(data)
        self._rest.append(data)
        self._size += len(data)
        if self._size >= PIECE:
            self._put_together()

    def end(self) -> list[bytes]:
        if self._compressor is not None:
            self._rest.append(self._compressor.flush())
        self._put_together()
        return self._pieces

    def _put_together(self) -> None:
        self._pieces.append(b"".join(self._rest))
        self._rest.clear()
        self._size = 0


def _seconds(patience: str | None) -> float:
    """Return how long a server waits by its header; infinitely long where that makes no sense."""
    try:
        seconds = float(patience or "inf")
    except ValueError:
        return math.inf
    return seconds if seconds > 0 else math.inf


_ENDPOINTS: weakref.WeakSet[Endpoint] = weakref.WeakSet()


def _begin_in_child() -> None:
    for endpoint in list(_ENDPOINTS):
        endpoint.begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)
