"""A batch as JSON and as CSV, a file at a time, however many there are.

The bytes are those that ``json.dump(…, indent=2, default=str)`` and ``csv.DictWriter`` write.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

from metrics_framework.batch.models import format_timestamp
from metrics_framework.batch.rows import Row, is_plain

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
"""What is written of a file."""


def write_json(path: Path, summary: Mapping[str, Any], chunks: Iterable[Sequence[Row]]) -> None:
    """Write a summary and all files as one JSON document.

    Raises:
        OSError: If the disk refuses; then the file is what it was.
    """
    with _replacing(path) as file:
        text = json.dumps(summary, indent=2, default=str).replace("\n", "\n  ")
        file.write(f'{{\n  "summary": {text},\n  "files": [')
        separator = "\n"
        for rows in chunks:
            file.write(separator + ",\n".join(_objects(rows)))
            separator = ",\n"
        file.write("]\n}" if separator == "\n" else "\n  ]\n}")


def write_csv(path: Path, chunks: Iterable[Sequence[Row]]) -> None:
    """Write a header and a line for each file.

    Raises:
        OSError: If the disk refuses; then the file is what it was.
        UnicodeEncodeError: If a name cannot be encoded; likewise.
    """
    with _replacing(path, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for rows in chunks:
            if is_plain(rows):
                file.write(_lines(rows))
            else:
                writer.writerows(map(_cells, rows))


def _cells(row: Row) -> tuple[Any, ...]:
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


def _lines(rows: Sequence[Row]) -> str:
    """Return rows of numbers and text as lines.

    The module csv asks of every character whether it has to be quoted, which takes longer than all the rest.
    So it gets only the lines that need quotes.
    """
    lines = [_LINE % tuple(["" if cell is None else cell for cell in _cells(row)]) for row in rows]
    text = "".join(lines)
    if _is_bare(text, len(lines)):
        return text
    return "".join(
        [line if _is_bare(line, 1) else _quoted(row) for line, row in zip(lines, rows, strict=True)]
    )


def _is_bare(text: str, lines: int) -> bool:
    """Say whether nothing in a text of so many lines has to be quoted."""
    return (
        text.count(",") == _COMMAS * lines
        and '"' not in text
        and text.count("\r") == lines
        and text.count("\n") == lines
    )


def _quoted(row: Row) -> str:
    line = StringIO(newline="")
    csv.writer(line).writerow(_cells(row))
    return line.getvalue()


_OBJECT = "    {{\n{}\n    }}".format(",\n".join(f'      "{column}": %s' for column in COLUMNS))


# What the module json does in Python wherever it indents is a tenth of the time in C. It is given a separator
# that no text holds, as control characters are escaped.
_SEPARATOR = "\0"
_encode = json.JSONEncoder(separators=(_SEPARATOR, ": "), check_circular=False).encode


def _objects(rows: Sequence[Row]) -> Iterable[str]:
    """Return each row as the JSON object that stands in the list of files."""
    cells = map(_cells, rows)
    if not is_plain(rows):
        return (_OBJECT % tuple(map(_literal, row)) for row in cells)
    text = _encode(list(cells))
    return (_OBJECT % tuple(row.split(_SEPARATOR)) for row in text[2:-2].split(f"]{_SEPARATOR}["))


def _literal(value: Any) -> str:
    return json.dumps(value, indent=2, default=str).replace("\n", "\n      ")


@contextmanager
def _replacing(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Open a file that takes the place of another when everything is in it."""
    path = Path(os.path.realpath(path))  # the target of a link, not the link
    if path.exists() and not path.is_file():  # a pipe, a terminal; or a folder, which is an error
        with path.open("w", newline=newline) as file:
            yield file
        return
    temporary = path.with_name(f".{uuid4().hex}.tmp")
    try:
        try:
            with temporary.open("x", newline=newline) as file:
                yield file
            with suppress(OSError):
                shutil.copymode(path, temporary)
        except FileNotFoundError as error:
            if error.filename == str(temporary):
                error.filename = str(path)  # the name that the caller knows
            raise
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
