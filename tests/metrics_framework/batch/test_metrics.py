"""`BatchMetrics`: what it keeps, where, and what it answers."""

from __future__ import annotations

import csv
import json
import os
import pickle
import stat
import threading
from collections.abc import Iterator
from math import inf, nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework import MetricsSystem
from metrics_framework.batch import BatchMetrics, FileMetrics, get_batch_stats
from metrics_framework.batch.models import format_timestamp
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError


@pytest.fixture
def batch(clock: ManualClock) -> BatchMetrics:
    """Return a batch of ten seconds with a file of each outcome."""
    batch = BatchMetrics("nightly", clock=clock)
    batch.start()
    batch.record_file("a.wfm", duration=1.0, samples=100, measurements=2, memory_peak=5)
    batch.record_file("b.wfm", duration=3.0, samples=300)
    batch.record_error("c.wfm", "ValueError", "too short", 0.5)
    batch.record_skip("d.wfm", "empty")
    clock.advance(10)
    batch.finish()
    return batch


def fill(batch: BatchMetrics, files: int) -> None:
    """Record files; every tenth fails."""
    for number in range(files):
        if number % 10 == 9:
            batch.record_error(f"{number}", f"Error{number % 3}", "broken", 9.0)
        else:
            batch.record_file(f"{number}", duration=0.001 * (number + 1), samples=number)


def test_a_summary_totals_all_files(batch: BatchMetrics) -> None:
    """Counts, times, rates and errors are those of the files, under the names of tracekit."""
    assert batch.summary().to_dict() == {
        "batch_id": "nightly",
        "total_files": 4,
        "processed_count": 2,
        "error_count": 1,
        "skip_count": 1,
        "success_rate_percent": 50.0,
        "timing": {
            "total_duration_seconds": 10.0,
            "average_per_file_seconds": 2.0,
            "min_per_file_seconds": 1.0,
            "max_per_file_seconds": 3.0,
            "median_per_file_seconds": 2.0,
            "stddev_per_file_seconds": 1.414,
        },
        "throughput": {
            "files_per_second": 0.2,
            "samples_per_second": 40.0,
            "measurements_per_second": 0.0,
            "bytes_per_second": 0.0,
        },
        "errors": {"by_type": {"ValueError": 1}, "total": 1, "rate_percent": 25.0},
        "start_time": "2026-01-01T00:00:00.000000Z",
        "end_time": "2026-01-01T00:00:10.000000Z",
    }


def test_files_yields_the_recorded_details(batch: BatchMetrics) -> None:
    """Files come in the order of recording, with the start computed from end and duration."""
    first, *_, last = batch.files()
    now = 1767225600.0
    assert first == FileMetrics("a.wfm", now - 1, now, 1.0, 100, 2, "success", None, None, 5)
    assert last == FileMetrics("d.wfm", now, now, 0.0, 0, 0, "skipped", None, "empty", None)
    assert batch.get_file_metrics() == [file.to_dict() for file in batch.files()]


def test_get_batch_stats_checks_the_batch_id(batch: BatchMetrics) -> None:
    """Another ID is an error that names both."""
    assert get_batch_stats("nightly", batch) == batch.summary().to_dict()
    with pytest.raises(InvalidInputError, match="Batch ID mismatch: expected daily, got nightly"):
        get_batch_stats("daily", batch)


def test_a_batch_without_an_id_gets_a_unique_one() -> None:
    """Two batches without an ID have different ones."""
    assert BatchMetrics().batch_id != BatchMetrics().batch_id


@given(st.floats(min_value=-6e10, max_value=2e11, allow_nan=False))
def test_timestamps_equal_those_of_strftime(seconds: float) -> None:
    """Timestamps are ISO 8601 in UTC with six decimals, rounded half to even."""
    from datetime import UTC, datetime

    moment = datetime.fromtimestamp(seconds, tz=UTC)
    assert format_timestamp(seconds) == moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"


# -- memory and disk -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("in_memory", [0, 1, 7, 999, 1_000])
@pytest.mark.parametrize("journaled", [False, True])
def test_rows_beyond_the_memory_limit_are_on_disk(
    tmp_path: Path, clock: ManualClock, in_memory: int, journaled: bool
) -> None:
    """Details, counts, sums, minimum and maximum are equal; the median is accurate to 1 %."""
    whole = BatchMetrics("b", clock=clock)
    journal = tmp_path / "journal" if journaled else None
    spilled = BatchMetrics("b", clock=clock, in_memory=in_memory, journal=journal)
    for each in (whole, spilled):
        fill(each, 2_500)
    assert list(spilled.files()) == list(whole.files())
    expected, summary = whole.summary(), spilled.summary()
    assert summary.throughput.samples_per_second == pytest.approx(expected.throughput.samples_per_second)
    timing, exact = summary.timing, expected.timing
    assert (timing.min_per_file, timing.max_per_file) == (exact.min_per_file, exact.max_per_file)
    assert timing.total_duration == pytest.approx(exact.total_duration, rel=1e-12)
    assert timing.average_per_file == pytest.approx(exact.average_per_file, rel=1e-12)
    assert timing.stddev_per_file == pytest.approx(exact.stddev_per_file, rel=1e-9)
    assert timing.median_per_file == pytest.approx(exact.median_per_file, rel=0.01)
    assert summary.errors == expected.errors
    assert spilled.counts == whole.counts == (2_500, 2_250, 250, 0)
    assert spilled.lost == 0


