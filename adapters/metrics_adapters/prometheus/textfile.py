"""The textfile output: a file for the textfile collector of node_exporter, which is replaced atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from prometheus_client.registry import CollectorRegistry

from metrics_adapters.file import path_of
from metrics_adapters.prometheus.targets import Target, TextWithoutTimestamps
from metrics_framework.errors import ConfigurationError, InvalidInputError
from metrics_framework.export.endpoints import EndpointUrl, Option
from metrics_framework.protocols import MetricsSystem
from metrics_framework.runtime.atomic_files import replace_file
from metrics_framework.validation import word_repr

SUFFIX = ".prom"


def write_textfile(
    path: str | os.PathLike[str], metrics: Target, registry: CollectorRegistry | None = None
) -> None:
    """Write metrics into a file atomically: a reader sees the old file or the new one, never a part.

    The text is first written to a hidden temporary file in the same folder. A process that is killed
    meanwhile leaves that file behind; node_exporter does not read it.

    Args:
        path: The file. Its name must end in ``.prom``: node_exporter reads no other files.
        metrics: A `MetricsSystem`, a collector, a `Store`, or an `Exposition` with its registry.
        registry: A prometheus_client registry whose metrics are appended.

    Raises:
        InvalidInputError: If the name does not end in ``.prom``, ``metrics`` has no store, or names collide.
        OutputError: If the file cannot be written. The old file is kept.
    """
    replace_file(_checked(path), TextWithoutTimestamps(registry).render(metrics))


class Textfile:
    """An output that calls `write_textfile` at every ``collection_interval`` and at shutdown.

    Args:
        path: The file. Its name must end in ``.prom``.
        registry: A prometheus_client registry whose metrics are appended.

    Raises:
        InvalidInputError: If the name does not end in ``.prom``.
    """

    name = "textfile"
    is_local = True

    def __init__(self, path: str | os.PathLike[str], registry: CollectorRegistry | None = None) -> None:
        self.path = _checked(path)
        self._text = TextWithoutTimestamps(registry)

    def export(self, system: MetricsSystem) -> None:
        """Write the metrics of a system, and raise what `write_textfile` raises."""
        replace_file(self.path, self._text.render_system(system))


class TextfileEndpoint(Textfile):
    """``textfile:///var/lib/node_exporter/app.prom``: a `Textfile` from a URL.

    Args:
        url: The file. Its name must end in ``.prom``.

    Raises:
        ConfigurationError: If the URL is not the path of such a file.
    """

    options: ClassVar[Mapping[str, Option]] = {}

    def __init__(self, url: EndpointUrl) -> None:
        path = path_of(url)
        if path.suffix != SUFFIX:  # not quoted: it may be a mistyped URL with secrets
            raise ConfigurationError(
                f"endpoint {url.scheme}: its name does not end in {SUFFIX}; node_exporter reads no other file"
            )
        super().__init__(path)
        self.name = str(url)


def _checked(path: str | os.PathLike[str]) -> Path:
    found = Path(path)
    if found.suffix != SUFFIX:
        raise InvalidInputError(
            f"{word_repr(found.name)} does not end in .prom: node_exporter reads no other files"
        )
    return found
