"""An application on a real server in a thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from metrics_adapters.http.types import ASGIApp

TIMEOUT_SECONDS = 20.0


@contextmanager
def served(app: ASGIApp, root_path: str = "") -> Iterator[str]:
    """Serve an application with uvicorn on a free port, and yield its host and port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        root_path=root_path,
        log_level="critical",
        ws="websockets-sansio",
        timeout_graceful_shutdown=int(TIMEOUT_SECONDS / 4),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        assert server.started
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(TIMEOUT_SECONDS)
        listener.close()
        assert not thread.is_alive()


def wait_until(holds: Callable[[], object], reason: Callable[[], object] | None = None) -> None:
    """Wait until a condition holds. ``reason`` tells why it does not."""
    end = time.monotonic() + TIMEOUT_SECONDS
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(reason() if reason is not None else "the condition was not true in time")
        time.sleep(0.005)
