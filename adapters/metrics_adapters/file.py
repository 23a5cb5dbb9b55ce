"""A file of all series: written anew, or added to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from metrics_framework.errors import ConfigurationError, OutputError
from metrics_framework.export.endpoints import EndpointUrl, Option, choice_option
from metrics_framework.exposition.formats import each_value, render
from metrics_framework.protocols import MetricsSystem
from metrics_framework.runtime.atomic_files import replace_file

_FORMATS = ("json", "jsonl", "csv")


class FileEndpoint:
    """``file:///var/tmp/metrics.json``: every series, in the format that the name ends in.

    ``json`` and ``csv`` are written in place of the file that is there, of which a reader sees the old one or
    the new one; ``jsonl`` is added to it, a line for each series. ``file:metrics.json`` is relative to the
    working directory.

    Args:
        url: The file.

    Raises:
        ConfigurationError: If there is no file in it, a host, or no format.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "format": choice_option(("auto", *_FORMATS), "auto", "The format; by default what the name ends in."),
    }

    def __init__(self, url: EndpointUrl) -> None:
        self.name = str(url)
        self.path = path_of(url)
        found = url.options["format"]
        self.format = self.path.suffix[1:].lower() if found == "auto" else found
        if self.format not in _FORMATS:
            raise ConfigurationError(
                f"endpoint {url}: its name ends in none of .{', .'.join(_FORMATS)}; add ?format=json or so"
            )

    def export(self, system: MetricsSystem) -> None:
        """Write what a system holds.

        Raises:
            OutputError: If the disk refuses.
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
            f"endpoint {url}: a path begins after three slashes, like {url.scheme}:///var"
        )
    if not url.path.strip("/") or "\0" in url.path:
        raise ConfigurationError(f"endpoint {url.scheme}: it names no path")
    return Path(url.path)


def _append(path: Path, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o644)
        with open(descriptor, "rb+", buffering=0) as file:  # noqa: PTH123 - a descriptor has no path
            size = file.seek(0, os.SEEK_END)
            # Who was killed in the middle of a line must not spoil the next one.
            is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            left = memoryview(b"\n" + content if is_torn else content)
            while left:
                left = left[file.write(left) :]
    except OSError as error:
        raise OutputError(f"cannot add to {str(path)!r}: {error.strerror or error}") from error
