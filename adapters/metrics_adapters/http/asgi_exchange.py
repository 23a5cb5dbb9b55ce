"""What applications that speak ASGI share: paths, headers, answers, and the life of a server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from metrics_adapters.http.scrape import Answer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the headers of a request by their lower-case names; what comes twice is put together."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def inner_path(scope: Scope) -> str:
    """Return the path without that of the mount; by the specification it is in there, but not by all."""
    path: str = scope["path"]
    root = scope.get("root_path", "").rstrip("/")
    inside = path.removeprefix(root)
    return inside if not inside or inside.startswith("/") else path


async def send_answer(answer: Answer, method: str, send: Send) -> None:
    """Send an answer, to ``HEAD`` without its body; a client that is gone is no error."""
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers]
    body: Iterable[bytes] = [] if method == "HEAD" else answer.body
    try:
        await send({"type": "http.response.start", "status": answer.status.value, "headers": headers})
        for piece in body:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except OSError:
        pass  # the client is gone


async def live(receive: Receive, send: Send, end: Callable[[], None] = lambda: None) -> None:
    """Answer the events of a server's life.

    Args:
        receive: Brings them.
        send: Takes the answers.
        end: Called when the server is at its end.
    """
    while True:
        event = (await receive())["type"]
        if event == "lifespan.shutdown":
            end()
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
