"""The ASGI application conforms to ASGI under asyncio and trio, mounted or alone, and does not block."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import socket
import threading
import time
from contextlib import closing

import httpx
import pytest
import trio
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from metrics_adapters.http import scrape as scrape_module
from metrics_adapters.prometheus import make_asgi_app
from metrics_adapters.prometheus.targets import Exposition
from metrics_framework import MetricsSystem
from metrics_framework.recording import Store
from metrics_framework.runtime.event_loops import checkpoint, create_event, run_within

TIMEOUT_SECONDS = 20.0


@pytest.fixture
def gate():
    """Return an event that releases hanging calls. It is set at the end, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()
    for thread in threading.enumerate():
        if thread.name == "metrics-scrape":
            thread.join(TIMEOUT_SECONDS)


@pytest.fixture
def metrics(clock) -> MetricsSystem:
    """Return a system that has counted an order."""
    system = MetricsSystem(clock=clock)
    system.collector.increment("orders", {"item": "book"})
    return system


class Scripted(Exposition):
    """An exposition of the chunks that a test passes."""

    def __init__(self, *chunks, foreign=lambda: b""):
        super().__init__(Store(), CollectorRegistry())
        self.script = chunks
        self.foreign_script = foreign

    def chunks(self, format=None, escaping=None, names=None, *, registry_text=None):
        """Yield each chunk, or what it returns."""
        for chunk in self.script:
            yield chunk() if callable(chunk) else chunk
        yield registry_text

    def registry_text(self, format=None, escaping=None, names=None):
        """Return what the script says."""
        return self.foreign_script()


async def get(app, path="/metrics", method="GET", root_path="", **headers) -> httpx.Response:
    """Return the response that a client receives."""
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        headers = {name.replace("_", "-"): text for name, text in headers.items()}
        return await client.request(method, path, headers=headers)


def scope(**keys):
    """Return the scope of a scrape."""
    return {"type": "http", "method": "GET", "path": "/metrics", "root_path": "", "headers": [], **keys}


async def never():
    """Receive nothing."""
    raise AssertionError("nothing is to be received")


def messages(caplog):
    """Return the log messages."""
    return [record.getMessage() for record in caplog.records]


# -- responses ---------------------------------------------------------------------------------------------


def test_a_scrape_gets_the_metrics(run, metrics):
    """In the requested format and compression, with a length. HEAD has no body."""
    app = make_asgi_app(metrics)
    plain = run(get(app, accept_encoding="identity"))
    assert (plain.status_code, plain.headers["content-type"]) == (
        200,
        "text/plain; version=0.0.4; charset=utf-8",
    )
    assert b'orders_total{item="book"} 1' in plain.content
    assert plain.headers["content-length"] == str(len(plain.content))
    packed = run(get(app, accept="application/openmetrics-text", accept_encoding="gzip"))
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.text.endswith("# EOF\n")
    assert run(get(app, method="HEAD")).content == b""
    assert run(get(app, method="POST")).status_code == 405
    assert run(get(app, "/favicon.ico")).status_code == 404


def test_it_requires_credentials(metrics):
    """It shares the code of the server."""
    app = make_asgi_app(metrics, basic_auth=("user", "password"))
    refused = asyncio.run(get(app))
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Basic realm="metrics"')
    assert asyncio.run(get(app, authorization="Basic dXNlcjpwYXNzd29yZA==")).status_code == 200


@pytest.mark.parametrize(
    ("root_path", "path", "status"),
    [
        ("", "/metrics", 200),
        ("", "/", 200),
        ("/api", "/api/metrics", 200),
        ("/api/", "/api/metrics", 200),
        ("/metrics", "/metrics", 200),
        ("/metrics", "/metrics/", 200),
        ("/api", "/metrics", 200),  # servers that omit the mount
        ("/met", "/metrics", 200),  # no mount, only the same letters
        ("/metrics", "/metrics/other", 404),
        ("", "/other", 404),
    ],
)
def test_it_serves_its_path_in_a_mount(metrics, root_path, path, status):
    """The path of a mount is removed if the scope contains it."""
    assert asyncio.run(get(make_asgi_app(metrics), path, root_path=root_path)).status_code == status


