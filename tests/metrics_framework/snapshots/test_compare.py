"""The comparison of two groups of runs: the unit of the tests, the verdicts, and what limits them."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest
from scipy import stats

from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import Distribution
from metrics_framework.snapshots import LatencyMetrics, Metrics, PerformanceSnapshot, SnapshotMetadata
from metrics_framework.snapshots.build import LATENCY_TAG
from metrics_framework.snapshots.compare import (
    ERROR,
    PAIR_TAG,
    Better,
    ComparedRun,
    Comparison,
    MetricComparison,
    MetricRule,
    Verdict,
    compare,
)
from metrics_framework.snapshots.provenance import JOB_TAG, MACHINE_TAG

NUMBERS = count()


def run(
    p95: float | None = None,
    *,
    job: str | None = None,
    name: str | None = "op",
    tags: Mapping[str, str] | None = None,
    samples: Sequence[float] = (),
    environment: str = "ci",
    **metrics: Any,
) -> ComparedRun:
    """Return a run in a job of its own, unless the job is given."""
    all_tags = {JOB_TAG: job or f"job {next(NUMBERS)}", **(tags or {})}
    if name is not None:
        all_tags[LATENCY_TAG] = name
    distribution = Distribution.of(samples)
    latency = None
    if samples:
        latency = LatencyMetrics(p95=distribution.quantiles(0.95)[0])
    elif p95 is not None:
        latency = LatencyMetrics(p95=p95)
    snapshot = PerformanceSnapshot(
        Metrics(latency, **metrics), metadata=SnapshotMetadata(tags=all_tags, environment=environment)
    )
    return ComparedRun.of(snapshot, {"latency": distribution} if samples else {})


def history(jobs: int = 20, **metrics: Callable[[float], Any]) -> list[ComparedRun]:
    """Return runs whose 95th percentiles spread around 100 ms by 2 %, and metrics that follow them."""
    factors = np.exp(0.02 * stats.norm.ppf((np.arange(jobs) + 0.5) / jobs))
    named = [{key: make(factor) for key, make in metrics.items()} for factor in factors]
    return [run(100 * factor, **values) for factor, values in zip(factors, named, strict=True)]


def metric(comparison: Comparison, key: str = "latency.p95") -> MetricComparison:
    """Return what was found for a metric."""
    return next(one for one in comparison.metrics if one.key == key)


# -- the unit ----------------------------------------------------------------------------------------------


def test_runs_of_one_job_count_once() -> None:
    """Five runs of a slow job are one observation: they are averaged, and change no verdict."""
    base = history()
    single = metric(compare(base, [run(106.0)]))
    repeated = metric(compare(base, [run(106.0, job="slow") for _ in range(5)]))
    assert repeated == single
    assert (single.verdict, single.current_units) == (Verdict.INCONCLUSIVE, 1)
    separate = metric(compare(base, [run(112.0) for _ in range(5)]))
    assert (separate.verdict, separate.current_units) == (Verdict.REGRESSION, 5)


def test_one_job_is_compared_with_the_prediction_interval_of_the_history() -> None:
    """The interval is that of a further job: wider than that of the mean by the root of one more job."""
    base = history()
    found = metric(compare(base, [run(120.0)], primary=["latency.p95"]))
    logs = np.log([one.values["latency.p95"] for one in base])
    half = stats.t.isf(ERROR, len(logs) - 1) * logs.std(ddof=1) * math.sqrt(1 + 1 / len(logs))
    change = math.log(120.0) - logs.mean()
    assert (found.low, found.high) == pytest.approx((math.expm1(change - half), math.expm1(change + half)))
    assert found.verdict is Verdict.REGRESSION


def test_pairs_cancel_the_state_of_the_machine() -> None:
    """Runs measured by turns are compared in pairs, however much the pairs differ from each other."""
    levels = [100.0, 160.0, 90.0, 140.0, 120.0, 105.0]
    sides = [
        [
            run(level * factor * (1 + 0.002 * (number % 3)), job="one", tags={PAIR_TAG: f"{number}/6"})
            for number, level in enumerate(levels)
        ]
        for factor in (1.0, 1.1)
    ]
    found = metric(compare(*sides))
    assert (found.verdict, found.unit, found.current_units) == (Verdict.REGRESSION, "pair", 6)
    assert found.change == pytest.approx(0.1)


def test_a_look_at_half_of_the_pairs_spends_a_part_of_the_error() -> None:
    """The same differences have a wider interval at the early look, so that two looks keep the error."""
    rng = np.random.default_rng(1)

    def half_width(planned: int) -> float:
        sides = [
            [
                run(100 * math.exp(spread), job="one", tags={PAIR_TAG: f"{n}/{planned}"})
                for n, spread in enumerate(all_)
            ]
            for all_ in spreads
        ]
        found = metric(compare(*sides))
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    spreads = [0.01 * rng.standard_normal(10) for _ in range(2)]
    assert half_width(20) > half_width(10) > half_width(5)


def test_one_pair_of_jobs_is_inconclusive_but_suspect() -> None:
    """Two jobs tell nothing about other jobs; if their samples differ beyond chance, a note says so."""
    rng = np.random.default_rng(2)
    fast, slow = (
        run(samples=(level * np.exp(0.1 * rng.standard_normal(500))).tolist()) for level in (100, 150)
    )
    found = metric(compare([fast], [slow]))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert any("suspect: within these runs, the samples show a regression" in note for note in found.notes)
    same = metric(compare([fast], [fast._replace(run=run(1.0).run)]))
    assert same.verdict in (Verdict.INCONCLUSIVE, Verdict.NO_CHANGE)
    assert not any("suspect" in note for note in same.notes)


# -- the verdicts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "factor", "verdict"),
    [
        ("latency.p95", 1.2, Verdict.REGRESSION),
        ("latency.p95", 0.8, Verdict.IMPROVEMENT),
        ("throughput", 1.2, Verdict.IMPROVEMENT),
        ("throughput", 0.8, Verdict.REGRESSION),
        ("memory_mb", 1.2, Verdict.REGRESSION),
        ("custom.payload_bytes", 1.2, Verdict.REGRESSION),
        ("custom.rows_per_second", 1.2, Verdict.IMPROVEMENT),
        ("cpu_percent", 1.2, Verdict.CHANGED),  # less waiting and more work look alike
        ("custom.orders", 1.2, Verdict.CHANGED),
    ],
)
def test_each_metric_has_a_better_direction(key: str, factor: float, verdict: Verdict) -> None:
    """Slower, larger and rarer successes are worse; a metric whose meaning is unknown has changed."""

    def side(factor: float) -> list[ComparedRun]:
        runs = []
        for one in history(8):
            spread = one.values["latency.p95"] / 100
            runs.append(one._replace(values={key: 50 * factor * spread}))
        return runs

    assert metric(compare(side(1.0), side(factor)), key).verdict is verdict


def test_a_rule_decides_before_the_defaults() -> None:
    """The application says what is better, and how much change it accepts."""
    base, current = [[run(100.0, custom={"orders": 100.0 * f}) for _ in range(6)] for f in (1.0, 1.3)]
    rules = [MetricRule("custom.orders", better=Better.HIGHER), MetricRule("custom.*", margin=0.5)]
    found = metric(compare(base, current, rules=rules), "custom.orders")
    assert (found.verdict, found.better, found.margin) == (Verdict.NO_CHANGE, Better.HIGHER, 0.5)


def test_a_change_that_equals_the_margin_is_no_regression() -> None:
    """The margin is the largest accepted change."""
    base, at, above = ([run(memory_mb=value) for _ in range(6)] for value in (100.0, 103.0, 103.1))
    assert metric(compare(base, at), "memory_mb").verdict is Verdict.NO_CHANGE
    assert metric(compare(base, above), "memory_mb").verdict is Verdict.REGRESSION


def test_a_value_without_spread_is_exact() -> None:
    """A count that was equal in five jobs does not depend on chance: one other value is a change."""
    base = [run(custom={"queries_ms": 12.0}) for _ in range(5)]
    found = metric(compare(base, [run(custom={"queries_ms": 14.0})]), "custom.queries_ms")
    assert (found.verdict, found.low, found.high) == (Verdict.REGRESSION, found.change, found.change)
    few = metric(compare(base[:3], [run(custom={"queries_ms": 14.0})]), "custom.queries_ms")
    assert few.verdict is Verdict.INCONCLUSIVE
    assert few.notes == ("equal in all jobs of a side: 5 jobs tell whether it varies",)


@pytest.mark.parametrize(("rate", "verdict"), [(0.96, Verdict.INCONCLUSIVE), (0.6, Verdict.REGRESSION)])
def test_a_rare_failure_is_not_a_trend(rate: float, verdict: Verdict) -> None:
    """One failure of 25 after twenty jobs without any is chance; ten of 25 are not."""

    def job(rate: float, number: float) -> ComparedRun:
        return run(custom={"operation:pay/success_rate": rate, "operation:pay/count": 25.0 + number})

    base = [job(1.0, number) for number in range(20)]
    assert metric(compare(base, [job(rate, 0)]), "custom.operation:pay/success_rate").verdict is verdict


def test_outliers_of_a_single_run_are_no_regression() -> None:
    """Two slow samples of twenty move the quantile of a run, but do not show that the version is slower."""
    rng = np.random.default_rng(3)

    def samples(outliers: int) -> list[float]:
        return [800.0] * outliers + (100 * np.exp(0.1 * rng.standard_normal(20 - outliers))).tolist()

    usual, single = [run(samples=samples(0)) for _ in range(20)], [run(samples=samples(2))]
    for found in (
        metric(compare(usual, single)),
        metric(compare(single, usual)),
    ):  # nor is the reverse better
        assert found.verdict is Verdict.INCONCLUSIVE
        assert found.notes == ("outliers among the samples of so few runs may explain the change",)


@pytest.mark.parametrize("seed", range(20))
def test_the_interval_agrees_with_the_verdict(seed: int) -> None:
    """A primary metric is a regression if and only if its whole interval is beyond the margin."""
    rng = np.random.default_rng(seed)

    def side(factor: float) -> list[ComparedRun]:
        noise = np.exp(0.02 * rng.standard_normal((6, 2)))
        return [run(100 * factor * a, throughput=10 / factor * b) for a, b in noise]

    for found in compare(side(1.0), side(1.09)).primary:
        assert found.low is not None
        assert found.high is not None
        is_beyond = found.low > found.margin or found.high < 1 / (1 + found.margin) - 1
        assert is_beyond == (found.verdict is Verdict.REGRESSION), found


def test_the_report_names_what_it_could_have_seen() -> None:
    """More jobs find a smaller change, and the number of jobs needed finds twice the margin."""
    noisy, quiet = (metric(compare(history(jobs), history(jobs))) for jobs in (4, 12))
    assert noisy.detectable is not None
    assert quiet.detectable is not None
    assert noisy.detectable > quiet.detectable > quiet.margin
    assert quiet.needed is not None
    assert metric(compare(history(quiet.needed), history(quiet.needed))).detectable == pytest.approx(
        0.1, abs=0.02
    )


@pytest.mark.parametrize("with_samples", [False, True])
def test_a_lower_rate_is_a_regression_with_and_without_samples(with_samples: bool) -> None:
    """Of a metric that is better if it is higher, the samples behind a quantile are read in its direction."""
    rng = np.random.default_rng(5)

    def side(level: float) -> list[ComparedRun]:
        runs = []
        for _ in range(3):
            samples = Distribution.of((level * np.exp(0.05 * rng.standard_normal(200))).tolist())
            one = run(custom={"rows_per_second/p95": samples.quantiles(0.95)[0]})
            kept = {"custom.rows_per_second": samples} if with_samples else {}
            runs.append(one._replace(distributions=kept))
        return runs

    found = metric(compare(side(100), side(50)), "custom.rows_per_second/p95")
    assert found.verdict is Verdict.REGRESSION
    assert found.baseline == pytest.approx(108, rel=0.1)
    assert found.change == pytest.approx(-0.5, abs=0.05)


def test_the_outcomes_of_a_command_are_those_of_its_runs() -> None:
    """A command that begins to fail is found: its outcomes are as many as the samples of its latency."""

    def job(failures: int) -> ComparedRun:
        key = "operation:op/success_rate"
        return run(samples=[100.0 + number for number in range(20)], custom={key: 1 - failures / 20})

    comparison = compare([job(0) for _ in range(20)], [job(10) for _ in range(5)])
    found = metric(comparison, "custom.operation:op/success_rate")
    assert found.verdict is Verdict.REGRESSION
    assert found.notes == ()


def test_a_success_rate_is_shown_as_it_was_measured() -> None:
    """Without a failure it is 1 on both sides and unchanged, also for different numbers of outcomes."""
    key = "operation:pay/success_rate"

    def side(rates: list[float], count: float) -> list[ComparedRun]:
        return [run(custom={key: rate, "operation:pay/count": count + n}) for n, rate in enumerate(rates)]

    found = metric(compare(side([1.0] * 4, 6), side([1.0] * 4, 200)), f"custom.{key}")
    assert (found.baseline, found.current, found.change) == (1.0, 1.0, 0.0)
    found = metric(compare(side([1.0] * 4, 6), side([0.5, 1.0], 99)), f"custom.{key}")
    assert (found.baseline, found.current) == (1.0, pytest.approx((49.5 + 100) / 199))
    assert (found.low or 0) < (found.change or 0) < (found.high or 0)


def test_less_than_one_outcome_is_an_unknown_number() -> None:
    """A file may have any number; the rates of its runs then count alike."""
    key = "operation:pay/success_rate"
    base, current = (
        [run(custom={key: rate, "operation:pay/count": 0.4}) for rate in (0.5, 0.75)] for _ in range(2)
    )
    assert metric(compare(base, current), f"custom.{key}").baseline == 0.625


@pytest.mark.parametrize(("before", "after"), [(0.0, 5000.0), (5000.0, 0.0)])
def test_a_constant_that_was_or_becomes_zero_has_changed(before: float, after: float) -> None:
    """A change from or to a constant zero exceeds every margin."""
    base, current = ([run(custom={"lost_bytes": value}) for _ in range(5)] for value in (before, after))
    found = metric(compare(base, current), "custom.lost_bytes")
    assert found.verdict is (Verdict.IMPROVEMENT if before else Verdict.REGRESSION)
    assert found.change == (-1.0 if before else math.inf)


def test_few_equal_values_prove_nothing() -> None:
    """One job with three successes on each side does not show that nothing changed."""
    key = "operation:pay/success_rate"
    base, current = ([run(custom={key: 1.0})] for _ in range(2))
    assert metric(compare(base, current), f"custom.{key}").verdict is Verdict.INCONCLUSIVE
    assert metric(compare(base, base), f"custom.{key}").verdict is Verdict.NO_CHANGE


def test_a_pair_without_its_partner_is_left_out() -> None:
    """A snapshot that was lost costs its pair, and not the others."""
    sides = [
        [
            run(level * factor, job="one", tags={PAIR_TAG: f"{level}/6"})
            for level in (100, 110, 121, 130, 141, 150)
        ]
        for factor in (1.0, 1.2)
    ]
    found = metric(compare(sides[0], sides[1][1:]))
    assert (found.unit, found.current_units) == ("pair", 5)
    assert found.notes[0] == "1 run is left out, because the other version of the pair is missing"


def test_a_sample_of_zero_does_not_hide_outliers() -> None:
    """Outliers of a single run are doubted also if one of its samples is zero."""
    rng = np.random.default_rng(3)

    def samples(outliers: int, zeros: int = 0) -> list[float]:
        rest = (100 * np.exp(0.1 * rng.standard_normal(20 - outliers - zeros))).tolist()
        return [800.0] * outliers + [0.0] * zeros + rest

    found = metric(compare([run(samples=samples(0)) for _ in range(20)], [run(samples=samples(2, 1))]))
    assert found.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("key", ["sent_msgs", "cache_bytes_saved", "hits[pool:a_ms]"])
def test_a_unit_is_the_end_of_a_name(key: str) -> None:
    """Letters of a unit within a word or a tag say nothing about the better direction."""
    base, current = ([run(custom={key: value}) for _ in range(6)] for value in (100.0, 200.0))
    assert metric(compare(base, current), f"custom.{key}").verdict is Verdict.CHANGED


# -- what cannot be compared ------------------------------------------------------------------------------


def test_another_timer_is_not_compared() -> None:
    """Latency and throughput of different timers are left out with a note; other metrics remain."""
    sides = [[run(100.0, name=name, memory_mb=50.0) for _ in range(6)] for name in ("a", "b")]
    comparison = compare(*sides)
    assert not comparison.is_comparable
    assert [one.key for one in comparison.metrics] == ["memory_mb"]
    assert "the baseline measures 'a' and the current version 'b'" in comparison.notes[0]


def test_several_benchmarks_are_compared_each_with_itself() -> None:
    """Snapshots of several commands give verdicts for each command, and a note on one that is missing."""
    base = [run(value, name=name) for name, value in (("a", 100.0), ("b", 5.0), ("c", 1.0)) for _ in range(6)]
    current = [run(value, name=name) for name, value in (("a", 100.0), ("b", 9.0)) for _ in range(6)]
    comparison = compare(base, current)
    assert {one.benchmark: one.verdict for one in comparison.metrics} == {
        "a": Verdict.NO_CHANGE,
        "b": Verdict.REGRESSION,
    }
    assert comparison.verdict is Verdict.REGRESSION
    assert comparison.notes == ("'c' is in the baseline runs only",)


def test_other_machines_and_environments_are_named() -> None:
    """A baseline from other hardware is compared, and the report says so."""
    base = [run(100.0, tags={MACHINE_TAG: "old"}) for _ in range(3)]
    current = [run(100.0, tags={MACHINE_TAG: "new"}, environment="local") for _ in range(3)]
    assert compare(base, current).notes == (
        "the environment differs: ci in the baseline, local in the current runs",
        "the machine differs: old in the baseline, new in the current runs",
    )


def test_zeros_are_reported_and_not_dropped() -> None:
    """A value without a logarithm makes the metric inconclusive, unless all values are zero."""
    base, current = (
        [run(custom={"x_ms": value}) for value in values] for values in ([0.0, 1.0, 2.0], [1.0, 2.0, 3.0])
    )
    assert metric(compare(base, current), "custom.x_ms").notes == ("0 in 1 of 3 baseline runs",)
    zeros = [run(custom={"x_ms": 0.0}) for _ in range(5)]
    found = metric(compare(zeros, zeros), "custom.x_ms")
    assert (found.verdict, found.baseline, found.change) == (Verdict.NO_CHANGE, 0.0, 0.0)


def test_quantiles_of_few_and_of_many_samples_are_not_compared() -> None:
    """The 95th percentile of ten samples is biased beside that of a thousand."""
    rng = np.random.default_rng(4)
    sides = [
        [run(samples=np.exp(rng.standard_normal(number)).tolist()) for _ in range(6)] for number in (10, 1000)
    ]
    found = metric(compare(*sides))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.notes[0].startswith("10 samples a run in the baseline and 1,000 in the current runs")


@pytest.mark.parametrize(("before", "after", "note"), [(True, False, "missing"), (False, True, "new")])
def test_a_metric_of_one_side_is_reported(before: bool, after: bool, note: str) -> None:
    """A metric that vanished or appeared is in the report."""
    sides = [[run(100.0, custom={"x": 1.0} if has else {}) for _ in range(3)] for has in (before, after)]
    assert metric(compare(*sides), "custom.x").notes == (f"{note} in the current runs",)


def test_an_empty_side_is_an_error() -> None:
    """Nothing can be compared with nothing."""
    with pytest.raises(InvalidInputError, match="the baseline side has no runs: pass at least one snapshot"):
        compare([], [run(1.0)])


@pytest.mark.slow
def test_without_scipy_the_error_names_the_extra() -> None:
    """The comparison needs the extra `compare`, and nothing else of the library does."""
    program = (
        "import sys; sys.modules['scipy'] = None\n"
        "import metrics_framework.snapshots\n"
        "import metrics_framework.snapshots.compare"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "MissingExtraError" in done.stderr
    assert "metrics-framework[compare]" in done.stderr
