"""FastAPI dependencies that inject the application's system and its parts.

The system is the first of ``request.state.metrics``, which a lifespan yields, ``app.state.metrics`` and
`metrics_framework.current`. Tests set ``app.dependency_overrides[get_metrics] = lambda: metrics``.

Example::

    from metrics_adapters.instrumentation.fastapi import Collector

    @app.post("/orders")
    async def order(collector: Collector) -> None:
        collector.increment("orders")
"""

from __future__ import annotations

from typing import Annotated

from metrics_framework.context import current
from metrics_framework.errors import InvalidInputError, MissingExtraError
from metrics_framework.protocols import MetricCollector, PerformanceTimer, SuccessFailureTracker
from metrics_framework.system import AnySystem, MetricsSystem

try:
    from fastapi import Depends
    from starlette.requests import HTTPConnection
except ModuleNotFoundError as error:
    raise MissingExtraError("the FastAPI dependencies", package="fastapi") from error

__all__ = [
    "Collector",
    "Metrics",
    "Timer",
    "Tracker",
    "get_collector",
    "get_metrics",
    "get_timer",
    "get_tracker",
]

# All are async although they await nothing: FastAPI runs plain functions in a thread.


async def get_metrics(connection: HTTPConnection) -> AnySystem:
    """Return the system of the application that serves this request or WebSocket.

    Raises:
        InvalidInputError: If ``state.metrics`` is not a `MetricsSystem`.
    """
    for state in (connection.state, connection.app.state):
        metrics = getattr(state, "metrics", None)
        if metrics is not None:
            if not isinstance(metrics, MetricsSystem):
                raise InvalidInputError(f"state.metrics={metrics!r} is not a MetricsSystem")
            return metrics
    return current()


Metrics = Annotated[AnySystem, Depends(get_metrics)]
"""The whole system."""


async def get_collector(metrics: Metrics) -> MetricCollector:
    """Return the collector, which records metrics."""
    return metrics.collector


async def get_timer(metrics: Metrics) -> PerformanceTimer:
    """Return the timer, which measures operations."""
    return metrics.timer


async def get_tracker(metrics: Metrics) -> SuccessFailureTracker:
    """Return the tracker, which counts successes and failures."""
    return metrics.tracker


Collector = Annotated[MetricCollector, Depends(get_collector)]
"""The collector."""

Timer = Annotated[PerformanceTimer, Depends(get_timer)]
"""The timer."""

Tracker = Annotated[SuccessFailureTracker, Depends(get_tracker)]
"""The tracker."""
