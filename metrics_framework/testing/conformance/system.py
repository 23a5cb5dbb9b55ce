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
from metrics_framework.testing.conformance.base import Demands, check_members

CALL_TIMEOUT_SECONDS = 20.0


class MetricsSystemContract(Demands, ABC):
    """Every sentence of `metrics_framework.protocols.MetricsSystem`."""

    @abstractmethod
    def make_system(self, clock: ManualClock) -> protocols.MetricsSystem:
        """Create the system."""

    @pytest.fixture
    def system(self) -> Iterator[protocols.MetricsSystem]:
        """Return the system; it is shut down afterwards."""
        system = self.make_system(ManualClock())
        check_members(system, protocols.MetricsSystem)
        yield system
        system.shutdown_metrics()

    def test_its_parts_fulfil_their_contracts(self, system: protocols.MetricsSystem) -> None:
        """Each part fulfils its Protocol."""
        check_members(system.collector, protocols.MetricCollector)
        check_members(system.timer, protocols.PerformanceTimer)
        check_members(system.tracker, protocols.SuccessFailureTracker)
        check_members(system.resource_monitor, protocols.ResourceMonitor)
        check_members(system.aggregator, protocols.MetricsAggregator)

    def test_its_parts_see_the_same_numbers(self, system: protocols.MetricsSystem) -> None:
        """The aggregator returns what the collector records."""
        system.collector.increment("orders")
        assert system.aggregator.get_metric_summary("orders")["sum"] == 1

    def test_a_configuration_is_applied_completely_or_not_at_all(
        self, system: protocols.MetricsSystem
    ) -> None:
        """An unknown key raises an error that quotes it."""
        with pytest.raises(ConfigurationError, match="no_such_key"):
            system.initialize_metrics({"retention_days": 1, "no_such_key": True})
        system.initialize_metrics({"retention_days": 7})

    def test_it_shuts_down_once(self, system: protocols.MetricsSystem) -> None:
        """A second shutdown does nothing."""
        system.initialize_metrics({"collection_interval": 3_600})
        system.shutdown_metrics()
        system.shutdown_metrics()

    def test_health_follows_failures(self, system: protocols.MetricsSystem) -> None:
        """`error_rate` is the share of failures; above the threshold the system is unhealthy."""
        health = system.get_system_health()
        assert health["error_rate"] == 0.0
        assert isinstance(health["healthy"], bool)
        for _ in range(10):
            system.tracker.record_success("op")
        for _ in range(30):
            system.tracker.record_failure("op", "timeout")
        health = system.get_system_health()
        assert health["error_rate"] == pytest.approx(0.75)
        assert health["healthy"] is False

    def test_dashboards_are_plain_data(self, system: protocols.MetricsSystem) -> None:
        """The overview has content; an unknown dashboard raises an error that quotes it."""
        system.collector.increment("orders")
        assert system.create_dashboard_data()
        with pytest.raises(InvalidInputError, match="no such board"):
            system.create_dashboard_data("no such board")


@runtime_checkable
class _ClosesStream(Protocol):
    async def aclose(self) -> object: ...


class _Both(protocols.MetricsSystem, protocols.AsyncMetricsSystem, Protocol):
    """A system with the synchronous and the asynchronous Protocol."""


class AsyncMetricsSystemContract(Demands, ABC):
    """Every sentence of `AsyncMetricsSystem`, of a system that is a `MetricsSystem` too."""

    @abstractmethod
    def make_system(self, clock: ManualClock) -> Any:
        """Create the system."""

    @pytest.fixture
    def system(self) -> Iterator[_Both]:
        """Return the system; it is shut down afterwards."""
        system: _Both = self.make_system(ManualClock())
        check_members(system, protocols.AsyncMetricsSystem)
        yield system
        system.shutdown_metrics()

    def test_collecting_reads_what_is_read_on_demand(self, system: _Both) -> None:
        """Collecting adds the machine's resources to the metrics."""
        before = len(system.aggregator.get_metrics_by_tag({}))
        asyncio.run(system.collect_metrics_async())
        assert len(system.aggregator.get_metrics_by_tag({})) > before

    def test_a_dead_endpoint_is_false(self, system: _Both) -> None:
        """An export reports success or failure of each endpoint, and never raises."""
        endpoints = ["no such endpoint", "another one"]
        assert asyncio.run(system.export_metrics_async(endpoints)) == dict.fromkeys(endpoints, False)
        assert asyncio.run(system.export_metrics_async([])) == {}

    def test_a_stream_yields_what_changes(self, system: _Both) -> None:
        """A stream yields values that change after the call, unless the filters exclude them."""

        async def first() -> tuple[str, float]:
            stream = system.metrics_stream({"name": "orders.paid"})
            system.collector.increment("other")
            system.collector.increment("orders.paid")
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                value = await anext(stream)
            if isinstance(stream, _ClosesStream):
                await stream.aclose()
            return value.name, value.value

        assert asyncio.run(first()) == ("orders.paid", 1)

    def test_a_stream_can_be_cancelled(self, system: _Both) -> None:
        """Waiting for the next value can be cancelled without leftovers."""

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
        """The error quotes the filter."""

        async def stream() -> None:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                await anext(system.metrics_stream({"colour": "red"}))

        with pytest.raises(InvalidInputError, match="colour"):
            asyncio.run(stream())
