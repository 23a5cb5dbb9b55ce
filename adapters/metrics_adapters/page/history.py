"""The history of the live page: the runs of a folder of snapshots, and the comparison of two of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metrics_framework.errors import InvalidInputError
from metrics_framework.validation import safe_repr


class SnapshotHistory:
    """The runs of a folder of snapshots.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def runs(self) -> dict[str, Any]:
        """Return the document of all runs."""
        return {"runs": [], "folder": self._folder.name}

    def compare(self, baseline: str, current: str) -> dict[str, Any]:
        """Return the document of the comparison of two runs."""
        raise InvalidInputError(f"{safe_repr(baseline)} and {safe_repr(current)} are not runs")
