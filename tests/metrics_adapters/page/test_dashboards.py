"""Dashboards on the stream: one computation for all clients, and none of them affects the others."""

from __future__ import annotations

import json
import socket
import threading
import time
from datetime import timedelta
from functools import partial
from itertools import count

import pytest

from metrics_adapters.asgi import make_app, serve_app
from metrics_adapters.http import dashboards
from metrics_framework.runtime.event_loops import create_event, run_until_first
from tests.metrics_adapters.http.clients import TIMEOUT_SECONDS, StreamClient, get, talk, until

PERIOD = 0.05


@pytest.fixture(autouse=True)
def short_period(monkeypatch):
    """Make a document every 50 ms."""
    monkeypatch.setattr(dashboards, "MIN_PERIOD_SECONDS", PERIOD)


class Made:
    """Counts the documents that are made, by their type, and can hold them up."""

    def __init__(self, monkeypatch):
        self.queries = []
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.error = None
        make = dashboards.create_dashboard_data

        def counting(system, query):
            self.queries.append(query)
            self.goes_on.wait(TIMEOUT_SECONDS)
            if self.error is not None and query.type == "errors":
                raise self.error
            return make(system, query)

        monkeypatch.setattr(dashboards, "create_dashboard_data", counting)


@pytest.fixture
def made(monkeypatch):
    """Return the count of the documents."""
    made = Made(monkeypatch)
    yield made
    made.goes_on.set()
    for thread in threading.enumerate():
        if thread.name == "metrics-scrape":
            thread.join(TIMEOUT_SECONDS)


def documents(client, event="dashboard"):
    """Return the data of the events of a client."""
    heading = f"event: {event}\ndata: "
    return [json.loads(block.removeprefix(heading)) for block in client.blocks if block.startswith(heading)]


def test_the_first_document_comes_at_once(run, system, monkeypatch):
    """And the next ones after the period. Each has all that the page shows."""
    monkeypatch.setattr(dashboards, "MIN_PERIOD_SECONDS", 3600.0)
    client = StreamClient(make_app(system, max_clients=7), "dashboard=overview")

    async def script():
        await until(lambda: documents(client))

    talk(run, script, client)
    (event,) = documents(client)
    assert client.status == 200
    assert client.text.startswith("retry: 2000\n\n")
    assert event["dashboard"]["panels"]
    assert event["health"].keys() == system.get_system_health().keys()
    assert event["every_seconds"] == 3600
    assert event["clients"] == {"open": 1, "maximum": 7, "dropped": 0}
    assert event["service"].keys() == {"tags", "version", "processes"}
    assert (event["service"]["processes"], event["history"]) == (1, False)


@pytest.mark.parametrize("dashboard", dashboards.DASHBOARD_TYPES)
def test_documents_follow_the_query(run, system, dashboard):
    """Each type has its documents, for the window and the tags of the client, one after the other."""
    client = StreamClient(make_app(system), f"dashboard={dashboard}&tag=a:1&tag=b:2%20c&window=600")

    async def script():
        await until(lambda: len(documents(client)) == 3)

    talk(run, script, client)
    for event in documents(client):
        document = event["dashboard"]
        assert (document["type"], document["window_seconds"]) == (dashboard, 600)
        assert document["tags"] == {"a": "1", "b": "2 c"}


def test_clients_with_the_same_query_share_documents(run, system, made, monkeypatch):
    """Fifty of them cost as much as one, in whatever order and spelling they ask."""
    monkeypatch.setattr(dashboards, "MIN_PERIOD_SECONDS", 3600.0)
    app = make_app(system)
    queries = ("dashboard=overview&tag=a:1&tag=b:2", "tag=b:2&tag=a:1&dashboard=overview&window=3600")
    clients = [StreamClient(app, queries[number % 2]) for number in range(50)]

    async def script():
        await until(lambda: all(client.blocks for client in clients))

    talk(run, script, *clients)
    assert len(made.queries) == 1
    assert len({client.text for client in clients}) == 1


def test_a_document_is_made_once_in_a_period(run, system, made):
    """However many clients wait for the next one."""
    app = make_app(system)
    clients = [StreamClient(app, "dashboard=overview") for _ in range(20)]
    begin = time.monotonic()

    async def script():
        await until(lambda: all(len(client.blocks) >= 4 for client in clients))

    talk(run, script, *clients)
    assert 4 <= len(made.queries) <= (time.monotonic() - begin) / PERIOD + 1


def test_a_late_thread_makes_no_second_document(system, made):
    """A client may ask just when another one's document is finished."""
    feed = make_app(system)._stream._dashboards
    query = feed.query({"dashboard": "overview"}, {})
    with feed.follow(query):
        assert feed._make(query) is feed._make(query)
    assert len(made.queries) == 1


