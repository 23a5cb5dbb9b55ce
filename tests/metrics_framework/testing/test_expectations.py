"""`expect` compares the changes that a block makes with the expected ones."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.fan_out import FanOutCollector
from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector
from metrics_adapters.null import NullAggregator
from metrics_framework import MetricsSystem, MetricType, MetricUnit, MetricValue, testing
from metrics_framework.errors import InvalidInputError
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.recording import Store
from metrics_framework.testing import (
    MetricsTestSystem,
    counter,
    expect,
    failure,
    gauge,
    histogram,
    success,
    timer,
)


@pytest.fixture
def metrics(clock) -> MetricsTestSystem:
    """Return a system with one record of each kind."""
    system = MetricsTestSystem(clock=clock)
    record(system)
    return system


def record(system) -> None:
    """Record something of every kind."""
    collector = system.collector
    collector.record_counter("orders", 2, {"status": "ok", "country": "NL"})
    collector.record_counter("orders", 1, {"status": "ok", "country": "DE"})
    collector.record_counter("orders", 5, {"status": "failed", "country": "NL"})
    collector.record_gauge("queue.depth", 7, {"queue": "a"})
    collector.record_gauge("queue.depth", 2, {"queue": "b"})
    collector.record_histogram("size", 2.5, {"count": "few"})
    collector.record_histogram("size", 4)
    collector.record_timer("latency", 30, MetricUnit.SECONDS)
    system.timer.stop_timer(system.timer.start_timer("db.query"))
    system.tracker.record_success("db.query")
    system.tracker.record_success("db.query")
    system.tracker.record_failure("db.query", "TimeoutError")


def fails(system, *expectations, only=False) -> str:
    """Return the message of a check of one recording that must fail."""
    with pytest.raises(AssertionError) as raised, expect(system, *expectations, only=only):
        record(system)
    return str(raised.value)


RIGHT = [
    counter("orders", 8),
    counter("orders", +3, status="ok"),
    counter("orders", 2, status="ok", country="NL"),
    counter("orders", 2, tags={"status": "ok"}, country="NL"),
    counter("orders", pytest.approx(8)),
    counter("orders", 8.0),
    counter("orders", Fraction(8)),
    counter("orders", 0, status="lost"),
    counter("unheard.of", 0),
    gauge("queue.depth", 7, queue="a"),
    gauge("queue.depth", 9),
    gauge("queue.depth", pytest.approx(9.0000001)),
    histogram("size", count=2),
    histogram("size", sum=6.5),
    histogram("size", count=1, sum=2.5, tags={"count": "few"}),
    histogram("size", tags={"count": "few"}),
    histogram("unheard.of", count=0),
    histogram("unheard.of", count=0, sum=0),
    timer("latency"),
    timer("latency", 1),
    timer("latency", sum=30_000),
    timer("db.query", count=1),
    success("db.query", 2),
    success("db.query", count=2),
    success("unheard.of", 0),
    failure("db.query", "TimeoutError"),
    failure("db.query", "ValueError", 0),
]

WRONG = [
    counter("orders"),
    counter("orders", 9),
    counter("orders", 0),
    counter("orders", 8, status="ok"),
    counter("orders", 1, status="lost"),
    counter("order", 8),
    counter("size"),
    counter("orders", "8"),
    counter("orders", float("nan")),
    gauge("queue.depth", 2),
    gauge("queue.depth", 0, queue="c"),
    gauge("unheard.of", 0),
    histogram("size"),
    histogram("size", count=2, sum=6),
    histogram("size", count=3, sum=6.5),
    histogram("size", tags={"count": "many"}),
    histogram("latency"),
    timer("latency", 0),
    timer("latency", sum=30),
    timer("db.query", 2),
    timer("size", 2),
    success("db.query"),
    success("unheard.of"),
    failure("db.query", "TimeoutError", 2),
    failure("db.query", "ValueError"),
    failure("db.query", "TimeoutError", shard="1"),
]


@pytest.mark.parametrize("expectation", RIGHT, ids=range(len(RIGHT)))
def test_a_correct_expectation_passes(metrics, expectation):
    """An expectation that describes the change passes, whatever was recorded before."""
    with metrics.expect(expectation):
        record(metrics)
    with expect(metrics.aggregator, expectation):
        record(metrics)


@pytest.mark.parametrize("expectation", WRONG, ids=range(len(WRONG)))
def test_a_wrong_expectation_fails(metrics, expectation):
    """An expectation that does not describe the change fails."""
    assert "1 of 1 expectation failed" in fails(metrics, expectation)


def test_one_wrong_expectation_among_right_ones_fails(metrics):
    """Every expectation has to be met."""
    assert "1 of 3 expectations failed" in fails(
        metrics, counter("orders", 8), counter("orders"), timer("latency")
    )


def test_a_matcher_decides_by_its_equality(metrics):
    """An object that is not a number is compared with `==`, and printed as its repr."""

    class AtLeast:
        def __init__(self, least) -> None:
            self.least = least

        def __eq__(self, other) -> bool:
            return other >= self.least

        def __repr__(self) -> str:
            return f"at least {self.least}"

    with metrics.expect(counter("orders", AtLeast(8))):
        record(metrics)
    assert "at least 9" in fails(metrics, counter("orders", AtLeast(9)))


def test_rounding_errors_are_tolerated(metrics):
    """A change of 0.3 is 0.3, even if it is computed as 12.600000000000001 - 12.3."""
    for before in (0.1, 12.3, 1e9 / 7):
        metrics.collector.record_counter("money", before)
        with metrics.expect(counter("money", 0.3)):
            for _ in range(3):
                metrics.collector.record_counter("money", 0.1)
        with pytest.raises(AssertionError), metrics.expect(counter("money", 0.30001)):
            metrics.collector.record_counter("money", 0.3)


def test_integers_are_compared_exactly(metrics):
    """Between integers, no tolerance hides a difference of one."""
    metrics.collector.record_counter("bytes", 2**60)
    with metrics.expect(counter("bytes", 2**52 + 1)):
        metrics.collector.record_counter("bytes", 2**52 + 1)
    with pytest.raises(AssertionError), metrics.expect(counter("bytes", 2**52)):
        metrics.collector.record_counter("bytes", 2**52 + 1)


def test_an_infinite_sum_matches_no_finite_number(metrics):
    """A sum beyond the largest float is infinite and fails every finite expectation."""
    metrics.collector.record_counter("huge", 1.7e308)
    with pytest.raises(AssertionError, match="inf"), metrics.expect(counter("huge", 5)):
        metrics.collector.record_counter("huge", 1.7e308)


ALL = [
    counter("orders", 8),
    gauge("queue.depth", 9),
    histogram("size", count=2),
    timer("latency"),
    timer("db.query"),
    success("db.query", 2),
    failure("db.query", "TimeoutError"),
]


@pytest.mark.parametrize("left_out", range(len(ALL)))
def test_only_finds_other_changes(clock, left_out):
    """With `only=True`, a change that no expectation covers fails; otherwise it is ignored."""
    expectations = [each for number, each in enumerate(ALL) if number != left_out]
    system = MetricsSystem(clock=clock)
    assert "unexpected change" in fails(system, *expectations, only=True)
    with expect(system, *expectations):
        record(system)


def test_only_passes_if_every_change_is_expected(clock):
    """`only=True` passes if the expectations cover all changes."""
    system = MetricsSystem(clock=clock)
    with expect(system, *ALL, only=True):
        record(system)


def test_only_without_expectations_allows_no_change(metrics):
    """`only=True` alone allows no change. A new counter with a value of 0 is not a change."""
    with metrics.expect(only=True):
        metrics.collector.counter("declared")
        metrics.collector.record_counter("orders", 0, {"status": "new"})
    with pytest.raises(AssertionError, match="1 unexpected change"), metrics.expect(only=True):
        metrics.collector.increment("orders")


def test_only_ignores_resource_gauges(metrics):
    """The gauges of a resource monitor may change at any time."""
    with metrics.expect(only=True):
        asyncio.run(metrics.collect_metrics_async())


def test_a_removed_metric_is_a_change(metrics):
    """A series that is missing after the block is listed as removed."""
    with pytest.raises(AssertionError, match=r"gauge .*queue=a} +removed"), metrics.expect(only=True):
        metrics.collector.remove("queue.depth", {"queue": "a"})


def test_a_removed_counter_counts_as_a_decrease(metrics):
    """An expected change of 0 fails if the counter was removed."""
    with pytest.raises(AssertionError, match=r"orders +0 +-8"), metrics.expect(counter("orders", 0)):
        metrics.collector.remove("orders")


def test_a_timer_and_an_operation_of_one_name_are_added_up(metrics, clock):
    """`timer` covers the durations of an operation and of a timer metric alike."""
    with metrics.expect(timer("render", count=2, sum=30), only=True):
        metrics.collector.record_timer("render", 10)
        metrics.timer.time_operation("render", lambda: clock.advance(0.02))


def test_reading_changes_nothing(metrics):
    """The export is the same before and after checks."""
    before = metrics.aggregator.export_metrics("jsonl")
    with metrics.expect(counter("orders", 0), counter("unheard.of", 0), only=True):
        pass
    metrics.recorded()
    assert metrics.aggregator.export_metrics("jsonl") == before


def test_blocks_nest(metrics):
    """An inner block does not affect an outer one."""
    with metrics.expect(counter("orders", 3)):
        metrics.collector.increment("orders")
        with metrics.expect(counter("orders", 1)):
            metrics.collector.increment("orders")
        metrics.collector.increment("orders")


@pytest.mark.parametrize("raised", [KeyError("mine"), SystemExit(1), AssertionError("mine")])
def test_an_exception_of_the_block_propagates_if_its_changes_are_right(metrics, raised):
    """The code under test may raise, and its changes are checked before the exception continues."""
    with pytest.raises(type(raised)) as seen, metrics.expect(counter("orders"), only=True):
        _order_and_raise(metrics, raised)
    assert seen.value is raised


@pytest.mark.parametrize("raised", [KeyError("mine"), SystemExit(1), AssertionError("mine")])
def test_an_expected_exception_does_not_hide_a_failed_expectation(metrics, raised):
    """With `pytest.raises` outside or inside, the test fails and shows the changes."""
    with (
        pytest.raises(BaseExceptionGroup, match=f"raised {type(raised).__name__}, and metrics: 1 of") as both,
        pytest.raises(type(raised)),
        metrics.expect(counter("unheard.of")),
    ):
        raise raised
    error, failure = both.value.exceptions
    assert error is raised
    assert isinstance(failure, AssertionError)
    assert "No counter 'unheard.of' was recorded" in str(failure)
    with (
        pytest.raises(AssertionError, match="1 unexpected change"),
        metrics.expect(only=True),
        pytest.raises(type(raised)),
    ):
        _order_and_raise(metrics, raised)


def _order_and_raise(metrics, error):
    metrics.collector.increment("orders")
    raise error


@pytest.mark.parametrize("ending", [KeyboardInterrupt, asyncio.CancelledError, pytest.skip.Exception])
def test_an_exception_that_ends_the_test_is_not_replaced(metrics, ending):
    """Ctrl-C, a cancelled task and a skipped test have no failed expectations."""
    with pytest.raises(ending), metrics.expect(counter("unheard.of")):
        raise ending()


def test_threads_check_concurrently(metrics):
    """Each thread's block sees the changes of its own series."""
    failed, begin = [], threading.Barrier(8)

    def work(number) -> None:
        begin.wait(30)
        try:
            for _ in range(20):
                with metrics.expect(counter("jobs", 5, thread=str(number)), timer(f"job.{number}", 1)):
                    for _ in range(5):
                        metrics.collector.increment("jobs", {"thread": str(number)})
                    metrics.timer.time_operation(f"job.{number}", lambda: None)
        except BaseException as error:  # noqa: BLE001 - seen by the assertion below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []


