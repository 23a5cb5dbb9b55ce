"""Each attempt of an httpx request is counted once, to the end of the body, for both kinds of client."""

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
    """Return a system whose clock the test moves."""
    return MetricsSystem(clock=clock)


def timed(metrics, name=REQUEST) -> list[tuple[dict[str, str], int, float]]:
    """Return the tags, count and longest duration of each series."""
    return [
        (value.tags, value.metadata["count"], value.metadata["max"])
        for value in metrics.aggregator.get_metrics_by_tag({})
        if value.name == name and value.metric_type is MetricType.TIMER
    ]


def active(metrics, name="http.client.active_requests") -> float:
    """Return the number of requests in flight."""
    return metrics.aggregator.get_metric_summary(name)["last"]


class Service(httpx.AsyncBaseTransport, httpx.BaseTransport):
    """A service that takes a second to respond and one for each part of its body."""

    def __init__(self, clock, status=200, error=None, broken=False, headers=None):
        self.clock, self.status, self.error, self.broken, self.closed = clock, status, error, broken, 0
        self.headers = headers

    def handle_request(self, request):
        """Respond, or raise."""
        self.clock.advance(1)
        if self.error is not None:
            raise self.error
        return httpx.Response(self.status, headers=self.headers, stream=Body(self))

    async def handle_async_request(self, request):
        """Respond, or raise."""
        return self.handle_request(request)

    def close(self):
        """Count."""
        self.closed += 1

    async def aclose(self):
        """Count."""
        self.closed += 1


class Body(httpx.AsyncByteStream, httpx.SyncByteStream):
    """Two parts, the second of which may never arrive."""

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
    """Send a request with a `Client`."""
    with (
        httpx.Client(transport=measured_transport(service, metrics)) as client,
        client.stream(method, url) as response,
    ):
        return use(response)


def ask_async(service, metrics, use, method="GET", url="http://books.example:8080/a/7?q=1"):
    """Send a request with an `AsyncClient`."""

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
    """Its tags are the method, the host and the status class, never the URL. The body is unchanged."""
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
def test_closing_a_body_early_is_a_success(metrics, clock, ask):
    """The request ends there."""
    ask(Service(clock), metrics, lambda response: clock.advance(5))
    assert [(count, longest) for _, count, longest in timed(metrics)] == [(1, 6000)]
    assert metrics.tracker.get_success_rate(REQUEST) == 1
    assert active(metrics) == 0


@both
@pytest.mark.parametrize("status", [404, 503])
def test_error_statuses_are_failures(metrics, clock, ask, status):
    """For a client, the error type of a status of 400 or more is its number."""
    ask(Service(clock, status), metrics, read)
    assert metrics.tracker.get_failure_breakdown(REQUEST) == {str(status): 1}


@both
def test_an_exception_is_a_failure_by_its_name(metrics, clock, ask):
    """A failed connection or an interrupted body: the exception propagates unchanged."""
    with pytest.raises(httpx.ConnectError):
        ask(Service(clock, error=httpx.ConnectError("connection refused")), metrics, read)
    with pytest.raises(httpx.ReadError):
        ask(Service(clock, broken=True), metrics, read)
    assert metrics.tracker.get_failure_breakdown(REQUEST) == {"ConnectError": 1, "ReadError": 1}
    assert [tags["http.response.status_class"] for tags, _, _ in timed(metrics)] == ["none", "2xx"]
    assert active(metrics) == 0


@both
def test_an_event_stream_is_an_operation_of_its_own(metrics, clock, ask):
    """It is neither a request in the timer, nor one in flight."""
    service = Service(clock, headers={"content-type": "text/event-stream; charset=utf-8"})
    seen = []

    def use(response):
        seen.append((active(metrics), active(metrics, "http.client.active_event_streams")))
        clock.advance(3600)

    ask(service, metrics, use)
    ((tags, count, longest),) = timed(metrics, "http.client.event_stream")
    assert (tags["http.response.status_class"], tags["server.address"]) == ("2xx", "books.example")
    assert (count, longest) == (1, 3_601_000)
    assert timed(metrics) == []
    assert seen == [(0, 1)]
    assert (active(metrics), active(metrics, "http.client.active_event_streams")) == (0, 0)


def test_a_cancelled_request_is_neither_a_success_nor_a_failure(run, metrics):
    """Its duration has the status class ``cancelled``, on each event loop."""

    class Endless(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            await anyio.sleep(60)

    async def main():
        async with httpx.AsyncClient(transport=measured_transport(Endless(), metrics)) as client:
            with anyio.move_on_after(0.02):
                await client.get("http://books.example")

    run(main())
    assert metrics.tracker.get_failure_breakdown(REQUEST) == {}
    assert metrics.get_system_health()["operations"] == 0
    assert [tags["http.response.status_class"] for tags, _, _ in timed(metrics)] == ["cancelled"]
    assert active(metrics) == 0


def test_a_redirect_is_a_separate_request(metrics):
    """Each attempt is measured, as a server sees it."""

    def answer(request):
        there = request.url.path == "/there"
        return httpx.Response(200) if there else httpx.Response(302, headers={"location": "/there"})

    transport = measured_transport(httpx.MockTransport(answer), metrics)
    with httpx.Client(transport=transport, follow_redirects=True) as client:
        client.get("http://books.example/")
    assert [tags["http.response.status_class"] for tags, _, _ in timed(metrics)] == ["3xx", "2xx"]


def test_each_kind_of_transport_keeps_its_kind(metrics):
    """A sync transport becomes a sync one, an async one an async one; anything else is an error."""
    sync = measured_transport(httpx.HTTPTransport(), metrics)
    assert not isinstance(sync, httpx.AsyncBaseTransport)
    assert not isinstance(measured_transport(httpx.AsyncHTTPTransport(), metrics), httpx.BaseTransport)
    with pytest.raises(InvalidInputError, match="not an httpx transport"):
        measured_transport(httpx.Client, metrics)
    sync.close()


@both
@pytest.mark.parametrize(
    ("rule", "service", "raised", "rate", "failed"),
    [
        ({"ignore": httpx.ConnectError}, {"error": httpx.ConnectError("no")}, httpx.ConnectError, 1.0, {}),
        ({"ignore": httpx.ReadError}, {"broken": True}, httpx.ReadError, 1.0, {}),
        ({"ignore": httpx.ReadError}, {"broken": True, "status": 503}, httpx.ReadError, 0.0, {"503": 1}),
        (
            {"ignore": httpx.HTTPError, "failures": httpx.ReadError},
            {"broken": True},
            httpx.ReadError,
            0.0,
            {"ReadError": 1},
        ),
        (
            {"failures": asyncio.CancelledError},
            {"error": asyncio.CancelledError()},
            asyncio.CancelledError,
            0.0,
            {"cancelled": 1},
        ),
    ],
)
def test_the_rule_of_the_system_decides_which_exceptions_are_failures(
    clock, ask, rule, service, raised, rate, failed
):
    """`ignore` and `failures` hold for requests as for `measure`; a status of 400 or more stays a failure."""
    metrics = MetricsSystem(clock=clock, **rule)
    with pytest.raises(raised):
        ask(Service(clock, **service), metrics, read)
    assert metrics.timer.get_timing_stats(REQUEST)["count"] == 1
    assert metrics.tracker.get_success_rate(REQUEST) == rate
    assert metrics.tracker.get_failure_breakdown(REQUEST) == failed
    assert active(metrics) == 0
