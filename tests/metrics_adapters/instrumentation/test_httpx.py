"""What httpx asks for is counted once an attempt, to the end of the body, on both kinds of client."""

from __future__ import annotations

import asyncio

import anyio
import httpx
import pytest

from metrics_adapters.asgi import measured_transport
from metrics_framework import MetricsSystem
from metrics_framework.errors import InvalidInputError
from metrics_framework.values import MetricType

REQUEST = "http.client.request"


@pytest.fixture
def metrics(clock) -> MetricsSystem:
    """Return a system whose time the test moves."""
    return MetricsSystem(clock=clock)


def timed(metrics) -> list[tuple[dict[str, str], int, float]]:
    """Return tags, count and longest duration of each series."""
    return [
        (value.tags, value.metadata["count"], value.metadata["max"])
        for value in metrics.aggregator.get_metrics_by_tag({})
        if value.name == REQUEST and value.metric_type is MetricType.TIMER
    ]


def active(metrics) -> float:
    """Return how many requests are not done."""
    return metrics.aggregator.get_metric_summary("http.client.active_requests")["last"]


class Service(httpx.AsyncBaseTransport, httpx.BaseTransport):
    """A service that takes a second to answer and one for each part of its body."""

    def __init__(self, clock, status=200, error=None, broken=False):
        self.clock, self.status, self.error, self.broken, self.closed = clock, status, error, broken, 0

    def handle_request(self, request):
        """Answer, or raise."""
        self.clock.advance(1)
        if self.error is not None:
            raise self.error
        return httpx.Response(self.status, stream=Body(self))

    async def handle_async_request(self, request):
        """Answer, or raise."""
        return self.handle_request(request)

    def close(self):
        """Count."""
        self.closed += 1

    async def aclose(self):
        """Count."""
        self.closed += 1


class Body(httpx.AsyncByteStream, httpx.SyncByteStream):
    """Two parts, the second of which may never come."""

    def __init__(self, service):
        self.service = service

    def __iter__(self):
        """Yield the parts."""
        for number in range(2):
            self.service.clock.advance(1)
            if number and self.service.broken:
                raise httpx.ReadError("the connection broke")
            yield b"part"

    async def __aiter__(self):
        """Yield the parts."""
        for one in self:
            yield one


def ask_sync(service, metrics, use, method="GET", url="http://books.example:8080/a/7?q=1"):
    """Ask with a `Client`."""
    with (
        httpx.Client(transport=measured_transport(service, metrics)) as client,
        client.stream(method, url) as response,
    ):
        return use(response)


def ask_async(service, metrics, use, method="GET", url="http://books.example:8080/a/7?q=1"):
    """Ask with an `AsyncClient`."""

    async def main():
        async with (
            httpx.AsyncClient(transport=measured_transport(service, metrics)) as client,
            client.stream(method, url) as response,
        ):
            if use is read:
                return await response.aread()
            return use(response)

    return asyncio.run(main())


def read(response):
    """Read the body."""
    return response.read()


both = pytest.mark.parametrize("ask", [ask_sync, ask_async])


@both
def test_a_request_is_timed_to_the_end_of_its_body(metrics, clock, ask):
    """Its tags are method, host and class of status, never the URL; the body comes through whole."""
    service = Service(clock)
    assert ask(service, metrics, read) == b"partpart"
    assert timed(metrics) == [
        (
            {
                "http.request.method": "GET",
                "http.response.status_class": "2xx",
                "server.address": "books.example",
            },
            1,
            3000,
        )
    ]
    assert metrics.tracker.get_success_rate(REQUEST) == 1
    assert active(metrics) == 0
    assert service.closed == 1


@both
def test_a_body_that_nobody_reads_is_no_failure(metrics, clock, ask):
    """Who closes the response early has had enough: it ends there, and it is a success."""
    ask(Service(clock), metrics, lambda response: clock.advance(5))
    assert [(count, longest) for _, count, longest in timed(metrics)] == [(1, 6000)]
    assert metrics.tracker.get_success_rate(REQUEST) == 1
    assert active(metrics) == 0


@both
@pytest.mark.parametrize("status", [404, 503])
def test_errors_of_status_are_failures(metrics, clock, ask, status):
    """For a client a status from 400 on is a failure by its number."""
    ask(Service(clock, status), metrics, read)
    assert metrics.tracker.get_failure_breakdown(REQUEST) == {str(status): 1}


@both
def test_what_is_raised_is_a_failure_by_its_name(metrics, clock, ask):
    """No connection, or one that breaks in the middle of a body: the exception goes on unchanged."""
    with pytest.raises(httpx.ConnectError):
        ask(Service(clock, error=httpx.ConnectError("nobody there")), metrics, read)
    with pytest.raises(httpx.ReadError):
        ask(Service(clock, broken=True), metrics, read)
    assert metrics.tracker.get_failure_breakdown(REQUEST) == {"ConnectError": 1, "ReadError": 1}
    assert [tags["http.response.status_class"] for tags, _, _ in timed(metrics)] == ["none", "2xx"]
    assert active(metrics) == 0


def test_cancellation_has_a_failure_of_its_own(run, metrics):
    """A request that its caller gave up is ``cancelled``, on each event loop."""

    class Endless(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            await anyio.sleep(60)

    async def main():
        async with httpx.AsyncClient(transport=measured_transport(Endless(), metrics)) as client:
            with anyio.move_on_after(0.02):
                await client.get("http://books.example")

    run(main())
    assert metrics.tracker.get_failure_breakdown(REQUEST) == {"cancelled": 1}
    assert active(metrics) == 0


def test_a_redirect_is_another_request(metrics):
    """What is measured is each attempt, as a server sees it."""

    def answer(request):
        there = request.url.path == "/there"
        return httpx.Response(200) if there else httpx.Response(302, headers={"location": "/there"})

    transport = measured_transport(httpx.MockTransport(answer), metrics)
    with httpx.Client(transport=transport, follow_redirects=True) as client:
        client.get("http://books.example/")
    assert [tags["http.response.status_class"] for tags, _, _ in timed(metrics)] == ["3xx", "2xx"]


def test_each_kind_of_transport_keeps_its_kind(metrics):
    """A sync transport becomes a sync one, an async one an async one; anything else is refused."""
    sync = measured_transport(httpx.HTTPTransport(), metrics)
    assert not isinstance(sync, httpx.AsyncBaseTransport)
    assert not isinstance(measured_transport(httpx.AsyncHTTPTransport(), metrics), httpx.BaseTransport)
    with pytest.raises(InvalidInputError, match="not an httpx transport"):
        measured_transport(httpx.Client, metrics)
    sync.close()