def test_blocks_contain_awaits(metrics):
    """A plain `with` checks async code, also of several tasks at once."""

    async def job(number) -> None:
        with metrics.expect(counter("jobs", 2, task=str(number)), success(f"job.{number}")):
            async with metrics.measure(f"job.{number}"):
                metrics.collector.increment("jobs", {"task": str(number)})
                await asyncio.sleep(0)
                metrics.collector.increment("jobs", {"task": str(number)})

    async def jobs() -> None:
        await asyncio.gather(*(job(number) for number in range(5)))

    with metrics.expect(counter("jobs", 10)):
        asyncio.run(jobs())


def test_tags_of_a_measured_operation_select_series(metrics):
    """An operation's tags select its durations and outcomes."""
    with (
        metrics.expect(
            timer("db.query", table="users"),
            success("db.query", table="users"),
            timer("db.query", 0, table="orders"),
        ),
        metrics.measure("db.query", {"table": "users"}),
    ):
        pass


class AcmeSystem:
    """A third-party backend with only the Protocols' methods. It lists its series without metadata."""

    def __init__(self) -> None:
        self.collector = self.aggregator = self
        self.totals: dict[tuple, float] = {}
        self.kinds: dict[str, MetricType] = {}

    def record_counter(self, name, value=1, tags=None) -> None:
        """Add up."""
        key = (name, *sorted((tags or {}).items()))
        self.totals[key] = self.totals.get(key, 0) + value
        self.kinds[name] = MetricType.COUNTER

    def record_histogram(self, name, value, tags=None) -> None:
        """Keep the last value."""
        self.totals[(name,)] = value
        self.kinds[name] = MetricType.HISTOGRAM

    def get_metrics_by_tag(self, tag_filter) -> list[MetricValue]:
        """List everything."""
        now = datetime(2026, 1, 1, tzinfo=UTC)
        return [
            MetricValue(name, value, self.kinds[name], MetricUnit.COUNT, now, dict(tags), {})
            for (name, *tags), value in self.totals.items()
        ]


