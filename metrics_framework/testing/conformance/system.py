"""The contracts of `MetricsSystem` and `AsyncMetricsSystem`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import pytest

from metrics_framework import protocols
from metrics_framework.clock import ManualClock
from metrics_framework.errors import ConfigurationError, InvalidInputError

PATIENCE = 20.0


class MetricsSystemContract(ABC):
    """Every sentence of `metrics_framework.protocols.MetricsSystem`."""

    @abstractmethod
    def make_system(self, clock: ManualClock) -> protocols.MetricsSystem:
        """Make the system."""

    @pytest.fixture
    def system(self) -> Iterator[protocols.MetricsSystem]:
        """Return the system; it is shut down afterwards."""
        system = self.make_system(ManualClock())
        assert isinstance(system, protocols.MetricsSystem)
        yield system
        system.shutdown_metrics()

    def test_its_parts_fulfil_their_contracts(self, system: protocols.MetricsSystem) -> None:
        """Each part is what its Protocol says."""
        assert isinstance(system.collector, protocols.MetricCollector)
        assert isinstance(system.timer, protocols.PerformanceTimer)
        assert isinstance(system.tracker, protocols.SuccessFailureTracker)
        assert isinstance(system.resource_monitor, protocols.ResourceMonitor)
        assert isinstance(system.aggregator, protocols.MetricsAggregator)

    def test_its_parts_see_the_same_numbers(self, system: protocols.MetricsSystem) -> None:
        """What the collector takes in the aggregator answers with."""
        system.collector.increment("orders")
        assert system.aggregator.get_metric_summary("orders")["sum"] == 1

    def test_a_configuration_is_applied_or_refused_as_a_whole(self, system: protocols.MetricsSystem) -> None:
        """An unknown key is an error that quotes it."""
        with pytest.raises(ConfigurationError, match="no_such_key"):
            system.initialize_metrics({"retention_days": 1, "no_such_key": True})
        system.initialize_metrics({"retention_days": 7})

    def test_it_shuts_down_once(self, system: protocols.MetricsSystem) -> None:
        """A second shutdown does nothing."""
        system.initialize_metrics({"collection_interval": 3_600})
        system.shutdown_metrics()
        system.shutdown_metrics()

    def test_health_follows_failures(self, system: protocols.MetricsSystem) -> None:
        """`error_rate` is the share of failures, and too many are not healthy."""
        health = system.get_system_health()
        assert health["error_rate"] == 0.0
        assert isinstance(health["healthy"], bool)
        system.tracker.record_success("op")
        system.tracker.record_failure("op", "timeout")
        health = system.get_system_health()
        assert health["error_rate"] == pytest.approx(0.5)
        assert health["healthy"] is False

    def test_dashboards_are_plain_data(self, system: protocols.MetricsSystem) -> None:
        """The overview has content; an unknown dashboard is an error that quotes it."""
        system.collector.increment("orders")
        assert system.create_dashboard_data()
        with pytest.raises(InvalidInputError, match="no such board"):
            system.create_dashboard_data("no such board")


@runtime_checkable
class _ClosesStream(Protocol):
    async def aclose(self) -> object: ...


class _Both(protocols.MetricsSystem, protocols.AsyncMetricsSystem, Protocol):
    """A system that can be filled, and read without holding up the event loop."""


class AsyncMetricsSystemContract(ABC):
    """Every sentence of `AsyncMetricsSystem`, of a system that is a `MetricsSystem` too."""

    @abstractmethod
    def make_system(self, clock: ManualClock) -> Any:
        """Make the system."""

    @pytest.fixture
    def system(self) -> Iterator[_Both]:
        """Return the system; it is shut down afterwards."""
        system: _Both = self.make_system(ManualClock())
        assert isinstance(system, protocols.AsyncMetricsSystem)
        yield system
        system.shutdown_metrics()

    def test_collecting_reads_what_is_read_on_demand(self, system: _Both) -> None:
        """Afterwards the machine's resources are among the metrics."""
        before = len(system.aggregator.get_metrics_by_tag({}))
        asyncio.run(system.collect_metrics_async())
        assert len(system.aggregator.get_metrics_by_tag({})) > before

    def test_a_dead_endpoint_is_false(self, system: _Both) -> None:
        """Exporting says for each endpoint whether it succeeded, and never raises."""
        endpoints = ["no such endpoint", "another one"]
        assert asyncio.run(system.export_metrics_async(endpoints)) == dict.fromkeys(endpoints, False)
        assert asyncio.run(system.export_metrics_async([])) == {}

    def test_a_stream_yields_what_changes(self, system: _Both) -> None:
        """A value that changes after the call is yielded, one that the filters exclude is not."""

        async def first() -> tuple[str, float]:
            stream = system.metrics_stream({"name": "orders.paid"})
            system.collector.increment("other")
            system.collector.increment("orders.paid")
            async with asyncio.timeout(PATIENCE):
                value = await anext(stream)
            if isinstance(stream, _ClosesStream):
                await stream.aclose()
            return value.name, value.value

        assert asyncio.run(first()) == ("orders.paid", 1)

    def test_a_stream_can_be_cancelled(self, system: _Both) -> None:
        """Whoever waits for the next value may give up; nothing is left over."""

        async def give_up() -> None:
            async def consume() -> None:
                async for _ in system.metrics_stream():
                    pass

            task = asyncio.create_task(consume())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(give_up())

    def test_an_unknown_filter_is_an_error(self, system: _Both) -> None:
        """It quotes the filter."""

        async def stream() -> None:
            async with asyncio.timeout(PATIENCE):
                await anext(system.metrics_stream({"colour": "red"}))

        with pytest.raises(InvalidInputError, match="colour"):
            asyncio.run(stream())
