"""Over real sockets, received and reported lost events add up to all recorded ones."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import threading
import tracemalloc
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from metrics_adapters.asgi import serve_app
from metrics_framework import MetricsSystem
from metrics_framework.streams import publisher
from tests.metrics_adapters.http.clients import TIMEOUT_SECONDS, publish, subscriptions
from tests.metrics_adapters.http.readers import RESET, reading, reading_in_threads

pytest.importorskip("uvicorn")
from tests.metrics_adapters.http.serving import wait_until

TAGS = {"text": "x" * 4_000}  # sockets buffer some megabytes


def record(system, number, tags=None):
    """Record a number of times, and publish."""
    for _ in range(number):
        system.collector.increment("orders", tags)
    publish(system)


def connections(server):
    """Return the number of open connections of a server in this process."""
    held = psutil.Process().net_connections("tcp")
    return sum(one.laddr.port == server.port and one.status != "LISTEN" for one in held)


# -- slow clients ------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_a_client_that_stops_reading_gets_a_report_of_its_losses(system, caplog, monkeypatch):
    """Memory is bounded, other clients get everything, and each loss is reported once it reads again."""
    caplog.set_level("INFO", "metrics_framework")
    monkeypatch.setattr(publisher, "MAX_REPLAY_EVENTS", 1_000)
    most, portion, recorded = 1_000, 250, 0
    with (
        serve_app(system, 0, buffer=most, timeout=2 * TIMEOUT_SECONDS) as server,
        reading_in_threads(server.url, 2) as quick,
        reading(server.url) as slow,
    ):

        def go_on(portions):
            nonlocal recorded
            for _ in range(portions):
                record(system, portion, TAGS)
                recorded += portion
                wait_until(lambda: all(reader.at == recorded for reader in quick))  # noqa: B023 - called in this iteration
                assert all(one._buffered <= most for one in subscriptions(system))

        while not any(one.dropped for one in subscriptions(system)):
            go_on(1)
        tracemalloc.start(1)
        go_on(10)  # all buffers are full now
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        go_on(20)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        system.shutdown_metrics()
        slow.read()
    assert [(reader.received, reader.dropped) for reader in quick] == [(recorded, 0)] * 2
    assert slow.dropped > 0
    assert slow.received + slow.dropped == slow.at == recorded
    wait_until(lambda: f"read too slowly' dropped={slow.dropped}" in caplog.text)
    assert grown < 1_000_000  # those 5,000 events are 20 MB


@pytest.mark.heavy
def test_a_disconnected_client_learns_its_losses_when_it_reconnects(system, caplog):
    """The connection of a client that does not read is closed. Others are not affected."""
    recorded = 0
    with serve_app(system, 0, buffer=500, timeout=0.5) as server, reading_in_threads(server.url, 1) as quick:
        with reading(server.url) as slow:
            wait_until(lambda: len(subscriptions(system)) == 2)
            stuck = subscriptions(system)
            while "not read in time" not in caplog.text:
                record(system, 200, TAGS)
                recorded += 200
                wait_until(lambda: quick[0].at == recorded)  # noqa: B023 - called in this iteration
            (stuck,) = (one for one in stuck if one.is_closed)
            assert f"dropped={stuck.dropped}" in caplog.text
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                wait_until(lambda: connections(server) == 1)
            with suppress(httpx.TransportError):
                slow.read()
        assert 0 < slow.at < recorded
        with reading(server.url, after=slow) as again:
            again.read(recorded)
        system.shutdown_metrics()
    assert (quick[0].received, quick[0].dropped) == (recorded, 0)
    assert slow.received + slow.dropped + again.received + again.dropped == recorded


@pytest.mark.heavy
def test_a_lost_client_is_removed(system):
    """Whether it closes properly or not, while idle and in the middle of many events."""
    with (
        serve_app(system, 0, heartbeat=1000) as server,
        reading_in_threads(server.url, 2) as readers,
    ):
        recorded = 0
        for number in (0, 3_000):
            for options in ([], [RESET]):
                with reading(server.url, options=options):
                    wait_until(lambda: len(subscriptions(system)) == 3)
                    record(system, number, TAGS)
                    recorded += number
                wait_until(lambda: len(subscriptions(system)) == 2)
        wait_until(lambda: connections(server) == 2)
        system.shutdown_metrics()
    assert [(reader.received, reader.dropped) for reader in readers] == [(recorded, 0)] * 2


# -- reconnecting ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_client_that_reconnects_misses_nothing(system):
    """It gets missed events once, also from another server of the same system."""
    with serve_app(system, 0) as server:
        with reading(server.url) as reader:
            record(system, 10)
            reader.read(3)
        record(system, 10)
        with reading(server.url, after=reader) as again:
            again.read(15)
    with serve_app(system, 0) as server, reading(server.url, after=again) as third:
        record(system, 10)
        third.read(30)
    assert (reader.received, again.received, third.received) == (3, 12, 15)


def test_a_client_that_reconnects_late_gets_a_report_of_its_losses(system, monkeypatch):
    """Events that are no longer kept count as dropped, exactly."""
    monkeypatch.setattr(publisher, "MAX_REPLAY_EVENTS", 100)
    with serve_app(system, 0) as server:
        with reading(server.url) as reader:
            record(system, 1)
            reader.read(1)
        for _ in range(50):
            record(system, 10)
        with reading(server.url, after=reader) as again:
            again.read(501)
    assert (again.received, again.dropped) == (100, 400)


def test_losses_without_any_subscriber_are_counted(system, monkeypatch):
    """Without subscribers no events are kept, but the number of records is known."""
    monkeypatch.setattr(publisher, "IDLE_STOP_SECONDS", 0.0)
    with serve_app(system, 0) as server:
        with reading(server.url) as reader:
            record(system, 1)
            reader.read(1)
        wait_until(lambda: system._publisher._thread is None)
        for _ in range(70):
            system.collector.increment("orders")
        with reading(server.url, after=reader) as again:
            record(system, 1)
            again.read(72)
    assert (again.received, again.dropped) == (1, 70)


@pytest.mark.slow
def test_a_client_of_another_process_gets_a_report_of_the_restart(system, clock):
    """Its event id is invalid there, and it gets the events from then on."""
    with serve_app(system, 0) as server, reading(server.url) as reader:
        record(system, 5)
        reader.read(5)
    reader.at = 0
    with (
        MetricsSystem(clock=clock) as other,
        serve_app(other, server.port) as server,
        reading(server.url, after=reader) as again,
    ):
        record(other, 2)
        again.read(2)
    assert (again.restarted, again.received, again.dropped) == (True, 2, 0)


# -- many --------------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_many_threads_and_many_clients(system):
    """Each client gets each record of each thread once and in order, even if it reconnects often."""
    rounds = 1_200

    def record_all(thread):
        for number in range(rounds):
            system.collector.increment("orders", {"thread": str(thread)})
            system.collector.record_gauge("level", number, {"thread": str(thread)})

    threads = [threading.Thread(target=record_all, args=[thread]) for thread in range(4)]
    total = len(threads) * rounds * 2
    chance = random.Random(7)
    with serve_app(system, 0, buffer=total) as server, reading_in_threads(server.url, 4) as readers:
        with reading(server.url) as restless:
            for thread in threads:
                thread.start()
            restless.read(1)
        cuts = 0
        while restless.at < total:
            with reading(server.url, after=restless, options=[RESET]) as again:
                again.read(min(restless.at + chance.randrange(1, 1_000), total))
            assert again.dropped == 0
            restless, cuts = again, cuts + 1
        for thread in threads:
            thread.join()
        system.shutdown_metrics()
    assert [(reader.received, reader.dropped) for reader in readers] == [(total, 0)] * 4
    assert cuts > 10


@pytest.mark.heavy
def test_a_thousand_subscribers_come_and_go(system, monkeypatch):
    """Over HTTP and directly, closing properly or not: no thread, task, socket, file or slot is left."""
    monkeypatch.setattr(publisher, "IDLE_STOP_SECONDS", 0.0)
    clients = 100

    async def client(port, number):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        begun.release()
        for _ in range(number % 3):
            await reader.readuntil(b"event: metric")
        if number % 2:
            writer.transport.abort()
        else:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def listen(number):
        with system.subscribe(buffer=10) as subscription:
            begun.release()
            for _ in range(number % 3):
                assert subscription.get(TIMEOUT_SECONDS) is not None

    async def wave(port):
        tasks = [asyncio.create_task(client(port, number)) for number in range(clients)]
        await asyncio.gather(*tasks)

    def meet(port):
        dropped = [system.subscribe() for _ in range(clients - 20)]
        threads = [threading.Thread(target=listen, args=[number]) for number in range(20)]
        threads.append(threading.Thread(target=asyncio.run, args=[wave(port)]))
        for thread in threads:
            thread.start()
        for _ in range(clients + 20):
            assert begun.acquire(timeout=TIMEOUT_SECONDS)
        while any(thread.is_alive() for thread in threads):
            record(system, 1)
        for thread in threads:
            thread.join(TIMEOUT_SECONDS)
        assert all(not one.is_closed for one in dropped)

    gc.collect()  # closes what earlier tests left open
    begun = threading.Semaphore(0)
    alone = set(threading.enumerate())
    with serve_app(system, 0, max_clients=clients) as server:
        wait_until(lambda: server._server.started)
        app, loop = server._server.config.app, server._server.servers[0].get_loop()

        def held():
            tasks = {task.get_name() for task in asyncio.all_tasks(loop)}
            return {*threading.enumerate(), *tasks, *files()}

        before = held()
        for _ in range(5):
            meet(server.port)
            wait_until(lambda: held() <= before and not connections(server), lambda: held() - before)
            wait_until(lambda: system._publisher._thread is None)
            assert (app.clients, subscriptions(system)) == (0, [])
    wait_until(lambda: set(threading.enumerate()) <= alone)


def files():
    """Return what the open files of this process are, if the system tells."""
    found = set()
    for path in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # closed since
            found.add(str(path.readlink()))
    return found
