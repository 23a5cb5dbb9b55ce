"""The hot path finds the right series, and rejects bad input without an effect."""

from __future__ import annotations

import enum
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, MetricTypeError, UnknownMetricError
from metrics_framework.recording import Store
from metrics_framework.values import MetricType, MetricUnit

RECORD: dict[str, Callable[..., None]] = {
    "counter": lambda collector, value, tags=None: collector.record_counter("name", value, tags),
    "gauge": lambda collector, value, tags=None: collector.record_gauge("name", value, tags),
    "histogram": lambda collector, value, tags=None: collector.record_histogram("name", value, tags),
    "timer": lambda collector, value, tags=None: collector.record_timer("name", value, tags=tags),
}
every_type = pytest.mark.parametrize("record", RECORD.values(), ids=RECORD.keys())


@pytest.fixture
def collector(clock) -> InMemoryCollector:
    """Return a collector on its own store."""
    return InMemoryCollector(Store(clock))


def counts(collector: InMemoryCollector) -> dict[tuple[tuple[str, str], ...], float]:
    """Return the number of records by tags."""
    return {tuple(sorted(each.tags.items())): each.summary["count"] for each in collector.store.readings()}


def everything(collector: InMemoryCollector) -> str:
    """Return everything that the store reports."""
    return InMemoryAggregator(collector.store).export_metrics()


class Mapped(Mapping[str, Any]):
    """A mapping that is not a dict."""

    def __init__(self, **items: Any) -> None:
        self._items = items

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


@every_type
def test_tags_in_any_order_are_one_series(collector, record):
    """All orders of the same tags use the same series, in the first record and later ones."""
    tags = {"a": "1", "b": "2", "c": "3"}
    for _ in range(2):
        for order in itertools.permutations(tags.items()):
            record(collector, 1.0, dict(order))
    assert counts(collector) == {(("a", "1"), ("b", "2"), ("c", "3")): 12}


@every_type
def test_other_tag_names_are_other_series(collector, record):
    """More tags, fewer tags, none, and other names are all different series."""
    sets: list[dict[str, str] | None] = [
        {"a": "1", "b": "2"},
        {"a": "1", "c": "2"},
        {"c": "1", "d": "2"},
        {"a": "1"},
        {"b": "2"},
        {"a": "1", "b": "2", "c": "3"},
        {"a": "2", "b": "1"},
        None,
    ]
    for number in range(3):
        for position, tags in enumerate(sets):
            for _ in range(position + 1):
                record(collector, float(number), tags)
    expected = {tuple(sorted((tags or {}).items())): 3 * (at + 1) for at, tags in enumerate(sets)}
    assert counts(collector) == expected


@every_type
def test_empty_tags_mean_the_series_without_tags(collector, record):
    """An empty mapping is like no argument."""
    for tags in (None, {}, Mapped(), None):
        record(collector, 1.0, tags)
    assert counts(collector) == {(): 4}


class Level(str, enum.Enum):  # noqa: UP042 - StrEnum would be another class
    """A subclass of ``str``."""

    HIGH = "high"


@every_type
@pytest.mark.parametrize("learned", [False, True])
def test_values_other_than_strings_are_converted(collector, record, learned):
    """``True``, ``1`` and ``1.0`` are equal and yet three series; ``"1"`` is that of ``1``."""
    if learned:
        record(collector, 1.0, {"a": "learned"})
    for _ in range(3):
        for value in (True, 1, 1.0, "1", Level.HIGH, "high", None):
            record(collector, 1.0, {"a": value})
    found = {tags[0][1]: count for tags, count in counts(collector).items()}
    found.pop("learned", None)
    assert found == {"True": 3, "1": 6, "1.0": 3, "high": 6, "None": 3}


@every_type
def test_any_mapping_can_hold_tags(collector, record):
    """It uses the series of an equal dict."""
    for tags in (
        {"a": "1", "b": "2"},
        Mapped(b="2", a="1"),
        MappingProxyType({"a": "1", "b": "2"}),
        Mapped(a=1, b=2),
    ):
        record(collector, 1.0, tags)
    assert counts(collector) == {(("a", "1"), ("b", "2")): 4}


@every_type
def test_unhashable_values_are_converted(collector, record):
    """A value without a hash counts as the string that it converts to."""
    for _ in range(2):
        record(collector, 1.0, {"a": ["x"]})
        record(collector, 1.0, {"a": "['x']"})
        record(collector, 1.0, {"a": ["x"], "b": {}})
    assert counts(collector) == {(("a", "['x']"),): 4, (("a", "['x']"), ("b", "{}")): 2}


class Odd:
    """An object that is not a number."""

    def __repr__(self):
        """Return the same text in every process, so that tests can be distributed."""
        return "<odd>"


class UnprintableValue(Odd):
    """A value that cannot be converted to a string."""

    def __str__(self) -> str:
        raise RuntimeError("no")


