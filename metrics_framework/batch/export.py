"""Writes a batch as JSON and CSV, in chunks, so that memory does not grow with the number of files.

The output is byte for byte that of ``json.dump(…, indent=2, default=str)`` and ``csv.DictWriter``, except
that NaN and infinities are ``null`` in JSON.
"""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any

from metrics_framework.batch.models import format_timestamp
from metrics_framework.batch.rows import FileRow, is_storable
from metrics_framework.runtime.atomic_files import AtomicFile
from metrics_framework.runtime.strict_json import to_finite

COLUMNS = (
    "filename",
    "start_time",
    "end_time",
    "duration_seconds",
    "samples",
    "measurements",
    "status",
    "error_type",
    "error_message",
    "memory_peak_bytes",
    "samples_per_second",
)
"""The columns of a CSV line and the keys of a JSON object."""


def write_json(path: Path, summary: Mapping[str, Any], chunks: Iterable[Sequence[FileRow]]) -> None:
    """Write a summary and all files as one JSON document.

    Raises:
        OSError: If writing fails. An existing file is unchanged then.
    """
    _replace(path, _document(summary, chunks))


def _document(summary: Mapping[str, Any], chunks: Iterable[Sequence[FileRow]]) -> Iterator[str]:
    text = _to_text(summary).replace("\n", "\n  ")
    yield f'{{\n  "summary": {text},\n  "files": ['
    separator = "\n"
    for rows in chunks:
        yield separator + ",\n".join(_objects(rows))
        separator = ",\n"
    yield "]\n}" if separator == "\n" else "\n  ]\n}"


def write_csv(path: Path, chunks: Iterable[Sequence[FileRow]]) -> None:
    """Write a header and a line for each file.

    Raises:
        OSError: If writing fails. An existing file is unchanged then.
        UnicodeEncodeError: If a name cannot be encoded. An existing file is unchanged then.
    """
    header = f"{','.join(COLUMNS)}\r\n"
    _replace(path, chain([header], (_lines(rows) if is_storable(rows) else _quoted(rows) for rows in chunks)))


def _cells(row: FileRow) -> tuple[Any, ...]:
    """Return the values of `COLUMNS`; see `metrics_framework.batch.models.FileMetrics.to_dict`."""
    filename, end, duration, samples, measurements, status, error_type, error_message, memory_peak = row
    start = end - duration
    return (
        filename,
        format_timestamp(start) if start else None,
        format_timestamp(end) if end else None,
        duration,
        samples,
        measurements,
        status,
        error_type,
        error_message,
        memory_peak,
        samples / duration if duration > 0 else 0,
    )


_LINE = ",".join(["%s"] * len(COLUMNS)) + "\r\n"
_COMMAS = _LINE.count(",")


def _lines(rows: Sequence[FileRow]) -> str:
    """Return rows of numbers and strings as CSV lines.

    The csv module checks each character for quoting, which takes longer than everything else. So it formats
    only the lines that need quotes.
    """
    lines = [_LINE % tuple(["" if cell is None else cell for cell in _cells(row)]) for row in rows]
    text = "".join(lines)
    if _needs_no_quotes(text, len(lines)):
        return text
    return "".join(
        [line if _needs_no_quotes(line, 1) else _quoted([row]) for line, row in zip(lines, rows, strict=True)]
    )


def _needs_no_quotes(text: str, lines: int) -> bool:
    """Return whether no value in a text of so many lines needs quotes."""
    return (
        text.count(",") == _COMMAS * lines
        and '"' not in text
        and text.count("\r") == lines
        and text.count("\n") == lines
    )


def _quoted(rows: Sequence[FileRow]) -> str:
    lines = StringIO(newline="")
    csv.writer(lines).writerows(map(_cells, rows))
    return lines.getvalue()


_OBJECT = "    {{\n{}\n    }}".format(",\n".join(f'      "{column}": %s' for column in COLUMNS))


# With an indent the json module encodes in Python, which takes ten times as long as in C. Without one, values
# can be split at a separator that no JSON text contains, because control characters are escaped.
_SEPARATOR = "\0"
_encode = json.JSONEncoder(separators=(_SEPARATOR, ": "), check_circular=False, allow_nan=False).encode
_encode_any = json.JSONEncoder(indent=2, default=str, allow_nan=False).encode


def _objects(rows: Sequence[FileRow]) -> Iterable[str]:
    """Return each row as an indented JSON object of the list of files."""
    cells = map(_cells, rows)
    if not is_storable(rows):
        return (_OBJECT % tuple(map(_literal, row)) for row in cells)
    try:
        text = _encode(list(cells))
    except ValueError:  # NaN or an infinity
        return (_OBJECT % tuple(map(_literal, _cells(row))) for row in rows)
    return (_OBJECT % tuple(row.split(_SEPARATOR)) for row in text[2:-2].split(f"]{_SEPARATOR}["))


def _literal(value: Any) -> str:
    return _to_text(value).replace("\n", "\n      ")


def _to_text(value: Any) -> str:
    try:
        return _encode_any(value)
    except ValueError:  # NaN or an infinity
        return _encode_any(to_finite(value))


def _replace(path: Path, content: Iterable[str]) -> None:
    path = Path(os.path.realpath(path))  # replace the target of a link, not the link
    encoded = (part.encode() for part in content)
    if path.exists() and not path.is_file():  # a pipe or a terminal; a folder raises an error
        with path.open("wb") as stream:
            stream.writelines(encoded)
        return
    if not path.parent.exists():  # report the path that the caller passed
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with AtomicFile(path.parent, encoded) as file:
        file.adopt_permissions(path)
        file.replace(path)
