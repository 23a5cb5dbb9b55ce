"""The rules of the v1 schema: each one broken, and the values just inside them."""

from __future__ import annotations

import copy
import math
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.snapshots import rules
from metrics_framework.snapshots.rules import document_violations, parse_timestamp

EXAMPLE: dict[str, Any] = {
    "schema_version": 1,
    "metadata": {
        "run_id": "550e8400-e29b-41d4-a716-446655440000",
        "commit": "abc123def456",
        "branch": "feature/my-change",
        "timestamp": "2026-01-01T10:00:00+00:00",
        "environment": "ci",
        "tags": {"pr": "42", "runner": "ubuntu-22"},
    },
    "metrics": {
        "latency": {"mean": 120.5, "p50": 110.0, "p95": 180.0, "p99": 240.0},
        "throughput": 950.2,
        "memory_mb": 512.0,
        "cpu_percent": 73.4,
        "custom": {"tokens_per_second": 1250.0, "db_query_ms": 8.5},
    },
}
"""The specification's own example."""

HUGE = 10**400
SHORT_HUGE = f"1{'0' * 27}...{'0' * 29}"

NOT_MEASUREMENTS = [
    (True, "True"),
    (False, "False"),
    (math.nan, "nan"),
    (math.inf, "inf"),
    (-math.inf, "-inf"),
    (-1, "-1"),
    (-0.5, "-0.5"),
    (-5e-324, "-5e-324"),
    (HUGE, SHORT_HUGE),
    (-HUGE, f"-1{'0' * 26}...{'0' * 29}"),
    ("1", "'1'"),
    ("", "''"),
    ([], "[]"),
    ([1.0], "[1.0]"),
    ({}, "{}"),
    ({"value": 1}, "{'value': 1}"),
]
"""Values that no measurement may have, and how a message quotes them."""

STRINGS = "key and value must be strings"
MEASUREMENT = "must be a finite number of 0 or more"
KEY = "the key must be a non-empty string without '.'"
SOMETHING = "metrics: must hold at least one of latency, throughput, memory_mb, cpu_percent or custom"
LATENCY = "metrics.latency: must hold at least one of mean, p50, p95, p99"
TIMESTAMP = "must be an ISO 8601 datetime like '2026-01-01T10:00:00+00:00'"

