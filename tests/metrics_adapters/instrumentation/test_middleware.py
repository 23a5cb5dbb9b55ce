"""The middleware counts every request once, by its route, and times it to the end of its response."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from types import SimpleNamespace

import anyio
import httpx
import pytest
import trio
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute

from metrics_adapters.asgi import MetricsMiddleware, make_app
from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_adapters.prometheus import make_asgi_app, make_wsgi_app
from metrics_framework import MetricsSystem
from metrics_framework.capabilities import ScopedCollector
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.recording import Store
from metrics_framework.values import MetricType

REQUEST = "http.server.request"
CONNECTION = "websocket.server.connection"
CANCELLED = asyncio.CancelledError


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


def statuses(metrics, name=REQUEST) -> list[str]:
    """Return the status classes of an operation, sorted."""
    return sorted(tags["http.response.status_class"] for tags, _, _ in timed(metrics, name))


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


@pytest.mark.parametrize(
    ("rule", "started", "error", "counted", "failed", "status"),
    [
        ({}, None, ValueError(), 1, {"ValueError": 1}, "5xx"),
        ({"ignore": ValueError}, None, ValueError(), 1, {"500": 1}, "5xx"),  # the client gets this status
        ({"ignore": ValueError}, 500, ValueError(), 1, {"500": 1}, "5xx"),
        ({"ignore": ValueError}, 200, ValueError(), 1, {}, "2xx"),
        ({"ignore": Exception, "failures": ValueError}, 200, ValueError(), 1, {"ValueError": 1}, "2xx"),
        ({}, 200, CANCELLED(), 0, {}, "cancelled"),
        (
            {"failures": CANCELLED},
            200,
            CANCELLED(),
            1,
            {"cancelled": 1},
            "cancelled",
        ),
        ({"ignore": CANCELLED}, 200, CANCELLED(), 1, {}, "2xx"),
        ({"ignore": CANCELLED}, None, CANCELLED(), 1, {}, "none"),
        ({}, 200, SystemExit(0), 1, {}, "2xx"),
    ],
)
def test_the_rule_of_the_system_decides_about_exceptions_of_the_application(
    clock, rule, started, error, counted, failed, status
):
    """`ignore` and `failures` hold for requests as for `measure`; a status of 500 or more stays a failure."""
    metrics = MetricsSystem(clock=clock, **rule)

    async def app(scope, receive, send):
        if started is not None:
            await send({"type": "http.response.start", "status": started, "headers": []})
        raise error

    async def send(message):
        """Accept everything."""

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    call = MetricsMiddleware(app, metrics)(scope, None, send)
    with pytest.raises(type(error)):
        call.send(None)
    assert failures(metrics) == failed
    assert metrics.tracker.store.outcomes(REQUEST).count == counted
    assert only(metrics)["http.response.status_class"] == status
    assert active(metrics) == 0


def test_a_client_disconnect_is_neither_a_success_nor_a_failure(run, metrics):
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
    assert failures(metrics) == {}
    assert metrics.get_system_health()["operations"] == 1
    assert [(tags["http.response.status_class"], count) for tags, count, _ in timed(metrics)] == [
        ("client_disconnect", 2),
        ("2xx", 1),
    ]


def test_a_cancelled_request_is_neither_a_success_nor_a_failure_on_asyncio(metrics):
    """Its status is ``cancelled``, and it is no longer in flight."""

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
    assert failures(metrics) == {}
    assert statuses(metrics) == ["cancelled"]
    assert active(metrics) == 0


def test_a_cancelled_request_is_neither_a_success_nor_a_failure_on_trio(metrics):
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
    assert failures(metrics) == {}
    assert statuses(metrics) == ["cancelled"]
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


@pytest.mark.parametrize("exclude", [["/files/metrics"], "/files/metrics", ["/files/metrics/"]])
def test_excluded_paths_are_not_measured(metrics, exclude):
    """Such as the path of a probe."""
    app = MetricsMiddleware(fastapi_app(), metrics, exclude=exclude)
    assert asyncio.run(get(app, "/files/metrics")).text == "a file"
    asyncio.run(get(app, "/files/other"))
    assert only(metrics)["http.route"] == "/files/{path}"


def test_an_excluded_path_begins_with_a_slash(metrics):
    """Another path would never match."""
    with pytest.raises(InvalidInputError, match="exclude='healthz' does not begin with a slash"):
        MetricsMiddleware(files, metrics, exclude=["healthz"])


@pytest.mark.parametrize(
    ("root_path", "path"),
    [
        ("", "/healthz"),
        ("/api", "/api/healthz"),  # as the ASGI specification says
        ("/api", "/healthz"),  # a proxy removes the prefix
        ("/api", "/api/healthz/live"),
    ],
)
@pytest.mark.parametrize("framework", [Starlette, FastAPI])
def test_an_excluded_path_does_not_contain_the_root_path(metrics, framework, root_path, path):
    """The root path of the server is removed before paths are compared."""
    app = framework(routes=[Route("/healthz", hello), Mount("/healthz", files)])
    app.add_middleware(MetricsMiddleware, metrics=metrics, exclude=["/healthz"])
    assert asyncio.run(get(app, path, root_path=root_path)).status_code == 200
    assert timed(metrics) == []
    asyncio.run(get(app, f"{root_path.rstrip('/')}/api/healthz", root_path=root_path))
    assert only(metrics)["http.route"] == "unmatched"


@pytest.mark.parametrize("root_path", ["", "/api"])
@pytest.mark.parametrize("framework", [Starlette, FastAPI])
def test_an_excluded_path_does_not_contain_the_path_of_a_mount(metrics, framework, root_path):
    """The middleware of a mounted application compares the paths of that application."""
    shop = framework(routes=[Route("/healthz", hello), Route("/a", hello)])
    shop.add_middleware(MetricsMiddleware, metrics=metrics, exclude=["/healthz"])
    app = framework(routes=[Mount("/shop", shop)])
    for path in ("/shop/healthz", "/shop/a"):
        assert asyncio.run(get(app, f"{root_path}{path}", root_path=root_path)).text == "hello"
    assert only(metrics)["http.route"] == "/shop/a"


# -- our own endpoints --------------------------------------------------------------------------------------


def in_threads(app):
    """Return an ASGI application that runs a WSGI application in threads, as a2wsgi and Django do."""

    async def serve(scope, receive, send):
        started = []

        def call() -> bytes:
            environ = {"REQUEST_METHOD": scope["method"], "PATH_INFO": ""}
            return b"".join(app(environ, lambda *arguments: started.extend(arguments)))

        body = await anyio.to_thread.run_sync(call)
        await send({**START, "status": int(started[0].split()[0])})
        await send({"type": "http.response.body", "body": body})

    return serve


def own_endpoints(metrics) -> list:
    """Return an application for each way to serve the endpoints of a system beside others."""
    mounted = Starlette(routes=[Mount("/internal", make_app(metrics)), Route("/a", hello)])
    deep = FastAPI()
    deep.mount("/internal", CORSMiddleware(make_app(metrics)))
    deep.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    outer = Starlette(routes=[Mount("/deep", deep), Route("/a", hello)])
    scrapes = [Mount("/internal/metrics", make_asgi_app(metrics)), Route("/a", hello)]
    wsgi = [Mount("/internal/metrics", in_threads(make_wsgi_app(metrics))), Route("/a", hello)]

    async def copied(scope, receive, send):
        await mounted({**scope}, receive, send)

    return [
        (mounted, "/internal/metrics"),
        (mounted, "/internal/snapshot?tag=a:b"),
        (mounted, "/internal/snapshot?tag=nonsense"),
        (mounted, "/internal/health"),
        (mounted, "/internal/stream?type=nonsense"),
        (copied, "/internal/health"),
        (outer, "/deep/internal/health"),
        (Starlette(routes=scrapes), "/internal/metrics/"),
        (Starlette(routes=wsgi), "/internal/metrics/"),
    ]


@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_our_own_endpoints_are_not_measured(metrics, number, method):
    """Wherever they are mounted and whatever they answer, also behind several of our middlewares."""
    app, path = own_endpoints(metrics)[number]
    app = MetricsMiddleware(MetricsMiddleware(app, metrics, name="inner"), metrics)
    assert asyncio.run(get(app, path, method)).status_code != 404
    assert timed(metrics) == timed(metrics, "inner") == []
    assert active(metrics) == 0
    asyncio.run(get(app, "/nothing"))
    assert [count for _, count, _ in timed(metrics)] == [1]


@pytest.mark.parametrize("number", [0, 7, 8])
def test_a_scrape_does_not_see_itself_in_flight(metrics, number):
    """The gauge of requests in flight is 0 in each scrape of an idle service."""
    app, path = own_endpoints(metrics)[number]
    app = MetricsMiddleware(MetricsMiddleware(app, metrics, name="inner"), metrics)
    for _ in range(2):
        text = asyncio.run(get(app, path)).text
    assert 'http_server_active_requests{http_request_method="GET"} 0\n' in text


def test_a_request_leaves_no_reference_cycle(metrics):
    """The garbage collector has nothing to do for the requests of a busy service."""

    async def app(scope, receive, send):
        await send(START)
        await send(part(False))

    async def send(message):
        pass

    async def main():
        measured = MetricsMiddleware(app, metrics)
        await measured(http_scope(), None, send)
        gc.collect()
        gc.disable()
        try:
            for _ in range(100):
                await measured(http_scope(), None, send)
            return gc.collect()
        finally:
            gc.enable()

    assert asyncio.run(main()) < 100


def test_our_own_stream_is_not_a_request_in_flight(metrics):
    """A client of the stream is connected for hours; ``clients`` of the application counts it."""
    own = make_app(metrics)
    app = MetricsMiddleware(Starlette(routes=[Mount("/internal", own)]), metrics)

    async def main():
        left = asyncio.Event()

        async def receive():
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.body":
                seen.append((own.clients, active(metrics), active(metrics, ACTIVE_STREAMS)))
                left.set()

        scope = {**http_scope(), "path": "/internal/stream", "query_string": b""}
        await app(scope, receive, send)

    seen: list[tuple[int, float, float]] = []
    metrics.collector.record_gauge(ACTIVE_STREAMS, 0)
    asyncio.run(main())
    assert seen[0] == (1, 0, 0)
    assert timed(metrics) == timed(metrics, STREAM) == []


def test_a_request_inside_another_one_is_another_one(metrics):
    """An application that asks our endpoint of another application is measured itself."""
    inner = MetricsMiddleware(
        Starlette(routes=[Mount("/internal", make_app(metrics))]), metrics, name="inner"
    )

    async def gateway(request):
        return PlainTextResponse((await get(inner, "/internal/health")).text)

    asyncio.run(get(MetricsMiddleware(Starlette(routes=[Route("/gateway", gateway)]), metrics), "/gateway"))
    assert only(metrics)["http.route"] == "/gateway"
    assert timed(metrics, "inner") == []


@pytest.mark.parametrize("kind", ["async", "thread", "behind BaseHTTPMiddleware"])
def test_a_status_503_that_reports_the_health_has_its_own_error_type(metrics, kind):
    """A probe of the application's own is not a reason to stay unhealthy; another 503 is a failure."""

    def answer(request):
        return JSONResponse(metrics.get_system_health(), 503)

    async def answer_async(request):
        return answer(request)

    app = Starlette(
        routes=[
            Route("/healthz", answer if kind == "thread" else answer_async),
            Route("/busy", lambda request: PlainTextResponse("busy", 503)),
        ]
    )
    if kind.startswith("behind"):
        app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    app = MetricsMiddleware(app, metrics)
    for path in ("/healthz", "/healthz", "/busy"):
        asyncio.run(get(app, path))
    assert failures(metrics) == {"unhealthy": 2, "503": 1}
    health = metrics.get_system_health()
    assert (health["operations"], health["error_rate"]) == (1, 1.0)