def test_starlette_routes_and_mounts_it(metrics):
    """As a route it responds without a redirect; as a mount, at the root of the mount."""
    app = make_asgi_app(metrics)
    outer = Starlette(
        routes=[Route("/metrics", app), Mount("/deep", routes=[Mount("/stats", app)]), Mount("/inner", app)]
    )
    for path in ("/metrics", "/deep/stats/", "/inner/metrics"):
        assert asyncio.run(get(outer, path)).status_code == 200, path
    assert asyncio.run(get(outer, "/inner/other")).status_code == 404
    assert asyncio.run(get(outer, "/metrics", method="POST")).status_code == 405


def test_repeated_headers_are_joined(metrics):
    """A list may be spread over several headers."""
    sent = []

    async def send(message):
        sent.append(message)

    headers = [(b"accept", b"text/plain;q=0.5"), (b"accept", b"application/openmetrics-text")]
    asyncio.run(make_asgi_app(metrics)(scope(headers=headers), never, send))
    assert dict(sent[0]["headers"])[b"content-type"].startswith(b"application/openmetrics-text")


# -- failing and slow scrapes ------------------------------------------------------------------------------


def test_a_failing_renderer_is_an_error(run, caplog):
    """Nothing was sent before, and the error is logged once."""
    app = make_asgi_app(Scripted(b"a 1\n", lambda: 1 / 0))
    assert [run(get(app)).status_code for _ in range(2)] == [500, 500]
    assert len(messages(caplog)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_a_failing_registry_does_not_fail_the_scrape(run, caplog, gate, how):
    """A registry that fails or hangs does so in a thread. Our metrics are scraped without it."""

    def foreign():
        if how == "hangs":
            gate.wait(TIMEOUT_SECONDS)
        raise OSError("no database")

    app = make_asgi_app(Scripted(b"a 1\n", foreign=foreign), timeout=1.0)
    assert [run(get(app)).content for _ in range(2)] == [b"a 1\n"] * 2
    assert len(messages(caplog)) == 1
    assert "registry failed" in messages(caplog)[0]


class ThreadCallbacks:
    """Callbacks without a coroutine function. They record from where they were called."""

    def __init__(self, work=lambda: None):
        self.work = work
        self.called = []

    def collect(self):
        """Be called by a thread."""
        self.called.append("thread" if threading.current_thread() is not threading.main_thread() else "main")
        self.work()


class Callbacks(ThreadCallbacks):
    """Callbacks that an event loop can await."""

    async def collect_async(self):
        """Be called on the loop."""
        await checkpoint()
        self.called.append("loop")
        self.work()


def test_callbacks_are_called_on_the_event_loop(run, metrics):
    """Each scrape calls them once, in a task of its event loop."""
    callbacks = Callbacks()
    app = make_asgi_app(metrics, callbacks=callbacks)
    assert [run(get(app)).status_code for _ in range(2)] == [200, 200]
    assert callbacks.called == ["loop", "loop"]


def test_blocking_callbacks_are_called_in_a_thread(metrics):
    """They do not block the event loop."""
    callbacks = ThreadCallbacks()
    assert asyncio.run(get(make_asgi_app(metrics, callbacks=callbacks))).status_code == 200
    assert callbacks.called == ["thread"]


def test_failing_callbacks_do_not_fail_the_scrape(run, metrics, caplog):
    """The other metrics are in the response, and the error is logged once."""
    app = make_asgi_app(metrics, callbacks=Callbacks(lambda: 1 / 0))
    assert [run(get(app)).status_code for _ in range(2)] == [200, 200]
    assert len(messages(caplog)) == 1
    assert "callbacks failed" in messages(caplog)[0]


@pytest.mark.slow
def test_hanging_callbacks_are_waited_for_once(run, metrics, caplog):
    """The first scrape waits for half of its time-out, later ones do not wait, and all share one task."""
    callbacks = Callbacks()
    begun = []

    async def hang():
        begun.append(time.monotonic())
        await (asyncio if run is asyncio.run else trio).sleep(TIMEOUT_SECONDS)

    callbacks.collect_async = hang
    app = make_asgi_app(metrics, callbacks=callbacks, timeout=1.0)

    async def main():
        return [(await get(app)).status_code for _ in range(4)]

    assert run(main()) == [200] * 4
    assert len(begun) == 1
    assert len(messages(caplog)) == 1
    assert run(get(app)).status_code == 200  # a new loop starts a new call
    assert len(begun) == 2


def test_too_many_concurrent_scrapes_are_unavailable(run, gate):
    """Slots are freed at the end, also by a cancelled scrape."""

    def foreign():
        gate.wait(TIMEOUT_SECONDS)
        return b""

    app = make_asgi_app(Scripted(b"a 1\n", foreign=foreign), max_scrapes=1)

    async def with_asyncio():
        first = asyncio.create_task(get(app))
        await asyncio.sleep(0.05)
        refused = await get(app)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return refused

    async def with_trio():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(get, app)
            await trio.sleep(0.05)
            refused = await get(app)
            nursery.cancel_scope.cancel()
        return refused

    refused = run(with_asyncio() if run is asyncio.run else with_trio())
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    gate.set()
    assert run(get(app)).status_code == 200


def test_other_tasks_run_while_it_renders(run):
    """Between two chunks of a millisecond another task runs."""
    turns = []

    def chunk():
        turns.append("chunk")
        time.sleep(0.001)
        return b"a 1\n"

    app = make_asgi_app(Scripted(*[chunk] * 50))

    async def tick(sleep):
        while True:
            turns.append("tick")
            await sleep(0)

    async def with_asyncio():
        other = asyncio.create_task(tick(asyncio.sleep))
        await get(app)
        other.cancel()

    async def with_trio():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick, trio.sleep)
            await get(app)
            nursery.cancel_scope.cancel()

    run(with_asyncio() if run is asyncio.run else with_trio())
    chunks = [place for place, turn in enumerate(turns) if turn == "chunk"]
    assert len(chunks) == 50
    # Trio runs ready tasks in random order, so one task may run twice in a row.
    assert all(after - before > 2 for before, after in zip(chunks, chunks[2:], strict=False))


