"""Reading a telemetry file yields each event once, and reports bad lines by number."""

from __future__ import annotations

import gzip
import io
import json
import logging
import tracemalloc
from pathlib import Path

import pytest

from metrics_framework.errors import OutputError
from metrics_framework.telemetry import (
    Flaw,
    TelemetryFollower,
    TelemetrySession,
    read_projected_telemetry,
    read_telemetry,
    read_telemetry_manifest,
    telemetry_files,
)
from metrics_framework.telemetry import following as following_module
from metrics_framework.telemetry import reading as reading_module
from tests.metrics_framework.telemetry.made import event, line
from tests.metrics_framework.telemetry.peers import later_stormlog

SAMPLE = Path(__file__).parent / "data" / "telemetry_sample.jsonl"


@pytest.fixture
def flaws() -> list[Flaw]:
    """Return the flaws that are found."""
    return []


def write(path: Path, *lines: bytes) -> Path:
    """Write lines to a file."""
    path.write_bytes(b"".join(lines))
    return path


def test_a_file_is_read_as_it_is_written(flaws):
    """Each line is an event, in the order of the file."""
    assert list(read_telemetry(SAMPLE, flaws.append)) == [
        json.loads(one) for one in SAMPLE.read_text().splitlines()
    ]
    assert [record.timestamp_ns for record in read_projected_telemetry(str(SAMPLE), flaws.append)] == [
        event["timestamp_ns"] for event in read_telemetry(SAMPLE)
    ]
    assert flaws == []


def test_a_bad_line_is_reported_and_the_rest_is_read(tmp_path, flaws):
    """It is reported with its number, counting empty lines, and with the fault."""
    lines = [
        line(1),
        b"\n",
        b"{no\n",
        b"[1]\n",
        b"\xff\n",
        b"{}\n",
        b" \r\n",
        line(8),
        b'{"session_id": "s", "ti',
    ]
    path = write(tmp_path / "events", *lines)
    assert [record.timestamp_ns for record in read_projected_telemetry(path, flaws.append)] == [1, 8]
    assert [(flaw.line, flaw.reason.partition(": ")[0]) for flaw in flaws] == [
        (3, "is not JSON"),
        (4, "must be a JSON object, got [1]"),
        (5, "is not UTF-8"),
        (6, "projected telemetry record requires session_id"),
        (9, "is not JSON"),
    ]
    assert flaws[-1].reason.endswith("; the line is incomplete")
    assert str(flaws[0]).startswith(f"{path}, line 3: is not JSON: ")
    assert len(list(read_telemetry(path, lambda flaw: None))) == 3


def test_valid_json_is_read(tmp_path, flaws):
    """A byte order mark, carriage returns, line separators in a text, and a last line without end."""
    event = {"session_id": "s", "timestamp_ns": 1, "event_type": "x", "context": "a\u2028b\x85c"}
    text = json.dumps(event, ensure_ascii=False).encode()
    path = write(tmp_path / "events", b"\xef\xbb\xbf", text, b"\r\n", text)
    assert list(read_telemetry(path, flaws.append)) == [event, event]
    assert flaws == []


def test_huge_numbers_and_deep_nesting_are_flaws(tmp_path, flaws):
    """No line can crash the reader."""
    deep = b'{"a": ' * 100_000
    digits = b'{"a": ' + b"1" * 5_000 + b"}"
    nested = b'{"session_id": "s", "timestamp_ns": 1, "event_type": "x", "metadata": {"a": %s}}' % (
        b"[" * 480 + b"]" * 480
    )
    path = write(tmp_path / "events", deep, b"\n", digits, b"\n", nested, b"\n", line(4))
    assert [record.timestamp_ns for record in read_projected_telemetry(path, flaws.append)][-1] == 4
    assert {flaw.line for flaw in flaws} >= {1, 2}


def test_an_endless_line_needs_no_memory(tmp_path, flaws, monkeypatch):
    """A line beyond the limit is skipped and reported once."""
    monkeypatch.setattr(reading_module, "MAX_LINE_BYTES", 1_000)
    path = write(tmp_path / "events", line(1), b"x" * 10_000, b"\n", line(3))
    assert [record.timestamp_ns for record in read_projected_telemetry(path, flaws.append)] == [1, 3]
    assert [str(flaw) for flaw in flaws] == [f"{path}, line 2: is longer than 1,000 bytes"]