def test_paths_below_an_excluded_path_are_not_measured(metrics):
    """Paths that only start with the same letters are measured."""
    app = MetricsMiddleware(fastapi_app(), metrics, exclude=["/files/a", "/"])
    for path in ("/files/a/b", "/files/a", "/files/ab"):
        asyncio.run(get(app, path))
    assert metrics.timer.get_timing_stats("http.server.request")["count"] == 1
    assert only(metrics)["http.route"] == "/files/{path}"


# -- BaseHTTPMiddleware -------------------------------------------------------------------------------------


def behind(app: Starlette, metrics: MetricsSystem, around: bool, layers: int = 1):
    """Return an application with Starlette's ``BaseHTTPMiddleware``, inside or outside of ours."""
    if not around:
        app.add_middleware(MetricsMiddleware, metrics=metrics)
    for _ in range(layers):
        app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    return MetricsMiddleware(app, metrics) if around else app


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("around", [True, False], ids=["around", "added"])
@pytest.mark.parametrize("framework", [Starlette, FastAPI])
def test_a_stream_that_breaks_off_is_a_failure(run, metrics, framework, around, layers):
    """``BaseHTTPMiddleware`` ends the response as if it were whole, and raises the exception afterwards."""

    async def parts():
        yield b"x"
        raise KeyError("half way")

    async def stream(request):
        return StreamingResponse(parts(), background=BackgroundTask(print))

    app = behind(framework(routes=[Route("/", stream)]), metrics, around, layers)
    run(get(app))
    assert failures(metrics) == {"KeyError": 1}
    assert only(metrics)["http.response.status_class"] == "2xx"
    assert active(metrics) == 0


