"""FastAPI injects the application's system and its parts by annotation."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from metrics_adapters.instrumentation.fastapi import Collector, Metrics, Timer, Tracker, get_metrics
from metrics_framework import MetricsSystem, use
from metrics_framework.errors import InvalidInputError


@pytest.fixture
def metrics(clock) -> MetricsSystem:
    """Return a system with a clock that stands still."""
    return MetricsSystem(clock=clock)


def make_app() -> FastAPI:
    """Return an application that uses every part."""
    app = FastAPI()

    @app.get("/")
    async def handle(collector: Collector, timer: Timer, tracker: Tracker, metrics: Metrics) -> bool:
        collector.increment("orders")
        timer.stop_timer(timer.start_timer("order"))
        tracker.record_success("order")
        return (collector, timer, tracker) == (metrics.collector, metrics.timer, metrics.tracker)

    return app


def get(app) -> httpx.Response:
    """Return the response that a client receives."""

    async def main():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://s") as client:
            return await client.get("/")

    return asyncio.run(main())


def orders(metrics) -> float:
    """Return the counted orders."""
    return metrics.aggregator.get_metric_summary("orders")["total"]


def test_the_parts_are_those_of_the_application(metrics):
    """``app.state.metrics`` is the system; collector, timer and tracker are its parts."""
    app = make_app()
    app.state.metrics = metrics
    assert get(app).json() is True
    assert orders(metrics) == 1
    assert metrics.tracker.get_success_rate("order") == 1


def test_a_lifespan_can_provide_the_system(metrics):
    """The ``metrics`` that it yields take precedence."""
    app = make_app()
    app.state.metrics = MetricsSystem()

    async def served(scope, receive, send):  # a server passes on the state of the lifespan
        await app({**scope, "state": {"metrics": metrics}}, receive, send)

    assert get(served).json() is True
    assert orders(metrics) == 1


def test_the_current_system_is_the_fallback(metrics):
    """An application without a system gets the current one; outside of `use` it discards records."""
    assert get(make_app()).json() is True
    with use(metrics):
        get(make_app())
    assert orders(metrics) == 1


def test_a_test_overrides_one_dependency(metrics):
    """One line replaces the system and all its parts."""
    app = make_app()
    app.state.metrics = outside = MetricsSystem()
    app.dependency_overrides[get_metrics] = lambda: metrics
    get(app)
    assert orders(metrics) == 1
    assert outside.aggregator.get_metrics_by_tag({}) == []


def test_a_state_of_another_type_is_an_error():
    """Instead of a confusing error later."""
    app = make_app()
    app.state.metrics = {"orders": 1}
    with pytest.raises(InvalidInputError, match="is not a MetricsSystem"):
        get(app)
