"""Measures event-loop lag: how late the loop runs its callbacks."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from metrics_adapters.instrumentation.meters import SystemOrCollector, collector_of
from metrics_framework.capabilities import DescribesMetrics
from metrics_framework.log import Isolation
from metrics_framework.runtime.event_loops import running_trio
from metrics_framework.validation import check_seconds

LAG_TIMER = "event_loop.lag"


class LoopLag:
    """Records the lag of the event loop as the timer ``event_loop.lag`` inside an ``async with`` block.

    It schedules a callback every ``interval`` seconds and records how late the callback runs: almost zero on
    a healthy loop, otherwise the time for which something blocked the loop. A stall is recorded once, however
    long it is. The cost is one callback and one record per interval. It runs under asyncio and trio.

    Args:
        metrics: A system or a collector.
        interval: The seconds between two measurements.
        name: The name of the timer.

    Raises:
        InvalidInputError: If an argument is invalid.

    Example:
        >>> import asyncio
        >>> from metrics_framework import MetricsSystem
        >>> async def main() -> float:
        ...     metrics = MetricsSystem()
        ...     async with LoopLag(metrics, interval=0.01):
        ...         await asyncio.sleep(0.05)
        ...     return metrics.aggregator.get_metric_summary("event_loop.lag")["count"]
        >>> asyncio.run(main()) > 0
        True
    """

    def __init__(self, metrics: SystemOrCollector, interval: float = 0.1, *, name: str = LAG_TIMER) -> None:
        check_seconds("interval", interval)
        self._collector = collector_of(metrics)
        if isinstance(self._collector, DescribesMetrics):
            self._collector.describe(name, help="How late the event loop runs its callbacks.")
        self._interval = interval
        self._name = name
        self._isolation = Isolation()
        self._stop: Any = None

    async def __aenter__(self) -> Self:
        if self._stop is not None:
            raise RuntimeError("this LoopLag is already running: create one for each event loop")
        self._stop = self._on_asyncio() if (module := running_trio()) is None else self._on_trio(module)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop, self._stop = self._stop, None
        stop()

    def _on_asyncio(self) -> Any:
        loop = asyncio.get_running_loop()
        handle: asyncio.TimerHandle

        def tick(due: float) -> None:
            nonlocal handle
            now = loop.time()
            self._record(now - due)
            handle = loop.call_at(now + self._interval, tick, now + self._interval)

        due = loop.time() + self._interval
        handle = loop.call_at(due, tick, due)
        return lambda: handle.cancel()  # noqa: PLW0108 - `handle` is rebound at each tick

    def _on_trio(self, module: Any) -> Any:
        scope = module.CancelScope()

        async def tick() -> None:
            with scope:
                while True:
                    due = module.current_time() + self._interval
                    await module.sleep_until(due)
                    self._record(module.current_time() - due)

        module.lowlevel.spawn_system_task(tick, name="LoopLag")
        return scope.cancel

    def _record(self, seconds: float) -> None:
        # A loop may call a little early, because its clock has a limited resolution.
        lag = max(seconds, 0.0) * 1e3
        self._isolation.call("lag not recorded", lambda: self._collector.record_timer(self._name, lag))
