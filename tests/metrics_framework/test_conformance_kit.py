"""The conformance kit finds the faults of an adapter."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from metrics_framework.testing import conformance
from metrics_framework.testing.conformance.base import demand_of

ADAPTERS = '''
import time
from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework.clock import SYSTEM_CLOCK
from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import Store
from metrics_framework.testing.conformance import *


class Made:
    kinds = (InMemoryCollector, InMemoryTimer, InMemoryTracker, InMemoryAggregator)

    def make(self, clock):
        store = Store(clock)
        return Parts(*(self.made_of(kind)(store) for kind in self.kinds))

    def made_of(self, kind):
        return self.other if issubclass(self.other, kind) else kind

    other = Store


class TestRight(Made, MetricCollectorContract):
    pass


class Racy(InMemoryCollector):
    """Drops records that arrive during another one."""

    busy = False

    def record_counter(self, name, value=1, tags=None):
        if not self.busy:
            self.busy = True
            try:
                time.sleep(0.00001)
                super().record_counter(name, value, tags)
            finally:
                self.busy = False


class TestRacy(Made, MetricCollectorContract):
    other = Racy


class Lenient(InMemoryCollector):
    def record_gauge(self, name, value, tags=None):
        try:
            super().record_gauge(name, value, tags)
        except InvalidInputError:
            pass


class TestLenient(Made, MetricCollectorContract):
    other = Lenient


class Ordered(InMemoryCollector):
    def record_counter(self, name, value=1, tags=None):
        super().record_counter(name, value, tags and {"key": ",".join(f"{k}={v}" for k, v in tags.items())})


class TestOrdered(Made, MetricCollectorContract):
    other = Ordered


class Seconds(InMemoryTimer):
    def stop_timer(self, timer_id, success=True):
        result = super().stop_timer(timer_id, success)
        result.duration /= 1000
        return result


class TestSeconds(Made, PerformanceTimerContract):
    other = Seconds


class Swallowing(InMemoryTimer):
    def time_operation(self, operation_name, operation, metadata=None):
        try:
            return super().time_operation(operation_name, operation, metadata)
        except KeyError:
            return None


class TestSwallowing(Made, PerformanceTimerContract):
    other = Swallowing


class Optimist(InMemoryTracker):
    def record_failure(self, operation, error_type, metadata=None):
        super().record_failure(operation, error_type, metadata)
        super().record_success(operation)


class TestOptimist(Made, SuccessFailureTrackerContract):
    other = Optimist


class Windowless(InMemoryTracker):
    def get_success_rate(self, operation, time_window=None):
        return super().get_success_rate(operation)


class TestWindowless(Made, SuccessFailureTrackerContract):
    other = Windowless


class TestSaysSo(Made, SuccessFailureTrackerContract):
    other = Windowless
    keeps_windows = False


class Inventive(InMemoryAggregator):
    def get_metric_summary(self, metric_name, time_window=None):
        return {"avg": 0.0, **super().get_metric_summary(metric_name, time_window)}


class TestInventive(Made, MetricsAggregatorContract):
    other = Inventive


class Poor(InMemoryAggregator):
    def get_metric_summary(self, metric_name, time_window=None):
        summary = super().get_metric_summary(metric_name, time_window)
        summary.pop("stddev", None)
        return summary


class TestPoor(Made, MetricsAggregatorContract):
    other = Poor


class TestPoorSaysSo(Made, MetricsAggregatorContract):
    other = Poor
    unknown_keys = {"stddev"}
'''

FOUND = {
    "TestRacy": "test_threads_lose_nothing",
    "TestLenient": "test_a_bad_number_is_one_error",
    "TestOrdered": "test_the_order_of_tags_does_not_matter",
    "TestSeconds": "test_a_timing_has_a_duration",
    "TestSwallowing": "test_a_call_that_raises_is_timed",
    "TestOptimist": "test_the_rate_is_the_share_of_successes",
    "TestWindowless": "test_a_window_without_events_is_a_success",
    "TestInventive": "test_a_summary_has_fixed_keys",
    "TestPoor": "test_a_summary_has_fixed_keys",
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory) -> dict[str, set[str]]:
    """Run the kit over good and bad adapters and return which of its tests failed, by class."""
    folder: Path = tmp_path_factory.mktemp("kit")
    (folder / "test_adapters.py").write_text(ADAPTERS)
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "--tb=no", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    found: dict[str, set[str]] = {}
    for name, test in re.findall(r"^FAILED \S*::(\w+)::(\w+)", done.stdout, re.MULTILINE):
        found.setdefault(name, set()).add(test)
    assert "passed" in done.stdout, done.stdout + done.stderr
    return found


@pytest.mark.heavy
@pytest.mark.parametrize("adapter", FOUND)
def test_a_wrong_adapter_fails(failed, adapter):
    """An adapter that breaks a sentence of a contract fails the test of that sentence."""
    assert FOUND[adapter] in failed.get(adapter, set())


@pytest.mark.heavy
@pytest.mark.parametrize("adapter", ["TestRight", "TestSaysSo", "TestPoorSaysSo"])
def test_a_right_adapter_passes(failed, adapter):
    """An adapter that declares what its backend cannot do passes as well."""
    assert adapter not in failed


# -- what the kit says -------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "adapters.md"

WRONG = """
from metrics_adapters.in_memory import InMemoryCollector, InMemoryTracker
from metrics_framework.testing.conformance import *


class Incomplete:
    def record_counter(self, name, value=1, tags=None):
        pass


class TestIncomplete(MetricCollectorContract):
    def make(self, clock):
        return Parts(collector=Incomplete())


class TestNothing(PerformanceTimerContract):
    def make(self, clock):
        return Parts()


class Optimist(InMemoryTracker):
    def get_success_rate(self, operation, time_window=None):
        return 1.0


class TestOptimist(SuccessFailureTrackerContract):
    def make(self, clock):
        return Parts(tracker=Optimist())
"""


def _demands() -> str:
    """Return the list of the page: each contract, and the demand of each of its tests."""
    lines: list[str] = []
    for name in sorted(conformance.__all__):
        contract = getattr(conformance, name)
        if not name.endswith("Contract") or name == "Contract":
            continue
        lines += ["", f"**{name}**", ""]
        for test, function in vars(contract).items():
            if test.startswith("test_"):
                demand = demand_of(contract, inspect.unwrap(function)).partition(": ")[2]
                lines.append(f"- {demand[0].upper()}{demand[1:]}")
    return "\n".join(lines) + "\n"


def test_the_page_lists_every_demand():
    """An adapter's author reads in the docs what the kit will ask."""
    listed = PAGE.read_text("utf-8").partition("<!-- demands -->\n")[2].partition("\n<!-- end -->")[0]
    assert listed == _demands(), "replace the list of demands in docs/adapters.md"


@pytest.mark.slow
def test_a_failure_names_the_part_and_the_demand(tmp_path):
    """It says which method is missing, or which sentence of the contract the adapter breaks."""
    (tmp_path / "test_wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", str(tmp_path)]
    wanted = "is_the_share_of_successes or increment_counts or timing_has_a_duration"
    done = subprocess.run([*command, "-k", wanted], capture_output=True, text=True, cwd=tmp_path, check=False)
    lacks = "decrement, increment, record_gauge, record_histogram, record_timer"
    assert f"Incomplete is not a MetricCollector: it lacks {lacks}" in done.stdout
    assert "make() has to return a timer" in done.stdout
    assert "The adapter does not meet this demand of the contract:" in done.stdout
    assert "SuccessFailureTracker: the rate is the share of successes. Three of four is 0.75." in done.stdout
