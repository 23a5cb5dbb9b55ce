"""The order service in FastAPI: `Depends` injects the dependencies.

    pip install fastapi httpx
    python examples/service_fastapi.py

Simulated customers call the application in the same process. It prints a table and the path of a snapshot.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import httpx
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from orders import OrderService, OutOfStock, full_stock, report, simulate
from pydantic import BaseModel

from metrics_framework import MetricsSystem

router = APIRouter()


class Order(BaseModel):
    """The request body of an order."""

    item: str
    quantity: int


def get_metrics(request: Request) -> MetricsSystem:
    """Return the application's system. In a test: ``app.dependency_overrides[get_metrics] = …``."""
    metrics: MetricsSystem = request.app.state.metrics
    return metrics


def get_service(request: Request, metrics: Annotated[MetricsSystem, Depends(get_metrics)]) -> OrderService:
    """Create the service. This is cheap, so each request creates one."""
    return OrderService(request.app.state.stock, metrics.collector, metrics.timer, metrics.tracker)


@router.post("/orders")
async def place_order(order: Order, service: Annotated[OrderService, Depends(get_service)]) -> dict[str, int]:
    """Place an order."""
    try:
        return {"left": await service.place(order.item, order.quantity)}
    except OutOfStock as error:
        raise HTTPException(409, f"not enough of {error}") from error


@router.get("/health")
def health(metrics: Annotated[MetricsSystem, Depends(get_metrics)]) -> JSONResponse:
    """Return the health of the process, with status 503 if it is unhealthy."""
    found = metrics.get_system_health()
    return JSONResponse(found, 200 if found["healthy"] else 503)


def create_app(metrics: MetricsSystem) -> FastAPI:
    """Create the application. Nothing is global, so a test can create its own."""
    app = FastAPI()
    app.state.metrics = metrics
    app.state.stock = full_stock()
    app.include_router(router)
    return app


async def main() -> None:
    """Start the application, simulate customers, and print the measurements."""
    async with MetricsSystem() as metrics:
        transport = httpx.ASGITransport(create_app(metrics))
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:

            async def place(item: str, quantity: int) -> None:
                response = await client.post("/orders", json={"item": item, "quantity": quantity})
                if response.status_code == httpx.codes.CONFLICT:
                    raise OutOfStock(item)
                response.raise_for_status()

            await simulate(place)
        report(metrics)


if __name__ == "__main__":
    asyncio.run(main())
