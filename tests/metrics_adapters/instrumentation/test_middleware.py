"""The middleware counts every request once, by its route, and times it to the end of its response."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import httpx
import pytest
import trio
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute

from metrics_adapters.asgi import MetricsMiddleware
from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework import MetricsSystem
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.recording import Store
from metrics_framework.scoped import ScopedCollector
from metrics_framework.values import MetricType

REQUEST = "http.server.request"
CONNECTION = "websocket.server.connection"


@pytest.fixture
def metrics(clock) -> MetricsSystem:
    """Return a system whose clock the test moves."""
    return MetricsSystem(clock=clock)


async def get(app, path="/", method="GET", **options) -> httpx.Response:
    """Return the response that a client of the application receives."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, **options)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        return await client.request(method, path)


def timed(metrics, name=REQUEST) -> list[tuple[dict[str, str], int, float]]:
    """Return the tags, count and longest duration of each series of an operation."""
    return [
        (value.tags, value.metadata["count"], value.metadata.get("max"))
        for value in metrics.aggregator.get_metrics_by_tag({})
        if value.name == name and value.metric_type is MetricType.TIMER
    ]


def only(metrics, name=REQUEST) -> dict[str, str]:
    """Return the tags of the only measurement."""
    ((tags, count, _),) = timed(metrics, name)
    assert count == 1
    return tags


def failures(metrics, name=REQUEST) -> dict[str, int]:
    """Return the failures of an operation."""
    return metrics.tracker.get_failure_breakdown(name)


def active(metrics, name="http.server.active_requests") -> float:
    """Return the number of requests or connections in flight."""
    return metrics.aggregator.get_metric_summary(name)["last"]


async def hello(request):
    """Respond."""
    return PlainTextResponse("hello")


async def fail(request):
    """Raise."""
    raise ZeroDivisionError


async def files(scope, receive, send):
    """Respond without a router."""
    await PlainTextResponse("a file")(scope, receive, send)


def fastapi_app() -> FastAPI:
    """Return an application with included routers, a mounted one and a mounted Starlette."""
    app, books, users, shop = (
        FastAPI(),
        APIRouter(prefix="/{user}/books"),
        APIRouter(prefix="/users"),
        FastAPI(),
    )
    for router, path in ((app, "/plain/{x}"), (books, "/{book}"), (users, "/me"), (shop, "/items/{item}")):
        router.get(path)(lambda: 1)
    users.include_router(books)
    app.include_router(users, prefix="/v1")
    app.mount("/shops/{shop}", shop)
    app.mount("/star", CORSMiddleware(starlette_app()))
    app.mount("/files", files)
    return app


def starlette_app() -> Starlette:
    """Return an application with nested mounts and a host."""
    inner = [Route("/b/{b}", hello), Mount("/deep", app=files)]
    return Starlette(
        routes=[
            Route("/a/{number:int}", hello, methods=["GET"]),
            Mount("/m/{m}", routes=inner),
            Host("api.example", app=Router([Route("/h/{h}", hello)])),
            Route("/fail", fail),
        ]
    )


TEMPLATES = [
    (fastapi_app, "/plain/7", "/plain/{x}"),
    (fastapi_app, "/v1/users/me", "/v1/users/me"),
    (fastapi_app, "/v1/users/7/books/9", "/v1/users/{user}/books/{book}"),
    (fastapi_app, "/shops/acme/items/7", "/shops/{shop}/items/{item}"),
    (fastapi_app, "/shops/acme/nothing", "unmatched"),
    (fastapi_app, "/star/a/7", "/star/a/{number}"),
    (fastapi_app, "/star/m/x/b/7", "/star/m/{m}/b/{b}"),
    (fastapi_app, "/files/a/b/c", "/files/{path}"),
    (fastapi_app, "/openapi.json", "/openapi.json"),
    (fastapi_app, "/nothing", "unmatched"),
    (fastapi_app, "/plain/7/", "unmatched"),  # redirected to the path without the slash
    (starlette_app, "/a/7", "/a/{number}"),
    (starlette_app, "/a/x", "unmatched"),
    (starlette_app, "/m/x/b/7", "/m/{m}/b/{b}"),
    (starlette_app, "/m/x/deep/er", "/m/{m}/deep/{path}"),
    (starlette_app, "http://api.example/h/7", "/h/{h}"),
    (starlette_app, "/../../etc/passwd", "unmatched"),
]


