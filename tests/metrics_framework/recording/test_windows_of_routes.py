"""Answers of timers, trackers and aggregators for one route, against a list of all values.

Each answer is exact for the seconds that it reports, or is refused with an error that names the remedy.
"""

from __future__ import annotations

import gc
import json
import math
import random
import re
import subprocess
import sys
import tracemalloc
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework import MetricsSystem
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import Budgets, Store

ROOT = Path(__file__).parents[3]
SECOND = 1_000_000_000
REFUSED = r"describe\('\w+', window_by=\[|raise Budgets\(series_per_name="
ROUTES = ("/busy", "/steady", "/late", "/rare")
ASKED = (1, 16, 60, 300, 900, 3_600, 20_000, 86_400)


def check_refusal(error: InvalidInputError) -> None:
    """Check that the error of a refused window names the remedy."""
    assert re.search(REFUSED, str(error)), error


class Raw(NamedTuple):
    """One request: its end, tags, duration in milliseconds, and error type."""

    time_ns: int
    tags: dict[str, str]
    value: float
    error_type: str | None


class Service:
    """A service that measures its requests with an operation, a counter and histograms; and their list.

    Args:
        store: Arguments of the store.
    """

    def __init__(self, **store: Any) -> None:
        self.clock = ManualClock()
        self.clock.advance(12_345.25)
        self.store = Store(self.clock, **store)
        self.collector = InMemoryCollector(self.store)
        self.timer, self.tracker = InMemoryTimer(self.store), InMemoryTracker(self.store)
        self.aggregator = InMemoryAggregator(self.store)
        self.measure = MetricsSystem(
            collector=self.collector, timer=self.timer, tracker=self.tracker, aggregator=self.aggregator
        ).measure
        self.collector.describe("described", window_by=("route",))
        self.start_ns = self.clock.monotonic_ns()
        self.requests: list[Raw] = []
        self.lost_any = False

    def request(self, value: int, error_type: str | None = None, **tags: str) -> None:
        """Serve a request with a duration in milliseconds."""
        with self.measure("request", tags) as measurement:
            self.clock.advance(value / 1_000)
            measurement.error_type = error_type
        self.collector.record_counter("orders", value, tags)
        self.collector.record_histogram("sizes", value, tags)
        self.collector.record_timer("described", value, tags=tags)
        self.requests.append(Raw(self.clock.monotonic_ns(), tags, value, error_type))

    def remove(self, **tags: str) -> None:
        """Remove the series of the metrics that have exactly these tags."""
        for name in ("orders", "sizes", "described"):
            self.lost_any |= self.collector.remove(name, tags)

    def inside(self, seconds: float, tags: dict[str, str]) -> list[Raw]:
        """Return the requests of the last seconds that have some tags."""
        start_ns = self.clock.monotonic_ns() - round(seconds * SECOND)
        return [
            each for each in self.requests if each.time_ns >= start_ns and tags.items() <= each.tags.items()
        ]

    def check(self, window_s: float, **tags: str) -> int:
        """Check all answers for a window and tags; return how many were refused."""
        window = timedelta(seconds=window_s)
        refused = 0
        for ask in (
            lambda: self.timer.get_timing_stats("request", time_window=window, tags=tags),
            lambda: self.aggregator.get_metric_summary("orders", window, tags=tags),
            lambda: self.aggregator.get_metric_summary("sizes", window, tags=tags),
            lambda: self.aggregator.get_metric_summary("described", window, tags=tags),
        ):
            try:
                summary = ask()
            except InvalidInputError as error:
                check_refusal(error)
                refused += 1
                continue
            self.check_seconds(summary["seconds"], window_s)
            check_summary(summary, [each.value for each in self.inside(summary["seconds"], tags)])
        return refused + self.check_outcomes(window, tags)

    def check_outcomes(self, window: timedelta, tags: dict[str, str]) -> int:
        """Check the tracker's answer; return 1 if it was refused."""
        try:
            reading = self.store.outcomes("request", window, tags)
        except InvalidInputError:
            for ask in (self.tracker.get_success_rate, self.tracker.get_failure_breakdown):
                with pytest.raises(InvalidInputError, match=REFUSED):
                    ask("request", window, tags=tags)
            return 1
        self.check_seconds(reading.seconds, window.total_seconds())
        failures = [each.error_type for each in self.inside(reading.seconds, tags)]
        expected = failures.count(None) / len(failures) if failures else 1.0
        assert self.tracker.get_success_rate("request", window, tags=tags) == expected
        breakdown = self.tracker.get_failure_breakdown("request", window, tags=tags)
        assert breakdown == Counter(failure for failure in failures if failure is not None)
        return 0

    def check_seconds(self, seconds: float, asked: float) -> None:
        """Check that a window is as long as requested, unless older records are dropped."""
        since_start = (self.clock.monotonic_ns() - self.start_ns) / SECOND
        assert 0 <= seconds <= since_start + 1e-9
        if not self.lost_any and asked <= 3_600:
            assert seconds >= min(asked, since_start) - 1e-9


