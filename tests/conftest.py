"""Fixtures for all tests, and the Hypothesis profiles."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from metrics_framework.clock import ManualClock
from tests.servers.fixtures import (
    axe_core,
    carbon,
    chromium,
    influx,
    node_exporter,
    prometheus,
    promtool,
    pushgateway,
    statsd,
    victoria_metrics,
)
from tests.threads import ending_background_work

__all__ = [
    "axe_core",
    "carbon",
    "chromium",
    "clock",
    "influx",
    "node_exporter",
    "prometheus",
    "promtool",
    "pushgateway",
    "soak",
    "statsd",
    "victoria_metrics",
]

# Deadlines would fail on slow machines. CI uses the same examples in every run.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

MAX_EXAMPLES = int(os.environ.get("TESTS_MAX_EXAMPLES", "0"))
"""Limits the examples of each property test, also of those with settings of their own. 0 means no limit."""


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> Iterator[None]:
    """Handle SIGINT as Python does by default, also where a shell ignores it for its background jobs.

    A child process inherits that a signal is ignored, and then a test cannot interrupt it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def background_work() -> Iterator[None]:
    """End the background work of each test. Fixtures of a module or session are set up before this one."""
    with ending_background_work():
        yield


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock that the test advances. It starts at 2026-01-01T00:00:00 UTC."""
    return ManualClock()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exempt the collected tests and all modules from garbage collection.

    Many tests collect garbage, which would visit the objects of thousands of tests each time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark soak tests as heavy, and limit the examples of property tests."""
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker("heavy")
        if MAX_EXAMPLES and isinstance(item, pytest.Function):
            _limit_examples(item)


def _limit_examples(item: pytest.Function) -> None:
    function = getattr(item.obj, "__func__", item.obj)
    # Hypothesis offers no other way to change the settings of a decorated test.
    used = getattr(function, "_hypothesis_internal_use_settings", None)
    if used is not None and used.max_examples > MAX_EXAMPLES:
        function._hypothesis_internal_use_settings = settings(used, max_examples=MAX_EXAMPLES)


@pytest.fixture
def soak() -> Callable[[int], int]:
    """Return a function that scales a number of iterations or seconds by `METRICS_FRAMEWORK_SOAK` (0.1)."""
    factor = float(os.environ.get("METRICS_FRAMEWORK_SOAK", "0.1"))
    return lambda count: max(1, round(count * factor))


@pytest.fixture
def no_gc_callbacks() -> Iterator[None]:
    """Remove the garbage collector callbacks of other tools, such as Hypothesis.

    An exception of a signal handler that interrupts such a callback is lost, and the test would fail.
    """
    gc.collect()
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks.extend(callbacks)