def test_a_third_party_system_can_be_checked():
    """A check needs only `get_metrics_by_tag`."""
    acme = AcmeSystem()
    acme.record_counter("orders", 3, {"status": "ok"})
    with expect(acme, counter("orders", 2, status="ok"), counter("orders", 0, status="failed"), only=True):
        acme.record_counter("orders", 2, {"status": "ok"})
    with pytest.raises(AssertionError, match=r"\+3 +\+2"), expect(acme, counter("orders", 3)):
        acme.record_counter("orders", 2, {"status": "ok"})


def test_a_number_that_is_not_listed_is_unknown():
    """A check does not invent a count that the adapter does not list."""
    acme = AcmeSystem()
    with pytest.raises(AssertionError, match=r"count \+1 +count unknown"), expect(acme, histogram("size")):
        acme.record_histogram("size", 3)


def test_outcomes_need_only_a_rate_and_a_count():
    """Successes are computed from the success rate if the adapter does not list them."""

    class Tracked(NullAggregator):
        count, failures = 4, 1

        def get_metrics_by_tag(self, tag_filter) -> list[MetricValue]:
            metadata = {"count": self.count, "success_rate": 1 - self.failures / self.count}
            now = datetime(2026, 1, 1, tzinfo=UTC)
            unit = MetricUnit.OPERATIONS_PER_SECOND
            return [MetricValue("op", 0.1, MetricType.RATE, unit, now, {}, metadata)]

    aggregator: MetricsAggregator = Tracked()
    with expect(aggregator, success("op", 5)):
        aggregator.count, aggregator.failures = 10, 2


