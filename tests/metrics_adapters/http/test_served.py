"""On a real server, all paths to the metrics agree with the client, to the last request."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import random
from collections import Counter
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from metrics_adapters.asgi import MetricsMiddleware, make_app
from metrics_framework import MetricsSystem, Thresholds
from metrics_framework.errors import UnknownMetricError
from metrics_framework.values import MetricType
from tests.metrics_adapters.http.serving import served, wait_until
from tests.servers.fixtures import required
from tests.servers.prometheus import running_prometheus

pytestmark = pytest.mark.heavy

REQUEST, CONNECTION = "http.server.request", "websocket.server.connection"
CLIENTS, REQUESTS, HISTOGRAMS = 8, 100, 2_000

# The requests of the clients: a path, its template and the expected status class.
ACTIONS = [
    ("/books/1", "/books/{number}", "2xx"),
    ("/books/2", "/books/{number}", "2xx"),
    ("/books/99", "/books/{number}", "4xx"),
    ("/books/none", "/books/{number}", "4xx"),
    ("/pages/5", "/pages/{count}", "2xx"),
    ("/fail/{}", "/fail/{number}", "5xx"),
    ("/scanned/{}.php", "unmatched", "4xx"),
]

JOB = """
- job_name: measured
  scrape_interval: 1s
  scrape_timeout: 1s
  static_configs: [{{targets: ["{}"]}}]
