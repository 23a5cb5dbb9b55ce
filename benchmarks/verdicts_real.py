"""The verdicts of `metrics-framework run --against` on a real program that got slower by a known amount.

The program counts in a loop for about 30 ms. Its number of turns is calibrated, so that the whole run, with
the start of the interpreter, takes the given share longer. Each comparison is one call of the command line.

``python -m benchmarks.verdicts_real [COMPARISONS [PAIRS [RUNS]]]`` makes COMPARISONS of each slowdown, and
three times as many of the program with itself.
"""

from __future__ import annotations

import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress

from benchmarks.tables import Report
from metrics_adapters.resources import CommandMonitor
from metrics_framework.snapshots.compare import ComparedRun, Comparison, Verdict, compare

SECONDS = 0.03
SLOWDOWNS = (0.0, 0.05, 0.1, 0.2)
COMPARISONS = 15
PAIRS = 40
RUNS = 3
PROGRAM = "import sys\nfor turn in range(int(sys.argv[1])): turn * turn"
METRICS = ("latency.p95", "throughput", "latency.p50")


class Outcome(NamedTuple):
    """The result of one comparison.

    Attributes:
        verdict: The verdict of the whole.
        metrics: The verdict of each of `METRICS`.
        change: The change of the throughput.
        detectable: The smallest change of the throughput that the comparison finds 4 times in 5.
        pairs: The number of measured pairs.
        seconds: How long the comparison took.
    """

    verdict: Verdict
    metrics: tuple[Verdict, ...]
    change: float
    detectable: float
    pairs: int
    seconds: float


@dataclass(frozen=True)
class SlowProgram:
    """A program whose running time is known.

    Attributes:
        turns: The turns of its loop.
        turns_in_start: How many turns take as long as its start.
    """

    turns: int
    turns_in_start: int

    def command(self, slowdown: float) -> list[str]:
        """Return the program that takes longer by a share of the whole time."""
        turns = round(self.turns + slowdown * (self.turns + self.turns_in_start))
        return [sys.executable, "-I", "-S", "-c", PROGRAM, str(turns)]


def calibrate(rounds: int = 20) -> SlowProgram:
    """Measure the start of the program and its loop by turns, and return the program for `SECONDS`."""
    monitor, turns = CommandMonitor(), 500_000
    idle, busy = SlowProgram(0, 0).command(0), SlowProgram(turns, 0).command(0)
    starts, all_seconds = [], []
    for _ in range(rounds):
        starts.append(monitor.run(idle).seconds)
        all_seconds.append(monitor.run(busy).seconds)
    start = statistics.median(starts)
    turn = (statistics.median(all_seconds) - start) / turns
    return SlowProgram(round(max(SECONDS - start, SECONDS / 2) / turn), round(start / turn))


def compare_once(
    program: SlowProgram, slowdown: float, folder: Path, *, pairs: int = PAIRS, runs: int = RUNS
) -> Outcome:
    """Compare the program with a slower version of itself by the command line, and return the outcome.

    Args:
        program: The program.
        slowdown: How much slower the current version is.
        folder: A new folder for the snapshots.
        pairs: The planned pairs.
        runs: The runs of a block.
    """
    baseline = shlex.join(program.command(0))
    arguments = [
        "run",
        "--against",
        baseline,
        "--pairs",
        str(pairs),
        "-n",
        str(runs),
        "--output",
        str(folder),
    ]
    begin = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "metrics_framework",
            *arguments,
            "--name",
            "x",
            "--",
            *program.command(slowdown),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - begin
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stderr)
    comparison = _compare_files(folder)
    if (comparison.verdict is Verdict.REGRESSION) != (done.returncode == 1):
        raise RuntimeError(
            f"exit code {done.returncode} for {comparison.verdict}: {done.stdout}{done.stderr}"
        )
    found = {metric.key: metric for metric in comparison.metrics}
    return Outcome(
        comparison.verdict,
        tuple(found[key].verdict for key in METRICS),
        found["throughput"].change or 0.0,
        found["throughput"].detectable or 0.0,
        comparison.current_runs,
        seconds,
    )


def _compare_files(folder: Path) -> Comparison:
    baseline, current = (
        [ComparedRun.read(path) for path in sorted((folder / side).glob("*.json"))]
        for side in ("baseline", "current")
    )
    return compare(baseline, current)


def main(comparisons: int = COMPARISONS, pairs: int = PAIRS, runs: int = RUNS) -> Report:
    """Measure, print, and return the table."""
    program = calibrate()
    plan = [slowdown for slowdown in SLOWDOWNS for _ in range(comparisons if slowdown else 3 * comparisons)]
    random.Random(1).shuffle(plan)  # so that a noisy minute of the machine affects all of them
    outcomes: dict[float, list[Outcome]] = {slowdown: [] for slowdown in SLOWDOWNS}
    with tempfile.TemporaryDirectory() as folder, Progress(console=Console(stderr=True)) as progress:
        for number, slowdown in enumerate(progress.track(plan, description="comparisons")):
            outcome = compare_once(program, slowdown, Path(folder, str(number)), pairs=pairs, runs=runs)
            outcomes[slowdown].append(outcome)
    report = Report()
    report.say(
        f"At most {pairs} pairs of {runs} runs of {SECONDS * 1e3:.0f} ms, margin 5 %, error 1 %. Change,"
        " detectable change, pairs and time are medians; both changes are of the throughput."
    )
    columns = ["regression", "inconclusive", "no change", "by p95", "by throughput", "by p50"]
    report.table("Slower by", ["comparisons", *columns, "change", "detectable", "pairs", "time"])
    for slowdown, found in outcomes.items():
        verdicts = Counter(one.verdict for one in found)
        shares = [verdicts[Verdict(name)] / len(found) for name in columns[:3]]
        by_metric = [[one.metrics[place] for one in found] for place in range(len(METRICS))]
        shares += [metrics.count(Verdict.REGRESSION) / len(found) for metrics in by_metric]
        change = statistics.median(1 / (1 + one.change) - 1 for one in found)
        detectable = statistics.median(one.detectable for one in found)
        cells = [
            str(len(found)),
            *(f"{share:.0%}" for share in shares),
            f"{change:+.1%}",
            f"{detectable:.0%}",
        ]
        median_pairs = statistics.median(one.pairs for one in found)
        seconds = statistics.median(one.seconds for one in found)
        report.row(f"{slowdown:.0%}", [*cells, f"{median_pairs:g}", f"{seconds:.1f} s"])
    report.show()
    return report


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
