"""Reading files of telemetry events, one JSON object a line, as a stream.

A line that holds no event is reported with its number, and the rest is read.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from metrics_framework.errors import InvalidInputError
from metrics_framework.log import log_event
from metrics_framework.telemetry.manifests import cannot_read, telemetry_files
from metrics_framework.telemetry.projection import ProjectedTelemetryRecord, project_telemetry_mapping

T = TypeVar("T")

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is no event; so memory stays bounded whatever file is read."""

LOGGED_FLAWS = 10
"""How many flaws of one reading are logged one by one."""

GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Flaw:
    """Something in a file that is no event.

    Attributes:
        source: The file.
        line: The number of the line, from 1; ``None`` where it is about the file as a whole.
        reason: What is wrong.
    """

    source: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        """Return a line for people."""
        place = self.source if self.line is None else f"{self.source}, line {self.line}"
        return f"{place}: {self.reason}"


OnFlaw = Callable[[Flaw], object]


def read_telemetry(source: str | Path | IO[bytes], on_flaw: OnFlaw | None = None) -> Iterator[dict[str, Any]]:
    """Yield the events of a file or a folder as they are written there.

    Memory does not grow with the file. Files may be packed with gzip, whatever their names are.

    Args:
        source: A file of JSON lines; a folder of segments or its manifest; or an open binary stream.
        on_flaw: Called with each line that is no JSON object, and with each file that ends early; by default
            the first of them are logged.

    Raises:
        OutputError: At once, if ``source`` cannot be read.
    """
    return _read(source, on_flaw, parse_line)


def read_projected_telemetry(
    source: str | Path | IO[bytes], on_flaw: OnFlaw | None = None
) -> Iterator[ProjectedTelemetryRecord]:
    """Yield the events of a file or a folder in the envelope; see `read_telemetry`.

    A line that is a JSON object but no telemetry event is a flaw as well.

    Raises:
        OutputError: At once, if ``source`` cannot be read.
    """
    return _read(source, on_flaw, project_line)


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the event in a line; ``None`` in an empty one.

    Raises:
        InvalidInputError: If it is no JSON object.
    """
    if len(line) > MAX_LINE_BYTES:
        raise InvalidInputError(f"is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        text = line.decode().lstrip("\ufeff").strip()
        if not text:
            return None
        event = json.loads(text)
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"is not UTF-8: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        cut = "" if line.endswith(b"\n") else ", and is cut off"
        raise InvalidInputError(f"is not JSON: {error}{cut}") from error
    if not isinstance(event, dict):
        raise InvalidInputError(f"is no JSON object but {text[:40]}")
    return event


def project_line(line: bytes) -> ProjectedTelemetryRecord | None:
    """Return the event in a line, in the envelope; ``None`` in an empty line.

    Raises:
        InvalidInputError: If it is none.
    """
    event = parse_line(line)
    if event is None:
        return None
    try:
        return project_telemetry_mapping(event)
    except RecursionError as error:
        raise InvalidInputError(f"is nested too deeply: {error}") from error


class FlawLog:
    """Logs the first flaws of a reading, and how many there were."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, flaw: Flaw) -> None:
        """Log a flaw, or count it only."""
        self._count += 1
        if self._count <= LOGGED_FLAWS:
            log_event("warning", "no telemetry event", source=flaw.source, line=flaw.line, reason=flaw.reason)

    def close(self) -> None:
        """Say how many flaws were not logged, and begin anew."""
        if self._count > LOGGED_FLAWS:
            log_event("warning", "more lines are no telemetry events", lines=self._count - LOGGED_FLAWS)
        self._count = 0


def _read(
    source: str | Path | IO[bytes], on_flaw: OnFlaw | None, parse: Callable[[bytes], T | None]
) -> Iterator[T]:
    if not isinstance(source, (str, Path)):
        return _events([source], on_flaw, parse)
    files = telemetry_files(source)
    try:
        if files[0].is_file():  # a pipe can be opened once only
            files[0].open("rb").close()  # better said now than at the first event
    except OSError as error:
        raise cannot_read(files[0], error) from error
    return _events(files, on_flaw, parse)


def _events(
    files: Iterable[Path | IO[bytes]], on_flaw: OnFlaw | None, parse: Callable[[bytes], T | None]
) -> Iterator[T]:
    log = FlawLog()
    say = on_flaw or log.add
    for file in files:
        name = str(file if isinstance(file, Path) else getattr(file, "name", "stream"))
        number = 0
        try:
            with _unpacked(file) as stream:
                for number, line in enumerate(_lines(stream), 1):
                    try:
                        event = parse(line)
                    except InvalidInputError as error:
                        say(Flaw(name, number, str(error)))
                        continue
                    if event is not None:
                        yield event
        # A segment that is gone, a gzip file that is cut off.
        except (OSError, EOFError, zlib.error) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            say(Flaw(name, None, f"cannot be read on after line {number}: {reason}"))
    log.close()


@contextmanager
def _unpacked(file: Path | IO[bytes]) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        if isinstance(file, Path):
            stream = stack.enter_context(file.open("rb"))
        else:
            stream = io.BufferedReader(cast(io.RawIOBase, file))
            stack.callback(stream.detach)  # it is for its owner to close
        packed = stream.peek(len(GZIP)).startswith(GZIP)
        yield cast(IO[bytes], stack.enter_context(gzip.open(stream))) if packed else stream


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield lines; of one that is too long only so much that `parse_line` sees it."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        yield line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES + 1)
