"""`compare`: did a version get slower? A verdict for each metric of two groups of snapshots.

A *sample* is one measurement, a *run* is one snapshot, and a *job* is what shares the state of a machine: one
job of a CI system, or one boot (`metrics_framework.snapshots.provenance.JOB_TAG`). Jobs differ by more than
the samples of a run, so the job is the unit: the runs of a job are averaged, and the tests count jobs. Where
both versions were measured by turns in one job, the unit is the pair of runs (the tag ``pair``).

The tests are in `metrics_framework.snapshots.statistics`, which needs the extra ``compare``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, NamedTuple

from metrics_framework.errors import InvalidInputError, MissingExtraError
from metrics_framework.snapshots.build import LATENCY_TAG
from metrics_framework.snapshots.files import Run, read_snapshot
from metrics_framework.snapshots.keys import (
    CUSTOM_PREFIX,
    STATISTICS,
    SUCCESS_RATE,
    custom_key,
    parse_flat_key,
)
from metrics_framework.snapshots.provenance import JOB_TAG, MACHINE_TAG, PAIR_TAG
from metrics_framework.snapshots.v1 import PerformanceSnapshot

try:
    from metrics_framework.snapshots import statistics
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("numpy", "scipy"):
        raise
    raise MissingExtraError("the comparison of snapshots", "compare") from error

if TYPE_CHECKING:
    from metrics_framework.recording import Distribution

PRIMARY = ("latency.p95", "throughput")
"""The metrics that decide by default. Others are reported."""

ERROR = 0.01
"""The probability that a report without a real change contains a regression."""

INTERIM_ERROR = 0.2
"""The part of the error that is spent when half of the planned pairs are measured."""

MIN_INTERIM_PAIRS = 10
"""Fewer pairs are looked at once, when all are measured."""

MIN_CONSTANT_JOBS = 5
"""A value that is equal in this number of jobs does not depend on chance: any other value is a change."""

_ROUNDING = 1e-9
"""The difference of costs that may be a rounding error, so that a change of 5 % does not exceed 5 %."""

_ONE_PAIR = "one pair: nothing tells how much pairs differ, so measure more of them (--pairs)"
_ONE_JOB = (
    "one job on each side: nothing tells how much jobs differ, and more runs on this boot are the same job,"
    " so measure both versions by turns (metrics-framework run --against), or each in several jobs: on"
    " several days or machines"
)

_MIN_TAIL_SAMPLES = 20
_MAX_SAMPLES_RATIO = 1.5
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class Verdict(StrEnum):
    """What a comparison says of a metric."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    CHANGED = "changed"  # of a metric for which neither direction is better
    NO_CHANGE = "no change"  # beyond the margin
    INCONCLUSIVE = "inconclusive"


