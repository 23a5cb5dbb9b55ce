"""The order service in FastAPI, run as a reader runs it."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from metrics_framework import MetricsSystem

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")


@pytest.mark.heavy
def test_the_table_and_the_snapshot_agree(run_service, check_service):
    """200 orders go through the application, and every printed number is also in the snapshot."""
    check_service(*run_service("service_fastapi.py"))


def test_a_test_can_inject_its_own_system(examples, clock):
    """One line replaces the system of every handler; responses contain the remaining stock or an error."""
    service = importlib.import_module("service_fastapi")
    inside, outside = MetricsSystem(clock=clock), MetricsSystem(clock=clock)
    app = service.create_app(outside)
    app.dependency_overrides[service.get_metrics] = lambda: inside

    async def talk():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            taken = await client.post("/orders", json={"item": "lamp", "quantity": 59})
            refused = await client.post("/orders", json={"item": "lamp", "quantity": 2})
            return taken, refused, await client.get("/health")

    taken, refused, health = asyncio.run(talk())
    assert (taken.status_code, taken.json()) == (200, {"left": 1})
    assert (refused.status_code, refused.json()) == (409, {"detail": "not enough of lamp"})
    assert health.json()["error_rate"] == 0.5
    assert inside.tracker.get_success_rate("order.place") == 0.5
    assert outside.aggregator.get_metrics_by_tag({}) == []