BROKEN: list[tuple[tuple[str, ...], Any, list[str]]] = [
    # schema_version
    *(
        (("schema_version",), version, [f"schema_version: must be the integer 1, got {version!r}"])
        for version in (True, 1.0, "1", None, 2, 0, -1, "", [1], {})
    ),
    # metadata
    (("metadata",), None, ["metadata: must be an object, got None"]),
    (("metadata",), [], ["metadata: must be an object, got []"]),
    (("metadata",), "ci", ["metadata: must be an object, got 'ci'"]),
    (("metadata", "run_id"), None, ["metadata.run_id: must be a string, got None"]),
    (("metadata", "run_id"), 7, ["metadata.run_id: must be a string, got 7"]),
    (("metadata", "commit"), 7, ["metadata.commit: must be a string or null, got 7"]),
    (("metadata", "commit"), False, ["metadata.commit: must be a string or null, got False"]),
    (("metadata", "branch"), ["main"], ["metadata.branch: must be a string or null, got ['main']"]),
    (("metadata", "branch"), {}, ["metadata.branch: must be a string or null, got {}"]),
    *(
        (("metadata", "timestamp"), wrong, [f"metadata.timestamp: {TIMESTAMP}, got {wrong!r}"])
        for wrong in (
            None,
            "",
            0,
            1767261600,
            True,
            [],
            "now",
            "2026-01-01T10",
            "20260101T100000Z",
            "2026-W01-1",
            "2026-1-1",
            "01/01/2026",
            "2026-02-29",
            "2026-13-01T10:00:00Z",
            "2026-01-32T10:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T10:60:00Z",
            "2026-01-01T10:00:60Z",
            "2026-01-01T10:00:00z",
            "2026-01-01T10:00:00+0000",
            "2026-01-01T10:00:00+00",
            "2026-01-01T10:00:00+24:00",
            "2026-01-01T10:00:00+05:60",
            "2026-01-01T10:00:00 +00:00",
            "2026-01-01T10:00:00,5Z",
            "2026-01-01T10:00:00.Z",
            "2026-01-01T10:00:00Z\n",
            " 2026-01-01T10:00:00Z",
            "2026-01-01t10:00:00Z",
            "2026-01-01Z",
            "0000-01-01T10:00:00Z",
            "٢٠٢٦-01-01",
            # Valid in their own time zones, but not in UTC.
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
        )
    ),
    (("metadata", "tags"), None, ["metadata.tags: must be an object of strings, got None"]),
    (("metadata", "tags"), ["a"], ["metadata.tags: must be an object of strings, got ['a']"]),
    (("metadata", "tags"), "a=b", ["metadata.tags: must be an object of strings, got 'a=b'"]),
    (
        ("metadata", "tags"),
        {str(number): "" for number in range(51)},
        ["metadata.tags: must have at most 50 entries, got 51"],
    ),
    *(
        (("metadata", "tags"), {"pr": wrong}, [f"metadata.tags['pr']: {STRINGS}, got {wrong!r}"])
        for wrong in (42, None, True, 1.5, [], {})
    ),
    (("metadata", "tags"), {42: "pr"}, [f"metadata.tags[42]: {STRINGS}, got 'pr'"]),
    # metrics
    (("metrics",), None, ["metrics: must be an object, got None"]),
    (("metrics",), [], ["metrics: must be an object, got []"]),
    (("metrics",), {}, [SOMETHING]),
    (("metrics",), {"custom": {}}, [SOMETHING]),
    (("metrics",), {"unknown": 1}, [SOMETHING]),
    (("metrics",), dict.fromkeys(("latency", "throughput", "memory_mb", "cpu_percent")), [SOMETHING]),
    # metrics.latency
    (("metrics", "latency"), [], ["metrics.latency: must be an object, got []"]),
    (("metrics", "latency"), 180.0, ["metrics.latency: must be an object, got 180.0"]),
    (("metrics", "latency"), False, ["metrics.latency: must be an object, got False"]),
    (("metrics", "latency"), {}, [LATENCY]),
    (("metrics", "latency"), {"p90": 1.0}, [LATENCY]),
    (("metrics", "latency"), dict.fromkeys(("mean", "p50", "p95", "p99")), [LATENCY]),
    *(
        (("metrics", "latency", key), wrong, [f"metrics.latency.{key}: {MEASUREMENT}, got {quoted}"])
        for key in ("mean", "p50", "p95", "p99")
        for wrong, quoted in NOT_MEASUREMENTS
    ),
    # metrics.throughput, metrics.memory_mb, metrics.cpu_percent
    *(
        (("metrics", key), wrong, [f"metrics.{key}: {MEASUREMENT}, got {quoted}"])
        for key in ("throughput", "memory_mb")
        for wrong, quoted in NOT_MEASUREMENTS
    ),
    *(
        (
            ("metrics", "cpu_percent"),
            wrong,
            [f"metrics.cpu_percent: must be a number from 0 to 100, got {quoted}"],
        )
        for wrong, quoted in [
            *NOT_MEASUREMENTS,
            (101, "101"),
            (100.00000000000001, "100.00000000000001"),
        ]
    ),
    # metrics.custom
    (("metrics", "custom"), None, ["metrics.custom: must be an object of numbers, got None"]),
    (("metrics", "custom"), [1], ["metrics.custom: must be an object of numbers, got [1]"]),
    (("metrics", "custom"), 1, ["metrics.custom: must be an object of numbers, got 1"]),
    *(
        (("metrics", "custom"), {key: 1.0}, [f"metrics.custom[{key!r}]: {KEY}"])
        for key in ("", ".", "a.b", ".a", "a.", 7)
    ),
    *(
        (("metrics", "custom", "hits"), wrong, [f"metrics.custom['hits']: {MEASUREMENT}, got {quoted}"])
        for wrong, quoted in [*NOT_MEASUREMENTS, (None, "None")]
    ),
]

