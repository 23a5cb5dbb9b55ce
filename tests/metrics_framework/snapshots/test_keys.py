"""The keys of measurements: two series never share one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from metrics_framework.snapshots import (
    CustomSeries,
    LatencyMetrics,
    Measured,
    Metrics,
    custom_key,
    find_keys,
    parse_custom_key,
    parse_flat_key,
)
from metrics_framework.snapshots.keys import STATISTICS, SUCCESS_RATE
from metrics_framework.values import MetricUnit


class _Series(NamedTuple):
    """The series of a key, of the types that a snapshot is built of."""

    name: str
    tags: tuple[tuple[str, str], ...]
    statistic: str | None
    operation: bool

    @property
    def key(self) -> str:
        return custom_key(self.name, dict(self.tags), statistic=self.statistic, operation=self.operation)


WORDS = st.sampled_from(
    [
        *"./=%,:[]",
        "a",
        "b",
        *STATISTICS,
        "avg",
        SUCCESS_RATE,
        "operation",
        "%2E",
        "2E",
        ".p95",
        "/count",
        "[a:b]",
    ]
)
"""Everything that means something in a key, and a little that does not."""

NAMES = st.lists(WORDS, min_size=1, max_size=5).map("".join) | st.text(min_size=1, max_size=4)
VALUES = NAMES | st.just("")
TAGS = st.dictionaries(NAMES, VALUES, max_size=3).map(lambda tags: tuple(sorted(tags.items())))
SERIES = st.one_of(
    st.builds(_Series, NAMES, TAGS, st.none(), st.just(False)),
    st.builds(_Series, NAMES, TAGS, st.sampled_from(list(STATISTICS)), st.just(False)),
    st.builds(_Series, NAMES, st.just(()), st.sampled_from([*STATISTICS, SUCCESS_RATE]), st.just(True)),
)
"""Plain metrics, distributions, and operations with their durations and success rates."""


def _plain(name: str, statistic: str | None = None, operation: bool = False) -> _Series:
    return _Series(name, (), statistic, operation)


@given(SERIES, SERIES)
@example(_plain("x.p95"), _plain("x", "p95"))
@example(_plain("x.success_rate"), _plain("x", SUCCESS_RATE, operation=True))
@example(_plain("x.p95.p95"), _plain("x.p95", "p95"))
@example(_plain("x%2Ep95"), _plain("x.p95"))
@example(_plain("a.b"), _plain("a/b"))
@example(_plain("a/b"), _plain("a%2Fb"))
@example(_plain("operation:x", "p95"), _plain("x", "p95", operation=True))
@example(_plain("x[a:b]"), _Series("x", (("a", "b"),), None, False))
@example(_Series("x", (("a", "b,c:d"),), None, False), _Series("x", (("a", "b"), ("c", "d")), None, False))
@example(_Series("x", (("a:b", "c"),), None, False), _Series("x", (("a", "b:c"),), None, False))
@example(_Series("x", (("a.b", ""),), None, False), _Series("x", (("a/b", ""),), None, False))
def test_two_series_never_share_a_key(one: _Series, other: _Series) -> None:
    """Different series have different keys, with any names and tags."""
    assume(one != other)
    assert one.key != other.key


@given(SERIES, st.sampled_from([None, *STATISTICS, SUCCESS_RATE]))
def test_a_name_that_equals_a_key_does_not_collide(series: _Series, statistic: str | None) -> None:
    """A metric or an operation with the name of another key gets a different key."""
    key = series.key
    for name in {key, key.replace("/", "."), unquote(key), unquote(key).replace("/", ".")}:
        for whole in {name, name.removesuffix(f"/{statistic}"), name.removesuffix(f".{statistic}")} - {""}:
            others = [_Series(whole, (), statistic, operation) for operation in (False, True)]
            assert [other for other in others if other != series and other.key == key] == []


def _names(pieces: Sequence[str], longest: int) -> list[str]:
    sizes = range(1, longest + 1)
    names = ["".join(parts) for size in sizes for parts in itertools.product(pieces, repeat=size)]
    return list(dict.fromkeys(names))


def test_no_two_short_names_share_a_key() -> None:
    """Among all short names of the characters of keys, none collide."""
    series: list[_Series] = []
    for name in _names([*"./%:[],a", "p95"], 3):
        series += [_plain(name), _plain(name, "p95"), _plain(name, "p95", operation=True)]
        series += [_Series(name, (("a", "p95"),), None, False), _Series(name, (("a", "p95"),), "p95", False)]
        series += [_plain(name, SUCCESS_RATE, operation=True)]
    assert len({one.key for one in series}) == len(series)


def test_no_two_short_tags_share_a_key() -> None:
    """Among all short tags of the characters of keys, none collide."""
    pieces = [*",:[]=.%/a", "%3A"]
    tags = [((tag, value),) for tag in _names(pieces, 2) for value in ["", *_names(pieces, 2)]]
    pairs = list(itertools.product(pieces, ["", *pieces]))
    tags += [(one, other) for one, other in itertools.combinations(pairs, 2) if one[0] != other[0]]
    keys = {_Series("x", tuple(sorted(some)), None, False).key for some in tags}
    assert len(keys) == len({tuple(sorted(some)) for some in tags})


@given(SERIES)
def test_a_key_is_a_valid_custom_key(series: _Series) -> None:
    """A key is never empty, has neither a dot nor `=`, and a snapshot accepts it."""
    key = series.key
    assert key
    assert "." not in key
    assert "=" not in key
    assert Metrics(custom={key: 1}).flat() == {f"custom.{key}": 1.0}


@given(SERIES)
def test_the_order_of_tags_does_not_matter(series: _Series) -> None:
    """Tags are a set: the key is the same in any order."""
    keys = {
        custom_key(series.name, dict(order), statistic=series.statistic, operation=series.operation)
        for order in itertools.permutations(series.tags)
    }
    assert keys == {series.key}


@pytest.mark.parametrize(
    ("key", "name", "tags", "statistic", "operation"),
    [
        ("db_query_ms", "db_query_ms", None, None, False),
        ("db_query_ms", "db_query_ms", {}, None, False),
        ("git/commits/created", "git.commits.created", None, None, False),
        ("http/requests[endpoint:/status]", "http.requests", {"endpoint": "/status"}, None, False),
        ("http/requests[endpoint:/status]/p95", "http.requests", {"endpoint": "/status"}, "p95", False),
        ("hits[a:1,b:2]", "hits", {"b": "2", "a": "1"}, None, False),
        ("hits[host:a%2Eb%3A80]", "hits", {"host": "a.b:80"}, None, False),
        ("hits[a%3Db:%5B%2C%5D%25]", "hits", {"a=b": "[,]%"}, None, False),
        ("payload/count", "payload", None, "count", False),
        ("payload/mean", "payload", None, "mean", False),
        ("operation:parse/p99", "parse", None, "p99", True),
        ("operation:git/push/success_rate", "git.push", None, SUCCESS_RATE, True),
        ("hits[a%3Ab:c]", "hits", {"a:b": "c"}, None, False),
        ("a%5Bb%3Ac%5D", "a[b:c]", None, None, False),
        ("latency%2Ep95", "latency.p95", None, None, False),
        ("latency/p95/p95", "latency.p95", None, "p95", False),
        ("latency/p95[a:b]", "latency.p95", {"a": "b"}, None, False),
        ("job%2Esuccess_rate", "job.success_rate", None, None, False),
        ("p95/x", "p95.x", None, None, False),
        ("p95", "p95", None, None, False),
        ("a%2Fb", "a/b", None, None, False),
        ("größe/µs", "größe.µs", None, None, False),
    ],
)
def test_keys_are_as_documented(
    key: str, name: str, tags: dict[str, str] | None, statistic: str | None, operation: bool
) -> None:
    """Thresholds in configuration files depend on them, so they never change."""
    assert custom_key(name, tags, statistic=statistic, operation=operation) == key


@given(SERIES)
@example(_plain("x.p95"))
@example(_plain("operation:x.count"))
@example(_Series("x", (("a", ""),), "p95", False))
@example(_plain("\ud800.%41"))
def test_a_key_leads_back_to_its_series(series: _Series) -> None:
    """Name, tags, statistic and namespace are all in the key."""
    assert parse_custom_key(series.key) == (
        series.name,
        dict(series.tags),
        series.statistic,
        series.operation,
    )


@given(st.lists(WORDS, min_size=1, max_size=8).map("".join) | st.text(min_size=1))
@example("p95")
@example("/p95")
@example("operation:")
@example("x[a:b")
@example("x[]")
@example("x[a:1,a:2]")
@example("x[b:1,a:2]")
@example("100%")
@example("%2e")
@example("a%FFb")
def test_a_key_of_another_program_is_a_name(key: str) -> None:
    """A parsed key leads back to itself. For a key that `custom_key` cannot make, the name is the key."""
    series = parse_custom_key(key)
    if series != CustomSeries(key, {}):
        made = custom_key(series.name, series.tags, statistic=series.statistic, operation=series.operation)
        assert made == key


def test_statistics_are_those_of_a_summary() -> None:
    """Each of the four statistics has its key in a summary."""
    assert STATISTICS == {"count": "count", "mean": "avg", "p95": "p95", "p99": "p99"}


METRICS = Metrics(
    LatencyMetrics(1, 2, 3, 4),
    throughput=5,
    memory_mb=6,
    cpu_percent=7,
    custom={"jobs": 8, "operation:parse/mean": 9, "operation:parse/count": 10, "throughput": 11},
)


def test_every_standard_measurement_has_its_unit() -> None:
    """Units are those of the schema. A custom number is a count, unless it is a duration of an operation."""
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


def test_a_custom_measurement_has_its_recorded_name() -> None:
    """Name, tags, statistic and namespace come from the key."""
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
    """Any name leads to its own key."""
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
def test_a_name_matches_the_closest_kind_of_key(name: str, keys: list[str]) -> None:
    """A flat key matches itself; a part of a name matches nothing."""
    assert find_keys(name, METRICS.flat()) == keys