"""


def counted(metrics, name=REQUEST, metric_type=MetricType.TIMER) -> Counter:
    """Return the request counts of the system by route and status class."""
    return Counter(
        {
            (value.tags["http.route"], value.tags["http.response.status_class"]): value.metadata["count"]
            for value in metrics.aggregator.get_metrics_by_tag({})
            if value.name == name and value.metric_type is metric_type
        }
    )


def scraped(text: str) -> tuple[Counter, Counter]:
    """Return the request counts of a scrape: by duration and by outcome."""
    durations, outcomes = Counter(), Counter()
    # The parser is the slowest part, so it gets only the lines that are compared.
    requests = "\n".join(line for line in text.splitlines() if "http_server_request_" in line)
    for family in text_string_to_metric_families(requests + "\n"):
        for sample in family.samples:
            key = sample.labels.get("http_route"), sample.labels.get("http_response_status_class")
            if sample.name == "http_server_request_duration_seconds_count":
                durations[key] += int(sample.value)
            elif sample.name == "http_server_request_operations_total":
                outcomes[key] += int(sample.value)
    return durations, outcomes


async def load(address: str) -> tuple[Counter, list[int]]:
    """Send requests and scrape concurrently. Return the sent requests and the totals of the scrapes."""
    asked: Counter = Counter()
    totals = []

    async def customer(number: int) -> None:
        chosen = random.Random(number)
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            for _ in range(REQUESTS):
                path, route, status = chosen.choice(ACTIONS)
                # The server closes the connection after an exception, which the client may be about to reuse.
                headers = {"connection": "close"} if status == "5xx" else {}
                response = await client.get(path.format(chosen.randrange(10**9)), headers=headers)
                assert f"{response.status_code // 100}xx" == status
                asked[route, status] += 1

    async def scraper() -> None:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=20) as client:
            while True:
                totals.append(scraped((await client.get("/metrics")).text)[0].total())
                await asyncio.sleep(0.5)

    scraping = asyncio.ensure_future(scraper())
    await asyncio.gather(*map(customer, range(CLIENTS)))
    scraping.cancel()
    return asked, totals


def test_under_load_every_total_agrees_with_the_load_generator(monkeypatch, tmp_path):
    """800 requests beside 2 000 histograms: in the process, in a scrape and in Prometheus."""
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "examples")
    program = required("prometheus")
    metrics = MetricsSystem()
    for number in range(HISTOGRAMS):
        metrics.collector.record_histogram("ballast", number, {"number": str(number)})
    app = importlib.import_module("service_measured").create_app(metrics)

    @app.get("/fail/{number}")
    async def fail(number: int) -> None:
        raise ZeroDivisionError

    with served(app) as address, running_prometheus(program, tmp_path, JOB.format(address)) as prometheus:
        asked, totals = asyncio.run(load(address))
        wait_until(lambda: counted(metrics) == asked)
        assert asked.total() == CLIENTS * REQUESTS
        assert counted(metrics, metric_type=MetricType.RATE) == asked
        assert scraped(httpx.get(f"http://{address}/metrics").text) == (asked, asked)
        assert totals == sorted(totals)
        failed = sum(number for (_, status), number in asked.items() if status == "5xx")
        assert metrics.tracker.get_failure_breakdown(REQUEST) == {"ZeroDivisionError": failed}
        shown = asked["/books/{number}", "2xx"]
        assert metrics.aggregator.get_metric_summary("books.shown")["total"] == shown
        for operation in ("http.client.request", "async.task"):
            assert metrics.timer.get_timing_stats(operation)["count"] == shown
        for gauge in ("http.server.active_requests", "http.client.active_requests", "async.active_tasks"):
            assert metrics.aggregator.get_metric_summary(gauge)["last"] == 0
        assert metrics.aggregator.get_metric_summary("event_loop.lag")["count"] > 0
        total = 'sum(http_server_request_duration_seconds_count{job="measured"})'
        prometheus.wait_until(total, lambda found: found and found[0][1] == asked.total())
        routes = prometheus.query(f"sum by (http_route) ({total[4:-1]})")
        assert {labels["http_route"] for labels, _ in routes} == {route for route, _ in asked}


def failures(metrics, name) -> dict[str, int]:
    """Return the failures of an operation."""
    try:
        return metrics.tracker.get_failure_breakdown(name)
    except UnknownMetricError:
        return {}


def test_a_client_that_disconnects_is_a_failure():
    """Disconnecting in the middle of a stream ends the request with the status ``client_disconnect``."""
    metrics = MetricsSystem()

    async def endless(request):
        async def parts():
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.01)

        return StreamingResponse(parts())

    with served(MetricsMiddleware(Starlette(routes=[Route("/endless", endless)]), metrics)) as address:
        with httpx.stream("GET", f"http://{address}/endless") as response:
            parts = response.iter_raw()
            next(parts)
            assert metrics.aggregator.get_metric_summary("http.server.active_requests")["last"] == 1
        wait_until(lambda: counted(metrics) == {("/endless", "client_disconnect"): 1})
        assert failures(metrics, REQUEST) == {}
        assert metrics.aggregator.get_metric_summary("http.server.active_requests")["last"] == 0


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
def test_exclude_works_under_a_root_path(framework):
    """Uvicorn adds its root path to each path; a mounted application has that of the mount as well."""
    outer, inner = MetricsSystem(), MetricsSystem()

    async def hello(request):
        return PlainTextResponse("hello")

    shop = framework(routes=[Route("/healthz", hello), Route("/items", hello)])
    shop.add_middleware(MetricsMiddleware, metrics=inner, exclude=["/healthz"])
    app = framework(routes=[Route("/healthz", hello), Route("/items", hello), Mount("/shop", shop)])
    app.add_middleware(MetricsMiddleware, metrics=outer, exclude=["/healthz"])
    with served(app, root_path="/behind/proxy") as address:
        for path in ("/healthz", "/items", "/shop/healthz", "/shop/items"):
            assert httpx.get(f"http://{address}{path}").text == "hello"
    assert counted(outer) == {("/items", "2xx"): 1, ("/shop/healthz", "2xx"): 1, ("/shop/items", "2xx"): 1}
    assert counted(inner) == {("/shop/items", "2xx"): 1}


@pytest.mark.parametrize("around", [True, False], ids=["around", "added"])
@pytest.mark.parametrize("base", [True, False], ids=["BaseHTTPMiddleware", "plain"])
def test_closed_tabs_do_not_make_a_service_unhealthy(base, around):
    """Clients leave downloads, event streams and the stream of metrics; broken downloads are failures."""
    metrics = MetricsSystem(thresholds=Thresholds(memory_percent=100))

    async def endless():
        while True:
            yield b"data: x\n\n"
            await asyncio.sleep(0.005)

    async def broken():
        yield b"x"
        await asyncio.sleep(0)
        raise KeyError("half way")

    own = make_app(metrics)
    app = Starlette(
        routes=[
            Route("/file", lambda request: StreamingResponse(endless())),
            Route("/events", lambda request: StreamingResponse(endless(), media_type="text/event-stream")),
            Route("/broken", lambda request: StreamingResponse(broken())),
            Mount("/internal", own),
        ]
    )
    if not around:
        app.add_middleware(MetricsMiddleware, metrics=metrics)
    if base:
        app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    if around:
        app = MetricsMiddleware(app, metrics)

    async def leave(client: httpx.AsyncClient, path: str) -> None:
        async with client.stream("GET", path) as response:
            await anext(response.aiter_raw())

    async def browse(address: str) -> None:
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            paths = ["/file", "/events", "/internal/stream"]
            await asyncio.gather(*(leave(client, path) for path in paths for _ in range(25)))

    def health() -> httpx.Response:
        return httpx.get(f"http://{address}/internal/health")

    def gauge(name: str) -> float:
        return metrics.aggregator.get_metric_summary(f"http.server.{name}")["last"]

    with served(app) as address:
        asyncio.run(browse(address))
        wait_until(lambda: gauge("active_requests") == gauge("active_event_streams") == own.clients == 0)
        wait_until(lambda: metrics.timer.get_timing_stats("http.server.event_stream")["count"] == 25)
        wait_until(lambda: metrics.timer.get_timing_stats(REQUEST)["count"] == 25)
        assert failures(metrics, REQUEST) == {}
        assert metrics.tracker.get_success_rate("http.server.event_stream") == 1.0
        assert (health().status_code, health().json()["operations"]) == (200, 25)  # the event streams
        assert httpx.get(f"http://{address}/internal/metrics").status_code == 200
        for _ in range(30):
            with contextlib.suppress(httpx.RemoteProtocolError):  # plain: the connection breaks off
                httpx.get(f"http://{address}/broken")
        wait_until(lambda: failures(metrics, REQUEST).get("KeyError") == 30)
        response = health()
        assert (response.status_code, response.json()["error_rate"]) == (503, 30 / 55)
    assert counted(metrics) == {("/file", "client_disconnect"): 25, ("/broken", "2xx"): 30}


def test_every_websocket_connection_is_counted_once():
    """Whether it is accepted, rejected, failed or closed by the client."""
    metrics = MetricsSystem()

    async def chat(websocket):
        room = websocket.path_params["room"]
        if room == "closed":
            await websocket.close(1008)
            return
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)
            if text == "fail":
                raise ZeroDivisionError

    def open_connections() -> float:
        return metrics.aggregator.get_metric_summary("websocket.server.active_connections")["last"]

    async def talk(address):
        base = f"ws://{address}/chat"
        async with connect(f"{base}/1") as one, connect(f"{base}/2") as other:
            for connection in (one, other):
                await connection.send("hello")
                assert await connection.recv() == "hello"
            assert open_connections() == 2
            await other.send("fail")
            await other.wait_closed()
        with pytest.raises(InvalidStatus):
            await connect(f"{base}/closed")
        lost = await connect(f"{base}/3")
        lost.transport.abort()
        await lost.wait_closed()

    app = Starlette(routes=[WebSocketRoute("/chat/{room}", chat)])
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    with served(app) as address:
        asyncio.run(talk(address))
        wait_until(lambda: metrics.timer.get_timing_stats(CONNECTION)["count"] == 4)
    # uvicorn reports a lost connection with the code of one that was closed without a code.
    assert metrics.tracker.get_failure_breakdown(CONNECTION) == {"ZeroDivisionError": 1}
    assert open_connections() == 0
    by_acceptance = {
        (value.tags["http.route"], value.tags["websocket.accepted"]): value.metadata["count"]
        for value in metrics.aggregator.get_metrics_by_tag({})
        if value.name == CONNECTION and value.metric_type is MetricType.TIMER
    }
    assert by_acceptance == {("/chat/{room}", "true"): 3, ("/chat/{room}", "false"): 1}