def test_values_on_disk_are_converted() -> None:
    """A path becomes a string and a number of another library a number; JSON and CSV do not change."""
    from fractions import Fraction

    files = [BatchMetrics(in_memory=size) for size in (0, 10)]
    for batch in files:
        batch.record_file(Path("a/b"), duration=Fraction(1, 2), error_message=(1, 2))  # type: ignore[arg-type]
    (spilled,) = files[0].files()
    assert (spilled.filename, spilled.duration, spilled.error_message) == ("a/b", 0.5, "(1, 2)")
    (kept,) = files[1].files()
    assert kept.filename == Path("a/b")


def test_values_that_cannot_be_added_fail_the_summary() -> None:
    """Samples that cannot be added raise in the summary, not when recorded, and nothing else is lost."""
    for in_memory in (0, 10):
        batch = BatchMetrics(in_memory=in_memory)
        batch.record_file("a", duration=1.0, samples="many")  # type: ignore[arg-type]
        batch.record_file("b", duration=1.0, samples=2)
        with pytest.raises(TypeError, match="unsupported operand"):
            batch.summary()
        assert batch.counts.files == 2


def test_recording_from_threads_loses_no_file() -> None:
    """Eight threads record while another reads; each file is counted, in the order of its thread."""
    batch = BatchMetrics(in_memory=50)
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            counts = batch.counts
            assert counts.files == counts.processed + counts.errors
            assert sum(1 for _ in batch.files()) >= counts.files

    def record(thread: int) -> None:
        for number in range(1_000):
            batch.record_file(f"{thread}/{number}", duration=1.0, samples=1)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=record, args=[thread]) for thread in range(8)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert batch.counts == (8_000, 8_000, 0, 0)
    assert batch.summary().timing.total_duration == 8_000.0
    names = [file.filename for file in batch.files()]
    assert len(set(names)) == 8_000
    for thread in range(8):
        own = [name for name in names if name.startswith(f"{thread}/")]
        assert own == [f"{thread}/{number}" for number in range(1_000)]


def test_write_errors_lose_details_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, clock: ManualClock
) -> None:
    """The batch continues, its totals are exact, and the loss is logged once and at the export."""
    batch = BatchMetrics("b", clock=clock, in_memory=10, spill_folder=tmp_path / "missing")
    fill(batch, 100)
    assert batch.counts == (100, 90, 10, 0)
    assert batch.summary().timing.max_per_file == 0.099
    assert batch.lost == 100 - sum(1 for _ in batch.files()) > 80
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    batch.export_csv(tmp_path / "out.csv")
    assert f"files={batch.lost}" in caplog.text


def test_writing_resumes_when_the_disk_has_space(tmp_path: Path) -> None:
    """Details recorded after the disk has space again are kept."""
    folder = tmp_path / "later"
    batch = BatchMetrics(in_memory=10, spill_folder=folder)
    fill(batch, 50)
    lost = batch.lost
    folder.mkdir()
    fill(batch, 50)
    assert 0 < lost < 50
    assert batch.lost == lost
    assert sum(1 for _ in batch.files()) == 100 - lost


def test_a_closed_batch_writes_to_no_file(tmp_path: Path) -> None:
    """Its totals continue, its details do not, and a file that reuses the descriptor is unchanged."""
    batch = BatchMetrics(in_memory=5, journal=tmp_path / "journal")
    fill(batch, 20)
    batch.close()
    batch.close()
    with (tmp_path / "other").open("w+b") as other:
        fill(batch, 20)
        assert other.read() == b""
    assert batch.counts.files == 40
    assert (tmp_path / "journal").read_bytes().count(b"\n[") == 20
    with pytest.raises(OSError, match="Bad file descriptor"):
        list(batch.files())


# -- exports -------------------------------------------------------------------------------------------


