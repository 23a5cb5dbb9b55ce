"""The store, through the collectors, timers and trackers that are views of it."""

from __future__ import annotations

import math
import random
import statistics
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.in_memory import InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, MetricTypeError, UnknownMetricError
from metrics_framework.recording import Store
from metrics_framework.values import MetricType, MetricUnit
from tests.threads import switching, together

COUNTER_KEYS = {"count", "seconds", "sum", "rate", "total"}
GAUGE_KEYS = {"count", "seconds", "last", "avg", "min", "max"}
DISTRIBUTION_KEYS = {
    "count",
    "seconds",
    "sum",
    "rate",
    "avg",
    "min",
    "max",
    "stddev",
    "p50",
    "p90",
    "p95",
    "p99",
}
MINUTE = timedelta(minutes=1)


@dataclass
class StoreViews:
    """A store with its own clock, and all parts that write to it."""

    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.store = Store(self.clock)
        self.collector = InMemoryCollector(self.store)
        self.timer = InMemoryTimer(self.store)
        self.tracker = InMemoryTracker(self.store)

    def time(self, operation: str, seconds: float) -> None:
        """Time an operation of some seconds."""
        self.timer.time_operation(operation, lambda: self.clock.advance(seconds))


@pytest.fixture
def views() -> StoreViews:
    """Return an empty store with its views."""
    return StoreViews()


def everything(store: Store) -> object:
    """Return all numbers of a store since its start, to check that none changes."""
    return (
        sorted(
            (each.name, sorted(each.tags.items()), sorted(each.summary.items())) for each in store.readings()
        ),
        [(each.name, each.tags, each.summary) for each in store.timing_readings()],
        store.outcome_readings(),
        {each.name: store.recent_failures(each.name) for each in store.outcome_readings()},
        store.recorded,
    )


# -- summaries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, MINUTE])
@pytest.mark.parametrize(
    ("record", "keys"),
    [
        (lambda views: views.collector.record_counter("name", 3), COUNTER_KEYS),
        (lambda views: views.collector.record_gauge("name", 3), GAUGE_KEYS),
        (lambda views: views.collector.record_histogram("name", 3), DISTRIBUTION_KEYS),
        (lambda views: views.collector.record_timer("name", 3), DISTRIBUTION_KEYS),
    ],
)
def test_summaries_have_fixed_keys(views, record, keys, window):
    """The summary of a type has the same keys in every window with records."""
    record(views)
    assert views.store.summary("name", window).keys() == keys


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            lambda views: views.collector.record_counter("name", 3),
            {"sum": 0, "rate": 0.0, "total": 3},
        ),
        (lambda views: views.collector.record_gauge("name", 3), {"last": 3}),
        (lambda views: views.collector.record_histogram("name", 3), {"sum": 0, "rate": 0.0}),
        (lambda views: views.collector.record_timer("name", 3), {"sum": 0, "rate": 0.0}),
    ],
)
def test_an_empty_window_makes_nothing_up(views, record, expected):
    """Without records there are no averages, extremes or quantiles; totals and last values remain."""
    record(views)
    views.clock.advance(3_600)
    assert views.store.summary("name", MINUTE) == {"count": 0, "seconds": 60.0, **expected}


@pytest.mark.parametrize("window", [None, MINUTE])
def test_timings_have_the_keys_of_a_timer(views, window):
    """The summary of an operation is like that of a timer, and has the number of failures."""
    views.time("operation", 0.25)
    assert views.store.timing_summary("operation", window).keys() == {*DISTRIBUTION_KEYS, "failures"}


def test_a_counter_in_a_window(views):
    """The sum is of the window, the rate is the sum per second, the total is since the start."""
    views.collector.record_counter("name", 5)
    views.clock.advance(100)
    views.collector.record_counter("name", 4, {"branch": "main"})
    views.collector.record_counter("name", 2)
    views.clock.advance(10)
    summary = views.store.summary("name", timedelta(seconds=20))
    assert summary == {"count": 2, "seconds": 20.0, "sum": 6, "rate": 6 / 20, "total": 11}
    assert views.store.summary("name") == {
        "count": 3,
        "seconds": 110.0,
        "sum": 11,
        "rate": 11 / 110,
        "total": 11,
    }


