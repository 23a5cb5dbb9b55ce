"""Rules of an application for names and tags apply to all records, however they are made."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, MetricTypeError, UnknownMetricError
from metrics_framework.recording import Rule, Store
from metrics_framework.recording.rules import apply

RECORD: dict[str, Callable[..., None]] = {
    "counter": lambda collector, name, tags=None: collector.record_counter(name, 1, tags),
    "gauge": lambda collector, name, tags=None: collector.record_gauge(name, 1, tags),
    "histogram": lambda collector, name, tags=None: collector.record_histogram(name, 1, tags),
    "timer": lambda collector, name, tags=None: collector.record_timer(name, 1, tags=tags),
}
every_type = pytest.mark.parametrize("record", RECORD.values(), ids=RECORD.keys())


def ruled(clock: ManualClock, *rules: Rule, **more: Any) -> InMemoryCollector:
    """Return a collector on a store with rules."""
    return InMemoryCollector(Store(clock, rules=rules, **more))


def counts(collector: InMemoryCollector) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the number of records by name and tags."""
    readings = collector.store.readings()
    return {(each.name, tuple(sorted(each.tags.items()))): each.summary["count"] for each in readings}


# -- rules by themselves ---------------------------------------------------------------------------------


def test_a_name_that_no_rule_matches_stays():
    """A rule changes only names that match its pattern, case-sensitively."""
    assert apply([Rule("http.*", rename="x")], "HTTP.requests").name == "HTTP.requests"  # type: ignore[union-attr]


def test_each_rule_applies_to_the_result_of_the_previous_one():
    """A renamed metric is matched by its new name."""
    rules = [
        Rule("lib.*", rename="vendor.{name}"),
        Rule("lib.*", deny=True),
        Rule("vendor.*", drop_tags=["a"]),
    ]
    found = apply(rules, "lib.calls")
    assert found is not None
    assert (found.name, found.drop_tags) == ("vendor.lib.calls", {"a"})


def test_later_rules_win():
    """If two rules set buckets or a budget for a name, the later one applies."""
    found = apply([Rule("*", buckets=[1, 2], max_series=5), Rule("a", buckets=[3], max_series=7)], "a")
    assert found is not None
    assert (found.buckets, found.max_series) == ((3.0,), 7)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"names": ""}, "the rule's pattern '' is not"),
        ({"names": 3, "deny": True}, "3"),
        ({"names": "a"}, "does nothing"),
        ({"names": "a", "rename": ""}, "the rule's rename '' is not"),
        ({"names": "a", "drop_tags": "user"}, "'user'"),
        ({"names": "a", "drop_tags": [""]}, "''"),
        ({"names": "a", "deny": "yes"}, "'yes'"),
        ({"names": "a", "buckets": [2, 1]}, "ascend"),
        ({"names": "a", "expires": 0}, "expires=0"),
        ({"names": "a", "max_series": 0}, "max_series=0"),
        ({"names": "a", "max_series": True}, "max_series=True"),
        ({"names": "a", "drop": ["user"]}, "drop_tags"),
        ({"deny": True}, "pattern"),
        ("a", "pattern"),
    ],
)
def test_a_wrong_rule_is_one_clear_error(wrong, message):
    """The error quotes the value when the rule is created, also from a file."""
    with pytest.raises(InvalidInputError, match=message):
        Rule.parse(wrong)


def test_a_store_takes_rules_only():
    """The error for any other value shows an example of a rule."""
    with pytest.raises(InvalidInputError, match="is not a Rule, like Rule"):
        Store(rules=["http.*"])  # type: ignore[list-item]


# -- recorded --------------------------------------------------------------------------------------------


@every_type
def test_a_renamed_metric_is_known_by_its_new_name_only(clock, record):
    """Records under the old and the new name are the same metric."""
    collector = ruled(clock, Rule("old", rename="new"))
    for tags in (None, {"a": "1"}, {"a": "2", "b": "3"}):
        for _ in range(100):
            record(collector, "old", tags)
            record(collector, "new", tags)
    assert set(counts(collector).values()) == {200}
    assert {name for name, _ in counts(collector)} == {"new"}
    with pytest.raises(UnknownMetricError):
        collector.store.summary("old")


