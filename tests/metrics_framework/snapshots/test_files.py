"""Snapshots are read from files as people and other programs write them."""

from __future__ import annotations

import codecs
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_framework.errors import OutputError, SchemaVersionError, SnapshotError
from metrics_framework.snapshots import (
    LatencyMetrics,
    Metrics,
    PerformanceSnapshot,
    SnapshotMetadata,
    dump_snapshot,
    read_snapshot,
)

DOCUMENT: dict[str, Any] = {
    "schema_version": 1,
    "metadata": {"run_id": "7", "branch": "größe", "timestamp": "2026-01-01T10:00:00Z", "tags": {"µ": "é"}},
    "metrics": {"latency": {"p95": 180.0}, "custom": {"größe/µs": 8.5}},
}


def test_a_file_becomes_its_snapshot(tmp_path: Path) -> None:
    """A valid file is read by its path or by its name."""
    path = tmp_path / "run.json"
    path.write_text(json.dumps(DOCUMENT), "utf-8")
    assert read_snapshot(path) == read_snapshot(str(path)) == PerformanceSnapshot.from_dict(DOCUMENT)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(DOCUMENT, ensure_ascii=False).encode(),
        codecs.BOM_UTF8 + json.dumps(DOCUMENT, ensure_ascii=False).encode(),
        json.dumps(DOCUMENT, ensure_ascii=False).encode("utf-16"),
        json.dumps(DOCUMENT, ensure_ascii=False).encode("utf-16-le"),
        json.dumps(DOCUMENT, ensure_ascii=False).encode("utf-16-be"),
        json.dumps(DOCUMENT, ensure_ascii=False).encode("utf-32"),
        json.dumps(DOCUMENT, indent=2).replace("\n", "\r\n").encode(),
    ],
    ids=["utf-8", "utf-8 with BOM", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "windows lines"],
)
def test_every_encoding_of_json_is_read(tmp_path: Path, content: bytes) -> None:
    """The result does not depend on the encoding that an editor or a shell wrote."""
    path = tmp_path / "run.json"
    path.write_bytes(content)
    assert read_snapshot(path) == PerformanceSnapshot.from_dict(DOCUMENT)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" \n",
        b"{",
        b'{"metrics": {"throughput": 1}',
        b'{"metrics": {"throughput": 1}}}',
        b"{'metrics': {}}",
        b"throughput: 1",
        b"\xff\xfe\xff",
        b"\x80\x81",
        b"\0\0\0\0",
        b"\x1f\x8b\x08\x00\x00\x00",
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b'{"metrics": {"throughput": ' + b"9" * 10_000 + b"}}",
    ],
    ids=lambda content: content[:12].hex(),
)
def test_a_file_that_is_not_json_is_a_snapshot_error(tmp_path: Path, content: bytes) -> None:
    """Truncated files, other formats and endless nesting give an error of one line."""
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match=r"^document: is not JSON: .") as caught:
        read_snapshot(path)
    assert len(caught.value.violations) == 1


@pytest.mark.parametrize("depth", [10, 500])
def test_nested_json_is_read(tmp_path: Path, depth: int) -> None:
    """Unknown fields may have any value, also deep nesting. Elsewhere it is quoted briefly."""
    nested = "[" * depth + "]" * depth
    path = tmp_path / "run.json"
    path.write_text(f'{{"metrics": {{"throughput": 1}}, "note": {nested}}}')
    assert read_snapshot(path).metrics.throughput == 1
    path.write_text(f'{{"metrics": {{"throughput": {nested}}}}}')
    with pytest.raises(SnapshotError, match=r"^metrics\.throughput: must be a finite number") as caught:
        read_snapshot(path)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1"])
def test_numbers_outside_json_are_rejected(tmp_path: Path, number: str) -> None:
    """Python's JSON parser accepts more numbers than JSON has."""
    path = tmp_path / "run.json"
    path.write_text(f'{{"metrics": {{"throughput": {number}}}}}')
    with pytest.raises(SnapshotError, match=r"^metrics\.throughput: must be a finite number of 0 or more"):
        read_snapshot(path)