@pytest.mark.parametrize("around", [True, False], ids=["around", "added"])
@pytest.mark.parametrize("streams", [True, False])
def test_a_failing_background_task_behind_it_does_not_fail_the_request(run, metrics, around, streams):
    """The client has received its response by then."""

    async def parts():
        yield b"x"

    async def answer(request):
        task = BackgroundTask(lambda: 1 / 0)
        if streams:
            return StreamingResponse(parts(), background=task)
        return PlainTextResponse("x", background=task)

    run(get(behind(Starlette(routes=[Route("/", answer)]), metrics, around)))
    assert failures(metrics) == {}
    assert only(metrics)["http.response.status_class"] == "2xx"


@pytest.mark.parametrize("sends", [True, False], ids=["send", "receive"])
@pytest.mark.parametrize("around", [True, False], ids=["around", "added"])
def test_a_client_disconnect_behind_it_is_not_an_exception(run, metrics, around, sends):
    """Whether the server tells it when the application receives or when it sends.

    Inside of ``BaseHTTPMiddleware``, a failed send is a cancellation.
    """

    class Parts:
        def __aiter__(self):
            return self

        async def __anext__(self):
            await anyio.sleep(0)
            return b"x"

    async def stream(request):
        return StreamingResponse(Parts())

    app = behind(Starlette(routes=[Route("/", stream)]), metrics, around)

    async def main():
        sent: list[object] = []

        async def receive():
            while len(sent) < 3:
                await anyio.sleep(0)
            if sends:
                await anyio.sleep_forever()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)
            if sends and len(sent) > 3:
                raise OSError("the client is gone")

        spec = {"version": "3.0", "spec_version": "2.4" if sends else "2.3"}
        with contextlib.suppress(OSError, ClientDisconnect, RuntimeError):
            await app({**http_scope(), "asgi": spec}, receive, send)

    run(main())
    assert failures(metrics) == {}
    assert statuses(metrics) == ["cancelled" if sends and not around else "client_disconnect"]
    assert active(metrics) == 0


