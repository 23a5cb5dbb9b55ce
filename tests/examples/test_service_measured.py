"""The service with automatic metrics."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from metrics_framework import MetricsSystem

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")


def test_a_scrape_shows_everything_a_request_did(examples, clock):
    """For one book: a request by route, an outgoing request by host, a task, and the counter of books."""
    app = importlib.import_module("service_measured").create_app(MetricsSystem(clock=clock))

    async def talk():
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://books") as client,
        ):
            answers = [(await client.get(path)).text for path in ("/books/1", "/books/3", "/pages/2")]
            return answers, (await client.get("/metrics")).text

    answers, scrape = asyncio.run(talk())
    assert answers == ['{"title":"Emma","stars":5}', '{"detail":"no such book"}', "page 0\npage 1\n"]
    assert 'books_shown_total{title="Emma"} 1' in scrape
    series = """
http_server_request_duration_seconds_count{%s,http_response_status_class="4xx",http_route="/books/{number}"} 1
http_client_request_duration_seconds_count{%s,http_response_status_class="2xx",server_address="ratings"} 1
async_task_duration_seconds_count{task_name="rating"} 1
http_server_active_requests{%s} 0
"""
    for line in series.replace("%s", 'http_request_method="GET"').strip().splitlines():
        assert line in scrape.splitlines()
    assert "/metrics" not in scrape
