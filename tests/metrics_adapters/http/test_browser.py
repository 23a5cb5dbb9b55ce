"""The `EventSource` of a real browser reads the stream and resumes after a disconnect."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import threading
import time

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route

from metrics_adapters.asgi import make_app
from metrics_framework import MetricsSystem
from tests.metrics_adapters.http.clients import TIMEOUT_SECONDS, subscriptions

uvicorn = pytest.importorskip("uvicorn")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
PAGE = """<!DOCTYPE html><title>test</title><script>
const seen = [];
const say = () => fetch("/seen", {method: "POST", body: JSON.stringify(seen)});
const source = new EventSource("/internal/stream?name=orders");
source.onopen = () => { seen.push(["open"]); say(); };
source.onerror = () => { seen.push(["error", source.readyState]); say(); };
source.addEventListener("metric", (e) => { seen.push(["metric", JSON.parse(e.data)]); say(); });
source.addEventListener("dropped", (e) => { seen.push(["dropped", JSON.parse(e.data).dropped]); say(); });
source.addEventListener("restarted", () => { seen.push(["restarted"]); say(); });
</script>"""


@pytest.fixture
def browse(tmp_path, chromium):
    """Return a function that opens a page in a browser. It is closed at the end."""
    processes = []

    def open_page(url):
        command = [chromium, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", url]
        with (tmp_path / "browser.log").open("w") as log:
            processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))

    yield open_page
    for process in processes:
        process.terminate()
        process.wait(TIMEOUT_SECONDS)


class Site:
    """A page with a stream, and the events that it has received.

    Attributes:
        last_event_ids: What each request for the stream had as `Last-Event-ID`.
        seen: What the page says that it has seen.
    """

    def __init__(self, system):
        self.app = make_app(system)
        self.last_event_ids = []
        self.seen = []
        routes = [
            Route("/", lambda request: HTMLResponse(PAGE)),
            Route("/seen", self.listen, methods=["POST"]),
            Mount("/internal", self.stream),
        ]
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.sock.getsockname()[1]}/"
        self.server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_config=None))
        self.thread = threading.Thread(target=self.server.run, args=([self.sock],))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.end_streams()
        self.server.should_exit = True
        self.thread.join(TIMEOUT_SECONDS)
        self.sock.close()

    async def stream(self, scope, receive, send):
        """Record the headers of a request, and serve it."""
        self.loop = asyncio.get_running_loop()
        self.last_event_ids.append(dict(scope["headers"]).get(b"last-event-id", b"").decode())
        await self.app(scope, receive, send)

    async def listen(self, request):
        """Receive the events that the page has seen."""
        seen = json.loads(await request.body())
        self.seen = max(self.seen, seen, key=len)  # requests may overtake each other
        return Response()

    def end_streams(self):
        """End all streams, like a server that shuts down."""
        if self.last_event_ids:
            self.loop.call_soon_threadsafe(self.app.end_streams)

    def wait_until(self, holds):
        """Wait until a condition holds."""
        end = time.monotonic() + 2 * TIMEOUT_SECONDS
        while not holds():
            assert time.monotonic() < end, (self.seen, self.last_event_ids)
            time.sleep(0.01)


@pytest.mark.heavy
def test_a_page_resumes_after_a_disconnect(system, browse):
    """The browser sends the last event id by itself; no event is repeated or missing."""
    with Site(system) as site:
        browse(site.url)
        site.wait_until(lambda: ["open"] in site.seen)
        for value in range(3):
            system.collector.record_gauge("orders", value, {"item": "Bücher\n"})
        site.wait_until(lambda: len(site.seen) == 4)
        site.end_streams()
        site.wait_until(lambda: ["error", 0] in site.seen)  # it reconnects
        for value in range(3, 6):
            system.collector.record_gauge("orders", value, {"item": "Bücher\n"})
        site.wait_until(lambda: site.seen[-1][0] == "metric" and site.seen[-1][1]["value"] == 5)
        metrics = [what[1] for what in site.seen if what[0] == "metric"]
        assert [metric["value"] for metric in metrics] == list(range(6))
        assert metrics[0]["tags"] == {"item": "Bücher\n"}
        assert ["restarted"] not in site.seen
        first, second = site.last_event_ids
        assert (first, second.partition("-")[0]) == ("", "3")


@pytest.mark.heavy
def test_a_page_gets_reports_of_losses_and_restarts(system, clock, browse):
    """Events that are no longer kept are counted."""
    with Site(system) as site:
        browse(site.url)
        site.wait_until(lambda: ["open"] in site.seen)
        system.collector.record_gauge("orders", 0)
        site.wait_until(lambda: site.seen[-1][0] == "metric")
        (subscription,) = subscriptions(system)
        subscription.count_missed(3)
        system.collector.record_gauge("orders", 1)
        site.wait_until(lambda: site.seen[-1][0] == "metric" and site.seen[-1][1]["value"] == 1)
        assert site.seen[-2] == ["dropped", 3]
        site.app = make_app(MetricsSystem(clock=clock))  # as after a restart
        for client in subscriptions(system):
            client.close()
        site.wait_until(lambda: ["restarted"] in site.seen)
