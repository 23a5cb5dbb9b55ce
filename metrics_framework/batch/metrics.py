"""Metrics of a batch job: a file at a time while it runs, a summary, JSON and CSV at its end."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from metrics_framework.batch.disk import Journal, Spill
from metrics_framework.batch.export import write_csv, write_json
from metrics_framework.batch.feed import Feed
from metrics_framework.batch.files import FileRun, Policy
from metrics_framework.batch.models import BatchMetricsSummary, FileMetrics
from metrics_framework.batch.records import Records
from metrics_framework.batch.resume import Earlier
from metrics_framework.batch.rows import Counts, to_metrics
from metrics_framework.batch.summary import summarize
from metrics_framework.batch.track import Track
from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError
from metrics_framework.log import log_event
from metrics_framework.protocols import MetricsSystem
from metrics_framework.validation import check_choice

if TYPE_CHECKING:
    from metrics_framework.batch.pool import FileResult

T = TypeVar("T")
R = TypeVar("R")

IN_MEMORY = 10_000
"""How many files' details are kept in memory by default."""

_here = os.getpid()  # asking the system for each file would be a fifth of what recording one takes


def _begin_in_child() -> None:
    global _here  # noqa: PLW0603 - there is one process
    _here = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)


class BatchMetrics:
    """Collects the metrics of a batch job; from any thread, also from signal handlers.

    A context manager that starts and finishes the batch. Counts, sums, the fastest and the slowest file are
    exact, however many files there are. The median and the standard deviation are exact up to ``in_memory``
    files, from then on the median is within 1 %, and details go to the disk: numbers and text as they are,
    anything else as its text. Where the disk refuses details, they are lost and `lost` says how many; the
    batch goes on and its totals stay right.

    Args:
        batch_id: What the batch is called; made up by default.
        system: Where every file is recorded, too, so that the batch ends in a snapshot: in a timer, as a
            success or failure of an operation, and in counters of samples, measurements and skipped files.
        operation: The name of the timer and the operation, with which those of the counters begin.
        on_error: What `file` does with an error once it is recorded: ``"continue"`` keeps it from going on,
            ``"raise"`` does not.
        skip_on: Errors for which a file is skipped and has not failed.
        track_memory: Whether to look at the memory of each file that `file` or `map` measures.
        in_memory: How many files' details to keep in memory.
        spill_folder: Where the others' go; the system's folder for temporary files by default.
        journal: A file that they go to instead, each at once, and that outlives the process. If it exists,
            the batch that it holds is gone on with: `remaining` knows what is left to do.
        retry_failed: Whether a batch that is gone on with forgets which files failed.
        clock: Where time comes from.

    Attributes:
        batch_id: What the batch is called.
        skip_on: Errors for which a file is skipped.
        on_error: What `file` does with an error.
        track_memory: Whether the memory of each file is looked at.
        clock: Where time comes from.

    Raises:
        InvalidInputError: If ``on_error`` is unknown, the journal is that of another batch or no journal, or
            it is in use.
        OutputError: If the journal cannot be opened or begun.

    Example:
        >>> batch = BatchMetrics(batch_id="job-001")
        >>> batch.start()
        >>> batch.record_file("one.wfm", duration=0.5, samples=100_000)
        >>> with batch.file("two.wfm") as file:
        ...     file.samples = len("two.wfm")
        >>> with batch.file("three.wfm"):
        ...     raise ValueError("too short")
        >>> batch.finish()
        >>> batch.counts
        Counts(files=3, processed=2, errors=1, skipped=0)
    """

    def __init__(
        self,
        batch_id: str | None = None,
        *,
        system: MetricsSystem | None = None,
        operation: str = "batch.file",
        on_error: Policy = "continue",
        skip_on: tuple[type[Exception], ...] = (),
        track_memory: bool = False,
        in_memory: int = IN_MEMORY,
        spill_folder: str | Path | None = None,
        journal: str | Path | None = None,
        retry_failed: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        check_choice("on_error", on_error, ("continue", "raise"))
        self.on_error: Policy = on_error
        self.skip_on = skip_on
        self.track_memory = track_memory
        self.clock = clock
        self._feed = None if system is None else Feed(system, operation)
        self._process = _here
        self._time_ns = clock.time_ns
        if journal is None:
            earlier = Earlier(batch_id or _new_id())
            self._records = Records(in_memory, Spill(spill_folder))
        else:
            opened = Journal(journal)
            earlier = Earlier.read(opened, batch_id, in_memory, retry_failed=retry_failed)
            opened.cut_off(earlier.place)  # a line that was not finished
            if earlier.batch_id is None:
                earlier.begin(opened, batch_id or _new_id())
            self._records = Records(in_memory, opened, earlier.place, earlier.totals, earlier.rows)
        self.batch_id = batch_id or str(earlier.batch_id)
        self._earlier = earlier
        self._paused = earlier.paused
        self._start_time = earlier.start
        self._end_time = earlier.end

    # -- life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Mark the batch as started; one that is gone on with has started already."""
        now = self._now()
        self._records.note({"start": now})
        if self._earlier.start is None:
            self._start_time = now
        else:
            self._paused = self._earlier.paused + max(0.0, now - self._earlier.last)
            self._end_time = None
        log_event("info", "batch started", batch_id=self.batch_id)

    def finish(self) -> None:
        """Mark the batch as finished, and log what it came to."""
        self._mark_end()
        summary = self.summary()
        log_event(
            "info",
            "batch finished",
            batch_id=self.batch_id,
            total_files=summary.total_files,
            processed=summary.processed_count,
            errors=summary.error_count,
            duration=summary.timing.total_duration,
        )

    def _mark_end(self) -> None:
        self._end_time = self._now()
        self._records.note({"finish": self._end_time})

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.finish()
        else:  # a summary that fails would hide why
            self._mark_end()

    def close(self) -> None:
        """Let go of the disk: of details that are not in memory, and of the journal, which others may take.

        Nobody has to: it also happens when nobody uses the batch any more.
        """
        self._records.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a BatchMetrics stays in its process; use batch.map(function, items, processes=…)")

    # -- recording -------------------------------------------------------------------------------------

    def record_file(
        self,
        filename: str,
        *,
        duration: float,
        samples: int = 0,
        measurements: int = 0,
        status: str = "success",
        error_type: str | None = None,
        error_message: str | None = None,
        memory_peak: int | None = None,
    ) -> None:
        """Record a file that was processed; it ended now.

        Args:
            filename: Its name.
            duration: How long it took, in seconds.
            samples: How many samples were processed.
            measurements: How many measurements were computed.
            status: ``success``, ``error`` or ``skipped``.
            error_type: Of an error, its type.
            error_message: Of an error, what it said.
            memory_peak: The most memory that it took, in bytes.

        Raises:
            TypeError: If ``duration`` is no number, or ``error_type`` no key.
            InvalidInputError: In a forked child, whose record its parent would never see.
        """
        if self._process != _here:
            raise InvalidInputError(
                f"this batch belongs to process {self._process}, which would not see what is recorded here;"
                " use batch.map(function, items, processes=…)"
            )
        now = self._time_ns() / 1e9
        _ = now - duration  # what is no number is said here, not when it is read
        records = self._records
        records.rows.append(
            (filename, now, duration, samples, measurements, status, error_type, error_message, memory_peak)
        )
        if len(records.rows) > records.due:
            records.settle()
        if status == "error" and error_type:
            hash(error_type)
        if self._feed is not None:
            self._feed.file(duration, samples, measurements, status, error_type)

    def record_error(self, filename: str, error_type: str, error_message: str, duration: float = 0.0) -> None:
        """Record a file that failed.

        Args:
            filename: Its name.
            error_type: The type of the error, ``"FileNotFoundError"`` say.
            error_message: What it said.
            duration: How long it took until then, in seconds.
        """
        self.record_file(
            filename,
            duration=duration,
            status="error",
            error_type=error_type,
            error_message=error_message,
        )

    def record_skip(self, filename: str, reason: str = "") -> None:
        """Record a file that was skipped.

        Args:
            filename: Its name.
            reason: Why.
        """
        self.record_file(filename, duration=0.0, status="skipped", error_message=reason)

    def file(self, filename: str | os.PathLike[str]) -> FileRun:
        """Measure the processing of one file: a context manager, also an async one.

        It records how long the block takes and how it ends: well, skipped, or by an error, which goes on or
        does not as ``on_error`` says. What is no `Exception`, Ctrl-C or a cancelled task say, always goes on
        and records nothing: the file is not done.

        Args:
            filename: Its name.

        Example:
            >>> batch = BatchMetrics()
            >>> with batch.file("empty.wfm") as file:
            ...     file.skip("nothing in it")
            >>> batch.counts.skipped
            1
        """
        return FileRun(self, os.fspath(filename))

    def track(
        self, items: Iterable[T] | AsyncIterable[T], *, total: int | None = None, title: str = "files"
    ) -> Track[T]:
        """Return items as they are, and show on standard error how far the one who asks for them has got.

        A bar on a terminal, if rich is installed, and else a line now and then: how many are done and how
        many failed, how many a second, and the time that remains.

        Args:
            items: To be used in a ``for`` loop, or in an ``async for``.
            total: How many there are; their ``len`` by default, where they have one.
            title: What they are.
        """
        return Track(self, items, total, title)

    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T],
        *,
        threads: int | None = None,
        processes: int | None = None,
        retries: int = 0,
        name: Callable[[T], str] = str,
        details: Callable[[R], Mapping[str, int]] | None = None,
    ) -> Iterator[FileResult[T, R]]:
        """Call a function for each item in a pool of threads or processes, and record each as a file.

        Nothing happens before the first result is asked for, and never more than four items a worker are
        taken out of ``items`` ahead. Results come as they are ready. Where a process dies, of a signal or for
        lack of memory, the pool is made anew and whatever it was at is done again, one by one; an item that
        its process dies of then has failed with the type ``WorkerDied``.

        Args:
            function: What to do; for processes it must be one that can be pickled.
            items: What to do it for.
            threads: How many threads.
            processes: How many processes, instead.
            retries: How often to try again after an error.
            name: An item's file name.
            details: What else to record of a result: ``samples``, ``measurements``.

        Raises:
            InvalidInputError: If neither threads nor processes are given, or both.
        """
        from metrics_framework.batch.pool import run_pool  # multiprocessing is slow to import

        return run_pool(
            self,
            function,
            items,
            threads=threads,
            processes=processes,
            retries=retries,
            name=name,
            details=details,
        )

    def remaining(self, items: Iterable[T], *, name: Callable[[T], str] = str) -> Iterator[T]:
        """Yield the items that the journal does not hold from earlier on, if the batch is gone on with.

        Args:
            items: Everything that is to be done.
            name: An item's file name.
        """
        done = self._earlier.done
        return (item for item in items if name(item) not in done)

    # -- questions -------------------------------------------------------------------------------------

    @property
    def counts(self) -> Counts:
        """How many files were recorded, and how they ended."""
        totals, rows = self._records.seen()
        return totals.counts.plus(rows)

    @property
    def lost(self) -> int:
        """Of how many files the details are lost, because the disk refused them."""
        return self._records.lost

    def summary(self) -> BatchMetricsSummary:
        """Return what all files come to so far."""
        totals, rows = self._records.seen()
        return summarize(
            self.batch_id,
            totals,
            rows,
            start=self._start_time,
            end=self._end_time,
            paused=self._paused,
        )

    def files(self) -> Iterator[FileMetrics]:
        """Yield the details of every file, in the order in which they were recorded; never all at once."""
        for rows in self._records.read():
            yield from map(to_metrics, rows)

    def get_file_metrics(self) -> list[dict[str, Any]]:
        """Return the details of every file as plain data: a list as long as the batch; see also `files`."""
        return [file.to_dict() for file in self.files()]

    def export_json(self, path: str | Path) -> None:
        """Write the summary and the details of every file into a JSON file.

        Args:
            path: Where to; what is there is replaced when everything is written.

        Raises:
            OSError: If the disk refuses; then nothing is replaced.
        """
        path = Path(path)
        write_json(path, self.summary().to_dict(), self._records.read())
        self._say_exported(path)

    def export_csv(self, path: str | Path) -> None:
        """Write the details of every file into a CSV file; without files nothing is written.

        Args:
            path: Where to; what is there is replaced when everything is written.

        Raises:
            OSError: If the disk refuses; then nothing is replaced.
        """
        path = Path(path)
        totals, rows = self._records.seen()
        if not totals.counts.files and not rows:
            log_event("warning", "batch has no files to export")
            return
        write_csv(path, self._records.read())
        self._say_exported(path)

    def _say_exported(self, path: Path) -> None:
        log_event("info", "batch exported", path=str(path))
        if self.lost:
            log_event("warning", "export lacks the details of files that the disk refused", files=self.lost)

    def _now(self) -> float:
        return self._time_ns() / 1e9


def _new_id() -> str:
    from uuid import uuid4  # slow to import

    return str(uuid4())


def get_batch_stats(batch_id: str, metrics: BatchMetrics) -> dict[str, Any]:
    """Return the summary of a batch as plain data.

    Args:
        batch_id: Which batch.
        metrics: Its metrics.

    Raises:
        InvalidInputError: If they are those of another batch; a ``ValueError``.
    """
    if metrics.batch_id != batch_id:
        raise InvalidInputError(f"Batch ID mismatch: expected {batch_id}, got {metrics.batch_id}")
    return metrics.summary().to_dict()
