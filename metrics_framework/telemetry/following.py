"""Following telemetry while it is written: a file that grows, is cut or rotated, or a folder of segments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError
from metrics_framework.telemetry.manifests import is_growing_segment, segment_order, segments_in
from metrics_framework.telemetry.projection import ProjectedTelemetryRecord
from metrics_framework.telemetry.reading import Flaw, FlawLog, OnFlaw, project_line
from metrics_framework.telemetry.rotations import Rotations
from metrics_framework.telemetry.tails import Tail, open_tail

GRACE_SECONDS = 5.0
"""How long a file is read on after another one took its place: its writer may not have noticed yet."""


class TelemetryFollower:
    """Yields each event of a file or a folder once, as soon as its line is whole.

    A file may grow, be truncated and written anew, be replaced, or be rotated: renamed, or copied and
    truncated, to its name with a number (``events.jsonl.1``), also several times between two looks. In a
    folder segments are read one after the other as they come. What is not there yet is waited for.

    For one thread at a time.

    Args:
        path: A file of JSON lines, or a folder of segments.
        on_flaw: Called with each line that is no event; by default the first of them are logged.
        clock: By which the time goes by that a replaced file is read on.

    Example:
        >>> with TelemetryFollower("not-there-yet.jsonl") as follower:
        ...     list(follower.poll())
        []
    """

    def __init__(
        self, path: str | Path, on_flaw: OnFlaw | None = None, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._path = Path(path)
        self._log = FlawLog()
        self._on_flaw = on_flaw or self._log.add
        self._clock = clock
        self._rotations: Rotations | None = None
        self._tails: list[Tail] = []  # in the order they were written; the last one is the present
        self._segment = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def poll(self) -> Iterator[ProjectedTelemetryRecord]:
        """Yield what has come since the last look; what is not taken is left to the next one.

        Raises:
            OutputError: If the file is there and cannot be read.
            InvalidInputError: If it is packed with gzip.
        """
        if self._path.is_dir():
            yield from self._poll_folder()
            return
        self._look_for_others()
        for tail in list(self._tails):
            if tail is not self._tails[-1] or tail.is_marked:
                yield from self._records(tail)
        yield from self._drop_replaced()

    def close(self) -> None:
        """Close the files; a later `poll` would begin anew."""
        self._forget()
        self._log.close()

    def _forget(self) -> None:
        for tail in self._tails:
            tail.close()
        self._tails, self._segment, self._rotations = [], "", None

    # -- a folder --------------------------------------------------------------------------------------

    def _poll_folder(self) -> Iterator[ProjectedTelemetryRecord]:
        segments = [path for path in segments_in(self._path) if is_growing_segment(path.name)]
        newest = segments[-1] if segments else None
        if self._segment and (newest is None or segment_order(newest.name) < segment_order(self._segment)):
            self._forget()  # the newest one is never removed, so the folder was begun anew
        for tail in list(self._tails):
            if not tail.is_at(tail.path):
                tail.close()
                self._tails = [opened] if (opened := open_tail(tail.path)) else []
            elif tail.was_rewritten():
                tail.restart()
        for path in segments:
            if self._segment and segment_order(path.name) <= segment_order(self._segment):
                continue
            for tail in self._tails:  # whatever has a successor is complete
                yield from self._records(tail)
            complete, self._tails = self._tails, []
            for tail in complete:
                yield from self._end(tail)
            self._tails = [opened] if (opened := open_tail(path)) else []
            self._segment = path.name
        for tail in self._tails:
            yield from self._records(tail)

    # -- a file ----------------------------------------------------------------------------------------

    def _look_for_others(self) -> None:
        """Find what took the place of the present file, and what came and went since the last look."""
        if self._rotations is None:
            self._rotations = Rotations(self._path)
        present = self._tails[-1] if self._tails else None
        if present is None or not present.is_at(self._path):
            newest = open_tail(self._path)
            if newest is None:  # not there yet, or just being replaced
                return
            if present is not None and present.was_rewritten():  # and then renamed
                present.restart()
            newest.pin_head()
            self._take_up([*self._rotations.since(present, newest), newest])
            return
        if present.was_rewritten():
            self._take_up([*self._rotations.since(present, present), self._tails.pop()])
            present.restart()
        if not present.is_marked:
            # First pinned, then looked around: so what is found in the meantime is older than what is read.
            present.pin_head()
            self._take_up([*self._rotations.since(present, present), self._tails.pop()])

    def _take_up(self, tails: list[Tail]) -> None:
        self._tails += tails
        for tail in self._tails[:-1]:
            if tail.replaced_ns is None:
                tail.replaced_ns = self._clock.monotonic_ns()

    def _drop_replaced(self) -> Iterator[ProjectedTelemetryRecord]:
        now = self._clock.monotonic_ns()
        for tail in self._tails[:-1]:
            if tail.replaced_ns is not None and now - tail.replaced_ns >= GRACE_SECONDS * 1e9:
                self._tails.remove(tail)
                yield from self._end(tail)

    # -- lines -----------------------------------------------------------------------------------------

    def _records(self, tail: Tail) -> Iterator[ProjectedTelemetryRecord]:
        for line in tail.lines():
            if (record := self._project(tail, line)) is not None:
                yield record

    def _end(self, tail: Tail) -> Iterator[ProjectedTelemetryRecord]:
        """Take the last line of a file that nobody writes any more, whole or not."""
        line = tail.remainder()
        tail.close()
        if line and (record := self._project(tail, line)) is not None:
            yield record

    def _project(self, tail: Tail, line: bytes) -> ProjectedTelemetryRecord | None:
        try:
            return project_line(line)
        except InvalidInputError as error:
            self._on_flaw(Flaw(str(tail.path), tail.number, str(error)))
            return None
