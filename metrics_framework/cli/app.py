"""The commands and their options. Their implementation is in the other modules of this package."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from metrics_framework._version import __version__
from metrics_framework.cli.baseline import baseline
from metrics_framework.cli.batch import batch
from metrics_framework.cli.compare import compare
from metrics_framework.cli.diff import DiffSide, read_side, show_diff
from metrics_framework.cli.history import mixed_timers, open_history, show_metric, show_runs
from metrics_framework.cli.imports import import_benchmarks
from metrics_framework.cli.measure import (
    Benchmark,
    CommandMeasurement,
    measure,
    noise_warning,
    parse_parameter,
    plan_benchmarks,
    print_measurement,
)
from metrics_framework.cli.output import EXIT_INTERRUPTED
from metrics_framework.cli.report import report
from metrics_framework.cli.serve import serve
from metrics_framework.cli.snapshots import (
    INTERRUPTED_TAG,
    parse_pairs,
    parse_tags,
    print_snapshot,
    save,
    snapshot_options,
)
from metrics_framework.cli.telemetry import telemetry
from metrics_framework.cli.top import top
from metrics_framework.errors import (
    InvalidInputError,
    MetricsError,
    MissingExtraError,
    OutputError,
    SnapshotError,
    reason_of,
)
from metrics_framework.recording.engine import ENGINE
from metrics_framework.runtime.strict_json import to_indented_json
from metrics_framework.snapshots import Environment, read_snapshot
from metrics_framework.snapshots.build import LATENCY_TAG
from metrics_framework.snapshots.distributions import SIDECAR_SUFFIX, read_sidecar
from metrics_framework.snapshots.formatting import format_count, format_number
from metrics_framework.snapshots.provenance import JOB_TAG, RESERVED_TAGS

_DEFAULT_RUNS = 10
_DEFAULT_PAIRS, _DEFAULT_BLOCK_RUNS = 40, 3
"""Small blocks, because noise that lasts longer than a block affects both versions alike. On a busy machine,
100 runs of each version find a change of 24 % in 33 pairs of blocks, 33 % in 20 pairs, and 58 % in 10 pairs.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message=f"%(prog)s, version %(version)s, {ENGINE} engine")
def app() -> None:
    """Measure commands, compare snapshots, run batch jobs, read telemetry, and watch services."""


app.add_command(baseline)
app.add_command(batch)
app.add_command(compare)
app.add_command(import_benchmarks)
app.add_command(report)
app.add_command(serve)
app.add_command(telemetry)
app.add_command(top)