def test_an_export_is_atomic(batch: BatchMetrics, tmp_path: Path) -> None:
    """A failed export leaves the old file and no other; a successful one keeps the file mode."""
    path = tmp_path / "out.json"
    path.write_text("before")
    path.chmod(0o640)
    batch.record_file("odd", duration=1.0, error_message={(1,): 2})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        batch.export_json(path)
    assert path.read_text() == "before"
    batch.export_csv(path)
    assert path.read_text().startswith("filename,")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_an_export_follows_links_and_writes_to_pipes(batch: BatchMetrics, tmp_path: Path) -> None:
    """A link stays a link, and a file that is not regular, such as a pipe, is written directly."""
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(target)
    batch.export_json(link)
    assert link.is_symlink()
    assert json.loads(target.read_text())["summary"]["total_files"] == 4
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    batch.export_json(pipe)
    reader.join()
    assert read == [target.read_text()]


def test_an_export_to_a_missing_folder_raises_file_not_found(batch: BatchMetrics, tmp_path: Path) -> None:
    """The FileNotFoundError names the path that the caller passed."""
    with pytest.raises(FileNotFoundError) as caught:
        batch.export_json(tmp_path / "missing" / "out.json")
    assert caught.value.filename == str(tmp_path / "missing" / "out.json")


def test_an_empty_batch_has_json_and_no_csv(tmp_path: Path) -> None:
    """The JSON has an empty list, and no CSV file is written."""
    batch = BatchMetrics("b")
    batch.export_json(tmp_path / "out.json")
    batch.export_csv(tmp_path / "out.csv")
    document = json.loads((tmp_path / "out.json").read_text())
    assert (document["summary"]["total_files"], document["files"]) == (0, [])
    assert not (tmp_path / "out.csv").exists()