VALID: list[tuple[tuple[str, ...], Any]] = [
    *((("metrics", "cpu_percent"), value) for value in (0, 0.0, -0.0, 5e-324, 99.9, 100, 100.0, None)),
    *(
        (path, value)
        for path in [
            ("metrics", "throughput"),
            ("metrics", "memory_mb"),
            ("metrics", "latency", "p95"),
            ("metrics", "custom", "db_query_ms"),
        ]
        for value in (0, -0.0, 5e-324, 10**300, 1.7976931348623157e308)
    ),
    (("metrics", "throughput"), None),
    (("metrics", "memory_mb"), None),
    (("metrics", "latency"), None),
    (("metrics", "latency"), {"mean": None, "p50": None, "p95": 0, "p99": None}),
    (("metrics", "latency", "p90"), "ignored"),
    (("metrics", "custom"), {}),
    *((("metrics", "custom"), {key: 0}) for key in (" ", "=", "a/b", "[", "é", "\n", "latency", "\ud800")),
    (("metrics", "p95"), -1),
    (("metrics",), {"latency": {"p99": 0}}),
    (("metrics",), {"throughput": 0}),
    (("metrics",), {"memory_mb": 0}),
    (("metrics",), {"cpu_percent": 0}),
    (("metrics",), {"custom": {"hits": 0}}),
    (("metadata",), {}),
    (("metadata", "run_id"), ""),
    (("metadata", "run_id"), "not a UUID"),
    (("metadata", "commit"), None),
    (("metadata", "branch"), None),
    (("metadata", "host"), ["ignored"]),
    *(
        (("metadata", "environment"), value)
        for value in ("ci", "prod", "", None, 1, True, 1.5, [], ["ci"], {})
    ),
    (("metadata", "tags"), {}),
    (("metadata", "tags"), {"": ""}),
    (("metadata", "tags"), {str(number): "x" for number in range(50)}),
    *(
        (("metadata", "timestamp"), text)
        for text in (
            "2026-01-01",
            "2026-01-01T10:00",
            "2026-01-01T10:00:00",
            "2026-01-01 10:00:00",
            "2026-01-01T10:00:00Z",
            "2026-01-01T10:00:00.5Z",
            "2026-01-01T10:00:00.123456789-00:00",
            "2026-01-01T10:00:00+23:59",
            "2024-02-29T23:59:59-23:59",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999999Z",
        )
    ),
    (("note",), "ignored"),
]


def _with(path: tuple[str, ...], value: object) -> dict[str, Any]:
    document = copy.deepcopy(EXAMPLE)
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return document


def _name(value: object) -> str | None:
    if isinstance(value, tuple):
        return "-".join(value)
    return None if isinstance(value, list) else rules.quote(value).encode("unicode_escape").decode()


@pytest.mark.parametrize(("path", "value", "violations"), BROKEN, ids=_name)
def test_a_broken_rule_is_one_line(path: tuple[str, ...], value: object, violations: list[str]) -> None:
    """The line has the path, the quoted value and the rule."""
    assert document_violations(_with(path, value)) == violations


@pytest.mark.parametrize(("path", "value"), VALID, ids=_name)
def test_values_just_inside_the_rules_are_valid(path: tuple[str, ...], value: object) -> None:
    """Values at the limits of the specification break no rule."""
    assert document_violations(_with(path, value)) == []


@pytest.mark.parametrize("document", [None, True, 1, 1.5, "x", [], [EXAMPLE]], ids=_name)
def test_a_document_is_an_object(document: object) -> None:
    """A document that is not an object has one violation."""
    assert document_violations(document) == [f"document: must be an object, got {rules.quote(document)}"]


