"""The types of ASGI and WSGI applications, and the path of a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def path_in_mount(scope: Scope) -> str:
    """Return the path of a request without the path of the mount, which only some frameworks include."""
    path: str = scope["path"]
    root = scope.get("root_path", "").rstrip("/")
    inside = path.removeprefix(root)
    return inside if not inside or inside.startswith("/") else path