@pytest.mark.parametrize("headers", [[], [(b"Content-Length", b"2")], [(b"content-length", b"1")]])
def test_a_response_is_recorded_before_its_background_task_if_its_length_shows_its_end(metrics, headers):
    """A response without a length is recorded when the application returns."""
    counts = []

    async def app(scope, receive, send):
        await send({**START, "headers": headers})
        await send({"type": "http.response.body", "body": b"x"})
        counts.append(sum(count for _, count, _ in timed(metrics)))

    talk(MetricsMiddleware(app, metrics), http_scope(), [])
    assert counts == [1 if headers and headers[0][1] == b"1" else 0]
    assert [count for _, count, _ in timed(metrics)] == [1]


# -- event streams ------------------------------------------------------------------------------------------

STREAM, ACTIVE_STREAMS = "http.server.event_stream", "http.server.active_event_streams"


@pytest.mark.parametrize("content_type", ["text/event-stream", "Text/Event-Stream; charset=utf-8"])
@pytest.mark.parametrize("around", [True, False], ids=["around", "added"])
@pytest.mark.parametrize("layers", [0, 1])
def test_an_event_stream_is_an_operation_of_its_own(run, metrics, clock, content_type, around, layers):
    """It is neither a request in the timer, nor one in flight."""
    seen = []

    async def events():
        for number in range(3):
            clock.advance(1000)
            if number == 2:  # by then, the start of the response has passed all middleware
                seen.append((active(metrics), active(metrics, ACTIVE_STREAMS)))
            yield b"data: x\n\n"

    async def stream(request):
        return StreamingResponse(events(), media_type=content_type)

    app = behind(Starlette(routes=[Route("/events", stream), Route("/", hello)]), metrics, around, layers)
    run(get(app, "/events"))
    run(get(app, "/"))
    assert timed(metrics, STREAM) == [
        (
            {
                "http.request.method": "GET",
                "http.route": "/events",
                "http.response.status_class": "2xx",
            },
            1,
            3_000_000,
        )
    ]
    assert [(tags["http.route"], longest) for tags, _, longest in timed(metrics)] == [("/", 0)]
    assert seen == [(0, 1)]
    assert (active(metrics), active(metrics, ACTIVE_STREAMS)) == (0, 0)
    assert failures(metrics, STREAM) == {}


