"""The application answers who may ask, where it is mounted, and holds no loop up."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from metrics_adapters.asgi import make_app
from metrics_adapters.http.event_loop import checkpoint, first_of
from metrics_adapters.http.requests import MAX_QUESTIONS
from metrics_adapters.null import NullMonitor
from metrics_framework import MetricsSystem, Thresholds
from metrics_framework.errors import InvalidInputError
from metrics_framework.snapshots.rules import document_violations
from tests.metrics_adapters.http.loops import PATIENCE, StreamClient, get, talk, until

PATHS = ("/metrics", "/snapshot", "/health", "/stream")


@pytest.fixture
def system(system):
    """Return a system that has counted an order."""
    system.collector.increment("orders", {"item": "book"})
    return system


@pytest.fixture
def gate():
    """Return an event that lets what hangs go on; it is set at the end, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()
    for thread in threading.enumerate():
        if thread.name == "metrics-scrape":
            thread.join(PATIENCE)


def messages(caplog):
    """Return what was logged."""
    return [record.getMessage() for record in caplog.records]


# -- answers -----------------------------------------------------------------------------------------------


def test_metrics_are_those_of_the_scrape_endpoint(run, system):
    """In the format that was asked for."""
    answer = run(get(make_app(system), "/metrics", accept="application/openmetrics-text"))
    assert answer.status_code == 200
    assert 'orders_total{item="book"} 1' in answer.text
    assert answer.text.endswith("# EOF\n")


def test_the_snapshot_is_a_valid_one(run, system):
    """With the tags of the query in its metadata; HEAD has no body."""
    app = make_app(system)
    answer = run(get(app, "/snapshot?tag=run:7&tag=region:eu"))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    document = answer.json()
    assert document_violations(document) == []
    assert document["metrics"]["custom"] == {"orders[item:book]": 1}
    assert document["metadata"]["tags"] == {"run": "7", "region": "eu"}
    head = run(get(app, "/snapshot", method="HEAD"))
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("tag=run", "tag='run' is no key and value"),
        ("tags=run:7", "unknown field 'tags'. Did you mean 'tag'?"),
        ("&".join(f"tag={number}:x" for number in range(60)), "metadata.tags: must have at most 50 entries"),
    ],
)
def test_wrong_tags_of_a_snapshot_are_said(system, query, text):
    """The status is 400, and the body says what is wrong."""
    answer = asyncio.run(get(make_app(system), f"/snapshot?{query}"))
    assert answer.status_code == 400
    assert text in answer.text


