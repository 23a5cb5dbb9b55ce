"""A pytest plugin with the fixtures ``metrics`` and ``metrics_clock``.

Load it in the topmost ``conftest.py``:

    pytest_plugins = ["metrics_framework.testing.plugin"]

or on the command line: ``pytest -p metrics_framework.testing.plugin``.
"""

from __future__ import annotations

from collections.abc import Iterator

from metrics_framework.clock import ManualClock
from metrics_framework.errors import MissingExtraError
from metrics_framework.testing.checking import MetricsTestSystem

try:
    import pytest
except ModuleNotFoundError as error:
    raise MissingExtraError("the pytest plugin", "testing") from error

__all__ = ["metrics", "metrics_clock"]


@pytest.fixture
def metrics(request: pytest.FixtureRequest) -> Iterator[MetricsTestSystem]:
    """An in-memory metrics system, new for each test. It uses ``metrics_clock`` if the test requests it."""
    clock: ManualClock | None = None
    if "metrics_clock" in request.fixturenames:
        clock = request.getfixturevalue("metrics_clock")
    with MetricsTestSystem(clock=clock) as system:
        yield system


@pytest.fixture
def metrics_clock() -> ManualClock:
    """The clock of ``metrics``, advanced by the test. It starts at 2026-01-01T00:00:00 UTC."""
    return ManualClock()
