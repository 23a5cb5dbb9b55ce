"""The application checks credentials, origins and paths, and does not block the event loop."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from metrics_adapters.asgi import make_app
from metrics_adapters.http.request_runner import MAX_CONCURRENT_REQUESTS
from metrics_adapters.null import NullMonitor
from metrics_adapters.prometheus import make_asgi_app
from metrics_framework import MetricsSystem, Thresholds
from metrics_framework.errors import InvalidInputError
from metrics_framework.runtime.event_loops import checkpoint, run_until_first
from metrics_framework.snapshots.rules import document_violations
from tests.metrics_adapters.http.clients import TIMEOUT_SECONDS, StreamClient, get, talk, until

PATHS = ("/metrics", "/snapshot", "/health", "/stream")


@pytest.fixture
def system(system):
    """Return a system that has counted an order."""
    system.collector.increment("orders", {"item": "book"})
    return system


@pytest.fixture
def gate():
    """Return an event that releases hanging calls. It is set at the end, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()
    for thread in threading.enumerate():
        if thread.name == "metrics-scrape":
            thread.join(TIMEOUT_SECONDS)


def messages(caplog):
    """Return the log messages."""
    return [record.getMessage() for record in caplog.records]


# -- responses ---------------------------------------------------------------------------------------------


def test_metrics_are_those_of_the_scrape_endpoint(run, system):
    """In the requested format."""
    response = run(get(make_app(system), "/metrics", accept="application/openmetrics-text"))
    assert response.status_code == 200
    assert 'orders_total{item="book"} 1' in response.text
    assert response.text.endswith("# EOF\n")


def test_the_snapshot_is_valid(run, system):
    """It has the tags of the query in its metadata. HEAD has no body."""
    app = make_app(system)
    response = run(get(app, "/snapshot?tag=run:7&tag=region:eu"))
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    document = response.json()
    assert document_violations(document) == []
    assert document["metrics"]["custom"] == {"orders[item:book]": 1}
    assert document["metadata"]["tags"].items() >= {"run": "7", "region": "eu"}.items()
    head = run(get(app, "/snapshot", method="HEAD"))
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("tag=run", "tag='run' is not a key and a value"),
        ("tags=run:7", "unknown field 'tags'. Did you mean 'tag'?"),
        ("&".join(f"tag={number}:x" for number in range(60)), "metadata.tags: must have at most 50 entries"),
    ],
)
def test_an_invalid_tag_is_a_bad_request(system, query, text):
    """The body states what is wrong."""
    response = asyncio.run(get(make_app(system), f"/snapshot?{query}"))
    assert response.status_code == 400
    assert text in response.text


def test_a_snapshot_without_metrics_is_unavailable(run, clock):
    """The status is 503, so that a client retries, and the body states the reason."""
    app = make_app(MetricsSystem(resource_monitor=NullMonitor(), clock=clock))
    response = run(get(app, "/snapshot"))
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.text.startswith("no snapshot is available yet: metrics: must hold at least one of")


def test_health_has_a_status_and_a_body(run, clock):
    """Status 200 if the system is healthy, else 503."""
    limits = Thresholds(memory_percent=100)
    system = MetricsSystem(clock=clock, thresholds=limits)
    app = make_app(system)
    well = run(get(app, "/health"))
    assert (well.status_code, well.json()["healthy"]) == (200, True)
    assert well.json().keys() == system.get_system_health().keys()
    for _ in range(20):
        system.tracker.record_failure("order", "OutOfStock")
    ill = run(get(app, "/health"))
    assert (ill.status_code, ill.json()["healthy"], ill.json()["error_rate"]) == (503, False, 1.0)


# -- access ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_every_endpoint_requires_credentials(system, path):
    """A token or a user. They are checked first."""
    app = make_app(system, bearer_token="s3cret", basic_auth=("user", "password"))
    for headers in ({}, {"authorization": "Bearer guess"}):
        refused = StreamClient(app, path=path, **headers)
        asyncio.run(refused.serve())
        assert refused.status == 401
        assert [value for name, value in refused.messages[0]["headers"] if name == b"www-authenticate"] == [
            b'Bearer realm="metrics"',
            b'Basic realm="metrics"',
        ]
    assert asyncio.run(get(app, "/other")).status_code == 401
    for authorization in ("Bearer s3cret", "Basic dXNlcjpwYXNzd29yZA=="):
        allowed = StreamClient(app, path=path, authorization=authorization)
        talk(asyncio.run, lambda allowed=allowed: until(lambda: allowed.messages), allowed)
        assert allowed.status == 200


