"""The options of the HTTP endpoints and their defaults."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from prometheus_client.registry import CollectorRegistry

from metrics_framework.capabilities import Callbacks

DEFAULT_PATH = "/metrics"

DEFAULT_MAX_SCRAPES = 10

DEFAULT_TIMEOUT_SECONDS = 10.0
"""Prometheus itself waits 10 seconds by default."""

PAGE = "page"
"""The endpoint of the live page, at the root of the application."""

ENDPOINTS = ("metrics", "snapshot", "health", "stream", PAGE)
"""The endpoints of `make_app`. Each of the others is served at a path of its name."""

DEFAULT_MAX_CLIENTS = 100

DEFAULT_BUFFER_EVENTS = 10_000

DEFAULT_HEARTBEAT_SECONDS = 15.0


class AccessOptions(TypedDict, total=False):
    """The options of every endpoint.

    Attributes:
        bearer_token: The token that a request must send as ``Authorization: Bearer …``.
        basic_auth: The ``(user, password)`` that a request must send. If there is a token too, either is
            accepted; if there is neither, no credentials are required.
        timeout: The time limit in seconds for a response, and for the client to read it. 10 by default.
    """

    bearer_token: str | None
    basic_auth: tuple[str, str] | None
    timeout: float


class EndpointOptions(AccessOptions, total=False):
    """The options of `serve`, `make_asgi_app` and `make_wsgi_app`.

    Callbacks and ``registry`` get half of ``timeout``; after that, the scrape continues without them.

    Attributes:
        registry: A prometheus_client registry whose metrics are appended.
        callbacks: Called before each scrape. By default ``metrics.callbacks``, if it exists.
        path: The path of the metrics, ``/metrics`` by default. In a mounted application, the root of the
            mount serves them too.
        max_scrapes: The number of concurrent scrapes, 10 by default. Further ones get status 503.
    """

    registry: CollectorRegistry | None
    callbacks: Callbacks | None
    path: str
    max_scrapes: int


class AppOptions(AccessOptions, total=False):
    """The options of `make_app`, which documents them, and of `serve_app`."""

    endpoints: Iterable[str]
    prefix: str
    allow_origins: Iterable[str]
    allow_hosts: Iterable[str] | None
    max_clients: int
    buffer: int
    heartbeat: float
    snapshots: str | Path | None