def test_a_gauge_in_a_window(views):
    """The average is weighted by time, and the value before the window counts until the next one."""
    views.collector.record_gauge("name", 100)
    views.clock.advance(10)
    views.collector.record_gauge("name", 1)
    views.clock.advance(30)
    views.collector.record_gauge("name", 4)
    views.clock.advance(10)
    summary = views.store.summary("name", timedelta(seconds=20))
    assert summary == {"count": 1, "seconds": 20.0, "last": 4, "avg": 2.5, "min": 1, "max": 4}
    since_start = views.store.summary("name")
    assert since_start == {"count": 3, "seconds": 50.0, "last": 4, "avg": 21.4, "min": 1, "max": 100}


def test_a_histogram_in_a_window(views):
    """Every statistic is of the records in the window."""
    views.collector.record_histogram("name", 1_000_000)
    views.clock.advance(100)
    values = list(range(1, 51))
    for value in values:
        views.collector.record_histogram("name", value)
    summary = views.store.summary("name", timedelta(seconds=50))
    assert summary == {
        "count": 50,
        "seconds": 50.0,
        "sum": sum(values),
        "rate": 1.0,
        "avg": 25.5,
        "min": 1,
        "max": 50,
        "stddev": pytest.approx(statistics.pstdev(values)),
        "p50": 25,
        "p90": 45,
        "p95": 48,
        "p99": 50,
    }


def test_a_timer_is_kept_in_milliseconds(views):
    """Durations in every unit are stored in milliseconds, also those of an operation."""
    for duration, unit in (
        (1, MetricUnit.SECONDS),
        (20, MetricUnit.MILLISECONDS),
        (500, MetricUnit.MICROSECONDS),
    ):
        views.collector.record_timer("name", duration, unit)
    summary = views.store.summary("name")
    assert (summary["min"], summary["p50"], summary["max"]) == (0.5, 20, 1_000)
    views.time("operation", 0.25)
    assert views.store.timing_summary("operation")["max"] == 250.0


RECORDS = st.lists(
    st.tuples(
        st.integers(0, 50_000) | st.integers(0, 10**8),
        st.sampled_from(["counter", "histogram", "failure", "success", "timing"]),
        st.integers(0, 100),
    ),
    max_size=40,
)


@given(RECORDS, st.integers(0, 100_000), st.integers(1, 2 * 10**9))
def test_windows_agree_with_a_list_of_everything(records, rest, asked):
    """A window of any kind has exactly the records of the seconds that it reports."""
    views, now, log = StoreViews(), 0, []
    for pause, kind, value in records:
        views.clock.advance(pause / 1_000)
        now += pause + (value if kind == "timing" else 0)
        log.append((now, kind, value))
        match kind:
            case "counter":
                views.collector.record_counter(kind, value)
            case "histogram":
                views.collector.record_histogram(kind, value)
            case "timing":
                views.time(kind, value / 1_000)
            case "success":
                views.tracker.record_success("operation")
            case _:
                views.tracker.record_failure("operation", f"error {value % 3}")
    views.clock.advance(rest / 1_000)
    now += rest
    window = timedelta(milliseconds=asked)

    def inside(seconds: float, *kinds: str) -> list[tuple[str, int]]:
        reported = round(seconds * 1_000)
        assert min(asked, now) <= reported <= max(asked * 1.1, asked + 1_000)
        return [(kind, value) for moment, kind, value in log if moment >= now - reported and kind in kinds]

    recorded = {kind for _, kind, _ in log}
    for kind in recorded & {"counter", "histogram", "timing"}:
        summarize = views.store.timing_summary if kind == "timing" else views.store.summary
        summary = summarize(kind, window)
        values = [value for _, value in inside(summary["seconds"], kind)]
        assert (summary["count"], summary["sum"]) == (len(values), sum(values))
        if values and kind != "counter":
            assert (summary["min"], summary["max"]) == (min(values), max(values))
            assert summary["p50"] == statistics.median_low(values)
    if recorded & {"success", "failure"}:
        outcomes = views.store.outcomes("operation", window)
        events = inside(outcomes.seconds, "success", "failure")
        assert outcomes.failures == Counter(
            f"error {value % 3}" for kind, value in events if kind == "failure"
        )
        assert outcomes.successes == sum(kind == "success" for kind, _ in events)
        assert outcomes.count == len(events)
        assert outcomes.success_rate == (outcomes.successes / len(events) if events else 1.0)


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=60))
def test_quantiles_lie_in_order_between_the_extremes(values):
    """In ascending order: min <= p50 <= p90 <= p95 <= p99 <= max, and the average is between them."""
    views = StoreViews()
    for value in values:
        views.collector.record_histogram("name", value)
    summary = views.store.summary("name")
    ordered = [summary[key] for key in ("min", "p50", "p90", "p95", "p99", "max")]
    assert ordered == sorted(ordered)
    assert (summary["min"], summary["max"]) == (min(values), max(values))
    assert summary["min"] <= summary["avg"] <= summary["max"]
    assert summary["stddev"] >= 0


