"""A shop with simulated customers, on a live page.

    pip install 'metrics-framework[web]'
    python examples/live.py [--port 9400] [--seed 1] [--snapshots snapshots]

It prints the URL of the page. Customers call six routes, in the last quarter of each minute more slowly and
with more failures, and a job imports files of prices. Ctrl-C ends it with a snapshot, which the page shows in
its history the next time.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from metrics_adapters.asgi import serve_app
from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework import MetricsSystem
from metrics_framework.batch import BatchMetrics

REQUEST = "http.server.request"
VISITS_PER_SECOND = 30.0
SLOW_SECONDS = 15
"""How long the database is slow, at the end of each minute."""

ITEMS = ("book", "chair", "lamp", "pen")


class PaymentDeclinedError(Exception):
    """The bank declined the payment."""


class OutOfStockError(Exception):
    """An item of an order is sold out."""


class CorruptFileError(Exception):
    """A file of prices cannot be read."""


class UnchangedFileError(Exception):
    """A file of prices has been imported before."""


UNREACHABLE = (TimeoutError, TimeoutError, ConnectionError)
REFUSED = (PaymentDeclinedError, PaymentDeclinedError, PaymentDeclinedError, OutOfStockError, OutOfStockError)


@dataclass(frozen=True)
class Route:
    """A route of the shop.

    Attributes:
        method: Its method.
        template: Its path.
        weight: How often customers call it.
        median: The median of its duration in milliseconds. Durations are lognormal.
        spread: The standard deviation of their logarithm.
        suffers: Whether it needs the database, so that it is slow when that is slow.
        faults: The errors of its requests; an error that is listed twice is twice as frequent.
        failures: The share of requests that fail.
    """

    method: str
    template: str
    weight: int
    median: float
    spread: float
    suffers: bool = False
    faults: tuple[type[Exception], ...] = UNREACHABLE
    failures: float = 0.01


ROUTES = (
    Route("GET", "/items", 38, 14, 0.45),
    Route("GET", "/items/{id}", 30, 8, 0.35),
    Route("GET", "/search", 14, 70, 0.6, suffers=True),
    Route("POST", "/orders", 10, 55, 0.5, suffers=True, faults=(*UNREACHABLE, *REFUSED), failures=0.06),
    Route("POST", "/login", 6, 35, 0.4),
    Route("GET", "/reports/{year}", 2, 190, 0.35, suffers=True),
)


@dataclass(frozen=True)
class Visit:
    """One request of a customer.

    Attributes:
        route: Its route.
        pause: The seconds since the visit before.
        seconds: How long it takes, 5 to 400 ms.
        fault: The error it ends with, if any.
        is_cached: Whether its answer is in the cache.
        item: The item it is about.
    """

    route: Route
    pause: float
    seconds: float
    fault: type[Exception] | None
    is_cached: bool
    item: str


def is_slow(moment: float) -> bool:
    """Return whether the database is slow at a time in seconds."""
    return moment % 60 >= 60 - SLOW_SECONDS


def visits(random: Random, start: float) -> Iterator[Visit]:
    """Yield visits without an end, the same ones for equal arguments.

    Args:
        random: Draws everything.
        start: The time of the first visit in seconds.
    """
    moment = start
    weights = [route.weight for route in ROUTES]
    while True:
        crowd = 1 + 0.4 * math.sin(2 * math.pi * moment / 180)  # customers come and go
        pause = random.expovariate(VISITS_PER_SECOND * crowd)
        moment += pause
        (route,) = random.choices(ROUTES, weights)
        suffers = route.suffers and is_slow(moment)
        is_cached = route.method == "GET" and random.random() < (0.6 if suffers else 0.85)
        milliseconds = random.lognormvariate(math.log(route.median), route.spread) * (2.5 if suffers else 1)
        fails = random.random() < route.failures + (0.03 if suffers else 0)
        yield Visit(
            route,
            pause,
            min(max(milliseconds * (0.6 if is_cached else 1), 5), 400) / 1e3,
            random.choice(route.faults) if fails else None,
            is_cached,
            random.choice(ITEMS),
        )


class Shop:
    """The shop: it measures requests, the queue of its orders, its cache, and the import of prices.

    Args:
        metrics: Receives the numbers.
        random: Draws what happens.
    """

    def __init__(self, metrics: MetricsSystem, random: Random) -> None:
        self._metrics = metrics
        self._random = random
        self._queue: deque[str] = deque()
        self._lookups: deque[bool] = deque([True], maxlen=500)
        metrics.callbacks.add("shipping.queue.size", lambda: len(self._queue))
        metrics.callbacks.add("cache.hit_ratio", lambda: sum(self._lookups) / len(self._lookups))

    async def open(self) -> None:
        """Serve customers, ship orders and import prices, until the task is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ship())
            group.create_task(self._import_prices())
            for visit in visits(self._random, time.time()):
                await asyncio.sleep(visit.pause)
                group.create_task(self._respond(visit))

    async def _respond(self, visit: Visit) -> None:
        route, metrics = visit.route, self._metrics
        if route.method == "GET":
            self._lookups.append(visit.is_cached)
        tags = {"http.request.method": route.method, "http.route": route.template}
        with suppress(*UNREACHABLE, *REFUSED):
            async with metrics.measure(REQUEST, tags):
                if not visit.is_cached:
                    async with metrics.measure("db.query", {"table": route.template.split("/")[1]}):
                        await asyncio.sleep(visit.seconds * 0.6)
                await asyncio.sleep(visit.seconds * (1 if visit.is_cached else 0.4))
                if visit.fault is not None:
                    raise visit.fault
            if route.template == "/orders":
                self._queue.append(visit.item)
                metrics.collector.increment("orders", {"item": visit.item})

    async def _ship(self) -> None:
        while True:
            await asyncio.sleep(0.9 if is_slow(time.time()) else 0.25)
            if self._queue:
                self._metrics.collector.increment("parcels", {"item": self._queue.popleft()})

    async def _import_prices(self) -> None:
        for day in range(1, 10_000):
            with BatchMetrics(f"prices-{day}", system=self._metrics, skip_on=(UnchangedFileError,)) as batch:
                for number in range(60):
                    fate = self._random.random()
                    rows = self._random.randint(200, 2_000)
                    async with batch.file(f"prices-{day}-{number}.csv") as file:
                        if fate < 0.05:
                            raise UnchangedFileError
                        await asyncio.sleep(rows / 5_000 * self._random.lognormvariate(0, 0.3))
                        if fate > 0.97:
                            raise CorruptFileError
                        file.samples = rows
            await asyncio.sleep(10)


def main() -> None:
    """Open the shop and its page, until Ctrl-C."""
    parser = argparse.ArgumentParser(description="A shop with simulated customers, on a live page.")
    parser.add_argument("--port", type=int, default=9400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--snapshots", type=Path, default=Path("snapshots"))
    options = parser.parse_args()
    with MetricsSystem(tags={"service": "shop"}, latency_metric=REQUEST) as metrics:
        shop = Shop(metrics, Random(options.seed))
        metrics.initialize_metrics({"collection_interval": 1})
        with serve_app(metrics, options.port, snapshots=options.snapshots, allow_hosts=()) as server:
            print(f"the shop is open: {server.url}/ (Ctrl-C ends it)", flush=True)
            with suppress(KeyboardInterrupt):
                asyncio.run(shop.open())
        snapshot, report = metrics.build_snapshot(tags={"seed": str(options.seed)})
    print(SnapshotWriter(options.snapshots).write(snapshot, report.distributions))


if __name__ == "__main__":
    main()