class Better(StrEnum):
    """Which values of a metric are better."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


@dataclass(frozen=True)
class MetricRule:
    """How the metrics of some keys are judged. For each attribute, the first matching rule with it counts.

    Attributes:
        pattern: A pattern for flat keys, such as ``custom.*_bytes``.
        better: Which values are better.
        margin: The accepted change, as a share of the baseline: 0.05 is 5 %.
    """

    pattern: str
    better: Better | None = None
    margin: float | None = None

    def __post_init__(self) -> None:
        if self.margin is not None and not 0 < self.margin < 10:
            raise InvalidInputError(
                f"the margin {self.margin!r} is not a share between 0 and 10: pass, for example, 0.05 for 5 %"
            )


DEFAULT_RULES = (
    MetricRule("memory_mb", Better.LOWER, 0.03),
    MetricRule("throughput", Better.HIGHER),
    MetricRule(f"*/{SUCCESS_RATE}", Better.HIGHER),
    MetricRule("*/count", Better.NEITHER),
    MetricRule("latency.*", Better.LOWER),
    MetricRule("custom.operation:*", Better.LOWER),
    *(
        MetricRule(f"custom.*_{unit}{rest}", better)
        for unit, better in (
            ("per_second", Better.HIGHER),
            ("seconds", Better.LOWER),
            ("ms", Better.LOWER),
            ("bytes", Better.LOWER),
        )
        for rest in ("", "/*", "[[]*")  # the end of the name, before a statistic and before tags
    ),
    MetricRule("*", Better.NEITHER, 0.05),
)


class ComparedRun(NamedTuple):
    """A run to compare.

    Attributes:
        run: Its context.
        values: Its measurements, by flat key.
        distributions: The samples behind them, by the keys of a sidecar. Without them, quantiles are those of
            the snapshot, and nothing tells an outlier of a single run from a change.
    """

    run: Run
    values: Mapping[str, float]
    distributions: Mapping[str, Distribution] = {}

    @classmethod
    def of(
        cls,
        snapshot: PerformanceSnapshot,
        distributions: Mapping[str, Distribution] | None = None,
        path: str | Path = "",
    ) -> ComparedRun:
        """Return the run of a snapshot.

        Args:
            snapshot: The snapshot.
            distributions: The distributions of its sidecar.
            path: Its file.
        """
        data = snapshot.metadata
        run = Run(
            data.run_id, data.timestamp, data.commit, data.branch, data.environment, data.tags, Path(path)
        )
        return cls(run, snapshot.metrics.flat(), distributions or {})

    @classmethod
    def read(cls, path: str | Path) -> ComparedRun:
        """Read a snapshot and its sidecar.

        Raises:
            OutputError: If the snapshot cannot be read, or its sidecar is missing.
            SnapshotError: If the snapshot is not valid.
            DistributionsError: If the sidecar is not valid, or belongs to another snapshot.
        """
        from metrics_framework.snapshots.distributions import read_distributions

        return cls.of(read_snapshot(path), read_distributions(path), path)


@dataclass(frozen=True)
class MetricComparison:
    """What a comparison found for a metric.

    Attributes:
        key: The flat key of the metric.
        benchmark: The timer or command that was measured, as the tag ``latency_metric`` names it; ``None`` if
            the comparison is not of one timer.
        is_primary: Whether the metric decides.
        verdict: The verdict.
        better: Which values are better.
        margin: The accepted change, as a share of the baseline.
        baseline: The geometric mean of the baseline. Of a success rate, the share of successes of all runs.
        current: That of the current version.
        change: The change as a share of the baseline: 0.05 is 5 % higher. For a success rate, of its odds,
            with half an outcome added to the successes and to the failures of each run.
        low: The lower end of the interval of the change, from -1; ``None`` without an interval.
        high: The upper end; infinity for a change from zero.
        p_value: The p-value of the change beyond the margin, corrected for the number of metrics.
        detectable: The smallest change for the worse, in size, that this comparison finds 4 times in 5.
        needed: How many jobs on each side, or pairs, find a change of twice the margin 4 times in 5.
        unit: ``job`` or ``pair``.
        baseline_units: How many of them the baseline has.
        current_units: How many of them the current version has.
        notes: What limits the verdict.
    """

    key: str
    benchmark: str | None
    is_primary: bool
    verdict: Verdict
    better: Better
    margin: float
    baseline: float | None = None
    current: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    detectable: float | None = None
    needed: int | None = None
    unit: str = "job"
    baseline_units: int = 0
    current_units: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The comparison of two groups of runs.

    Attributes:
        metrics: Each metric, the primary ones first.
        baseline_runs: The number of runs of the baseline.
        current_runs: The number of runs of the current version.
        error: The probability that a report without a real change contains a regression.
        notes: What differs between the sides, or limits all verdicts.
    """

    metrics: tuple[MetricComparison, ...]
    baseline_runs: int
    current_runs: int
    error: float = ERROR
    notes: tuple[str, ...] = ()

    @property
    def primary(self) -> tuple[MetricComparison, ...]:
        """The metrics that decide."""
        return tuple(metric for metric in self.metrics if metric.is_primary)

    @property
    def is_comparable(self) -> bool:
        """Whether a primary metric has values on both sides."""
        return any(metric.change is not None for metric in self.primary)

    @property
    def verdict(self) -> Verdict:
        """The verdict of the whole: the worst one of the primary metrics."""
        found = {metric.verdict for metric in self.primary}
        for verdict in (Verdict.REGRESSION, Verdict.INCONCLUSIVE, Verdict.IMPROVEMENT, Verdict.CHANGED):
            if verdict in found:
                return verdict
        return Verdict.NO_CHANGE if found else Verdict.INCONCLUSIVE