# -- series and namespaces -------------------------------------------------------------------------------


def test_a_reading_for_each_series(views):
    """Each combination of tags is one series; the summary of the name is over all of them."""
    views.collector.record_counter("requests", 2, {"endpoint": "/", "method": "GET"})
    views.collector.record_counter("requests", 3, {"method": "GET", "endpoint": "/"})
    views.collector.record_counter("requests", 4, {"endpoint": "/status"})
    views.collector.record_counter("requests", 8)
    found = {
        tuple(sorted(reading.tags.items())): reading.summary["sum"] for reading in views.store.readings()
    }
    assert found == {(("endpoint", "/"), ("method", "GET")): 5, (("endpoint", "/status"),): 4, (): 8}
    assert views.store.summary("requests")["total"] == 17
    assert views.store.series_count == 3


def test_a_reading_has_name_type_tags_and_summary(views):
    """The summary is since the start."""
    views.clock.advance(2)
    views.collector.record_histogram("size", 10, {"kind": "a"})
    views.collector.record_histogram("size", 30, {"kind": "b"})
    views.clock.advance(2)
    (first, second) = sorted(views.store.readings(), key=lambda reading: reading.tags["kind"])
    assert (first.name, first.metric_type, first.tags) == ("size", MetricType.HISTOGRAM, {"kind": "a"})
    assert (first.summary["count"], first.summary["max"], first.summary["seconds"]) == (1, 10, 4.0)
    assert second.summary["min"] == 30


def test_a_reading_is_a_copy(views):
    """Changing a reading does not affect the store."""
    views.collector.increment("requests", {"endpoint": "/"})
    views.tracker.record_failure("operation", "timeout")
    (reading,) = views.store.readings()
    reading.tags["endpoint"] = "elsewhere"
    reading.summary["sum"] = 99
    views.store.outcomes("operation").failures["timeout"] = 99
    views.store.recent_failures("operation").clear()
    (again,) = views.store.readings()
    assert (again.tags, again.summary["sum"]) == ({"endpoint": "/"}, 1)
    assert views.store.outcomes("operation").failures == {"timeout": 1}
    assert len(views.store.recent_failures("operation")) == 1


def test_operations_have_their_own_namespace(views):
    """A metric, a timed operation and a tracked one can have the same name."""
    views.collector.record_gauge("work", 3)
    views.time("work", 1)
    views.tracker.record_failure("work", "timeout")
    assert views.store.summary("work")["last"] == 3
    assert views.store.timing_summary("work")["count"] == 1
    assert views.store.outcomes("work").count == 1
    assert [each.name for each in views.store.timing_readings()] == ["work"]
    assert [each.name for each in views.store.outcome_readings()] == ["work"]
    assert (views.store.series_count, views.store.recorded) == (3, 3)


def test_integers_stay_exact_beyond_any_float(views):
    """A counter of integers is exact within 64 bits, and a float beyond."""
    for number in range(1, 11):
        views.collector.record_counter("name", 2**60 + 1)
        total = views.store.summary("name")["total"]
        assert total == (number * (2**60 + 1) if number < 8 else pytest.approx(number * 2**60, rel=1e-15))
        assert isinstance(total, int if number < 8 else float)


def test_a_counter_beyond_the_largest_float_does_not_spoil_the_others(views):
    """An infinite total breaks neither its own summary nor others."""
    for _ in range(20):
        views.collector.record_counter("huge", 10**308)
    views.clock.advance(1)
    views.collector.increment("other")
    assert views.store.summary("huge")["rate"] == math.inf
    assert len(views.store.readings()) == 2


# -- increment and decrement -----------------------------------------------------------------------------


