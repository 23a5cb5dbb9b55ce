"""``metrics-framework run``: measures commands through the facade and its Protocols."""

from __future__ import annotations

import re
import shlex
import signal
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event
from typing import IO, Any, Protocol, cast

from rich.console import Console

from metrics_framework.batch.progress import Progress, ProgressLines, make_progress
from metrics_framework.cli.output import add_label, label_table, print_failure, sparkline
from metrics_framework.clock import SYSTEM_CLOCK
from metrics_framework.errors import InvalidInputError, reason_of
from metrics_framework.plugins import load_adapter
from metrics_framework.protocols import ResourceMonitor
from metrics_framework.snapshots import PerformanceSnapshot
from metrics_framework.snapshots.formatting import format_count, format_duration, format_number
from metrics_framework.system import AnySystem, MetricsSystem
from metrics_framework.values import CommandRun, MetricUnit

_MAX_FAILURE_LINES = 10
_OUTPUT_TARGETS = {"pipe": subprocess.PIPE, "null": subprocess.DEVNULL, "inherit": None}

OUTLIER_SCORE = 14.826
"""From this modified Z-score on, a run is an outlier, as for hyperfine: 10 standard deviations."""

_MIN_SCORED_RUNS = 5


class CommandRunner(ResourceMonitor, Protocol):
    """A monitor that runs the command that it measures: the adapter ``resources.command``. Thread-safe."""

    def run(
        self,
        command: Sequence[str],
        *,
        stdout: int | IO[Any] | None = subprocess.PIPE,
        timeout: float | None = None,
        cancelled: Event | None = None,
    ) -> CommandRun:
        """Run the command once and measure it."""
        ...

    def renewed(self) -> CommandRunner:
        """Return a runner without measurements, which takes over the processes that start commands."""
        ...


def make_runner() -> CommandRunner:
    """Return a new runner, without earlier measurements."""
    return cast(CommandRunner, load_adapter("resources.command")())


# -- what is measured --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Benchmark:
    """A command to measure. ``{NAME}`` is replaced by the value of the parameter ``NAME``.

    Attributes:
        command: The program and its arguments.
        name: The operation under which the runs are recorded.
        parameters: The value of each parameter.
        prepare: A shell command that runs before each run.
        output_to: The target of standard output: ``pipe``, ``null``, ``inherit`` or a file.
        ignores_failure: Whether a run with a non-zero exit code is a success.
    """

    command: Sequence[str]
    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    prepare: str | None = None
    output_to: str = "pipe"
    ignores_failure: bool = False

    def fill(self, text: str | None) -> str | None:
        """Replace the parameters in a text."""
        return None if text is None else _fill(text, self.parameters)


def plan_benchmarks(
    commands: Sequence[Sequence[str]],
    names: Sequence[str],
    parameters: Mapping[str, Sequence[str]],
    *,
    prepare: str | None = None,
    output_to: str = "pipe",
    ignores_failure: bool = False,
) -> list[Benchmark]:
    """Return a benchmark for each command and each combination of parameter values.

    Args:
        commands: The commands.
        names: A name for each command. By default, a single benchmark has the name of the program, and
            several have their command lines.
        parameters: The values of each parameter.
        prepare: As for `Benchmark`.
        output_to: As for `Benchmark`.
        ignores_failure: As for `Benchmark`.
    """
    choices = [dict(zip(parameters, values, strict=True)) for values in product(*parameters.values())]
    is_single = len(commands) * len(choices) == 1
    benchmarks = []
    for number, command in enumerate(commands):
        for chosen in choices:
            filled = [_fill(part, chosen) for part in command]
            name = Path(filled[0]).name if is_single else shlex.join(filled)
            if names:
                name = _fill(names[number], chosen)
            ready = None if prepare is None else _fill(prepare, chosen)
            benchmarks.append(Benchmark(filled, name, chosen, ready, output_to, ignores_failure))
    return benchmarks


def parse_parameter(text: str) -> list[str]:
    """Return the values of a comma-separated list. A backslash keeps a comma in a value."""
    return [value.replace("\\,", ",") for value in re.split(r"(?<!\\),", text)]


def _fill(text: str, parameters: Mapping[str, str]) -> str:
    # All at once, so that a value that contains braces is not replaced again.
    names = "|".join(map(re.escape, parameters))
    return re.sub(f"{{({names})}}", lambda found: parameters[found[1]], text) if parameters else text


