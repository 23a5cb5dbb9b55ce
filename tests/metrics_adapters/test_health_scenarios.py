"""The health of a service in the situations that ``docs/health.md`` lists, with its real instrumentation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute

from metrics_adapters.asgi import MetricsMiddleware, TaskMetrics, make_app, measured_transport
from metrics_adapters.null import NullMonitor
from metrics_framework import MetricsSystem
from metrics_framework.clock import ManualClock

PAGE = Path(__file__).parents[2] / "docs" / "health.md"


class Monitor(NullMonitor):
    """A monitor whose memory the test chooses."""

    memory_percent: float | Exception = 50.0

    def get_memory_usage(self):
        """Return the memory, or raise an exception."""
        if isinstance(self.memory_percent, Exception):
            raise self.memory_percent
        return {"percent": self.memory_percent}


async def parts(fails: bool):
    """Yield a part of a response, then another one or an exception."""
    yield b"data: 1\n\n"
    if fails:
        raise KeyError("broken")
    yield b"data: 2\n\n"


class Service:
    """A web service with all the instrumentation, on a clock that the test moves."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.monitor = Monitor()
        self.metrics = MetricsSystem(resource_monitor=self.monitor, clock=self.clock)
        app = Starlette(
            routes=[
                Route("/ok", self.ok),
                Route("/error", self.error),
                Route("/healthz", self.own_probe),
                Route("/file", lambda request: StreamingResponse(parts(fails=False))),
                Route("/broken-file", lambda request: StreamingResponse(parts(fails=True))),
                Route("/events", lambda request: self.events(fails=False)),
                Route("/broken-events", lambda request: self.events(fails=True)),
                WebSocketRoute("/chat", self.chat),
                Mount("/internal", make_app(self.metrics)),
            ]
        )
        app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
        self.app = MetricsMiddleware(app, self.metrics)

    # -- its handlers

    async def ok(self, request):
        """Respond."""
        return PlainTextResponse("ok")

    async def error(self, request):
        """Fail."""
        raise ZeroDivisionError

    async def own_probe(self, request):
        """Report the health, as many services do by hand."""
        health = self.metrics.get_system_health()
        return JSONResponse(health, 200 if health["healthy"] else 503)

    def events(self, fails: bool):
        """Return an event stream."""
        return StreamingResponse(parts(fails), media_type="text/event-stream")

    async def chat(self, websocket):
        """Receive until the client leaves."""
        await websocket.accept()
        async for _ in websocket.iter_text():
            pass

    # -- its clients

    def get(self, path: str, count: int = 1) -> None:
        """Send requests and read the responses."""

        async def main() -> None:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                for _ in range(count):
                    await client.get(path)

        asyncio.run(main())

    def leave(self, path: str, count: int = 1, kind: str = "http", code: int = 1001) -> None:
        """Connect, and disconnect before the end."""

        async def connect() -> None:
            messages = [{"type": f"{kind}.connect"}] if kind == "websocket" else []
            messages.append({"type": f"{kind}.disconnect", "code": code})

            async def receive():
                return messages.pop(0) if len(messages) > 1 else messages[0]

            async def send(message):
                await asyncio.sleep(0)

            scope = {"type": kind, "path": path, "headers": [], "method": "GET", "query_string": b""}
            with contextlib.suppress(OSError):
                await self.app({**scope, "asgi": {"spec_version": "2.3"}}, receive, send)

        async def main() -> None:
            for _ in range(count):
                await connect()

        asyncio.run(main())

    def probe(self, minutes: int, path: str = "/internal/health") -> None:
        """Probe every ten seconds."""
        for _ in range(6 * minutes):
            self.clock.advance(10)
            self.get(path)

    def ask(self, answer: int | Exception, count: int) -> None:
        """Send requests to another server that responds with a status or not at all."""

        def respond(request):
            if isinstance(answer, Exception):
                raise answer
            return httpx.Response(answer)

        transport = measured_transport(httpx.MockTransport(respond), self.metrics)
        with httpx.Client(transport=transport) as client:
            for _ in range(count):
                with contextlib.suppress(httpx.HTTPError):
                    client.get("http://other")

    def hedge(self, count: int) -> None:
        """Send each request to three servers and cancel the slower ones."""

        async def respond(request):
            if request.url.host != "fast":
                await asyncio.Event().wait()
            return httpx.Response(200)

        async def main() -> None:
            transport = measured_transport(httpx.MockTransport(respond), self.metrics)
            async with httpx.AsyncClient(transport=transport) as client:
                for _ in range(count):
                    tasks = [
                        asyncio.ensure_future(client.get(f"http://{host}"))
                        for host in ("fast", "slow", "slower")
                    ]
                    _, losers = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    for loser in losers:
                        loser.cancel()
                    await asyncio.wait(losers)

        asyncio.run(main())

    def stop_requests(self, count: int) -> None:
        """Cancel requests in progress, as a server does that shuts down."""

        async def hang(scope, receive, send):
            await asyncio.Event().wait()

        async def main() -> None:
            scope = {"type": "http", "path": "/", "headers": [], "method": "GET"}
            app = MetricsMiddleware(hang, self.metrics)
            requests = [asyncio.ensure_future(app({**scope}, None, None)) for _ in range(count)]
            await asyncio.sleep(0)
            for request in requests:
                request.cancel()
            await asyncio.wait(requests)

        asyncio.run(main())

    def run_tasks(self, count: int, error: Exception | None = None) -> None:
        """Run background tasks that fail, or cancel them."""

        async def work() -> None:
            if error is not None:
                raise error
            await asyncio.Event().wait()

        async def main() -> None:
            tasks = [TaskMetrics(self.metrics).create_task(work()) for _ in range(count)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

        asyncio.run(main())

    def track(self, operation: str, successes: int, failures: int) -> None:
        """Track operations of the application."""
        for _ in range(successes):
            self.metrics.tracker.record_success(operation)
        for _ in range(failures):
            self.metrics.tracker.record_failure(operation, "timeout")


def name_own_operations(service: Service) -> None:
    """Let only requests to this service count."""
    service.metrics.initialize_metrics({"healthy_operations": ["http.server.*"]})


# Each situation: what happens, in order, and whether the service is healthy afterwards.
SCENARIOS: dict[str, tuple[bool, Callable[[Service], object]]] = {
    "No traffic": (True, lambda service: None),
    "Probes only": (True, lambda service: service.probe(10)),
    "One error among three requests": (True, lambda s: (s.get("/ok", 2), s.get("/error"))),
    "One request, which fails, then only probes": (True, lambda s: (s.get("/error"), s.probe(1))),
    "19 requests, which all fail": (True, lambda s: s.get("/error", 19)),
    "20 requests, which all fail": (False, lambda s: s.get("/error", 20)),
    "20 of 40 requests fail": (True, lambda s: (s.get("/ok", 20), s.get("/error", 20))),
    "A burst of errors: 30 of 40 requests fail": (False, lambda s: (s.get("/ok", 10), s.get("/error", 30))),
    "The same, six minutes later, after only probes": (True, lambda s: (s.get("/error", 30), s.probe(6))),
    "The same, if the probe is a handler that returns 503 while unhealthy": (
        True,
        lambda s: (s.get("/error", 30), s.probe(6, "/healthz")),
    ),
    "The same, six minutes later, after good requests": (
        True,
        lambda s: (s.get("/error", 30), s.clock.advance(360), s.get("/ok", 30)),
    ),
    "One request per minute, which fails": (
        True,
        lambda s: [(s.clock.advance(60), s.get("/error")) for _ in range(30)],
    ),
    "Clients request 100 pages that do not exist": (True, lambda s: s.get("/wp-login.php", 100)),
    "100 closed tabs": (True, lambda s: s.leave("/file", 100)),
    "100 closed tabs and a burst of errors": (
        False,
        lambda s: (s.leave("/file", 100), s.get("/ok", 10), s.get("/error", 30)),
    ),
    "100 downloads that break off": (False, lambda s: s.get("/broken-file", 100)),
    "Clients leave 100 event streams": (True, lambda s: s.leave("/events", 100)),
    "100 event streams break off": (False, lambda s: s.get("/broken-events", 100)),
    "Clients leave or lose 100 WebSockets": (
        True,
        lambda s: (s.leave("/chat", 20, "websocket"), s.leave("/chat", 80, "websocket", 1006)),
    ),
    "A restarting server cancels 100 requests": (True, lambda s: s.stop_requests(100)),
    "Hedged calls: 100 calls to three servers each, of which the two slower ones are cancelled": (
        True,
        lambda s: s.hedge(100),
    ),
    "A cache of another server answers 404 to 100 calls": (True, lambda s: s.ask(404, 100)),
    "Another server limits the rate: 429 to 100 calls": (True, lambda s: s.ask(429, 100)),
    "Another server answers 500 to 100 calls": (False, lambda s: s.ask(500, 100)),
    "Another server refuses 100 connections": (
        False,
        lambda s: s.ask(httpx.ConnectError("connection refused"), 100),
    ),
    "The same, and `healthy_operations` is `http.server.*`": (
        True,
        lambda s: (name_own_operations(s), s.ask(500, 100), s.get("/ok", 20)),
    ),
    "100 calls to another server are retried once each, successfully": (
        True,
        lambda s: [(s.ask(503, 1), s.ask(200, 1)) for _ in range(100)],
    ),
    "100 background tasks are cancelled": (True, lambda s: s.run_tasks(100)),
    "100 background tasks fail": (False, lambda s: s.run_tasks(100, ValueError())),
    "A rare operation always fails, the frequent ones do not": (
        True,
        lambda s: (s.track("refund", 0, 30), s.track("checkout", 100, 0)),
    ),
    "The same, and `healthy_operations` is `refund`": (
        False,
        lambda s: (
            s.metrics.initialize_metrics({"healthy_operations": ["refund"]}),
            s.track("refund", 0, 30),
            s.track("checkout", 100, 0),
        ),
    ),
    "The container uses 96 % of its memory": (
        False,
        lambda s: setattr(s.monitor, "memory_percent", 96.0),
    ),
    "The memory cannot be read": (False, lambda s: setattr(s.monitor, "memory_percent", OSError("denied"))),
}


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_health_of_a_service(scenario):
    """The service is healthy or not, and the status of the endpoint says so, however often it is asked."""
    healthy, happen = SCENARIOS[scenario]
    service = Service()
    happen(service)
    for _ in range(2):
        assert service.metrics.get_system_health()["healthy"] is healthy, service.metrics.get_system_health()
    transport = httpx.ASGITransport(service.app)

    async def main() -> int:
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return (await client.get("/internal/health")).status_code

    assert asyncio.run(main()) == (200 if healthy else 503)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "operations"),
    [
        ("Probes only", 0),
        ("100 closed tabs", 0),
        ("Clients leave 100 event streams", 100),
        ("Clients leave or lose", 20),
        ("A restarting server", 0),
        ("Hedged calls", 100),
        ("A cache", 0),
        ("Another server limits", 0),
        ("100 background tasks are cancelled", 0),
    ],
)
def test_outcomes_that_others_decide_do_not_count(start, operations):
    """They are neither failures nor successes, which would hide failures."""
    service = Service()
    next(happen for name, (_, happen) in SCENARIOS.items() if name.startswith(start))(service)
    assert service.metrics.get_system_health()["operations"] == operations


def test_the_page_lists_the_scenarios():
    """The table of the documentation has every scenario of this test with its answer."""
    rows = [
        f"| {scenario} | {'yes' if healthy else '**no**'} |" for scenario, (healthy, _) in SCENARIOS.items()
    ]
    lines = PAGE.read_text().splitlines()
    start = lines.index("| situation | healthy |") + 2
    assert lines[start : start + len(rows) + 1] == [*rows, ""]
