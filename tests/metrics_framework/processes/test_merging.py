"""The merged numbers of several workers are those of one store that got all records."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_framework.clock import ManualClock
from metrics_framework.recording import Store
from tests.metrics_framework.processes.workers import Workers

NUMBER = 3

VALUES = st.integers(-1_000, 1_000) | st.floats(-1e6, 1e6)
TAGS = st.sampled_from([{}, {"route": "/a"}, {"route": "/b"}])
WORKER = st.integers(0, NUMBER - 1)
LAWS = ("latest", "sum", "min", "max")
ADVANCES: Any = st.tuples(st.just("advance"), WORKER, st.just({}), st.sampled_from([0.1, 0.7, 1, 5, 20, 300]))
GAUGES: Any = st.one_of(
    st.tuples(st.sampled_from(LAWS), WORKER, st.just({}), st.integers(-1_000, 1_000)),
    st.tuples(st.just("step"), WORKER, st.just({}), st.integers(-5, 5)),
    ADVANCES,
)
STEPS = st.one_of(
    st.tuples(st.just("counter"), WORKER, TAGS, VALUES.map(abs)),
    st.tuples(st.just("histogram"), WORKER, TAGS, VALUES),
    st.tuples(st.just("burst"), WORKER, TAGS, st.integers(100, 300)),
    st.tuples(st.just("timer"), WORKER, TAGS, st.floats(0, 1e6)),
    st.tuples(st.just("outcome"), WORKER, TAGS, st.sampled_from([None, "a", "b"])),
    ADVANCES,
    st.tuples(st.just("work"), WORKER, st.just({}), st.just(0)),
)


def play(store: Any, what: str, tags: dict[str, str], value: Any, worker: int) -> None:
    """Play one record. A gauge with a law has a series for each worker in the one store."""
    if what == "counter":
        store.find("counter", "requests", tags).add(value)
    elif what == "histogram":
        store.find("histogram", "size", tags).observe(value)
    elif what == "burst":
        for number in range(value):
            store.find("histogram", "size", tags).observe(number * 1.7 - 50)
    elif what == "timer":
        store.find("timer", "db", tags).observe(value)
    elif what == "outcome":
        store.find_outcomes("call", tags).finish(value)
    elif what == "step":
        store.find("gauge", "in_flight", {"worker": str(worker)} if worker >= 0 else {}).increment(value)
    elif what in LAWS:
        store.find("gauge", what, {"worker": str(worker)} if worker >= 0 else {}).set(value)


def describe(store: Any) -> None:
    """Describe the metrics."""
    for law in LAWS:
        store.describe(law, merge=law)
    store.describe("in_flight", merge="sum")
    store.describe("size", buckets=(-10, 0, 100))


def numbers(store: Any) -> Any:
    """Return the numbers of each series, apart from gauges."""
    found: dict[Any, Any] = {}
    for reading in (*store.readings(), *store.timing_readings()):
        if not reading.name.startswith(("in_flight", *LAWS)):
            buckets = None if reading.buckets is None else reading.buckets.counts
            summary = {key: value for key, value in reading.summary.items() if key not in ("seconds", "rate")}
            found[reading.name, tuple(reading.tags.items())] = summary, buckets
    for reading in store.outcome_readings():
        found[reading.name, tuple(reading.tags.items())] = reading.successes, reading.failures
    return found


def assert_same(one: Any, other: Any) -> None:
    """Check that two summaries agree: quantiles within 1 % of the extremes that they lie between."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, dict):
            assert_same(value, other[key])
        elif isinstance(value, tuple):
            assert_same(dict(enumerate(value)), dict(enumerate(other[key])))
        elif isinstance(value, float) and isinstance(other[key], int | float):
            error = 0.0111 if isinstance(key, str) and key.startswith("p") else 1e-9
            assert value == pytest.approx(other[key], rel=error, abs=1e-6), key
        else:
            assert value == other[key], key


def latest(store: Store, name: str, window: timedelta | None) -> dict[str, Any]:
    """Return the newest of the intervals of a window."""
    return store.history(name, window, 4).intervals[-1].summary


@pytest.mark.slow
@given(steps=st.lists(STEPS, max_size=60), ended=st.sets(WORKER, max_size=NUMBER - 1))
@settings(max_examples=60)
def test_several_workers_equal_one_store(steps: list[Any], ended: set[int]) -> None:
    """Counters, distributions, outcomes, bucket counts and windows are the same, in every worker.

    Some workers end, and are archived.
    """
    with tempfile.TemporaryDirectory() as folder:
        clock = ManualClock()
        workers = Workers(Path(folder), clock)
        many, one = workers.some(NUMBER), Store(clock)
        for store in (one, *(worker.store for worker in many)):
            describe(store)
        for what, number, tags, value in steps:
            if what == "advance":
                clock.advance(value)
                workers.flush()
            elif what == "work":
                many[number].shared.work()
            else:
                play(one, what, tags, value, number)
                play(many[number].store, what, tags, value, -1)
        workers.flush()
        for number in ended:
            many[number].end()
        living = [worker for number, worker in enumerate(many) if number not in ended]
        for _ in range(2):  # with the files of the workers that ended, and with the archive
            for worker in living:
                store = worker.read()
                assert_same(numbers(one), numbers(store))
                for name in {"requests", "size", "db"} & {reading.name for reading in one.readings()}:
                    for window in (None, timedelta(seconds=10), timedelta(minutes=10)):
                        for expected, found in (
                            (one.summary(name, window), store.summary(name, window)),
                            (latest(one, name, window), latest(store, name, window)),
                        ):
                            if expected["seconds"] == found["seconds"]:
                                assert_same(expected, found)
                            else:  # one stream has wider slots there: each is right for its own interval
                                assert window is not None
            living[0].shared.work()


@pytest.mark.slow
@given(steps=st.lists(GAUGES, max_size=40))
@settings(max_examples=60)
def test_gauges_of_several_workers_equal_one_store(steps: list[Any]) -> None:
    """The value is that of a store with a series for each worker and the same law, as is a sum's average."""
    with tempfile.TemporaryDirectory() as folder:
        clock = ManualClock()
        workers = Workers(Path(folder), clock)
        many, one = workers.some(NUMBER), Store(clock)
        for store in (one, *(worker.store for worker in many)):
            describe(store)
        for what, number, _, value in steps:
            clock.advance(0.001)  # the latest of two values at the same moment is not defined
            if what == "advance":
                clock.advance(value)
                workers.flush()
            else:
                play(one, what, {}, value, number)
                play(many[number].store, what, {}, value, -1)
        clock.advance(0.5)
        for name in {reading.name for reading in one.readings()}:
            for window in (None, timedelta(seconds=10), timedelta(minutes=10)):
                expected = one.summary(name, window)
                for worker in many:
                    found = worker.read().summary(name, window)
                    assert found["last"] == expected["last"], name
                    if found["seconds"] != expected["seconds"]:
                        continue
                    assert found["count"] == expected["count"], name
                    if "avg" in expected:
                        assert found["min"] <= found["avg"] <= found["max"]
                        if name in ("sum", "in_flight"):
                            assert found["avg"] == pytest.approx(expected["avg"], rel=1e-6, abs=1e-6)
                            assert found["min"] <= expected["min"]
                            assert found["max"] >= expected["max"]
