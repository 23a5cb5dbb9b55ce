"""``metrics-framework run``: measures a command through the facade and its Protocols."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Protocol, cast

from rich.console import Console

from metrics_framework.batch.progress import Progress, make_progress
from metrics_framework.cli.output import (
    add_label,
    format_count,
    format_duration,
    format_number,
    label_table,
    print_failure,
    sparkline,
)
from metrics_framework.clock import SYSTEM_CLOCK
from metrics_framework.plugins import load_adapter
from metrics_framework.protocols import ResourceMonitor
from metrics_framework.snapshots import PerformanceSnapshot
from metrics_framework.system import MetricsSystem
from metrics_framework.values import MetricUnit

_MAX_FAILURE_LINES = 10


class CommandResult(Protocol):
    """One finished run, as the adapter ``resources.command`` reports it."""

    @property
    def seconds(self) -> float:
        """Duration of the run."""
        ...

    @property
    def peak_rss(self) -> int:
        """Peak resident memory of the command and its child processes, in bytes."""
        ...

    @property
    def exit_code(self) -> int:
        """Exit code, or minus the number of the signal that ended the command."""
        ...

    @property
    def error_output(self) -> str:
        """The end of standard error."""
        ...


class CommandRunner(ResourceMonitor, Protocol):
    """A monitor that runs the command that it measures: the adapter ``resources.command``. Thread-safe."""

    def run(
        self, command: Sequence[str], *, timeout: float | None = None, cancelled: Event | None = None
    ) -> CommandResult:
        """Run the command once and measure it."""
        ...


def make_runner() -> CommandRunner:
    """Return a new runner, without earlier measurements."""
    return cast(CommandRunner, load_adapter("resources.command")())


@dataclass
class CommandMeasurement:
    """The measured runs of a command.

    Attributes:
        name: The operation under which the runs are recorded.
        system: The system that recorded them.
        milliseconds: Durations of the finished runs, in order.
        failures: How many of them failed.
        interrupted: Whether Ctrl-C ended the measurement.
    """

    name: str
    system: MetricsSystem
    milliseconds: list[float] = field(default_factory=list)
    failures: int = 0
    interrupted: bool = False

    @property
    def runs(self) -> int:
        """Number of finished runs."""
        return len(self.milliseconds)


def measure(command: Sequence[str], *, name: str, runs: int, warmup: int) -> CommandMeasurement:
    """Run a command ``warmup`` times, then ``runs`` times, and record only the latter.

    Progress is shown on standard error. Ctrl-C ends the measurement; finished runs are kept.

    Raises:
        InvalidInputError: If the command cannot be started.
    """
    progress = make_progress(name, warmup + runs, SYSTEM_CLOCK, last_line=False)
    failures = 0
    try:
        try:
            runner = make_runner()
            for number in range(1, warmup + 1):
                result = runner.run(command)
                failures += result.exit_code != 0
                _show(progress, "warm-up", result, number, failures)
        except KeyboardInterrupt:
            return CommandMeasurement(name, MetricsSystem(), interrupted=True)
        # Created after the warm-up, because a snapshot's start time and peak memory are those of its system.
        runner = make_runner()
        measurement = CommandMeasurement(name, MetricsSystem(resource_monitor=runner, latency_metric=name))
        try:
            for number in range(1, runs + 1):
                result = runner.run(command)
                _record(measurement, result)
                _show(progress, f"run {number}", result, warmup + number, failures + measurement.failures)
        except KeyboardInterrupt:
            measurement.interrupted = True
    finally:
        progress.stop()
    return measurement


def _record(measurement: CommandMeasurement, result: CommandResult) -> None:
    name, system = measurement.name, measurement.system
    system.collector.record_timer(name, result.seconds, MetricUnit.SECONDS)
    measurement.milliseconds.append(result.seconds * 1e3)
    if result.exit_code == 0:
        system.tracker.record_success(name)
    else:
        system.tracker.record_failure(name, describe_exit(result.exit_code))
        measurement.failures += 1


def _show(progress: Progress, step: str, result: CommandResult, done: int, failures: int) -> None:
    if result.exit_code:
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
    if measurement.runs > 1:
        add_label(table, "run by run", sparkline(measurement.milliseconds))
    Console().print(table)
