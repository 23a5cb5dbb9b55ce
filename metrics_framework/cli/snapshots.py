"""The snapshot that a command leaves behind: its tags, and where it goes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from metrics_framework.errors import OutputError
from metrics_framework.plugins import load_adapter
from metrics_framework.recording import Distribution
from metrics_framework.snapshots import PerformanceSnapshot
from metrics_framework.snapshots.build import LATENCY_TAG
from metrics_framework.snapshots.distributions import DISTRIBUTIONS_TAG
from metrics_framework.snapshots.rules import MAX_TAGS

INTERRUPTED_TAG = "interrupted"
"""The metadata tag of a snapshot that does not hold all that was asked for."""


def parse_pairs(pairs: tuple[str, ...]) -> dict[str, str]:
    """Return what was given as ``KEY=VALUE``."""
    tags: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise click.BadParameter(f"{pair!r} is not of the form KEY=VALUE", param_hint="'--tag'")
        tags[key] = value
    return tags


def parse_tags(pairs: tuple[str, ...], *own: str) -> dict[str, str]:
    """Return the tags of a snapshot that were given as ``KEY=VALUE``.

    Args:
        pairs: What was given.
        *own: Tags that the command adds, besides those that every command may.
    """
    tags = parse_pairs(pairs)
    own = (LATENCY_TAG, INTERRUPTED_TAG, DISTRIBUTIONS_TAG, *own)
    if len({*tags, *own}) > MAX_TAGS:
        raise click.BadParameter(
            f"{len(tags)} are too many: a snapshot holds {MAX_TAGS}, with"
            f" {', '.join(map(repr, sorted(own)))} among them",
            param_hint="'--tag'",
        )
    return tags


@dataclass(frozen=True)
class Saved:
    """A snapshot that was written, or was to be."""

    snapshot: PerformanceSnapshot
    path: Path | None
    problem: OutputError | None

    def say(self) -> bool:
        """Print where it is, or all of it where the disk refused; say whether it is anywhere."""
        if self.problem is not None:
            # What was measured is not lost with the disk.
            click.echo(json.dumps(self.snapshot.to_dict()))
            click.echo(f"Error: {self.problem}", err=True)
            return False
        click.echo(self.path)
        return True


def save(
    snapshot: PerformanceSnapshot, folder: Path, distributions: Mapping[str, Distribution] | None = None
) -> Saved:
    """Write a snapshot into a folder; before anything is printed, as whoever reads that may stop reading.

    Args:
        snapshot: The snapshot.
        folder: Where it goes.
        distributions: The values behind it, if they are to be beside it.
    """
    try:
        path = load_adapter("snapshot_writer")(folder).write(snapshot, distributions)
        return Saved(snapshot, path, None)
    except OutputError as error:
        return Saved(snapshot, None, error)