@pytest.mark.parametrize("name", ["events.jsonl.gz", "events.jsonl"])
def test_a_gzip_file_is_decompressed(tmp_path, flaws, name):
    """It is recognized by its content, not by its name, and may have several members."""
    path = write(tmp_path / name, gzip.compress(line(1)), gzip.compress(line(2)))
    assert [record.timestamp_ns for record in read_projected_telemetry(path, flaws.append)] == [1, 2]
    assert flaws == []


def test_a_truncated_gzip_file_is_read_as_far_as_possible(tmp_path, flaws):
    """The flaw names the last line that was read."""
    packed = gzip.compress(b"".join(line(number) for number in range(2_000)))
    path = write(tmp_path / "events.gz", packed[: len(packed) // 2])
    read = [record.timestamp_ns for record in read_projected_telemetry(path, flaws.append)]
    assert 0 < len(read) < 2_000
    assert read == list(range(len(read)))
    assert flaws[-1].line is None
    assert f"cannot be read after line {len(read)}" in str(flaws[-1])


def test_a_stream_is_read_and_left_open():
    """So a pipe can be read, compressed or not."""
    for data in (line(1), gzip.compress(line(1))):
        stream = io.BytesIO(data)
        assert [record.timestamp_ns for record in read_projected_telemetry(stream)] == [1]
        assert not stream.closed


def test_an_empty_file_has_no_events(tmp_path, flaws):
    """It is not an error."""
    assert list(read_telemetry(write(tmp_path / "events"), flaws.append)) == []
    assert flaws == []


@pytest.mark.parametrize("name", ["missing", "a\0b"])
def test_a_missing_file_is_an_error_at_once(tmp_path, name):
    """The call raises it, before the first event, and it names the path."""
    with pytest.raises(OutputError, match="cannot read"):
        read_telemetry(tmp_path / name)


def test_a_folder_without_segments_is_an_error(tmp_path):
    """The error names the pattern of segments."""
    with pytest.raises(OutputError, match=r"has no telemetry segments \(segment-\*\.jsonl\)"):
        read_telemetry(tmp_path)


def test_a_folder_is_its_segments_in_their_order(tmp_path, flaws):
    """Those in the manifest and newer ones; a name that leads out of the folder is ignored."""
    outside = write(tmp_path / "segment-000009.jsonl", line(9))
    folder = tmp_path / "telemetry"
    folder.mkdir()
    write(folder / "segment-000002.jsonl", line(2))
    write(folder / "segment-000001.jsonl.gz", gzip.compress(line(1)))
    write(folder / "segment-1000000.jsonl", line(4), line(5)[:20])
    write(folder / "segment-000003.jsonl", line(3))
    write(folder / "segment-000003.jsonl.gz", gzip.compress(line(3)))
    write(folder / "other.jsonl", line(7))
    names = ["segment-000001.jsonl", "segment-000002.jsonl", "../segment-000009.jsonl", str(outside), 3, ""]
    manifest = {"schema_version": 2, "segments": [{"filename": name} for name in names]}
    for manifested in (True, False):
        if manifested:
            (folder / "manifest.json").write_text(json.dumps(manifest))
        flaws.clear()
        read = [record.timestamp_ns for record in read_projected_telemetry(folder, flaws.append)]
        assert read == [1, 2, 3, 4]
        assert [flaw.line for flaw in flaws] == [2]
        if manifested:
            assert len(list(read_telemetry(folder / "manifest.json", flaws.append))) == 4
            (folder / "manifest.json").write_text("{half")


def test_a_segment_that_is_removed_meanwhile_is_reported(tmp_path, flaws):
    """The others are read."""
    for number in (1, 2, 3):
        write(tmp_path / f"segment-00000{number}.jsonl", line(number))
    records = read_projected_telemetry(tmp_path, flaws.append)
    assert next(records).timestamp_ns == 1
    (tmp_path / "segment-000002.jsonl").unlink()
    assert [record.timestamp_ns for record in records] == [3]
    assert "No such file" in str(flaws[0])


def test_flaws_are_logged_by_default(tmp_path, caplog):
    """The first ones are logged individually, then the number of the others."""
    path = write(tmp_path / "events", b"x\n" * 15)
    with caplog.at_level(logging.WARNING, logger="metrics_framework"):
        assert list(read_telemetry(path)) == []
    assert len(caplog.records) == reading_module.MAX_LOGGED_FLAWS + 1
    assert "line=1 " in caplog.text
    assert "lines=5" in caplog.text


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    """A file of many megabytes needs less than one."""
    path = write(tmp_path / "events", SAMPLE.read_bytes() * 60)
    assert path.stat().st_size > 6_000_000
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_telemetry(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 6_060
    assert peak < 1_000_000


WRITE = """
import json, sys
from stormlog.telemetry_sink import AppendOnlyTelemetrySink, TelemetrySinkConfig
sink = AppendOnlyTelemetrySink(TelemetrySinkConfig(
    sys.argv[1], flush_every_events=1, rollover_max_events=7, retention_max_files=3, write_rollups=False))
for number in range(40):
    sink.append({"session_id": "s", "timestamp_ns": number, "event_type": "sample"})
sink.close()
"""


def test_a_manifest_is_read(tmp_path):
    """It is found from the folder, the manifest itself or a segment beside it."""
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
def test_an_unreadable_manifest_is_none(tmp_path, text):
    """The segments are read without it."""
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    (tmp_path / "segment-000001.jsonl").write_bytes(line(1))
    assert read_telemetry_manifest(tmp_path) is None
    assert [path.name for path in telemetry_files(tmp_path)] == ["segment-000001.jsonl"]


def test_damaged_entries_of_a_manifest_are_left_out(tmp_path):
    """The others are read."""
    document = {"sessions": [3, {}, {"session_id": ""}, {"session_id": "a"}], "segments": {"filename": "x"}}
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    manifest = read_telemetry_manifest(tmp_path)
    assert manifest is not None
    assert manifest.sessions == (TelemetrySession("a", "incomplete", None, None),)
    assert manifest.segments == ()


@pytest.mark.heavy
def test_a_folder_that_stormlog_wrote_is_read(tmp_path: Path):
    """It has rollover and retention, which removed the oldest segment. Following it gives the same."""
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


GAP = b"\0" * 1000
GAPS = [
    (lambda a, b: GAP + a + b"\n" + b + b"\n", 0),
    (lambda a, b: a + GAP + b"\n" + GAP + b"\n" + b + b"\n", 0),
    (lambda a, b: a + GAP + b + GAP + b"\n", 0),
    (lambda a, b: a + b"\n" + a[:20] + GAP + b + b"\n", 1),
    (lambda a, b: a + b"\n" + GAP + a[20:] + GAP + a[:20] + GAP + b + b"\n", 1),
    (lambda a, b: a + b"\n" + GAP + b + b"\n" + a[:20] + GAP, 1),
]
"""Two events with gaps of null bytes, and how many lines have other parts that are not events."""


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize(("content", "bad_lines"), GAPS)
def test_a_gap_of_null_bytes_loses_no_event(tmp_path, monkeypatch, content, bad_lines, is_long):
    """Events before, between and after gaps are read, also if a gap is longer than a line may be."""
    if is_long:
        monkeypatch.setattr(reading_module, "MAX_LINE_BYTES", 700)
        monkeypatch.setattr(following_module, "MAX_LINE_BYTES", 700)
        monkeypatch.setattr(following_module, "_CHUNK_BYTES", 256)
    events = [event(session_id="a"), event(session_id="b")]
    path = tmp_path / "events.jsonl"
    path.write_bytes(content(*(json.dumps(one, separators=(",", ":")).encode() for one in events)))
    flaws: list[Flaw] = []
    assert list(read_telemetry(path, flaws.append)) == events
    assert len({flaw.line for flaw in flaws}) == bad_lines
    with TelemetryFollower(path, lambda flaw: None) as follower:
        found = [record.session_id for record in follower.poll()]
        assert found == ["a", "b"]
        assert list(follower.poll()) == []
