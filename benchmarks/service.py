"""A FastAPI service under load: how long its event loop is blocked, and how many requests it answers.

Each way of measuring is a process of its own, and they take turns. The load comes from this process, on the
other core: clients that ask one request after the other, a scrape every half a second, and subscribers.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import track

from benchmarks.service_workers import HISTOGRAMS, WAYS
from benchmarks.tables import Report

ROUNDS = 3
CLIENTS, REQUESTS, SUBSCRIBERS = 4, 400, 3
SCRAPE_SECONDS = 0.5


def main(rounds: int = ROUNDS) -> Report:
    """Measure, print, and return the table."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for way in track(list(WAYS) * rounds, "service", console=Console(stderr=True)):
        found.setdefault(way, []).append(_run(way))
    report = Report()
    report.say(
        f"Python {sys.version.split()[0]}, FastAPI on uvicorn. Medians of {rounds} rounds of"
        f" {CLIENTS * REQUESTS} requests by {CLIENTS} clients, with {HISTOGRAMS} histograms in the process."
    )
    report.table(
        "Blocks of the event loop of a service",
        ["longest, ms", "99 of 100 below, ms", "requests a second (ratio)"],
    )
    bare = statistics.median(rate for _, _, rate in found["bare"])
    for way, results in found.items():
        longest, usual, rate = (statistics.median(column) for column in zip(*results, strict=True))
        report.row(way, [f"{longest:.1f}", f"{usual:.1f}", f"{rate:.0f} ({rate / bare:.2f})"])
    report.show()
    return report


def _run(way: str) -> tuple[float, float, float]:
    """Return the longest and the usual block of the loop in milliseconds, and requests a second."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "metrics.json")
        command = [sys.executable, "-m", "benchmarks.service_workers", way, str(file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                address = f"http://127.0.0.1:{int(process.stdout.readline())}"
                rate = asyncio.run(_load(address, way))
                late = sorted(httpx.get(f"{address}/held-up", timeout=30).json())
            finally:
                process.terminate()
    return late[-1], late[len(late) * 99 // 100], rate


async def _load(address: str, way: str) -> float:
    async def customer() -> None:
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            for number in range(REQUESTS):
                (await client.get(f"/books/{number % 90}")).raise_for_status()

    async def scraper() -> None:
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            while True:
                answer = await client.get("/watch/metrics/")
                assert answer.text.count("ballast_bucket{") > HISTOGRAMS
                await asyncio.sleep(SCRAPE_SECONDS)

    async def subscriber(listening: asyncio.Semaphore) -> None:
        url = f"{address}/watch/stream?name=http.*"
        async with httpx.AsyncClient(timeout=30) as client, client.stream("GET", url) as answer:
            answer.raise_for_status()
            listening.release()
            async for _ in answer.aiter_raw():
                pass

    beside = []
    if "scraped" in way:
        beside.append(asyncio.ensure_future(scraper()))
    if "streamed" in way:
        listening = asyncio.Semaphore(0)
        beside += [asyncio.ensure_future(subscriber(listening)) for _ in range(SUBSCRIBERS)]
        for _ in range(SUBSCRIBERS):
            await listening.acquire()
    async with httpx.AsyncClient(base_url=address, timeout=30) as client:
        await client.get("/books/1")  # creates everything that is created once
        await asyncio.sleep(1.5)
        await client.post("/held-up")
    begin = time.perf_counter()
    await asyncio.gather(*(customer() for _ in range(CLIENTS)))
    took = time.perf_counter() - begin
    for task in beside:
        assert not task.done(), task.exception()
        task.cancel()
    return CLIENTS * REQUESTS / took


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
