"""A batch that is over, or goes on elsewhere, from its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metrics_framework.batch.disk import Journal
from metrics_framework.batch.resume import Earlier, is_journal
from metrics_framework.batch.summary import summarize
from metrics_framework.errors import InvalidInputError, OutputError

_HEAD_BYTES = 1 << 20
_FILES = b',\n  "files": ['


def load_stats(path: str | Path, in_memory: int = 10_000) -> dict[str, Any]:
    """Return the summary of a batch as plain data, from its journal or from what `export_json` wrote.

    Args:
        path: The file.
        in_memory: Up to how many files of a journal the median is exact.

    Raises:
        OutputError: If it cannot be read.
        InvalidInputError: If it is neither.

    A batch that was interrupted ends with the last file that its journal holds.
    """
    journal = Journal(path, writable=False)
    earlier = Earlier.read(journal, None, in_memory) if is_journal(journal) else Earlier()
    if earlier.batch_id is not None:
        return summarize(
            earlier.batch_id,
            earlier.totals,
            earlier.rows,
            start=earlier.start,
            end=earlier.end or earlier.last,
            paused=earlier.paused,
        ).to_dict()
    try:
        with Path(path).open("rb") as file:
            head, found, _ = file.read(_HEAD_BYTES).partition(_FILES)
            # The summary comes first; nobody has to read a million files for it.
            document = json.loads(head + b"}") if found else json.loads(head + file.read())
        stats = document["summary"]
        if not {"batch_id", "total_files", "timing", "throughput", "errors"} <= stats.keys():
            raise KeyError
    except OSError as error:
        raise OutputError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise InvalidInputError(
            f"{str(path)!r} is neither the journal of a batch nor a batch that was exported as JSON"
        ) from None
    return dict(stats)
