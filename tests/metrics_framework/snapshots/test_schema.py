"""The JSON Schema agrees with the rules."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from metrics_framework.snapshots import document_violations, json_schema

VALIDATOR = Draft202012Validator(json_schema())

NUMBERS = st.one_of(
    st.integers(min_value=0),
    st.floats(min_value=0, allow_infinity=False, allow_nan=False),
    st.sampled_from([0, -0.0, 100, 10**300, 5e-324, 1.7976931348623157e308]),
)
PERCENTS = st.integers(0, 100) | st.floats(0, 100)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, 1, -1, 2, 100, 100.00000000000001, 101, -0.0, -5e-324, 10**400, -(10**400), "", "1"]),
    st.text(max_size=5),
)
"""JSON has neither NaN nor infinities."""

JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)

LATENCIES = st.fixed_dictionaries(
    {}, optional={key: NUMBERS | st.none() for key in ("mean", "p50", "p95", "p99")}
).filter(lambda latency: any(value is not None for value in latency.values()))
CUSTOM_KEYS = st.text(min_size=1, max_size=8).map(lambda key: key.replace(".", "/"))
METRICS = st.fixed_dictionaries(
    {},
    optional={
        "latency": LATENCIES | st.none(),
        "throughput": NUMBERS | st.none(),
        "memory_mb": NUMBERS | st.none(),
        "cpu_percent": PERCENTS | st.none(),
        "custom": st.dictionaries(CUSTOM_KEYS, NUMBERS, max_size=3),
        "unknown": JSON,
    },
).filter(lambda metrics: any(value not in (None, {}) for key, value in metrics.items() if key != "unknown"))
TIMESTAMPS = st.datetimes().map(lambda moment: moment.isoformat()) | st.sampled_from(
    ["2026-01-01", "2026-01-01T10:00Z", "2024-02-29 00:00:00.123+01:30"]
)
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "run_id": st.text(max_size=5),
        "commit": st.text(max_size=5) | st.none(),
        "branch": st.text(max_size=5) | st.none(),
        "timestamp": TIMESTAMPS,
        "environment": st.sampled_from(["ci", "local", "staging", "custom"]) | JSON,
        "tags": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
        "unknown": JSON,
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {"metrics": METRICS}, optional={"schema_version": st.just(1), "metadata": METADATA, "unknown": JSON}
)
"""Valid documents of every shape."""

_KNOWN_KEYS = st.sampled_from(
    [
        *("schema_version", "metadata", "metrics", "run_id", "commit", "branch", "timestamp", "tags"),
        *("latency", "mean", "p50", "p95", "p99", "throughput", "memory_mb", "cpu_percent", "custom", ""),
    ]
)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container in a node with each of its keys."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(items):
        yield node, key
        yield from _places(value)


def _objects(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for container, key in _places(node):
        if isinstance(container[key], dict):
            yield container[key]


@st.composite
def _mutated(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a valid document and change it in one to three places, mostly near the top."""
    document = copy.deepcopy(draw(DOCUMENTS))
    for _ in range(draw(st.integers(1, 3))):
        action = draw(st.sampled_from(["replace", "replace", "delete", "insert"]))
        if action == "insert":
            target = draw(st.sampled_from(list(_objects(document))))
            target[draw(_KNOWN_KEYS | st.text(max_size=3))] = draw(JSON)
        elif places := list(_places(document)):
            container, key = draw(st.sampled_from(places))
            if action == "delete":
                del container[key]
            else:
                container[key] = draw(JSON)
    return document


def _agree(document: Any) -> bool:
    return VALIDATOR.is_valid(document) == (document_violations(document) == [])


def _is_exempt(document: Any) -> bool:
    """Return whether JSON Schema cannot express the rule for a document."""
    if not isinstance(document, dict):
        return False
    metadata = document.get("metadata")
    timestamp = metadata.get("timestamp") if isinstance(metadata, dict) else None
    # JSON Schema calls 1.0 an integer, and a pattern cannot detect times whose year in UTC is out of range.
    return isinstance(document.get("schema_version"), float) or (
        isinstance(timestamp, str) and timestamp.startswith(("0001-01-01", "9999-12-31"))
    )


def test_it_is_a_valid_schema() -> None:
    """It is valid for JSON Schema 2020-12."""
    Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_each_caller_gets_a_new_schema() -> None:
    """Changing it does not affect the next caller."""
    json_schema().clear()
    assert "properties" in json_schema()


@given(DOCUMENTS)
def test_valid_documents_are_valid_by_both(document: dict[str, Any]) -> None:
    """Documents of the specification pass the schema and break no rule."""
    assert [error.message for error in VALIDATOR.iter_errors(document)] == []
    assert document_violations(document) == []