@every_type
def test_a_dropped_tag_makes_one_series_of_many(clock, record):
    """Values of a dropped tag share a series; other tags keep series apart, in any order."""
    collector = ruled(clock, Rule("*", drop_tags=("user",)))
    for number in range(300):
        record(collector, "name", {"user": str(number), "status": str(number % 2)})
        record(collector, "name", {"status": str(number % 2), "user": str(number)})
        record(collector, "name", {"status": "0", "other": "x"})
        record(collector, "name", {"user": str(number)})
    assert counts(collector) == {
        ("name", (("status", "0"),)): 300,
        ("name", (("status", "1"),)): 300,
        ("name", (("other", "x"), ("status", "0"))): 300,
        ("name", ()): 300,
    }


@every_type
def test_a_denied_metric_does_not_exist(clock, record):
    """Denied names are not kept or listed; bad input still raises."""
    collector = ruled(clock, Rule("noise.*", deny=True))
    for tags in (None, {"a": "1"}, {"a": "1", "b": "2"}):
        for _ in range(600):
            record(collector, "noise.x", tags)
    assert counts(collector) == {}
    assert (collector.store.recorded, collector.store.series_count) == (0, 0)
    with pytest.raises(InvalidInputError, match="nan"):
        collector.record_gauge("noise.x", float("nan"))
    with pytest.raises(InvalidInputError):
        record(collector, "noise.x", "tags")


def test_bound_instruments_of_denied_names_record_nothing(clock):
    """They accept the same calls as any other."""
    collector = ruled(clock, Rule("*", deny=True))
    collector.counter("a").add(3)
    collector.gauge("b").set(3)
    collector.gauge("b").increment()
    collector.histogram("c", {"x": "y"}).observe(3)
    with collector.timer("d").time():
        pass
    collector.increment("e")
    collector.decrement("f")
    collector.describe("g", help="never seen")
    assert counts(collector) == {}


def test_denied_operations_are_timed_for_their_caller_alone(clock):
    """A denied operation returns results but has no statistics, however it is measured."""
    store = Store(clock, rules=[Rule("op", deny=True)])
    timer, tracker = InMemoryTimer(store), InMemoryTracker(store)
    timer_id = timer.start_timer("op")
    clock.advance(0.5)
    assert timer.stop_timer(timer_id).duration == 500
    tracker.record_success("op")
    tracker.record_failure("op", "Timeout", {"why": "slow"})
    with pytest.raises(UnknownMetricError):
        timer.get_timing_stats("op")
    with pytest.raises(UnknownMetricError):
        tracker.get_success_rate("op")
    with pytest.raises(UnknownMetricError):
        tracker.recent_failures("op")


def test_operations_are_renamed_and_lose_tags_too(clock):
    """Rules apply to timers and trackers."""
    store = Store(clock, rules=[Rule("db.*", rename="database", drop_tags=["table"])])
    timer, tracker = InMemoryTimer(store), InMemoryTracker(store)
    for operation in ("db.read", "db.write"):
        timer.stop_timer(timer.start_timer(operation))
        tracker.record_failure(operation, "Timeout")
        store.find_outcomes(operation, {"table": operation}).finish(None)
    assert timer.get_timing_stats("database")["count"] == 2
    assert tracker.get_failure_breakdown("database") == {"Timeout": 2}
    assert tracker.get_success_rate("database") == 0.5
    assert [reading.tags for reading in store.outcome_readings()] == [{}]


def test_an_applications_buckets_win(clock):
    """Bounds of a rule count from the first value on, whatever the library describes."""
    collector = ruled(clock, Rule("lib.*", rename="{name}.ms", buckets=(1.5,)))
    collector.describe("lib.latency", buckets=(100,), help="how long it took")
    for value in (1, 2, 3):
        collector.record_histogram("lib.latency", value)
    found = InMemoryAggregator(collector.store).get_metrics_by_tag({})[0]
    assert found.name == "lib.latency.ms"
    assert found.metadata["help"] == "how long it took"
    assert found.metadata["buckets"]["counts"] == {"1.5": 1, "inf": 3}


@pytest.mark.parametrize("expires", [True, False])
def test_a_rule_decides_whether_names_expire(clock, expires):
    """A rule of the application wins over a library's description, whichever comes first."""
    store = Store(clock, expire_after=timedelta(seconds=100), rules=[Rule("http.*", expires=expires)])
    collector = InMemoryCollector(store)
    collector.describe("http.described", expires=not expires)
    for name in ("http.described", "http.other", "other"):
        collector.increment(name)
    collector.describe("http.other", expires=not expires)
    clock.advance(200)
    assert {reading.name for reading in store.readings()} == (
        set() if expires else {"http.described", "http.other"}
    )


