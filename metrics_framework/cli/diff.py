"""``metrics-framework diff``: two snapshots side by side, without a verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table
from rich.text import Text

from metrics_framework.cli.history import mixed_timers, open_history
from metrics_framework.cli.output import add_cells, escape_control, format_measurement, wide_console
from metrics_framework.errors import OutputError
from metrics_framework.snapshots import Run, read_snapshot


@dataclass(frozen=True)
class DiffSide:
    """One of the two snapshots.

    Attributes:
        run: The run that wrote it.
        values: Its measurements by flat key.
    """

    run: Run
    values: Mapping[str, float] = field(default_factory=dict)


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
        return DiffSide(*newest[0])
    snapshot = read_snapshot(path)
    data = snapshot.metadata
    run = Run(data.run_id, data.timestamp, data.commit, data.branch, data.environment, data.tags, path)
    return DiffSide(run, snapshot.metrics.flat())


def show_diff(a: DiffSide, b: DiffSide, format: str) -> None:
    """Print two snapshots side by side."""
    keys = sorted({**a.values, **b.values}, key=lambda key: (key.startswith("custom."), key))
    if format == "json":
        rows = [{"key": key, **_diff_fields(a.values.get(key), b.values.get(key))} for key in keys]
        click.echo(json.dumps({"a": str(a.run.path), "b": str(b.run.path), "metrics": rows}, indent=2))
        return
    console = wide_console()
    for name, side in (("A", a), ("B", b)):
        run = side.run
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
        before, after = a.values.get(key), b.values.get(key)
        values = ["" if value is None else format_measurement(key, value) for value in (before, after)]
        add_cells(table, key, *values, change(before, after))
    console.print(table)
    if note := mixed_timers([a.run, b.run]):
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
    percent = _percent(before, after)
    if math.isinf(percent):
        return "from nearly 0"
    if abs(percent) < 0.05:
        return f"{percent:+.1g} %"
    return f"{percent:+,.1f} %" if abs(percent) < 1e6 else f"{percent:+.1e} %"


def _percent(before: float, after: float) -> float:
    return (after - before) / before * 100


def _diff_fields(before: float | None, after: float | None) -> dict[str, Any]:
    percent = None
    if before is not None and after is not None:
        percent = 0.0 if before == after else _percent(before, after) if before else None
        if percent is not None and math.isinf(percent):
            percent = None
    return {"a": before, "b": after, "change_percent": percent}