@app.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "-n",
    "--runs",
    type=click.IntRange(1),
    help="Measured executions of each command, or in each block with --against."
    "  [default: 10, or 3 with --against]",
)
@click.option(
    "--warmup",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Executions before them, not measured. Without any, --against executes each command once first.",
)
@click.option(
    "--command",
    "texts",
    multiple=True,
    metavar="TEXT",
    help="Command line to measure in place of COMMAND, without a shell; repeatable, one snapshot each.",
)
@click.option(
    "--parameter-list",
    "lists",
    nargs=2,
    multiple=True,
    metavar="NAME V1,V2",
    help="Measure with each value in place of {NAME}; repeatable, all combinations, one snapshot each.",
)
@click.option(
    "--against",
    metavar="COMMAND",
    help="Command line of the baseline, without a shell: measure both versions by turns, and compare them.",
)
@click.option(
    "--pairs",
    type=click.IntRange(2),
    help="With --against: blocks of executions of each version, at most.  [default: 40]",
)
@click.option(
    "--against-commit",
    metavar="COMMIT",
    help="Commit of the baseline, by any name that git knows.  [default: none]",
)
@click.option("--prepare", metavar="COMMAND", help="Shell command to run before each run, not measured.")
@click.option(
    "--output-to",
    default="pipe",
    show_default=True,
    metavar="pipe|null|inherit|FILE",
    help="Target of the standard output of COMMAND; pipe reads and discards it.",
)
@click.option("--ignore-failure", is_flag=True, help="Count runs with a non-zero exit code as successes.")
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Name of the command in the snapshot; once for each --command.  [default: the program's name, or the"
    " command line if there are several]",
)
@snapshot_options
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(
    runs: int | None,
    warmup: int,
    texts: tuple[str, ...],
    lists: tuple[tuple[str, str], ...],
    against: str | None,
    pairs: int | None,
    against_commit: str | None,
    prepare: str | None,
    output_to: str,
    ignore_failure: bool,
    names: tuple[str, ...],
    output: Path,
    tags: tuple[str, ...],
    environment: str | None,
    commit: str | None,
    branch: str | None,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND several times, measure it, and write a snapshot.

    Measures time, peak memory and CPU of the command and its child processes, which are sampled every 50 ms.
    Standard output of the command is read and discarded, because some programs do less work if it is the null
    device. If a run fails, the end of its standard error is shown. A warning is shown if runs are outliers.

    With --against, blocks of runs of two versions are measured by turns. In every other pair of blocks the
    baseline is first, so that a drift of the machine affects both alike. Each block is a snapshot in the
    folder baseline or current under --output. Of 10 pairs or more, half suffice if the verdict is clear.

    \b
    Exit codes:
      0    every run succeeded; with --against, no metric that decides regressed
      1    a run failed (the snapshot is still written), or --against shows a regression
      2    wrong usage, --prepare fails, or the command cannot be started
      130  interrupted by Ctrl-C or SIGTERM (finished runs or pairs are kept)

    \b
    Examples:
      metrics-framework run -n 20 --warmup 2 -- python -c "import json"
      metrics-framework run --command "grep -r a ." --command "rg a"
      metrics-framework run --parameter-list jobs 1,2,4 --prepare "make clean" -- make -j {jobs}
      metrics-framework run --against "../main/build/app job.txt" --pairs 60 -- build/app job.txt
    """  # noqa: D301 - the backspace tells click not to rewrap the paragraph
    parameters = _parse_parameters(lists)
    context = parse_tags(tags, *parameters)
    commands = _commands(command, texts)
    if names and len(names) != len(commands):
        raise click.UsageError(
            f"{format_count(len(names), 'name')} for {format_count(len(commands), 'command')}:"
            " pass --name once for each --command"
        )
    if against is not None:
        if len(commands) > 1 or parameters:
            option = "--parameter-list" if parameters else "several --command"
            raise click.UsageError(
                f"--against compares one command with its baseline: call it once for each, without {option}"
            )
        baseline, current = (
            plan_benchmarks(
                [one],
                names or [Path(commands[0][0]).name],
                {},
                prepare=prepare,
                output_to=output_to,
                ignores_failure=ignore_failure,
            )[0]
            for one in (_split(against, "'--against'"), commands[0])
        )
        try:
            code = _run_against(
                baseline,
                current,
                output,
                tags,
                pairs=pairs or _DEFAULT_PAIRS,
                runs=runs or _DEFAULT_BLOCK_RUNS,
                warmup=warmup,
                environment=environment,
                commit=commit,
                branch=branch,
                against_commit=against_commit,
            )
        except KeyboardInterrupt:  # before the first run, or after the last one
            code = EXIT_INTERRUPTED
        sys.exit(code)
    for option, given in (("--pairs", pairs), ("--against-commit", against_commit)):
        if given is not None:
            raise click.UsageError(f"{option} {given} needs a baseline: pass --against COMMAND too")
    runs = runs or _DEFAULT_RUNS
    filled = " ".join([*(part for parts in commands for part in parts), prepare or "", *names, commit or ""])
    for parameter in parameters:
        if f"{{{parameter}}}" not in filled:
            raise click.UsageError(
                f"the command does not contain {{{parameter}}}: put it in place of the values of"
                f" --parameter-list {parameter}"
            )
    benchmarks = plan_benchmarks(
        commands, names, parameters, prepare=prepare, output_to=output_to, ignores_failure=ignore_failure
    )
    succeeded = True
    for benchmark in benchmarks:
        try:
            measurement = _measure(benchmark, runs, warmup, output)
            if measurement.interrupted:
                done = format_number(measurement.runs)
                click.echo(f"interrupted after {done} of {format_count(runs, 'run')}", err=True)
            written = measurement.runs > 0 and _finish(
                measurement,
                output,
                environment=environment,
                tags={**context, **benchmark.parameters},
                commit=benchmark.fill(commit),
                branch=benchmark.fill(branch),
            )
        except KeyboardInterrupt:  # before the first run, after the last one, or a second time
            sys.exit(EXIT_INTERRUPTED)
        if measurement.interrupted:
            sys.exit(EXIT_INTERRUPTED)
        warning = noise_warning(measurement.milliseconds, warmup=warmup > 0, prepare=prepare is not None)
        if warning:
            click.echo(f"Warning: {warning}", err=True)
        succeeded = succeeded and written and not measurement.failures
    sys.exit(0 if succeeded else 1)


def _commands(command: tuple[str, ...], texts: tuple[str, ...]) -> list[list[str]]:
    if not texts:
        if not command:
            raise click.UsageError("missing command: put it after --, for example: -- sleep 1")
        return [list(command)]
    if command:
        raise click.UsageError(f"both --command and {command[0]!r} are given: pass all commands by --command")
    return [_split(text, "'--command'") for text in texts]


def _split(text: str, option: str) -> list[str]:
    try:
        command = shlex.split(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}", param_hint=option) from error
    if not command:
        raise click.BadParameter(f"{text!r} is empty: pass a command line", param_hint=option)
    return command


def _run_against(
    baseline: Benchmark,
    current: Benchmark,
    output: Path,
    tags: tuple[str, ...],
    *,
    pairs: int,
    runs: int,
    warmup: int,
    environment: str | None,
    commit: str | None,
    branch: str | None,
    against_commit: str | None,
) -> int:
    try:
        from metrics_framework.cli import against
    except MissingExtraError as error:
        raise click.UsageError(str(error)) from error
    context = parse_tags(tags, *against.OWN_TAGS)
    for tag in against.OWN_TAGS:
        if tag in context:
            raise click.BadParameter(
                f"the tag {tag!r} is set by --against: pass another key", param_hint="'--tag'"
            )
    folders = [output / side for side in (against.BASELINE, against.CURRENT)]
    for folder in folders:
        _make_folder(folder)
        if next(folder.glob("*.json"), None) is not None:
            raise click.UsageError(
                f"{str(folder)!r} has snapshots already, which would be mixed with the new ones: pass another"
                " --output, or remove the folder"
            )
    origins = against.find_provenances(commit, branch, against_commit)
    plan = against.AgainstPlan(
        against.Side(against.BASELINE, baseline, folders[0], origins[0]),
        against.Side(against.CURRENT, current, folders[1], origins[1]),
        pairs,
        runs,
        warmup,
        environment,
        {JOB_TAG: against.new_job(), **context},
    )
    try:
        return against.run_against(plan)
    except InvalidInputError as error:
        raise click.UsageError(str(error)) from error


def _parse_parameters(lists: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    parameters: dict[str, list[str]] = {}
    for name, values in lists:
        if not name or name in parameters:
            fault = "given twice: pass all values in one list" if name else "empty: pass a name"
            raise click.BadParameter(f"name {name!r} is {fault}", param_hint="'--parameter-list'")
        if name in RESERVED_TAGS:
            raise click.BadParameter(
                f"name {name!r} is that of a tag with a meaning of its own: pass another name",
                param_hint="'--parameter-list'",
            )
        parameters[name] = parse_parameter(values)
    return parameters


def _measure(benchmark: Benchmark, runs: int, warmup: int, output: Path) -> CommandMeasurement:
    _make_folder(output)
    try:
        return measure(benchmark, runs=runs, warmup=warmup)
    except InvalidInputError as error:
        raise click.UsageError(str(error)) from error


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)  # fail now, not after an hour of measuring
    except OSError as error:
        raise click.UsageError(
            f"cannot create the folder {str(output)!r}: {reason_of(error)}; pass another --output"
        ) from error


def _finish(
    measurement: CommandMeasurement,
    output: Path,
    *,
    environment: str | None,
    tags: dict[str, str],
    commit: str | None,
    branch: str | None,
) -> bool:
    if measurement.interrupted:
        tags = {**tags, INTERRUPTED_TAG: "true"}
    snapshot, report = measurement.system.build_snapshot(
        environment=environment, tags=tags, commit=commit, branch=branch
    )
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
        click.echo(to_indented_json(snapshot.to_dict()))
    else:
        print_snapshot(snapshot)


@app.command()
@click.argument("source", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@click.argument("metric", required=False)
@click.option("--branch", help="Only runs of this branch.")
@click.option(
    "--commit", help="Only runs of this commit, or head of a pull request; seven digits are enough."
)
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
