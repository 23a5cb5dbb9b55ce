"""A server on the loopback interface that receives pushes and responds as configured."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Taken:
    """A received request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Gateway:
    """The response of the server, and the requests that it received."""

    status: int = 200
    text: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    taken: list[Taken] = field(default_factory=list)
    url: str = ""


@contextmanager
def answering(tls: ssl.SSLContext | None = None) -> Iterator[Gateway]:
    """Run a gateway that responds as its attributes say at that time, with TLS if a context is given."""
    gateway = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            gateway.taken.append(Taken(self.command, self.path, dict(self.headers), body))
            text = gateway.text.encode()
            self.send_response(gateway.status)
            for name, value in {"Content-Length": str(len(text)), **gateway.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
            server.handle_error = lambda *_: None  # clients that do not trust it
        gateway.url = f"http{'' if tls is None else 's'}://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield gateway
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def speaking(talk: Callable[[socket.socket], object]) -> Iterator[str]:
    """Give the URL of a server that calls ``talk`` for its first client, and then closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            caller, _ = listener.accept()
            with caller:
                talk(caller)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()