def test_csv_and_json_hold_the_same_files(batch: BatchMetrics, tmp_path: Path) -> None:
    """Every file is in both, under the same names."""
    batch.export_json(tmp_path / "out.json")
    batch.export_csv(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    files = json.loads((tmp_path / "out.json").read_text())["files"]
    assert rows == [
        {key: "" if value is None else str(value) for key, value in file.items()} for file in files
    ]


# -- the system ----------------------------------------------------------------------------------------


def test_a_batch_records_into_its_system(clock: ManualClock) -> None:
    """Times, outcomes and counters of the files are in the snapshot of the system."""
    system = MetricsSystem(clock=clock)
    batch = BatchMetrics("b", system=system, clock=clock)
    batch.record_file("a", duration=0.2, samples=10, measurements=3)
    batch.record_error("b", "ValueError", "", 0.4)
    batch.record_skip("c")
    clock.advance(2)
    metrics = system.snapshot(tags={"batch": "b"}).metrics
    assert metrics.latency is not None
    assert (metrics.latency.p50, metrics.latency.p99) == (200.0, 400.0)
    assert metrics.throughput == 1.0
    custom = metrics.custom
    assert custom["operation:batch/file/success_rate"] == 0.5
    assert (custom["batch/file/samples"], custom["batch/file/measurements"]) == (10, 3)
    assert custom["batch/file/skipped"] == 1


@pytest.mark.parametrize("in_memory", [0, 100, 10_000])
def test_a_summary_has_percentiles_of_all_files(in_memory: int) -> None:
    """They are nearest ranks of the files that succeeded, within 1 % beyond the files in memory."""
    batch = BatchMetrics(in_memory=in_memory)
    for number in range(1_000, 0, -1):
        batch.record_file("a", duration=number / 1e6)
        batch.record_error("b", "ValueError", "", 5.0)
    timing = batch.summary().timing
    found = (timing.p50_per_file, timing.p95_per_file, timing.p99_per_file)
    assert found == pytest.approx((500e-6, 950e-6, 990e-6), rel=1e-12 if in_memory >= 10_000 else 0.01)
    assert timing.min_per_file <= found[0] <= found[1] <= found[2] <= timing.max_per_file
    assert not any(key.startswith("p") for key in timing.to_dict())  # the exports are those of tracekit


@pytest.mark.parametrize("in_memory", [0, 10_000])
@pytest.mark.parametrize(
    ("durations", "average", "highest"),
    [
        ([inf, 1.0, 2.0], inf, inf),
        ([inf, inf], inf, inf),
        ([1e308, 1e308], 1e308, 1e308),
        ([nan, 1.0, -inf, -1.0], 1.0, 1.0),
        ([10**300, 1], 5e299, 10**300),
        ([1e18], 1e18, 1e18),
    ],
)
def test_an_absurd_duration_does_not_break_the_summary(
    in_memory: int, durations: list[float], average: float, highest: float
) -> None:
    """Every file is counted, and the summary is as infinite as its files."""
    batch = BatchMetrics(in_memory=in_memory)
    for duration in durations:
        batch.record_file("a", duration=duration)
    summary = batch.summary()
    assert summary.processed_count == len(durations)
    timing = summary.timing
    assert (timing.average_per_file, timing.max_per_file) == pytest.approx((average, highest))
    assert timing.min_per_file <= timing.p50_per_file <= timing.p99_per_file <= timing.max_per_file
    assert summary.to_dict()["total_files"] == len(durations)


@pytest.mark.parametrize("in_memory", [0, 10_000])
def test_a_resumed_batch_is_whole_in_its_system(tmp_path: Path, clock: ManualClock, in_memory: int) -> None:
    """The snapshot of a later session has the files of earlier sessions, as the summary does."""
    journal = tmp_path / "journal"
    first = BatchMetrics(journal=journal, clock=clock, in_memory=in_memory)
    for number in range(1, 100):
        first.record_file(str(number), duration=number / 1e3, samples=2)
    first.record_error("bad", "ValueError", "", 5.0)
    first.close()
    system = MetricsSystem(clock=clock)
    batch = BatchMetrics(journal=journal, system=system, clock=clock, in_memory=in_memory)
    batch.record_file("100", duration=0.1, samples=2)
    batch.record_skip("101")
    clock.advance(1)
    metrics = system.snapshot().metrics
    assert metrics.latency is not None
    assert (metrics.latency.p50, metrics.latency.p95) == pytest.approx((51.0, 96.0), rel=0.01)
    assert metrics.custom["operation:batch/file/success_rate"] == pytest.approx(100 / 101)
    assert metrics.custom["batch/file/samples"] == 200


def test_errors_of_the_system_do_not_affect_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    """A duration that the timer rejects is recorded in the batch, and the error is logged."""
    batch = BatchMetrics(system=MetricsSystem())
    batch.record_file("a", duration=float("nan"))
    assert batch.counts.processed == 1
    assert "batch not recorded into its system" in caplog.text


# -- processes -----------------------------------------------------------------------------------------


def test_a_batch_cannot_be_pickled() -> None:
    """The error names the alternative."""
    with pytest.raises(TypeError, match=r"use batch\.map"):
        pickle.dumps(BatchMetrics())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_recording_in_a_forked_child_is_an_error() -> None:
    """Recording in a child of the process that owns the batch raises an error there."""
    batch = BatchMetrics()
    child = os.fork()
    if child == 0:
        try:
            batch.record_file("a", duration=1.0)
        except InvalidInputError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert batch.counts.files == 0


@pytest.mark.heavy  # for the same reason as the next test
def test_a_signal_handler_can_record_and_read() -> None:
    """A handler that interrupts a write to disk neither blocks nor loses a file."""
    import signal

    batch = BatchMetrics(in_memory=3)
    handled = 0

    def handle(*_: object) -> None:
        nonlocal handled
        handled += 1
        batch.record_skip(f"handler {handled}")
        assert batch.counts.skipped == handled
        assert batch.summary().skip_count == handled
        signal.setitimer(signal.ITIMER_REAL, 0.0005)

    before = signal.signal(signal.SIGALRM, handle)
    batch.record_file("first", duration=1.0)
    batch.summary()  # imports lazy modules before the test
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
    try:
        fill(batch, 3_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert handled > 10
    assert batch.counts == (3_001 + handled, 2_701, 300, handled)
    assert sum(1 for _ in batch.files()) == 3_001 + handled


@pytest.mark.heavy  # so it never runs under coverage, whose lock such an exception may leave held
@pytest.mark.usefixtures("no_gc_callbacks")
def test_an_exception_of_a_signal_handler_loses_no_other_file(tmp_path: Path) -> None:
    """Wherever Ctrl-C interrupts recording, its file is recorded once or not at all, and all others once."""
    import signal

    class Stopped(Exception):
        pass

    def handle(*_: object) -> None:
        raise Stopped

    def interrupted(batch: BatchMetrics) -> Iterator[int]:
        for number in range(2_000):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + number % 60))
                    batch.record_file(f"{number}", duration=1.0)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Stopped:
                yield number

    before = signal.signal(signal.SIGALRM, handle)
    try:
        for journal in (None, tmp_path / "journal"):
            batch = BatchMetrics(in_memory=2, journal=journal)
            for number in range(-5, 0):
                batch.record_file(f"{number}", duration=1.0)  # the temporary file exists from now on
            stopped = set()
            try:
                stopped = set(interrupted(batch))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            names = [file.filename for file in batch.files()]
            assert len(names) == len(set(names)) == batch.counts.files
            assert {str(number) for number in range(2_000) if number not in stopped} <= set(names)
            assert batch.summary().timing.total_duration == len(names)
            assert len(stopped) > 20
    finally:
        signal.signal(signal.SIGALRM, before)
