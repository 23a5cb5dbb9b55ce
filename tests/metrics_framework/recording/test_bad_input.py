"""Bad input raises, or is counted and logged by the next read; budgets are checked."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from metrics_adapters.in_memory import InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, MetricTypeError, UnknownMetricError
from metrics_framework.recording import Budgets, Description, Store
from metrics_framework.recording.state import MAX_NOTICES
from metrics_framework.values import MetricUnit


@dataclass
class StoreWithOneOfEach:
    """A store with one record of each kind, and bound instruments."""

    on_error: str = "raise"
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.store = Store(self.clock, on_error=self.on_error)
        self.collector = InMemoryCollector(self.store)
        self.timer = InMemoryTimer(self.store)
        self.tracker = InMemoryTracker(self.store)
        self.counter = self.collector.counter("counter")
        self.gauge = self.collector.gauge("gauge")
        self.histogram = self.collector.histogram("histogram")
        self.stopwatch = self.collector.timer("timer")
        self.counter.add(5)
        self.gauge.set(-5)
        self.histogram.observe(-5)
        self.stopwatch.observe(5)
        self.timer.time_operation("operation", lambda: self.clock.advance(1))
        self.tracker.record_success("operation")
        self.tracker.record_failure("operation", "timeout", {"attempt": 1})

    def everything(self) -> object:
        """Return all numbers, to check that none changes."""
        return (
            sorted((each.name, sorted(each.summary.items())) for each in self.store.readings()),
            [(each.name, each.summary) for each in self.store.timing_readings()],
            self.store.outcome_readings(),
            self.store.recent_failures("operation"),
            self.store.recorded,
        )


# What is recorded, what the error quotes, and the remedy that it names.
BAD = {
    "nan": (lambda views: views.collector.record_counter("counter", math.nan), "nan", "finite number"),
    "inf": (lambda views: views.collector.record_counter("counter", math.inf), "inf", "finite number"),
    "negative step": (lambda views: views.collector.record_counter("counter", -1), "-1", "zero or more"),
    "bool": (lambda views: views.collector.record_counter("counter", True), "True", "an int or a float"),
    "string": (lambda views: views.collector.record_counter("counter", "12"), "'12'", "an int or a float"),
    "huge": (lambda views: views.collector.record_counter("counter", 10**400), "1000", "finite number"),
    "counter of a new name": (lambda views: views.collector.record_counter("new", -2), "-2", "zero or more"),
    "no name": (lambda views: views.collector.record_counter(""), "''", "non-empty string"),
    "name that is no string": (lambda views: views.collector.record_counter(3), "3", "non-empty string"),
    "unhashable name": (lambda views: views.collector.record_gauge(["a"], 1), "['a']", "non-empty string"),
    "no name to step": (lambda views: views.collector.increment(""), "''", "non-empty string"),
    "no name to step down": (lambda views: views.collector.decrement(None), "None", "non-empty string"),
    "other type": (lambda views: views.collector.record_gauge("counter", 1), "'counter'", "another name"),
    "other type, histogram": (
        lambda views: views.collector.record_histogram("gauge", 1),
        "'gauge'",
        "another name",
    ),
    "other type, timer": (
        lambda views: views.collector.record_timer("histogram", 1.0),
        "'histogram'",
        "another name",
    ),
    "step of a timer": (lambda views: views.collector.increment("timer"), "'timer'", "another name"),
    "decrement": (lambda views: views.collector.decrement("counter"), "'counter'", "declare a gauge"),
    "unit": (
        lambda views: views.collector.record_timer("timer", 1.0, MetricUnit.BYTES),
        "MetricUnit.BYTES",
        "MetricUnit.SECONDS",
    ),
    "unit that is none": (
        lambda views: views.collector.record_timer("timer", 1.0, "s"),
        "'s'",
        "MetricUnit.",
    ),
    "too long": (
        lambda views: views.collector.record_timer("timer", 1e307, MetricUnit.SECONDS),
        "1e+307",
        "shorter duration",
    ),
    "negative duration": (lambda views: views.collector.record_timer("timer", -0.5), "-0.5", "zero or more"),
    "gauge": (lambda views: views.collector.record_gauge("gauge", None), "None", "an int or a float"),
    "gauge, nan": (lambda views: views.collector.record_gauge("gauge", math.nan), "nan", "finite number"),
    "histogram": (lambda views: views.collector.record_histogram("histogram", -math.inf), "-inf", "finite"),
    "tags": (lambda views: views.collector.record_counter("counter", 1, ["a"]), "['a']", "mapping"),
    "text as tags": (lambda views: views.collector.record_gauge("gauge", 1, "a=b"), "'a=b'", "mapping"),
    "tag without a name": (lambda views: views.collector.increment("counter", {"": "a"}), "''", "non-empty"),
    "bound counter": (lambda views: views.counter.add(-1), "-1", "zero or more"),
    "bound counter, bool": (lambda views: views.counter.add(False), "False", "an int or a float"),
    "bound gauge": (lambda views: views.gauge.set("high"), "'high'", "an int or a float"),
    "bound gauge up": (lambda views: views.gauge.increment(math.inf), "inf", "finite number"),
    "bound gauge down": (lambda views: views.gauge.decrement("1"), "'1'", "an int or a float"),
    "bound histogram": (lambda views: views.histogram.observe(math.nan), "nan", "finite number"),
    "bound timer": (lambda views: views.stopwatch.observe(-1.0), "-1.0", "zero or more"),
    "bound timer, unit": (
        lambda views: views.stopwatch.observe(1.0, MetricUnit.COUNT),
        "MetricUnit.COUNT",
        "MetricUnit.SECONDS",
    ),
    "timer": (lambda views: views.timer.start_timer(""), "''", "non-empty string"),
    "metadata": (lambda views: views.timer.start_timer("operation", 5), "metadata=5", "like {'user': 'ann'}"),
    "empty metadata": (
        lambda views: views.timer.start_timer("operation", ""),
        "metadata=''",
        "mapping, like",
    ),
    "timed call": (lambda views: views.timer.time_operation(None, lambda: None), "None", "non-empty string"),
    "success": (lambda views: views.tracker.record_success(["a"]), "['a']", "non-empty string"),
    "failure": (lambda views: views.tracker.record_failure("", "timeout"), "''", "non-empty string"),
    "error type": (lambda views: views.tracker.record_failure("operation", ""), "''", "non-empty string"),
    "error as type": (
        lambda views: views.tracker.record_failure("operation", ValueError("x")),
        "ValueError('x')",
        "non-empty string",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_error_by_default(case):
    """The error quotes the input and names the remedy; earlier numbers do not change."""
    bad, quoted, remedy = BAD[case]
    views = StoreWithOneOfEach()
    before = views.everything()
    with pytest.raises(InvalidInputError) as caught:
        bad(views)
    assert quoted in str(caught.value)
    assert remedy in str(caught.value)
    assert views.everything() == before
    assert views.store.rejected == 0
    views.counter.add(1)
    assert views.store.summary("counter")["total"] == 6


@pytest.mark.parametrize("case", BAD)
def test_with_on_error_log_the_next_read_logs_bad_input(caplog, case):
    """A record of bad input raises and logs nothing; it is counted."""
    bad, quoted, remedy = BAD[case]
    views = StoreWithOneOfEach("log")
    before = views.everything()
    with caplog.at_level(logging.DEBUG, logger="metrics_framework"):
        bad(views)
        assert caplog.records == []
        assert views.store.rejected == 1
        assert views.everything() == before
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "event='input refused'" in record.getMessage()
    assert quoted in record.getMessage().replace('\\"', '"').replace("\\'", "'")
    assert remedy in record.getMessage()
    views.counter.add(1)
    assert views.store.summary("counter")["total"] == 6


@pytest.mark.parametrize(
    "read",
    [
        lambda store: store.summary("counter"),
        lambda store: store.summary("counter", timedelta(minutes=1)),
        lambda store: store.timing_summary("operation"),
        lambda store: store.outcomes("operation"),
        lambda store: store.readings(),
        lambda store: store.timing_readings(),
        lambda store: store.outcome_readings(),
    ],
)
def test_every_kind_of_read_logs_rejected_input(caplog, read):
    """The first read logs it; later reads do not repeat it."""
    views = StoreWithOneOfEach("log")
    views.counter.add(-1)
    with caplog.at_level(logging.DEBUG, logger="metrics_framework"):
        read(views.store)
        assert len(caplog.records) == 1
        read(views.store)
    assert len(caplog.records) == 1


def test_the_same_mistake_is_logged_once_and_counted_each_time(caplog):
    """A mistake in a loop does not flood the log; other mistakes get their own warning."""
    views = StoreWithOneOfEach("log")
    with caplog.at_level(logging.DEBUG, logger="metrics_framework"):
        for _ in range(3):
            for _ in range(50):
                views.counter.add(-1)
            views.store.readings()
        assert len(caplog.records) == 1
        views.counter.add(-2)
        views.gauge.set(math.nan)
        views.counter.add(-2)
        assert len(caplog.records) == 1
        views.store.readings()
    assert len(caplog.records) == 3
    assert views.store.rejected == 153


def test_the_number_of_different_warnings_is_bounded(caplog):
    """Only a limited number of different mistakes is logged; all are counted."""
    views = StoreWithOneOfEach("log")
    with caplog.at_level(logging.DEBUG, logger="metrics_framework"):
        for number in range(1, 10 * MAX_NOTICES + 1):
            views.counter.add(-number)
        views.store.readings()
    assert len(caplog.records) == MAX_NOTICES
    assert views.store.rejected == 10 * MAX_NOTICES


def test_a_name_of_another_type_raises_metric_type_error():
    """Its class differs from that of other bad input."""
    views = StoreWithOneOfEach()
    with pytest.raises(MetricTypeError):
        views.collector.record_gauge("counter", 1)
    with pytest.raises(MetricTypeError):
        views.collector.gauge("counter")


@pytest.mark.parametrize("on_error", ["ignore", "", None, True])
def test_on_error_is_raise_or_log(clock, on_error):
    """The error quotes any other value."""
    with pytest.raises(InvalidInputError, match=f"on_error={on_error!r}"):
        Store(clock, on_error=on_error)


@pytest.mark.parametrize("field_name", Budgets._fields)
@pytest.mark.parametrize("budget", [0, -1, 1.5, True, "10", None])
def test_a_budget_is_a_whole_number(clock, field_name, budget):
    """A budget of 0, or of another type, raises an error that names the budget and quotes the value."""
    with pytest.raises(InvalidInputError) as caught:
        Store(clock, budgets=Budgets()._replace(**{field_name: budget}))
    assert f"{field_name}={budget!r}" in str(caught.value)
    Store(clock, budgets=Budgets()._replace(**{field_name: 1}))


@pytest.mark.parametrize("duration", [timedelta(0), -timedelta(seconds=1)])
def test_the_time_until_expiry_is_positive(clock, duration):
    """A store whose series would expire at once is rejected."""
    with pytest.raises(InvalidInputError, match="expire_after="):
        Store(clock, expire_after=duration)


def test_fields_without_a_description_have_defaults(clock):
    """A described name has the last value of each field."""
    store = Store(clock)
    assert store.description("name") == Description(None, "", "latest", (), (), True)
    store.describe("name", unit=MetricUnit.BYTES, help="What it is.")
    store.describe("name", help="What it really is.", merge="max", buckets=[1, 2, math.inf], window_by=["a"])
    assert store.description("name") == Description(
        MetricUnit.BYTES, "What it really is.", "max", (1.0, 2.0), ("a",)
    )


@pytest.mark.parametrize("unknown", [False, True])
def test_warnings_are_logged_in_order(caplog, clock, unknown):
    """Different kinds keep their order, also if an unknown name is read."""
    store = Store(clock, on_error="log", budgets=Budgets(series_per_name=2))
    collector = InMemoryCollector(store)
    with caplog.at_level(logging.DEBUG, logger="metrics_framework"):
        collector.record_counter("first", -1)
        for number in range(5):
            collector.increment("second", {"user": str(number)})
        collector.record_counter("third", -1)
        assert caplog.records == []
        if unknown:
            with pytest.raises(UnknownMetricError):
                store.summary("unknown")
        else:
            store.readings()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    for message, name in zip(messages, ("first", "second", "third"), strict=True):
        assert name in message
