"""What every test may ask for."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from metrics_framework.clock import ManualClock
from tests.servers.fixtures import influx, prometheus, promtool, pushgateway, statsd, victoria_metrics

__all__ = ["clock", "influx", "prometheus", "promtool", "pushgateway", "soak", "statsd", "victoria_metrics"]

# One profile for people, one for CI: there nothing is random from run to run. A slow machine fails nothing.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> Iterator[None]:
    """Handle SIGINT as Python does by default, also where a shell ignores it for its background jobs.

    A child process inherits that a signal is ignored, and then a test cannot interrupt it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock that the test moves by hand; it starts at 2026-01-01T00:00:00 UTC."""
    return ManualClock()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark long proofs as heavy."""
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker("heavy")


@pytest.fixture
def soak() -> Callable[[int], int]:
    """Return a function that scales a number of iterations or seconds by `METRICS_FRAMEWORK_SOAK` (0.1)."""
    factor = float(os.environ.get("METRICS_FRAMEWORK_SOAK", "0.1"))
    return lambda count: max(1, round(count * factor))


@pytest.fixture
def no_gc_callbacks() -> Iterator[None]:
    """Remove the callbacks of other tools, such as Hypothesis, from the garbage collector.

    A signal handler that raises while one of them runs loses its exception, and the test would fail.
    """
    gc.collect()
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks.extend(callbacks)