@pytest.mark.parametrize("path", PATHS)
def test_responses_are_not_cached(system, path):
    """Their type is not guessed, either."""
    client = StreamClient(make_app(system), path=path)
    talk(asyncio.run, lambda: until(lambda: client.messages), client)
    assert client.headers["cache-control"] == "no-store"
    assert client.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in client.headers


def test_allowed_origins_may_read_responses(system):
    """Only the listed origins. A preflight request needs no credentials."""
    site = "https://status.example"
    app = make_app(system, allow_origins=[site], bearer_token="s3cret")
    token = {"authorization": "Bearer s3cret"}
    for path in PATHS:
        mine = StreamClient(app, path=path, origin=site, **token)
        talk(asyncio.run, lambda mine=mine: until(lambda: mine.messages), mine)
        assert (mine.headers["access-control-allow-origin"], mine.headers["vary"]) == (site, "Origin")
    other = asyncio.run(get(app, "/health", origin="https://other.example", **token))
    assert "access-control-allow-origin" not in other.headers
    assert other.headers["vary"] == "Origin"
    ask = {"access_control_request_method": "GET", "access_control_request_headers": "authorization"}
    asked = asyncio.run(get(app, "/stream", method="OPTIONS", origin=site, **ask))
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == site
    assert "Authorization" in asked.headers["access-control-allow-headers"]
    refused = asyncio.run(get(app, "/stream", method="OPTIONS", origin="https://other.example", **ask))
    assert refused.status_code == 401
    any_site = asyncio.run(get(make_app(system, allow_origins=["*"]), "/health", origin="https://a.b"))
    assert any_site.headers["access-control-allow-origin"] == "*"


# -- paths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "root_path", "path", "status"),
    [
        ("", "", "/health", 200),
        ("", "", "/health/", 200),
        ("", "/internal", "/internal/health", 200),
        ("", "/internal/", "/internal/health", 200),
        ("", "/internal", "/health", 200),  # servers that omit the mount
        ("", "/heal", "/health", 200),  # no mount, only the same letters
        ("/internal", "", "/internal/health", 200),
        ("/internal/", "/api", "/api/internal/metrics", 200),
        ("/internal", "", "/health", 404),
        ("", "", "/assets/page.css", 200),
        ("", "", "/health/other", 404),
    ],
)
def test_it_serves_its_paths_in_a_mount(system, prefix, root_path, path, status):
    """The path of a mount is removed if the scope contains it; the prefix follows."""
    app = make_app(system, prefix=prefix)
    assert asyncio.run(get(app, path, root_path=root_path)).status_code == status


def test_starlette_mounts_it(system):
    """Below a path, and below another mount."""
    app = make_app(system)
    outer = Starlette(routes=[Mount("/internal", app), Mount("/deep", routes=[Mount("/er", app)])])
    for path in ("/internal/metrics", "/internal/snapshot", "/deep/er/health"):
        assert asyncio.run(get(outer, path)).status_code == 200, path
    client = StreamClient(outer, path="/internal/stream")
    client.scope |= {"root_path": "", "http_version": "1.1", "scheme": "http", "server": ("service", 80)}

    async def script():
        await until(lambda: client.messages)
        system.collector.increment("orders")
        await client.read(1)

    talk(asyncio.run, script, client)


def test_only_selected_endpoints_are_served(system):
    """Such as health for a probe without a token. The 404 response lists the paths."""
    app = make_app(system, endpoints=["health"])
    assert asyncio.run(get(app, "/health")).status_code == 200
    missing = asyncio.run(get(app, "/stream"))
    assert (missing.status_code, missing.text) == (404, "not found: the paths are /health\n")


def test_other_methods_are_not_allowed(system):
    """The response states the allowed methods."""
    for path in PATHS:
        response = asyncio.run(get(make_app(system), path, method="POST"))
        assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("make", [make_app, make_asgi_app])