def compare(
    baseline: Sequence[ComparedRun],
    current: Sequence[ComparedRun],
    *,
    primary: Iterable[str] = PRIMARY,
    rules: Iterable[MetricRule] = (),
    error: float = ERROR,
) -> Comparison:
    """Compare the runs of two versions.

    - A regression or improvement is a change beyond the margin: the p-value, corrected by Holm's method among
      the primary metrics and by their false-discovery rate among the others, is at most ``error``. A change
      that equals the margin is none.
    - "No change" is an equivalence test: the interval lies within the margin on both sides.
    - Everything else is inconclusive.

    Args:
        baseline: The runs of the earlier version.
        current: The runs of the later one.
        primary: Patterns of the flat keys that decide.
        rules: What is better and which margin is accepted, before `DEFAULT_RULES`.
        error: The probability that the primary metrics contain a regression without a real change.

    Raises:
        InvalidInputError: If a side has no runs.
    """
    for side, runs in (("baseline", baseline), ("current", current)):
        if not runs:
            raise InvalidInputError(f"the {side} side has no runs: pass at least one snapshot")
    patterns, all_rules = tuple(primary), (*rules, *DEFAULT_RULES)
    notes = _context_notes(baseline, current)
    groups, group_notes = _by_benchmark(baseline, current)
    judged = [
        _Judged(_Sides(key, name, before, after), any(is_matching(key, one) for one in patterns), all_rules)
        for name, before, after, left_out in groups
        for key in _keys(before, after)
        if not key.startswith(left_out)
    ]
    judged.sort(key=lambda one: (not one.is_primary, one.sides.key.startswith(CUSTOM_PREFIX)))
    deciding = [one for one in judged if one.is_primary]
    for one in judged:
        one.test(error, len(deciding) if one.is_primary else 1)
    for family, adjust in (
        (deciding, statistics.adjust_by_holm),
        ([one for one in judged if not one.is_primary], statistics.adjust_by_discovery_rate),
    ):
        tested = [one for one in family if one.p_worse is not None and one.p_better is not None]
        worse = adjust([one.p_worse for one in tested if one.p_worse is not None])
        better = adjust([one.p_better for one in tested if one.p_better is not None])
        for one, p_worse, p_better in zip(tested, worse.tolist(), better.tolist(), strict=True):
            one.p_worse, one.p_better = p_worse, p_better
    for one in deciding:
        one.fit_interval(deciding)
    return Comparison(
        tuple(one.result() for one in judged), len(baseline), len(current), error, (*group_notes, *notes)
    )


def is_matching(key: str, pattern: str) -> bool:
    """Return whether a flat key matches a pattern, or equals it: keys with tags contain brackets.

    Example:
        >>> is_matching("custom.hits[code:200]", "custom.hits[code:200]"), is_matching("latency.p95", "*.p95")
        (True, True)
    """
    return key == pattern or fnmatchcase(key, pattern)


# -- the two sides -----------------------------------------------------------------------------------------


def _by_benchmark(
    baseline: Sequence[ComparedRun], current: Sequence[ComparedRun]
) -> tuple[list[tuple[str | None, list[ComparedRun], list[ComparedRun], tuple[str, ...]]], list[str]]:
    """Return the runs of each benchmark with the prefixes of keys that cannot be compared, and notes."""
    before, after = _named(baseline), _named(current)
    common = [name for name in before if name in after]
    if not common:
        names = [", ".join(repr(name) for name in side) for side in (before, after)]
        note = (
            f"the baseline measures {names[0]} and the current version {names[1]}, so latency and throughput"
            " are not compared: give both one name (--name of run or import, or latency_metric of the system)"
        )
        return [(None, list(baseline), list(current), ("latency.", "throughput"))], [note]
    groups: list[tuple[str | None, list[ComparedRun], list[ComparedRun], tuple[str, ...]]]
    groups = [(name, before[name], after[name], ()) for name in common]
    notes = [
        f"{name!r} is in the {side} runs only"
        for side, one, other in (("baseline", before, after), ("current", after, before))
        for name in one
        if name not in other
    ]
    return groups, notes