@contextmanager
def opened_output(target: str) -> Iterator[int | IO[Any] | None]:
    """Yield the standard output of one run. A file is written from its start.

    Raises:
        InvalidInputError: If the file cannot be written.
    """
    if target in _OUTPUT_TARGETS:
        yield _OUTPUT_TARGETS[target]
        return
    try:
        file = Path(target).open("wb")  # noqa: SIM115 - an error of the command is not one of opening it
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"cannot write {target!r}: {reason_of(error)}; pass another --output-to"
        ) from error
    with file:
        yield file


# -- measuring ---------------------------------------------------------------------------------------------


@dataclass
class CommandMeasurement:
    """The measured runs of a command.

    Attributes:
        name: The operation under which the runs are recorded.
        system: The system that recorded them.
        milliseconds: Durations of the finished runs, in order.
        failures: How many of them failed.
        ignored: How many of the others had which non-zero exit code, in words.
        interrupted: Whether Ctrl-C ended the measurement.
        runner: The runner that ran them, which is warm.
    """

    name: str
    system: AnySystem
    milliseconds: list[float] = field(default_factory=list)
    failures: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    interrupted: bool = False
    runner: CommandRunner = field(default_factory=make_runner)

    @property
    def runs(self) -> int:
        """Number of finished runs."""
        return len(self.milliseconds)


def make_run_progress(title: str, total: int, output_to: str) -> Progress:
    """Return the progress display of measured runs, on standard error."""
    if output_to == "inherit":  # a bar would be drawn into the output
        return ProgressLines(title, total, SYSTEM_CLOCK, sys.stderr, last_line=False)
    return make_progress(title, total, SYSTEM_CLOCK, last_line=False)


def measure(
    benchmark: Benchmark,
    *,
    runs: int,
    warmup: int,
    runner: CommandRunner | None = None,
    progress: Progress | None = None,
    label: str = "",
) -> CommandMeasurement:
    """Run a command ``warmup`` times, then ``runs`` times, and record only the latter.

    Progress is shown on standard error. Ctrl-C ends the measurement; finished runs are kept.

    Args:
        benchmark: The command.
        runs: The number of measured runs.
        warmup: The number of runs before them.
        runner: A runner that is warm: the measured runs are those of `CommandRunner.renewed`.
        progress: A progress display of several measurements, which is not stopped; by default a new one.
        label: What the runs belong to, for the messages on failed runs.

    Raises:
        InvalidInputError: If the command cannot be started, its preparation fails, or its output cannot be
            written.
    """
    name, prefix = benchmark.name, f"{label}, " if label else ""
    shown = progress or make_run_progress(name, warmup + runs, benchmark.output_to)
    failures = 0
    runner = runner or make_runner()
    try:
        try:
            for number in range(1, warmup + 1):
                result = _run(runner, benchmark)
                failures += _is_failure(benchmark, result)
                _show(shown, benchmark, f"{prefix}warm-up", result, number, failures)
        except KeyboardInterrupt:
            return CommandMeasurement(name, MetricsSystem(), interrupted=True, runner=runner)
        # Created after the warm-up, because a snapshot's start time and peak memory are those of its system.
        runner = runner.renewed()
        system = MetricsSystem(resource_monitor=runner, latency_metric=name)
        measurement = CommandMeasurement(name, system, runner=runner)
        try:
            for number in range(1, runs + 1):
                result = _run(runner, benchmark)
                _record(measurement, benchmark, result)
                step, all_failures = f"{prefix}run {number}", failures + measurement.failures
                _show(shown, benchmark, step, result, warmup + number, all_failures)
        except KeyboardInterrupt:
            measurement.interrupted = True
    finally:
        if progress is None:
            shown.stop()
    return measurement


def _run(runner: CommandRunner, benchmark: Benchmark) -> CommandRun:
    if benchmark.prepare is not None:
        _prepare(benchmark.prepare)
    with opened_output(benchmark.output_to) as stdout:
        return runner.run(benchmark.command, stdout=stdout)


def _prepare(command: str) -> None:
    with TemporaryFile() as errors:  # not a pipe, which a background process such as a server keeps open
        done = subprocess.run(  # noqa: S602 - the user's own command line
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            check=False,
        )
        errors.seek(0)
        last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
    if done.returncode:
        raise InvalidInputError(
            ": ".join([f"--prepare {command!r} failed", describe_exit(done.returncode), *last])
        )


