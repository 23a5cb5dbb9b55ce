"""The order service with svcs: a registry creates dependencies by their type.

    pip install svcs
    python examples/service_svcs.py

It prints a table and the path of a snapshot. https://svcs.hynek.me
"""

from __future__ import annotations

import asyncio

import svcs
from orders import OrderService, full_stock, report, simulate

from metrics_framework import MetricCollector, MetricsSystem, PerformanceTimer, SuccessFailureTracker


def register(registry: svcs.Registry, metrics: MetricsSystem) -> None:
    """Register an implementation of each Protocol. A test registers others under the same types."""
    registry.register_value(MetricCollector, metrics.collector)
    registry.register_value(PerformanceTimer, metrics.timer)
    registry.register_value(SuccessFailureTracker, metrics.tracker)
    stock = full_stock()

    def make_service(services: svcs.Container) -> OrderService:
        return OrderService(
            stock, *services.get_abstract(MetricCollector, PerformanceTimer, SuccessFailureTracker)
        )

    registry.register_factory(OrderService, make_service)


async def main() -> None:
    """Fill the registry, simulate customers, and print the measurements."""
    async with MetricsSystem() as metrics, svcs.Registry() as registry:
        register(registry, metrics)

        async def place(item: str, quantity: int) -> None:
            # One container per request. In a web framework, the integration of svcs creates it.
            async with svcs.Container(registry) as services:
                await services.get(OrderService).place(item, quantity)

        await simulate(place)
        report(metrics)


if __name__ == "__main__":
    asyncio.run(main())
