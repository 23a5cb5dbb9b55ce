"""One file while it is processed: its duration, its outcome and its peak memory."""

from __future__ import annotations

import os
import sys
import threading
from types import TracebackType
from typing import Literal, Protocol, Self

from metrics_framework.batch.rows import Counts
from metrics_framework.clock import Clock
from metrics_framework.error_types import error_type_of

ErrorPolicy = Literal["continue", "raise"]
"""Whether an error is suppressed or raised after it was recorded."""


class Batch(Protocol):
    """The part of `BatchMetrics` that `FileRun`, `Track` and the pool use."""

    clock: Clock
    on_error: ErrorPolicy
    skip_on: tuple[type[Exception], ...]
    track_memory: bool

    @property
    def counts(self) -> Counts:
        """Number of recorded files by outcome."""
        ...

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
        """Record a file that was processed."""
        ...

    def record_skip(self, filename: str, reason: str = "") -> None:
        """Record a file that was skipped."""
        ...


class MemoryPeak:
    """Memory of one block of code: the bytes in use when it started, and the most since."""

    __slots__ = ("base", "most")

    def __init__(self, base: int) -> None:
        self.base = self.most = base


class PeakMemoryTracker:
    """Measures the peak memory of Python objects in blocks of code, with `tracemalloc`. Thread-safe.

    tracemalloc has one peak for the whole process, so concurrent blocks share their memory. Tracing is on
    only while a block runs, unless it was on before.
    """

    def __init__(self) -> None:
        self._running: set[MemoryPeak] = set()
        self._lock = threading.RLock()
        self._started_tracing = False

    def begin(self) -> MemoryPeak:
        """Start measuring a block."""
        import tracemalloc  # imported only if memory is tracked

        with self._lock:
            if not tracemalloc.is_tracing():
                tracemalloc.start()
                self._started_tracing = True
            self._update_running()
            peak = MemoryPeak(tracemalloc.get_traced_memory()[0])
            self._running.add(peak)
            return peak

    def end(self, peak: MemoryPeak) -> int:
        """Stop measuring a block, and return its peak in bytes above the memory at its start."""
        import tracemalloc

        with self._lock:
            self._update_running()
            self._running.discard(peak)
            if self._started_tracing and not self._running:
                tracemalloc.stop()
                self._started_tracing = False
            return max(0, peak.most - peak.base)

    def _update_running(self) -> None:
        """Apply the peak of tracemalloc to all running blocks, and reset it."""
        import tracemalloc

        most = tracemalloc.get_traced_memory()[1]
        for peak in self._running:
            peak.most = max(peak.most, most)
        tracemalloc.reset_peak()


PEAK_MEMORY = PeakMemoryTracker()
"""The only tracker of the process, because tracemalloc has one peak."""


class FileRun:
    """The context manager that `BatchMetrics.file` returns.

    Attributes:
        name: The file's name.
        samples: Number of samples processed. Set it in the block.
        measurements: Number of measurements computed. Set it in the block.
        memory_peak: Peak memory in bytes. Set it in the block, unless the batch has ``track_memory``.
        duration: Seconds that the block took, once it has ended.
    """

    def __init__(self, batch: Batch, name: str) -> None:
        self.name = name
        self.samples = 0
        self.measurements = 0
        self.memory_peak: int | None = None
        self.duration = 0.0
        self._batch = batch
        self._skip_reason: str | None = None
        self._peak: MemoryPeak | None = None
        self._begin_ns = 0

    def skip(self, reason: str = "") -> None:
        """Count the file as skipped if the block ends without an error."""
        self._skip_reason = reason

    def __enter__(self) -> Self:
        if self._batch.track_memory:
            self._peak = PEAK_MEMORY.begin()
        self._begin_ns = self._batch.clock.monotonic_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        batch = self._batch
        duration = self.duration = (batch.clock.monotonic_ns() - self._begin_ns) / 1e9
        if self._peak is not None:
            self.memory_peak = PEAK_MEMORY.end(self._peak)
        if error is None:
            if self._skip_reason is None:
                batch.record_file(
                    self.name,
                    duration=duration,
                    samples=self.samples,
                    measurements=self.measurements,
                    memory_peak=self.memory_peak,
                )
            else:
                batch.record_skip(self.name, self._skip_reason)
            return False
        if not isinstance(error, Exception):
            return False
        if isinstance(error, batch.skip_on):
            batch.record_skip(self.name, skip_reason(error))
            return True
        batch.record_file(
            self.name,
            duration=duration,
            status="error",
            error_type=error_type_of(error),
            error_message=error_message(error),
            memory_peak=self.memory_peak,
        )
        return batch.on_error == "continue"

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return self.__exit__(kind, error, trace)


def error_message(error: Exception) -> str:
    """Return the message of an error, or an empty string if its ``__str__`` raises."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an error class of the application
        return ""


def skip_reason(error: Exception) -> str:
    """Return the reason to record for a file that an error skips."""
    message = error_message(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def exit_if_main_is_imported() -> None:
    """End a worker process that starts its own pool or journal, because its main module has no guard.

    A worker imports the main module of the program. Without ``if __name__ == "__main__":`` that runs the
    whole program again. The owner of the pool notices that the worker ended, and raises the error.
    """
    process = sys.modules.get("multiprocessing.process")  # imported in every worker
    if process is not None and getattr(process.current_process(), "_inheriting", False):
        os._exit(1)
