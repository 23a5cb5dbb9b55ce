"""The endpoint that writes all series into a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from metrics_framework.errors import ConfigurationError, OutputError, reason_of
from metrics_framework.export.endpoints import EndpointUrl, Option, choice_option
from metrics_framework.exposition.formats import each_value, render
from metrics_framework.protocols import MetricsSystem
from metrics_framework.runtime.atomic_files import replace_file

_FORMATS = ("json", "jsonl", "csv")


class FileEndpoint:
    """``file:///var/tmp/metrics.json``: writes every series, in the format of the file extension.

    ``json`` and ``csv`` replace the file atomically. ``jsonl`` appends a line for each series.
    ``file:metrics.json`` is relative to the working directory.

    Args:
        url: The file.

    Raises:
        ConfigurationError: If the URL has a host, no path, or no known format.
    """

    is_local: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Option]] = {
        "format": choice_option(("auto", *_FORMATS), "auto", "The format; by default that of the extension."),
    }

    def __init__(self, url: EndpointUrl) -> None:
        self.name = str(url)
        self.path = path_of(url)
        found = url.options["format"]
        self.format = self.path.suffix[1:].lower() if found == "auto" else found
        if self.format not in _FORMATS:
            raise ConfigurationError(
                f"endpoint {url.scheme}: its name does not end in .{', .'.join(_FORMATS)}: add ?format=json"
            )

    def export(self, system: MetricsSystem) -> None:
        """Write the current numbers of a system.

        Raises:
            OutputError: If the file cannot be written.
        """
        content = render(each_value(system.aggregator), self.format).encode(errors="backslashreplace")
        if self.format == "jsonl":
            _append(self.path, content)
        else:
            replace_file(self.path, content)


def path_of(url: EndpointUrl) -> Path:
    """Return the path of a URL without a host.

    Raises:
        ConfigurationError: If it has a host, a user or no path.
    """
    if url.host not in ("", "localhost") or url.port is not None or url.username is not None:
        raise ConfigurationError(
            f"endpoint {url.scheme}: it has a host: write a path after three slashes, like {url.scheme}:///var"
        )
    if not url.path.strip("/") or "\0" in url.path:
        raise ConfigurationError(f"endpoint {url.scheme}: it has no path")
    return Path(url.path)


def _append(path: Path, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o644)
        with open(descriptor, "rb+", buffering=0) as file:  # noqa: PTH123 - a descriptor has no path
            size = file.seek(0, os.SEEK_END)
            # A process that was killed may have left an incomplete line.
            is_incomplete = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            left = memoryview(b"\n" + content if is_incomplete else content)
            while left:
                left = left[file.write(left) :]
    except OSError as error:
        raise OutputError(f"cannot append to {str(path)!r}: {reason_of(error)}") from error