def test_expensive_documents_are_made_more_rarely(run, system, monkeypatch):
    """All queries together take half of a tenth of a CPU, beside first documents."""
    cpu = iter([0.0, 1.0, 1.0, 4.0])
    monkeypatch.setattr(dashboards.time, "thread_time", lambda: next(cpu))
    app = make_app(system)
    first, second = StreamClient(app, "dashboard=overview"), StreamClient(app, "dashboard=errors")

    async def script():
        await until(lambda: documents(first))
        await run_until_first(second.serve, lambda: until(lambda: documents(second)))

    talk(run, script, first)
    assert documents(first)[0]["every_seconds"] == 20
    assert documents(second)[0]["every_seconds"] == 80


@pytest.mark.slow
def test_clients_that_leave_harm_no_other(run, system, monkeypatch):
    """First documents have a budget of their own, and a document is forgotten with its last client."""
    cpu = count()
    monkeypatch.setattr(dashboards.time, "thread_time", lambda: next(cpu) / 100)  # 10 ms for each document
    monkeypatch.setattr(dashboards, "FIRST_CPU_SECONDS", 0.01)
    app = make_app(system)
    viewer = StreamClient(app, "dashboard=overview")
    leavers = [StreamClient(app, f"dashboard=errors&window={seconds}") for seconds in range(60, 64)]

    async def script():
        await until(lambda: documents(viewer))
        begin = time.monotonic()
        for client in leavers:
            await run_until_first(client.serve, lambda client=client: until(lambda: documents(client)))
        assert time.monotonic() - begin > 0.5  # the budget is 50 ms of CPU a second
        before = len(documents(viewer))  # the next one may have been made beside the last leaver
        await until(lambda: len(documents(viewer)) >= before + 2)
        assert len(app._stream._dashboards._latest) == 1

    talk(run, script, viewer)
    assert {event["every_seconds"] for event in documents(viewer)[-1:]} == {0.2}


def test_documents_are_made_in_order_for_clients_that_are_there(run, system, made):
    """One at a time. None is made for a client that has left meanwhile."""
    app = make_app(system)
    made.goes_on.clear()
    clients = [StreamClient(app, f"dashboard=overview&window={seconds}") for seconds in range(60, 65)]

    async def script():
        for number, client in enumerate(clients):
            await until(lambda number=number: app.clients == number)
            started[number].set()
            await until(lambda client=client: client.messages)
        await until(lambda: made.queries)
        clients[1].left = clients[3].left = True
        await until(lambda: clients[1].served and clients[3].served)
        assert len(made.queries) == 1
        made.goes_on.set()
        await until(lambda: all(documents(clients[number]) for number in (0, 2, 4)))

    run(in_turn(script, clients, started := [threading.Event() for _ in clients]))
    assert [query.window_seconds for query in made.queries[:3]] == [60, 62, 64]


async def in_turn(script, clients, started):
    """Serve each client once its event is set, until the script ends."""

    async def serve(client, event):
        await until(event.is_set)
        await client.serve()
        await create_event().wait()

    pairs = zip(clients, started, strict=True)
    await run_until_first(script, *(partial(serve, client, event) for client, event in pairs))


def test_a_slow_client_skips_documents(run, system):
    """It gets the newest one, and never a queue of old ones. Others are not slower for it."""
    app = make_app(system)
    slow, quick = StreamClient(app, "dashboard=overview"), StreamClient(app, "dashboard=overview")

    async def script():
        await until(lambda: documents(slow) and documents(quick))
        slow.reads = False
        before = len(documents(slow))
        count = len(documents(quick)) + 10
        await until(lambda: len(documents(quick)) >= count)
        slow.reads = True
        await until(lambda: len(documents(slow)) >= before + 3)
        assert len(documents(slow)) < len(documents(quick)) - 5

    talk(run, script, slow, quick)


def test_a_failing_dashboard_harms_no_other(run, system, made, caplog):
    """Its clients are told, the log says so once, and it goes on when it can."""
    made.error = ZeroDivisionError("secret detail")
    app = make_app(system)
    failing, working = StreamClient(app, "dashboard=errors"), StreamClient(app, "dashboard=overview")

    async def script():
        await until(lambda: len(documents(failing, "failed")) >= 3 and len(documents(working)) >= 3)
        assert documents(failing) == []
        made.error = None
        await until(lambda: documents(failing))

    talk(run, script, failing, working)
    assert documents(failing, "failed")[0] == {"text": "the dashboard failed: see the log"}
    logged = [record.getMessage() for record in caplog.records]
    assert [("errors" in each, "secret detail" in each) for each in logged] == [(True, True)]


