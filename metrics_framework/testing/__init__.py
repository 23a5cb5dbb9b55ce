"""What helps to test code that measures, and adapters.

`expect` checks how a block of code changes the metrics of any system. The extra ``testing`` brings what the
rest needs: `metrics_framework.testing.plugin`, a pytest plugin with a system for each test, and
`metrics_framework.testing.conformance`, which tests adapters.
"""

from metrics_framework.testing.checking import expect
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
from metrics_framework.testing.system import MetricsTestSystem

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
