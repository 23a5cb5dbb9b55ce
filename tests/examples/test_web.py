"""The example that exposes its metrics at ``/internal``."""

from __future__ import annotations

import asyncio
import importlib

import httpx
import pytest

from metrics_framework import MetricsSystem

pytest.importorskip("fastapi")


def test_fastapi(examples, clock):
    """Everything that the application exposes shows an order that it placed, to clients with the token."""
    app = importlib.import_module("web_fastapi").create_watched_app(MetricsSystem(clock=clock), "s3cret")

    async def talk():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            taken = await client.post("/orders", json={"item": "lamp", "quantity": 59})
            refused = await client.get("/internal/metrics")
            client.headers["Authorization"] = "Bearer s3cret"
            return [
                taken,
                refused,
                *[await client.get(f"/internal/{name}") for name in ("metrics", "snapshot", "health")],
            ]

    taken, refused, metrics, snapshot, health = asyncio.run(talk())
    assert (taken.status_code, refused.status_code) == (200, 401)
    assert 'orders_total{item="lamp"} 1' in metrics.text
    assert snapshot.json()["metrics"]["custom"]["orders[item:lamp]"] == 1
    assert health.json()["recorded"] > 0
