"""What ``metrics-framework diff`` shows: two snapshots, measurement by measurement, without a verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metrics_framework.cli.history import mixed_timers, open_history
from metrics_framework.cli.numbers import measured
from metrics_framework.cli.tables import visible
from metrics_framework.errors import OutputError
from metrics_framework.snapshots import Run, read_snapshot


@dataclass(frozen=True)
class Side:
    """One of two snapshots.

    Attributes:
        run: Whose it is.
        values: What it measured, by flat key.
    """

    run: Run
    values: Mapping[str, float] = field(default_factory=dict)


def read_side(path: Path) -> Side:
    """Read a snapshot, or the newest of a folder or of a file with one a line.

    Raises:
        OutputError: If there is none, or it cannot be read.
        SnapshotError: If the file is no snapshot.
    """
    if path.is_dir() or path.suffix == ".jsonl":
        newest = open_history(path).where(last=1).measurements()
        if not newest:
            raise OutputError("holds no snapshot")
        return Side(*newest[0])
    snapshot = read_snapshot(path)
    said = snapshot.metadata
    run = Run(said.run_id, said.timestamp, said.commit, said.branch, said.environment, said.tags, path)
    return Side(run, snapshot.metrics.flat())


def show_diff(a: Side, b: Side, format: str) -> None:
    """Print two snapshots side by side."""
    keys = sorted({**a.values, **b.values}, key=lambda key: (key.startswith("custom."), key))
    if format == "json":
        rows = [{"key": key, **_plain(a.values.get(key), b.values.get(key))} for key in keys]
        click.echo(json.dumps({"a": str(a.run.path), "b": str(b.run.path), "metrics": rows}, indent=2))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # nobody's lines are broken for a terminal that is not there
    for name, side in (("A", a), ("B", b)):
        run = side.run
        said = (
            f"{run.timestamp:%Y-%m-%d %H:%M}",
            run.branch or "no branch",
            (run.commit or "no commit")[:12],
        )
        console.print(Text(visible(f"{name}  {run.path}  {'  '.join(said)}")), soft_wrap=True)
    table = Table(box=box.SIMPLE)
    table.add_column("metric", overflow="fold")
    for column in ("A", "B", "change"):
        table.add_column(column, justify="right", overflow="fold")
    for key in keys:
        before, after = a.values.get(key), b.values.get(key)
        told = ["" if value is None else measured(key, value) for value in (before, after)]
        table.add_row(*(Text(visible(cell)) for cell in (key, *told, change(before, after))))
    console.print(table)
    if note := mixed_timers([a.run, b.run]):
        click.echo(f"Note: {note}", err=True)


def change(before: float | None, after: float | None) -> str:
    """Return how far a number moved, in percent of what it was.

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


def _plain(before: float | None, after: float | None) -> dict[str, Any]:
    percent = None
    if before is not None and after is not None:
        percent = 0.0 if before == after else _percent(before, after) if before else None
        if percent is not None and math.isinf(percent):
            percent = None
    return {"a": before, "b": after, "change_percent": percent}