def _named(runs: Iterable[ComparedRun]) -> dict[str | None, list[ComparedRun]]:
    named: defaultdict[str | None, list[ComparedRun]] = defaultdict(list)
    for one in runs:
        named[one.run.tags.get(LATENCY_TAG)].append(one)
    return dict(named)


def _keys(before: Sequence[ComparedRun], after: Sequence[ComparedRun]) -> list[str]:
    return list(dict.fromkeys(key for one in (*before, *after) for key in one.values))


def _context_notes(baseline: Sequence[ComparedRun], current: Sequence[ComparedRun]) -> list[str]:
    notes = []
    sides = {
        "environment": [{one.run.environment.value for one in side} for side in (baseline, current)],
        "machine": [
            {one.run.tags[MACHINE_TAG] for one in side if MACHINE_TAG in one.run.tags}
            for side in (baseline, current)
        ],
    }
    for what, (before, after) in sides.items():
        if before and after and not after <= before:
            notes.append(
                f"the {what} differs: {', '.join(sorted(before))} in the baseline,"
                f" {', '.join(sorted(after))} in the current runs"
            )
    jobless = sum(JOB_TAG not in one.run.tags for one in (*baseline, *current))
    if jobless:
        notes.append(
            f"{jobless} of {len(baseline) + len(current)} runs do not name their job (tag {JOB_TAG!r}):"
            " each counts as a job of its own (pass --this-job to import, or --tag job=NAME)"
        )
    return notes


class _Unit(NamedTuple):
    """A job or one side of a pair.

    Attributes:
        cost: The mean over its runs on the scale of the test: a higher one is worse.
        lowest: Its lower bound from the samples of its runs; NaN if they are not known.
    """

    cost: float
    lowest: float


class _Sides(NamedTuple):
    """The runs of a benchmark on both sides, of which one metric is compared."""

    key: str
    benchmark: str | None
    before: list[ComparedRun]
    after: list[ComparedRun]