def test_it_answers_lifespan_events(make, system):
    """A WebSocket is rejected, and an unknown scope type is an error."""
    app = make(system)

    def live(kind, *received):
        sent, coming = [], iter(received)

        async def receive():
            return {"type": next(coming)}

        async def send(message):
            sent.append(message["type"])

        asyncio.run(app({"type": kind}, receive, send))
        return sent

    life = ("lifespan.startup", "lifespan.shutdown")
    assert live("lifespan", *life) == [f"{event}.complete" for event in life]
    assert live("websocket", "websocket.connect") == ["websocket.close"]
    with pytest.raises(InvalidInputError, match=r"'carrier\.pigeon' is not supported"):
        live("carrier.pigeon")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"endpoints": ["strem"]}, "unknown endpoint 'strem'. Did you mean 'stream'?"),
        ({"endpoints": "stream"}, "endpoints='stream' is not a list"),
        ({"endpoints": []}, r"endpoints=\[\] is empty: pass some of metrics, snapshot"),
        ({"endpoints": ["page"]}, r"endpoints=\['page'\] has 'page' without 'stream'"),
        ({"prefix": "internal"}, "prefix='internal' does not begin with a slash"),
        ({"bearer_token": ""}, "bearer_token is empty"),
        ({"allow_origins": "https://a"}, "allow_origins='https://a' is not a list of origins"),
        ({"allow_origins": ["https://a/b"]}, "'https://a/b' in allow_origins is not an origin"),
        ({"allow_origins": ["https://a\r\nx: y"]}, "in allow_origins is not an origin"),
        ({"max_clients": 0}, "max_clients=0 is not a whole number of 1 or more"),
        ({"buffer": True}, "buffer=True is not a whole number of 1 or more"),
        ({"heartbeat": 0}, "heartbeat=0 is not a positive number of seconds"),
        ({"timeout": float("nan")}, "timeout=nan is not a positive number of seconds"),
    ],
)
def test_an_invalid_argument_is_an_error(system, options, text):
    """The message quotes the value and states what to pass."""
    with pytest.raises(InvalidInputError, match=text):
        make_app(system, **options)


# -- slow and failing requests ----------------------------------------------------------------------------


class Slow(MetricsSystem):
    """A system whose snapshot and health block until a gate opens."""

    gate: threading.Event

    def build_snapshot(self, **keys):
        """Wait."""
        self.gate.wait(TIMEOUT_SECONDS)
        return super().build_snapshot(**keys)

    def get_system_health(self):
        """Fail."""
        raise OSError("no machine")


def test_a_snapshot_does_not_block_the_event_loop(run, clock, gate):
    """It is built in a thread."""
    system = Slow(clock=clock)
    system.gate = gate
    turns = []

    async def tick():
        while len(turns) < 100:
            turns.append("tick")
            await checkpoint()
        gate.set()
        await until(lambda: "snapshot" in turns)

    async def ask():
        assert (await get(make_app(system), "/snapshot")).status_code == 200
        turns.append("snapshot")

    run(run_until_first(tick, ask))
    assert turns == [*["tick"] * 100, "snapshot"]


@pytest.mark.slow
def test_hanging_requests_are_bounded(run, clock, gate, caplog):
    """Each client gets a response in time, the number of threads is limited, and health is separate."""
    system = Slow(clock=clock)
    system.gate = gate
    app = make_app(system, timeout=0.02)
    for _ in range(MAX_CONCURRENT_REQUESTS):
        response = run(get(app, "/snapshot"))
        assert (response.status_code, response.text) == (503, "snapshot timed out after 0.02 seconds\n")
    busy = run(get(app, "/snapshot"))
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
    assert "too many concurrent snapshot requests" in busy.text
    assert len(messages(caplog)) == 1
    assert run(get(app, "/health")).status_code == 500
    gate.set()

    async def ask():
        end = time.monotonic() + TIMEOUT_SECONDS
        while (await get(app, "/snapshot")).status_code != 200:
            assert time.monotonic() < end

    run(ask())


def test_a_failing_request_is_an_error(run, clock, caplog):
    """The log states the reason once; the response does not."""
    app = make_app(Slow(clock=clock))
    for _ in range(2):
        response = run(get(app, "/health"))
        assert (response.status_code, response.text) == (500, "health failed: see the log\n")
    (message,) = messages(caplog)
    assert "no machine" in message


