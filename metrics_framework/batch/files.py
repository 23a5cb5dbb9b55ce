"""One file that is being processed: how long it takes, how it ends, and the memory that it needs."""

from __future__ import annotations

from types import TracebackType
from typing import Literal, Protocol, Self

from metrics_framework.batch.peaks import PEAKS, Peak
from metrics_framework.batch.rows import Counts
from metrics_framework.clock import Clock

Policy = Literal["continue", "raise"]
"""What happens to an error once it is recorded."""


class Batch(Protocol):
    """What a file, a loop and a pool need of the `BatchMetrics` that they record into."""

    clock: Clock
    on_error: Policy
    skip_on: tuple[type[Exception], ...]
    track_memory: bool

    @property
    def counts(self) -> Counts:
        """How many files were recorded, and how they ended."""
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


class FileRun:
    """The use of `BatchMetrics.file`.

    Attributes:
        name: The file's name.
        samples: How many samples were processed; for whoever processes the file to set.
        measurements: How many measurements were computed; likewise.
        memory_peak: The most memory that it took, in bytes; likewise, unless the batch looks itself.
        duration: Once the block has ended, how long it took, in seconds.
    """

    def __init__(self, batch: Batch, name: str) -> None:
        self.name = name
        self.samples = 0
        self.measurements = 0
        self.memory_peak: int | None = None
        self.duration = 0.0
        self._batch = batch
        self._reason: str | None = None
        self._peak: Peak | None = None
        self._begin_ns = 0

    def skip(self, reason: str = "") -> None:
        """Let the file count as skipped, if the block ends without an error."""
        self._reason = reason

    def __enter__(self) -> Self:
        if self._batch.track_memory:
            self._peak = PEAKS.begin()
        self._begin_ns = self._batch.clock.monotonic_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        batch = self._batch
        duration = self.duration = (batch.clock.monotonic_ns() - self._begin_ns) / 1e9
        if self._peak is not None:
            self.memory_peak = PEAKS.end(self._peak)
        if error is None:
            if self._reason is None:
                batch.record_file(
                    self.name,
                    duration=duration,
                    samples=self.samples,
                    measurements=self.measurements,
                    memory_peak=self.memory_peak,
                )
            else:
                batch.record_skip(self.name, self._reason)
            return False
        if not isinstance(error, Exception):
            return False
        if isinstance(error, batch.skip_on):
            batch.record_skip(self.name, reason_of(error))
            return True
        batch.record_file(
            self.name,
            duration=duration,
            status="error",
            error_type=type(error).__name__,
            error_message=message_of(error),
            memory_peak=self.memory_peak,
        )
        return batch.on_error == "continue"

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return self.__exit__(kind, error, trace)


def message_of(error: Exception) -> str:
    """Return what an error says; nothing where it cannot be said."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - somebody else's error
        return ""


def reason_of(error: Exception) -> str:
    """Return why an error skips a file."""
    message = message_of(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
