"""Snapshots of the commands: their tags, how they are written, and the table of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from metrics_framework.cli.output import add_label, label_table
from metrics_framework.errors import OutputError
from metrics_framework.plugins import load_adapter
from metrics_framework.recording import Distribution
from metrics_framework.runtime.strict_json import to_json_text
from metrics_framework.snapshots import Environment, PerformanceSnapshot
from metrics_framework.snapshots.build import LATENCY_TAG
from metrics_framework.snapshots.distributions import DISTRIBUTIONS_TAG
from metrics_framework.snapshots.formatting import format_measurement
from metrics_framework.snapshots.provenance import COMMIT_DATE_TAG, HEAD_COMMIT_TAG, JOB_TAG, MACHINE_TAG
from metrics_framework.snapshots.rules import MAX_TAGS

INTERRUPTED_TAG = "interrupted"
"""Metadata tag of a snapshot whose command was interrupted."""

_OPTIONS = [
    click.option(
        "--output",
        default="snapshots",
        show_default=True,
        type=click.Path(file_okay=False, writable=True, path_type=Path),
        help="Folder for the snapshot.",
    ),
    click.option(
        "--tag",
        "tags",
        multiple=True,
        metavar="KEY=VALUE",
        help="Tag for the snapshot's metadata; repeatable.",
    ),
    click.option(
        "--environment",
        type=click.Choice([environment.value for environment in Environment]),
        help="Environment of the snapshot.  [default: ci under CI, else local]",
    ),
    click.option("--commit", help="Measured commit, by any name that git knows.  [default: HEAD]"),
    click.option(
        "--branch",
        help="Measured branch.  [default: the one that is checked out, or none if --commit is another commit"
        " than HEAD, because git does not tell on which branch it was made]",
    ),
]


def snapshot_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of commands that write a snapshot, except its name."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def parse_pairs(pairs: tuple[str, ...]) -> dict[str, str]:
    """Parse ``KEY=VALUE`` options."""
    tags: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise click.BadParameter(
                f"{pair!r} is not of the form KEY=VALUE: pass, for example, branch=main",
                param_hint="'--tag'",
            )
        tags[key] = value
    return tags


def parse_tags(pairs: tuple[str, ...], *own: str) -> dict[str, str]:
    """Parse the tags of a snapshot, given as ``KEY=VALUE``.

    Args:
        pairs: The options.
        *own: Tags that the command adds, besides those that every command may add.
    """
    tags = parse_pairs(pairs)
    provenance = (COMMIT_DATE_TAG, HEAD_COMMIT_TAG, JOB_TAG, MACHINE_TAG)
    own = (LATENCY_TAG, INTERRUPTED_TAG, DISTRIBUTIONS_TAG, *provenance, *own)
    if len({*tags, *own}) > MAX_TAGS:
        raise click.BadParameter(
            f"{len(tags)} tags are too many: a snapshot holds {MAX_TAGS}, including"
            f" {', '.join(map(repr, sorted(own)))}; pass fewer",
            param_hint="'--tag'",
        )
    return tags


@dataclass(frozen=True)
class SaveResult:
    """A snapshot, and the path at which it was saved or the error that prevented it."""

    snapshot: PerformanceSnapshot
    path: Path | None
    error: OutputError | None

    def report(self) -> bool:
        """Print the path, or the error and the whole snapshot. Returns whether it was saved."""
        if self.error is not None:
            # Measurements are printed, so that an unwritable folder does not lose them.
            click.echo(to_json_text(self.snapshot.to_dict()))
            click.echo(f"Error: {self.error}", err=True)
            return False
        click.echo(self.path)
        return True


def save(
    snapshot: PerformanceSnapshot, folder: Path, distributions: Mapping[str, Distribution] | None = None
) -> SaveResult:
    """Write a snapshot to a folder. Call it before printing, which fails if the reader of a pipe has ended.

    Args:
        snapshot: The snapshot.
        folder: The folder.
        distributions: Distributions for its sidecar, if it gets one.
    """
    try:
        path = load_adapter("snapshot_writer")(folder).write(snapshot, distributions)
        return SaveResult(snapshot, path, None)
    except OutputError as error:
        return SaveResult(snapshot, None, error)


def print_snapshot(snapshot: PerformanceSnapshot) -> None:
    """Print the table of a snapshot: its metadata and its measurements."""
    metadata = snapshot.metadata
    table = label_table("performance snapshot")
    add_label(table, "run", metadata.run_id)
    add_label(table, "time", metadata.timestamp.isoformat())
    add_label(table, "commit", metadata.commit or "none")
    add_label(table, "branch", metadata.branch or "none")
    add_label(table, "environment", metadata.environment.value)
    for key, value in sorted(metadata.tags.items()):
        add_label(table, f"tag {key}", value)
    table.add_section()
    for key, number in snapshot.metrics.flat().items():
        add_label(table, key, format_measurement(key, number))
    Console().print(table)
