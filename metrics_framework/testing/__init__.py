"""Tools to test code that records metrics, and to test adapters.

`expect` checks how a block of code changes the metrics of any system. Two more modules need the extra
``testing``: `metrics_framework.testing.plugin`, a pytest plugin that gives each test a system, and
`metrics_framework.testing.conformance`, the tests for adapters.
"""

from metrics_framework.testing.checking import MetricsTestSystem, expect
from metrics_framework.testing.expectations import (
    Expectation,
    counter,
    failure,
    gauge,
    histogram,
    success,
    timer,
)
from metrics_framework.testing.report import recorded

__all__ = [
    "Expectation",
    "MetricsTestSystem",
    "counter",
    "expect",
    "failure",
    "gauge",
    "histogram",
    "recorded",
    "success",
    "timer",
]
