"""The commands and their options; what they do is in the modules beside this one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from metrics_framework._version import __version__
from metrics_framework.cli.batch import batch
from metrics_framework.cli.diff import Side, read_side, show_diff
from metrics_framework.cli.exit_codes import INTERRUPTED
from metrics_framework.cli.history import mixed_timers, open_history, show_metric, show_runs
from metrics_framework.cli.measure import Measurement, measure
from metrics_framework.cli.snapshots import INTERRUPTED_TAG, parse_pairs, parse_tags, save
from metrics_framework.cli.tables import print_measurement, print_snapshot
from metrics_framework.cli.telemetry import telemetry
from metrics_framework.errors import InvalidInputError, MetricsError, SnapshotError
from metrics_framework.recording.engine import ENGINE
from metrics_framework.snapshots import Environment, read_snapshot
from metrics_framework.snapshots.build import LATENCY_TAG
from metrics_framework.snapshots.distributions import SIDECAR_SUFFIX, read_sidecar


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message=f"%(prog)s, version %(version)s, {ENGINE} engine")
def app() -> None:
    """Measure commands, check, show and compare performance snapshots, run batches, and read telemetry."""


app.add_command(batch)
app.add_command(telemetry)


@app.command(context_settings={"allow_interspersed_args": False})
@click.option("-n", "--runs", default=10, show_default=True, type=click.IntRange(1), help="Measured runs.")
@click.option(
    "--warmup", default=0, show_default=True, type=click.IntRange(0), help="Runs before, not measured."
)
@click.option(
    "--output",
    default="snapshots",
    show_default=True,
    type=click.Path(file_okay=False, writable=True, path_type=Path),
    help="Folder that the snapshot is written into.",
)
@click.option("--name", help="What the command is called in the snapshot.  [default: the program's name]")
@click.option(
    "--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Context for the snapshot; repeatable."
)
@click.option(
    "--environment",
    type=click.Choice([environment.value for environment in Environment]),
    help="Where this runs.  [default: ci under CI, else local]",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    runs: int,
    warmup: int,
    output: Path,
    name: str | None,
    tags: tuple[str, ...],
    environment: str | None,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND several times, measure it, and write a snapshot.

    Time, peak memory and CPU are those of the command and the processes that it starts, which are looked
    at every 50 ms. Its standard output is discarded; of a run that fails, the end of its standard error is
    shown.

    \b
    Exit codes:
      0    every run succeeded
      1    a run failed (the snapshot is written all the same)
      2    wrong usage, or a command that cannot be started
      130  interrupted, by Ctrl-C or SIGTERM (the snapshot holds the runs that had ended)

    Example: metrics-framework run -n 20 --warmup 2 -- python -c "import json"
    """  # noqa: D301 - click looks for the character, which keeps it from filling the paragraph
    context = parse_tags(tags)
    try:
        measurement = _measure(command, name or Path(command[0]).name, runs, warmup, output)
        written = measurement.runs > 0 and _finish(measurement, output, environment, context)
    except KeyboardInterrupt:  # before the first run, after the last one, or a second time
        sys.exit(INTERRUPTED)
    if measurement.interrupted:
        sys.exit(INTERRUPTED)
    sys.exit(0 if written and not measurement.failures else 1)


def _measure(command: tuple[str, ...], name: str, runs: int, warmup: int, output: Path) -> Measurement:
    try:
        output.mkdir(parents=True, exist_ok=True)  # better said now than after an hour of measuring
        return measure(command, name=name, runs=runs, warmup=warmup)
    except OSError as error:
        raise click.UsageError(f"cannot make the folder {str(output)!r}: {error.strerror}") from error
    except InvalidInputError as error:
        raise click.UsageError(str(error)) from error


def _finish(measurement: Measurement, output: Path, environment: str | None, tags: dict[str, str]) -> bool:
    if measurement.interrupted:
        tags = {**tags, INTERRUPTED_TAG: "true"}
    snapshot, report = measurement.system.build_snapshot(environment=environment, tags=tags)
    saved = save(snapshot, output, report.distributions)
    print_measurement(measurement, snapshot)
    return saved.say()


