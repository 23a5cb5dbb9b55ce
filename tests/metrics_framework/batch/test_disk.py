"""Journals: their contents, and resuming a batch."""

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
    """Process half of a batch of six files in ten seconds, then stop as if interrupted."""
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
    """Return the journal of an interrupted batch."""
    path = tmp_path / "state" / "b.jsonl"
    begin(path, clock)
    return path


@pytest.mark.parametrize("in_memory", [0, 1, 10_000])
def test_an_interrupted_batch_can_be_resumed(journal: Path, clock: ManualClock, in_memory: int) -> None:
    """Remaining files are known, each file is recorded once, and the pause does not count as batch time."""
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


def test_failed_files_can_be_retried(journal: Path, clock: ManualClock) -> None:
    """With ``retry_failed`` earlier failures are removed, also from the journal."""
    batch = BatchMetrics(journal=journal, retry_failed=True, clock=clock)
    assert batch.counts == (2, 1, 0, 1)
    assert next(batch.remaining(FILES)) == "1"
    batch.record_file("1", duration=1.0)
    batch.close()
    assert load_summary(journal).to_dict()["errors"] == {"by_type": {}, "total": 0, "rate_percent": 0.0}
    assert load_summary(journal).to_dict()["total_files"] == 3
    assert [path.name for path in journal.parent.iterdir()] == ["b.jsonl"]


@pytest.mark.slow
def test_an_incomplete_line_is_overwritten(journal: Path, clock: ManualClock) -> None:
    """Wherever the journal was cut, complete lines are read and the batch can be resumed."""
    content = journal.read_bytes()
    for size in range(len(content) + 1):
        journal.write_bytes(content[:size])
        batch = BatchMetrics("b", journal=journal, clock=clock)
        rows = [line for line in content[:size].split(b"\n")[:-1] if line.startswith(b"[")]
        assert batch.counts.files == len(rows)
        batch.record_file("new", duration=1.0)
        batch.close()
        assert load_summary(journal).to_dict()["total_files"] == len(rows) + 1
        assert journal.read_bytes().endswith(b"null]\n")


def test_an_unreadable_line_loses_its_file_only(
    journal: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The other files are read, this one is left to do, and the line is logged."""
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


@pytest.mark.parametrize("time", ["null", "-1", "1e400", "1e300", "9" * 400, "253402300800", "true"])
def test_an_impossible_time_loses_its_file_only(journal: Path, clock: ManualClock, time: str) -> None:
    """A damaged time of a file or of the batch breaks neither the summary nor the exports."""
    before = load_summary(journal).to_dict()
    with journal.open("a") as file:
        file.write(f'["bad",{time},1.0,0,0,"success",null,null,null]\n{{"start":{time},"finish":{time}}}\n')
    assert load_summary(journal).to_dict() == before
    batch = BatchMetrics(journal=journal, clock=clock)
    assert list(batch.remaining(["0", "bad"])) == ["bad"]
    batch.export_json(journal.with_name("out.json"))
    assert len(json.loads(journal.with_name("out.json").read_text())["files"]) == 3


@pytest.mark.parametrize("content", [b"hello\n", b"{}\n", b"[1]", b'{"batch_journal":2,"batch_id":"b"}\n'])
def test_a_file_that_is_not_a_journal_is_not_overwritten(tmp_path: Path, content: bytes) -> None:
    """Naming another file by mistake is an error, and the file is unchanged."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="is not the journal of a batch"):
        BatchMetrics(journal=path)
    assert path.read_bytes() == content


def test_a_journal_belongs_to_one_batch(journal: Path) -> None:
    """Another ID is an error that names both."""
    with pytest.raises(InvalidInputError, match="of batch 'b', not of 'c'"):
        BatchMetrics("c", journal=journal)


def test_a_journal_is_locked(journal: Path) -> None:
    """A second batch with the same journal is rejected while the first is open."""
    first = BatchMetrics(journal=journal)
    with pytest.raises(InvalidInputError, match="is in use by another batch"):
        BatchMetrics(journal=journal)
    assert load_summary(journal).to_dict()["total_files"] == 3
    first.close()
    BatchMetrics(journal=journal)


def test_a_journal_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    """For example, if a folder has its name."""
    with pytest.raises(OutputError, match="cannot open the journal"):
        BatchMetrics(journal=tmp_path)
    with pytest.raises(OutputError, match="cannot open the journal"):
        BatchMetrics(journal="a\0b")


def test_a_journal_names_its_fields(journal: Path) -> None:
    """The first line names the fields of the other lines, for other programs."""
    head, start, first, *_ = map(json.loads, journal.read_bytes().splitlines())
    assert (head["batch_id"], start) == ("b", {"start": 1767225600.0})
    assert dict(zip(head["fields"], first, strict=True))["samples"] == 5


def test_a_journal_and_its_export_have_one_summary(journal: Path, clock: ManualClock, tmp_path: Path) -> None:
    """An interrupted batch ends with its last file."""
    stats = load_summary(journal).to_dict()
    assert stats["timing"]["total_duration_seconds"] == 10.0
    batch = BatchMetrics(journal=journal, clock=clock)
    batch.export_json(tmp_path / "out.json")
    exported = load_summary(tmp_path / "out.json").to_dict()
    assert exported["errors"] == stats["errors"]
    (tmp_path / "small.json").write_text(json.dumps({"summary": exported}))
    assert load_summary(tmp_path / "small.json").to_dict() == exported


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"summary": {}}', b'{"summary": 1}', b"\xff", b"[" * 100_000]
)
def test_the_summary_of_another_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    """The error is one sentence for any content."""
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="neither the journal nor the JSON export of a batch"):
        load_summary(path)


@pytest.mark.parametrize("layout", ["indented", "compact"])
@pytest.mark.parametrize("in_memory", [0, 10_000])
def test_the_summary_of_an_export_is_that_of_its_files(tmp_path: Path, layout: str, in_memory: int) -> None:
    """Times per file are not those that the export rounds to milliseconds, and include the percentiles."""
    batch = BatchMetrics("b", clock=ManualClock())
    batch.record_skip('      "status": "error"\n      "duration_seconds": 7,\n')
    for number in range(1, 1_001):
        batch.record_file(f"größe {number}", duration=number / 1e7)
        batch.record_error("bad", "ValueError", "", 5.0)
    path = tmp_path / "out.json"
    batch.export_json(path)
    if layout == "compact":
        path.write_text(json.dumps(json.loads(path.read_text())))
    timing, expected = load_summary(path, in_memory).timing, batch.summary().timing
    assert vars(timing) == pytest.approx(
        {**vars(expected), "total_duration": 0.05}, rel=1e-12 if in_memory else 0.01
    )


def test_a_folder_has_no_summary(tmp_path: Path) -> None:
    """A folder can be opened but not read, which is an error that names it."""
    with pytest.raises(OutputError, match=rf"cannot read {str(tmp_path)!r}: Is a directory"):
        load_summary(tmp_path)


def test_a_name_set_contains_added_names_only() -> None:
    """Also names that are not UTF-8."""
    names = NameSet()
    names.add(str(number) for number in range(1_000))
    names.add(["\udcff"])
    assert len(names) == 1_001
    assert all(str(number) in names for number in range(1_000))
    assert "\udcff" in names
    assert not any(str(number) in names for number in range(1_000, 2_000))