def _is_failure(benchmark: Benchmark, result: CommandRun) -> bool:
    """Return whether a run failed. A signal is always a failure, because it is not the command's own exit."""
    return result.exit_code != 0 and not (benchmark.ignores_failure and result.exit_code > 0)


def _record(measurement: CommandMeasurement, benchmark: Benchmark, result: CommandRun) -> None:
    name, system = measurement.name, measurement.system
    system.collector.record_timer(name, result.seconds, MetricUnit.SECONDS)
    measurement.milliseconds.append(result.seconds * 1e3)
    if _is_failure(benchmark, result):
        system.tracker.record_failure(name, describe_exit(result.exit_code))
        measurement.failures += 1
        return
    system.tracker.record_success(name)
    if result.exit_code:
        measurement.ignored[describe_exit(result.exit_code)] += 1


def _show(
    progress: Progress, benchmark: Benchmark, step: str, result: CommandRun, done: int, failures: int
) -> None:
    if _is_failure(benchmark, result):
        headline = f"{step} failed: {describe_exit(result.exit_code)}"
        print_failure(progress, headline, result.error_output, _MAX_FAILURE_LINES)
    progress.update(done, failures, f"last {format_duration(result.seconds * 1e3)}")


def describe_exit(code: int) -> str:
    """Return an exit code in words: ``exit code 3``, or ``signal SIGKILL``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def noise_warning(milliseconds: Sequence[float], *, warmup: bool, prepare: bool) -> str | None:
    """Return a warning if the first run or other runs are outliers, by the rules of hyperfine.

    The modified Z-score of a run is its distance from the median, in median absolute deviations.

    Args:
        milliseconds: The durations in the order of the runs. Fewer than five are not judged.
        warmup: Whether there were warm-up runs.
        prepare: Whether there was a preparation.

    Example:
        >>> noise_warning([10.0, 10.1, 9.9, 10.2, 10.0], warmup=False, prepare=False)
    """
    if len(milliseconds) < _MIN_SCORED_RUNS:
        return None
    median = statistics.median(milliseconds)
    deviation = statistics.median(abs(value - median) for value in milliseconds) or sys.float_info.epsilon
    scores = [(value - median) / deviation for value in milliseconds]
    if scores[0] > OUTLIER_SCORE:
        fill = "more --warmup runs" if warmup else "--warmup 3"
        clear = "check what --prepare clears" if prepare else "clear the caches with --prepare"
        return (
            f"the first run took {format_duration(milliseconds[0])}, the median {format_duration(median)}:"
            f" caches may have been empty. Fill them with {fill}, or {clear} before each run"
        )
    outliers = sum(abs(score) > OUTLIER_SCORE for score in scores)
    if outliers:
        advice = "" if warmup and prepare else ", or with --warmup or --prepare"
        return (
            f"{outliers} of {len(milliseconds)} runs are outliers: other programs may have disturbed them."
            f" Repeat the measurement on a quiet machine{advice}"
        )
    return None


def print_measurement(measurement: CommandMeasurement, snapshot: PerformanceSnapshot) -> None:
    """Print the table of a measured command."""
    summary = measurement.system.aggregator.get_metric_summary(measurement.name)
    metrics = snapshot.metrics
    table = label_table(f"{measurement.name}, {format_count(measurement.runs, 'run')}")
    for key in ("avg", "p50", "p95", "p99", "min", "max"):
        add_label(table, "mean" if key == "avg" else key, format_duration(summary[key]))
    if metrics.throughput is not None:
        add_label(table, "throughput", f"{format_number(metrics.throughput)} runs/s")
    if metrics.memory_mb is not None:
        add_label(table, "peak memory", f"{format_number(metrics.memory_mb)} MB")
    if metrics.cpu_percent is not None:
        cores = format_count(int(measurement.system.resource_monitor.get_cpu_usage()["count"]), "core")
        add_label(table, f"CPU, of {cores}", f"{format_number(metrics.cpu_percent)} %")
    failures = measurement.system.tracker.get_failure_breakdown(measurement.name)
    add_label(table, "failures", format_number(measurement.failures), "bold red" if failures else "")
    for error_type, number in sorted(failures.items()):
        add_label(table, f"  {error_type}", format_number(number), "red")
    for exit_code, number in sorted(measurement.ignored.items()):
        add_label(table, f"{exit_code}, ignored", format_number(number))
    if measurement.runs > 1:
        add_label(table, "run by run", sparkline(measurement.milliseconds))
    Console().print(table)