@pytest.mark.slow
def test_a_client_that_does_not_read_frees_its_slot(run, metrics, caplog):
    """Sending has a time limit, and the log states that it was exceeded."""
    app = make_asgi_app(metrics, max_scrapes=1, timeout=0.5)

    async def stuck(message):
        await (asyncio if run is asyncio.run else trio).sleep(TIMEOUT_SECONDS)

    run(app(scope(), never, stuck))
    assert "not read in time" in messages(caplog)[0]
    assert run(get(app)).status_code == 200


def test_a_client_that_does_not_read_gives_its_slot_to_a_new_scrape(run, caplog, monkeypatch):
    """When all slots are taken, the one that reads for longest is disconnected."""
    monkeypatch.setattr(scrape_module, "MIN_READING_SECONDS", 0.0)
    large = Scripted(b"a" * scrape_module.CHUNK_BYTES, b"b 1\n")
    app = make_asgi_app(large, max_scrapes=1, timeout=10 * TIMEOUT_SECONDS)

    async def main():
        reading = create_event()

        async def stuck(message):
            if message["type"] == "http.response.body":
                reading.set()
                await create_event().wait()

        async def scrape():
            await reading.wait()
            assert (await get(app)).status_code == 200

        async def both():
            if run is asyncio.run:
                await asyncio.gather(app(scope(), never, stuck), scrape())
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(app, scope(), never, stuck)
                nursery.start_soon(scrape)

        assert await run_within(TIMEOUT_SECONDS, both)

    run(main())
    assert "not read in time" in messages(caplog)[0]


def test_a_client_that_disconnects_is_not_an_error(run, metrics, caplog):
    """By the specification, a server that cannot send raises `OSError`. It is not logged."""

    async def gone(message):
        raise BrokenPipeError

    app = make_asgi_app(metrics, max_scrapes=1)
    run(app(scope(), never, gone))
    assert run(get(app)).status_code == 200
    assert messages(caplog) == []


# -- a real server -----------------------------------------------------------------------------------------


@pytest.fixture
def served():
    """Return a function that serves an application with uvicorn and returns the port."""
    uvicorn = pytest.importorskip("uvicorn")
    running = []

    def start(app) -> int:
        sock = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on"))
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        running.append((server, thread, sock))
        return sock.getsockname()[1]

    yield start
    for server, thread, sock in running:
        server.should_exit = True
        thread.join(TIMEOUT_SECONDS)
        sock.close()


def test_a_real_server_serves_it(served, metrics):
    """Over a socket, twice on one connection, and with clients that disconnect early."""
    port = served(make_asgi_app(metrics))
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)) as connection:
        for _ in range(2):
            connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
            response = connection.getresponse()
            assert response.status == 200
            assert b"orders_total" in gzip.decompress(response.read())
