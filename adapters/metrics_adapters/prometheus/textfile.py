"""A file that node_exporter's textfile collector reads: whole at every moment."""

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


def write_textfile(
    path: str | os.PathLike[str], metrics: Target, registry: CollectorRegistry | None = None
) -> None:
    """Write metrics into a file, in place of the one that is there.

    Who reads it sees the old file or the new one, never a part. It is written under a hidden name beside it
    first, which a process that is killed meanwhile leaves there; node_exporter does not read it.

    Args:
        path: The file; its name ends in ``.prom``, as node_exporter reads no others.
        metrics: A `MetricsSystem`, a collector, a `Store`, or an `Exposition` of it and of a registry.
        registry: A prometheus_client registry whose metrics are written too.

    Raises:
        InvalidInputError: If the name ends otherwise, ``metrics`` has no store, or two names in it collide.
        OutputError: If the disk refuses; the old file is still there then.
    """
    replace_file(_checked(path), TextWithoutTimestamps(registry).render(metrics))


class Textfile:
    """`write_textfile` as an output of a `MetricsSystem`: at every ``collection_interval`` and at the end.

    Args:
        path: The file; its name ends in ``.prom``.
        registry: A prometheus_client registry whose metrics are written too.

    Raises:
        InvalidInputError: If the name ends otherwise.
    """

    name = "textfile"

    def __init__(self, path: str | os.PathLike[str], registry: CollectorRegistry | None = None) -> None:
        self.path = _checked(path)
        self._text = TextWithoutTimestamps(registry)

    def export(self, system: MetricsSystem) -> None:
        """Write what a system holds, or what its aggregator answers; raises what `write_textfile` does."""
        replace_file(self.path, self._text.render_system(system))


class TextfileEndpoint(Textfile):
    """``textfile:///var/lib/node_exporter/app.prom``: a file that node_exporter reads, by `Textfile`.

    Args:
        url: The file, whose name ends in ``.prom``.

    Raises:
        ConfigurationError: If it is no such file.
    """

    options: ClassVar[Mapping[str, Option]] = {}

    def __init__(self, url: EndpointUrl) -> None:
        try:
            super().__init__(path_of(url))
        except ConfigurationError:
            raise
        except InvalidInputError as error:
            raise ConfigurationError(f"endpoint {url}: {error}") from None
        self.name = str(url)


def _checked(path: str | os.PathLike[str]) -> Path:
    found = Path(path)
    if found.suffix != ".prom":
        raise InvalidInputError(f"{str(found)!r} does not end in .prom: node_exporter would not read it")
    return found
