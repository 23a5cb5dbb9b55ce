"""Measuring a command, as any user of the library would: through the facade and its Protocols."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from rich.console import Console

from metrics_framework.cli.progress import Progress
from metrics_framework.plugins import load_adapter
from metrics_framework.protocols import ResourceMonitor
from metrics_framework.system import AnySystem, MetricsSystem
from metrics_framework.values import MetricUnit


class CommandRun(Protocol):
    """One finished run, as the adapter ``resources.command`` reports it."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        ...

    @property
    def exit_code(self) -> int:
        """What it exited with; minus the number of the signal that ended it."""
        ...

    @property
    def error_output(self) -> str:
        """The end of its standard error."""
        ...


class CommandMonitor(ResourceMonitor, Protocol):
    """A monitor of a command that it runs itself."""

    def run(self, command: Sequence[str]) -> CommandRun:
        """Run the command once and measure it."""
        ...


@dataclass
class Measurement:
    """What was measured of a command, and how far it got.

    Attributes:
        name: The operation that the runs were recorded as.
        system: Where they were recorded.
        milliseconds: How long each run that ended took, in their order.
        failures: How many of them failed.
        interrupted: Whether Ctrl-C ended the measuring.
    """

    name: str
    system: AnySystem
    milliseconds: list[float] = field(default_factory=list)
    failures: int = 0
    interrupted: bool = False

    @property
    def runs(self) -> int:
        """How many runs ended."""
        return len(self.milliseconds)


def measure(command: Sequence[str], *, name: str, runs: int, warmup: int) -> Measurement:
    """Run a command ``warmup`` and then ``runs`` times and record each of the latter.

    Progress goes to standard error. Ctrl-C ends the measuring; the runs that had ended are kept.

    Raises:
        InvalidInputError: If the command cannot be started.
    """
    console = Console(stderr=True)
    with Progress(console, name, warmup + runs) as progress:
        try:
            for _ in range(warmup):
                run = _monitor().run(command)
                if run.exit_code:
                    progress.say(f"warm-up failed: {describe_exit(run.exit_code)}", run.error_output)
                progress.advance("warm-up", run.seconds)
        except KeyboardInterrupt:
            return Measurement(name, MetricsSystem(), interrupted=True)
        # Made after the warm-up: the run that a snapshot speaks of begins here.
        monitor = _monitor()
        measurement = Measurement(name, MetricsSystem(resource_monitor=monitor, latency_metric=name))
        try:
            for _ in range(runs):
                _record(measurement, monitor.run(command), progress)
        except KeyboardInterrupt:
            measurement.interrupted = True
    return measurement


def _monitor() -> CommandMonitor:
    return cast(CommandMonitor, load_adapter("resources.command")())


def _record(measurement: Measurement, run: CommandRun, progress: Progress) -> None:
    name, system = measurement.name, measurement.system
    system.collector.record_timer(name, run.seconds, MetricUnit.SECONDS)
    measurement.milliseconds.append(run.seconds * 1e3)
    if run.exit_code == 0:
        system.tracker.record_success(name)
    else:
        error_type = describe_exit(run.exit_code)
        system.tracker.record_failure(name, error_type)
        measurement.failures += 1
        progress.say(f"run {measurement.runs} failed: {error_type}", run.error_output)
    progress.advance(f"run {measurement.runs}", run.seconds)


def describe_exit(code: int) -> str:
    """Return what an exit code says: ``exit code 3``, or ``signal SIGKILL``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