@app.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def validate(files: tuple[Path, ...]) -> None:
    """Check FILES against the v1 schema: a line for each rule that is broken.

    Sidecars, whose names end in .dist, are checked as what they are.

    \b
    Exit codes:
      0  every file is a valid v1 snapshot or sidecar
      1  at least one is not, or cannot be read
    """  # noqa: D301 - as above
    failed = False
    for file in files:
        try:
            if file.suffix == SIDECAR_SUFFIX:
                held = f"{len(read_sidecar(file))} distributions"
            else:
                held = f"{len(read_snapshot(file).metrics.flat())} measurements"
        except MetricsError as error:
            failed = True
            for line in _lines(error):
                click.echo(f"{file}: {line}", err=True)
        else:
            click.echo(f"{file}: valid, {held}")
    sys.exit(1 if failed else 0)


@app.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--json", "as_json", is_flag=True, help="Print the snapshot as JSON, with every default filled in."
)
def show(file: Path, as_json: bool) -> None:
    """Show the snapshot in FILE as a table."""
    try:
        snapshot = read_snapshot(file)
    except MetricsError as error:
        for line in _lines(error):
            click.echo(f"{file}: {line}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(snapshot.to_dict(), indent=2))
    else:
        print_snapshot(snapshot)


@app.command()
@click.argument("source", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@click.argument("metric", required=False)
@click.option("--branch", help="Runs of this branch.")
@click.option("--commit", help="Runs of this commit; seven digits are enough.")
@click.option(
    "--environment",
    type=click.Choice([environment.value for environment in Environment]),
    help="Runs that took place there.",
)
@click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="KEY=VALUE",
    help="Runs with this tag in their metadata; repeatable.",
)
@click.option("--last", type=click.IntRange(1), metavar="N", help="The newest N of those.")
@click.option(
    "--format",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="How to print it.",
)
def history(
    source: Path,
    metric: str | None,
    branch: str | None,
    commit: str | None,
    environment: str | None,
    tags: tuple[str, ...],
    last: int | None,
    format: str,
) -> None:
    """Show the snapshots in DIR run by run: METRIC as a chart, or which runs and metrics there are.

    DIR may also be a file with a snapshot a line, such as FlameIQ's history.jsonl. METRIC is a key like
    latency.p95 or custom.payload/size/mean, or a name as it was recorded. Without a terminal the chart is a
    line for each run. Files that are no snapshots are named on standard error and left alone.

    \b
    Exit codes:
      0  something was shown
      1  there is no such run or metric

    Example: metrics-framework history snapshots latency.p95 --branch main --last 50
    """  # noqa: D301 - as above
    asked = open_history(source)
    try:
        for file in asked.left_out():
            click.echo(f"{file.path}: left out: {file.reason}", err=True)
        chosen = asked.where(
            branch=branch, commit=commit, environment=environment, tags=parse_pairs(tags), last=last
        )
        runs = show_runs(chosen, format) if metric is None else show_metric(chosen, metric, format)
    except MetricsError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    if not runs:
        click.echo(f"{source}: no such runs" if asked.runs() else f"{source}: holds no snapshot", err=True)
        sys.exit(1)
    is_of_timer = metric is None or metric.startswith("latency.") or metric == "throughput"
    if is_of_timer and (note := mixed_timers(runs)):
        click.echo(f"Note: {note}; --tag {LATENCY_TAG}=… chooses one", err=True)


@app.command()
@click.argument("a", type=click.Path(exists=True, path_type=Path))
@click.argument("b", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--format",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print it.",
)
def diff(a: Path, b: Path, format: str) -> None:
    """Show the snapshots A and B side by side, and how far each measurement moved, in percent of A.

    Each is a file, or a folder, whose newest snapshot is taken. There is no verdict.

    \b
    Exit codes:
      0  both were shown
      1  one is no valid snapshot
    """  # noqa: D301 - as above
    show_diff(_side(a), _side(b), format)


def _side(path: Path) -> Side:
    try:
        return read_side(path)
    except MetricsError as error:
        for line in _lines(error):
            click.echo(f"{path}: {line}", err=True)
        sys.exit(1)


def _lines(error: MetricsError) -> tuple[str, ...]:
    return error.violations if isinstance(error, SnapshotError) else (str(error),)
