"""Files of which a reader sees the old one or the new one, never a part."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from metrics_framework.errors import OutputError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in place of the one that is there.

    It is written under a hidden name beside it first, which a process that is killed meanwhile leaves there.

    Raises:
        OutputError: If the disk refuses; the old file is still there then.
    """
    temporary = path.with_name(f".{uuid4().hex}.tmp")
    try:
        try:
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # a ValueError for a path that no system can have
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise OutputError(f"cannot write {str(path)!r}: {reason}") from error
