"""The system that the fixture ``metrics`` gives to a test."""

from __future__ import annotations

from contextlib import AbstractContextManager

from metrics_framework.system import MetricsSystem
from metrics_framework.testing.checking import expect
from metrics_framework.testing.expectations import Expectation
from metrics_framework.testing.report import recorded


class MetricsTestSystem(MetricsSystem):
    """A `MetricsSystem` that can be asked what a block of code changes."""

    def expect(self, *expectations: Expectation, only: bool = False) -> AbstractContextManager[None]:
        """Check how a block of code changes the metrics; see `metrics_framework.testing.expect`."""
        return expect(self, *expectations, only=only)

    def recorded(self) -> str:
        """Return everything that was recorded as a table; see `metrics_framework.testing.recorded`."""
        return recorded(self)