BAD_TAGS: list[Any] = [
    [("a", "1")],
    "a",
    "ab",
    b"a",
    7,
    {1: "x"},
    {"": "x"},
    {None: "x"},
    {"a": UnprintableValue()},
    {"a": "1", 2: "x"},
]
BAD_NUMBERS: list[Any] = [
    float("nan"),
    float("inf"),
    -float("inf"),
    "1",
    None,
    10**400,
    1j,
    [1],
    Odd(),
]
BAD_NAMES: list[Any] = ["", None, 7, b"name", ["name"], ("name",)]


@every_type
@pytest.mark.parametrize("tags", BAD_TAGS, ids=repr)
def test_bad_tags_change_nothing(collector, record, tags):
    """Invalid tags raise, for a new and a known name, and change no number."""
    with pytest.raises(InvalidInputError):
        record(collector, 1.0, tags)
    assert collector.store.readings() == []
    record(collector, 1.0, {"a": "1"})
    record(collector, 1.0, {"a": "1", "b": "2"})
    record(collector, 1.0)
    before = everything(collector)
    for _ in range(2):
        with pytest.raises(InvalidInputError):
            record(collector, 1.0, tags)
    assert everything(collector) == before


@every_type
@pytest.mark.parametrize("value", BAD_NUMBERS, ids=repr)
@pytest.mark.parametrize("tags", [None, {"a": "1"}])
def test_bad_numbers_change_nothing(collector, record, value, tags):
    """A value that is not a finite number raises, for a new and a known series, and changes no number."""
    record(collector, 1.0, tags)
    before = everything(collector)
    for where in (tags, {"new": "series"}):
        with pytest.raises(InvalidInputError, match="'name' cannot record"):
            record(collector, value, where)
        assert everything(collector) == before
    record(collector, 2.0, tags)
    assert sum(counts(collector).values()) == 2


@pytest.mark.parametrize("kind", ["counter", "histogram", "timer"])
@pytest.mark.parametrize("value", [True, False])
def test_only_gauges_take_booleans(collector, kind, value):
    """Counters, histograms and timers reject booleans, by name and bound."""
    bound = getattr(collector, kind)("bound")
    record = bound.add if kind == "counter" else bound.observe
    for call in (lambda: RECORD[kind](collector, value), lambda: record(value)):
        with pytest.raises(InvalidInputError, match=f"cannot record {value}"):
            call()
    assert collector.store.readings() == []


def test_a_gauge_takes_booleans(collector):
    """``True`` is 1 and ``False`` is 0, by name and bound, as a value and as a step."""
    for value in (True, False, True):
        collector.record_gauge("name", value)
        assert collector.store.summary("name")["last"] == int(value)
    bound = collector.gauge("name")
    bound.set(False)
    bound.increment(True)
    assert collector.store.summary("name")["last"] == 1
    assert type(collector.store.summary("name")["last"]) is int


@pytest.mark.parametrize("kind", ["counter", "timer"])
@pytest.mark.parametrize("value", [-1, -0.5, -(10**30)])
def test_counters_and_timers_reject_negative_numbers(collector, kind, value):
    """They accept zero."""
    with pytest.raises(InvalidInputError, match="cannot be negative"):
        RECORD[kind](collector, value)
    assert collector.store.readings() == []
    RECORD[kind](collector, 0)
    RECORD[kind](collector, 0.0)
    assert counts(collector) == {(): 2}


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
@pytest.mark.parametrize(
    "method", ["record_counter", "record_gauge", "record_histogram", "record_timer", "increment", "decrement"]
)
def test_bad_names_are_refused(collector, name, method):
    """A name that is not a string, or is empty, raises and creates nothing."""
    record = getattr(collector, method)
    with pytest.raises(InvalidInputError, match="not a non-empty string"):
        record(name) if method in ("increment", "decrement") else record(name, 1)
    assert collector.store.series_count == 0


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(RECORD, 2)))
def test_a_refused_record_does_not_claim_the_name(collector, first, second):
    """A name with only rejected records is unknown, and can become any type."""
    for value in BAD_NUMBERS:
        for tags in (None, {"a": "1"}):
            with pytest.raises(InvalidInputError):
                RECORD[first](collector, value, tags)
    with pytest.raises(UnknownMetricError):
        collector.store.summary("name")
    RECORD[second](collector, 3.0)
    RECORD[second](collector, 3.0, {"a": "1"})
    with pytest.raises(MetricTypeError, match=f"'name' is a {second}"):
        RECORD[first](collector, 3.0, {"another": "series"})
    assert {each.metric_type for each in collector.store.readings()} == {MetricType(second)}
    assert sum(counts(collector).values()) == 2


@every_type
def test_bad_input_may_be_counted_instead(clock, record):
    """A store that logs errors counts rejected records, raises nothing and keeps the others."""
    collector = InMemoryCollector(Store(clock, on_error="log"))
    record(collector, 1.0)
    for value in BAD_NUMBERS:
        record(collector, value)
    for tags in BAD_TAGS:
        record(collector, 1.0, tags)
    assert collector.store.rejected == len(BAD_NUMBERS) + len(BAD_TAGS)
    assert counts(collector) == {(): 1}