def test_each_collector_of_a_fan_out_is_checked():
    """Each collector of a fan-out gets the same numbers."""
    ours, theirs = Store(), Store()
    system = MetricsSystem(
        collector=FanOutCollector(InMemoryCollector(ours), InMemoryCollector(theirs)),
        aggregator=InMemoryAggregator(ours),
    )
    with (
        expect(system, counter("orders", 2), only=True),
        expect(InMemoryAggregator(theirs), counter("orders", 2), only=True),
    ):
        system.collector.record_counter("orders", 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: counter(""), "metric name '' is not a non-empty string"),
        (lambda: counter(3), "metric name 3"),
        (lambda: failure("op", ""), "error type ''"),
        (lambda: counter("orders", tags=["a"]), r"tags=\['a'\] is not a mapping"),
        (lambda: counter("orders", tags={"a": "1"}, a="2"), "tag 'a' is passed twice, as '2' and"),
        (lambda: counter("orders", change=3), "change=3 is not a tag, .* write the tag as change='3'"),
        (lambda: expect(counter("orders")), "pass the system first"),
        (lambda: expect(MetricsSystem(), "orders"), "'orders' is not an expectation: pass one"),
        (lambda: expect(MetricsSystem()), "has no expectations: pass at least one, or only=True"),
        (lambda: expect(object(), counter("orders")), "is not a metrics system"),
        (lambda: expect(InMemoryCollector(), counter("orders")), "pass a MetricsSystem or a Metrics"),
        (lambda: expect(NullAggregator, counter("orders")), "is not a metrics system"),
    ],
    ids=range(12),
)  # fmt: skip
def test_bad_input_is_rejected_before_the_block(wrong, message):
    """Bad input raises one clear error before the block begins."""
    with pytest.raises(InvalidInputError, match=message):
        wrong()


