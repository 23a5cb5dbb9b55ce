"""Reads files of telemetry events, one JSON object per line, and folders of segments.

A line that is not an event is reported with its number, and reading continues.

Stormlog's append-only sink writes folders. A folder holds ``segment-000001.jsonl`` and so on, of which
retention removes the oldest, and ``manifest.json``, which lists the sessions. The manifest is written after
the segments, so it may be out of date, and a killed sink may leave an incomplete line.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from metrics_framework.errors import InvalidInputError, OutputError, reason_of
from metrics_framework.log import log_event
from metrics_framework.runtime.atomic_files import read_file
from metrics_framework.telemetry.projection import ProjectedTelemetryRecord, project_telemetry_mapping

T = TypeVar("T")

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is not read as an event, so memory is bounded for any file."""

MAX_LOGGED_FLAWS = 10
"""Maximum number of flaws that are logged individually."""

GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Flaw:
    """A part of a file that is not an event.

    Attributes:
        source: The file.
        line: The number of the line, from 1; ``None`` if the whole file is affected.
        reason: The fault.
    """

    source: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        """Return a message with the place and the fault."""
        place = self.source if self.line is None else f"{self.source}, line {self.line}"
        return f"{place}: {self.reason}"


OnFlaw = Callable[[Flaw], object]


def read_telemetry(source: str | Path | IO[bytes], on_flaw: OnFlaw | None = None) -> Iterator[dict[str, Any]]:
    """Yield the events of a file or a folder, unchanged.

    Memory does not grow with the file. Files may be compressed with gzip, under any name.

    Args:
        source: A file of JSON lines; a folder of segments or its manifest; or an open binary stream.
        on_flaw: Receives each line that is not a JSON object, and each file that ends early. By default the
            first of them are logged.

    Raises:
        OutputError: If ``source`` cannot be read. It is raised by the call, not by the iterator.
    """
    return _read(source, on_flaw, parse_line)


def read_projected_telemetry(
    source: str | Path | IO[bytes], on_flaw: OnFlaw | None = None
) -> Iterator[ProjectedTelemetryRecord]:
    """Yield the events of a file or a folder in the envelope; see `read_telemetry`.

    A JSON object that is not a telemetry event is a flaw as well.

    Raises:
        OutputError: If ``source`` cannot be read. It is raised by the call, not by the iterator.
    """
    return _read(source, on_flaw, project_line)


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the event of a line; ``None`` for an empty line.

    Raises:
        InvalidInputError: If it is not a JSON object.
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
        truncated = "" if line.endswith(b"\n") else "; the line is incomplete"
        raise InvalidInputError(f"is not JSON: {error}{truncated}") from error
    if not isinstance(event, dict):
        raise InvalidInputError(f"must be a JSON object, got {text[:40]}")
    return event


def project_line(line: bytes) -> ProjectedTelemetryRecord | None:
    """Return the event of a line in the envelope; ``None`` for an empty line.

    Raises:
        InvalidInputError: If it is not an event.
    """
    event = parse_line(line)
    if event is None:
        return None
    try:
        return project_telemetry_mapping(event)
    except RecursionError as error:
        raise InvalidInputError(f"is nested too deeply: {error}") from error


def events_of_line(line: bytes, parse: Callable[[bytes], T | None]) -> tuple[list[T], str | None]:
    """Return the events of a line, and the first fault of its other parts.

    A line has several parts if it contains a gap of null bytes, which JSON text never does: a crash of the
    machine leaves one, and so does a writer that keeps its position in a file that was truncated.

    Args:
        line: The line.
        parse: Returns the event of a part; ``None`` if it is empty.
    """
    events, fault = [], None
    for part in line.split(b"\0") if b"\0" in line else (line,):
        try:
            event = parse(part)
        except InvalidInputError as error:
            fault = fault or str(error)
        else:
            if event is not None:
                events.append(event)
    return events, fault


class FlawLog:
    """Logs the first flaws, and the number of the others."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, flaw: Flaw) -> None:
        """Log a flaw, or only count it."""
        self._count += 1
        if self._count <= MAX_LOGGED_FLAWS:
            log_event("warning", "no telemetry event", source=flaw.source, line=flaw.line, reason=flaw.reason)

    def close(self) -> None:
        """Log the number of flaws that were not logged, and reset it."""
        if self._count > MAX_LOGGED_FLAWS:
            log_event("warning", "more lines are not telemetry events", lines=self._count - MAX_LOGGED_FLAWS)
        self._count = 0


def _read(
    source: str | Path | IO[bytes], on_flaw: OnFlaw | None, parse: Callable[[bytes], T | None]
) -> Iterator[T]:
    if not isinstance(source, (str, Path)):
        return _events([source], on_flaw, parse)
    files = telemetry_files(source)
    try:
        if files[0].is_file():  # not a pipe, which can be opened only once
            files[0].open("rb").close()  # to raise an error now, not at the first event
    except OSError as error:
        raise cannot_read(files[0], error) from error
    return _events(files, on_flaw, parse)


def _events(
    files: Iterable[Path | IO[bytes]], on_flaw: OnFlaw | None, parse: Callable[[bytes], T | None]
) -> Iterator[T]:
    log = FlawLog()
    report = on_flaw or log.add
    for file in files:
        name = str(file if isinstance(file, Path) else getattr(file, "name", "stream"))
        number = 0
        try:
            with _unpacked(file) as stream:
                for number, line in enumerate(_lines(stream), 1):
                    events, fault = events_of_line(line, parse)
                    yield from events
                    if fault is not None:
                        report(Flaw(name, number, fault))
        # For example, the segment was removed, or a gzip file is truncated.
        except (OSError, EOFError, zlib.error) as error:
            report(Flaw(name, None, f"cannot be read after line {number}: {reason_of(error)}"))
    log.close()


@contextmanager
def _unpacked(file: Path | IO[bytes]) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        if isinstance(file, Path):
            stream = stack.enter_context(file.open("rb"))
        else:
            stream = io.BufferedReader(cast(io.RawIOBase, file))
            stack.callback(stream.detach)  # the caller closes it
        is_gzip = stream.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC)
        yield cast(IO[bytes], stack.enter_context(gzip.open(stream))) if is_gzip else stream


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield lines, with one null byte for a gap of them.

    Of a line that is too long, yield only enough for `parse_line` to reject it.
    """
    while chunk := stream.readline(MAX_LINE_BYTES + 1):
        line = _shorten_gaps(chunk)
        while len(chunk) > MAX_LINE_BYTES and not chunk.endswith(b"\n"):
            chunk = stream.readline(MAX_LINE_BYTES + 1)
            if len(line) <= MAX_LINE_BYTES:
                line = _shorten_gaps(line + chunk)
        yield line