@pytest.mark.parametrize("root_path", ["", "/behind/a/proxy"])
@pytest.mark.parametrize("around", [True, False], ids=["around", "added"])
@pytest.mark.parametrize(("make", "path", "template"), TEMPLATES)
def test_the_route_tag_is_the_whole_template(metrics, make, path, template, around, root_path):
    """However deep the route is mounted or included; never the path."""
    app = make()
    if around:
        app = MetricsMiddleware(app, metrics)
    else:
        app.add_middleware(MetricsMiddleware, metrics=metrics)
    if root_path and not path.startswith("http"):
        path = root_path + path
    elif root_path:
        path = path.replace("example/", f"example{root_path}/")
    asyncio.run(get(app, path, root_path=root_path))
    assert only(metrics)["http.route"] == template


def test_middleware_in_a_mount_records_the_whole_template(metrics):
    """The template starts with that of the mount."""
    part = Starlette(
        routes=[Route("/b/{b}", hello)], middleware=[Middleware(MetricsMiddleware, metrics=metrics)]
    )
    asyncio.run(get(Starlette(routes=[Mount("/m/{m}", app=part)]), "/m/1/b/2"))
    assert only(metrics)["http.route"] == "/m/{m}/b/{b}"


def test_a_router_alone_is_measured(metrics):
    """A router needs no application around it."""
    asyncio.run(get(MetricsMiddleware(Router([Route("/b/{b}", hello)]), metrics), "/b/2"))
    assert only(metrics)["http.route"] == "/b/{b}"