def test_every_violation_of_a_file_is_listed(tmp_path: Path) -> None:
    """A file with several faults has one error with all of them."""
    path = tmp_path / "run.json"
    path.write_text('{"metadata": {"commit": 7}, "metrics": {"throughput": -1, "cpu_percent": 101}}')
    with pytest.raises(SnapshotError) as caught:
        read_snapshot(path)
    assert [line.partition(":")[0] for line in caught.value.violations] == [
        "metadata.commit",
        "metrics.throughput",
        "metrics.cpu_percent",
    ]


@pytest.mark.parametrize("version", ["2", "true", "1.0", "null", '"1"'])
def test_a_file_of_another_version_is_a_version_error(tmp_path: Path, version: str) -> None:
    """It differs from the error for an invalid file."""
    path = tmp_path / "run.json"
    path.write_text(f'{{"schema_version": {version}, "metrics": {{"throughput": 1}}}}')
    with pytest.raises(SchemaVersionError, match=r"^schema_version: must be the integer 1"):
        read_snapshot(path)


@pytest.mark.parametrize("name", ["missing.json", "folder", "file/run.json", "nul\0.json"])
def test_a_missing_file_is_an_output_error(tmp_path: Path, name: str) -> None:
    """The `OutputError`, which is an `OSError`, names the path."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    path = tmp_path / name
    with pytest.raises(OutputError, match=r"^cannot read ") as caught:
        read_snapshot(path)
    assert repr(str(path)) in str(caught.value)
    assert isinstance(caught.value, OSError)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can read every file")
def test_a_file_without_permission_is_an_output_error(tmp_path: Path) -> None:
    """The error gives the reason."""
    path = tmp_path / "run.json"
    path.write_text("{}")
    path.chmod(0)
    with pytest.raises(OutputError, match="Permission denied"):
        read_snapshot(path)


# -- snapshots as text -------------------------------------------------------------------------------------


def test_a_dumped_snapshot_is_read_back(tmp_path: Path) -> None:
    """A snapshot as text, written to a file, is read as an equal snapshot."""
    snapshot = PerformanceSnapshot.from_dict(DOCUMENT)
    path = tmp_path / "run.json"
    path.write_text(dump_snapshot(snapshot), "utf-8")
    assert read_snapshot(path) == snapshot


def test_the_text_of_a_snapshot() -> None:
    """It is the plain data as indented JSON, with one line break at the end."""
    snapshot = PerformanceSnapshot.from_dict(DOCUMENT)
    text = dump_snapshot(snapshot)
    assert json.loads(text) == snapshot.to_dict()
    assert text.startswith('{\n  "schema_version": 1,\n  "metadata": {\n    "run_id": "7",')
    assert text.endswith("\n  }\n}\n")
    assert list(json.loads(text)) == ["schema_version", "metadata", "metrics"]


def test_the_text_of_a_snapshot_is_ascii() -> None:
    """Characters of any language survive in any encoding."""
    text = dump_snapshot(PerformanceSnapshot.from_dict(DOCUMENT))
    assert text.isascii()
    assert json.loads(text)["metadata"]["tags"] == {"µ": "é"}


def test_absent_measurements_are_not_in_the_text() -> None:
    """Absent context is null."""
    document = json.loads(dump_snapshot(PerformanceSnapshot(Metrics(throughput=1.5))))
    assert document["metrics"] == {"throughput": 1.5}
    assert document["metadata"]["commit"] is None


_NUMBERS = st.floats(0, allow_nan=False, allow_infinity=False) | st.integers(0, 10**300)


@settings(max_examples=30)
@given(
    st.builds(
        PerformanceSnapshot,
        st.builds(
            Metrics,
            latency=st.none() | st.builds(LatencyMetrics, mean=_NUMBERS, p95=st.none() | _NUMBERS),
            throughput=_NUMBERS,
            cpu_percent=st.none() | st.floats(0, 100),
            custom=st.dictionaries(st.text(min_size=1).filter(lambda key: "." not in key), _NUMBERS),
        ),
        metadata=st.builds(
            SnapshotMetadata,
            run_id=st.text(min_size=1),
            branch=st.none() | st.text(min_size=1),
            tags=st.dictionaries(st.text(), st.text(), max_size=5),
        ),
    )
)
def test_any_snapshot_survives_as_text(snapshot: PerformanceSnapshot) -> None:
    """No digit, character or microsecond of a valid snapshot is lost in text."""
    assert PerformanceSnapshot.from_dict(json.loads(dump_snapshot(snapshot))) == snapshot