def test_a_budget_of_a_rule_holds_for_its_names(clock):
    """A name with its own budget overflows there, others at the store's budget."""
    collector = ruled(clock, Rule("small", max_series=3))
    for number in range(10):
        for name in ("small", "large"):
            collector.record_counter(name, 1, {"user": str(number), "kind": "a"})
    by_name: dict[str, int] = {}
    for name, _ in counts(collector):
        by_name[name] = by_name.get(name, 0) + 1
    assert by_name == {"small": 4, "large": 10}
    assert collector.store.summary("small")["total"] == 10


def test_a_name_of_two_types_by_a_rule_is_an_error(clock):
    """If a rule gives two metrics of different types one name, the second is rejected."""
    collector = ruled(clock, Rule("*", rename="one"))
    collector.record_counter("a", 1)
    with pytest.raises(MetricTypeError, match="'one' is a counter"):
        collector.record_gauge("b", 1)
    assert counts(collector) == {("one", ()): 1}


@every_type
def test_removed_and_recorded_again_by_the_old_name(clock, record):
    """After a removal, the old name leads to a new metric that starts from nothing."""
    collector = ruled(clock, Rule("old", rename="new", drop_tags=("user",)))
    for tags in (None, {"user": "1"}, {"user": "1", "a": "b"}):
        record(collector, "old", tags)
    assert collector.remove("new")
    clock.advance(5)
    for tags in (None, {"user": "1"}, {"user": "1", "a": "b"}):
        record(collector, "old", tags)
    assert counts(collector) == {("new", ()): 2, ("new", (("a", "b"),)): 1}
    assert collector.store.summary("new", timedelta(seconds=3))["count"] == 3


def test_many_names_of_one_metric_take_bounded_memory(clock):
    """Any number of names that a rule maps to one metric is counted; only some are remembered."""
    collector = ruled(clock, Rule("user.*", rename="user"))
    for number in range(12_000):
        collector.record_counter(f"user.{number}", 1)
    assert counts(collector) == {("user", ()): 12_000}
    index = collector.store.index("counter")
    assert sum(index.get(f"user.{number}", None) is not None for number in range(12_000)) <= 10_000


def test_many_values_of_a_dropped_tag_take_bounded_memory(clock):
    """All are counted in one series; only some are remembered."""
    collector = ruled(clock, Rule("*", drop_tags=("user",)))
    for number in range(12_000):
        collector.record_counter("name", 1, {"user": str(number), "kind": "a"})
    assert counts(collector) == {("name", (("kind", "a"),)): 12_000}
    index = collector.store.index("counter")
    given = ({"user": str(number), "kind": "a"} for number in range(12_000))
    assert sum(index.get("name", tags) is not None for tags in given) <= 10_000


TAGS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["x", "y", "1", ""]), max_size=4)


@given(
    st.lists(
        st.tuples(st.sampled_from(["counter", "histogram"]), st.sampled_from(["p", "q", "r"]), TAGS),
        max_size=60,
    ),
    st.sets(st.sampled_from("abcd"), max_size=2),
    TAGS,
)
def test_rules_scopes_and_constant_tags_agree_with_a_model(records, dropped, scope):
    """Any mix of renames, dropped tags and scoped tags has the counts of a plain dict."""
    rules = [Rule("p.*", rename="q.{name}"), Rule("r.*", deny=True)]
    if dropped:
        rules.append(Rule("*", drop_tags=tuple(dropped)))
    store = Store(ManualClock(), rules=rules, tags={"service": "shop"})
    collectors = [InMemoryCollector(store), InMemoryCollector(store).with_tags(scope)]
    model: dict[Any, int] = {}
    for kind, name, tags in records * 2:
        for number, collector in enumerate(collectors):
            RECORD[kind](collector, f"{name}.{kind}", dict(tags))
            merged = {**(scope if number else {}), **tags}
            kept = {tag: value for tag, value in merged.items() if tag not in dropped}
            kept_name = f"q.p.{kind}" if name == "p" else f"{name}.{kind}"
            if name != "r":
                key = (kept_name, tuple(sorted(kept.items())))
                model[key] = model.get(key, 0) + 1
    found = {
        (each.name, tuple(sorted((tag, value) for tag, value in each.tags.items() if tag != "service"))): int(
            each.summary["count"]
        )
        for each in store.readings()
    }
    assert found == model
    assert all(each.tags["service"] == "shop" for each in store.readings())
