"""The order service in plain asyncio: dependencies are passed to the constructor.

    python examples/service_asyncio.py

It needs only metrics-framework, and prints a table and the path of a snapshot.
"""

from __future__ import annotations

import asyncio

from orders import OrderService, full_stock, report, simulate

from metrics_framework import MetricsSystem


async def main() -> None:
    """Create the service, simulate customers, and print the measurements."""
    async with MetricsSystem() as metrics:
        # The only place that chooses the adapters. A test passes others.
        service = OrderService(full_stock(), metrics.collector, metrics.timer, metrics.tracker)
        await simulate(service.place)
        report(metrics)


if __name__ == "__main__":
    asyncio.run(main())
