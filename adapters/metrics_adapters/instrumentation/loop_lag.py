"""How late the event loop is: what holds it up, holds up everybody on it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from metrics_adapters.instrumentation.meters import Metrics, collector_of
from metrics_framework.log import Isolation
from metrics_framework.runtime.event_loops import running_trio
from metrics_framework.validation import check_seconds

LAG = "event_loop.lag"


class LoopLag:
    """Records how late the event loop is, as the timer ``event_loop.lag``, inside an ``async with`` block.

    Every ``interval`` seconds it wants to be called, and records how much later it is: next to nothing on a
    loop that is well, and all of the time in which something blocked it. It costs one call and one record an
    interval, and while the loop stands still nothing piles up: a stall is recorded once. It runs under
    asyncio and under trio.

    Args:
        metrics: A system or a collector.
        interval: How many seconds to wait between two looks.
        name: What the timer is called.

    Raises:
        InvalidInputError: If an argument breaks its rule.

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

    def __init__(self, metrics: Metrics, interval: float = 0.1, *, name: str = LAG) -> None:
        check_seconds("interval", interval)
        self._collector: Any = collector_of(metrics)
        if hasattr(self._collector, "describe"):
            self._collector.describe(name, help="How late the event loop is.")
        self._interval = interval
        self._name = name
        self._isolation = Isolation()
        self._stop: Any = None

    async def __aenter__(self) -> Self:
        if self._stop is not None:
            raise RuntimeError("this LoopLag is at work already; make one for each event loop")
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

        def look(due: float) -> None:
            nonlocal handle
            now = loop.time()
            self._record(now - due)
            handle = loop.call_at(now + self._interval, look, now + self._interval)

        due = loop.time() + self._interval
        handle = loop.call_at(due, look, due)
        return lambda: handle.cancel()  # noqa: PLW0108 - the handle is another one each time

    def _on_trio(self, module: Any) -> Any:
        scope = module.CancelScope()

        async def look() -> None:
            with scope:
                while True:
                    due = module.current_time() + self._interval
                    await module.sleep_until(due)
                    self._record(module.current_time() - due)

        module.lowlevel.spawn_system_task(look, name="LoopLag")
        return scope.cancel

    def _record(self, seconds: float) -> None:
        # A loop may call a little early, by the resolution of its clock.
        lag = max(seconds, 0.0) * 1e3
        self._isolation.call("lag not recorded", lambda: self._collector.record_timer(self._name, lag))