def test_increments_of_a_new_name_count(views):
    """Incrementing an unknown name creates a counter."""
    views.collector.increment("name")
    views.collector.increment("name", {"a": "b"})
    assert views.store.summary("name")["total"] == 2
    assert {reading.metric_type for reading in views.store.readings()} == {MetricType.COUNTER}


def test_increments_of_a_gauge_move_it(views):
    """A gauge increases by one from the value of that series."""
    views.collector.record_gauge("name", 5)
    views.collector.record_gauge("name", 40, {"pool": "a"})
    views.collector.increment("name")
    views.collector.increment("name", {"pool": "a"})
    views.collector.increment("name", {"pool": "new"})
    levels = {reading.tags.get("pool"): reading.summary["last"] for reading in views.store.readings()}
    assert levels == {None: 6, "a": 41, "new": 1}


def test_decrements_of_a_new_name_make_a_gauge(views):
    """Decrementing an unknown name creates a gauge, which can also be incremented."""
    views.collector.decrement("name")
    views.collector.decrement("name")
    assert views.store.summary("name")["last"] == -2
    views.collector.increment("name")
    summary = views.store.summary("name")
    assert (summary["last"], summary["min"], summary["count"]) == (-1, -2, 3)


def test_a_counter_does_not_go_down(views):
    """The error says to declare a gauge before the first use, and the counter does not change."""
    views.collector.record_counter("name", 5)
    with pytest.raises(MetricTypeError, match=r"record_gauge\('name', 0\)"):
        views.collector.decrement("name")
    assert views.store.summary("name")["total"] == 5


@pytest.mark.parametrize("move", ["increment", "decrement"])
@pytest.mark.parametrize("record", ["record_histogram", "record_timer"])
def test_a_distribution_does_not_go_up_or_down(views, record, move):
    """A histogram or a timer cannot be incremented or decremented."""
    getattr(views.collector, record)("name", 5)
    before = everything(views.store)
    with pytest.raises(MetricTypeError, match="'name'"):
        getattr(views.collector, move)("name")
    assert everything(views.store) == before


# -- bad input -------------------------------------------------------------------------------------------

RECORD: dict[str, Callable[[InMemoryCollector], None]] = {
    "counter": lambda collector: collector.record_counter("name", 1, {"new": "series"}),
    "gauge": lambda collector: collector.record_gauge("name", 1, {"new": "series"}),
    "histogram": lambda collector: collector.record_histogram("name", 1, {"new": "series"}),
    "timer": lambda collector: collector.record_timer("name", 1, tags={"new": "series"}),
}


@pytest.mark.parametrize("second", RECORD)
@pytest.mark.parametrize("first", RECORD)
def test_a_name_has_one_type(views, first, second):
    """Using it as another type raises an error that names both, and loses nothing."""
    RECORD[first](views.collector)
    before = everything(views.store)
    if first == second:
        RECORD[second](views.collector)
        assert views.store.recorded == 2
        return
    with pytest.raises(MetricTypeError) as caught:
        RECORD[second](views.collector)
    assert f"'name' is a {first}" in str(caught.value)
    assert f"as a {second}" in str(caught.value)
    assert everything(views.store) == before