class _Judged:
    """A metric on its way to a verdict."""

    def __init__(self, sides: _Sides, is_primary: bool, rules: Iterable[MetricRule]) -> None:
        self.sides, self.is_primary = sides, is_primary
        matching = [rule for rule in rules if is_matching(sides.key, rule.pattern)]
        self.better = next(rule.better for rule in matching if rule.better is not None)
        self.margin = next(rule.margin for rule in matching if rule.margin is not None)
        self.notes: list[str] = []
        self.p_worse: float | None = None
        self.p_better: float | None = None
        self._level = ERROR
        self._error = ERROR
        self._interval: tuple[float, float] | None = None  # of the cost
        self._change_at: Callable[[float], statistics.Change] | None = None
        self._costs: tuple[float, float] | None = None
        self._shares: tuple[float, float] | None = None
        self._detectable: float | None = None
        self._needed: int | None = None
        self._numbers = (0, 0)
        self._unit = "job"
        measured = parse_flat_key(sides.key)
        self._is_share = measured.statistic == SUCCESS_RATE and all(
            one.values.get(sides.key, 0) <= 1 for one in (*sides.before, *sides.after)
        )
        self._sign = -1.0 if self.better is Better.HIGHER else 1.0

    # -- the scale

    @property
    def _margin_of_cost(self) -> float:
        return math.log1p(self.margin)

    def _scaled(self, value: float, one: ComparedRun) -> float:
        """Return the cost of a value; infinite if the scale does not have the value."""
        if not self._is_share:
            return self._sign * math.log(value) if value > 0 else -self._sign * math.inf
        failures = 1 - value
        if (count := self._outcomes(one)) is not None:
            value, failures = value * count + 0.5, failures * count + 0.5
        if not value or not failures:
            return self._sign * (math.inf if value else -math.inf)
        return self._sign * (math.log(value) - math.log(failures))

    def _unscaled(self, cost: float) -> float:
        cost *= self._sign
        return math.exp(cost) if cost <= 709 else math.inf

    def _measured_share(self, runs: Sequence[ComparedRun]) -> float:
        """Return the share of successes among all outcomes; their odds are smoothed only for the tests."""
        values = [one.values[self.sides.key] for one in runs]
        counts = [count for one in runs if (count := self._outcomes(one)) is not None]
        if len(counts) < len(runs):
            return fmean(values)
        return fmean(values, weights=counts)

    def _outcomes(self, one: ComparedRun) -> int | None:
        """Return how many outcomes a success rate is of, if the snapshot has their count."""
        count = one.values.get(f"{self.sides.key.removesuffix(SUCCESS_RATE)}count")
        name = one.run.tags.get(LATENCY_TAG)
        if not count and name is not None:  # the durations of this operation are the latency
            key = CUSTOM_PREFIX + custom_key(name, statistic=SUCCESS_RATE, operation=True)
            samples = one.distributions.get("latency")
            count = samples.count if samples is not None and self.sides.key == key else None
        return round(count or 0) or None

    # -- the units

    def test(self, error: float, family: int) -> None:
        """Compute the p-values, the interval and the power.

        Args:
            error: The error of the report.
            family: The number of metrics that share it.
        """
        key = self.sides.key
        before = [one for one in self.sides.before if key in one.values]
        after = [one for one in self.sides.after if key in one.values]
        for side, found, every in (
            ("baseline", before, self.sides.before),
            ("current", after, self.sides.after),
        ):
            if found and len(found) < len(every):
                self.notes.append(f"only {len(found)} of {len(every)} {side} runs have it")
        if not before or not after:
            self.notes.append("missing in the current runs" if before else "new in the current runs")
            return
        pairs = _pair_up(before, after)
        self._error = error if pairs is None else error * _share_of_error(pairs)
        self._level = self._error / family
        if pairs is not None:
            self._unit = "pair"
            paired = [[one for pair in pairs for one in pair[side]] for side in (0, 1)]
            if left_out := len(before) + len(after) - sum(map(len, paired)):
                runs = "1 run is" if left_out == 1 else f"{left_out} runs are"
                self.notes.append(f"{runs} left out, because the other version of the pair is missing")
            before, after = paired
        if self._is_share:
            self._shares = self._measured_share(before), self._measured_share(after)
        if self._has_constant_values(before, after, None if pairs is None else len(pairs)):
            return
        if zeros := self._zeros(before, after):
            self.notes.append(zeros)
            return
        is_exact = all(self._is_exact(one) for one in (*before, *after))
        if pairs is not None:
            firsts = [self._unit_of(one, is_exact) for one, _ in pairs]
            seconds = [self._unit_of(other, is_exact) for _, other in pairs]
        else:
            firsts = [self._unit_of(runs, is_exact) for runs in _by_job(before)]
            seconds = [self._unit_of(runs, is_exact) for runs in _by_job(after)]
        self._numbers = (len(firsts), len(seconds))
        self._costs = (fmean(unit.cost for unit in firsts), fmean(unit.cost for unit in seconds))
        if (note := self._bias(before, after)) is not None:
            self.notes.append(note)
        elif (pairs is not None and len(firsts) < 2) or (pairs is None and len(firsts) + len(seconds) < 3):
            self._suspect(before, after)
        else:
            self._apply_tests(firsts, seconds)
            if self._is_share and self.p_worse is not None:
                self._apply_exact_test(before, after)

    def _unit_of(self, runs: Sequence[ComparedRun], is_exact: bool) -> _Unit:
        read = [self._read(one, is_exact) for one in runs]
        distances = [cost - lowest for cost, lowest in read if not math.isnan(lowest)]
        cost = fmean(cost for cost, _ in read)
        return _Unit(cost, cost - fmean(distances) if distances else math.nan)

    def _read(self, one: ComparedRun, is_exact: bool) -> tuple[float, float]:
        """Return the cost of a run, and its lower bound from the samples of the run."""
        value, key = one.values[self.sides.key], self.sides.key
        distribution, statistic = self._samples(one)
        if distribution is None or not distribution.count:
            return self._scaled(value, one), math.nan
        if statistic in _QUANTILES:
            share = _QUANTILES[statistic]
            quantile = statistics.quantile_of(distribution, share, exact=is_exact)
            if quantile <= 0:
                return self._scaled(value, one), math.nan
            if self._sign < 0:  # the lowest cost is that of the highest value
                return -math.log(quantile), -_log(
                    statistics.highest_quantile(distribution, share, self._level)
                )
            return math.log(quantile), _log(statistics.lowest_quantile(distribution, share, self._level))
        cost = self._scaled(value, one)
        if distribution.mean <= 0 or (key != "throughput" and statistic != "mean"):
            return cost, math.nan
        lowest = statistics.lowest_mean(distribution, self._level) / distribution.mean
        if key != "throughput" and self._sign < 0:
            return cost, cost - _log(2 - lowest)
        return cost, cost + _log(lowest)

    def _samples(self, one: ComparedRun) -> tuple[Distribution | None, str | None]:
        """Return the samples behind the metric, and which statistic of them it is."""
        key = self.sides.key
        if key == "throughput":
            return one.distributions.get("latency"), None
        stem, dot, statistic = key.rpartition("." if key.startswith("latency.") else "/")
        if not dot or (statistic not in STATISTICS and statistic not in _QUANTILES):
            return None, None
        return one.distributions.get(stem), statistic

    def _is_exact(self, one: ComparedRun) -> bool:
        distribution, _ = self._samples(one)
        return distribution is not None and distribution.state.exact is not None

    # -- what cannot be tested

    def _has_constant_values(
        self, before: Sequence[ComparedRun], after: Sequence[ComparedRun], pairs: int | None
    ) -> bool:
        """Judge a metric that does not depend on chance, such as a count of queries."""
        values = [{one.values[self.sides.key] for one in side} for side in (before, after)]
        jobs = [pairs or number_of_jobs(side) for side in (before, after)]
        if any(len(one) > 1 for one in values):
            return False
        (first,), (second,) = values
        costs = [self._scaled(value, side[0]) for value, side in ((first, before), (second, after))]
        is_itself = {one.run.run_id for one in before} == {one.run.run_id for one in after} != {None}
        if first != second and self._is_share:
            return False
        if max(jobs) < MIN_CONSTANT_JOBS and not is_itself:
            if first != second and (sum(jobs) == 2 or 0 in (first, second)):
                return False
            self._numbers, self._costs = (jobs[0], jobs[1]), (costs[0], costs[1])
            unit = self._unit
            self.notes.append(
                f"equal in all {unit}s of a side: {MIN_CONSTANT_JOBS} {unit}s tell whether it varies"
            )
            return True
        self._numbers = (jobs[0], jobs[1])
        change = 0.0 if first == second else costs[1] - costs[0]
        self._costs = (costs[0], costs[1])
        self._interval = (change, change)
        limit = self._margin_of_cost + _ROUNDING
        self.p_worse = 0.0 if change > limit else 1.0
        self.p_better = 0.0 if change < -limit else 1.0
        self.notes.append("the same in all runs of each side")
        return True

    def _zeros(self, before: Sequence[ComparedRun], after: Sequence[ComparedRun]) -> str | None:
        """Return a note on values that have no logarithm. They are not left out: this would hide a change."""
        found = []
        for side, runs in (("baseline", before), ("current", after)):
            number = sum(not math.isfinite(self._scaled(one.values[self.sides.key], one)) for one in runs)
            if number:
                what = "0 or 1 without a count" if self._is_share else "0"
                found.append(f"{what} in {number} of {len(runs)} {side} runs")
        return ", ".join(found) or None

    def _bias(self, before: Sequence[ComparedRun], after: Sequence[ComparedRun]) -> str | None:
        """Return a note if a quantile is of many samples on one side and of few on the other."""
        _, statistic = self._samples(before[0])
        if statistic not in _QUANTILES:
            return None
        counts = [
            median(found.count for one in side if (found := self._samples(one)[0]) is not None)
            for side in (before, after)
            if any(self._samples(one)[0] is not None for one in side)
        ]
        if len(counts) < 2 or max(counts) <= _MAX_SAMPLES_RATIO * min(counts):
            return None
        if min(counts) * (1 - _QUANTILES[statistic]) >= _MIN_TAIL_SAMPLES:
            return None
        return (
            f"{counts[0]:,.0f} samples a run in the baseline and {counts[1]:,.0f} in the current runs: the"
            f" {statistic} of few samples is biased, so measure both with the same number"
        )

    def _suspect(self, before: Sequence[ComparedRun], after: Sequence[ComparedRun]) -> None:
        self.notes.append(_ONE_PAIR if self._unit == "pair" else _ONE_JOB)
        first, second = self._merged(before), self._merged(after)
        _, statistic = self._samples(before[0])
        if first is None or second is None or statistic not in _QUANTILES:
            return
        share, level = _QUANTILES[statistic], self._level / 2
        for low, high in ((first, second), (second, first)):
            edge = _log(statistics.lowest_quantile(high, share, level)) - self._margin_of_cost
            if edge > _log(statistics.highest_quantile(low, share, level)):
                is_worse = (high is second) == (self._sign > 0)
                what = "an improvement" if not is_worse else "a regression"
                what = "a change" if self.better is Better.NEITHER else what
                self.notes.append(f"suspect: within these runs, the samples show {what}")

    def _merged(self, runs: Sequence[ComparedRun]) -> Distribution | None:
        merged: Distribution | None = None
        for one in runs:
            distribution, _ = self._samples(one)
            if distribution is None or not distribution.count or distribution.min <= 0:
                return None
            merged = distribution if merged is None else merged.merge(distribution)
        return merged

    # -- the tests

    def _apply_tests(self, before: Sequence[_Unit], after: Sequence[_Unit]) -> None:
        base, current = [one.cost for one in before], [one.cost for one in after]
        margin, is_paired = self._margin_of_cost, self._unit == "pair"
        if is_paired:
            differences = [new - old for old, new in zip(base, current, strict=True)]
            self._change_at = partial(statistics.change_in_pairs, differences, margin)
        else:
            self._change_at = partial(statistics.change_between, base, current, margin)
        change = self._change_at(self._level)
        if not change.error > _ROUNDING and max(self._numbers) < MIN_CONSTANT_JOBS:
            unit = self._unit
            self.notes.append(
                f"the same change in all {unit}s: {MIN_CONSTANT_JOBS} {unit}s tell whether it varies"
            )
            return
        self.p_worse, self.p_better = float(change.p_above), float(change.p_below)
        self._interval = float(change.low), float(change.high)
        number = len(after) if is_paired else 1 / (1 / len(before) + 1 / len(after))
        deviation = float(change.error) * math.sqrt(number)
        self._detectable = statistics.detectable_change(
            float(change.error), float(change.freedom), margin, self._level
        )
        self._needed = statistics.number_needed(deviation, margin, self._level, pairs=is_paired)
        estimate = float(change.estimate)
        worse, better = self.p_worse <= self._error, self.p_better <= self._error
        if worse and self._is_doubtful(estimate, after):
            self.p_worse = 1.0
        if better and self._is_doubtful(-estimate, before):
            self.p_better = 1.0

    def fit_interval(self, family: Iterable[_Judged]) -> None:
        """Give the interval the level at which Holm's method tested the metric.

        The method tests the next metric at a higher level after each one that is found. So the interval is
        beyond the margin if and only if the change is.
        """
        if self._change_at is None or self.p_worse is None or self.p_better is None:
            return
        others = [one for one in family if one is not self and one.p_worse is not None]
        if self.p_worse < self.p_better:
            found = sum((one.p_worse or 0.0) <= min(self._error, self.p_worse) for one in others)
        else:
            found = sum((one.p_better or 0.0) <= min(self._error, self.p_better) for one in others)
        change = self._change_at(self._error / (len(others) + 1 - found))
        self._interval = float(change.low), float(change.high)

    def _is_doubtful(self, distance: float, higher: Sequence[_Unit]) -> bool:
        known = [one for one in higher if not math.isnan(one.lowest)]
        if not known or len(higher) >= statistics.FEW_JOBS:
            return False
        costs, lows = [one.cost for one in known], [one.lowest for one in known]
        if not bool(statistics.is_doubtful(distance, costs, lows, self._margin_of_cost)):
            return False
        self.notes.append("outliers among the samples of so few runs may explain the change")
        return True

    def _apply_exact_test(self, before: Sequence[ComparedRun], after: Sequence[ComparedRun]) -> None:
        """Let the counts of outcomes confirm a change of a success rate: a rare failure is not a trend."""
        sides = []
        for side in (before, after):
            counts = [self._outcomes(one) for one in side]
            if any(count is None for count in counts):
                return
            total = sum(count for count in counts if count is not None)
            successes = sum(
                round(one.values[self.sides.key] * (count or 0))
                for one, count in zip(side, counts, strict=True)
            )
            sides.append((successes, total - successes))
        p_worse, p_better = statistics.p_of_shares(sides[0], sides[1])
        self.p_worse = max(self.p_worse or 0.0, p_worse)
        self.p_better = max(self.p_better or 0.0, p_better)

    # -- the result

    def result(self) -> MetricComparison:
        """Return the verdict, after the correction of the p-values."""
        change = low = high = p_value = detectable = None
        baseline = current = None
        if self._costs is not None:
            baseline, current = self._shares or map(self._unscaled, self._costs)
            change = 0.0 if baseline == current else self._relative(self._costs[1] - self._costs[0])
        if self._interval is not None:
            low, high = sorted(map(self._relative, self._interval))
            if change == 0 and self._shares is not None:  # the smoothed odds of more outcomes are higher
                low, high = min(low, 0.0), max(high, 0.0)
        if self.p_worse is not None and self.p_better is not None:
            p_value = min(self.p_worse, self.p_better)
        if self._detectable is not None:
            detectable = abs(self._relative(self._detectable))
        return MetricComparison(
            self.sides.key,
            self.sides.benchmark,
            self.is_primary,
            self._verdict(),
            self.better,
            self.margin,
            baseline,
            current,
            change,
            low,
            high,
            p_value,
            detectable,
            self._needed,
            self._unit,
            *self._numbers,
            tuple(self.notes),
        )

    def _relative(self, change: float) -> float:
        change *= self._sign
        return math.expm1(change) + 0.0 if change < 709 else math.inf  # not -0.0

    def _verdict(self) -> Verdict:
        if self.p_worse is None or self.p_better is None or self._interval is None:
            return Verdict.INCONCLUSIVE
        neutral = Verdict.CHANGED if self.better is Better.NEITHER else None
        if self.p_worse <= self._error:
            return neutral or Verdict.REGRESSION
        if self.p_better <= self._error:
            return neutral or Verdict.IMPROVEMENT
        low, high = self._interval
        limit = self._margin_of_cost + _ROUNDING
        is_within = -limit <= low and high <= limit
        return Verdict.NO_CHANGE if is_within else Verdict.INCONCLUSIVE


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def number_of_jobs(runs: Sequence[ComparedRun]) -> int:
    """Return the number of jobs of runs. A run that does not name its job counts as one."""
    return len(_by_job(runs))