@given(_mutated())
@example({"metrics": {"custom": None}})
@example({"metrics": {"custom": 0, "throughput": 1}})
@example({"metrics": {"latency": False}})
@example({"metrics": {"latency": {}, "throughput": 1}})
@example({"metrics": {"throughput": 10**400}})
@example({"metrics": {"throughput": True}})
@example({"metrics": {"throughput": 1}, "schema_version": True})
@example({"metrics": {"throughput": 1}, "schema_version": None})
@example({"metrics": {"throughput": 1}, "metadata": None})
@example({"metrics": {"throughput": 1}, "metadata": {"tags": {str(number): "" for number in range(51)}}})
@example({"metrics": {"throughput": 1}, "metadata": {"tags": {str(number): "" for number in range(50)}}})
@example({"metrics": {"throughput": 1}, "metadata": {"tags": {"pr": None}}})
@example({"metrics": {"throughput": 1}, "metadata": {"environment": None}})
@example({"metrics": {"cpu_percent": 101}})
@example({"metrics": {"cpu_percent": 100.00000000000001}})
@example({"metrics": {"cpu_percent": 100}})
@example({"metrics": {"custom": {}}})
@example({"metrics": {"custom": {"": 1}}})
@example({"metrics": {"custom": {"a.b": 1}}})
@example({"metrics": {"custom": {"a": None}}})
@example({"metrics": {"latency": {"p95": 10**400}}})
@example({"metrics": {"memory_mb": -5e-324}})
def test_it_agrees_with_the_rules_on_changed_documents(document: dict[str, Any]) -> None:
    """For any change of a valid document, schema and rules give the same result."""
    assume(not _is_exempt(document))
    assert _agree(document)


@given(JSON)
def test_it_agrees_with_the_rules_on_any_json(document: Any) -> None:
    """For any JSON, schema and rules give the same result."""
    assume(not _is_exempt(document))
    assert _agree(document)


def test_the_documented_difference() -> None:
    """For JSON Schema 1.0 is an integer, for the rules it is not."""
    document = {"schema_version": 1.0, "metrics": {"throughput": 1}}
    assert VALIDATOR.is_valid(document)
    assert document_violations(document) != []


# -- timestamps --------------------------------------------------------------------------------------------


def _two(low: int, high: int) -> st.SearchStrategy[str]:
    return st.integers(low, high).map(lambda number: f"{number:02}")


_YEARS = st.integers(2, 9998) | st.sampled_from([4, 96, 100, 400, 1900, 2000, 2023, 2024, 2100, 2400])
_DATES = st.builds(
    "{:04}-{}-{}".format, _YEARS, _two(0, 13), _two(0, 32) | st.sampled_from(["28", "29", "30", "31"])
)
_TIMES = st.builds(
    "{}{}:{}{}{}{}".format,
    st.sampled_from(["T", "T", "T", " ", "t", "_", ""]),
    _two(0, 24),
    _two(0, 60),
    st.just("") | _two(0, 60).map(":{}".format),
    st.sampled_from(["", "", ".", ".0", ".123456", ".1234567890", ",5"]),
    st.sampled_from(["", "Z", "z", "+00:00", "-00:00", "+0000", "+00", "+24:00", "-01:60", "+05:30:15"])
    | st.builds("{}{}:{}".format, st.sampled_from("+-"), _two(0, 25), _two(0, 61)),
)
_TEXTS = st.builds(
    "{}{}{}".format, _DATES, st.just("") | _TIMES, st.sampled_from(["", "", "", "\n", " ", "Z"])
)


@st.composite
def _mistyped(draw: st.DrawFn) -> str:
    """Draw a timestamp with one character replaced, removed or added."""
    text = draw(_TEXTS)
    place = draw(st.integers(0, len(text)))
    added = draw(st.sampled_from([*"0123456789TZ:+-. \n\u0663\u2212", ""]) | st.characters())
    return text[:place] + added + text[place + draw(st.integers(0, 1)) :]


def _dated(text: str) -> dict[str, Any]:
    return {"metadata": {"timestamp": text}, "metrics": {"throughput": 1}}


@given(_TEXTS | _mistyped())
@example("2023-02-29")
@example("2024-02-29")
@example("1900-02-29")
@example("2000-02-29")
@example("2024-02-30")
@example("2024-04-31")
@example("2024-12-31")
@example("0000-01-01")
@example("2026-01-01T10:00:00Z\n")
@example("2026-01-01\n")
@example("\n2026-01-01")
@example("2026-01-01T24:00:00Z")
@example("2026-01-01T10:00:00+05:60")
@example("2026-01-01T10:00:00-23:59")
@example("2026-01-01T10:00:00Z\u2028")
def test_it_agrees_with_the_rules_on_timestamps(text: str) -> None:
    """For valid and mistyped timestamps, schema and rules give the same result."""
    assume(not _is_exempt(_dated(text)))
    assert _agree(_dated(text))


@pytest.mark.parametrize("year", [4, 1900, 2000, 2023, 2024, 2100, 9996])
def test_it_knows_the_calendar(year: int) -> None:
    """The days 0 to 32 of every month give the same result as the rules."""
    days = (f"{year:04}-{month:02}-{day:02}" for month in range(14) for day in range(33))
    assert [day for day in days if not _agree(_dated(day))] == []
