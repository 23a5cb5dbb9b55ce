"""``metrics-framework report``: the comparison of two groups of snapshots as an HTML file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from metrics_framework.cli.compare import (
    EXIT_UNDECIDED,
    EXIT_USAGE,
    Selection,
    TwoSidedCommand,
    comparison_options,
)
from metrics_framework.cli.history import open_history
from metrics_framework.cli.output import escape_control
from metrics_framework.errors import MetricsError, OutputError
from metrics_framework.runtime.atomic_files import replace_file

if TYPE_CHECKING:
    from metrics_framework.snapshots import Run

MAX_HISTORY_RUNS = 1_000
"""Most runs of a history that are read for the charts, the newest."""


@click.command(cls=TwoSidedCommand)
@comparison_options
@click.option(
    "-o",
    "--output",
    default="report.html",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The HTML file, which is replaced if it exists.",
)
def report(selection: Selection, output: Path) -> None:
    """Write a report on CURRENT against BASE as one HTML file.

    It takes what metrics-framework compare takes, and has the same verdicts, the distributions of both sides,
    the history of each metric with its shifts, and the context of the runs. The file needs no network and no
    scripts, so that it can be an artifact of a job or an attachment of a mail. The command prints the path,
    and the conclusion on standard error.

    \b
    Exit codes:
      0  the report is written, whatever it says
      1  the report cannot be written
      2  wrong usage, or a file cannot be read
      3  a side has no runs

    \b
    Examples:
      metrics-framework report before/ -- after/ -o report.html
      metrics-framework report --history snapshots --branch main new.json
    """  # noqa: D301 - the backspace tells click not to rewrap the paragraph
    found, sides = selection.compare()
    if not sides.are_complete:
        _fail("; ".join(sides.notes), EXIT_UNDECIDED)
    earlier: Sequence[tuple[Run, Mapping[str, float]]] = ()
    try:
        if selection.history is not None:
            chosen = open_history(selection.history).where(branch=selection.branch, last=MAX_HISTORY_RUNS)
            earlier = chosen.measurements()
        from metrics_framework.report import render_report  # slow to import

        text = render_report(found, sides.baseline, sides.current, earlier)
    except MetricsError as fault:
        _fail(str(fault), EXIT_USAGE)
    try:
        replace_file(output, text.encode())
    except OutputError as fault:
        _fail(str(fault), 1)
    from metrics_framework.cli.compare_formats import Report  # slow to import

    click.echo(escape_control(Report(found, sides, show_all=False).conclusion()), err=True)
    click.echo(output)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(escape_control(f"Error: {message}"), err=True)
    sys.exit(code)