def test_the_example_of_the_specification_is_valid() -> None:
    """The specification's own example breaks no rule."""
    assert document_violations(EXAMPLE) == []


def test_metrics_are_required() -> None:
    """A document without `metrics` has this violation, and an empty one no other."""
    assert document_violations({}) == ["metrics: is required"]
    assert document_violations({"schema_version": 1, "metadata": {}}) == ["metrics: is required"]


@pytest.mark.parametrize("key", ["schema_version", "metadata"])
def test_version_and_metadata_may_be_missing(key: str) -> None:
    """If absent, the version is 1 and the metadata have their defaults."""
    document = copy.deepcopy(EXAMPLE)
    del document[key]
    assert document_violations(document) == []


@pytest.mark.parametrize("key", list(EXAMPLE["metadata"]))
def test_every_field_of_the_metadata_may_be_missing(key: str) -> None:
    """All fields of the metadata are optional."""
    document = copy.deepcopy(EXAMPLE)
    del document["metadata"][key]
    assert document_violations(document) == []


@pytest.mark.parametrize("key", list(EXAMPLE["metrics"]))
def test_one_measurement_is_enough(key: str) -> None:
    """Each measurement alone makes a valid document, and so do all others without it."""
    alone = {"metrics": {key: EXAMPLE["metrics"][key]}}
    others = {"metrics": {other: value for other, value in EXAMPLE["metrics"].items() if other != key}}
    assert document_violations(alone) == document_violations(others) == []


def test_every_broken_rule_is_listed_in_the_documents_order() -> None:
    """All violations are listed, in the order of the document."""
    document = {
        "metadata": {
            "run_id": 1,
            "commit": 2,
            "branch": 3,
            "timestamp": "yesterday",
            "environment": 4,
            "tags": {"a": 5, "b": "fine", "c": None},
        },
        "metrics": {
            "latency": {"mean": -1, "p50": True, "p95": 1.0, "p99": "2"},
            "throughput": math.nan,
            "memory_mb": -2,
            "cpu_percent": 101,
            "custom": {"": -3, "a.b": 1, "fine": 0, "c": None},
        },
    }
    assert document_violations(document) == [
        "metadata.run_id: must be a string, got 1",
        "metadata.commit: must be a string or null, got 2",
        "metadata.branch: must be a string or null, got 3",
        f"metadata.timestamp: {TIMESTAMP}, got 'yesterday'",
        f"metadata.tags['a']: {STRINGS}, got 5",
        f"metadata.tags['c']: {STRINGS}, got None",
        f"metrics.latency.mean: {MEASUREMENT}, got -1",
        f"metrics.latency.p50: {MEASUREMENT}, got True",
        f"metrics.latency.p99: {MEASUREMENT}, got '2'",
        f"metrics.throughput: {MEASUREMENT}, got nan",
        f"metrics.memory_mb: {MEASUREMENT}, got -2",
        "metrics.cpu_percent: must be a number from 0 to 100, got 101",
        f"metrics.custom['']: {KEY}",
        f"metrics.custom['']: {MEASUREMENT}, got -3",
        f"metrics.custom['a.b']: {KEY}",
        f"metrics.custom['c']: {MEASUREMENT}, got None",
    ]


def test_metadata_and_missing_metrics_are_both_listed() -> None:
    """Missing and invalid parts are both listed."""
    assert document_violations({"metadata": []}) == [
        "metadata: must be an object, got []",
        "metrics: is required",
    ]


def test_a_wrong_version_is_the_only_line() -> None:
    """Another version has other rules, so version 1 is not checked."""
    assert document_violations({"schema_version": 2, "metadata": 0, "metrics": 0}) == [
        "schema_version: must be the integer 1, got 2"
    ]


