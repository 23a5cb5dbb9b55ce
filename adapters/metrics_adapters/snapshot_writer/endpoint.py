"""A folder of v1 performance snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from metrics_adapters.file import path_of
from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework.export.endpoints import EndpointUrl, Option, days_option, whole_option


class SnapshotEndpoint(SnapshotWriter):
    """``snapshot:///var/lib/app/runs``: a v1 snapshot into a file of its own, by `SnapshotWriter`.

    ``snapshot:runs`` is relative to the working directory.

    Args:
        url: The folder.

    Raises:
        ConfigurationError: If there is no folder in it, or a host.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "retention_days": days_option("Days after which a snapshot is removed."),
        "max_bytes": whole_option(1, 10**15, None, "Bytes that all of them take up, before the oldest go."),
    }

    def __init__(self, url: EndpointUrl) -> None:
        super().__init__(path_of(url), **url.options)
        self.name = str(url)
