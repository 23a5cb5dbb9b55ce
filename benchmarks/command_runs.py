"""Measured commands: the delay that measuring adds on one core, and `metrics-framework run` beside hyperfine.

A launcher starts the same command in turn by itself, under `CommandMonitor.run`, which samples memory, reads
the output and waits, and under ``metrics-framework run``, whose ``--prepare`` waits for its turn. All
processes share one core, so that the work of the measuring process shows.

hyperfine and `metrics-framework run` measure the same five commands in turn, in rounds, each with a few runs.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import Progress

from benchmarks.tables import Report
from metrics_adapters.resources import CommandMonitor, command
from metrics_framework.snapshots import read_distributions, read_snapshot
from tests.servers.programs import find

TURNS = 120
ROUNDS = 8
ROUND_RUNS = 5
BUSY = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass"
COMMANDS = {
    "a Python start": [sys.executable, "-I", "-S", "-c", "pass"],
    "10 ms of work": [sys.executable, "-I", "-S", "-c", BUSY.format(0.005)],
    "100 ms of work": [sys.executable, "-I", "-S", "-c", BUSY.format(0.1)],
    "1 MB of output": [sys.executable, "-I", "-S", "-c", "print('x' * 1_000_000)"],
}


def main() -> Report:
    """Measure, print, and return the tables."""
    report = Report()
    report.say(
        f"{TURNS} runs ({TURNS // 5} of the long command) in turn, all processes on one core; medians."
    )
    columns = ["launcher alone", "`CommandMonitor.run`", "ratio", "`metrics-framework run`", "ratio"]
    report.table("Command", columns)
    with Progress(console=Console(stderr=True), auto_refresh=False) as progress, _one_core():
        for name, arguments in COMMANDS.items():
            turns = TURNS // 5 if name.startswith("100") else TURNS
            alone, monitored = [], []
            with _launcher() as launch, _CommandLine(arguments, turns) as command_line:
                monitor = CommandMonitor()
                for turn in progress.track(range(turns), description=name):
                    command_line.await_turn()
                    if turn % 2:  # on a busy machine, the first of them gets more of the processor
                        monitored.append(monitor.run(arguments).seconds)
                    alone.append(launch(arguments))
                    if not turn % 2:
                        monitored.append(monitor.run(arguments).seconds)
                    command_line.take_turn()
            medians = list(map(statistics.median, (alone, monitored, command_line.seconds)))
            cells = [f"{medians[0] * 1e3:.2f} ms"]
            for median in medians[1:]:
                cells += [f"{median * 1e3:.2f} ms", f"{median / medians[0]:.3f}"]
            report.row(name, cells)
    hyperfine = find("hyperfine")
    if hyperfine is not None:
        columns = ["hyperfine", "metrics-framework run", "ratio", "of the fastest runs"]
        report.table(f"Mean ± standard error of {ROUNDS} rounds of {ROUND_RUNS} runs", columns)
        with tempfile.TemporaryDirectory() as folder:
            for name, comparison in compare(hyperfine, Path(folder), ROUNDS, ROUND_RUNS).items():
                means = [comparison.mean(times) for times in (comparison.hyperfine, comparison.ours)]
                errors = [comparison.error(times) for times in (comparison.hyperfine, comparison.ours)]
                cells = [f"{mean:.1f} ± {error:.1f} ms" for mean, error in zip(means, errors, strict=True)]
                fastest = comparison.fastest[1] / comparison.fastest[0]
                report.row(f"`{name}`", [*cells, f"{means[1] / means[0]:.3f}", f"{fastest:.3f}"])
    report.show()
    return report


@contextmanager
def _one_core() -> Iterator[None]:
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@dataclass
class Comparison:
    """Milliseconds of one command in each round: the mean of its runs, by either program.

    Attributes:
        hyperfine: The means by hyperfine.
        ours: The means by ``metrics-framework run``.
        fastest: The fastest run by each.
    """

    hyperfine: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    fastest: tuple[float, float] = (math.inf, math.inf)

    @staticmethod
    def mean(times: list[float]) -> float:
        """Return the mean of the rounds."""
        return statistics.fmean(times)

    @staticmethod
    def error(times: list[float]) -> float:
        """Return the standard error of that mean."""
        return float(statistics.stdev(times) / len(times) ** 0.5)


def compare(hyperfine: str, folder: Path, rounds: int, runs: int) -> dict[str, Comparison]:
    """Measure five commands by hyperfine and by ``metrics-framework run``, in turn.

    Args:
        hyperfine: The path of hyperfine.
        folder: An empty folder.
        rounds: How often each program measures all commands.
        runs: The runs of each command in a round.
    """
    text = folder / "text"
    text.write_text("".join(f"{number * 7919 % 100_003} line of text\n" for number in range(100_003)))
    tree = folder / "tree"
    tree.mkdir()
    for number in range(300):
        (tree / f"{number}.txt").write_text(f"{number} line of text\n" * 3_000)
    commands = {
        "grep -r": f"grep -r 99 {tree}",
        "tar cf -": f"tar cf - {tree}",
        "sort": f"sort {text}",
        "gzip -c": f"gzip -c {text}",
        "python -c": f"{sys.executable} -c 'import json'",
    }
    found = {name: Comparison() for name in commands}
    for number in range(rounds):
        out = folder / f"{number}.json"
        options = [
            "-N",
            "--output=pipe",
            "--style=none",
            f"--runs={runs}",
            "--warmup=1",
            f"--export-json={out}",
        ]
        subprocess.run([hyperfine, *options, *commands.values()], check=True, stderr=subprocess.DEVNULL)
        results = json.loads(out.read_text())["results"]
        ours = [sys.executable, "-m", "metrics_framework", "run", "--warmup=1", f"--runs={runs}"]
        ours += [f"--output={folder / str(number)}", *(f"--command={text}" for text in commands.values())]
        subprocess.run(ours, check=True, capture_output=True)
        paths = sorted((folder / str(number)).glob("*.json"))
        for comparison, result, path in zip(found.values(), results, paths, strict=True):
            latency = read_snapshot(path).metrics.latency
            assert latency is not None
            assert latency.mean is not None
            comparison.hyperfine.append(result["mean"] * 1e3)
            comparison.ours.append(latency.mean)
            by_hyperfine, by_us = comparison.fastest
            distribution = read_distributions(path)["latency"]
            comparison.fastest = min(by_hyperfine, result["min"] * 1e3), min(by_us, distribution.min)
    return found


@contextmanager
def _launcher() -> Iterator[Callable[[list[str]], float]]:
    """Yield a function that runs a command under one launcher, unwatched, and returns the seconds."""
    requests_end, requests = os.pipe()
    report, report_end = os.pipe()
    program = [sys.executable, "-I", "-S", str(command._LAUNCHER), str(requests_end), str(report_end)]
    with (
        subprocess.Popen(program, pass_fds=[requests_end, report_end], stdout=subprocess.DEVNULL),
        os.fdopen(report) as lines,
    ):
        os.close(requests_end)
        os.close(report_end)

        def launch(arguments: list[str]) -> float:
            content = b"\0".join(map(os.fsencode, arguments))
            os.write(requests, b"%d\n%b" % (len(content), content))
            return int(lines.readline().split()[2]) / 1e9

        yield launch
        os.close(requests)


class _CommandLine:
    """A process of ``metrics-framework run`` that waits before each run until it is its turn.

    Attributes:
        seconds: The seconds of each run, at the end of the ``with`` block.
    """

    def __init__(self, arguments: list[str], runs: int) -> None:
        self.seconds: list[float] = []
        self._resources = ExitStack()
        self._folder = Path(self._resources.enter_context(tempfile.TemporaryDirectory()))
        self._waits, self._turn = self._folder / "waits", self._folder / "turn"
        os.mkfifo(self._waits)
        os.mkfifo(self._turn)
        prepare = f"echo > {self._waits}; read line < {self._turn}"
        program = [sys.executable, "-m", "metrics_framework", "run", f"--runs={runs}", f"--prepare={prepare}"]
        self._process = subprocess.Popen(
            [*program, f"--output={self._folder}", "--", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        with self._resources:
            if kind is not None:
                self._process.kill()
            self._process.wait()
            for path in self._folder.glob("*.json"):
                values = read_distributions(path)["latency"].state.exact
                assert values is not None
                self.seconds = [value / 1e3 for value in values]

    def await_turn(self) -> None:
        """Wait until the last run has ended."""
        self._waits.read_text()

    def take_turn(self) -> None:
        """Begin the next run."""
        self._turn.write_text("\n")


if __name__ == "__main__":
    main()
