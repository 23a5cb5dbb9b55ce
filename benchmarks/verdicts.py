"""How often `compare` is right: simulated comparisons whose true change is known.

A run's 95th percentile and mean are drawn from simulated runs of the same kind and number of samples. Each
job multiplies all of its runs by a factor of its own, the drift; within a job, a fifth of it remains between
the two sides of a pair. Every report has two primary metrics, the 95th percentile and the throughput of the
same runs, and twenty others. The tests, the correction and the look at half of the pairs are those of
`compare`.

``python -m benchmarks.verdicts [REPORTS]`` prints the tables.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from scipy import signal, stats

from benchmarks.tables import Report
from metrics_framework.snapshots import statistics
from metrics_framework.snapshots.compare import ERROR, INTERIM_ERROR, MIN_INTERIM_PAIRS

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

REPORTS = 10_000
"""Simulated reports of a cell without a regression; a tenth of them with one."""

MARGIN = math.log1p(0.05)
OTHERS = 20
SHARE = 0.95
SAMPLES = (20, 200, 5_000)
DRIFTS = (0.0, 0.02, 0.05, 0.10)
EFFECTS = (0.0, 0.05, 0.10, 0.20)
POOL = {20: 20_000, 200: 20_000, 5_000: 4_000}
WANDER = 0.2
"""The part of the drift that differs between the two sides of a pair."""

KINDS = (
    "lognormal, sigma 0.1",
    "lognormal, sigma 0.3",
    "lognormal, sigma 0.5",
    "two modes",
    "outliers",
    "autocorrelated",
)


class Design(NamedTuple):
    """How many jobs each side has, or how many pairs."""

    before: int
    after: int
    pairs: bool = False

    def __str__(self) -> str:
        return f"{self.before} pairs" if self.pairs else f"{self.before} and {self.after} jobs"


DESIGNS = (
    *(Design(20, after) for after in (1, 2, 3, 5, 10)),
    *(Design(number, number) for number in (3, 5, 10, 30)),
    *(Design(number, number, pairs=True) for number in (3, 5, 10, 20, 30)),
)


def simulate(kind: str, shape: tuple[int, int], random: np.random.Generator) -> Floats:
    """Return the samples of runs; shape (runs, samples)."""
    normal = random.standard_normal(shape)
    if kind.startswith("lognormal"):
        return np.exp(float(kind.rpartition(" ")[2]) * normal)
    if kind == "two modes":
        return np.exp(0.1 * normal) * np.where(random.random(shape) < 0.2, 2.0, 1.0)
    if kind == "outliers":
        return np.exp(0.1 * normal) * np.where(random.random(shape) < 0.01, 8.0, 1.0)
    noise = normal * math.sqrt(1 - 0.9**2)
    noise[:, 0] = normal[:, 0]
    return np.exp(0.3 * np.asarray(signal.lfilter([1.0], [1.0, -0.9], noise, axis=-1)))


@dataclass
class Runs:
    """Simulated runs: the cost and its lower bound of each metric, on the scale of logarithms.

    Attributes:
        quantile: The 95th percentile.
        mean: The mean, which is the reciprocal of the throughput.
        lowest: The lower bounds of both at half of the error, then that of the quantile at the whole error.
    """

    quantile: Floats
    mean: Floats
    lowest: tuple[Floats, Floats, Floats]


def make_runs(kind: str, samples: int, random: np.random.Generator) -> Runs:
    """Simulate the runs from which reports are drawn."""
    parts: list[tuple[Floats, ...]] = []
    edges = np.arange(samples + 1) / samples
    rank = SHARE * (samples + 1)
    weights = np.diff(stats.beta.cdf(edges, rank, samples + 1 - rank))  # Harrell and Davis
    left, step = POOL[samples], 2_000_000 // samples
    while left > 0:
        values = simulate(kind, (min(step, left), samples), random)
        left -= len(values)
        mean = values.mean(-1)
        error = values.std(-1) / math.sqrt(samples - 1)
        values.sort(-1)
        exact = samples <= 128
        quantile = values @ weights if exact else values[:, math.ceil(SHARE * samples) - 1]
        ranks = [int(stats.binom.ppf(level, samples, SHARE)) - 1 for level in (ERROR / 2, ERROR)]
        lowest_mean = mean + error * stats.t.ppf(ERROR / 2, samples - 1)
        with np.errstate(invalid="ignore"):
            lowest = np.where(lowest_mean > 0, np.log(lowest_mean), -np.inf)
        parts.append(
            (np.log(quantile), np.log(mean), np.log(values[:, ranks[0]]), lowest, np.log(values[:, ranks[1]]))
        )
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Runs(columns[0], columns[1], (columns[2], columns[3], columns[4]))


class Outcome(NamedTuple):
    """The shares of reports: with a regression, with a regression of the 95th percentile, and undecided.

    Attributes:
        alarms: At least one primary metric is a regression.
        found: The 95th percentile is a regression.
        inconclusive: No regression, and a primary metric is inconclusive.
        others: At least one of the other metrics is a regression.
    """

    alarms: float
    found: float
    inconclusive: float
    others: float


def run_cell(
    runs: Runs, design: Design, drift: float, reports: int, random: np.random.Generator
) -> list[Outcome]:
    """Return the outcome for each of `EFFECTS`, in the same draws."""
    before, after = (_draw(runs, reports, number, random) for number in (design.before, design.after))
    jobs = [drift * random.standard_normal((reports, 1, number)) for number in (design.before, design.after)]
    if design.pairs:
        jobs = [WANDER * one for one in jobs]
    first, second = before[0] + jobs[0], after[0] + jobs[1]
    lows = after[1] + jobs[1]
    others = _false_alarms_of_others(first[:, 2:], second[:, 2:], lows[:, 2:], design)
    first, second, lows = first[:, :2], second[:, :2], lows[:, :2]
    return [_judge(first, second + move, lows + move, design, others) for move in map(math.log1p, EFFECTS)]


def _false_alarms_of_others(before: Floats, after: Floats, lows: Floats, design: Design) -> float:
    regressed, _ = _regressions(before, after, lows, ERROR, design, is_primary=False)
    return float(np.mean(regressed.any(-1)))


def _draw(runs: Runs, reports: int, number: int, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Return costs and lower bounds; shape (reports, metrics, jobs)."""
    places = random.integers(len(runs.quantile), size=(reports, 1 + OTHERS, number))
    same = places[:, :1]
    costs = np.concatenate([runs.quantile[same], runs.mean[same], runs.quantile[places[:, 1:]]], axis=1)
    lows = [runs.lowest[0][same], runs.lowest[1][same], runs.lowest[2][places[:, 1:]]]
    return costs, np.concatenate(lows, axis=1)


