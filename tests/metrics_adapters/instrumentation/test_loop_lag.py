"""The recorded lag is the real delay of the event loop, and measuring it leaves nothing behind."""

from __future__ import annotations

import asyncio
import time

import anyio
import pytest
import trio
import trio.testing

from metrics_adapters.asgi import LoopLag
from metrics_adapters.in_memory import InMemoryCollector
from metrics_framework import MetricsSystem
from metrics_framework.errors import InvalidInputError

LAG = "event_loop.lag"


def lag(metrics) -> dict[str, float]:
    """Return the summary of the lag."""
    return metrics.aggregator.get_metric_summary(LAG)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_blocking_the_loop_is_recorded_as_lag(backend):
    """Once for each stall, not as a burst afterwards."""
    metrics = MetricsSystem()

    async def main():
        async with LoopLag(metrics, interval=0.02):
            await anyio.sleep(0.001)
            time.sleep(0.3)
            await anyio.sleep(0.03)

    anyio.run(main, backend=backend)
    seen = lag(metrics)
    assert seen["max"] >= 270
    assert 1 <= seen["count"] <= 4


def test_a_healthy_loop_has_no_lag():
    """On a clock that stands still while tasks wait, every callback is on time."""
    metrics = MetricsSystem()

    async def main():
        async with LoopLag(metrics, interval=1):
            await trio.sleep(10.5)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    seen = lag(metrics)
    assert (seen["count"], seen["max"]) == (10, 0)


def test_lag_is_never_negative():
    """A loop of asyncio may call a little early."""
    metrics = MetricsSystem()

    async def main():
        loop = asyncio.get_running_loop()
        now = loop.time
        async with LoopLag(metrics, interval=0.01):
            await asyncio.sleep(0.005)
            loop.time = lambda: now() - 0.004  # like a clock with a coarse resolution
            loop._clock_resolution = 0.005
            await asyncio.sleep(0.05)

    asyncio.run(main())
    assert lag(metrics)["min"] >= 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_ends_with_its_block(backend):
    """After the block, even a cancelled one, nothing is recorded and nothing is left on the loop."""
    metrics = MetricsSystem()

    async def main():
        with anyio.move_on_after(0.05):
            async with LoopLag(metrics, interval=0.005):
                await anyio.sleep(60)
        before = lag(metrics)["count"]
        await anyio.sleep(0.03)
        assert lag(metrics)["count"] == before >= 1

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_can_be_reused_but_not_nested(backend):
    """A block inside of another is an error."""

    async def main():
        looking = LoopLag(InMemoryCollector(), interval=0.01)
        for _ in range(2):
            async with looking:
                with pytest.raises(RuntimeError, match="already running"):
                    await looking.__aenter__()

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("interval", [0, -1, float("nan"), float("inf"), "1"])
def test_an_interval_is_a_number_of_seconds(interval):
    """Other values are an error."""
    with pytest.raises(InvalidInputError, match="is not a positive number of seconds"):
        LoopLag(MetricsSystem(), interval)


def test_a_failing_collector_does_not_stop_it(caplog):
    """It continues to measure, and the failure is logged once."""

    class Broken(InMemoryCollector):
        looks = 0

        def record_timer(self, *arguments, **named):
            Broken.looks += 1
            raise RuntimeError("disk full")

    async def main():
        async with LoopLag(Broken(), interval=0.005):
            while Broken.looks < 3:
                await asyncio.sleep(0.005)

    asyncio.run(main())
    assert caplog.text.count("disk full") == 1