def check_summary(summary: dict[str, float], values: list[float]) -> None:
    """Compare a summary with the values in its window."""
    assert (summary["count"], summary["sum"]) == (len(values), pytest.approx(sum(values), rel=1e-12))
    if summary["seconds"] > 0:
        amount = sum(values) if "total" in summary else len(values)
        assert summary["rate"] == pytest.approx(amount / summary["seconds"])
    if "total" in summary or not values:
        return
    values.sort()
    mean = sum(values) / len(values)
    assert (summary["min"], summary["max"]) == (values[0], values[-1])
    assert summary["avg"] == pytest.approx(mean)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    assert summary["stddev"] == pytest.approx(deviation, abs=1e-6)
    error = 0.0 if len(values) <= 128 else 0.01
    for share in (50, 90, 95, 99):
        rank = math.ceil(share * len(values) / 100)
        assert summary[f"p{share}"] == pytest.approx(values[rank - 1], rel=error)


# -- any traffic -------------------------------------------------------------------------------------------

PHASES = st.lists(
    st.fixed_dictionaries(
        {
            "routes": st.lists(st.sampled_from(ROUTES), min_size=1, max_size=3),
            "requests": st.sampled_from([1, 5, 30, 150]),
            "pause": st.sampled_from([0.0, 0.05, 1.0, 5.0, 16.0, 200.0]),
            "then": st.sampled_from([0, 0, 1, 15.5, 16, 700, 4_000]),
            "remove": st.sampled_from([False, False, False, True]),
            "read": st.booleans(),
        }
    ),
    min_size=1,
    max_size=6,
)
HOSTS = st.sampled_from([1, 2, 20])
STORES = st.fixed_dictionaries(
    {
        "budgets": st.sampled_from([{}, {}, {"recent_bytes": 20_000}, {"recent_bytes": 3_000}])
        | st.sampled_from([{"recent_bytes": 1}, {"series_per_name": 12}]),
        "expire_after": st.sampled_from([None, None, timedelta(minutes=10), timedelta(hours=2)]),
    }
)


@pytest.mark.heavy
@settings(max_examples=80)
@given(STORES, PHASES, HOSTS, st.integers(0, 9_999))
def test_each_answer_for_a_route_is_exact_or_refused(store, phases, hosts, seed):
    """For busy, late, rare, idle, removed and expired routes, with little memory."""
    play(store, phases, hosts, random.Random(seed))


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_thousands_of_answers_for_routes_are_exact_or_refused(soak):
    """The same for five thousand services."""

    @settings(max_examples=soak(5_000), deadline=None)
    @given(STORES, PHASES, HOSTS, st.integers(0, 9_999))
    def each_is_exact(store, phases, hosts, seed):
        play(store, phases, hosts, random.Random(seed))

    each_is_exact()


def play(store: dict[str, Any], phases: list[dict[str, Any]], hosts: int, source: random.Random) -> None:
    """Serve requests in phases, and check many windows after each."""
    service = Service(budgets=Budgets(**store["budgets"]), expire_after=store["expire_after"])
    service.lost_any = bool(store["budgets"] or store["expire_after"])
    for phase in phases:
        for _ in range(phase["requests"]):
            failure = source.choice([None, None, None, "Timeout", "Refused"])
            service.request(
                source.randrange(1, 500),
                failure,
                route=source.choice(phase["routes"]),
                host=str(source.randrange(hosts)),
            )
            service.clock.advance(source.random() * 2 * phase["pause"])
        service.clock.advance(phase["then"])
        if phase["remove"]:
            service.remove(route=source.choice(phase["routes"]), host=str(source.randrange(hosts)))
        if phase["read"]:
            service.store.readings()
        for window_s in source.sample(ASKED, 3):
            service.check(window_s, route=source.choice(ROUTES))
            service.check(window_s, host=str(source.randrange(hosts)))
            service.check(window_s, route=source.choice(ROUTES), host=str(source.randrange(hosts)))


# -- the cases that matter ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_route_that_becomes_busy_late_is_answered_from_its_first_request_on():
    """A route that was idle for an hour has exact windows while it becomes the busiest."""
    service = Service()
    for second in range(3_600):
        if second % 2 == 0:
            service.request(20, route="/busy", host="a")
        if second in (5, 6):
            service.request(40, route="/late", host="a")
        service.clock.advance(1)
    assert service.check(300, route="/late") == 0
    for number in range(600):
        service.request(30, "Timeout" if number % 9 == 0 else None, route="/late", host="ab"[number % 2])
        service.clock.advance(0.2)
        if number % 20 == 0:
            for window_s in (16, 60, 300, 3_600):
                assert service.check(window_s, route="/late") == 0
    assert service.check(60, route="/late", host="b") == 0