def _by_job(runs: Sequence[ComparedRun]) -> list[list[ComparedRun]]:
    jobs: defaultdict[object, list[ComparedRun]] = defaultdict(list)
    for number, one in enumerate(runs):
        jobs[one.run.tags.get(JOB_TAG, number)].append(one)
    return list(jobs.values())


def _pair_up(
    before: Sequence[ComparedRun], after: Sequence[ComparedRun]
) -> list[tuple[list[ComparedRun], list[ComparedRun]]] | None:
    """Return the pairs in which the runs were measured, or ``None`` if they were not measured in pairs."""
    sides: list[defaultdict[tuple[str, str], list[ComparedRun]]] = []
    for runs in (before, after):
        paired: defaultdict[tuple[str, str], list[ComparedRun]] = defaultdict(list)
        for one in runs:
            tags = one.run.tags
            if PAIR_TAG not in tags or JOB_TAG not in tags:
                return None
            paired[tags[JOB_TAG], tags[PAIR_TAG]].append(one)
        sides.append(paired)
    first, second = sides
    pairs = [(first[key], second[key]) for key in first if key in second]
    return pairs if len(pairs) > 1 or first.keys() == second.keys() else None


def _share_of_error(pairs: Sequence[tuple[list[ComparedRun], list[ComparedRun]]]) -> float:
    """Return the part of the error for this look at the pairs: without it, two looks double the error."""
    tags = [before[0].run.tags[PAIR_TAG].partition("/") for before, _ in pairs]
    planned = max((int(total) for _, _, total in tags if total.isdecimal() and len(total) < 10), default=0)
    if planned < MIN_INTERIM_PAIRS:
        return 1.0
    return INTERIM_ERROR if len(pairs) <= planned // 2 else 1 - INTERIM_ERROR
