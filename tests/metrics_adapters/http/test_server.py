"""The scrape server responds over real sockets, within its limits, and closes completely."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from metrics_adapters.http import scrape as scrape_module
from metrics_adapters.http import server as server_module
from metrics_adapters.prometheus import make_asgi_app, serve
from metrics_adapters.prometheus.targets import Exposition
from metrics_framework import MetricsSystem
from metrics_framework.errors import InvalidInputError, OutputError
from metrics_framework.recording import Store

TIMEOUT_SECONDS = 20.0
THREADS = "metrics-server"


@pytest.fixture
def metrics(clock) -> MetricsSystem:
    """Return a system that has counted an order."""
    system = MetricsSystem(clock=clock)
    system.collector.increment("orders", {"item": "book"})
    return system


@pytest.fixture
def start(metrics):
    """Return a function that starts a server on a free port. It is closed at the end of the test."""
    with ExitStack() as servers:

        def start(**options):
            options = {"metrics": metrics, **options}
            return servers.enter_context(serve(0, **options))

        yield start


@pytest.fixture
def gate():
    """Return an event that releases hanging calls. It is set at the end."""
    event = threading.Event()
    yield event
    event.set()


def connect(server) -> http.client.HTTPConnection:
    """Return a connection to a server."""
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_SECONDS)


def ask(server, path="/metrics", method="GET", **headers):
    """Return the status, headers and body of a response on a new connection."""
    connection = connect(server)
    try:
        connection.request(
            method, path, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def raw(server, sent: bytes) -> bytes:
    """Send some bytes, and return everything that the server sends until it closes."""
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as sock:
        sock.sendall(sent)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    """Return everything that is received until the peer closes."""
    received = b""
    with suppress(ConnectionResetError):
        while data := sock.recv(1 << 16):
            received += data
    return received


def threads() -> list[threading.Thread]:
    """Return the threads of all servers."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREADS)]


def messages(caplog):
    """Return the log messages."""
    return [record.getMessage() for record in caplog.records]


class Large(Exposition):
    """More text than a socket buffers for a client that does not read."""

    def __init__(self):
        super().__init__(Store())

    def chunks(self, format=None, escaping=None, names=None, *, registry_text=None):
        """Yield thirty megabytes."""
        yield from [b"x" * 100_000] * 300


class Callbacks:
    """Callbacks that run a function."""

    def __init__(self, work):
        self.collect = work


# -- responses ---------------------------------------------------------------------------------------------


def test_the_url_serves_the_metrics(start):
    """In the requested format and compression."""
    server = start()
    assert server.url == f"http://127.0.0.1:{server.port}/metrics"
    assert urlsplit(server.url).path == "/metrics"
    status, headers, body = ask(server)
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'orders_total{item="book"} 1' in body
    status, headers, body = ask(server, Accept="application/openmetrics-text", Accept_Encoding="gzip")
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert gzip.decompress(body).endswith(b"# EOF\n")


