"""Writing events into a file, a line each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from metrics_framework.errors import ClosedError, InvalidInputError, OutputError
from metrics_framework.log import Isolation
from metrics_framework.runtime.background import Background
from metrics_framework.telemetry.events import EventSource
from metrics_framework.validation import check_seconds


class TelemetryLog:
    """Appends what sources read to a file of telemetry events, which Stormlog loads.

    As a context manager it writes an event ``start`` of each source and at the end an event ``stop``: from
    these Stormlog tells a session that was completed. A line is written at once and in one piece.

    Args:
        path: The file; its folder is made if need be.
        sources: What is read. One that fails is logged, and the others are written.

    Raises:
        OutputError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> from metrics_framework import MetricsSystem
        >>> from metrics_framework.telemetry import ResourceEvents, read_telemetry
        >>> metrics = MetricsSystem()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with TelemetryLog(f"{folder}/run.jsonl", [ResourceEvents(metrics.resource_monitor)]) as log:
        ...         log.sample()
        ...     [event["event_type"] for event in read_telemetry(f"{folder}/run.jsonl")]
        ['start', 'sample', 'stop']
    """

    def __init__(self, path: str | Path, sources: Iterable[EventSource]) -> None:
        self._path = Path(path)
        self._sources = list(sources)
        self._isolation = Isolation()
        self._background: Background | None = None
        self._interval_ms = 0
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b", buffering=0)
            self._begin = self._end_of_half_line()
        except (OSError, ValueError) as error:
            raise self._cannot_write(error) from error

    def __enter__(self) -> Self:
        self.sample("start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_sampling()
        try:
            self.sample("stop")
        finally:
            self.close()

    def sample(self, event_type: str = "sample") -> None:
        """Read every source once and write what they say.

        Raises:
            OutputError: If the file cannot be written.
            ClosedError: After `close`.
        """
        for source in self._sources:
            read = partial(source.events, event_type, interval_ms=self._interval_ms)
            events = self._isolation.call("telemetry not read", read, source=type(source).__name__)
            for event in events or ():
                self.write(event)

    def write(self, event: Mapping[str, Any]) -> None:
        """Write one event.

        Raises:
            InvalidInputError: If it is no JSON.
            OutputError: If the file cannot be written.
            ClosedError: After `close`.
        """
        if self._file.closed:
            raise ClosedError(f"the telemetry log {str(self._path)!r} was closed")
        try:
            line = json.dumps(event, sort_keys=True, allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"the event {event!r} is no JSON: {error}") from error
        try:
            written = self._file.write(self._begin + line)
        except OSError as error:
            raise self._cannot_write(error) from error
        self._begin = b"" if written == len(self._begin) + len(line) else b"\n"
        if self._begin:
            raise OutputError(f"cannot write {str(self._path)!r}: a line was written in part")

    def start_sampling(self, interval: float) -> None:
        """Sample in the background, at once and then every ``interval`` seconds, but not in a forked child.

        Raises:
            InvalidInputError: If ``interval`` is not a positive number of seconds.
        """
        check_seconds("interval", interval)
        self.stop_sampling()
        self._interval_ms = round(interval * 1e3)
        # An event says which process it is of, and that is this one.
        self._background = Background(self.sample, interval, "telemetry sampling", in_child=False)

    def stop_sampling(self) -> None:
        """Stop sampling in the background; a second call does nothing."""
        background, self._background = self._background, None
        if background is not None:
            background.stop()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self.stop_sampling()
        self._file.close()

    def _end_of_half_line(self) -> bytes:
        """Return what lets the first line begin on its own, also after a writer that was killed."""
        if not self._file.seek(0, os.SEEK_END):
            return b""
        self._file.seek(-1, os.SEEK_END)
        return b"" if self._file.read(1) == b"\n" else b"\n"

    def _cannot_write(self, error: Exception) -> OutputError:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        return OutputError(f"cannot write {str(self._path)!r}: {reason}")
