"""A journal: what it holds, and going on with the batch that it is of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metrics_framework.batch import BatchMetrics
from metrics_framework.batch.disk import NameSet
from metrics_framework.batch.summary import load_summary
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, OutputError


def begin(path: Path, clock: ManualClock) -> None:
    """Do half of a batch of six files, in ten seconds, and be interrupted."""
    batch = BatchMetrics("b", journal=path, clock=clock)
    batch.start()
    batch.record_file("0", duration=1.0, samples=5)
    clock.advance(10)
    batch.record_error("1", "ValueError", "größe \udcff\n", 2.0)
    batch.record_skip("2", "empty")
    batch.close()


FILES = [str(number) for number in range(6)]


@pytest.fixture
def journal(tmp_path: Path, clock: ManualClock) -> Path:
    """Return the journal of a batch that was interrupted."""
    path = tmp_path / "state" / "b.jsonl"
    begin(path, clock)
    return path


@pytest.mark.parametrize("in_memory", [0, 1, 10_000])
def test_a_batch_is_gone_on_with(journal: Path, clock: ManualClock, in_memory: int) -> None:
    """What is left is known, and in the end everything is there once; the pause is nobody's time."""
    clock.advance(3600)
    batch = BatchMetrics(journal=journal, clock=clock, in_memory=in_memory)
    assert batch.batch_id == "b"
    assert batch.counts == (3, 1, 1, 1)
    assert list(batch.remaining(FILES)) == ["3", "4", "5"]
    batch.start()
    for name in batch.remaining(FILES):
        clock.advance(5)
        batch.record_file(name, duration=5.0, samples=1)
    batch.finish()
    summary = batch.summary()
    assert (summary.total_files, summary.processed_count) == (6, 4)
    assert summary.timing.total_duration == 25.0
    assert summary.timing.max_per_file == 5.0
    assert summary.start_time == "2026-01-01T00:00:00.000000Z"
    assert summary.end_time == "2026-01-01T01:00:25.000000Z"
    assert [file.filename for file in batch.files()] == FILES
    assert [file.error_message for file in batch.files()][1] == "größe \udcff\n"
    batch.close()
    again = BatchMetrics(journal=journal, clock=clock, in_memory=in_memory)
    assert again.summary() == summary
    assert list(again.remaining(FILES)) == []


def test_what_failed_may_be_done_again(journal: Path, clock: ManualClock) -> None:
    """With ``retry_failed`` the failures of before are forgotten, in the journal as well."""
    batch = BatchMetrics(journal=journal, retry_failed=True, clock=clock)
    assert batch.counts == (2, 1, 0, 1)
    assert next(batch.remaining(FILES)) == "1"
    batch.record_file("1", duration=1.0)
    batch.close()
    assert load_summary(journal)["errors"] == {"by_type": {}, "total": 0, "rate_percent": 0.0}
    assert load_summary(journal)["total_files"] == 3
    assert [path.name for path in journal.parent.iterdir()] == ["b.jsonl"]


def test_a_line_that_was_not_finished_is_written_over(journal: Path, clock: ManualClock) -> None:
    """Wherever the journal was cut, what was whole is there, and it can be gone on with."""
    content = journal.read_bytes()
    for size in range(len(content) + 1):
        journal.write_bytes(content[:size])
        batch = BatchMetrics("b", journal=journal, clock=clock)
        rows = [line for line in content[:size].split(b"\n")[:-1] if line.startswith(b"[")]
        assert batch.counts.files == len(rows)
        batch.record_file("new", duration=1.0)
        batch.close()
        assert load_summary(journal)["total_files"] == len(rows) + 1
        assert journal.read_bytes().endswith(b"null]\n")


def test_a_line_that_nobody_can_read_costs_its_file_only(
    journal: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are there, the file is left to do, and it is said."""
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[2:3] = [
        b"\0" * 80 + b"\n",
        b"[1, 2]\n",
        b'["x", "y", "z", 0, 0, "success", null, null, null]\n',
        b"7\n",
    ]
    journal.write_bytes(b"".join(lines))
    batch = BatchMetrics(journal=journal, clock=clock)
    assert batch.counts == (2, 0, 1, 1)
    assert next(batch.remaining(FILES)) == "0"
    assert [file.filename for file in batch.files()] == ["1", "2"]
    assert "lines=4" in caplog.text


@pytest.mark.parametrize("content", [b"hello\n", b"{}\n", b"[1]", b'{"batch_journal":2,"batch_id":"b"}\n'])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """Nobody's file is written over because it was named by mistake."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="is not the journal of a batch"):
        BatchMetrics(journal=path)
    assert path.read_bytes() == content


def test_a_journal_is_of_one_batch(journal: Path) -> None:
    """Another id is an error that names both."""
    with pytest.raises(InvalidInputError, match="of batch 'b', not of 'c'"):
        BatchMetrics("c", journal=journal)


def test_a_journal_is_used_once_at_a_time(journal: Path) -> None:
    """A second batch on it is refused as long as the first one is there."""
    first = BatchMetrics(journal=journal)
    with pytest.raises(InvalidInputError, match="is in use by another batch"):
        BatchMetrics(journal=journal)
    assert load_summary(journal)["total_files"] == 3
    first.close()
    BatchMetrics(journal=journal)


def test_a_journal_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    """A folder in its place, say."""
    with pytest.raises(OutputError, match="cannot open the journal"):
        BatchMetrics(journal=tmp_path)
    with pytest.raises(OutputError, match="cannot open the journal"):
        BatchMetrics(journal="a\0b")


def test_a_journal_says_what_its_columns_are(journal: Path) -> None:
    """The first line names the fields of the others, for whoever reads it without us."""
    head, start, first, *_ = map(json.loads, journal.read_bytes().splitlines())
    assert (head["batch_id"], start) == ("b", {"start": 1767225600.0})
    assert dict(zip(head["fields"], first, strict=True))["samples"] == 5


def test_stats_come_from_a_journal_or_an_export(journal: Path, clock: ManualClock, tmp_path: Path) -> None:
    """They are the same; an interrupted batch ends with its last file."""
    stats = load_summary(journal)
    assert stats["timing"]["total_duration_seconds"] == 10.0
    batch = BatchMetrics(journal=journal, clock=clock)
    batch.export_json(tmp_path / "out.json")
    exported = load_summary(tmp_path / "out.json")
    assert exported["errors"] == stats["errors"]
    (tmp_path / "small.json").write_text(json.dumps({"summary": exported}))
    assert load_summary(tmp_path / "small.json") == exported


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"summary": {}}', b'{"summary": 1}', b"\xff", b"[" * 100_000]
)
def test_stats_of_anything_else_are_an_error(tmp_path: Path, content: bytes) -> None:
    """Whatever it is, it is said in a sentence."""
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="neither the journal nor the JSON export of a batch"):
        load_summary(path)


def test_a_folder_has_no_summary(tmp_path: Path) -> None:
    """A folder can be opened but not read, which is an error that names it."""
    with pytest.raises(OutputError, match=rf"cannot read {str(tmp_path)!r}: Is a directory"):
        load_summary(tmp_path)


def test_names_are_found_again() -> None:
    """A name that was added is in, any other is not, also one that is no UTF-8."""
    names = NameSet()
    names.add(str(number) for number in range(1_000))
    names.add(["\udcff"])
    assert len(names) == 1_001
    assert all(str(number) in names for number in range(1_000))
    assert "\udcff" in names
    assert not any(str(number) in names for number in range(1_000, 2_000))
