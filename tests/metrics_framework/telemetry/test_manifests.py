"""Manifests of folders of telemetry, as Stormlog writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metrics_framework.telemetry import (
    TelemetryFollower,
    TelemetrySession,
    read_projected_telemetry,
    read_telemetry_manifest,
    telemetry_files,
)
from tests.metrics_framework.telemetry.made import line
from tests.metrics_framework.telemetry.peers import later_stormlog

WRITE = """
import json, sys
from stormlog.telemetry_sink import AppendOnlyTelemetrySink, TelemetrySinkConfig
sink = AppendOnlyTelemetrySink(TelemetrySinkConfig(
    sys.argv[1], flush_every_events=1, rollover_max_events=7, retention_max_files=3, write_rollups=False))
for number in range(40):
    sink.append({"session_id": "s", "timestamp_ns": number, "event_type": "sample"})
sink.close()
"""


def test_what_a_manifest_says_is_read(tmp_path):
    """Its sessions and its segments, from the folder, the manifest itself or a segment beside it."""
    document = {
        "schema_version": 2,
        "format": "stormlog.append_only_telemetry_sink",
        "sessions": [
            {"session_id": "a", "status": "completed", "started_at_ns": 1, "ended_at_ns": 2},
            {"session_id": "b", "status": "running", "started_at_ns": 3, "ended_at_ns": None},
        ],
        "segments": [{"filename": "segment-000001.jsonl", "event_count": 1, "closed": True}],
    }
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(document))
    manifest = read_telemetry_manifest(tmp_path)
    assert manifest is not None
    assert manifest.sessions == (
        TelemetrySession("a", "completed", 1, 2),
        TelemetrySession("b", "running", 3, None),
    )
    assert manifest.segments == ("segment-000001.jsonl",)
    assert (
        read_telemetry_manifest(path)
        == read_telemetry_manifest(tmp_path / "segment-000001.jsonl")
        == manifest
    )


@pytest.mark.parametrize("text", [None, "", "[]", "{", "[" * 100_000, '"x"'])
def test_a_manifest_that_cannot_be_read_is_none(tmp_path, text):
    """The segments are read without it."""
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    (tmp_path / "segment-000001.jsonl").write_bytes(line(1))
    assert read_telemetry_manifest(tmp_path) is None
    assert [path.name for path in telemetry_files(tmp_path)] == ["segment-000001.jsonl"]


def test_what_is_damaged_in_a_manifest_is_left_out(tmp_path):
    """The rest of it counts."""
    document = {"sessions": [3, {}, {"session_id": ""}, {"session_id": "a"}], "segments": {"filename": "x"}}
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    manifest = read_telemetry_manifest(tmp_path)
    assert manifest is not None
    assert manifest.sessions == (TelemetrySession("a", "incomplete", None, None),)
    assert manifest.segments == ()


@pytest.mark.heavy
def test_a_folder_that_stormlog_wrote_is_read(tmp_path: Path):
    """With its rollover and its retention, which has removed the oldest; following it gives the same."""
    later_stormlog(WRITE, tmp_path)
    manifest = read_telemetry_manifest(tmp_path)
    assert manifest is not None
    assert [session.status for session in manifest.sessions] == ["completed"]
    assert [path.name for path in telemetry_files(tmp_path)] == list(manifest.segments)
    read = [record.timestamp_ns for record in read_projected_telemetry(tmp_path)]
    assert read == list(range(read[0], 40))
    assert read[0] > 0
    with TelemetryFollower(tmp_path) as follower:
        assert [record.timestamp_ns for record in follower.poll()] == read
