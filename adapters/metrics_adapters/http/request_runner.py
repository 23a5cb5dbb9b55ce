"""Requests that are answered in threads, beside the event loop."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from http import HTTPStatus
from typing import Any

from metrics_adapters.http.scrape import (
    EndpointResponse,
    SharedCalls,
    TooManyCallsError,
    in_thread,
    text_response,
    unavailable,
)
from metrics_framework.log import Isolation
from metrics_framework.runtime.strict_json import to_json_text

MAX_CONCURRENT_REQUESTS = 10
"""The number of concurrent requests of one kind, such as for a snapshot."""


class RequestRunner:
    """Runs requests of one kind in threads, so that a slow or hanging system does not block the event loop.

    Args:
        kind: The kind of request, for the log and the responses.
        timeout: How many seconds a client waits for a response.
        max_requests: The number of concurrent requests. Further ones get status 503.
    """

    def __init__(self, kind: str, timeout: float, max_requests: int = MAX_CONCURRENT_REQUESTS) -> None:
        self._kind = kind
        self._timeout = timeout
        self._isolation = Isolation()
        # A call ends with its thread, not at the time-out: this limits the number of hanging threads.
        self._calls = SharedCalls[EndpointResponse](timeout, max_requests)

    async def run(self, respond: Callable[[], EndpointResponse], key: Hashable = None) -> EndpointResponse:
        """Return the response of a function, or an error response.

        Args:
            respond: The function.
            key: Concurrent requests with an equal key share one call. By default each has its own.
        """
        call = self._calls.call(in_thread(respond), object() if key is None else key)
        await call.wait_async()
        if not call.future.done():
            self._isolation.call(f"{self._kind} not answered", call.outcome)
            return unavailable(f"{self._kind} timed out after {self._timeout:g} seconds")
        if isinstance(call.future.exception(), TooManyCallsError):
            return unavailable(f"too many concurrent {self._kind} requests")
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
