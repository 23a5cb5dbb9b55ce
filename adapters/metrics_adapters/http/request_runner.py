"""Requests that are answered in threads, beside the event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from metrics_adapters.http.scrape import EndpointResponse, TimedCall, in_thread, text_response, unavailable
from metrics_framework.log import Isolation
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork
from metrics_framework.runtime.strict_json import to_json_text

MAX_CONCURRENT_REQUESTS = 10
"""The number of concurrent requests of one kind, such as for a snapshot."""


class RequestRunner:
    """Runs requests of one kind in threads, so that a slow or hanging system does not block the event loop.

    Args:
        kind: The kind of request, for the log and the responses.
        timeout: How many seconds a client waits for a response.
    """

    def __init__(self, kind: str, timeout: float) -> None:
        self._kind = kind
        self._timeout = timeout
        self._isolation = Isolation()
        self.reset()
        reset_after_fork(self, RequestRunner.reset, ForkOrder.LOCKS)

    def reset(self) -> None:
        """Free all slots: in a forked child, the threads that hold them do not exist."""
        self._slots = threading.BoundedSemaphore(MAX_CONCURRENT_REQUESTS)

    async def run(self, respond: Callable[[], EndpointResponse]) -> EndpointResponse:
        """Return the response of a function, or an error response."""
        slots = self._slots
        if not slots.acquire(blocking=False):
            return unavailable(f"too many concurrent {self._kind} requests")
        call = TimedCall[EndpointResponse](self._timeout)
        # A slot is freed when its thread ends, not at the time-out: it limits the number of hanging threads.
        call.future.add_done_callback(lambda _: slots.release())
        try:
            in_thread(respond)(call.future)
        except RuntimeError as error:  # no thread can be started
            call.future.set_exception(error)
        await call.wait_async()
        if not call.future.done():
            self._isolation.call(f"{self._kind} not answered", call.outcome)
            return unavailable(f"{self._kind} timed out after {self._timeout:g} seconds")
        failed = text_response(HTTPStatus.INTERNAL_SERVER_ERROR, f"{self._kind} failed: see the log")
        return self._isolation.call(f"{self._kind} not answered", call.outcome) or failed


def json_response(status: HTTPStatus, data: Any) -> EndpointResponse:
    """Return a response in JSON that must not be cached."""
    body = to_json_text(data).encode() + b"\n"
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    return EndpointResponse(status, headers, [body])
