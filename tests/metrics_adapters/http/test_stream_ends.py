"""Streams end: by the client, a failing part, the system and the server."""

from __future__ import annotations

import pytest

from metrics_adapters.asgi import make_app
from metrics_adapters.combined import CombinedAggregator
from metrics_adapters.in_memory import InMemoryAggregator
from metrics_framework import MetricsSystem
from tests.metrics_adapters.http.clients import (
    StreamClient,
    publish,
    sequences,
    subscriptions,
    talk,
    until,
)


def test_a_client_that_disconnects_is_removed_at_once(run, system):
    """Even if nothing has to be sent to it."""
    app = make_app(system)
    client = StreamClient(app)

    async def script():
        await until(lambda: client.messages)
        assert (app.clients, len(subscriptions(system))) == (1, 1)
        client.left = True
        await until(lambda: client.served)
        assert (app.clients, subscriptions(system)) == (0, [])

    talk(run, script, client)


def test_a_disconnect_while_sending_is_not_an_error(run, system, caplog):
    """A server that cannot send raises `OSError`."""
    client = StreamClient(make_app(system))

    async def gone(message):
        raise BrokenPipeError

    client.send = gone
    run(client.serve())
    assert client.served
    assert subscriptions(system) == []
    assert caplog.records == []


def test_a_cancelled_client_is_removed(run, system):
    """A server cancels requests in progress when it shuts down."""
    app = make_app(system, max_clients=1)
    for _ in range(2):
        client = StreamClient(app)
        talk(run, lambda client=client: until(lambda: client.messages), client)
        assert client.status == 200
    assert (app.clients, subscriptions(system)) == (0, [])


def test_too_many_stream_clients_are_unavailable(run, system):
    """The others continue. A slot is free again when a client leaves."""
    app = make_app(system, max_clients=2)
    first, second, third, fourth = (StreamClient(app) for _ in range(4))

    async def script():
        await until(lambda: first.messages and second.messages)
        await third.serve()
        assert third.status == 503
        assert third.headers["retry-after"] == "2"
        assert "too many stream clients" in third.text
        system.collector.increment("orders")
        await first.read(1)
        second.left = True
        await until(lambda: second.served)

    talk(run, script, first, second)
    talk(run, lambda: until(lambda: fourth.messages), fourth)
    assert fourth.status == 200


def test_a_shutdown_of_the_system_ends_the_stream(run, system):
    """The buffer and the last drops are sent first. Later clients get status 503."""
    app = make_app(system, buffer=2)
    client, late = StreamClient(app), StreamClient(app)

    async def script():
        await until(lambda: client.messages)
        (subscription,) = subscriptions(system)
        for _ in range(5):
            system.collector.increment("orders")
        publish(system)
        await until(lambda: len(sequences(client.blocks)) == 2)
        subscription.count_missed(4)  # after the last event that there is
        system.shutdown_metrics()
        await until(lambda: client.served)
        assert client.blocks[-1] == 'event: dropped\ndata: {"dropped": 4}'
        assert client.messages[-1] == {"type": "http.response.body", "body": b""}
        await late.serve()

    talk(run, script, client)
    assert late.status == 503
    assert "is shut down" in late.text


@pytest.mark.slow
def test_a_failing_part_ends_the_streams(run, caplog):
    """Later clients get status 500. The log states the reason, once."""

    class Failing(CombinedAggregator):
        fails = False

        def get_metrics_by_tag(self, tags):
            if self.fails:
                raise OSError("no backend")
            return super().get_metrics_by_tag(tags)

    aggregator = Failing(InMemoryAggregator())
    app = make_app(MetricsSystem(aggregator=aggregator), endpoints=["stream"])
    clients = [StreamClient(app) for _ in range(3)]

    async def script():
        await until(lambda: all(client.messages for client in clients))
        aggregator.fails = True
        await until(lambda: all(client.served for client in clients))

    talk(run, script, *clients)
    assert all(client.messages[-1] == {"type": "http.response.body", "body": b""} for client in clients)
    late = StreamClient(app)
    run(late.serve())
    assert (late.status, late.text) == (500, "the stream failed: see the log\n")
    (message,) = [record.getMessage() for record in caplog.records]
    assert "no backend" in message


def test_a_shutdown_of_the_server_ends_the_stream(run, system):
    """`end_streams` does the same. Otherwise a server would wait for the stream without end."""
    app = make_app(system)
    client, other = StreamClient(app), StreamClient(app)
    coming = ["lifespan.startup", "lifespan.shutdown"]

    async def receive():
        return {"type": coming.pop(0)}

    async def send(message):
        pass

    async def script():
        await until(lambda: client.messages)
        system.collector.increment("orders")
        await client.read(1)
        await app({"type": "lifespan"}, receive, send)
        await until(lambda: client.served)
        assert client.messages[-1] == {"type": "http.response.body", "body": b""}

    async def call():
        await until(lambda: other.messages)
        app.end_streams()
        await until(lambda: other.served)

    talk(run, script, client)
    talk(run, call, other)