def test_the_end_of_an_event_stream_decides_its_outcome(metrics):
    """A client that leaves is its usual end; an exception and a missing end are failures."""

    def serve(*messages, received=()):
        async def app(scope, receive, send):
            for message in messages:
                if isinstance(message, Exception):
                    raise message
                await (receive() if message is None else send(message))

        with contextlib.suppress(KeyError):
            talk(MetricsMiddleware(app, metrics), http_scope(), received)

    start = {**START, "headers": [(b"content-type", b"text/event-stream")]}
    serve(start, part(True), None, received=[{"type": "http.disconnect"}])
    assert failures(metrics, STREAM) == {}
    serve(start, part(True), KeyError())
    serve(start, part(True))
    assert failures(metrics, STREAM) == {"KeyError": 1, "incomplete_response": 1}
    assert active(metrics, ACTIVE_STREAMS) == 0


def test_long_lived_connections_do_not_become_the_latency_of_a_snapshot(metrics, clock):
    """With a system and with a collector, however many there are."""

    async def app(scope, receive, send):
        clock.advance(1)
        if scope["path"] == "/events":
            await send({**START, "headers": [(b"content-type", b"text/event-stream")]})
            clock.advance(60)
        elif scope["type"] == "websocket":
            clock.advance(60)
            return
        else:
            await send(START)
        await send(part(False))

    for target in (metrics, metrics.collector):
        for _ in range(5):
            talk(MetricsMiddleware(app, target), {**http_scope(), "path": "/events"}, [])
            talk(MetricsMiddleware(app, target), {"type": "websocket", "path": "/", "headers": []}, [])
    for _ in range(2):
        talk(MetricsMiddleware(app, metrics), http_scope(), [])
    snapshot = metrics.snapshot()
    assert snapshot.metadata.tags["latency_metric"] == REQUEST
    assert snapshot.metrics.latency.p99 == pytest.approx(1000, rel=0.01)


def test_the_event_streams_of_foreign_parts_do_not_change_the_request_timer(clock):
    """Timers of the Protocols have the duration of the stream under its own name."""
    parts = SimpleNamespace(
        collector=InMemoryCollector(Store(clock)),
        timer=InMemoryTimer(Store(clock)),
        tracker=InMemoryTracker(Store(clock)),
    )

    async def app(scope, receive, send):
        await send({**START, "headers": [(b"content-type", b"text/event-stream")]})
        clock.advance(60)
        await send(part(False))

    talk(MetricsMiddleware(app, parts), http_scope(), [])
    assert parts.timer.get_timing_stats(STREAM)["max"] == 60_000
    with pytest.raises(UnknownMetricError):
        parts.timer.get_timing_stats(REQUEST)


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
        ([ACCEPT, None], 1006, "true", {}),
        ([ACCEPT, {"type": "websocket.close", "code": 1000}], None, "true", {}),
        ([ACCEPT, {"type": "websocket.close", "code": 1011}], None, "true", {"1011": 1}),
        ([ACCEPT, {"type": "websocket.close"}, None], 1006, "true", {}),
        ([{"type": "websocket.close", "code": 1008}], None, "false", {}),
        ([ACCEPT], None, "true", {}),
    ],
)
def test_a_close_code_decides_the_outcome(run, metrics, messages, code, accepted, failed):
    """The first side to close decides; a server error is a failure."""
    connect(metrics, *messages, received=[{"type": "websocket.disconnect", "code": code}], run=run)
    assert only(metrics, CONNECTION) == {"http.route": "unmatched", "websocket.accepted": accepted}
    assert failures(metrics, CONNECTION) == failed
    assert active(metrics, "websocket.server.active_connections") == 0


def test_an_exception_fails_a_connection(metrics):
    """The error type is its name."""
    with pytest.raises(KeyError):
        connect(metrics, ACCEPT, KeyError())
    assert failures(metrics, CONNECTION) == {"KeyError": 1}


@pytest.mark.parametrize(
    ("rule", "error", "counted", "failed"),
    [
        ({"ignore": LookupError}, KeyError(), 1, {}),
        ({"failures": CANCELLED}, CANCELLED(), 1, {"cancelled": 1}),
        ({}, CANCELLED(), 0, {}),
        ({"ignore": OSError}, KeyError(), 1, {"KeyError": 1}),
    ],
)
def test_the_rule_of_the_system_decides_about_the_exceptions_of_connections(
    clock, rule, error, counted, failed
):
    """`ignore` and `failures` hold for WebSocket connections as for `measure`."""
    metrics = MetricsSystem(clock=clock, **rule)
    with pytest.raises(type(error)):
        connect(metrics, ACCEPT, error)
    assert failures(metrics, CONNECTION) == failed
    assert metrics.tracker.store.outcomes(CONNECTION).count == counted
    assert only(metrics, CONNECTION)


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
    assert failures(metrics, CONNECTION) == {}


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