def _shorten_gaps(content: bytes) -> bytes:
    return re.sub(rb"\0\0+", b"\0", content) if b"\0\0" in content else content


MANIFEST = "manifest.json"

_SEGMENT = re.compile(r"segment-(\d+)\.jsonl(?:\.gz)?")


@dataclass(frozen=True)
class TelemetrySession:
    """One run of a tracker, in a manifest.

    Attributes:
        session_id: The name of the session.
        status: ``running``, ``completed``, ``interrupted`` or ``incomplete``.
        started_at_ns: The start, in nanoseconds since 1970; ``None`` if the manifest does not have it.
        ended_at_ns: The end, likewise.
    """

    session_id: str
    status: str
    started_at_ns: int | None
    ended_at_ns: int | None


@dataclass(frozen=True)
class TelemetryManifest:
    """The content of ``manifest.json``.

    Attributes:
        sessions: The sessions that wrote to the folder.
        segments: The names of the segment files.
    """

    sessions: tuple[TelemetrySession, ...]
    segments: tuple[str, ...]


MAX_MANIFEST_BYTES = 64 * 1024 * 1024
"""The size of a manifest."""


def read_telemetry_manifest(path: str | Path) -> TelemetryManifest | None:
    """Read the manifest of a folder of segments. Damaged entries are left out, as in Stormlog.

    Args:
        path: The folder, the manifest, or a segment beside it.

    Returns:
        ``None`` if there is no readable manifest.
    """
    given = Path(path)
    try:
        found = given / MANIFEST if given.is_dir() else given.with_name(MANIFEST)
        document = json.loads(read_file(found, MAX_MANIFEST_BYTES, pipe=False))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    return TelemetryManifest(
        tuple(_session(one) for one in _named(document.get("sessions"), "session_id")),
        tuple(one["filename"] for one in _named(document.get("segments"), "filename")),
    )


def telemetry_files(path: str | Path) -> list[Path]:
    """Return the files with the events of a file or a folder, in the order of writing.

    Args:
        path: A file of events, which is returned alone; a folder of segments; or its manifest.

    Raises:
        OutputError: If ``path`` does not exist, or a folder has no segments.
    """
    given = Path(path)
    try:
        given.stat()
    except (OSError, ValueError) as error:  # ValueError: the path contains a null character
        raise cannot_read(given, error) from error
    if given.name != MANIFEST and not given.is_dir():
        return [given]
    folder = given if given.is_dir() else given.parent
    found = segments_in(folder)
    if not found:
        raise OutputError(f"cannot read {str(folder)!r}: it has no telemetry segments (segment-*.jsonl)")
    return found


def segments_in(folder: Path) -> list[Path]:
    """Return the segments of a folder in the order of writing, including those not in the manifest yet.

    A segment that is compressed to ``….jsonl.gz`` is returned once, even while both files exist.
    """
    manifest = read_telemetry_manifest(folder)
    # A FIFO of such a name would block.
    found = (path for path in folder.glob("segment-*.jsonl*") if path.is_file())
    names = {path.name for path in found if _SEGMENT.fullmatch(path.name)}
    for name in manifest.segments if manifest else ():
        # A name, not a path: a manifest must not give access to files outside its folder.
        if name == Path(name).name and (folder / name).is_file():
            names.add(name)
    unique = [name for name in names if not (name.endswith(".gz") and name.removesuffix(".gz") in names)]
    return [folder / name for name in sorted(unique, key=segment_order)]


def segment_order(name: str) -> tuple[float, str]:
    """Return the sort key of a segment: its number, which may have more than six digits."""
    found = _SEGMENT.fullmatch(name)
    return (int(found[1]) if found else float("inf"), name)


def is_growing_segment(name: str) -> bool:
    """Return whether a file has the name of a segment that a sink is writing or has written."""
    return _SEGMENT.fullmatch(name) is not None and not name.endswith(".gz")


def cannot_read(path: Path, error: Exception) -> OutputError:
    """Return the error for a file that cannot be read."""
    return OutputError(f"cannot read {str(path)!r}: {reason_of(error)}")


def _named(entries: object, key: str) -> Iterator[Mapping[str, Any]]:
    """Yield the entries of a list that have a non-empty string under a key."""
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(name := entry.get(key), str) and name.strip():
            yield entry


def _session(entry: Mapping[str, Any]) -> TelemetrySession:
    times = [
        time if isinstance(time := entry.get(key), int) else None for key in ("started_at_ns", "ended_at_ns")
    ]
    return TelemetrySession(entry["session_id"], str(entry.get("status", "incomplete")), times[0], times[1])
