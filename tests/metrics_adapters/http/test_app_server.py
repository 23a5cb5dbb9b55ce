"""The server of `serve_app`: where it listens, what it leaves unchanged, and how it closes."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress

import httpx
import psutil
import pytest

from metrics_adapters.asgi import make_app, serve_app
from metrics_adapters.http import app_server
from metrics_framework.errors import InvalidInputError, MissingExtraError, OutputError
from tests.metrics_adapters.http.clients import TIMEOUT_SECONDS
from tests.metrics_adapters.http.readers import reading

pytest.importorskip("uvicorn")
from tests.metrics_adapters.http.serving import wait_until


@pytest.fixture
def system(system):
    """Return a system that has counted an order."""
    system.collector.increment("orders")
    return system


@pytest.mark.slow
def test_it_serves_on_this_machine(system):
    """At its URL, until it is closed. A second close does nothing."""
    with serve_app(system, 0) as server:
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert "orders_total 1" in httpx.get(f"{server.url}/metrics").text
        assert httpx.get(f"{server.url}/snapshot").json()["metrics"]["custom"] == {"orders": 1}
        assert "healthy" in httpx.get(f"{server.url}/health").json()
        assert "server" not in httpx.get(f"{server.url}/health").headers
        assert not server.closed
    assert server.closed
    server.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")


@pytest.mark.slow
def test_its_port_is_free_after_closing(system):
    """Another server can use it at once."""
    with serve_app(system, 0) as server:
        httpx.get(f"{server.url}/health")
        with pytest.raises(OutputError, match="Address already in use: pass another port"):
            serve_app(system, server.port)
    with serve_app(system, server.port) as again:
        assert httpx.get(f"{again.url}/metrics").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ((70_000,), {}, "port=70000 is not a port"),
        ((0, None), {}, "addr=None is not an address"),
        ((0,), {"max_clients": 0}, "max_clients=0"),
        ((0,), {"timeout": -1}, "timeout=-1"),
    ],
)
def test_an_invalid_argument_is_an_error(system, arguments, options, text):
    """Before anything listens."""
    with pytest.raises(InvalidInputError, match=text):
        serve_app(system, *arguments, **options)


def test_a_missing_extra_is_named(system, monkeypatch):
    """Without uvicorn the error states what to install."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match=r"serve_app needs .*pip install 'metrics-framework\[web\]'"):
        serve_app(system, 0)


