"""The scrape server answers over real sockets, within limits, and goes when it is told to."""

from __future__ import annotations

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

import pytest

from metrics_adapters.http import server as server_module
from metrics_adapters.prometheus import serve
from metrics_adapters.prometheus.rendering import Exposition
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
    """Return what starts a server on a free port; it is closed at the end of the test."""
    with ExitStack() as servers:

        def start(**options):
            options = {"metrics": metrics, **options}
            return servers.enter_context(serve(0, **options))

        yield start


@pytest.fixture
def gate():
    """Return an event that lets what hangs go on; it is set at the end."""
    event = threading.Event()
    yield event
    event.set()


def connect(server) -> http.client.HTTPConnection:
    """Return a connection to a server."""
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_SECONDS)


def ask(server, path="/metrics", method="GET", **headers):
    """Return the status, headers and body of an answer on a connection of its own."""
    connection = connect(server)
    try:
        connection.request(
            method, path, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def raw(server, sent: bytes) -> bytes:
    """Return all that comes back for some bytes, until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as sock:
        sock.sendall(sent)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    received = b""
    with suppress(ConnectionResetError):
        while data := sock.recv(1 << 16):
            received += data
    return received


def threads() -> list[threading.Thread]:
    """Return the threads of all servers."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREADS)]


def messages(caplog):
    """Return what was logged."""
    return [record.getMessage() for record in caplog.records]


class Large(Exposition):
    """More text than a socket holds for a client that does not read."""

    def __init__(self):
        super().__init__(Store())

    def chunks(self, format=None, foreign=None):
        """Yield thirty megabytes."""
        yield from [b"x" * 100_000] * 300


class Callbacks:
    """Callbacks that do some work."""

    def __init__(self, work):
        self.collect = work


# -- answers -----------------------------------------------------------------------------------------------


def test_a_scrape_is_answered(start):
    """At its address there are the metrics, in the format and compression that were asked for."""
    server = start()
    assert server.url == f"http://127.0.0.1:{server.port}/metrics"
    assert urlsplit(server.url).path == "/metrics"
    status, headers, body = ask(server)
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'orders_total{item="book"} 1' in body
    status, headers, body = ask(server, Accept="application/openmetrics-text", Accept_Encoding="gzip")
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert gzip.decompress(body).endswith(b"# EOF\n")


def test_a_request_may_be_asked_in_any_way_that_http_has(start):
    """HEAD, a query, a whole URL as from a proxy, HTTP/1.0, and no version at all."""
    server = start()
    assert ask(server, method="HEAD")[::2] == (200, b"")
    assert ask(server, "/metrics?name[]=orders")[0] == 200
    assert ask(server, "http://host.example/metrics")[0] == 200
    assert raw(server, b"GET /metrics HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    assert raw(server, b"GET /metrics\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


def test_the_other_paths_say_where_the_metrics_are(start):
    """The root is a page with a link, whatever else there is not."""
    server = start(path="/internal/stats")
    status, headers, body = ask(server, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b'<a href="/internal/stats">' in body
    assert ask(server, "/metrics")[::2] == (404, b"not found: the metrics are at /internal/stats\n")
    assert ask(server, "/internal/stats")[0] == 200
    assert ask(server, "/", "POST")[0] == 405


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_metrics_can_only_be_read(start, method):
    """Another method is refused, and told which there are."""
    status, headers, _ = ask(start(), method=method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_the_secret_is_asked_for_everywhere(start):
    """Without it neither the metrics nor the page that links them are shown."""
    server = start(bearer_token="s3cret", basic_auth=("user", "password"))
    for path in ("/metrics", "/", "/other"):
        status, headers, body = ask(server, path)
        assert (status, b"orders" in body) == (401, False)
        assert headers.get_all("WWW-Authenticate") == ['Bearer realm="metrics"', 'Basic realm="metrics"']
    assert ask(server, Authorization="Bearer s3cret")[0] == 200
    assert ask(server, Authorization="Basic dXNlcjpwYXNzd29yZA==")[0] == 200
    assert "s3cret" not in repr(server)


def test_a_connection_is_used_again(start):
    """Scrapes follow one another on one connection, also those that are sent ahead."""
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


# -- what is sent to it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400"),  # TLS, where there is none
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
def test_what_is_no_request_is_refused(start, request_, status):
    """It is answered by an error, and the connection is closed; the server goes on."""
    server = start()
    assert raw(server, request_).startswith(b"HTTP/1.1 " + status + b" ")
    assert ask(server)[0] == 200


def test_a_body_is_never_taken_for_a_request(start):
    """Where a request has a body the connection ends after the answer, so that nothing is smuggled in."""
    server = start()
    hidden = b"GET /other HTTP/1.1\r\n\r\n"
    for header in (b"Content-Length: %d" % len(hidden), b"Transfer-Encoding: chunked", b"content-length: x"):
        answers = raw(server, b"GET /metrics HTTP/1.1\r\n" + header + b"\r\n\r\n" + hidden)
        assert answers.count(b"HTTP/1.1 ") == 1
        assert b"\r\nConnection: close\r\n" in answers


@pytest.mark.parametrize(
    "sent", ["/x%0d%0aSet-Cookie:%20a=b", "/x\r\x0bSet-Cookie:a=b", "/<script>alert(1)</script>"]
)
def test_nothing_that_was_sent_comes_back(start, sent):
    """Neither headers nor a page can be made through a path or a header."""
    server = start()
    sent = sent.encode("latin-1")
    answer = raw(server, b"GET " + sent + b" HTTP/1.1\r\nAccept: " + sent + b"\r\nConnection: close\r\n\r\n")
    assert re.match(rb"HTTP/1.1 4\d\d ", answer)
    assert b"Cookie" not in answer
    assert b"script" not in answer


# -- slow and many -----------------------------------------------------------------------------------------


def test_who_sends_nothing_is_left(start):
    """A connection without a request is closed in time."""
    server = start(timeout=0.2)
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as sock:
        assert read_all(sock) == b""


def test_who_sends_drop_by_drop_is_left(start):
    """A request has its time as a whole, however often a byte of it comes."""
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
        assert time.monotonic() - begin < 100  # it would be 200 without


def test_who_reads_nothing_gives_its_place_back(start):
    """The only place is free again when the time to read is over."""
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


def test_who_goes_away_in_the_middle_is_no_fault(start, caplog):
    """A client that closes before it has read all leaves nothing behind, also not in the log."""
    server = start(metrics=Large(), max_scrapes=1)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert sock.recv(1)
        end = time.monotonic() + TIMEOUT_SECONDS
        while ask(server, method="HEAD")[0] != 200:
            assert time.monotonic() < end
    assert messages(caplog) == []


def test_one_scrape_too_many_is_told_to_come_again(start, gate):
    """While the only place is taken others get 503 at once, and then it is free again."""
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


def test_idle_connections_make_room(start, monkeypatch):
    """Where no more are held, the one that has waited longest is closed for a new one."""
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


def test_many_scrapes_at_once_are_all_answered(start, metrics):
    """Sixteen clients on connections of their own get whole texts while others record."""
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


def test_a_thread_that_cannot_be_had_costs_one_connection(start, monkeypatch, caplog):
    """The server goes on, and says so once."""
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


# -- beginning and end -------------------------------------------------------------------------------------


def test_a_port_in_use_is_one_error(start, metrics):
    """It names the address and says what to do."""
    port = start().port
    with pytest.raises(
        OutputError, match=f"cannot listen on '127.0.0.1', port {port}: .*in use: pass another"
    ):
        serve(port, metrics=metrics)


@pytest.mark.parametrize("addr", ["256.0.0.1", "no.such.host.invalid", "a..b", "\x00", "x" * 300])
def test_an_address_that_is_none_is_one_error(metrics, addr):
    """It quotes the address."""
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
def test_a_wrong_argument_is_one_error(metrics, arguments, message):
    """It says which, and nothing listens."""
    before = threads()
    with pytest.raises(InvalidInputError, match=message):
        serve(**{"port": 0, "metrics": metrics, **arguments})
    assert threads() == before


def test_it_listens_where_it_is_told(start):
    """The URL is one for a client on this machine, also where the server listens on all addresses."""
    for addr in ("localhost", "0.0.0.0", ""):
        assert start(addr=addr).url.startswith("http://127.0.0.1:")
    if socket.has_ipv6:
        with suppress(OutputError):  # a machine may have none
            assert start(addr="::1").url.startswith("http://[::1]:")
            both = start(addr="::")
            assert both.url.startswith("http://[::1]:")
            assert ask(both)[0] == 200


def test_closing_ends_all_threads_and_connections(start, monkeypatch):
    """Afterwards nobody listens, who waits is told, and the port is free; once more does nothing."""
    monkeypatch.setattr(server_module, "_GRACEFUL_CLOSE_SECONDS", 3_600)  # who only waits is given none
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


def test_a_scrape_that_is_under_way_is_answered_before_the_end(start, gate):
    """Closing waits for it, up to two seconds."""
    entered, answers = threading.Event(), []

    def wait():
        entered.set()
        gate.wait(TIMEOUT_SECONDS)

    server = start(callbacks=Callbacks(wait), timeout=2 * TIMEOUT_SECONDS)
    client = threading.Thread(target=lambda: answers.append(ask(server)[0]))
    client.start()
    assert entered.wait(TIMEOUT_SECONDS)
    closing = threading.Thread(target=server.close)
    closing.start()
    while not server.closed:
        time.sleep(0.001)
    gate.set()
    closing.join(TIMEOUT_SECONDS)
    client.join(TIMEOUT_SECONDS)
    assert answers == [200]
    assert threads() == []


@pytest.mark.heavy
def test_a_callback_that_hangs_does_not_keep_a_server_open(start, gate, caplog):
    """Closing comes to an end, and the log says that a scrape did not."""
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


def test_many_threads_may_close_at_once(start):
    """Each returns when all is closed."""
    server = start()
    closing = [threading.Thread(target=server.close) for _ in range(8)]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join(TIMEOUT_SECONDS)
    assert threads() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_holds_nothing_open(start, metrics):
    """The child's server is closed and it may serve anew; the parent's goes on, and is gone when closed."""
    server = start()
    idle = connect(server)
    idle.request("GET", "/metrics")
    idle.getresponse().read()
    held = [connection._sock.fileno() for connection in server._connections]
    assert held
    reading, writing = os.pipe()
    holding, letting_go = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads is what is tested
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
    """Run a program of some lines."""
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
def test_it_keeps_no_interpreter_alive():
    """A program that serves and is done ends at once, without a word, also with a connection open."""
    done = run(
        "server = serve(0, metrics=MetricsSystem())", "answer = urlopen(server.url)", "print(answer.status)"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "200\n", "")


@pytest.mark.heavy
def test_an_interrupt_ends_the_program():
    """Ctrl-C in the main thread closes the server on its way out."""
    done = run(
        "with serve(0, metrics=MetricsSystem()) as server:",
        "    urlopen(server.url).read()",
        "    signal.raise_signal(signal.SIGINT)",
    )
    assert done.returncode != 0
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert done.stderr.count("Traceback") == 1
