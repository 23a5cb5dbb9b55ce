"""``metrics-framework baseline``: the baseline of FlameIQ, in the files that ``flameiq`` reads and writes.

``.flameiq/baselines/current.json`` is the baseline, and ``history.jsonl`` beside it has a line for each one
that was set. FlameIQ has no sidecars; ours is ``current.dist``.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import click

from metrics_framework.cli.diff import read_side
from metrics_framework.cli.output import escape_control
from metrics_framework.errors import MetricsError, OutputError, SnapshotError, reason_of
from metrics_framework.runtime.atomic_files import replace_file
from metrics_framework.runtime.strict_json import to_json_text
from metrics_framework.snapshots import PerformanceSnapshot, dump_snapshot, read_snapshot
from metrics_framework.snapshots.distributions import DISTRIBUTIONS_TAG, read_sidecar_content, sidecar_path
from metrics_framework.snapshots.formatting import format_count

FLAMEIQ_FOLDER = ".flameiq"

_BASELINES = "baselines"
_CURRENT = "current.json"
_HISTORY = "history.jsonl"
_ONE_BASELINE = (
    "Note: a baseline is one job. compare needs several jobs on one side for a verdict; on one machine,"
    " measure both versions by turns: metrics-framework run --against"
)


@click.group()
def baseline() -> None:
    """Keep a baseline where FlameIQ keeps it."""


@baseline.command("set")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--folder",
    default=FLAMEIQ_FOLDER,
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="FlameIQ's folder.",
)
def set_baseline(file: Path, folder: Path) -> None:
    """Make the snapshot FILE the baseline.

    Writes baselines/current.json and a line of baselines/history.jsonl, as flameiq baseline set does, and
    copies the sidecar of FILE to baselines/current.dist. Of a folder, the newest snapshot is used. Prints the
    path of the baseline.

    \b
    Exit codes:
      0  the baseline is set
      1  FILE is not a valid snapshot, or the baseline cannot be written
      2  wrong usage, or FILE does not exist

    \b
    Example:
      metrics-framework baseline set snapshots
      metrics-framework compare .flameiq/baselines/current.json new.json
    """  # noqa: D301 - the backspace tells click not to rewrap the paragraph
    try:
        if file.suffix == ".jsonl":
            raise OutputError(f"{str(file)!r} has one snapshot per line: pass a file with a single snapshot")
        path = read_side(file)[0].path if file.is_dir() else file
        snapshot = read_snapshot(path)
        written = write_baseline(snapshot, _sidecar_of(path, snapshot), folder)
    except MetricsError as error:
        faults = error.violations if isinstance(error, SnapshotError) else (str(error),)
        for fault in faults:
            where = f"{file}: " if isinstance(error, SnapshotError) else "Error: "
            click.echo(escape_control(f"{where}{fault}"), err=True)
        sys.exit(1)
    count = format_count(len(snapshot.metrics.flat()), "measurement")
    click.echo(escape_control(f"baseline of {count}, commit {(snapshot.metadata.commit or 'none')[:12]}"))
    click.echo(_ONE_BASELINE, err=True)
    click.echo(written)


def write_baseline(snapshot: PerformanceSnapshot, sidecar: bytes | None, folder: Path) -> Path:
    """Write a baseline. Each file is replaced atomically, and the history is appended to in one write.

    Args:
        snapshot: The snapshot.
        sidecar: The content of its sidecar, if it has one.
        folder: FlameIQ's folder.

    Returns:
        The path of the baseline.

    Raises:
        OutputError: If the disk refuses a file.
    """
    baselines = folder / _BASELINES
    path = baselines / _CURRENT
    try:
        baselines.mkdir(parents=True, exist_ok=True)
        if sidecar is not None:
            replace_file(sidecar_path(path), sidecar)
        replace_file(path, dump_snapshot(snapshot).encode())
        if sidecar is None:  # that of an earlier baseline
            sidecar_path(path).unlink(missing_ok=True)
        _append_line(baselines / _HISTORY, to_json_text(snapshot.to_dict()).encode())
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write the baseline into {str(baselines)!r}: {reason_of(error)}; pass another --folder"
        ) from error
    return path


def _append_line(path: Path, line: bytes) -> None:
    """Append a line to a file, to which FlameIQ may append at the same time."""
    with path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # of a writer that was killed
                line = b"\n" + line
        content = line + b"\n"
        if file.write(content) != len(content):  # a full disk
            with suppress(OSError):
                file.truncate(size)
            raise OSError(f"only a part of the line fits into {str(path)!r}")
        os.fsync(file.fileno())


def _sidecar_of(path: Path, snapshot: PerformanceSnapshot) -> bytes | None:
    """Return the content of a snapshot's sidecar. A missing or foreign one is reported and not copied."""
    if DISTRIBUTIONS_TAG not in snapshot.metadata.tags:
        return None
    try:
        return read_sidecar_content(path, snapshot.metadata.tags)
    except MetricsError as error:
        click.echo(escape_control(f"Warning: the baseline is set without its sidecar: {error}"), err=True)
        return None
