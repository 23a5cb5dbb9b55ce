"""All JSON of the library is strict JSON, whatever values it gets."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

import metrics_adapters.in_memory
import metrics_framework
from metrics_adapters.http.app import json_response
from metrics_framework import MetricsSystem
from metrics_framework.batch import BatchMetrics
from metrics_framework.clock import ManualClock
from metrics_framework.exposition import formats
from metrics_framework.recording import Distribution
from metrics_framework.runtime.strict_json import MAX_DEPTH, json_encoder, to_indented_json, to_json_text
from metrics_framework.snapshots.distributions import dump_distributions, load_distributions
from metrics_framework.streams.events import StreamEvent
from metrics_framework.values import MetricType, MetricUnit, MetricValue

SOURCES = [Path(metrics_framework.__file__).parent, Path(metrics_adapters.in_memory.__file__).parent]
INFINITE, NAN = math.inf, math.nan

# Text with lone surrogates, and numbers of every kind.
_text = st.text(st.characters(exclude_categories=[]), max_size=5)
_plain = st.none() | st.booleans() | st.integers() | _text | st.floats()
_odd = _plain | st.decimals() | st.datetimes() | st.binary(max_size=3) | st.just(object())
_keys = _plain | st.dates() | st.just(object())
_data = st.recursive(
    _odd,
    lambda item: (
        st.lists(item, max_size=3) | st.dictionaries(_keys, item, max_size=3) | st.tuples(item, item)
    ),
    max_leaves=10,
)


def parsed(text: str | bytes) -> Any:
    """Parse strict JSON, in which all strings can be encoded."""
    data = json.loads(text, parse_constant=_reject)
    json.dumps(data, ensure_ascii=False).encode("utf-8")
    return data


def _reject(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not JSON")


@given(_data)
def test_any_value_becomes_strict_json(value: Any) -> None:
    """Whatever the value, the text is strict JSON, and all encoders write the same data."""
    compact = json_encoder(separators=(",", ":"))
    data = parsed(to_json_text(value))
    assert repr(parsed(compact(value))) == repr(parsed(to_indented_json(value))) == repr(data)


@given(st.recursive(_plain.filter(lambda one: one == one), st.lists, max_leaves=5))
def test_values_that_json_can_represent_are_unchanged(value: Any) -> None:
    """The text is that of the json module, unless it has no text for a value."""
    try:
        text = json.dumps(value, allow_nan=False)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except ValueError:
        return
    assert to_json_text(value) == text


def test_what_json_cannot_represent_has_one_form() -> None:
    """Numbers without JSON are null, keys and other objects are strings, lone surrogates their escapes."""
    keys = {None: 1, True: 2, 3: 4, 0.5: 6, "\ud800": 7, INFINITE: 8}
    for value, expected in [
        (NAN, None),
        ([INFINITE, -INFINITE, {"a": NAN}], [None, None, {"a": None}]),
        ([10**5_000], [None]),
        (keys, {"null": 1, "true": 2, "3": 4, "0.5": 6, "\\ud800": 7, "Infinity": 8}),
        ("a\udcffb", "a\\udcffb"),
        ("\ud83d\ude00", "\U0001f600"),
        ((Decimal("1.5"), Decimal("Infinity")), [1.5, None]),
        (MappingProxyType({"a": (INFINITE,)}), {"a": [None]}),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01 00:00:00+00:00"),
    ]:
        assert parsed(to_json_text(value)) == expected


def test_data_without_end_is_null() -> None:
    """Data that contains itself, or is nested too deeply, ends in null."""
    circular: list[Any] = [1]
    circular += [circular, {"again": circular}]
    assert parsed(to_json_text(circular)) == [1, None, {"again": None}]
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert to_json_text(deep) == "[" * MAX_DEPTH + "null" + "]" * MAX_DEPTH
    while deep != 1:  # else the interpreter frees it recursively
        deep = deep[0]


# -- what the library writes -------------------------------------------------------------------------------


def _hostile() -> list[MetricValue]:
    def value(number: Any, **metadata: Any) -> MetricValue:
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        tags: Any = {"file\udc80": "\ud800", 1: 2}
        return MetricValue(
            "size\udcff", number, MetricType.GAUGE, MetricUnit.COUNT, moment, tags, {**metadata}
        )

    return [
        value(INFINITE, rate=NAN, when=datetime.now(UTC)),
        value(Decimal("NaN"), counts={0.5: [-INFINITE]}),
    ]


def test_exports_are_strict_json() -> None:
    """Values of any aggregator are strict JSON in every format of `export_metrics` and in streams."""
    values = _hostile()
    listed = parsed(formats.render(values, "json"))["metrics"]
    assert listed == [parsed(line) for line in formats.render(values, "jsonl").splitlines()]
    assert [one["value"] for one in listed] == [None, None]
    for row in csv.DictReader(io.StringIO(formats.render(values[:1], "csv"), newline="")):
        assert parsed(row["tags"]) == listed[0]["tags"]
        assert parsed(row["metadata"])["rate"] is None
    for one in values:
        assert parsed(StreamEvent(1, one).json())["value"] is None
        body = json_response(200, formats.to_plain(one)).body  # type: ignore[arg-type]
        assert parsed(b"".join(body))["value"] is None  # type: ignore[arg-type]


def test_a_rate_beyond_the_floats_is_null() -> None:
    """Large numbers within a short time have a rate that no float holds."""
    clock = ManualClock()
    system = MetricsSystem(clock=clock)
    system.collector.record_counter("bytes", 1e307)
    system.collector.record_histogram("size\ud800", 1e308, {"file": "\udcff"})
    clock.advance(0.001)
    exported = {one["name"]: one for one in parsed(system.aggregator.export_metrics("json"))["metrics"]}
    assert exported["bytes"]["metadata"]["rate"] is None
    assert exported["size\\ud800"]["tags"] == {"file": "\\udcff"}
    parsed(system.aggregator.export_metrics("snapshot"))
    for dashboard in ("overview", "performance"):
        parsed(to_json_text(system.create_dashboard_data(dashboard)))
    sidecar = dump_distributions({"custom.size\ud800": Distribution.of([1e308] * 200)})
    assert list(load_distributions(sidecar)) == ["custom.size\\ud800"]


@pytest.mark.parametrize("number", [INFINITE, NAN])
def test_batch_exports_and_journals_are_strict_json(tmp_path: Path, number: Any) -> None:
    """A number that JSON cannot represent is null, and a resumed batch still knows all files."""
    batch = BatchMetrics(journal=tmp_path / "journal")
    for name, samples in (("a", 1), ("b", number), ("c\udcff", 2)):
        batch.record_file(name, duration=1.0, samples=samples, memory_peak=samples)
    batch.finish()
    batch.export_json(tmp_path / "batch.json")
    exported = json.loads((tmp_path / "batch.json").read_text(), parse_constant=_reject)
    assert [one["memory_peak_bytes"] for one in exported["files"]] == [1, None, 2]
    for line in (tmp_path / "journal").read_text().splitlines():
        json.loads(line, parse_constant=_reject)
    batch.close()
    again = BatchMetrics(journal=tmp_path / "journal")
    assert list(again.remaining(["a", "b", "c\udcff", "d"])) == ["d"]


@pytest.mark.slow
def test_every_json_encoder_rejects_what_json_cannot_represent() -> None:
    """No source calls the json module without its guard, except for what no other program reads.

    Those are ids that are computed as another program does, and the files that workers share.
    """
    assert set(_unguarded()) == {"projection.py", "frames.py"}


def _unguarded() -> Iterator[str]:
    for folder in SOURCES:
        for path in sorted(folder.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                called = ast.unparse(node.func)
                is_encoder = called in ("json.dumps", "json.dump", "json.JSONEncoder", "JSONEncoder")
                if is_encoder and all(keyword.arg != "allow_nan" for keyword in node.keywords):
                    yield path.name
