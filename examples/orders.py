"""A small order service, which the ``service_*.py`` examples share.

The constructor of `OrderService` takes three Protocols and knows no backend. The examples differ only in how
they create these dependencies and inject them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework import MetricCollector, MetricsSystem, PerformanceTimer, SuccessFailureTracker

PLACE = "order.place"


class OutOfStock(Exception):  # noqa: N818 - the term of the shop
    """The stock of an item is too low for an order."""


class OrderService:
    """Places orders and counts them."""

    def __init__(
        self,
        stock: dict[str, int],
        collector: MetricCollector,
        timer: PerformanceTimer,
        tracker: SuccessFailureTracker,
    ) -> None:
        self._stock = stock
        self._collector = collector
        self._timer = timer
        self._tracker = tracker

    async def place(self, item: str, quantity: int) -> int:
        """Place an order and return the remaining stock of the item.

        Raises:
            OutOfStock: If the stock is below ``quantity``.
        """
        timer_id = self._timer.start_timer(PLACE)
        success = False
        try:
            await asyncio.sleep(random.uniform(0.001, 0.005))  # the payment
            if self._stock.get(item, 0) < quantity:
                self._tracker.record_failure(PLACE, "OutOfStock", {"item": item})
                raise OutOfStock(item)
            self._stock[item] -= quantity
            success = True
        finally:
            self._timer.stop_timer(timer_id, success)
        self._tracker.record_success(PLACE)
        # Each tag has few values, because each combination of values is a series of its own.
        self._collector.increment("orders", {"item": item})
        self._collector.record_histogram("order.quantity", quantity)
        self._collector.record_gauge("stock", self._stock[item], {"item": item})
        return self._stock[item]


def full_stock() -> dict[str, int]:
    """Return the initial stock; the lamps will sell out."""
    return {"book": 500, "chair": 300, "lamp": 60}


async def simulate(place: Callable[[str, int], Awaitable[object]], customers: int = 10) -> None:
    """Let customers place 20 orders each, concurrently."""

    async def shop() -> None:
        for _ in range(20):
            with suppress(OutOfStock):  # the service has counted it
                await place(random.choice(["book", "chair", "lamp"]), random.randint(1, 3))

    await asyncio.gather(*(shop() for _ in range(customers)))


def report(metrics: MetricsSystem) -> None:
    """Print the measurements and the path of their snapshot."""
    stats = metrics.timer.get_timing_stats(PLACE)
    print(f"{'orders placed or refused':<28}{stats['count']:>8.0f}")
    for key in ("avg", "p50", "p95", "max"):
        print(f"{f'  {key}':<28}{stats[key]:>8.2f} ms")
    print(f"{'success rate':<28}{metrics.tracker.get_success_rate(PLACE):>8.1%}")
    for error_type, number in metrics.tracker.get_failure_breakdown(PLACE).items():
        print(f"{f'  {error_type}':<28}{number:>8}")
    for value in metrics.aggregator.get_metrics_by_tag({}):
        if value.name in ("orders", "stock"):
            label = f"{value.name} of {value.tags['item']}s"
            print(f"{label:<28}{value.value:>8}")
    print(SnapshotWriter("snapshots").write(metrics.snapshot()))
