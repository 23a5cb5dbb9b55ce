"""A service under load that is recorded, scraped, streamed to three clients and exported at once."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.heavy

REQUEST = "http.server.request"
CLIENTS, REQUESTS, SUBSCRIBERS = 6, 150, 3


def scraped(text: str) -> int:
    """Return the request count of a scrape."""
    lines = "\n".join(line for line in text.splitlines() if "http_server_request_duration" in line)
    return int(
        sum(
            sample.value
            for family in text_string_to_metric_families(f"{lines}\n")
            for sample in family.samples
            if sample.name.endswith("_count")
        )
    )


def exported(file: Path) -> list[dict[str, Any]]:
    """Return the series of an export."""
    return json.loads(file.read_text())["metrics"]


async def watch(address: str, listening: asyncio.Semaphore, asked: asyncio.Future[int]) -> tuple[int, int]:
    """Return how many events of requests a subscriber received, and how many it was told that it lost."""
    events = dropped = 0
    url = f"{address}/watch/stream?name={REQUEST}&type=timer"
    async with httpx.AsyncClient(timeout=30) as client, client.stream("GET", url) as response:
        listening.release()
        kind = ""
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: ") and kind == "metric":
                assert json.loads(line.removeprefix("data: "))["name"] == REQUEST
                events += 1
            elif line.startswith("data: ") and kind == "dropped":
                dropped += int(json.loads(line.removeprefix("data: "))["dropped"])
            if asked.done() and events + dropped >= asked.result():
                return events, dropped
    raise AssertionError("the stream ended")


async def use(address: str) -> tuple[Counter[int], list[int], list[tuple[int, int]]]:
    """Return the requests by status, the counts of scrapes, and the events of subscribers."""
    asked: Counter[int] = Counter()
    scrapes: list[int] = []
    total: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def customer(number: int) -> None:
        chosen = random.Random(number)
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            for _ in range(REQUESTS):
                asked[(await client.get(f"/books/{chosen.randrange(100)}")).status_code] += 1

    async def scraper() -> None:
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            while True:
                scrapes.append(scraped((await client.get("/watch/metrics")).text))
                await asyncio.sleep(0.2)

    listening = asyncio.Semaphore(0)
    watching = [asyncio.ensure_future(watch(address, listening, total)) for _ in range(SUBSCRIBERS)]
    for _ in watching:
        await listening.acquire()
    scraping = asyncio.ensure_future(scraper())
    await asyncio.gather(*map(customer, range(CLIENTS)))
    total.set_result(asked.total())
    got = await asyncio.wait_for(asyncio.gather(*watching), 60)
    scraping.cancel()
    return asked, scrapes, got


@pytest.fixture
def service(tmp_path: Path):
    """Yield the address of the service in its own process, and the file that it exports to."""
    script = Path(__file__).with_name("loaded_service.py")
    process = subprocess.Popen(
        [sys.executable, script, str(tmp_path / "metrics.json")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", tmp_path / "metrics.json"
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_every_path_agrees_with_the_load_generator(service, record_property):
    """Scrapes, three streams, the exported file and the snapshot count the requests of the clients."""
    address, file = service
    httpx.get(f"{address}/watch/health", timeout=30)
    asked, scrapes, got = asyncio.run(use(address))
    assert asked.total() == CLIENTS * REQUESTS
    assert scrapes == sorted(scrapes)
    assert got == [(asked.total(), 0)] * SUBSCRIBERS
    assert scraped(httpx.get(f"{address}/watch/metrics", timeout=30).text) == asked.total()
    assert httpx.post(f"{address}/export", timeout=30).json() == {f"file:{file}": True}
    counts = Counter()
    for value in exported(file):
        if value["name"] == REQUEST and value["type"] == "timer":
            counts[value["tags"]["http.response.status_class"]] += value["metadata"]["count"]
    assert counts == {"2xx": asked[200], "4xx": asked[404]}
    custom = httpx.get(f"{address}/watch/snapshot", timeout=30).json()["metrics"]
    assert "latency" in custom
    (lag,) = [value for value in exported(file) if value["name"] == "event_loop.lag"]
    record_property("milliseconds that the loop was held up at most", lag["metadata"]["max"])
