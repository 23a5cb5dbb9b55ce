"""The stream endpoint: each client gets its events, and a slow one does not affect the others."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.asgi import make_app
from metrics_adapters.http.sse import (
    ResumePoint,
    dropped_event,
    metric_event,
    query_fields,
    resume_point,
    retry_field,
    snapshot_tags,
    stream_filters,
)
from metrics_framework.errors import InvalidInputError
from metrics_framework.runtime.event_loops import checkpoint, run_until_first
from tests.metrics_adapters.http.clients import (
    StreamClient,
    metric,
    publish,
    sequences,
    subscriptions,
    talk,
    until,
)


def test_changed_metrics_are_sent(run, system):
    """Each event has its number and is JSON. Non-ASCII text is unchanged."""
    client = StreamClient(make_app(system))
    tags = {"item": "Bücher\nund\r\u2028mehr"}

    async def script():
        await until(lambda: client.messages)
        system.collector.record_counter("orders", 2, tags)
        (first,) = await client.read(1)
        system.collector.record_gauge("stock", 3)
        _, second = await client.read(2)
        assert metric(first)[::2] == (
            1,
            {
                "name": "orders",
                "type": "counter",
                "value": 2,
                "unit": "count",
                "timestamp": "2026-01-01T00:00:00+00:00",
                "tags": tags,
                "metadata": {"count": 1, "recorded": 2},
                "sequence": 1,
            },
        )
        sequence, _, data = metric(second)
        assert (sequence, data["name"], data["type"], data["value"]) == (2, "stock", "gauge", 3)

    talk(run, script, client)
    assert client.status == 200
    assert client.text.startswith("retry: 2000\n\n")
    assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert client.headers["cache-control"] == "no-store"
    assert client.headers["x-accel-buffering"] == "no"


def test_subscribing_does_not_block_the_event_loop(run, system, monkeypatch):
    """It runs in a thread, because the first subscription reads every series."""
    threads, subscribe = [], system.subscribe

    def subscribing(*args, **options):
        threads.append(threading.current_thread())
        return subscribe(*args, **options)

    monkeypatch.setattr(system, "subscribe", subscribing)
    client = StreamClient(make_app(system))

    async def script():
        await until(lambda: client.messages)

    talk(run, script, client)
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_a_subscription_that_times_out_is_unavailable(run, system, monkeypatch):
    """A hanging system blocks neither the loop nor the client."""
    go_on = threading.Event()
    monkeypatch.setattr(system, "subscribe", lambda *args, **options: go_on.wait(20))
    client = StreamClient(make_app(system, timeout=0.05))

    async def script():
        await until(lambda: client.messages)

    talk(run, script, client)
    go_on.set()
    assert client.status == 503
    assert client.headers["retry-after"] == "2"


def test_filters_select_events(run, system):
    """By the name, the type and any number of tags in the query."""
    query = "name=http.*&type=counter&tag=route:/a%20b:c&tag=method:GET"
    client = StreamClient(make_app(system), query)
    tags = {"route": "/a b:c", "method": "GET"}

    async def script():
        await until(lambda: client.messages)
        system.collector.increment("http.requests", tags)
        system.collector.increment("orders", tags)
        system.collector.increment("http.requests", {"route": "/"})
        system.collector.record_gauge("http.active", 1, tags)
        system.collector.increment("http.requests", {**tags, "status": "200"})
        system.shutdown_metrics()
        await until(lambda: client.served)
        data = [metric(block)[2] for block in client.blocks]
        assert {each["name"] for each in data} == {"http.requests"}
        found = sorted((each["tags"] for each in data), key=len)
        assert found == [tags, {**tags, "status": "200"}]

    talk(run, script, client)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("type=conter", "filter type='conter' is not one of 'counter'"),
        ("nmae=x", "unknown field 'nmae'. Did you mean 'name'?"),
        ("name=a&name=b", "field 'name' occurs twice"),
        ("tag=route", "tag='route' is not a key and a value, such as 'route:/'"),
        ("tag=a:1&tag=a:2", "tag 'a' occurs twice"),
        ("&".join(["tag=a:1"] * 101), "the query has more than 100 fields"),
    ],
)
def test_an_invalid_filter_is_a_bad_request(run, system, query, text):
    """The body states what is wrong."""
    client = StreamClient(make_app(system), query)
    run(client.serve())
    assert client.status == 400
    assert text in client.text


def test_idle_streams_send_heartbeat_comments(run, system):
    """They keep proxies from closing the stream."""
    client = StreamClient(make_app(system, heartbeat=0.01))

    async def script():
        assert (await client.read(2))[:2] == [": heartbeat"] * 2
        system.collector.increment("orders")
        await until(lambda: sequences(client.blocks) == [1])

    talk(run, script, client)


def test_a_client_resumes_after_its_last_event(run, system):
    """It gets what it missed, once, by `Last-Event-ID` or by the query."""
    app = make_app(system)
    first = StreamClient(app)

    async def meet():
        await until(lambda: first.messages)
        for _ in range(3):
            system.collector.increment("orders")
        await first.read(3)

    talk(run, meet, first)
    system.collector.increment("orders")
    _, epoch, _ = metric(first.blocks[1])
    for last in (
        {"last_event_id": f"2-{epoch}"},
        {"query": f"last_event_id=2-{epoch}"},
        {"last_event_id": "2"},
    ):
        again = StreamClient(app, **last)

        async def resume(again=again):
            assert sequences(await again.read(2)) == [3, 4]

        talk(run, resume, again)


@pytest.mark.parametrize("last", ["1-0badcafe", "nonsense", "-1", "9" * 30])
def test_a_client_cannot_resume_in_another_process(run, system, last):
    """It is told that the numbers restarted, and gets the events from now on."""
    publish(system)
    system.collector.increment("orders")
    client = StreamClient(make_app(system), last_event_id=last)

    async def script():
        await until(lambda: client.messages)
        system.collector.increment("orders")
        blocks = await client.read(2)
        assert blocks[0] == "event: restarted\ndata: {}"
        assert sequences(blocks) == [2]

    talk(run, script, client)


@pytest.mark.slow
def test_dropped_events_are_counted(run, system):
    """A client that stops reading loses the oldest events and is told how many; others lose none."""
    app = make_app(system, buffer=10)
    slow, quick = StreamClient(app), StreamClient(app)
    count = 300

    async def script():
        await until(lambda: slow.messages and quick.messages)
        slow.reads = False
        for sequence in range(1, count + 1):
            system.collector.increment("orders")
            await until(lambda: len(quick.blocks) == sequence)  # noqa: B023 - it is waited for here
        assert sequences(quick.blocks) == list(range(1, count + 1))
        stuck = [one for one in subscriptions(system) if one.dropped]
        assert len(stuck) == 1
        assert stuck[0]._buffered == 10
        slow.reads = True
        await until(lambda: count in sequences(slow.blocks))
        lost = [
            json.loads(block.split("data: ")[1])["dropped"] for block in slow.blocks if "dropped" in block
        ]
        assert sum(lost) == stuck[0].dropped == count - len(sequences(slow.blocks))
        # The report is at the position of the lost events.
        before, after = (
            sequences([slow.blocks[slow.blocks.index(block) + step]])[0]
            for block in slow.blocks
            if "dropped" in block
            for step in (-1, 1)
        )
        assert after - before - 1 == lost[0]

    talk(run, script, slow, quick)


def test_dropped_events_are_not_reported_twice(run, system):
    """The event that reports a loss has an id, from which a client resumes after the lost events."""
    app = make_app(system, buffer=1)
    client = StreamClient(app)

    async def script():
        await until(lambda: client.messages)
        for _ in range(5):
            system.collector.increment("orders")
        publish(system)
        number, event, data = (await client.read(2))[0].split("\n")
        assert (event, data) == ("event: dropped", 'data: {"dropped": 4}')
        again = StreamClient(app, last_event_id=number.removeprefix("id: "))

        async def resume():
            assert sequences(await again.read(1)) == [5]

        await run_until_first(again.serve, resume)

    talk(run, script, client)


def test_the_buffer_of_a_client_is_bounded(run, system):
    """In addition to its subscription only some KiB are buffered, however large ``buffer`` is."""
    app = make_app(system)
    client = StreamClient(app)

    async def script():
        await until(lambda: client.messages)
        client.reads = False
        for _ in range(200):
            system.collector.increment("orders", {"item": "x" * 1000})
        publish(system)
        for _ in range(100):
            await checkpoint()
        (subscription,) = subscriptions(system)
        assert subscription._buffered > 150
        client.reads = True
        await until(lambda: len(sequences(client.blocks)) == 200)
        assert max(len(message.get("body", b"")) for message in client.messages) < 1 << 15

    talk(run, script, client)


@pytest.mark.slow
def test_a_client_that_does_not_read_is_disconnected(run, system, caplog):
    """After the time-out its slot is free again, and the log states what it lost."""
    app = make_app(system, buffer=1, timeout=0.5, max_clients=1)
    client = StreamClient(app)

    async def script():
        await until(lambda: client.messages)
        client.reads = False
        for _ in range(1_000):
            system.collector.increment("orders", {"item": "x" * 100})
        publish(system)
        await until(lambda: client.served)

    talk(run, script, client)
    assert subscriptions(system) == []
    assert app.clients == 0
    (message,) = [record.getMessage() for record in caplog.records]
    assert "a stream was not read in time" in message
    assert "dropped=999" in message
    assert not any(message.get("more_body") is False for message in client.messages)
    again = StreamClient(app)
    talk(run, lambda: until(lambda: again.messages), again)
    assert again.status == 200


def test_head_gets_only_the_headers(run, system):
    """The stream ends at once."""
    client = StreamClient(make_app(system), method="HEAD")
    run(client.serve())
    assert (client.status, client.text) == (200, "")
    assert client.headers["content-type"].startswith("text/event-stream")


def test_a_request_body_is_ignored(run, system):
    """Receiving it is not a disconnect."""
    client = StreamClient(make_app(system))
    coming = [
        {"type": "http.request", "body": b"x", "more_body": True},
        {"type": "http.request", "body": b""},
    ]
    leave = client.receive

    async def receive():
        return coming.pop(0) if coming else await leave()

    client.receive = receive

    async def script():
        await until(lambda: not coming)
        system.collector.increment("orders")
        await client.read(1)

    talk(run, script, client)


# -- events and queries --


def test_events_have_the_format_of_the_standard():
    """One line for each field, and an empty line at the end."""
    assert metric_event(7, "a1", b'{"a": "%d"}') == b'id: 7-a1\nevent: metric\ndata: {"a": "%d"}\n\n'
    assert dropped_event(3, 6, "a1") == b'id: 6-a1\nevent: dropped\ndata: {"dropped": 3}\n\n'
    assert retry_field(2.5) == b"retry: 2500\n\n"


@given(st.integers(0, 10**18 - 1), st.text("0123456789abcdef", min_size=1))
def test_an_event_id_is_its_resume_point(sequence, epoch):
    """In the same process; an id of another process is not."""
    given_id = metric_event(sequence, epoch, b"").split(b"\n")[0].removeprefix(b"id: ").decode()
    assert resume_point(given_id, epoch) == ResumePoint(sequence, restarted=False)
    assert resume_point(given_id, f"{epoch}0") == ResumePoint(None, restarted=True)


@given(st.text())
def test_any_last_event_id_is_accepted(text):
    """Malformed ids have a result, too."""
    after, restarted = resume_point(text, "a1")
    assert after is None or not restarted


def test_a_new_client_has_no_last_event_id():
    """A missing or empty id does not count as one of another process."""
    assert resume_point(None, "a1") == resume_point("", "a1") == ResumePoint(None, restarted=False)


def test_a_query_becomes_filters():
    """The value of a tag may contain colons, be empty, or be percent-encoded."""
    query = b"name=*&type=gauge&tag=route:/a:b&tag=empty:&tag=%E2%82%AC:%26&last_event_id=4"
    tags = {"route": "/a:b", "empty": "", "€": "&"}
    assert stream_filters(query_fields(query)) == ({"name": "*", "type": "gauge", "tags": tags}, "4")
    assert stream_filters(query_fields(b"")) == ({}, None)


def test_a_query_has_tags_for_a_snapshot():
    """Filters of the stream are unknown fields there."""
    assert snapshot_tags(query_fields(b"tag=run:7")) == {"run": "7"}
    with pytest.raises(InvalidInputError, match="unknown field 'name'"):
        snapshot_tags(query_fields(b"name=http.*"))


@given(st.binary(max_size=200))
def test_any_query_is_filters_or_one_error(query):
    """Never anything but filters or one clear error."""
    try:
        filters, _ = stream_filters(query_fields(query))
    except InvalidInputError:
        return
    assert filters.keys() <= {"name", "type", "tags"}
