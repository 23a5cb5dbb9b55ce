"""`BatchMetrics.file`: what one file takes and how it ends."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from metrics_framework.batch import BatchMetrics, FileMetrics
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError


def only(batch: BatchMetrics) -> FileMetrics:
    """Return the only file of a batch."""
    (file,) = batch.files()
    return file


def test_a_file_is_timed(clock: ManualClock) -> None:
    """The details hold the duration of the block and the values set in it."""
    batch = BatchMetrics(clock=clock)
    with batch.file(Path("a/b.wfm")) as file:
        clock.advance(1.5)
        file.samples, file.measurements, file.memory_peak = 30, 2, 77
    end = 1767225601.5
    assert only(batch) == FileMetrics("a/b.wfm", end - 1.5, end, 1.5, 30, 2, "success", memory_peak=77)


def test_an_error_is_recorded_and_the_batch_continues(clock: ManualClock) -> None:
    """The error's type and message are recorded, with the duration until it was raised."""
    batch = BatchMetrics(clock=clock)
    with batch.file("a"):
        clock.advance(0.5)
        raise ValueError("too short")
    file = only(batch)
    assert (file.status, file.error_type, file.error_message) == ("error", "ValueError", "too short")
    assert file.duration == 0.5


def test_an_error_can_be_raised_after_recording() -> None:
    """With ``on_error="raise"`` an error is recorded and raised."""
    batch = BatchMetrics(on_error="raise")
    with pytest.raises(ValueError, match="too short"), batch.file("a"):
        raise ValueError("too short")
    assert batch.counts.errors == 1


def test_errors_in_skip_on_skip_a_file() -> None:
    """Such an error is the reason of a skipped file, even if other errors are raised."""
    batch = BatchMetrics(on_error="raise", skip_on=(FileNotFoundError,))
    with batch.file("a"):
        Path("/nowhere/at/all").read_bytes()
    file = only(batch)
    assert (file.status, file.error_type) == ("skipped", None)
    assert str(file.error_message).startswith("FileNotFoundError: ")


def test_a_block_can_skip_its_file() -> None:
    """The argument of ``skip`` is recorded as the reason, unless the block raises an error."""
    batch = BatchMetrics()
    with batch.file("a") as file:
        file.skip("empty")
    with batch.file("b") as file:
        file.skip("empty")
        raise ValueError
    first, second = batch.files()
    assert (first.status, first.error_message) == ("skipped", "empty")
    assert second.status == "error"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
def test_an_interrupted_file_is_not_recorded(error: type[BaseException]) -> None:
    """A BaseException that is not an Exception propagates, and the file is not recorded."""
    batch = BatchMetrics()
    with pytest.raises(error), batch.file("a"):
        raise error
    assert batch.counts.files == 0


def test_an_error_without_a_message_is_recorded() -> None:
    """If ``__str__`` raises, the recorded message is empty."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    batch = BatchMetrics()
    with batch.file("a"):
        raise Mute
    assert (only(batch).error_type, only(batch).error_message) == ("Mute", "")


def test_an_unknown_policy_is_rejected() -> None:
    """The error lists the valid values."""
    with pytest.raises(InvalidInputError, match="'ignore' is unknown: pass 'continue' or 'raise'"):
        BatchMetrics(on_error="ignore")  # type: ignore[arg-type]


# -- asyncio -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_concurrent_tasks_record_separate_files() -> None:
    """Each task records its own file; a cancelled task records none."""

    async def process(batch: BatchMetrics, number: int) -> None:
        async with batch.file(f"{number}") as file:
            file.samples = number
            await asyncio.sleep(0.01 if number < 90 else 60)
            if number % 10 == 9:
                raise ValueError

    async def main() -> BatchMetrics:
        batch = BatchMetrics()
        tasks = [asyncio.create_task(process(batch, number)) for number in range(100)]
        await asyncio.wait(tasks, timeout=1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return batch

    batch = asyncio.run(main())
    assert batch.counts == (90, 81, 9, 0)
    assert all(file.samples == int(file.filename) for file in batch.files() if file.status == "success")


# -- memory --------------------------------------------------------------------------------------------


def test_peak_memory_is_measured_per_file() -> None:
    """The peak above the memory at the start is recorded; the next file starts again."""
    batch = BatchMetrics(track_memory=True)
    with batch.file("large"):
        _ = bytes(30_000_000)
    with batch.file("small"):
        _ = bytes(int("10000"))
    large, small = (file.memory_peak or 0 for file in batch.files())
    assert 30_000_000 <= large < 31_000_000
    assert 10_000 <= small < 200_000


def test_concurrent_files_miss_no_memory_peak() -> None:
    """A file that starts does not reset the peak of another one that is running."""
    batch = BatchMetrics(track_memory=True)
    grown, begun = threading.Event(), threading.Event()

    def long() -> None:
        with batch.file("long"):
            data = bytes(20_000_000)
            del data
            grown.set()
            begun.wait(10)

    thread = threading.Thread(target=long)
    thread.start()
    grown.wait(10)
    with batch.file("short"):
        begun.set()
    thread.join()
    peaks = {file.filename: file.memory_peak for file in batch.files()}
    assert (peaks["long"] or 0) >= 20_000_000
    assert (peaks["short"] or 0) < 1_000_000


def test_tracing_stops_with_the_file_unless_it_was_on_before() -> None:
    """Tracing, which is slow, is on only while needed, and stays on if the application started it."""
    import tracemalloc

    def trace(batch: Any) -> bool:
        with batch.file("a"):
            assert tracemalloc.is_tracing()
        return tracemalloc.is_tracing()

    batch = BatchMetrics(track_memory=True)
    assert not trace(batch)
    tracemalloc.start()
    try:
        assert trace(batch)
    finally:
        tracemalloc.stop()
