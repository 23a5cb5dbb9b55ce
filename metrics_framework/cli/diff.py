"""``metrics-framework diff``: two snapshots side by side, without a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table
from rich.text import Text

from metrics_framework.cli.history import mixed_timers, open_history
from metrics_framework.cli.output import add_cells, escape_control, wide_console
from metrics_framework.errors import OutputError
from metrics_framework.runtime.strict_json import to_indented_json
from metrics_framework.snapshots import Run, read_snapshot
from metrics_framework.snapshots.formatting import format_change, format_measurement

DiffSide = tuple[Run, Mapping[str, float]]
"""One of the two snapshots: the run that wrote it, and its measurements by flat key."""


def read_side(path: Path) -> DiffSide:
    """Read a snapshot, or the newest of a folder or of a file with one snapshot per line.

    Raises:
        OutputError: If there is none, or it cannot be read.
        SnapshotError: If the file is not a valid snapshot.
    """
    if path.is_dir() or path.suffix == ".jsonl":
        newest = open_history(path).where(last=1).measurements()
        if not newest:
            raise OutputError(f"no snapshot in {str(path)!r}")
        return newest[0]
    snapshot = read_snapshot(path)
    data = snapshot.metadata
    run = Run(data.run_id, data.timestamp, data.commit, data.branch, data.environment, data.tags, path)
    return run, snapshot.metrics.flat()


def show_diff(a: DiffSide, b: DiffSide, format: str) -> None:
    """Print two snapshots side by side."""
    (a_run, a_values), (b_run, b_values) = a, b
    keys = sorted({**a_values, **b_values}, key=lambda key: (key.startswith("custom."), key))
    if format == "json":
        rows = [{"key": key, **_diff_fields(a_values.get(key), b_values.get(key))} for key in keys]
        click.echo(to_indented_json({"a": str(a_run.path), "b": str(b_run.path), "metrics": rows}))
        return
    console = wide_console()
    for name, run in (("A", a_run), ("B", b_run)):
        details = (
            f"{run.timestamp:%Y-%m-%d %H:%M}",
            run.branch or "no branch",
            (run.commit or "no commit")[:12],
        )
        console.print(Text(escape_control(f"{name}  {run.path}  {'  '.join(details)}")), soft_wrap=True)
    table = Table(box=box.SIMPLE)
    table.add_column("metric", overflow="fold")
    for column in ("A", "B", "change"):
        table.add_column(column, justify="right", overflow="fold")
    for key in keys:
        before, after = a_values.get(key), b_values.get(key)
        values = ["" if value is None else format_measurement(key, value) for value in (before, after)]
        add_cells(table, key, *values, change(before, after))
    console.print(table)
    if note := mixed_timers([a_run, b_run]):
        click.echo(f"Note: {note}", err=True)


def change(before: float | None, after: float | None) -> str:
    """Return the change of a value in percent of the first one.

    Example:
        >>> change(200, 210), change(2, 1), change(0, 3), change(None, 1)
        ('+5.0 %', '-50.0 %', 'from 0', 'only in B')
    """
    if before is None or after is None:
        return "only in B" if before is None else "only in A"
    if before == after:
        return "0 %"
    if before == 0:
        return "from 0"
    share = (after - before) / before
    return "from nearly 0" if math.isinf(share * 100) else format_change(share)


def _percent(before: float, after: float) -> float:
    return (after - before) / before * 100


def _diff_fields(before: float | None, after: float | None) -> dict[str, Any]:
    percent = None
    if before is not None and after is not None:
        percent = 0.0 if before == after else _percent(before, after) if before else None
        if percent is not None and math.isinf(percent):
            percent = None
    return {"a": before, "b": after, "change_percent": percent}
