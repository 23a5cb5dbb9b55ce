"""Folders of telemetry segments, as Stormlog's append-only sink writes them.

A folder holds ``segment-000001.jsonl`` and so on, of which the oldest are removed by the sink's retention,
and ``manifest.json``, which lists the sessions that wrote them. The manifest is written after the segments,
so it may be behind, and a sink that was killed may leave a half-written line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metrics_framework.errors import OutputError

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