class BadTag:
    """A tag value that cannot be converted to text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda views: views.collector.record_counter("counter", math.nan), InvalidInputError),
        (lambda views: views.collector.record_counter("counter", math.inf), InvalidInputError),
        (lambda views: views.collector.record_counter("counter", -1), InvalidInputError),
        (lambda views: views.collector.record_counter("counter", "1"), InvalidInputError),
        (lambda views: views.collector.record_counter("counter", 10**400), InvalidInputError),
        (lambda views: views.collector.record_counter("counter", 1, {"": "a"}), InvalidInputError),
        (lambda views: views.collector.record_counter("counter", 1, ["a"]), InvalidInputError),
        (
            lambda views: views.collector.record_counter("counter", 1, {"a": BadTag()}),
            InvalidInputError,
        ),
        (lambda views: views.collector.record_counter("new", -1), InvalidInputError),
        (lambda views: views.collector.record_counter(""), InvalidInputError),
        (lambda views: views.collector.record_gauge("gauge", -math.inf), InvalidInputError),
        (lambda views: views.collector.record_gauge("gauge", None), InvalidInputError),
        (lambda views: views.collector.record_histogram("histogram", math.nan), InvalidInputError),
        (lambda views: views.collector.record_timer("timer", -0.1), InvalidInputError),
        (lambda views: views.collector.record_timer("timer", 1, MetricUnit.BYTES), InvalidInputError),
        (lambda views: views.collector.record_timer("timer", 1e307, MetricUnit.SECONDS), InvalidInputError),
        (lambda views: views.collector.increment(3), InvalidInputError),
        (lambda views: views.collector.decrement("counter"), MetricTypeError),
        (lambda views: views.timer.start_timer(""), InvalidInputError),
        (lambda views: views.tracker.record_success(None), InvalidInputError),
        (lambda views: views.tracker.record_failure("operation", ""), InvalidInputError),
        (lambda views: views.tracker.record_failure("new", ValueError()), InvalidInputError),
    ],
)
def test_bad_input_is_one_error_and_nothing_is_lost(views, bad, error):
    """After a rejected record all numbers are unchanged, no name is half created, and recording continues."""
    views.collector.record_counter("counter", 5)
    views.collector.record_gauge("gauge", -5)
    views.collector.record_histogram("histogram", -5)
    views.collector.record_timer("timer", 5)
    views.time("operation", 1)
    views.tracker.record_failure("operation", "timeout", {"attempt": 1})
    before = everything(views.store)
    with pytest.raises(error):
        bad(views)
    assert everything(views.store) == before
    views.collector.increment("counter")
    assert views.store.summary("counter")["total"] == 6


# -- names that are not there, windows that are not kept ---------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.summary("requets"),
        lambda store: store.summary("requets", MINUTE),
        lambda store: store.timing_summary("requets"),
        lambda store: store.outcomes("requets"),
        lambda store: store.recent_failures("requets"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(views, ask):
    """The error for an unknown name lists the most similar name of the same kind."""
    with pytest.raises(UnknownMetricError, match="none yet"):
        ask(views.store)
    views.collector.increment("requests")
    views.time("requests", 1)
    views.tracker.record_success("requests")
    with pytest.raises(UnknownMetricError, match=r"'requets'.*Did you mean 'requests'"):
        ask(views.store)


@pytest.mark.parametrize(
    "ask",
    [
        lambda store, window: store.summary("name", window),
        lambda store, window: store.timing_summary("name", window),
        lambda store, window: store.outcomes("name", window),
    ],
)
def test_a_window_is_positive_and_within_the_retention(views, ask):
    """A window beyond the retention, or of no length, is rejected."""
    views.collector.increment("name")
    views.time("name", 1)
    views.tracker.record_success("name")
    for window in (timedelta(0), timedelta(seconds=-1), timedelta(days=30, microseconds=1)):
        with pytest.raises(InvalidInputError, match="retention"):
            ask(views.store, window)
    ask(views.store, timedelta(microseconds=1))
    ask(views.store, timedelta(days=30))


@pytest.mark.parametrize("retention", [timedelta(0), timedelta(days=-1)])
def test_a_retention_is_positive(views, retention):
    """A retention of zero is rejected, at the start and later, and does not change the old one."""
    with pytest.raises(InvalidInputError, match="positive"):
        Store(retention=retention)
    with pytest.raises(InvalidInputError, match="positive"):
        views.store.retention = retention
    assert views.store.retention == timedelta(days=30)


def test_a_shorter_retention_bounds_windows_and_keeps_totals(views):
    """A later change applies to every existing name; totals are since the start."""
    views.collector.record_counter("name", 5)
    views.store.retention = timedelta(minutes=10)
    with pytest.raises(InvalidInputError, match="retention"):
        views.store.summary("name", timedelta(minutes=11))
    for _ in range(100):
        views.clock.advance(60)
        views.collector.record_counter("name", 1)
    summary = views.store.summary("name", timedelta(minutes=10))
    assert 10 <= summary["sum"] <= 12
    assert summary["total"] == 105


def test_a_longer_retention_keeps_more_of_every_name(clock):
    """It applies to names that were recorded before the change, too."""
    store = Store(clock, retention=MINUTE)
    collector = InMemoryCollector(store)
    collector.increment("name")
    store.retention = timedelta(hours=1)
    clock.advance(1_800)
    collector.increment("name")
    assert store.summary("name", timedelta(hours=1))["count"] == 2


def test_the_clock_of_a_store_is_the_one_that_it_was_given(clock):
    """Parts that share a store share its clock."""
    assert Store(clock).clock is clock


def test_the_last_failures_are_kept_with_their_metadata(views):
    """The last twenty are kept, newest last."""
    metadata = {"attempt": 0}
    for attempt in range(100):
        metadata["attempt"] = attempt
        views.tracker.record_failure("operation", f"error {attempt}", metadata)
        views.clock.advance(1)
    failures = views.store.recent_failures("operation")
    assert [failure.metadata["attempt"] for failure in failures] == list(range(80, 100))
    assert failures[-1].error_type == "error 99"
    assert (failures[-1].timestamp - failures[0].timestamp) == timedelta(seconds=19)
    assert views.store.outcomes("operation").count == 100


def test_totals_and_records_outlive_every_window(views):
    """`recorded` counts every record of metrics and operations, whatever its age."""
    views.collector.record_counter("counter", 5, {"a": "b"})
    views.collector.record_gauge("gauge", 1)
    views.collector.increment("gauge")
    views.collector.record_histogram("histogram", 1)
    views.time("operation", 1)
    views.tracker.record_success("operation")
    views.tracker.record_failure("operation", "timeout")
    views.clock.advance(100 * 86_400)
    assert views.store.recorded == 7
    assert views.store.series_count == 5
    assert (views.store.rejected, views.store.overflowed) == (0, 0)


def test_a_store_begins_when_it_is_made(clock):
    """`start_ns` is the time of its creation, and the start of all totals."""
    clock.advance(5)
    store = Store(clock)
    assert store.start_ns == clock.monotonic_ns()
    clock.advance(3)
    InMemoryCollector(store).increment("name")
    assert store.start_ns == 5_000_000_000
    assert store.summary("name")["seconds"] == store.summary("name", MINUTE)["seconds"] == 3.0


def test_the_retention_can_be_read_and_set(clock):
    """It is exact to the microsecond; the default is thirty days."""
    assert Store(clock).retention == timedelta(days=30)
    store = Store(clock, timedelta(hours=1))
    assert store.retention == timedelta(hours=1)
    store.retention = timedelta(seconds=90, microseconds=1)
    assert store.retention == timedelta(seconds=90, microseconds=1)


@pytest.mark.parametrize("wrong", [3_600, None, "1h"])
def test_durations_are_timedeltas(views, wrong):
    """A number of seconds instead of a timedelta is rejected and quoted."""
    with pytest.raises(InvalidInputError, match=f"retention={wrong!r}"):
        Store(retention=wrong)
    with pytest.raises(InvalidInputError, match=f"retention={wrong!r}"):
        views.store.retention = wrong
    views.collector.increment("name")
    if wrong is not None:
        with pytest.raises(InvalidInputError, match=f"expire_after={wrong!r}"):
            Store(expire_after=wrong)
        with pytest.raises(InvalidInputError, match=f"time_window={wrong!r}"):
            views.store.summary("name", wrong)


# -- threads -----------------------------------------------------------------------------------------------

THREADS = 8
ROUNDS = 400


def test_distributions_are_those_of_every_series(views):
    """Histograms, timers and timed operations are listed; other kinds are not."""
    store = views.store
    collector, timer = InMemoryCollector(store), InMemoryTimer(store)
    collector.record_histogram("size", 1, {"route": "/a"})
    collector.record_histogram("size", 3, {"route": "/b"})
    collector.record_timer("wait", 2, MetricUnit.SECONDS)
    collector.increment("orders")
    collector.record_gauge("open", 4)
    timer.time_operation("size", lambda: None)
    found = [(one.name, one.tags, one.operation, one.distribution.max) for one in store.distributions()]
    assert found[:3] == [
        ("size", {"route": "/a"}, False, 1),
        ("size", {"route": "/b"}, False, 3),
        ("wait", {}, False, 2_000),
    ]
    assert [one[:3] for one in found[3:]] == [("size", {}, True)]


@pytest.mark.heavy
def test_the_sum_and_the_total_of_a_counter_are_one_reading(views):
    """While it is recorded, a window with all records, and its history, sum up to the total."""
    counter, done = InMemoryCollector(views.store).counter("orders"), threading.Event()

    def work() -> None:
        while not done.is_set():
            counter.add(1)

    thread = threading.Thread(target=work, daemon=True)
    counter.add(1)
    thread.start()
    try:
        for _ in range(300):
            for window in (None, timedelta(days=1)):
                summary = views.store.summary("orders", window)
                assert summary["count"] == summary["sum"] == summary["total"]
            _, intervals = views.store.history("orders", timedelta(days=1), 5)
            assert sum(one.summary["sum"] for one in intervals) == intervals[-1].summary["total"]
    finally:
        done.set()
        thread.join()


def test_a_reading_has_every_series_once():
    """Metrics and both halves of operations are read with all of their records and tags."""
    clock = ManualClock()
    store = Store(clock, tags={"service": "shop"})
    collector = InMemoryCollector(store)
    for pod in "abc":
        collector.record_histogram("size", 1, {"pod": pod})
    collector.increment("orders")
    collector.record_gauge("level", 4)
    store.record_operation("parse", {}, 1_000_000, "bad")
    collector.remove("size", {"pod": "a"})
    clock.advance(3)
    read = {(one.name, one.metric_type): one for one in store.read()}
    assert {key: [tags for tags, _ in one.series] for key, one in read.items()} == {
        ("size", MetricType.HISTOGRAM): [{"service": "shop", "pod": "b"}, {"service": "shop", "pod": "c"}],
        ("orders", MetricType.COUNTER): [{"service": "shop"}],
        ("level", MetricType.GAUGE): [{"service": "shop"}],
        ("parse", MetricType.TIMER): [{"service": "shop"}],
        ("parse", MetricType.RATE): [{"service": "shop"}],
    }
    size, parse = read["size", MetricType.HISTOGRAM], read["parse", MetricType.RATE]
    assert (size.operation, size.records, size.distribution().count, size.rate) == (False, 3, 3, 1.0)
    assert (parse.operation, parse.records, parse.series[0][1].failures) == (True, 1, {"bad": 1})


def test_a_distribution_is_that_of_all_series_together(views):
    """Removed series are included, as in totals; a counter has no distribution."""
    store = views.store
    collector = InMemoryCollector(store)
    for number in (1, 2, 3):
        collector.record_histogram("size", number, {"route": str(number)})
    store.remove("size", {"route": "3"})
    assert store.distribution("size").quantiles(1.0) == [3]
    InMemoryTimer(store).time_operation("size", lambda: None)
    assert store.distribution("size", operation=True).count == 1
    collector.increment("orders")
    with pytest.raises(MetricTypeError, match="has no distribution"):
        store.distribution("orders")
    with pytest.raises(UnknownMetricError, match="size"):
        store.distribution("sise")


@pytest.mark.parametrize("rounds", [ROUNDS, pytest.param(10 * ROUNDS, marks=pytest.mark.heavy)])
def test_totals_are_exact_under_threads(rounds):
    """Eight threads that record with every instrument lose nothing and count nothing twice."""
    store = Store()
    collector, timer, tracker = InMemoryCollector(store), InMemoryTimer(store), InMemoryTracker(store)

    def work(number: int) -> None:
        source = random.Random(number)
        for round_ in range(rounds):
            collector.increment("shared")
            collector.record_counter("floats", source.choice([0.1, 0.2, 1e6]))
            collector.record_counter("tagged", 2, {"thread": str(number), "round": str(round_ % 7)})
            collector.record_histogram("sizes", round_)
            collector.record_gauge("level", number)
            timer.stop_timer(timer.start_timer("operation"))
            tracker.record_success("operation")
            tracker.record_failure("operation", f"error {round_ % 3}")

    with switching():
        together(*[partial(work, number) for number in range(THREADS)])
    number = THREADS * rounds
    assert store.summary("shared")["total"] == number
    values = [random.Random(thread) for thread in range(THREADS)]
    expected = math.fsum(source.choice([0.1, 0.2, 1e6]) for source in values for _ in range(rounds))
    assert store.summary("floats")["total"] == pytest.approx(expected, rel=1e-12)
    tagged = [reading for reading in store.readings() if reading.name == "tagged"]
    assert len(tagged) == THREADS * 7
    assert sum(reading.summary["sum"] for reading in tagged) == store.summary("tagged")["total"] == 2 * number
    sizes = store.summary("sizes")
    assert (sizes["count"], sizes["sum"]) == (number, THREADS * sum(range(rounds)))
    assert store.summary("level")["count"] == number
    assert store.timing_summary("operation")["count"] == number
    outcomes = store.outcomes("operation")
    assert outcomes.successes == number
    assert outcomes.failures == {f"error {kind}": THREADS * len(range(kind, rounds, 3)) for kind in range(3)}
    assert store.recorded == 8 * number


def test_moves_of_a_gauge_add_up_under_threads():
    """Increments and decrements of several threads cancel out."""
    store = Store()
    collector = InMemoryCollector(store)
    collector.record_gauge("running", 0)

    def work(number: int) -> None:
        for _ in range(ROUNDS):
            collector.increment("running")
            collector.decrement("running")

    with switching():
        together(*[partial(work, number) for number in range(THREADS)])
    summary = store.summary("running")
    assert (summary["last"], summary["count"]) == (0, 2 * THREADS * ROUNDS + 1)
    assert 0 <= summary["min"] <= summary["max"] <= THREADS


def test_reads_are_never_torn():
    """Beside other threads' records, count, sum and extremes of a reading are of the same records."""
    store = Store()
    collector, tracker = InMemoryCollector(store), InMemoryTracker(store)
    collector.record_counter("ones", 1)
    collector.record_histogram("twos", 2)
    tracker.record_success("operation")
    reads = 0

    def work(number: int) -> None:
        nonlocal reads
        if number:
            for round_ in range(ROUNDS):
                collector.record_counter("ones", 1, {"series": str(round_ % 40)})
                collector.record_histogram("twos", 2)
                tracker.record_success("operation")
            return
        while store.summary("ones")["count"] < (THREADS - 1) * ROUNDS or reads < 20:
            reads += 1
            for summary in (store.summary("ones"), store.summary("ones", MINUTE)):
                assert summary["count"] == summary["sum"] <= summary["total"]
            for summary in (store.summary("twos"), store.summary("twos", MINUTE)):
                assert summary["sum"] == 2 * summary["count"]
                assert summary["min"] == summary["p50"] == summary["p99"] == summary["max"] == 2
            for reading in store.readings():
                assert reading.summary["sum"] == reading.summary["count"] * (
                    2 if reading.name == "twos" else 1
                )
            assert store.outcomes("operation", MINUTE).success_rate == 1.0

    with switching():
        together(*[partial(work, number) for number in range(THREADS)])
    assert reads >= 20