@pytest.mark.slow
def test_a_route_that_is_not_among_the_busiest_is_answered():
    """Of two hundred routes, one with a request every two minutes has windows as exact as the others."""
    service = Service()
    for number in range(5_000):
        service.request(5, route=f"/{number % 199}", host="a")
        if number % 300 == 17:
            service.request(700, "Timeout", route="/rare", host="a")
        service.clock.advance(0.4)
    for window_s in (60, 300, 1_800):
        assert service.check(window_s, route="/rare") == 0
        assert service.check(window_s, route="/7") == 0
    assert service.tracker.get_success_rate("request", timedelta(minutes=30), tags={"route": "/rare"}) == 0.0


def test_an_idle_route_is_answered():
    """A route without requests for hours has empty windows, and complete ones that are long enough."""
    service = Service()
    for _ in range(100):
        service.request(5, route="/idle", host="a")
        service.clock.advance(10)
    service.clock.advance(3 * 3_600)
    service.request(5, route="/busy", host="a")
    for window_s in ASKED:
        assert service.check(window_s, route="/idle") == 0
    stats = service.timer.get_timing_stats(
        "request", time_window=timedelta(minutes=5), tags={"route": "/idle"}
    )
    assert stats["count"] == 0
    assert "p95" not in stats


def test_if_memory_is_used_up_answers_are_exact_or_name_the_remedy():
    """With little memory some windows are refused; `window_by` in the description answers for all routes."""
    service = Service(budgets=Budgets(recent_bytes=10_000))
    for number in range(2_000):
        service.request(5, route=f"/{number % 50}", host="a")
        service.clock.advance(1)
    refused = [service.check(300, route=f"/{route}") for route in range(50)]
    assert 0 < sum(refused) <= 4 * 50
    window, tags = timedelta(hours=5), {"route": "/7"}
    assert service.aggregator.get_metric_summary("described", window, tags=tags)["count"] == 40

    def ask_for_hosts() -> None:
        for minutes in range(1, 30):
            service.aggregator.get_metric_summary("orders", timedelta(minutes=minutes), tags={"host": "a"})

    with pytest.raises(InvalidInputError, match=r"describe\('orders', window_by=\['host'\]\)"):
        ask_for_hosts()


@pytest.mark.slow
def test_a_removed_route_is_never_counted_in_part():
    """After a removal, windows begin after the last request of the removed series."""
    service = Service()
    for number in range(100):
        service.request(5, route="/kept" if number % 2 else "/removed", host="a")
        service.clock.advance(10)
    service.remove(route="/removed", host="a")
    for number in range(100):
        for window_s in (60, 300, 1_800, 86_400):
            assert service.check(window_s, host="a") == 0
        service.request(7, route="/kept", host="a")
        service.clock.advance(7)
        if number == 50:
            service.request(9, route="/removed", host="a")


# -- memory ------------------------------------------------------------------------------------------------

LIMIT = 20_000_000
SERIES = 10_000
SHARE = 20
"""The divisor of the series and of the limit: all of them take minutes while allocations are traced."""

SHARED_BYTES = 150_000
"""What the windows of all series have in common, such as the starts of slots."""

MEMORY = """
import json, sys
from {module} import memory_of_an_hour
print(json.dumps(memory_of_an_hour(sys.argv[1], int(sys.argv[2]))))
"""


def memory_of_an_hour(kind: str, recent_bytes: int) -> list[int]:
    """Record into many series for more than an hour; return memory in use: allocated, numeric, accounted."""
    tracemalloc.start()
    clock = ManualClock()
    store = Store(clock, budgets=Budgets(recent_bytes=recent_bytes))
    collector = InMemoryCollector(store)
    source = random.Random(1)
    values = [source.lognormvariate(0, 1) for _ in range(9_973)]
    tags = [{"route": f"/{number}"} for number in range(SERIES // SHARE)]
    bound = [getattr(collector, kind)("name", each) for each in tags]
    records = [series.add if kind == "counter" else series.observe for series in bound]
    number = 0
    for _ in range(240):
        for record in records:
            number += 1
            record(values[number % 9_973])
        clock.advance(16)
    if kind == "counter" and recent_bytes > 1:
        assert store.summary("name", timedelta(minutes=5), {"route": "/7"})["seconds"] >= 300
    gc.collect()
    allocated, _ = tracemalloc.get_traced_memory()
    if kind == "counter" and recent_bytes > 1:  # there is room for all of them
        assert all(series.recent is not None for series in bound)
    return [allocated, store.core.nbytes, store._state.cardinality.recent.used]


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["counter", "timer"])
def test_windows_of_ten_thousand_routes_take_at_most_twenty_megabytes(kind):
    """Compared with no windows, an hour of windows of 10 000 busy series allocates at most 20 MB more."""

    def measured(recent_bytes: int) -> list[int]:
        code = MEMORY.format(module=__name__)
        command = [sys.executable, "-c", code, kind, str(recent_bytes)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
        assert run.returncode == 0, run.stderr
        found: list[int] = json.loads(run.stdout)
        return found

    without, full = measured(1), measured(LIMIT // SHARE)
    assert full[2] <= LIMIT // SHARE
    allocated, numeric = full[0] - without[0], full[1] - without[1]
    assert allocated + numeric <= LIMIT // SHARE + SHARED_BYTES, (without, full)
