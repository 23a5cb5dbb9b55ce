"""The examples that Prometheus scrapes: each exposes its metrics at ``/metrics``."""

from __future__ import annotations

import asyncio
import importlib

import httpx
import pytest

from metrics_framework import MetricsSystem


async def talk(app, *requests):
    """Return the responses of an application to some requests."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        return [await client.request(*request[:2], **dict(request[2:])) for request in requests]


def test_fastapi(examples, clock):
    """A scrape of the application shows an order that it placed."""
    pytest.importorskip("fastapi")
    app = importlib.import_module("scrape_fastapi").create_scraped_app(MetricsSystem(clock=clock))
    order = ("json", {"item": "lamp", "quantity": 59})
    taken, scrape = asyncio.run(talk(app, ("POST", "/orders", order), ("GET", "/metrics")))
    assert (taken.status_code, scrape.status_code) == (200, 200)
    assert 'orders_total{item="lamp"} 1' in scrape.text


def test_several_workers(examples, tmp_path, monkeypatch):
    """The application that shares its numbers with other workers answers a scrape."""
    pytest.importorskip("fastapi")
    monkeypatch.setattr("metrics_framework.processes.group.MEMORY_FOLDER", tmp_path)
    app = importlib.import_module("several_workers").app
    order = ("json", {"item": "lamp", "quantity": 59})
    taken, scrape = asyncio.run(talk(app, ("POST", "/orders", order), ("GET", "/metrics")))
    assert (taken.status_code, scrape.status_code) == (200, 200)
    assert 'orders_total{item="lamp"} 1' in scrape.text
    [root] = tmp_path.iterdir()
    assert len(list(root.iterdir())) == 1
    app.state.metrics.shutdown_metrics()
    assert list(root.iterdir()) == []


def test_starlette(examples, clock, monkeypatch):
    """A greeting is counted, and a scrape with the token shows it."""
    monkeypatch.setenv("METRICS_TOKEN", "s3cret")
    app = importlib.import_module("scrape_starlette").create_app(MetricsSystem(clock=clock))
    token = ("headers", {"Authorization": "Bearer s3cret"})
    greeting, refused, scrape = asyncio.run(
        talk(app, ("GET", "/hello/you"), ("GET", "/metrics"), ("GET", "/metrics", token))
    )
    assert (greeting.text, refused.status_code) == ("Hello you\n", 401)
    assert "greet_duration_seconds_count 1" in scrape.text.replace("{}", "")


def test_flask(examples, clock):
    """A greeting is counted and shown; other paths are answered by Flask."""
    pytest.importorskip("flask")
    app = importlib.import_module("scrape_flask").create_app(MetricsSystem(clock=clock))
    client = app.test_client()
    assert client.get("/hello/you").text == "Hello you\n"
    assert "greet_duration_seconds_count 1" in client.get("/metrics").text.replace("{}", "")
    assert client.get("/other").status_code == 404