@pytest.mark.parametrize(
    "value", ["x" * 10_000, HUGE, 10**5_000, -(10**5_000), ["y" * 10_000] * 1_000, [10**5_000]], ids=type
)
def test_a_message_stays_short(value: object) -> None:
    """A value of any size is quoted briefly."""
    (line,) = document_violations({"metrics": value})
    assert len(line) < 500


# -- timestamps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-01T10:00:00+00:00", datetime(2026, 1, 1, 10, tzinfo=UTC)),
        ("2026-01-01T10:00:00Z", datetime(2026, 1, 1, 10, tzinfo=UTC)),
        ("2026-01-01T10:00:00", datetime(2026, 1, 1, 10, tzinfo=UTC)),
        ("2026-01-01", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01 10:30", datetime(2026, 1, 1, 10, 30, tzinfo=UTC)),
        ("2026-01-01T10:00:00.25Z", datetime(2026, 1, 1, 10, 0, 0, 250_000, tzinfo=UTC)),
        ("2026-01-01T10:00:00.1234569Z", datetime(2026, 1, 1, 10, 0, 0, 123_456, tzinfo=UTC)),
        ("2026-01-01T00:30:00+01:00", datetime(2025, 12, 31, 23, 30, tzinfo=UTC)),
        ("2026-01-01T10:00:00-05:30", datetime(2026, 1, 1, 15, 30, tzinfo=UTC)),
        ("2024-02-29", datetime(2024, 2, 29, tzinfo=UTC)),
    ],
)
def test_a_timestamp_becomes_utc(text: str, moment: datetime) -> None:
    """It is converted to UTC. Without an offset, it is UTC."""
    parsed = parse_timestamp(text)
    assert parsed == moment
    assert parsed.utcoffset() == timedelta(0)


@pytest.mark.skipif(sys.platform == "win32", reason="the time zone of a process cannot be set")
def test_no_offset_is_utc_in_any_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timestamp without an offset is not in the local time of the machine."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EAST-9")
        time.tzset()
        assert parse_timestamp("2026-01-01T10:00:00") == datetime(2026, 1, 1, 10, tzinfo=UTC)
    time.tzset()


@given(
    st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)),  # noqa: DTZ001 - made aware below
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_isoformat_is_read_back(naive: datetime, offset: int) -> None:
    """The `isoformat` of any aware datetime is a valid timestamp of the same time."""
    moment = naive.replace(tzinfo=timezone(timedelta(minutes=offset)))
    assert parse_timestamp(moment.isoformat()) == moment
    assert parse_timestamp(moment.astimezone(UTC).isoformat().replace("+00:00", "Z")) == moment


@given(st.text() | st.text("0123456789T:Z+. -", min_size=10) | st.none() | st.integers() | st.binary())
def test_an_invalid_timestamp_is_a_value_error(text: object) -> None:
    """The result is always a datetime in UTC or a `ValueError`."""
    with suppress(ValueError):
        assert parse_timestamp(text).tzinfo is UTC


# -- parts of the rules that other modules use ---------------------------------------------------------------


@given(st.floats(min_value=0, allow_infinity=False) | st.integers(0, 10**308))
def test_finite_numbers_of_0_or_more_are_measurements(number: float) -> None:
    """This includes integers."""
    assert rules.is_measurement(number)


@given(
    st.floats(max_value=0, exclude_max=True) | st.integers(max_value=-1) | st.integers(min_value=2 * 10**308)
)
def test_negative_and_infinite_numbers_are_not_measurements(number: float) -> None:
    """Neither are integers beyond the largest float."""
    assert not rules.is_measurement(number)


@given(st.floats(0, 1e300), st.floats(0, 1e300))
def test_a_measurement_may_have_an_upper_bound(number: float, bound: float) -> None:
    """`at_most` is the largest allowed value."""
    assert rules.is_measurement(number, at_most=bound) is (number <= bound)
    assert rules.is_measurement(bound, at_most=bound)
