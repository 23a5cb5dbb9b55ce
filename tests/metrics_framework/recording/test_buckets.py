"""Counts between explicit bounds, their defaults, and their checks."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.in_memory import InMemoryCollector
from metrics_framework import Rule
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import Store, metric
from metrics_framework.recording.buckets import BucketCounts, check_bounds, default_bounds, seconds_as
from metrics_framework.values import MetricUnit

# Few numbers on purpose: values meet bounds exactly again and again.
BOUNDS = st.sets(st.integers(-5, 5).map(float) | st.floats(-10, 10), min_size=1, max_size=6).map(
    lambda drawn: tuple(sorted(drawn))
)
VALUES = st.integers(-6, 6) | st.floats(-12, 12)


def counted(bounds, values) -> BucketCounts:
    """Return the counts of some values that are recorded."""
    collector = InMemoryCollector(Store(ManualClock()))
    collector.describe("name", buckets=bounds)
    for value in values:
        collector.record_histogram("name", value)
    (reading,) = collector.store.readings()
    return reading.buckets


@given(BOUNDS, st.lists(VALUES, min_size=1, max_size=60))
def test_each_value_is_in_the_bucket_that_encloses_it(bounds, values):
    """A bound belongs to the lower of its two buckets."""
    buckets = counted(bounds, values)
    edges = (-math.inf, *bounds, math.inf)
    assert buckets.counts == tuple(
        sum(low < value <= high for value in values) for low, high in pairwise(edges)
    )
    assert buckets.bounds == bounds
    assert buckets.total == pytest.approx(math.fsum(values), rel=1e-9, abs=1e-9)
    assert list(buckets.cumulated()) == [*bounds, math.inf]
    assert buckets.cumulated() == {
        bound: sum(value <= bound for value in values) for bound in (*bounds, math.inf)
    }


def test_a_bound_belongs_to_the_bucket_below():
    """A value on a bound is counted up to it, the next float above is not."""
    assert counted((1.0, 2.0), [1, 1.0, math.nextafter(1.0, 2), 2.0, 2.5]).counts == (2, 2, 1)


def test_counts_are_exact_if_two_threads_make_a_name(monkeypatch, clock):
    """A record that makes the same name at the same time does not compute the counts of another one again."""
    collector = InMemoryCollector(Store(clock, default_buckets=(1.003,)))
    slot_class = metric.Slot

    def make_slot(*args):
        monkeypatch.setattr(metric, "Slot", slot_class)
        slot = slot_class(*args)
        for value in (1.002, 1.002, 50.0) * 100:  # another thread, before this one publishes the slot
            collector.record_histogram("name", value)
        return slot

    monkeypatch.setattr(metric, "Slot", make_slot)
    collector.record_histogram("name", 50.0)
    (reading,) = collector.store.readings()
    assert reading.buckets.counts == (200, 101)


def test_counts_do_not_change_after_a_read():
    """A reading is not affected by later values."""
    collector = InMemoryCollector(Store(ManualClock()))
    collector.describe("name", buckets=[1.0])
    for value in (0.5, 3):
        collector.record_histogram("name", value)
    (before,) = collector.store.readings()
    collector.record_histogram("name", 0.5)
    assert before.buckets == BucketCounts((1.0,), (1, 1), 3.5)


def test_counts_of_no_values_are_zero():
    """Empty counts have every bound and infinity."""
    assert BucketCounts.empty((1.0, 2.0)).cumulated() == {1.0: 0, 2.0: 0, math.inf: 0}


@given(st.lists(st.integers(0, 10**15), min_size=1))
def test_the_total_of_integers_is_exact(values):
    """The sum beside the counts keeps integers exact."""
    assert counted((5.0,), values).total == sum(values)


# -- defaults ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "name", "first", "last", "number"),
    [
        (MetricUnit.SECONDS, "", 0.0005, 1_800, 18),
        (MetricUnit.MILLISECONDS, "", 0.5, 1_800_000, 18),
        (MetricUnit.MICROSECONDS, "", 500, 1_800_000_000, 18),
        (MetricUnit.BYTES, "", 64, 2**30, 13),
        (MetricUnit.KILOBYTES, "", 0.064, 2**30 / 1_000, 13),
        (MetricUnit.MEGABYTES, "", 0.000_064, 2**30 / 1_000_000, 13),
        (MetricUnit.COUNT, "", 0.001, 1_000_000, 19),
        (MetricUnit.COUNT, "latency_ms", 0.001, 1_000_000, 19),
        (None, "", 0.001, 1_000_000, 19),
        (None, "seconds", 0.001, 1_000_000, 19),
        (None, "request_seconds", 0.0005, 1_800, 18),
        (None, "request.MS", 0.5, 1_800_000, 18),
        (None, "payload.bytes", 64, 2**30, 13),
        (None, "payload_bytes_total", 0.001, 1_000_000, 19),
    ],
)
def test_default_bounds_are_chosen_by_unit(unit, name, first, last, number):
    """Times, sizes and other numbers have their own bounds; the ending of a name can replace the unit."""
    bounds = default_bounds(unit, name)
    assert (bounds[0], bounds[-1], len(bounds)) == (first, last, number)
    assert check_bounds(bounds) == bounds


def test_a_store_counts_by_default_bounds_of_the_unit():
    """With `default_buckets="by_unit"` the bounds depend on the unit, unless they are described."""
    store = Store(ManualClock(), default_buckets="by_unit")
    collector = InMemoryCollector(store)
    collector.describe("own", buckets=[7])
    collector.record_histogram("payload.bytes", 300)
    collector.record_timer("latency", 300.0)
    collector.record_histogram("own", 300)
    collector.increment("counter")
    store.find_timing("operation").observe(300.0)
    readings = {each.name: each.buckets for each in (*store.readings(), *store.timing_readings())}
    assert readings["counter"] is None
    assert readings["own"].bounds == (7.0,)
    assert readings["payload.bytes"].bounds == default_bounds(MetricUnit.BYTES)
    for name in ("latency", "operation"):
        assert readings[name].bounds == default_bounds(MetricUnit.MILLISECONDS)
        assert readings[name].cumulated()[250.0] == 0
        assert readings[name].cumulated()[500.0] == 1
    assert store.default_buckets == "by_unit"


def test_exposed_buckets_count_all_values():
    """Default bounds count earlier values too, and every bound of the application takes precedence."""
    store = Store(ManualClock(), rules=[Rule("ruled", buckets=(3,))])
    collector = InMemoryCollector(store)
    collector.describe("described", buckets=[7])
    for name in ("plain", "described", "ruled"):
        collector.record_histogram(name, 5)
    assert {each.name: each.buckets for each in store.readings()}["plain"] is None
    store.expose_buckets()
    collector.record_histogram("plain", 50)
    collector.record_timer("later", 50)
    buckets = {each.name: each.buckets for each in store.readings()}
    assert [buckets["plain"].cumulated()[bound] for bound in (3.0, 10.0, 100.0)] == [0, 1, 2]
    assert buckets["later"].bounds == default_bounds(MetricUnit.MILLISECONDS)
    assert (buckets["described"].bounds, buckets["ruled"].bounds) == ((7.0,), (3.0,))
    own = Store(ManualClock(), default_buckets=[7])
    own.expose_buckets()
    assert own.default_buckets == (7.0,)


def test_a_metric_that_is_made_while_buckets_are_exposed_has_bounds():
    """Exposing the metric gives it the bounds that it missed."""
    store = Store(ManualClock())
    InMemoryCollector(store).record_histogram("name", 5)
    ((_, made),) = store.metrics()
    store._state.default_buckets = "by_unit"  # set by another thread, which did not see the metric
    made.expose()
    (reading,) = store.readings()
    assert reading.buckets.cumulated()[10.0] == 1


def test_seconds_are_converted_in_decimal():
    """0.0333 s is 33.3 ms, not the product of floats."""
    assert seconds_as(MetricUnit.MILLISECONDS, (0.0333, 1)) == (33.3, 1_000.0)
    assert seconds_as(None, (0.0333,)) == seconds_as(MetricUnit.BYTES, (0.0333,)) == (0.0333,)


# -- checks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "plain"),
    [
        ((0.1, 0.5, 1), (0.1, 0.5, 1.0)),
        ([1, 2, math.inf], (1.0, 2.0)),
        (range(3), (0.0, 1.0, 2.0)),
        ((-1, 0, 1), (-1.0, 0.0, 1.0)),
        ([5], (5.0,)),
    ],
)
def test_bounds_become_floats_without_infinity(bounds, plain):
    """Any ascending finite numbers are bounds; a last infinity is implied and left out."""
    checked = check_bounds(bounds)
    assert checked == plain
    assert all(type(bound) is float for bound in checked)


@pytest.mark.parametrize(
    "bounds",
    [
        [],
        (),
        [math.inf],
        [1, 1],
        [2, 1],
        [1, math.nan],
        [math.nan],
        [-math.inf, 1],
        [1, math.inf, 2],
        [1, math.inf, math.inf],
        [1, 10**400],
        ["a", "b"],
        [None],
        [1, (2,)],
        5,
        None,
    ],
    ids=lambda bounds: str(bounds)[:20],
)
def test_bounds_that_do_not_ascend_are_rejected(bounds):
    """The error quotes the value."""
    with pytest.raises(InvalidInputError, match=re.escape(f"buckets={bounds!r} ")):
        check_bounds(bounds)


@given(st.floats(0, 1e300), st.sampled_from([MetricUnit.MILLISECONDS, MetricUnit.MICROSECONDS]))
def test_bounds_in_seconds_are_converted_in_decimal(seconds, unit):
    """A bound in another unit of time is the nearest float to the decimal product."""
    factor = 1_000 if unit is MetricUnit.MILLISECONDS else 1_000_000
    assert seconds_as(unit, [seconds]) == (float(Decimal(repr(seconds)) * factor),)


@pytest.mark.slow
def test_a_record_imports_nothing():
    """The first record of each kind imports no module: an import cannot be entered again by a handler."""
    code = """
import sys
from metrics_framework import MetricsSystem, Rule
from metrics_framework.recording import Store, engine
stores = [Store(default_buckets=buckets, rules=[Rule("never", drop_tags=("a",))], on_error="log")
          for buckets in ((0.1, 1.0), "by_unit")]
recorders = [engine.Recorder(store.core, store) for store in stores]
before = set(sys.modules)
for store, recorder in zip(stores, recorders):
    for tags in (None, {"a": "b"}, {"a": 1}):
        recorder.record_counter("counter", 1, tags)
        recorder.record_gauge("gauge", 1.5, tags)
        recorder.record_gauge("counter", 1.5, tags)
        recorder.record_histogram("histogram", 1.5, tags)
        recorder.record_histogram("histogram", "bad", tags)
        recorder.record_timer("timer", 1.5, tags=tags)
        recorder.increment("counter", tags)
        recorder.decrement("level", tags)
        store.record_operation("operation", tags, 1_000_000, "timeout")
    store.remove("counter")
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