# -- reading with the wrong call ---------------------------------------------------------------------------


def test_the_error_of_the_wrong_call_names_the_right_one():
    """A name of another namespace is unknown, but the error says which call reads it."""
    store = Store()
    InMemoryCollector(store).record_timer("a timer", 5)
    InMemoryTimer(store).time_operation("timed", int)
    InMemoryTracker(store).record_success("tracked")
    store.record_operation("import", None, 1, None)
    wrong = {
        "'timed' is an operation and not a metric: read it with timer.get_timing_stats('timed')": (
            lambda: store.summary("timed")
        ),
        "'tracked' is an operation and not a metric: read it with tracker.get_success_rate('tracked')": (
            lambda: store.summary("tracked")
        ),
        "'a timer' is a metric and not an operation: read it with aggregator.get_metric_summary('a timer')": (
            lambda: store.timing_summary("a timer")
        ),
        "'timed' was timed but not tracked: use measure() or record_failure(), or read its durations with"
        " timer.get_timing_stats('timed')": lambda: store.outcomes("timed"),
        "'tracked' was tracked but not timed: use measure() or start_timer(), or read its outcomes with"
        " tracker.get_success_rate('tracked')": lambda: store.timing_summary("tracked"),
        "'import' is an operation and not a metric: read it with timer.get_timing_stats('import') and"
        " tracker.get_success_rate('import')": lambda: store.distribution("import"),
        "'tracked' was tracked": lambda: store.distribution("tracked", operation=True),
        "no operation 'other' was timed. Known: 'import', 'timed'": lambda: store.timing_summary("other"),
    }
    for message, read in wrong.items():
        with pytest.raises(UnknownMetricError) as caught:
            read()
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("window", "remedy"),
    [(300, "seconds=300"), (1.5, "seconds=1.5"), ("1h", "minutes=5"), (True, "minutes=5")],
)
def test_a_window_that_is_not_a_timedelta_is_an_error(window, remedy):
    """The error says how to write the window."""
    store = Store()
    InMemoryCollector(store).increment("name")
    with pytest.raises(InvalidInputError) as caught:
        store.summary("name", window)
    assert str(caught.value) == f"time_window={window!r} is not a timedelta: pass timedelta({remedy})"