@pytest.mark.parametrize(
    ("unit", "milliseconds"),
    [(MetricUnit.SECONDS, 2_500), (MetricUnit.MILLISECONDS, 2.5), (MetricUnit.MICROSECONDS, 0.0025)],
)
def test_a_timer_is_kept_in_milliseconds(collector, unit, milliseconds):
    """Durations in every unit are stored in milliseconds, in new and known series."""
    for _ in range(3):
        collector.record_timer("name", 2.5, unit)
        collector.record_timer("name", 2.5, unit, {"a": "1"})
    summary = collector.store.summary("name")
    assert (summary["count"], summary["min"], summary["max"]) == (6, milliseconds, milliseconds)


def test_a_unit_other_than_time_is_rejected(collector):
    """A duration in bytes raises and changes no number."""
    collector.record_timer("name", 1.0)
    with pytest.raises(InvalidInputError):
        collector.record_timer("name", 1.0, MetricUnit.BYTES)
    assert counts(collector) == {(): 1}


VALUES = st.sampled_from(["1", "x", 1, True, 1.0, None, ("1",), "True"])
TAGS = st.none() | st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES)


@given(st.lists(st.tuples(TAGS, st.booleans()), max_size=40))
def test_series_agree_with_a_model(records):
    """Each set of tags has its own exact count, for tags in any order and mapping."""
    collector = InMemoryCollector(Store(ManualClock()))
    expected: dict[tuple[tuple[str, str], ...], int] = {}
    for tags, mapped in records:
        collector.record_counter("name", 1, Mapped(**tags) if mapped and tags is not None else tags)
        key = tuple(sorted((name, str(value)) for name, value in (tags or {}).items()))
        expected[key] = expected.get(key, 0) + 1
    assert counts(collector) == expected
    if records:
        assert collector.store.summary("name")["total"] == len(records)
        assert collector.store.summary("name", timedelta(seconds=5))["sum"] == len(records)
    assert collector.store.series_count == len(expected)


@every_type
def test_a_defaultdict_of_tags_is_not_changed(collector, record):
    """A mapping that creates missing values is not asked for any, and uses its own series."""
    record(collector, 1.0, {"b": "2"})
    tags = defaultdict(str, a="1")
    for _ in range(3):
        record(collector, 1.0, tags)
    assert dict(tags) == {"a": "1"}
    assert counts(collector) == {(("b", "2"),): 1, (("a", "1"),): 3}


@every_type
@pytest.mark.parametrize("number", [10**5_000, -(10**5_000)], ids=["large", "small"])
def test_an_integer_of_too_many_digits_is_refused(collector, record, number):
    """An integer that Python does not convert to text is bad input, as a value and as a tag's value."""
    record(collector, 1.0)
    record(collector, 1.0, {"a": "1"})
    before = everything(collector)
    for value, tags in ((number, None), (number, {"a": "1"}), (1.0, {"a": number}), (1.0, {"new": number})):
        with pytest.raises(InvalidInputError):
            record(collector, value, tags)
    assert everything(collector) == before


@every_type
def test_similar_tags_are_different_series(collector, record):
    """Tags that differ in a value, a name, a type or the order use the right series."""
    record(collector, 1, {"a": "1", "b": "x"})
    record(collector, 1, {"b": "x", "a": "1"})
    record(collector, 1, {"a": "x", "b": "1"})
    record(collector, 1, {"a": "1"})
    record(collector, 1, {"a": "1", "b": "x", "c": ""})
    record(collector, 1, {"a": 1, "b": "x"})  # a number becomes the string
    assert counts(collector) == {
        (("a", "1"), ("b", "x")): 3,
        (("a", "x"), ("b", "1")): 1,
        (("a", "1"),): 1,
        (("a", "1"), ("b", "x"), ("c", "")): 1,
    }


@every_type
def test_tags_that_are_changed_after_a_record_change_nothing(collector, record):
    """Changing a dict of tags affects only later records, also for the first dict of a name."""
    tags = {"user": "1"}
    for user in ("1", "2", "2", "1"):
        tags["user"] = user
        record(collector, 1, tags)
    assert counts(collector) == {(("user", "1"),): 2, (("user", "2"),): 2}


@every_type
def test_a_removed_series_is_not_found_by_its_tags(collector, record):
    """After a removal the same tags create a series that starts from nothing."""
    for _ in range(1_000):
        record(collector, 1, {"number": "1"})
    collector.remove("name", {"number": "1"})
    record(collector, 1, {"number": "1"})
    assert counts(collector) == {(("number", "1"),): 1}


def test_tags_whose_comparison_fails_are_one_clear_error(collector):
    """An object that fails in comparisons is rejected like any value that is not a mapping."""

    class Strange:
        def __ne__(self, other: object) -> bool:
            raise ValueError("no truth in this")

    collector.record_counter("name", 1, {"a": "1"})
    strange: Any = Strange()
    with pytest.raises(InvalidInputError, match="tags"):
        collector.record_counter("name", 1, strange)
    assert counts(collector) == {(("a", "1"),): 1}