def test_a_client_that_does_not_read_times_out(run, system, caplog):
    """Sending a response has a time limit."""
    client = StreamClient(make_app(system, timeout=0.05), path="/health")
    client.reads = False
    run(client.serve())
    assert client.served
    assert "an answer was not read in time" in messages(caplog)[-1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_no_clients(system):
    """Its events count as those of another process."""
    app = make_app(system, max_clients=1)
    client = StreamClient(app)
    statuses = []

    async def script():
        await until(lambda: client.messages)
        system.collector.increment("orders")
        first = (await client.read(1))[0].split("\n")[0].removeprefix("id: ")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                again = StreamClient(app, last_event_id=first)
                # The event loop of this thread belongs to the parent.
                thread = threading.Thread(
                    target=talk, args=[asyncio.run, lambda: until(lambda: again.text), again]
                )
                thread.start()
                thread.join()
                code = 0 if again.status == 200 and "restarted" in again.text else 2
            finally:
                os._exit(code)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    talk(asyncio.run, script, client)
    assert statuses == [0]


def test_other_sites_cannot_occupy_streams(run, system):
    """Their requests open no stream, with and without a token, unless their origin is allowed."""
    site = {"sec_fetch_site": "cross-site", "origin": "https://status.example"}
    bearer = {"authorization": "Bearer s3cret"}

    async def status(app, **headers):
        return (await get(app, "/stream", method="HEAD", **headers)).status_code

    async def main():
        assert await status(make_app(system), **site) == 403
        assert await status(make_app(system), sec_fetch_site="cross-site") == 403
        assert await status(make_app(system, bearer_token="s3cret"), **site, **bearer) == 403
        assert await status(make_app(system, allow_origins=["https://status.example"]), **site) == 200
        assert await status(make_app(system), sec_fetch_site="same-origin") == 200

    run(main())


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9400", "127.8.0.1", "[::1]:80")),
        *((host, 200) for host in ("Status.example", "status.example:443")),
        *(
            (host, 421)
            for host in ("evil.example", "evil.example:9400", "localhost.evil.example", "10.0.0.1")
        ),
        *((host, 421) for host in ("", "localhost@evil.example", "[::1", "::1", "localhost:x", "<script>")),
    ],
)
def test_only_its_own_hosts_are_served(run, system, host, status):
    """A site that gives its name the address of this machine reads nothing."""
    app = make_app(system, allow_hosts=["status.example"])

    async def main():
        for path in ("/metrics", "/stream", "/", "/none"):
            response = await get(app, path, method="HEAD", host=host)
            assert (response.status_code == 421) == (status == 421), path

    run(main())


@pytest.mark.parametrize("hosts", ["localhost", 5, [""], ["a:80"], [None], ["[::1]"]])
def test_invalid_hosts_are_an_error(system, hosts):
    """The error says what is expected."""
    with pytest.raises(InvalidInputError, match=r"such as .*'status\.example'"):
        make_app(system, allow_hosts=hosts)


def test_equal_comparisons_are_computed_once(run, system, monkeypatch):
    """At most two run at a time, and further ones are asked to come back."""
    goes_on, compared = threading.Event(), []

    class Runs:
        def compare(self, *names):
            compared.append(names)
            goes_on.wait(TIMEOUT_SECONDS)
            return {"names": names}

        def runs(self):
            return {}

    monkeypatch.setattr("metrics_adapters.http.app._history", lambda folder: Runs())
    page = make_app(system, snapshots="runs")
    asked, responses = [], {}

    async def app(scope, receive, send):
        asked.append(scope["path"])
        await page(scope, receive, send)

    async def ask(number, baseline):
        responses[number] = await get(app, f"/history/compare?baseline={baseline}&current=c")

    async def main():
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(ask, number, "ab"[number % 2])
            await until(lambda: len(compared) == 2 and len(asked) == 20)
            await ask("busy", "third")
            assert (await get(app, "/history")).status_code == 200
            goes_on.set()

    run(main())
    assert sorted(compared) == [("a", "c"), ("b", "c")]
    assert (responses["busy"].status_code, responses["busy"].headers["retry-after"]) == (503, "1")
    assert [responses[number].json()["names"][0] for number in range(20)] == ["a", "b"] * 10