def test_a_response_of_inner_middleware_has_its_route(metrics):
    """Such as the response to a preflight request."""
    app = MetricsMiddleware(CORSMiddleware(starlette_app(), allow_origins=["*"]), metrics)

    async def preflight():
        headers = {"origin": "http://elsewhere", "access-control-request-method": "GET"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return await client.options("/a/1", headers=headers)

    assert asyncio.run(preflight()).status_code == 200
    assert only(metrics)["http.route"] == "/a/{number}"


def test_a_function_returns_the_route_of_other_frameworks(metrics):
    """If it fails, the route is ``unmatched``."""
    routes = iter([lambda scope: "/by/{hand}", lambda scope: None, lambda scope: 1 / 0])
    app = MetricsMiddleware(files, metrics, route=lambda scope: next(routes)(scope))
    for _ in range(3):
        asyncio.run(get(app, "/by/7"))
    assert [(tags["http.route"], count) for tags, count, _ in timed(metrics)] == [
        ("/by/{hand}", 1),
        ("unmatched", 2),
    ]


@pytest.mark.parametrize(
    ("status", "tag", "failed"),
    [
        (200, "2xx", {}),
        (307, "3xx", {}),
        (404, "4xx", {}),
        (500, "5xx", {"500": 1}),
        (503, "5xx", {"503": 1}),
        (999, "other", {"999": 1}),
    ],
)
def test_server_errors_are_failures(metrics, status, tag, failed):
    """The status class is a tag; the error type of a status of 500 or more is its number."""
    app = Starlette(routes=[Route("/", lambda request: JSONResponse({}, status))])
    asyncio.run(get(MetricsMiddleware(app, metrics)))
    assert only(metrics)["http.response.status_class"] == tag
    assert failures(metrics) == failed


def test_exact_status_records_each_status(metrics):
    """The tag is that of OpenTelemetry."""
    asyncio.run(get(MetricsMiddleware(starlette_app(), metrics, exact_status=True), "/a/1"))
    assert only(metrics) == {
        "http.request.method": "GET",
        "http.route": "/a/{number}",
        "http.response.status_code": "200",
    }


@pytest.mark.parametrize("around", [True, False], ids=["around", "added"])
def test_an_exception_is_a_failure_by_its_name(run, metrics, around):
    """It counts as a server error, even if the framework has sent status 500."""
    app = starlette_app()
    if around:
        app = MetricsMiddleware(app, metrics)
    else:
        app.add_middleware(MetricsMiddleware, metrics=metrics)
    assert run(get(app, "/fail")).status_code == 500
    assert only(metrics) == {
        "http.request.method": "GET",
        "http.response.status_class": "5xx",
        "http.route": "/fail",
    }
    assert failures(metrics) == {"ZeroDivisionError": 1}
    assert active(metrics) == 0


@pytest.mark.parametrize(
    ("method", "tag"), [("GET", "GET"), ("QUERY", "QUERY"), ("get", "_OTHER"), ("EVIL", "_OTHER")]
)
def test_unknown_methods_share_one_tag(metrics, method, tag):
    """A client cannot create series by inventing methods."""
    scope = {"type": "http", "method": method, "path": "/", "headers": []}
    talk(MetricsMiddleware(files, metrics), scope, [])
    assert only(metrics)["http.request.method"] == tag


def talk(app, scope, received, *, run=asyncio.run, refuse_after=None) -> list[dict]:
    """Serve one connection to a client that sends ``received``, and return what it gets."""
    received, sent = iter(received), []

    async def receive():
        return next(received)

    async def send(message):
        if refuse_after is not None and len(sent) >= refuse_after:
            raise OSError("the client is gone")
        sent.append(message)

    async def main():
        await app(scope, receive, send)

    run(main())
    return sent


def http_scope() -> dict:
    """Return the scope of a request."""
    return {"type": "http", "method": "GET", "path": "/", "headers": []}


START = {"type": "http.response.start", "status": 200, "headers": []}


def part(more: bool) -> dict:
    """Return a part of a body."""
    return {"type": "http.response.body", "body": b"x", "more_body": more}


def test_a_stream_is_timed_to_its_last_part(run, metrics, clock):
    """Background tasks that run afterwards are not included."""
    seen = []

    async def parts():
        for _ in range(3):
            clock.advance(1)
            seen.append(active(metrics))
            yield b"x"

    def later():
        seen.append(active(metrics))
        clock.advance(60)

    async def stream(request):
        return StreamingResponse(parts(), background=BackgroundTask(later))

    run(get(MetricsMiddleware(Starlette(routes=[Route("/", stream)]), metrics)))
    ((_, count, longest),) = timed(metrics)
    assert (count, longest) == (1, 3000)
    assert seen == [1, 1, 1, 0]


def test_a_failing_background_task_does_not_fail_the_request(metrics):
    """The client has received its response by then."""

    async def answer(request):
        return PlainTextResponse("done", background=BackgroundTask(lambda: 1 / 0))

    asyncio.run(get(MetricsMiddleware(Starlette(routes=[Route("/", answer)]), metrics)))
    assert only(metrics)["http.response.status_class"] == "2xx"
    assert failures(metrics) == {}


@pytest.mark.parametrize(
    ("messages", "ends_at"),
    [
        ([START, part(False)], 2),
        ([START, part(True), part(False), part(False)], 3),
        ([{**START, "trailers": True}, part(False), {"type": "http.response.trailers", "headers": []}], 3),
        ([START, {"type": "http.response.pathsend", "path": "/x"}], 2),
        ([START, {"type": "http.response.zerocopysend", "file": 0}], 2),
        ([{"type": "http.response.early_hint", "links": []}, START, part(False)], 3),
    ],
)
def test_every_way_to_end_a_response_is_detected(metrics, clock, messages, ends_at):
    """Bodies, trailers and files end a response at their last message, once."""

    async def app(scope, receive, send):
        for message in messages:
            clock.advance(1)
            await send(message)

    talk(MetricsMiddleware(app, metrics), http_scope(), [])
    ((_, count, longest),) = timed(metrics)
    assert (count, longest) == (1, ends_at * 1000)
    assert failures(metrics) == {}
    assert active(metrics) == 0


@pytest.mark.parametrize(
    ("messages", "error_type", "status"),
    [([], "no_response", "none"), ([START, part(True)], "incomplete_response", "2xx")],
)
def test_an_incomplete_response_is_a_failure(metrics, messages, error_type, status):
    """A missing response and an incomplete one have error types of their own."""

    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    talk(MetricsMiddleware(app, metrics), http_scope(), [])
    assert failures(metrics) == {error_type: 1}
    assert only(metrics)["http.response.status_class"] == status


def test_an_exception_after_the_start_keeps_the_status(metrics):
    """The client received 200, and the error type is the name of the exception."""

    async def app(scope, receive, send):
        await send(START)
        raise KeyError("half way")

    with pytest.raises(KeyError):
        talk(MetricsMiddleware(app, metrics), http_scope(), [])
    assert only(metrics)["http.response.status_class"] == "2xx"
    assert failures(metrics) == {"KeyError": 1}
    assert active(metrics) == 0


def test_a_client_disconnect_has_its_own_error_type(run, metrics):
    """Whether the application receives it or fails to send; after the response, it is ignored."""

    async def listening(scope, receive, send):
        await send(START)
        assert (await receive())["type"] == "http.disconnect"

    async def sending(scope, receive, send):
        await send(START)
        await send(part(True))

    async def done(scope, receive, send):
        await send(START)
        await send(part(False))
        assert (await receive())["type"] == "http.disconnect"

    gone = [{"type": "http.disconnect"}]
    talk(MetricsMiddleware(listening, metrics), http_scope(), gone, run=run)
    with pytest.raises(OSError, match="gone"):
        talk(MetricsMiddleware(sending, metrics), http_scope(), [], run=run, refuse_after=1)
    talk(MetricsMiddleware(done, metrics), http_scope(), gone, run=run)
    assert failures(metrics) == {"client_disconnect": 2}
    assert metrics.tracker.get_success_rate(REQUEST) == pytest.approx(1 / 3)


def test_a_cancelled_request_has_its_own_error_type_on_asyncio(metrics):
    """It is ``cancelled``, has no status, and is no longer in flight."""

    async def main():
        task = asyncio.ensure_future(MetricsMiddleware(hang, metrics)(http_scope(), None, None))
        await asyncio.sleep(0)
        assert active(metrics) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def hang(scope, receive, send):
        await asyncio.Event().wait()

    asyncio.run(main())
    assert failures(metrics) == {"cancelled": 1}
    assert only(metrics)["http.response.status_class"] == "none"
    assert active(metrics) == 0


def test_a_cancelled_request_has_its_own_error_type_on_trio(metrics):
    """Also if a nursery of the application raises it."""

    async def hang(scope, receive, send):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()

    async def main():
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(MetricsMiddleware(hang, metrics), http_scope(), None, None)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()

    trio.run(main)
    assert failures(metrics) == {"cancelled": 1}
    assert active(metrics) == 0


def test_other_scope_types_pass_through(metrics):
    """Lifespan and future types reach the application unchanged."""
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))

    scope = {"type": "lifespan"}
    asyncio.run(MetricsMiddleware(app, metrics)(scope, 1, 2))
    assert seen == [(scope, 1, 2)]
    with pytest.raises(UnknownMetricError):
        metrics.timer.get_timing_stats(REQUEST)