def test_a_hanging_dashboard_occupies_one_thread(run, system, made, caplog):
    """However many clients wait; they are told, and others get their documents."""
    app = make_app(system, timeout=0.1)
    made.goes_on.clear()
    hanging = [StreamClient(app, "dashboard=overview") for _ in range(20)]

    async def script():
        await until(lambda: all(len(documents(client, "failed")) >= 2 for client in hanging))
        assert len(made.queries) == 1
        assert len(caplog.records) == 1
        made.goes_on.set()
        await until(lambda: all(documents(client) for client in hanging))

    talk(run, script, *hanging)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("dashboard=overviw", "dashboard='overviw' is unknown: pass 'overview', "),
        ("dashboard=", "dashboard='' is unknown"),
        ("dashboard=overview&window=59", "window='59' is not a whole number of seconds from 60 to 2592000"),
        ("dashboard=overview&window=2592001", "window='2592001' is not"),
        ("dashboard=overview&window=1e3", "window='1e3' is not"),
        ("dashboard=overview&window=", "window='' is not"),
        (f"dashboard=overview&window={'9' * 5000}", "is not a whole number"),
        ("dashboard=overview&dashboard=errors", "field 'dashboard' occurs twice"),
        ("dashboard=overview&name=http.*", "unknown field 'name'"),
        ("dashboard=overview&tag=route", "tag='route' is not a key and a value, such as 'route:/'"),
        ("window=600", "unknown field 'window'"),
    ],
)
def test_an_invalid_query_is_a_bad_request(run, system, made, query, text):
    """One line quotes the value and states what to pass."""
    client = StreamClient(make_app(system), query)
    run(client.serve())
    assert client.status == 400
    assert text in client.text
    assert client.text.count("\n") == 1
    assert made.queries == []


def test_the_window_is_at_most_the_retention(run, system, made):
    """A longer one shares the document of the retention."""
    system.collector.store.retention = timedelta(hours=2)
    app = make_app(system)
    windows = (2_592_000, 7_200, 60)
    clients = [StreamClient(app, f"dashboard=overview&window={seconds}") for seconds in windows]

    async def script():
        await until(lambda: all(documents(client) for client in clients))

    talk(run, script, *clients)
    assert {query.window_seconds for query in made.queries} == {60, 7_200}


def test_dashboards_have_the_slots_and_heartbeats_of_streams(run, system, made):
    """Over the limit is status 503, an idle client gets comments, and HEAD makes no document."""
    app = make_app(system, max_clients=1, heartbeat=0.01)
    made.goes_on.clear()
    client = StreamClient(app, "dashboard=overview")

    async def script():
        await until(lambda: client.blocks.count(": heartbeat") >= 2)
        refused = await get(app, "/stream?dashboard=overview")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        client.left = True
        await until(lambda: client.served)
        assert app.clients == 0
        count = len(made.queries)
        assert (await get(app, "/stream?dashboard=errors", method="HEAD")).status_code == 200
        assert len(made.queries) == count

    talk(run, script, client)


def test_dashboards_end_with_the_server_and_the_system(run, system):
    """The last event is whole. After the shutdown, the status is 503."""
    app = make_app(system)
    first, second = StreamClient(app, "dashboard=overview"), StreamClient(app, "dashboard=overview")

    async def script():
        await until(lambda: documents(first))
        app.end_streams()
        await until(lambda: first.served)

    talk(run, script, first)

    async def again():
        await until(lambda: documents(second))
        system.shutdown_metrics()
        await until(lambda: second.served)
        assert (await get(app, "/stream?dashboard=overview")).status_code == 503

    talk(run, again, second)
    for client in (first, second):
        assert client.text.endswith("\n\n")
        assert client.messages[-1] == {"type": "http.response.body", "body": b""}


@pytest.mark.heavy
def test_a_dead_client_is_freed(system):
    """One that does not read is disconnected after the time-out, and its slot is free."""
    pytest.importorskip("uvicorn")
    from tests.metrics_adapters.http.serving import wait_until

    for number in range(2_000):
        system.collector.increment("orders", {"item": f"{number}" * 20})
    with serve_app(system, 0, max_clients=1, timeout=0.3) as server:
        app = server._server.config.app
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", server.port))
            client.sendall(b"GET /stream?dashboard=overview HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.recv(15) == b"HTTP/1.1 200 OK"
            wait_until(lambda: app.clients == 1)
            wait_until(lambda: app.clients == 0)
