"""Flat keys: what each stands for, and which of them a name means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.snapshots import (
    LatencyMetrics,
    Measured,
    Metrics,
    custom_key,
    find_keys,
    parse_flat_key,
)
from metrics_framework.values import MetricUnit

METRICS = Metrics(
    LatencyMetrics(1, 2, 3, 4),
    throughput=5,
    memory_mb=6,
    cpu_percent=7,
    custom={"jobs": 8, "operation:parse/mean": 9, "operation:parse/count": 10, "throughput": 11},
)


def test_every_standard_measurement_has_its_unit() -> None:
    """Units are those of the schema; a custom number is counted, unless it is an operation's duration."""
    units = {key: parse_flat_key(key).unit for key in METRICS.flat()}
    durations = {key for key, unit in units.items() if unit is MetricUnit.MILLISECONDS}
    assert durations == {
        *("latency.mean", "latency.p50", "latency.p95", "latency.p99"),
        "custom.operation:parse/mean",
    }
    assert units["throughput"] is MetricUnit.OPERATIONS_PER_SECOND
    assert units["memory_mb"] is MetricUnit.MEGABYTES
    assert units["cpu_percent"] is MetricUnit.PERCENT
    assert {units[f"custom.{key}"] for key in ("jobs", "operation:parse/count", "throughput")} == {
        MetricUnit.COUNT
    }


def test_a_custom_measurement_has_the_name_it_was_recorded_by() -> None:
    """Name, tags, statistic and namespace come out of the key."""
    assert parse_flat_key("custom.operation:db/query[host:a%2Eb]/p95") == Measured(
        "custom.operation:db/query[host:a%2Eb]/p95",
        "db.query.p95",
        MetricUnit.MILLISECONDS,
        {"host": "a.b"},
        "p95",
        operation=True,
    )


@given(st.text(min_size=1), st.dictionaries(st.text(min_size=1), st.text(), max_size=2))
def test_a_metric_is_found_by_its_recorded_name(name: str, tags: dict[str, str]) -> None:
    """Whatever it is called, its own name leads to its key."""
    key = f"custom.{custom_key(name, tags)}"
    assert find_keys(name, [key, "custom.another", "latency.p95"]) in ([key], [name], [f"custom.{name}"])
    assert find_keys(key, [key, "custom.another"]) == [key]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("throughput", ["throughput"]),
        ("custom.throughput", ["custom.throughput"]),
        ("parse.mean", ["custom.operation:parse/mean"]),
        ("parse", []),
        ("", []),
        ("latency", []),
    ],
)
def test_a_name_means_what_is_nearest_to_it(name: str, keys: list[str]) -> None:
    """A flat key is itself; half a name is nobody's."""
    assert find_keys(name, METRICS.flat()) == keys
