"""Text formats: what is written can be read back as the same values."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.errors import InvalidInputError
from metrics_framework.formats import FORMATS, render, to_plain
from metrics_framework.values import MetricType, MetricUnit, MetricValue

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.lists(
    st.builds(
        MetricValue,
        name=st.text(min_size=1),
        value=NUMBERS,
        metric_type=st.sampled_from(MetricType),
        unit=st.sampled_from(MetricUnit),
        timestamp=st.datetimes(timezones=st.just(UTC)),
        tags=st.dictionaries(st.text(min_size=1), st.text(), max_size=3),
        metadata=st.dictionaries(st.text(), NUMBERS | st.booleans() | st.text(), max_size=3),
    ),
    max_size=5,
)


def from_plain(plain: dict[str, Any]) -> MetricValue:
    """Turn plain data back into a value."""
    return MetricValue(
        plain["name"],
        plain["value"],
        MetricType(plain["type"]),
        MetricUnit(plain["unit"]),
        datetime.fromisoformat(plain["timestamp"]),
        plain["tags"],
        plain["metadata"],
    )


def from_csv(text: str) -> list[MetricValue]:
    """Read a table back."""
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [
        from_plain({**row, **{key: json.loads(row[key]) for key in ("value", "tags", "metadata")}})
        for row in rows
    ]


@given(VALUES)
def test_json_reads_back_as_the_same_values(values):
    """The document holds every value under `metrics`, in order, with nothing lost."""
    assert [from_plain(plain) for plain in json.loads(render(values, "json"))["metrics"]] == values


@given(VALUES)
def test_json_lines_read_back_as_the_same_values(values):
    """Each value is one line, whatever line breaks are in its texts, and the last line is ended."""
    text = render(iter(values), "jsonl")
    lines = text.split("\n")
    assert lines.pop() == ""
    assert [from_plain(json.loads(line)) for line in lines] == values


@given(VALUES)
def test_csv_reads_back_as_the_same_values(values):
    """Each value is one row, whatever commas, quotes and line breaks are in its texts."""
    assert from_csv(render(values, "csv")) == values


def test_csv_has_a_header_also_without_values():
    """An empty table still names its columns."""
    assert render([], "csv") == "name,type,value,unit,timestamp,tags,metadata\r\n"


def test_a_value_as_plain_data():
    """Plain data has the keys that every format shows, and texts for what JSON has no type for."""
    value = MetricValue(
        "http.requests",
        3,
        MetricType.COUNTER,
        MetricUnit.COUNT,
        datetime(2026, 1, 1, tzinfo=UTC),
        {"endpoint": "/"},
        {"count": 3},
    )
    assert to_plain(value) == {
        "name": "http.requests",
        "type": "counter",
        "value": 3,
        "unit": "count",
        "timestamp": "2026-01-01T00:00:00+00:00",
        "tags": {"endpoint": "/"},
        "metadata": {"count": 3},
    }


@pytest.mark.parametrize("unknown", ["xml", "JSON", "", None, [], 3])
def test_an_unknown_format_lists_those_there_are(unknown):
    """The error quotes what was asked for and names every format."""
    with pytest.raises(InvalidInputError) as caught:
        render([], unknown)
    assert repr(unknown) in str(caught.value)
    for known in FORMATS:
        assert known in str(caught.value)


def test_the_formats_there_are():
    """The core writes three formats."""
    assert {"json", "jsonl", "csv"} <= FORMATS.keys()