def test_all_forms_of_requests_are_served(start):
    """HEAD, a query, a whole URL as from a proxy, HTTP/1.0, and no version at all."""
    server = start()
    assert ask(server, method="HEAD")[::2] == (200, b"")
    assert ask(server, "/metrics?name[]=orders")[0] == 200
    assert ask(server, "http://host.example/metrics")[0] == 200
    assert raw(server, b"GET /metrics HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    assert raw(server, b"GET /metrics\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


def test_other_paths_state_where_the_metrics_are(start):
    """The root is a page with a link; other paths are not found."""
    server = start(path="/internal/stats")
    status, headers, body = ask(server, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b'<a href="/internal/stats">' in body
    assert ask(server, "/metrics")[::2] == (404, b"not found: the metrics are at /internal/stats\n")
    assert ask(server, "/internal/stats")[0] == 200
    assert ask(server, "/", "POST")[0] == 405


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_other_methods_are_not_allowed(start, method):
    """The response states the allowed methods."""
    status, headers, _ = ask(start(), method=method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_credentials_are_required_everywhere(start):
    """Also for the page that links the metrics."""
    server = start(bearer_token="s3cret", basic_auth=("user", "password"))
    for path in ("/metrics", "/", "/other"):
        status, headers, body = ask(server, path)
        assert (status, b"orders" in body) == (401, False)
        assert headers.get_all("WWW-Authenticate") == ['Bearer realm="metrics"', 'Basic realm="metrics"']
    assert ask(server, Authorization="Bearer s3cret")[0] == 200
    assert ask(server, Authorization="Basic dXNlcjpwYXNzd29yZA==")[0] == 200
    assert "s3cret" not in repr(server)


def test_a_connection_serves_several_scrapes(start):
    """Pipelined requests are served, too."""
    server = start()
    connection = connect(server)
    for path in ("/metrics", "/other", "/metrics"):
        connection.request("GET", path)
        connection.getresponse().read()
        local = connection.sock.getsockname()
    assert local == connection.sock.getsockname()
    connection.close()
    ahead = b"GET /metrics HTTP/1.1\r\n\r\n" * 2 + b"GET /other HTTP/1.1\r\nConnection: close\r\n\r\n"
    statuses = re.findall(rb"HTTP/1.1 (\d+) ", raw(server, ahead))
    assert statuses == [b"200", b"200", b"404"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), ZeroDivisionError()])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_collector_that_raises_loses_only_its_own_samples(start, metrics, error, asynchronous):
    """A collector of the registry, and callbacks, sync and async, may raise anything."""
    registry = CollectorRegistry()
    Counter("kept", "A good one.", registry=registry).inc()

    class Raising:
        def describe(self):
            return []

        def collect(self):
            raise error

    def fail():
        raise error

    async def fail_async():
        raise error

    registry.register(Raising())
    metrics.callbacks.add("bad", fail_async if asynchronous else fail)
    metrics.callbacks.add("good", lambda: 7)
    server = start(registry=registry)
    for _ in range(2):
        status, _, body = ask(server)
        assert status == 200
        for sample in (b"kept_total 1.0", b'orders_total{item="book"} 1', b"good 7"):
            assert sample in body
    if isinstance(error, KeyboardInterrupt):
        return  # on the main thread it is Ctrl-C, and meant for the program
    app = make_asgi_app(metrics, registry=registry)
    status, body = asyncio.run(scrape(app))
    assert (status, b"kept_total 1.0" in body, b"good 7" in body) == (200, True, True)


async def scrape(app):
    """Return the status and the body of a scrape of an ASGI application."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        response = await client.get("/metrics")
        return response.status_code, response.content


# -- malformed requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400"),  # TLS to a plain server
        (b"GET /metrics HTTP/9.9\r\n\r\n", b"505"),
        (b"GET /metrics HTTP/x\r\n\r\n", b"400"),
        (b"GET http://[/metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nContent-Length : 5\r\n\r\nhello", b"400"),
        (b"GET /metrics HTTP/1.1\r\nno header\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"GET /metrics HTTP/1.1\r\nx: " + b"a" * 5_000_000 + b"\r\n\r\n", b"431"),
        (b"GET /metrics HTTP/1.1\r\n" + b"x: y\r\n" * 50_000 + b"\r\n", b"431"),
    ],
)
def test_a_malformed_request_is_rejected(start, request_, status):
    """The response is an error, the connection is closed, and the server continues."""
    server = start()
    assert raw(server, request_).startswith(b"HTTP/1.1 " + status + b" ")
    assert ask(server)[0] == 200


def test_a_body_is_never_parsed_as_a_request(start):
    """The connection closes after a request with a body, which prevents request smuggling."""
    server = start()
    hidden = b"GET /other HTTP/1.1\r\n\r\n"
    for header in (b"Content-Length: %d" % len(hidden), b"Transfer-Encoding: chunked", b"content-length: x"):
        responses = raw(server, b"GET /metrics HTTP/1.1\r\n" + header + b"\r\n\r\n" + hidden)
        assert responses.count(b"HTTP/1.1 ") == 1
        assert b"\r\nConnection: close\r\n" in responses


@pytest.mark.parametrize(
    "sent", ["/x%0d%0aSet-Cookie:%20a=b", "/x\r\x0bSet-Cookie:a=b", "/<script>alert(1)</script>"]
)
def test_a_response_does_not_quote_the_request(start, sent):
    """A path or a header cannot inject headers or a page."""
    server = start()
    sent = sent.encode("latin-1")
    response = raw(
        server, b"GET " + sent + b" HTTP/1.1\r\nAccept: " + sent + b"\r\nConnection: close\r\n\r\n"
    )
    assert re.match(rb"HTTP/1.1 4\d\d ", response)
    assert b"Cookie" not in response
    assert b"script" not in response


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 0\r\nContent-Length: 30",
        b"Content-Length: 30\r\nContent-Length: 0",
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Host: a\r\nHost: b",
        b"Content-Length: 0\r\n 30",
        b"X: a\rContent-Length: 30",
        b"X: a\x00b",
        b"Content-Length : 30",
        b"Content-Length: +30",
        b"Content-Length: -1",
        b"Content-Length: 0, 0",
    ],
)
def test_a_request_that_a_proxy_may_read_differently_is_rejected(start, headers):
    """Nothing after it is parsed as a second request."""
    server = start()
    hidden = b"GET /other HTTP/1.1\r\n\r\n"
    responses = raw(server, b"GET /metrics HTTP/1.1\r\n" + headers + b"\r\n\r\n" + hidden)
    assert responses.startswith(b"HTTP/1.1 400 ")
    assert responses.count(b"HTTP/1.1 ") == 1


# -- limits ------------------------------------------------------------------------------------------------


def test_a_silent_connection_is_closed(start):
    """After the time-out for a request."""
    server = start(timeout=0.2)
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as sock:
        assert read_all(sock) == b""


@pytest.mark.slow
def test_a_slow_request_is_closed(start):
    """The time-out applies to the whole request, not to each byte."""
    server = start(timeout=0.3)
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as sock:
        begin, closed = time.monotonic(), False
        for byte in b"GET /metrics HTTP/1.1\r\nx: " + b"a" * 10_000:
            try:
                sock.sendall(bytes([byte]))
            except OSError:
                closed = True
            if closed or (select.select([sock], [], [], 0.02)[0] and not sock.recv(1)):
                break
        assert time.monotonic() - begin < 100  # without the limit it would be 200


@pytest.mark.slow
def test_a_client_that_does_not_read_frees_its_slot(start):
    """The only slot is free again after the time-out for reading."""
    server = start(metrics=Large(), max_scrapes=1, timeout=0.4)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert select.select([sock], [], [], TIMEOUT_SECONDS)[0]
        assert ask(server)[0] == 503
        end = time.monotonic() + TIMEOUT_SECONDS
        while ask(server)[0] != 200:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_clients_that_do_not_read_deny_no_scrape(start, monkeypatch):
    """When all slots are taken, a new scrape takes the slot of the client that reads for longest."""
    monkeypatch.setattr(scrape_module, "MIN_READING_SECONDS", 0.0)
    server = start(metrics=Large(), max_scrapes=2, timeout=10 * TIMEOUT_SECONDS)
    with ExitStack() as held:
        stuck = []
        for _ in range(3):
            sock = held.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert select.select([sock], [], [], TIMEOUT_SECONDS)[0]
            stuck.append(sock)
        assert ask(server)[0] == 200
        stuck[0].settimeout(TIMEOUT_SECONDS)
        with suppress(ConnectionError):
            while stuck[0].recv(1 << 20):  # what the kernel has buffered, and then the end
                pass


def test_a_client_that_disconnects_is_not_an_error(start, caplog):
    """A client that closes early leaves nothing behind, and nothing is logged."""
    server = start(metrics=Large(), max_scrapes=1)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert sock.recv(1)
        end = time.monotonic() + TIMEOUT_SECONDS
        while ask(server, method="HEAD")[0] != 200:
            assert time.monotonic() < end
    assert messages(caplog) == []


def test_too_many_concurrent_scrapes_are_unavailable(start, gate):
    """While the only slot is taken, others get status 503 at once."""
    entered = threading.Event()

    def wait():
        entered.set()
        gate.wait(TIMEOUT_SECONDS)

    server = start(max_scrapes=1, timeout=2 * TIMEOUT_SECONDS, callbacks=Callbacks(wait))
    first = threading.Thread(target=ask, args=(server,))
    first.start()
    assert entered.wait(TIMEOUT_SECONDS)
    status, headers, _ = ask(server)
    assert (status, headers["Retry-After"]) == (503, "1")
    gate.set()
    first.join()
    assert ask(server)[0] == 200


def test_idle_connections_are_closed_for_new_ones(start, monkeypatch):
    """At the limit, the connection that is idle for longest is closed."""
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 3)
    server = start()
    idle = []
    try:
        for _ in range(3):
            connection = connect(server)
            connection.request("GET", "/metrics")
            connection.getresponse().read()
            idle.append(connection)
        assert ask(server)[0] == 200
        assert read_all(idle[0].sock) == b""
        idle[2].request("GET", "/metrics")
        assert idle[2].getresponse().status == 200
    finally:
        for connection in idle:
            connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", b"G", b"GET /metrics HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\n\r\n"])
def test_slow_connections_deny_no_scrape(start, sent):
    """Connections that wait for the rest of a request, or have no credentials, make room for a scrape."""
    server = start(bearer_token="s3cret", timeout=60.0)
    scraping = connect(server)
    scraping.request("GET", "/metrics", headers={"Authorization": "Bearer s3cret"})
    assert scraping.getresponse().read()
    with ExitStack() as held:
        for number in range(3 * server_module.MAX_CONNECTIONS):
            sock = held.enter_context(socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS))
            sock.sendall(sent)
            if number % 50 == 0:
                assert ask(server, Authorization="Bearer s3cret")[0] == 200
        scraping.request("GET", "/metrics", headers={"Authorization": "Bearer s3cret"})
        assert scraping.getresponse().status == 200
        assert len(server._connections) <= server_module.MAX_CONNECTIONS + 10
    scraping.close()


def test_an_extreme_time_out_is_allowed(start):
    """Also one that a socket rejects, and those that only a client can send."""
    server = start(timeout=1e9)
    for seconds in ("1e400", "nan", "-1", "1e-400", "x"):
        assert ask(server, X_Prometheus_Scrape_Timeout_Seconds=seconds)[0] == 200


@pytest.mark.slow
def test_many_concurrent_scrapes_get_whole_responses(start, metrics):
    """Sixteen clients scrape on their own connections while others record."""
    server = start(max_scrapes=16)
    statuses, stop = [], threading.Event()

    def record():
        while not stop.is_set():
            metrics.collector.increment("orders", {"item": "book"})

    def client():
        for _ in range(5):
            status, headers, body = ask(server, Accept="application/openmetrics-text")
            statuses.append((status, body.endswith(b"# EOF\n"), len(body) == int(headers["Content-Length"])))

    recorder = threading.Thread(target=record)
    clients = [threading.Thread(target=client) for _ in range(16)]
    for thread in (recorder, *clients):
        thread.start()
    for thread in clients:
        thread.join()
    stop.set()
    recorder.join()
    assert statuses == [(200, True, True)] * 80


@pytest.mark.slow
def test_a_thread_that_cannot_start_costs_one_connection(start, monkeypatch, caplog):
    """The server continues, and logs it once."""
    server = start()
    real = threading.Thread.start

    def start_thread(thread):
        if thread.name == "metrics-server-connection":
            raise RuntimeError("can't start new thread")
        real(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_thread)
        for _ in range(2):
            assert raw(server, b"") == b""
    assert ask(server)[0] == 200
    assert len(messages(caplog)) == 1
    assert "start new thread" in messages(caplog)[0]


# -- start and close ---------------------------------------------------------------------------------------


def test_a_port_in_use_is_an_error(start, metrics):
    """The message names the address and a remedy."""
    port = start().port
    with pytest.raises(
        OutputError, match=f"cannot listen on '127.0.0.1', port {port}: .*in use: pass another"
    ):
        serve(port, metrics=metrics)


@pytest.mark.parametrize("addr", ["256.0.0.1", "no.such.host.invalid", "a..b", "\x00", "x" * 300])
def test_an_unknown_address_is_an_error(metrics, addr):
    """The message quotes the address."""
    with pytest.raises(OutputError, match="cannot listen on"):
        serve(0, addr, metrics=metrics)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"port": 65_536}, "port=65536 "),
        ({"port": -1}, "port=-1 "),
        ({"port": "9100"}, "port='9100' "),
        ({"port": True}, "port=True "),
        ({"addr": None}, "addr=None "),
        ({"metrics": None}, "metrics=None "),
        ({"keyfile": "key.pem"}, "require certfile"),
        ({"client_cafile": "ca.pem"}, "require certfile"),
    ],
)
def test_an_invalid_argument_is_an_error(metrics, arguments, message):
    """The message names it, and nothing listens."""
    before = threads()
    with pytest.raises(InvalidInputError, match=message):
        serve(**{"port": 0, "metrics": metrics, **arguments})
    assert threads() == before


def test_it_listens_at_the_given_address(start):
    """The URL works on this machine, even if the server listens on all addresses."""
    for addr in ("localhost", "0.0.0.0", ""):
        assert start(addr=addr).url.startswith("http://127.0.0.1:")
    if socket.has_ipv6:
        with suppress(OutputError):  # a machine may not support IPv6
            assert start(addr="::1").url.startswith("http://[::1]:")
            both = start(addr="::")
            assert both.url.startswith("http://[::1]:")
            assert ask(both)[0] == 200


def test_closing_ends_all_threads_and_connections(start, monkeypatch):
    """Afterwards nothing listens, the port is free, and a second close does nothing."""
    monkeypatch.setattr(server_module, "_GRACEFUL_CLOSE_SECONDS", 3_600)  # idle ones get none
    server = start()
    connection = connect(server)
    connection.request("GET", "/metrics")
    connection.getresponse().read()
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as silent:
        closing = threading.Thread(target=server.close)
        closing.start()
        closing.join(TIMEOUT_SECONDS)
        assert server.closed
        assert threads() == []
        assert read_all(silent) == b""
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        ask(server)
    server.close()
    serve(server.port, metrics=Store()).close()


def test_closing_waits_for_a_scrape_in_progress(start, gate):
    """For up to two seconds."""
    entered, responses = threading.Event(), []

    def wait():
        entered.set()
        gate.wait(TIMEOUT_SECONDS)

    server = start(callbacks=Callbacks(wait), timeout=2 * TIMEOUT_SECONDS)
    client = threading.Thread(target=lambda: responses.append(ask(server)[0]))
    client.start()
    assert entered.wait(TIMEOUT_SECONDS)
    closing = threading.Thread(target=server.close)
    closing.start()
    while not server.closed:
        time.sleep(0.001)
    gate.set()
    closing.join(TIMEOUT_SECONDS)
    client.join(TIMEOUT_SECONDS)
    assert responses == [200]
    assert threads() == []


@pytest.mark.heavy
def test_a_hanging_callback_does_not_block_closing(start, gate, caplog):
    """The log states that a scrape has not ended."""
    entered = threading.Event()

    def wait():
        entered.set()
        gate.wait(TIMEOUT_SECONDS)

    server = start(callbacks=Callbacks(wait), timeout=2 * TIMEOUT_SECONDS)
    client = threading.Thread(target=lambda: raw(server, b"GET /metrics HTTP/1.1\r\n\r\n"))
    client.start()
    assert entered.wait(TIMEOUT_SECONDS)
    server.close()
    client.join(TIMEOUT_SECONDS)
    assert not client.is_alive()
    assert any("scrapes go on after their server was closed" in message for message in messages(caplog))
    gate.set()
    for thread in threads():
        thread.join(TIMEOUT_SECONDS)


def test_several_threads_can_close_concurrently(start):
    """Each call returns when everything is closed."""
    server = start()
    closing = [threading.Thread(target=server.close) for _ in range(8)]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join(TIMEOUT_SECONDS)
    assert threads() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_keeps_no_socket_open(start, metrics):
    """The server of the child is closed, and it may start a new one; that of the parent continues."""
    server = start()
    idle = connect(server)
    idle.request("GET", "/metrics")
    idle.getresponse().read()
    held = [connection._sock.fileno() for connection in server._connections]
    assert held
    reading, writing = os.pipe()
    holding, letting_go = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the test forks with threads on purpose
        child = os.fork()
    if child == 0:
        try:
            os.close(letting_go)
            for descriptor in held:
                with pytest.raises(OSError, match="Bad file"):
                    os.fstat(descriptor)
            server.close()
            with serve(0, metrics=metrics) as own:
                os.write(writing, f"{server.closed} {ask(own)[0]}".encode())
            os.read(holding, 1)
        finally:
            os._exit(0)
    os.close(holding)
    try:
        assert select.select([reading], [], [], TIMEOUT_SECONDS)[0]
        assert os.read(reading, 100) == b"True 200"
        assert ask(server)[0] == 200
        idle.request("GET", "/metrics")
        assert idle.getresponse().read()
        server.close()
        with pytest.raises(ConnectionRefusedError):
            ask(server)
        assert read_all(idle.sock) == b""
    finally:
        os.close(letting_go)
        os.close(reading)
        os.close(writing)
        idle.close()
        os.waitpid(child, 0)


def run(*lines: str) -> subprocess.CompletedProcess[str]:
    """Run a program."""
    program = "\n".join(
        (
            "import signal, threading",
            "from metrics_adapters.prometheus import serve",
            "from metrics_framework import MetricsSystem",
            "from urllib.request import urlopen",
            *lines,
        )
    )
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.heavy
def test_it_does_not_keep_the_interpreter_alive():
    """A program ends at once and without output, even with an open connection."""
    done = run(
        "server = serve(0, metrics=MetricsSystem())",
        "response = urlopen(server.url)",
        "print(response.status)",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "200\n", "")


@pytest.mark.heavy
def test_an_interrupt_ends_the_program():
    """Ctrl-C in the main thread closes the server."""
    done = run(
        "with serve(0, metrics=MetricsSystem()) as server:",
        "    urlopen(server.url).read()",
        "    signal.raise_signal(signal.SIGINT)",
    )
    assert done.returncode != 0
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert done.stderr.count("Traceback") == 1