@pytest.mark.parametrize("exclude", [["/files/metrics"], "/files/metrics"])
def test_excluded_paths_are_not_measured(metrics, exclude):
    """Such as the path of the metrics."""
    app = MetricsMiddleware(fastapi_app(), metrics, exclude=exclude)
    assert asyncio.run(get(app, "/files/metrics")).text == "a file"
    asyncio.run(get(app, "/files/other"))
    assert only(metrics)["http.route"] == "/files/{path}"


def test_paths_below_an_excluded_path_are_not_measured(metrics):
    """Paths that only start with the same letters are measured."""
    app = MetricsMiddleware(fastapi_app(), metrics, exclude=["/files/a", "/"])
    for path in ("/files/a/b", "/files/a", "/files/ab"):
        asyncio.run(get(app, path))
    assert metrics.timer.get_timing_stats("http.server.request")["count"] == 1
    assert only(metrics)["http.route"] == "/files/{path}"


# -- WebSockets ---------------------------------------------------------------------------------------------


def connect(metrics, *messages, received=(), run=asyncio.run) -> None:
    """Serve a WebSocket with an application that follows a script."""

    async def app(scope, receive, send):
        for message in messages:
            if isinstance(message, BaseException):
                raise message
            await (receive() if message is None else send(message))

    scope = {"type": "websocket", "path": "/", "headers": []}
    talk(MetricsMiddleware(app, metrics), scope, received, run=run)


ACCEPT = {"type": "websocket.accept"}


@pytest.mark.parametrize(
    ("messages", "code", "accepted", "failed"),
    [
        ([ACCEPT, None], 1000, "true", {}),
        ([ACCEPT, None], 1005, "true", {}),
        ([ACCEPT, None], None, "true", {}),
        ([ACCEPT, None], 1006, "true", {"client_disconnect": 1}),
        ([ACCEPT, {"type": "websocket.close", "code": 1000}], None, "true", {}),
        ([ACCEPT, {"type": "websocket.close", "code": 1011}], None, "true", {"1011": 1}),
        ([ACCEPT, {"type": "websocket.close"}, None], 1006, "true", {}),
        ([{"type": "websocket.close", "code": 1008}], None, "false", {}),
        ([ACCEPT], None, "true", {}),
    ],
)
def test_a_close_code_decides_the_outcome(run, metrics, messages, code, accepted, failed):
    """The first side to close decides; a lost client and a server error are failures."""
    connect(metrics, *messages, received=[{"type": "websocket.disconnect", "code": code}], run=run)
    assert only(metrics, CONNECTION) == {"http.route": "unmatched", "websocket.accepted": accepted}
    assert failures(metrics, CONNECTION) == failed
    assert active(metrics, "websocket.server.active_connections") == 0


