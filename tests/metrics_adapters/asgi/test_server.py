"""The server of its own: real sockets, clients that read, stop, die and come back."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress

import httpx
import psutil
import pytest

from metrics_adapters.asgi import make_app, serve_app
from metrics_framework.errors import InvalidInputError, MissingExtraError, OutputError
from tests.metrics_adapters.asgi.loops import PATIENCE
from tests.metrics_adapters.asgi.stand_in import ScriptedSystem

pytest.importorskip("uvicorn")


@pytest.fixture
def system(clock):
    """Return a system that streams what it is told."""
    system = ScriptedSystem(clock=clock)
    system.collector.increment("orders")
    return system


def wait_until(holds):
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.005)


@contextmanager
def stream(url, path="/stream", **headers):
    """Open a stream and give its blocks: events and comments."""
    headers = {name.replace("_", "-"): text for name, text in headers.items()}
    with httpx.stream("GET", f"{url}{path}", headers=headers, timeout=PATIENCE) as answer:
        assert answer.status_code == 200
        yield blocks(answer.iter_lines())


def blocks(lines):
    """Put the lines of an event together; the first block is no event."""
    block = []
    for line in lines:
        if line:
            block.append(line)
        else:
            yield block
            block = []


def sequence(block):
    """Return the number of an event."""
    return int(block[0].removeprefix("id: ").partition("-")[0])


def ask_for_stream(server, **options):
    """Return a socket on which a stream has begun."""
    sock = socket.socket()
    if "receive_buffer" in options:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["receive_buffer"])
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", server.port))
    sock.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
    received = b""
    while b"retry: " not in received:
        received += sock.recv(4096)
    return sock


def test_it_answers_on_this_machine(system):
    """At its address, and no more once it is closed; closing again does nothing."""
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


def test_its_port_is_free_afterwards(system):
    """Another server may have it at once."""
    with serve_app(system, 0) as server:
        httpx.get(f"{server.url}/health")
        with pytest.raises(OutputError, match="Address already in use; pass another port"):
            serve_app(system, server.port)
    with serve_app(system, server.port) as again:
        assert httpx.get(f"{again.url}/metrics").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ((70_000,), {}, "port=70000 is no whole number"),
        ((0, None), {}, "addr=None is no address"),
        ((0,), {"max_clients": 0}, "max_clients=0"),
        ((0,), {"timeout": -1}, "timeout=-1"),
    ],
)
def test_a_wrong_argument_is_one_clear_error(system, arguments, options, text):
    """Before anything listens."""
    with pytest.raises(InvalidInputError, match=text):
        serve_app(system, *arguments, **options)


def test_a_missing_extra_is_named(system, monkeypatch):
    """Without uvicorn the error says what to install."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match=r"serve_app needs .*pip install 'metrics-framework\[web\]'"):
        serve_app(system, 0)


