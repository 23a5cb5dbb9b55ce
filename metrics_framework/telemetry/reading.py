"""Reading files of telemetry events, one JSON object a line, as a stream.

A line that holds no event is reported with its number, and the rest is read.
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

from metrics_framework.errors import InvalidInputError, OutputError
from metrics_framework.log import log_event
from metrics_framework.telemetry.projection import ProjectedTelemetryRecord, project_telemetry_mapping

T = TypeVar("T")

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is no event; so memory stays bounded whatever file is read."""

MAX_LOGGED_FLAWS = 10
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
        if self._count <= MAX_LOGGED_FLAWS:
            log_event("warning", "no telemetry event", source=flaw.source, line=flaw.line, reason=flaw.reason)

    def close(self) -> None:
        """Say how many flaws were not logged, and begin anew."""
        if self._count > MAX_LOGGED_FLAWS:
            log_event("warning", "more lines are no telemetry events", lines=self._count - MAX_LOGGED_FLAWS)
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


MANIFEST = "manifest.json"

_SEGMENT = re.compile(r"segment-(\d+)\.jsonl(?:\.gz)?")


@dataclass(frozen=True)
class TelemetrySession:
    """What a manifest says of one run of a tracker.

    Attributes:
        session_id: Its name.
        status: ``running``, ``completed``, ``interrupted`` or ``incomplete``.
        started_at_ns: When it began, in nanoseconds since 1970; ``None`` where the manifest does not say.
        ended_at_ns: When it ended.
    """

    session_id: str
    status: str
    started_at_ns: int | None
    ended_at_ns: int | None


@dataclass(frozen=True)
class TelemetryManifest:
    """What ``manifest.json`` says.

    Attributes:
        sessions: Those that wrote into the folder.
        segments: The names of the files that are kept.
    """

    sessions: tuple[TelemetrySession, ...]
    segments: tuple[str, ...]


def read_telemetry_manifest(path: str | Path) -> TelemetryManifest | None:
    """Read the manifest of a folder of segments; what is damaged in it is left out, as Stormlog does.

    Args:
        path: The folder, the manifest or a segment beside it.

    Returns:
        ``None`` where there is none that can be read.
    """
    given = Path(path)
    try:
        found = given / MANIFEST if given.is_dir() else given.with_name(MANIFEST)
        document = json.loads(found.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    return TelemetryManifest(
        tuple(_session(one) for one in _named(document.get("sessions"), "session_id")),
        tuple(one["filename"] for one in _named(document.get("segments"), "filename")),
    )


def telemetry_files(path: str | Path) -> list[Path]:
    """Return the files that hold the events of a file or a folder, in the order they were written.

    Args:
        path: A file of events, which is all there is then; a folder of segments; or its manifest.

    Raises:
        OutputError: If nothing is at ``path``, or a folder holds no segments.
    """
    given = Path(path)
    try:
        given.stat()
    except (OSError, ValueError) as error:  # a ValueError for a path that no system can have
        raise cannot_read(given, error) from error
    if given.name != MANIFEST and not given.is_dir():
        return [given]
    folder = given if given.is_dir() else given.parent
    found = segments_in(folder)
    if not found:
        raise OutputError(f"cannot read {str(folder)!r}: it holds no telemetry segments (segment-*.jsonl)")
    return found


def segments_in(folder: Path) -> list[Path]:
    """Return a folder's segments in the order they were written, those that the manifest does not know too.

    A segment that was packed to ``….jsonl.gz`` counts once, also while both files exist.
    """
    manifest = read_telemetry_manifest(folder)
    names = {path.name for path in folder.glob("segment-*.jsonl*") if _SEGMENT.fullmatch(path.name)}
    for name in manifest.segments if manifest else ():
        # A name, not a path: a manifest from elsewhere must not lead out of its folder.
        if name == Path(name).name and (folder / name).is_file():
            names.add(name)
    unpacked = [name for name in names if not (name.endswith(".gz") and name.removesuffix(".gz") in names)]
    return [folder / name for name in sorted(unpacked, key=segment_order)]


def segment_order(name: str) -> tuple[float, str]:
    """Return what segments are sorted by: their number, also where it outgrew its six digits."""
    found = _SEGMENT.fullmatch(name)
    return (int(found[1]) if found else float("inf"), name)


def is_growing_segment(name: str) -> bool:
    """Return whether a file is called as a sink calls the segments that it writes."""
    return _SEGMENT.fullmatch(name) is not None and not name.endswith(".gz")


def cannot_read(path: Path, error: Exception) -> OutputError:
    """Return the error for a file that the system refuses."""
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return OutputError(f"cannot read {str(path)!r}: {reason}")


def _named(entries: object, key: str) -> Iterator[Mapping[str, Any]]:
    """Yield the entries of a list that have a name by that key."""
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(name := entry.get(key), str) and name.strip():
            yield entry


def _session(entry: Mapping[str, Any]) -> TelemetrySession:
    times = [
        time if isinstance(time := entry.get(key), int) else None for key in ("started_at_ns", "ended_at_ns")
    ]
    return TelemetrySession(entry["session_id"], str(entry.get("status", "incomplete")), times[0], times[1])