def _judge(before: Floats, after: Floats, lows: Floats, design: Design, others: float) -> Outcome:
    looks = [(1.0, design.before)]
    if design.pairs and design.before >= MIN_INTERIM_PAIRS:
        looks = [(INTERIM_ERROR, design.before // 2), (1 - INTERIM_ERROR, design.before)]
    done = np.zeros(len(before), bool)
    alarms, found, inconclusive = done.copy(), done.copy(), done.copy()
    for share, number in looks:
        part = slice(number if design.pairs else None)
        regressed, settled = _regressions(
            before[..., part], after[..., part], lows[..., part], ERROR * share, design, is_primary=True
        )
        ends = regressed.any(-1) | settled.all(-1)
        alarms |= ~done & regressed.any(-1)
        found |= ~done & regressed[:, 0]
        inconclusive = ~done & ~ends
        done |= ends
    return Outcome(float(alarms.mean()), float(found.mean()), float(inconclusive.mean()), others)


def _regressions(
    before: Floats, after: Floats, lows: Floats, error: float, design: Design, *, is_primary: bool
) -> tuple[Flags, Flags]:
    """Return which metrics of which reports are regressions, and which have any verdict."""
    level = error / 2 if is_primary else error
    if design.pairs:
        change = statistics.change_in_pairs(after - before, MARGIN, level)
    else:
        change = statistics.change_between(before, after, MARGIN, level)
    doubtful = statistics.is_doubtful(change.estimate, after, lows, MARGIN) & (change.p_above <= error)
    p_values = np.where(doubtful, 1.0, change.p_above)
    adjust = statistics.adjust_by_holm if is_primary else statistics.adjust_by_discovery_rate
    regressed: Flags = adjust(p_values) <= error
    improved: Flags = adjust(change.p_below) <= error
    within: Flags = (change.low >= -MARGIN) & (change.high <= MARGIN)
    return regressed, regressed | improved | within


# -- the other rules ---------------------------------------------------------------------------------------


def simpler_rules(
    kind: str, samples: int, drift: float, effect: float, reports: int, random: np.random.Generator
) -> dict[str, float]:
    """Return how often other rules report a regression, of one run of each version in jobs of their own."""
    factors = np.exp(drift * random.standard_normal((2, reports, 1)))
    before = simulate(kind, (reports, samples), random) * factors[0]
    after = simulate(kind, (reports, samples), random) * factors[1] * (1 + effect)
    quantiles = [np.quantile(one, SHARE, axis=-1, method="inverted_cdf") for one in (before, after)]
    flameiq = quantiles[1] > quantiles[0] * 1.10
    ranked = np.asarray(stats.mannwhitneyu(after, before, axis=-1, alternative="greater").pvalue) <= ERROR
    places = random.integers(samples, size=(500, samples))
    ratios = np.empty((reports, 500))
    for number, draw in enumerate(places):
        both = [np.quantile(one[:, draw], SHARE, axis=-1, method="inverted_cdf") for one in (before, after)]
        ratios[:, number] = both[1] / both[0]
    bootstrap = np.quantile(ratios, ERROR, axis=-1) > 1.0
    rules = {"FlameIQ, 10 %": flameiq, "bootstrap": bootstrap, "Mann-Whitney": ranked}
    return {name: float(np.mean(flags)) for name, flags in rules.items()}


# -- the tables --------------------------------------------------------------------------------------------


Cell = tuple[str, int, float, Design]
REFERENCE = (KINDS[1], 200)


def simulate_cells(kind: str, samples: int, drift: float, reports: int) -> dict[Cell, list[Outcome]]:
    """Return the outcomes of all designs."""
    random = np.random.default_rng([KINDS.index(kind), samples, round(drift * 100)])
    runs = make_runs(kind, samples, random)
    return {
        (kind, samples, drift, design): run_cell(runs, design, drift, reports, random) for design in DESIGNS
    }


def main(reports: int = REPORTS) -> Report:
    """Simulate, print, and return the tables."""
    found: dict[Cell, list[Outcome]] = {}
    with ProcessPoolExecutor() as pool:
        tasks = [pool.submit(simulate_cells, *one, reports) for one in product(KINDS, SAMPLES, DRIFTS)]
        done = track(as_completed(tasks), "verdicts", len(tasks), console=Console(stderr=True))
        for task in done:
            found.update(task.result())
    return tables(found, reports)


def tables(found: Mapping[Cell, list[Outcome]], reports: int) -> Report:
    """Return the tables of simulated cells."""
    report = Report()
    every = [outcome.alarms for outcomes in found.values() for outcome in outcomes[:2]]
    others = [outcomes[0].others for outcomes in found.values()]
    limit = float(stats.binom.isf(0.01 / len(every), reports, ERROR)) / reports
    report.say(
        f"{len(every)} cells without a regression, {reports} reports each: {len(KINDS)} kinds of samples,"
        f" {', '.join(map(str, SAMPLES))} samples a run. False alarms of the primary metrics: at most"
        f" {max(every):.2%} of a cell's reports, {np.mean(every):.2%} on average; with a true rate of"
        f" 1 %, the worst of all cells would stay below {limit:.2%}. Reports with a false alarm among"
        f" {OTHERS} other metrics: at most {max(others):.2%}."
    )
    for drift in DRIFTS:
        columns = [
            "false alarms, worst",
            "at the margin, worst",
            "false alarms",
            "+10 % found",
            "+20 % found",
            "inconclusive, unchanged",
            "at +10 %",
        ]
        report.table(f"Drift of {drift:.0%} between jobs", columns)
        for design in DESIGNS:
            chosen = [outcomes for key, outcomes in found.items() if key[2:] == (drift, design)]
            same = found[*REFERENCE, drift, design]
            report.row(
                str(design),
                [
                    f"{max(outcomes[0].alarms for outcomes in chosen):.2%}",
                    f"{max(outcomes[1].alarms for outcomes in chosen):.2%}",
                    f"{same[0].alarms:.2%}",
                    f"{same[2].alarms:.0%}",
                    f"{same[3].alarms:.0%}",
                    f"{same[0].inconclusive:.0%}",
                    f"{same[2].inconclusive:.0%}",
                ],
            )
    random = np.random.default_rng(2)
    add_needed(report, random)
    add_simpler_rules(report, random)
    report.show()
    return report


def add_needed(report: Report, random: np.random.Generator) -> None:
    """Add the table of the number of jobs and pairs that `statistics.number_needed` promises."""
    report.table(
        f"Jobs needed to find +10 %, {REFERENCE[0]}, {REFERENCE[1]} samples",
        ["jobs a side", "found", "pairs", "found"],
    )
    runs = make_runs(*REFERENCE, random)
    for drift in DRIFTS:
        row = []
        for pairs in (False, True):
            spread = math.hypot(float(runs.quantile.std()), drift * (WANDER if pairs else 1))
            number = statistics.number_needed(
                spread * (math.sqrt(2) if pairs else 1), MARGIN, ERROR / 2, pairs=pairs
            )
            shape = (REPORTS // 10, number or 2)
            sides = [runs.quantile[random.integers(len(runs.quantile), size=shape)] for _ in range(2)]
            moved = sides[1] + math.log1p(0.10)
            own = [drift * (WANDER if pairs else 1) * random.standard_normal(shape) for _ in range(2)]
            if pairs:
                change = statistics.change_in_pairs(moved + own[1] - sides[0] - own[0], MARGIN, ERROR / 2)
            else:
                change = statistics.change_between(sides[0] + own[0], moved + own[1], MARGIN, ERROR / 2)
            row += [str(number), f"{np.mean(change.p_above <= ERROR / 2):.0%}"]
        report.row(f"drift of {drift:.0%}", row)


def add_simpler_rules(report: Report, random: np.random.Generator) -> None:
    """Add the table of `simpler_rules`."""
    report.table(
        "Other rules, one run of each version, 200 samples: false alarms, +10 % found",
        [
            f"{name}, {what}"
            for name in ("FlameIQ at 10 %", "bootstrap", "Mann-Whitney")
            for what in ("same", "+10 %")
        ],
    )
    for drift in DRIFTS:
        rules = [simpler_rules(*REFERENCE, drift, effect, REPORTS // 10, random) for effect in (0.0, 0.10)]
        report.row(f"drift of {drift:.0%}", [f"{one[name]:.0%}" for name in rules[0] for one in rules])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else REPORTS)
