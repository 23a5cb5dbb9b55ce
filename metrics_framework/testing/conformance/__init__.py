"""The conformance kit: tests for adapters. A subclass only says how to create the adapter.

There is one abstract test class per Protocol. It tests every sentence of the contract, thread safety,
re-entry and bad input. In a test module, subclass the contracts of the Protocols that you implement, and
write one method, ``make``:

    from metrics_framework.testing.conformance import MetricCollectorContract, Parts

    class Acme:
        def make(self, clock):
            backend = AcmeBackend(clock)
            return Parts(collector=AcmeCollector(backend), aggregator=AcmeAggregator(backend))

    class TestAcmeCollector(Acme, MetricCollectorContract):
        unknown_keys = {"max", "stddev"}  # keys that this backend cannot compute

pytest does the rest. `Contract` lists the limits that an adapter may declare.
"""

# ruff: noqa: E402 - pytest rewrites assertions only in modules that are registered before they are imported

from metrics_framework.errors import MissingExtraError

try:
    import pytest
except ModuleNotFoundError as error:
    raise MissingExtraError("the conformance kit", "testing") from error

for _module in (
    "aggregator",
    "base",
    "collector",
    "monitor",
    "system",
    "timer",
    "tracker",
):
    pytest.register_assert_rewrite(f"{__name__}.{_module}")

from metrics_framework.testing.conformance.aggregator import MetricsAggregatorContract
from metrics_framework.testing.conformance.base import SUMMARY_KEYS, Contract, Parts
from metrics_framework.testing.conformance.collector import MetricCollectorContract
from metrics_framework.testing.conformance.monitor import ResourceMonitorContract
from metrics_framework.testing.conformance.system import AsyncMetricsSystemContract, MetricsSystemContract
from metrics_framework.testing.conformance.timer import PerformanceTimerContract
from metrics_framework.testing.conformance.tracker import SuccessFailureTrackerContract

__all__ = [
    "SUMMARY_KEYS",
    "AsyncMetricsSystemContract",
    "Contract",
    "MetricCollectorContract",
    "MetricsAggregatorContract",
    "MetricsSystemContract",
    "Parts",
    "PerformanceTimerContract",
    "ResourceMonitorContract",
    "SuccessFailureTrackerContract",
]