def test_where_nothing_was_measured_there_is_no_snapshot_yet(run, clock):
    """The status is 503, so that a client may come again, and the body says why."""
    app = make_app(MetricsSystem(resource_monitor=NullMonitor(), clock=clock))
    answer = run(get(app, "/snapshot"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.text.startswith("there is no snapshot yet: metrics: must hold at least one of")


def test_health_is_a_status_and_readings(run, clock):
    """200 where all is well, 503 where too much fails; both have the readings."""
    limits = Thresholds(memory_percent=100)
    system = MetricsSystem(clock=clock, thresholds=limits)
    app = make_app(system)
    well = run(get(app, "/health"))
    assert (well.status_code, well.json()["healthy"]) == (200, True)
    assert well.json().keys() == system.get_system_health().keys()
    for _ in range(10):
        system.tracker.record_failure("order", "OutOfStock")
    ill = run(get(app, "/health"))
    assert (ill.status_code, ill.json()["healthy"], ill.json()["error_rate"]) == (503, False, 1.0)


# -- who may ask -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_every_endpoint_asks_for_the_secret(system, path):
    """A token or a user, before anything else is said."""
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
def test_nobody_keeps_an_answer(system, path):
    """Neither a cache nor a guess about its type."""
    client = StreamClient(make_app(system), path=path)
    talk(asyncio.run, lambda: until(lambda: client.messages), client)
    assert client.headers["cache-control"] == "no-store"
    assert client.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in client.headers


def test_pages_of_other_sites_may_read_where_that_is_allowed(system):
    """Each by its own name, and no other; what a page asks beforehand needs no secret."""
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
    assert refused.status_code == 405
    any_site = asyncio.run(get(make_app(system, allow_origins=["*"]), "/health", origin="https://a.b"))
    assert any_site.headers["access-control-allow-origin"] == "*"


# -- where -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "root_path", "path", "status"),
    [
        ("", "", "/health", 200),
        ("", "", "/health/", 200),
        ("", "/internal", "/internal/health", 200),
        ("", "/internal/", "/internal/health", 200),
        ("", "/internal", "/health", 200),  # servers that leave the mount out
        ("", "/heal", "/health", 200),  # no mount, only the same letters
        ("/internal", "", "/internal/health", 200),
        ("/internal/", "/api", "/api/internal/metrics", 200),
        ("/internal", "", "/health", 404),
        ("", "", "/", 404),
        ("", "", "/health/other", 404),
    ],
)
def test_it_answers_where_it_is_mounted(system, prefix, root_path, path, status):
    """The path of a mount is taken off, as far as it is there; the prefix comes after it."""
    app = make_app(system, prefix=prefix)
    assert asyncio.run(get(app, path, root_path=root_path)).status_code == status


def test_starlette_mounts_it(system):
    """Beneath a path, and beneath another mount."""
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


def test_only_chosen_endpoints_are_served(system):
    """Such as health alone, for a probe that knows no token; who asks for another is told which there are."""
    app = make_app(system, endpoints=["health"])
    assert asyncio.run(get(app, "/health")).status_code == 200
    missing = asyncio.run(get(app, "/stream"))
    assert (missing.status_code, missing.text) == (404, "served here: /health\n")


def test_it_can_only_be_read(system):
    """Other methods are refused, and the answer says which are not."""
    for path in PATHS:
        answer = asyncio.run(get(make_app(system), path, method="POST"))
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


def test_it_takes_part_in_the_life_of_a_server(system):
    """Startup and shutdown are answered; a websocket is refused, and what is not known is an error."""
    app = make_app(system)

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
    with pytest.raises(InvalidInputError, match=r"'carrier\.pigeon' cannot be served"):
        live("carrier.pigeon")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"endpoints": ["strem"]}, "unknown endpoint 'strem'. Did you mean 'stream'?"),
        ({"endpoints": "stream"}, "endpoints='stream' is no list"),
        ({"endpoints": []}, r"endpoints=\[\] is empty; there are metrics, snapshot"),
        ({"prefix": "internal"}, "prefix='internal' does not begin with a slash"),
        ({"bearer_token": ""}, "bearer_token= is empty"),
        ({"allow_origins": "https://a"}, "allow_origins='https://a' is no list of origins"),
        ({"allow_origins": ["https://a/b"]}, "'https://a/b', which is no origin like"),
        ({"allow_origins": ["https://a\r\nx: y"]}, "which is no origin like"),
        ({"max_clients": 0}, "max_clients=0 is not a whole number of 1 or more"),
        ({"buffer": True}, "buffer=True is not a whole number of 1 or more"),
        ({"heartbeat": 0}, "heartbeat=0 is not a positive number of seconds"),
        ({"timeout": float("nan")}, "timeout=nan is not a positive number of seconds"),
    ],
)
def test_a_wrong_argument_is_one_clear_error(system, options, text):
    """It is quoted, and the message says what it has to be."""
    with pytest.raises(InvalidInputError, match=text):
        make_app(system, **options)


# -- what is slow and what fails ---------------------------------------------------------------------------


class Slow(MetricsSystem):
    """A system whose snapshot, or health, takes until a gate opens."""

    gate: threading.Event

    def build_snapshot(self, **keys):
        """Wait."""
        self.gate.wait(PATIENCE)
        return super().build_snapshot(**keys)

    def get_system_health(self):
        """Fail."""
        raise OSError("no machine")


def test_others_go_on_while_a_snapshot_is_made(run, clock, gate):
    """It is made in a thread."""
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

    run(first_of(tick, ask))
    assert turns == [*["tick"] * 100, "snapshot"]


def test_questions_that_hang_are_bounded(run, clock, gate, caplog):
    """Each client is answered in its time; so many threads hang at most; health is apart."""
    system = Slow(clock=clock)
    system.gate = gate
    app = make_app(system, timeout=0.02)
    for _ in range(MAX_QUESTIONS):
        answer = run(get(app, "/snapshot"))
        assert (answer.status_code, answer.text) == (503, "snapshot: no answer within 0.02 seconds\n")
    busy = run(get(app, "/snapshot"))
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
    assert "as many questions as may be" in busy.text
    assert len(messages(caplog)) == 1
    assert run(get(app, "/health")).status_code == 500
    gate.set()

    async def ask():
        end = time.monotonic() + PATIENCE
        while (await get(app, "/snapshot")).status_code != 200:
            assert time.monotonic() < end

    run(ask())


def test_a_question_that_fails_is_an_error(run, clock, caplog):
    """The log says why, once; the client does not learn it."""
    app = make_app(Slow(clock=clock))
    for _ in range(2):
        answer = run(get(app, "/health"))
        assert (answer.status_code, answer.text) == (500, "health failed; see the log\n")
    (message,) = messages(caplog)
    assert "no machine" in message


def test_who_reads_nothing_is_given_up(run, system, caplog):
    """An answer that nobody takes has its time too."""
    client = StreamClient(make_app(system, timeout=0.05), path="/health")
    client.reads = False
    run(client.serve())
    assert client.served
    assert "an answer was not read in time" in messages(caplog)[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_begins_anew(system):
    """It has none of the parent's clients, and its events are of another process."""
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
                # The loop of this thread is the parent's.
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