@pytest.mark.slow
def test_the_logging_of_the_application_is_unchanged(system):
    """The default configuration of uvicorn would replace handlers and levels."""
    code = (
        "import logging; from metrics_framework import MetricsSystem;"
        "from metrics_adapters.asgi import serve_app\n"
        "with serve_app(MetricsSystem(), 0): pass\n"
        "assert not any(logging.getLogger(name).handlers for name in ('uvicorn', 'uvicorn.access'))\n"
        "assert logging.getLogger('uvicorn.error').level == logging.NOTSET"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_requests_are_not_logged(system, caplog):
    """A hostile client cannot fill the log, and a secret in a request does not reach it."""
    caplog.set_level(logging.DEBUG)
    with serve_app(system, 0) as server:
        for request in (b"GET /metrics?key=s3cret HTTP/1.1\r\nHost: a\r\n\r\n", b"s3cret\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as sock:
                sock.sendall(request)
                assert sock.recv(100).startswith(b"HTTP/1.1 ")
    logged = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    assert [one for one in logged if one.startswith("WARNING") or "GET" in one or "s3cret" in one] == []


@pytest.mark.slow
def test_it_does_not_keep_the_interpreter_alive():
    """A program ends without output, even with a client in the middle of a stream."""
    code = (
        "import socket; from metrics_framework import MetricsSystem;"
        "from metrics_adapters.asgi import serve_app\n"
        "server = serve_app(MetricsSystem(), 0)\n"
        "client = socket.create_connection(('127.0.0.1', server.port))\n"
        "client.sendall(b'GET /health HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n"
        "assert client.recv(9) == b'HTTP/1.1 '"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_events_are_sent_immediately(system):
    """Over a real connection."""
    with serve_app(system, 0) as server, reading(server.url) as reader:
        for number in range(1, 20):
            system.collector.increment("orders")
            reader.read(number)
            assert reader.value["value"] == 1 + number  # one was counted before


def test_no_response_waits_for_an_acknowledgement(system):
    """Without TCP_NODELAY, a response in several chunks would be late by 40 ms."""
    with serve_app(system, 0) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
        assert client.recv(1)
        (ours,) = [
            one
            for one in psutil.Process().net_connections("tcp")
            if one.status == "ESTABLISHED" and one.laddr.port == server.port
        ]
        accepted = socket.socket(fileno=os.dup(ours.fd))
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_closing_ends_the_streams(system):
    """A client sees the regular end of its stream, without a delay."""
    with serve_app(system, 0) as server, reading(server.url) as reader:
        begun = threading.Event()
        threading.Timer(0.01, lambda: (begun.set(), server.close())).start()
        reader.read()  # it would raise if the connection were aborted
        assert begun.is_set()
        wait_until(lambda: not server._thread.is_alive())


@pytest.mark.slow
def test_idle_connections_make_room(system):
    """Idle connections do not exhaust the descriptors of the application, and requests are served."""
    with serve_app(system, 0, max_clients=1) as server, ExitStack() as held:
        before = psutil.Process().num_fds()
        with reading(server.url) as reader:
            for number in range(400):
                address = ("127.0.0.1", server.port)
                sock = held.enter_context(socket.create_connection(address, TIMEOUT_SECONDS))
                sock.sendall(b"G" * (number % 2))
                if number % 100 == 99:
                    assert httpx.get(f"{server.url}/health").status_code == 200
            opened = psutil.Process().num_fds() - before - 400
            assert opened < 250
            system.collector.increment("orders")
            reader.read(1)  # the stream is not closed


@pytest.mark.slow
def test_slow_logins_make_room(system):
    """Forms that never arrive, however many, deny no request: they need no token."""
    with serve_app(system, 0, bearer_token="s3cret", max_clients=1) as server, ExitStack() as held:
        address = ("127.0.0.1", server.port)
        for number in range(400):
            sock = held.enter_context(socket.create_connection(address, TIMEOUT_SECONDS))
            with suppress(OSError):  # it has made room already
                sock.sendall(b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\ntok")
            if number % 100 == 99:
                headers = {"Authorization": "Bearer s3cret"}
                assert httpx.get(f"{server.url}/health", headers=headers).status_code == 200
                log_in = httpx.post(f"{server.url}/login", data={"token": "s3cret"})
                assert log_in.status_code == 303


@pytest.mark.slow
def test_a_burst_of_connections_denies_no_request(system, monkeypatch):
    """A new connection has time to send its request, though more connections than the limit follow it."""
    monkeypatch.setattr(app_server, "MIN_REQUEST_SECONDS", 5.0)
    with serve_app(system, 0, max_clients=1) as server, ExitStack() as held:
        address = ("127.0.0.1", server.port)
        first, *_ = [
            held.enter_context(socket.create_connection(address, TIMEOUT_SECONDS)) for _ in range(150)
        ]
        first.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert first.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.slow
def test_a_request_that_does_not_arrive_is_closed(system):
    """After the time-out, also if a part of it has arrived."""
    with serve_app(system, 0, timeout=0.3) as server:
        stream = b"GET /stream HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
        for sent in (b"", b"GET /heal", b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /he", stream):
            with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as sock:
                sock.sendall(sent)
                received = b""
                with suppress(ConnectionResetError):
                    while data := sock.recv(4096):
                        received += data
                assert received.count(b"HTTP/1.1 ") == sent.count(b"Host")


@pytest.mark.heavy
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_does_not_serve(system):
    """The port belongs to the parent: a child never responds, and the port closes with the parent."""
    with serve_app(system, 0) as server:
        httpx.get(f"{server.url}/health")
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                time.sleep(TIMEOUT_SECONDS)
            os._exit(0)
        try:
            assert httpx.get(f"{server.url}/health").status_code in (200, 503)
            server.close()
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{server.url}/health")
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


@pytest.mark.heavy
def test_a_mounting_application_serves_it(system):
    """In a Starlette application on a uvicorn server of its own."""
    uvicorn = pytest.importorskip("uvicorn")
    from starlette.applications import Starlette
    from starlette.routing import Mount

    app = make_app(system)
    sock = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(Starlette(routes=[Mount("/internal", app)]), log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([sock],))
    thread.start()
    try:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        with reading(url, "/internal/stream") as reader:
            system.collector.increment("orders")
            reader.read(1)
    finally:
        server.should_exit = True
        thread.join(TIMEOUT_SECONDS)
        sock.close()