def test_the_logging_of_the_application_stays_as_it_is(system):
    """The configuration that comes with uvicorn would replace handlers and levels."""
    code = (
        "import logging; from metrics_framework import MetricsSystem;"
        "from metrics_adapters.asgi import serve_app\n"
        "with serve_app(MetricsSystem(), 0): pass\n"
        "assert not any(logging.getLogger(name).handlers for name in ('uvicorn', 'uvicorn.access'))\n"
        "assert logging.getLogger('uvicorn.error').level == logging.NOTSET"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_does_not_put_off_the_end_of_the_program():
    """A program that forgets its server, with a client in the middle of a stream, ends without a word."""
    code = (
        "import socket; from metrics_framework import MetricsSystem;"
        "from metrics_adapters.asgi import serve_app\n"
        "server = serve_app(MetricsSystem(), 0)\n"
        "client = socket.create_connection(('127.0.0.1', server.port))\n"
        "client.sendall(b'GET /health HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n"
        "assert client.recv(9) == b'HTTP/1.1 '"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_events_come_as_they_happen(system):
    """Over a real connection, each at once."""
    with serve_app(system, 0) as server, stream(server.url) as events:
        assert next(events) == ["retry: 2000"]
        for number in range(1, 20):
            system.publish("orders", number)
            block = next(events)
            assert sequence(block) == number
            assert json.loads(block[2].removeprefix("data: "))["value"] == number


def test_no_answer_waits_for_an_acknowledgement(system):
    """Connections send at once: else each answer, which is sent in pieces, would be late by 40 ms."""
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


def test_a_client_that_comes_back_misses_nothing(system):
    """It goes on after the last event that it has; also at another server of the same system."""
    with serve_app(system, 0) as server:
        with stream(server.url) as events:
            next(events)
            system.publish("orders")
            last = next(events)[0].removeprefix("id: ")
        for _ in range(3):
            system.publish("orders")
        with stream(server.url, last_event_id=last) as events:
            next(events)
            assert [sequence(next(events)) for _ in range(3)] == [2, 3, 4]
    with serve_app(system, 0) as server, stream(server.url, last_event_id=last) as events:
        next(events)
        assert sequence(next(events)) == 2


def test_closing_ends_the_streams(system):
    """A client sees the end of its stream, and no broken one; nothing is waited for."""
    with serve_app(system, 0) as server, stream(server.url) as events:
        next(events)
        begun = threading.Event()
        threading.Timer(0.01, lambda: (begun.set(), server.close())).start()
        assert list(events) == []  # it would raise for a connection that was cut
        assert begun.is_set()
        wait_until(lambda: not server._thread.is_alive())


def test_dead_clients_are_forgotten(system):
    """Whether they say goodbye or not, at once, without an event or a heartbeat."""
    with serve_app(system, 0, heartbeat=1000) as server:
        polite, rude = ask_for_stream(server), ask_for_stream(server)
        wait_until(lambda: len(system.subscriptions) == 2)
        polite.close()
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        rude.close()
        wait_until(lambda: not system.subscriptions)


def connections(server):
    """Return how many connections a server of this process has, whoever knows of them."""
    held = psutil.Process().net_connections("tcp")
    return sum(one.laddr.port == server.port and one.status == "ESTABLISHED" for one in held)


@pytest.mark.heavy
def test_who_stops_reading_harms_nobody(system, caplog):
    """One socket is never read again: its memory is bounded, its drops are counted, others get everything.

    It is cut off after its time, and where the system can do so its connection is broken too.
    """
    caplog.set_level("INFO", "metrics_framework")
    count, text = 40_000, "x" * 500
    with (
        serve_app(system, 0, buffer=100, timeout=1) as server,
        stream(server.url) as events,
        closing(ask_for_stream(server, receive_buffer=4096)),
    ):
        next(events)
        wait_until(lambda: len(system.subscriptions) == 2)
        read = most = 0
        stuck = None
        for number in range(1, count + 1):
            system.publish("orders", text)
            if number % 50 == 0:
                most = max(most, *(len(one.events) for one in system.subscriptions))
                while read < number:
                    read += 1
                    assert sequence(next(events)) == read
                stuck = stuck or next((one for one in system.subscriptions if one.dropped), None)
        assert most <= 100
        wait_until(lambda: stuck.closed)
        assert 0 < stuck.dropped < count
        wait_until(lambda: f"dropped={stuck.dropped}" in caplog.text)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            wait_until(lambda: connections(server) == 1)


@pytest.mark.heavy
def test_many_clients_come_and_go(system):
    """Some read, some stop, some die in the middle: who reads gets each event once, and nobody is left."""
    clients = 30
    with serve_app(system, 0, buffer=10_000, max_clients=clients) as server:
        app_streams = system.subscriptions
        received = {}

        def read(number):
            with stream(server.url) as events:
                next(events)
                started.release()
                received[number] = [sequence(next(events)) for _ in range(200)]

        started = threading.Semaphore(0)
        readers = [threading.Thread(target=read, args=[number]) for number in range(10)]
        for reader in readers:
            reader.start()
        for _ in readers:
            assert started.acquire(timeout=PATIENCE)
        others = [ask_for_stream(server) for _ in range(clients - 10)]
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as late:
            late.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            assert late.recv(4096).startswith(b"HTTP/1.1 503")
        for number in range(200):
            system.publish("orders", number)
            if number % 10 == 0:
                others.pop().close()
        for reader in readers:
            reader.join(PATIENCE)
        assert received == {number: list(range(1, 201)) for number in range(10)}
        wait_until(lambda: not app_streams)
        for other in others:
            other.close()


@pytest.mark.heavy
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_does_not_serve(system):
    """The port is the parent's alone: a client is never answered by a child, and is refused after the end."""
    with serve_app(system, 0) as server:
        httpx.get(f"{server.url}/health")
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                time.sleep(PATIENCE)
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
def test_an_application_that_mounts_it_serves_it(system):
    """Beneath its path, in a Starlette application that uvicorn serves as its own."""
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
        with stream(url, "/internal/stream") as events:
            next(events)
            system.publish("orders")
            assert sequence(next(events)) == 1
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        sock.close()