NAMES = st.sampled_from(["a", "b"])
TAGS = st.sampled_from([{}, {"x": "1"}, {"x": "2"}, {"x": "1", "y": "1"}])
RECORDS = st.lists(
    st.tuples(
        st.sampled_from(["counter", "gauge", "histogram", "timer", "success", "failure"]),
        NAMES,
        st.integers(0, 40).map(lambda quarters: quarters / 4),
        TAGS,
    ),
    max_size=30,
)


def play(system, records) -> None:
    """Record a sequence; each kind has names of its own, as a name has one type."""
    for kind, name, value, tags in records:
        if kind in ("counter", "gauge", "histogram", "timer"):
            arguments = {"tags": tags}
            getattr(system.collector, f"record_{kind}")(f"{kind}.{name}", value, **arguments)
        elif kind == "success":
            system.tracker.record_success(name)
        else:
            system.tracker.record_failure(name, f"Error{value:.0f}")


def modelled(records, kind, name, tags) -> list[float]:
    """Return the values that were recorded in the series with some tags."""
    return [
        value
        for each, other, value, carried in records
        if (each, other) == (kind, name) and tags.items() <= carried.items()
    ]


@given(before=RECORDS, block=RECORDS, name=NAMES, tags=TAGS, off=st.sampled_from([-1, 0.25, 3]))
def test_only_the_exact_change_passes(before, block, name, tags, off):
    """For any records before and in a block, the modelled change passes and any other fails."""
    system = MetricsTestSystem()
    play(system, before)
    last: dict[tuple, float] = {}
    for kind, other, value, carried in before + block:
        if (kind, other) == ("gauge", name) and tags.items() <= carried.items():
            last[tuple(carried.items())] = value

    def expectations(wrong) -> list:
        counted = modelled(block, "counter", name, tags)
        recorded = modelled(block, "histogram", name, tags)
        timed = modelled(block, "timer", name, tags)
        errors = [round(value) for value in modelled(block, "failure", name, {})]
        return [
            counter(f"counter.{name}", sum(counted) + wrong, tags=tags),
            histogram(f"histogram.{name}", count=len(recorded) + wrong, tags=tags),
            histogram(f"histogram.{name}", sum=sum(recorded) + wrong, tags=tags),
            timer(f"timer.{name}", count=len(timed) + wrong, tags=tags),
            timer(f"timer.{name}", sum=sum(timed) + wrong, tags=tags),
            success(name, len(modelled(block, "success", name, {})) + wrong),
            failure(name, "Error3", errors.count(3) + wrong),
            *([gauge(f"gauge.{name}", sum(last.values()) + wrong, tags=tags)] if last else []),
        ]

    blocks = [system.expect(*expectations(0))]
    wrong_blocks = [system.expect(each) for each in expectations(off)]
    for each in blocks + wrong_blocks:
        each.__enter__()
    play(system, block)
    blocks[0].__exit__(None, None, None)
    for each in wrong_blocks:
        with pytest.raises(AssertionError):
            each.__exit__(None, None, None)


def test_every_declared_name_exists():
    """`__all__` lists all public names of the package, sorted, and each has a docstring."""
    held = {
        name
        for name, value in vars(testing).items()
        if getattr(value, "__module__", "").startswith("metrics_framework.testing") and callable(value)
    }
    assert testing.__all__ == sorted(held)
    assert [name for name in held if not getattr(testing, name).__doc__] == []


@pytest.mark.slow
def test_checking_needs_no_pytest():
    """`expect` works where pytest is not installed, and the core does not load the kit."""
    code = "import sys; sys.modules['pytest'] = None; import metrics_framework.testing"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, metrics_framework as m; assert 'metrics_framework.testing' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_block_may_outlast_the_time_windows(metrics, clock):
    """A block may last longer than the windows in which a store keeps time."""
    with metrics.expect(counter("orders", 8), timer("latency")):
        record(metrics)
        clock.advance(timedelta(days=40).total_seconds())