def test_an_exception_fails_a_connection(metrics):
    """The error type is its name."""
    with pytest.raises(KeyError):
        connect(metrics, ACCEPT, KeyError())
    assert failures(metrics, CONNECTION) == {"KeyError": 1}


def test_a_failing_send_is_a_client_disconnect(metrics):
    """Whatever the framework does with the error."""

    async def app(scope, receive, send):
        await send(ACCEPT)
        try:
            await send({"type": "websocket.send", "text": "hello"})
        except OSError as error:
            raise RuntimeError("disconnected") from error

    scope = {"type": "websocket", "path": "/", "headers": []}
    with pytest.raises(RuntimeError):
        talk(MetricsMiddleware(app, metrics), scope, [], refuse_after=1)
    assert failures(metrics, CONNECTION) == {"client_disconnect": 1}


def test_a_connection_has_a_route_tag(metrics):
    """WebSocket routes have templates, too."""

    async def chat(websocket):
        await websocket.close()

    app = Starlette(routes=[Mount("/m", routes=[WebSocketRoute("/chat/{room}", chat)])])
    scope = {"type": "websocket", "path": "/m/chat/7", "headers": [], "query_string": b""}
    talk(MetricsMiddleware(app, metrics), scope, [{"type": "websocket.connect"}])
    assert only(metrics, CONNECTION)["http.route"] == "/m/chat/{room}"


# -- targets -----------------------------------------------------------------------------------------------


def test_a_collector_records_a_timer(clock):
    """Without a timer and a tracker, the tags of the durations contain the error type."""
    collector = InMemoryCollector(Store(clock))
    app = MetricsMiddleware(starlette_app(), collector)
    asyncio.run(get(app, "/a/1"))
    asyncio.run(get(app, "/fail"))
    aggregator = InMemoryAggregator(collector.store)
    assert aggregator.get_metric_summary("http.server.request.duration")["count"] == 2
    (failed,) = aggregator.get_metrics_by_tag({"error.type": "ZeroDivisionError"})
    assert failed.tags["http.route"] == "/fail"


def test_any_collector_and_any_system_is_accepted(clock):
    """The Protocols suffice: a gauge is set once, and timer and tracker need no common store."""
    collector = InMemoryCollector(Store(clock))
    foreign = SimpleNamespace(
        collector=ScopedCollector(collector, {"app": "shop"}),
        timer=InMemoryTimer(Store(clock)),
        tracker=InMemoryTracker(Store(clock)),
    )
    for _ in range(2):
        asyncio.run(get(MetricsMiddleware(starlette_app(), foreign), "/a/1"))
    assert foreign.timer.get_timing_stats(REQUEST)["count"] == 2
    assert foreign.tracker.get_success_rate(REQUEST) == 1
    (gauge,) = InMemoryAggregator(collector.store).get_metrics_by_tag({"app": "shop"})
    assert (gauge.name, gauge.value) == ("http.server.active_requests", 0)


def test_a_failing_tracker_does_not_fail_the_request(clock, caplog):
    """Exceptions of custom parts are logged."""

    class Broken(InMemoryTracker):
        def record_success(self, operation, metadata=None):
            raise RuntimeError("disk full")

    parts = {
        "collector": InMemoryCollector(),
        "timer": InMemoryTimer(Store(clock)),
        "tracker": Broken(Store(clock)),
    }
    app = MetricsMiddleware(starlette_app(), SimpleNamespace(**parts))
    assert asyncio.run(get(app, "/a/1")).text == "hello"
    assert "disk full" in caplog.text


def test_an_invalid_target_is_an_error(metrics):
    """When the middleware is created."""
    with pytest.raises(InvalidInputError, match="neither a MetricsSystem nor a MetricCollector"):
        MetricsMiddleware(files, "metrics")
    with pytest.raises(InvalidInputError, match="not a non-empty string"):
        MetricsMiddleware(files, metrics, name="")
