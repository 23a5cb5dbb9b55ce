"""The live page of a service with several worker processes, in a real browser."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(sys.platform != "linux", reason="the workers of uvicorn share their numbers on Linux"),
]

EXAMPLES = Path(__file__).parents[3] / "examples"
TIMEOUT_SECONDS = 60.0
WORKERS = 4


class Shop:
    """The example of several workers, under uvicorn."""

    def __init__(self, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        command = ["uvicorn", "--app-dir", str(EXAMPLES), "--workers", str(WORKERS), "--port", str(self.port)]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command, "several_workers:app"], stdout=output, stderr=output
            )

    def request(self, path: str, body: object = None) -> str:
        """Return the body of a response of any worker."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        try:
            headers = {"Connection": "close", "Content-Type": "application/json"}
            connection.request("GET" if body is None else "POST", path, body and json.dumps(body), headers)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def place_orders(self, number: int) -> None:
        """Order more books than there are, so that each order fails."""
        for _ in range(number):
            self.request("/orders", {"item": "book", "quantity": 1_000_000})

    @property
    def failures(self) -> int:
        """The number of failed orders that a worker exposes for all."""
        found = re.search(r'_total\{.*error_type="OutOfStock".*\} (\S+)', self.request("/metrics"))
        return int(float(found[1])) if found else 0


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Run the example until the end of the test."""
    started = Shop(tmp_path / "log")
    try:
        until(lambda: "healthy" in started.request("/internal/health"))
        yield started
    finally:
        started.process.terminate()
        started.process.wait(TIMEOUT_SECONDS)


def until(holds: Callable[[], Any]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + TIMEOUT_SECONDS
    while True:
        with suppress(OSError):
            if holds():
                return
        assert time.monotonic() < end, "the condition was not true in time"
        time.sleep(0.05)


def test_the_page_of_any_worker_shows_the_numbers_of_all(shop: Shop, chromium: str) -> None:
    """Four workers take orders, twice, and each time the page has the numbers of `/metrics`."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(1000 * TIMEOUT_SECONDS)
        page.goto(f"http://127.0.0.1:{shop.port}/internal/#tab=errors")
        cell = page.locator("[data-panel=failures-by-kind] tr", has_text="OutOfStock").locator("td").first
        for placed in (200, 400):
            customers = [threading.Thread(target=shop.place_orders, args=[25]) for _ in range(8)]
            for customer in customers:
                customer.start()
            for customer in customers:
                customer.join()
            assert shop.failures == placed
            until(lambda placed=placed: cell.get_attribute("title") == f"{placed} count")
        assert page.locator("#facts div", has_text="Processes").locator("dd").inner_text() == str(WORKERS)
        browser.close()
