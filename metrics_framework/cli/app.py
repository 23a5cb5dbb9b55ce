"""The commands and their options. Their implementation is in the other modules of this package."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from metrics_framework._version import __version__
from metrics_framework.cli.batch import batch
from metrics_framework.cli.diff import DiffSide, read_side, show_diff
from metrics_framework.cli.history import mixed_timers, open_history, show_metric, show_runs
from metrics_framework.cli.measure import CommandMeasurement, measure, print_measurement
from metrics_framework.cli.output import EXIT_INTERRUPTED, format_count
from metrics_framework.cli.snapshots import (
    INTERRUPTED_TAG,
    parse_pairs,
    parse_tags,
    print_snapshot,
    save,
    snapshot_options,
)
from metrics_framework.cli.telemetry import telemetry
from metrics_framework.errors import InvalidInputError, MetricsError, OutputError, SnapshotError
from metrics_framework.recording.engine import ENGINE
from metrics_framework.snapshots import Environment, read_snapshot
from metrics_framework.snapshots.build import LATENCY_TAG
from metrics_framework.snapshots.distributions import SIDECAR_SUFFIX, read_sidecar


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message=f"%(prog)s, version %(version)s, {ENGINE} engine")
def app() -> None:
    """Measure commands, compare performance snapshots, run batch jobs, and read telemetry."""


app.add_command(batch)
app.add_command(telemetry)


@app.command(context_settings={"allow_interspersed_args": False})
@click.option("-n", "--runs", default=10, show_default=True, type=click.IntRange(1), help="Measured runs.")
@click.option(
    "--warmup", default=0, show_default=True, type=click.IntRange(0), help="Warm-up runs, not measured."
)
@snapshot_options
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

    Measures time, peak memory and CPU of the command and its child processes, which are sampled every 50 ms.
    Standard output of the command is discarded. If a run fails, the end of its standard error is shown.

    \b
    Exit codes:
      0    every run succeeded
      1    a run failed (the snapshot is still written)
      2    wrong usage, or the command cannot be started
      130  interrupted by Ctrl-C or SIGTERM (the snapshot holds the finished runs)

    \b
    Example:
      metrics-framework run -n 20 --warmup 2 -- python -c "import json"
    """  # noqa: D301 - the backspace tells click not to rewrap the paragraph
    context = parse_tags(tags)
    try:
        measurement = _measure(command, name or Path(command[0]).name, runs, warmup, output)
        written = measurement.runs > 0 and _finish(measurement, output, environment, context)
    except KeyboardInterrupt:  # before the first run, after the last one, or a second time
        sys.exit(EXIT_INTERRUPTED)
    if measurement.interrupted:
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(0 if written and not measurement.failures else 1)


def _measure(command: tuple[str, ...], name: str, runs: int, warmup: int, output: Path) -> CommandMeasurement:
    try:
        output.mkdir(parents=True, exist_ok=True)  # fail now, not after an hour of measuring
        return measure(command, name=name, runs=runs, warmup=warmup)
    except OSError as error:
        raise click.UsageError(
            f"cannot create the folder {str(output)!r}: {error.strerror}; pass another --output"
        ) from error
    except InvalidInputError as error:
        raise click.UsageError(str(error)) from error


def _finish(
    measurement: CommandMeasurement, output: Path, environment: str | None, tags: dict[str, str]
) -> bool:
    if measurement.interrupted:
        tags = {**tags, INTERRUPTED_TAG: "true"}
    snapshot, report = measurement.system.build_snapshot(environment=environment, tags=tags)
    saved = save(snapshot, output, report.distributions)
    print_measurement(measurement, snapshot)
    return saved.report()


@app.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def validate(files: tuple[Path, ...]) -> None:
    """Check FILES against the v1 schema, and print each violation.

    Files whose names end in .dist are checked as sidecars.

    \b
    Exit codes:
      0  every file is a valid v1 snapshot or sidecar
      1  a file is invalid, or cannot be read
    """  # noqa: D301 - as above
    failed = False
    for file in files:
        try:
            if file.suffix == SIDECAR_SUFFIX:
                contents = format_count(len(read_sidecar(file)), "distribution")
            else:
                contents = format_count(len(read_snapshot(file).metrics.flat()), "measurement")
        except MetricsError as error:
            failed = True
            _print_error(file, error)
        else:
            click.echo(f"{file}: valid, {contents}")
    sys.exit(1 if failed else 0)


