"""The conformance kit: an adapter is tested by saying how it is made.

There is one abstract test class for each Protocol, with a test for every sentence of the contract, for
threads, for re-entry and for bad input. Subclass those of the Protocols that you implement in a test module
and give them one method, ``make``:

    from metrics_framework.testing.conformance import MetricCollectorContract, Parts

    class Acme:
        def make(self, clock):
            backend = AcmeBackend(clock)
            return Parts(collector=AcmeCollector(backend), aggregator=AcmeAggregator(backend))

    class TestAcmeCollector(Acme, MetricCollectorContract):
        unknown_keys = {"max", "stddev"}  # what this backend cannot know

pytest does the rest. `Contract` says what an adapter may declare that it cannot do.
"""

# ruff: noqa: E402 - assertions show their values only in modules that pytest knows of before their import

import pytest

for _module in (
    "aggregator",
    "base",
    "collector",
    "collector_input",
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
