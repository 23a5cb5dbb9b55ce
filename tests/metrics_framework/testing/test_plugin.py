"""The plugin gives each test that requests it a metrics system of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from metrics_framework.testing import plugin

CONFTEST = 'pytest_plugins = ["metrics_framework.testing.plugin"]\n'

SHARING_NOTHING = """
import time

import pytest

from metrics_framework import MetricsSystem, UnknownMetricError
from metrics_framework.testing import MetricsTestSystem, counter, timer

SEEN = []


@pytest.mark.parametrize("number", range(12))
def test_each_starts_from_nothing(metrics, number):
    assert metrics.recorded() == "no metrics were recorded"
    assert all(metrics.collector.store is not other.collector.store for other in SEEN)
    SEEN.append(metrics)
    with metrics.expect(counter("orders", 100), only=True):
        for _ in range(100):
            metrics.collector.increment("orders")
            time.sleep(0.0001)


def test_it_is_a_whole_system(metrics):
    assert isinstance(metrics, MetricsTestSystem) and isinstance(metrics, MetricsSystem)
    with metrics.expect(timer("op", 2)):
        metrics.timer.time_operation("op", lambda: metrics.tracker.record_success("op"))
        with metrics.measure("op"):
            pass


def test_time_is_real_by_default(metrics):
    assert metrics.timer.time_operation("op", lambda: time.sleep(0.002)).duration >= 2


def test_the_clock_controls_time(metrics, metrics_clock):
    with metrics.expect(timer("op", sum=1500)), metrics.measure("op"):
        metrics_clock.advance(1.5)


def test_the_order_of_arguments_does_not_matter(metrics_clock, metrics):
    with metrics.expect(timer("op", sum=2000)), metrics.measure("op"):
        metrics_clock.advance(2)


@pytest.fixture
def service(metrics_clock):
    return metrics_clock


def test_another_fixture_may_request_the_clock(metrics, service):
    assert metrics.timer.time_operation("op", lambda: service.advance(3)).duration == 3000


def test_the_next_clock_is_a_fresh_one(metrics_clock):
    assert metrics_clock.monotonic_ns() == 0


@pytest.fixture
def watched(request):
    stopped = []
    yield stopped
    assert stopped == ["stopped"]


def test_it_is_shut_down_afterwards(watched, metrics):
    metrics.resource_monitor.stop_resource_monitoring = lambda: watched.append("stopped")
"""


def run(folder: Path, source: str, *arguments: str, conftest: str = CONFTEST) -> tuple[int, str]:
    """Run a test module in a separate pytest, and return its exit code and output."""
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.heavy
@pytest.mark.parametrize("workers", ["0", "2"])
def test_tests_share_nothing(tmp_path, workers):
    """Every test has its own system, clock and store, in one process and in several."""
    code, output = run(tmp_path, SHARING_NOTHING, "-n", workers)
    assert code == 0, output
    assert "19 passed" in output


REQUESTING = "def test_requests(metrics, metrics_clock):\n    assert metrics and metrics_clock\n"


@pytest.mark.heavy
def test_without_the_plugin_there_is_no_fixture(tmp_path):
    """Installing the library does not load the plugin; `-p` loads it as the conftest does."""
    code, output = run(tmp_path, REQUESTING, conftest="")
    assert code == 1
    assert "fixture 'metrics' not found" in output
    code, output = run(tmp_path, REQUESTING, "-p", "metrics_framework.testing.plugin", conftest="")
    assert code == 0, output
    assert "metrics_framework" not in {each.module for each in entry_points(group="pytest11")}


FAILING = """
from metrics_framework.testing import counter


def helper(metrics):
    with metrics.expect(counter("orders")):
        metrics.collector.increment("order")


def test_fails(metrics):
    helper(metrics)
"""


@pytest.mark.heavy
def test_a_failure_shows_the_tests_own_line(tmp_path):
    """The traceback ends in the test, not inside the library."""
    code, output = run(tmp_path, FAILING)
    assert code == 1
    assert '>       with metrics.expect(counter("orders")):' in output
    assert "Did you mean 'order'?" in output
    assert "checking.py" not in output
    assert "def __exit__" not in output


def test_the_fixtures_are_explained():
    """`pytest --fixtures` shows a sentence for each."""
    assert plugin.__all__ == ["metrics", "metrics_clock"]
    assert [name for name in plugin.__all__ if not getattr(plugin, name).__doc__] == []