@app.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the snapshot as JSON, including all defaults.")
def show(file: Path, as_json: bool) -> None:
    """Show the snapshot in FILE as a table.

    \b
    Exit codes:
      0  the snapshot was shown
      1  FILE is not a valid snapshot, or cannot be read
    """  # noqa: D301 - as above
    if file.is_dir():
        raise click.ClickException(
            f"{str(file)!r} is a folder: pass a file in it, or run metrics-framework history {file}"
        )
    if file.suffix == SIDECAR_SUFFIX:
        raise click.ClickException(
            f"{str(file)!r} is the sidecar of a snapshot: pass {str(file.with_suffix('.json'))!r}"
        )
    try:
        snapshot = read_snapshot(file)
    except MetricsError as error:
        _print_error(file, error)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(snapshot.to_dict(), indent=2))
    else:
        print_snapshot(snapshot)


@app.command()
@click.argument("source", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@click.argument("metric", required=False)
@click.option("--branch", help="Only runs of this branch.")
@click.option("--commit", help="Only runs of this commit; seven digits are enough.")
@click.option(
    "--environment",
    type=click.Choice([environment.value for environment in Environment]),
    help="Only runs in this environment.",
)
@click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only runs with this tag in their metadata; repeatable.",
)
@click.option("--last", type=click.IntRange(1), metavar="N", help="Only the newest N of these runs.")
@click.option(
    "--format",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="Output format.",
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
    """Show how METRIC changed over the snapshots in DIR.

    With METRIC, the command draws a chart, or prints a line per run if there is no terminal. Without METRIC,
    it lists all runs and metrics. METRIC is a key like latency.p95 or custom.payload/size/mean, or the name
    under which it was recorded. DIR is a folder, or a file with one snapshot per line such as FlameIQ's
    history.jsonl. Files that are not snapshots are skipped, with a message on standard error.

    \b
    Exit codes:
      0  runs were shown
      1  no run matches, or no run has the metric
      2  wrong usage, or DIR does not exist

    \b
    Example:
      metrics-framework history snapshots latency.p95 --branch main --last 50
    """  # noqa: D301 - as above
    found = open_history(source)
    try:
        for file in found.left_out():
            click.echo(f"{file.path}: skipped: {file.reason}", err=True)
        chosen = found.where(
            branch=branch, commit=commit, environment=environment, tags=parse_pairs(tags), last=last
        )
        runs = show_runs(chosen, format) if metric is None else show_metric(chosen, metric, format)
    except MetricsError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    if not runs:
        fault = "no run matches" if found.runs() else "no snapshot"
        click.echo(f"Error: {fault} in {str(source)!r}", err=True)
        sys.exit(1)
    is_of_timer = metric is None or metric.startswith("latency.") or metric == "throughput"
    if is_of_timer and (note := mixed_timers(runs)):
        click.echo(f"Note: {note}; select one with --tag {LATENCY_TAG}=…", err=True)


@app.command()
@click.argument("a", type=click.Path(exists=True, path_type=Path))
@click.argument("b", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--format",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Output format.",
)
def diff(a: Path, b: Path, format: str) -> None:
    """Show the snapshots A and B side by side.

    A and B are files, or folders, whose newest snapshot is used. Changes are in percent of A. The command
    reports no verdict.

    \b
    Exit codes:
      0  both snapshots were shown
      1  A or B is not a valid snapshot
      2  wrong usage, or A or B does not exist
    """  # noqa: D301 - as above
    show_diff(_side(a), _side(b), format)


def _side(path: Path) -> DiffSide:
    try:
        return read_side(path)
    except MetricsError as error:
        _print_error(path, error)
        sys.exit(1)


def _print_error(path: Path, error: MetricsError) -> None:
    """Print a read error, or each violation of the schema with the path of the file."""
    if isinstance(error, OutputError):
        click.echo(f"Error: {error}", err=True)
        return
    for violation in error.violations if isinstance(error, SnapshotError) else (str(error),):
        click.echo(f"{path}: {violation}", err=True)
