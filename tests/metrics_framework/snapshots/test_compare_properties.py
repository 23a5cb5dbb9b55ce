"""Properties of `compare` that hold for any snapshots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("scipy")

from metrics_framework.recording import Distribution
from metrics_framework.snapshots import (
    Environment,
    LatencyMetrics,
    Metrics,
    PerformanceSnapshot,
    Run,
    SnapshotMetadata,
)
from metrics_framework.snapshots.compare import (
    PAIR_TAG,
    Better,
    ComparedRun,
    Comparison,
    MetricComparison,
    MetricRule,
    Verdict,
    compare,
)
from metrics_framework.snapshots.provenance import JOB_TAG
from metrics_framework.snapshots.statistics import adjust_by_holm, quantile_of

MIRRORED = {Verdict.REGRESSION: Verdict.IMPROVEMENT, Verdict.IMPROVEMENT: Verdict.REGRESSION}

KEYS = ("latency.p95", "throughput", "memory_mb", "custom.rows")
SIZES = st.floats(1e-3, 1e6)
SAMPLES = st.lists(SIZES, min_size=1, max_size=30)


def run_of(
    values: Mapping[str, float],
    job: str | None = None,
    pair: str | None = None,
    samples: Sequence[float] = (),
) -> ComparedRun:
    """Return a run, with its latency samples if there are any."""
    tags = {JOB_TAG: job, PAIR_TAG: pair}
    run = Run(
        None, datetime(2026, 1, 1, tzinfo=UTC), None, None, Environment.CI,
        {tag: text for tag, text in tags.items() if text is not None}, Path(),
    )  # fmt: skip
    return ComparedRun(run, values, {"latency": Distribution.of(samples)} if samples else {})


@st.composite
def sides(draw: st.DrawFn, *, paired: bool | None = None) -> tuple[list[ComparedRun], list[ComparedRun]]:
    """Return two groups of runs, in pairs or in jobs, some of which have samples."""
    if paired is None:
        paired = draw(st.booleans())
    number = draw(st.integers(1, 7))
    numbers = (number, number if paired else draw(st.integers(1, 7)))
    with_samples = draw(st.booleans())
    # Few different values, so that ties and constants are frequent.
    values = draw(st.sampled_from([SIZES, st.sampled_from([1.0, 1.05, 2.0]), st.floats(10, 10.5)]))
    groups = []
    for side, count in zip("ab", numbers, strict=True):
        groups.append(
            [
                run_of(
                    {key: draw(values) for key in KEYS},
                    "j" if paired else f"{side}{place}",
                    f"{place}/{number}" if paired else None,
                    draw(SAMPLES) if with_samples else (),
                )
                for place in range(1, count + 1)
            ]
        )
    return groups[0], groups[1]


def by_key(comparison: Comparison) -> dict[str, MetricComparison]:
    """Return the metrics by key."""
    return {metric.key: metric for metric in comparison.metrics}


def same(first: float | None, second: float | None) -> bool:
    """Return whether two results are equal but for rounding."""
    if first is None or second is None:
        return first is second
    return first == second or math.isclose(first, second, rel_tol=1e-6, abs_tol=1e-9)


def assert_same(first: Comparison, second: Comparison) -> None:
    """Assert that two comparisons have the same numbers. A p-value at its limit may round to either side."""
    others = by_key(second)
    for one in first.metrics:
        other = others[one.key]
        for name in ("change", "low", "high", "p_value", "detectable"):
            assert same(getattr(one, name), getattr(other, name)), (one, other)
        if not is_at_limit(one):
            assert one.verdict is other.verdict, (one, other)
            assert one.notes == other.notes


def is_at_limit(metric: MetricComparison) -> bool:
    """Return whether rounding decides the verdict."""
    limits = (math.log1p(metric.margin), -math.log1p(metric.margin))
    ends = [math.log1p(end) for end in (metric.low, metric.high) if end is not None and end > -1]
    at_margin = any(same(end, limit) for end in ends for limit in limits)
    return at_margin or any(same(metric.p_value, error) for error in (0.01, 0.002, 0.008))


# -- symmetries ------------------------------------------------------------------------------------------


@given(sides())
def test_swapping_the_sides_mirrors_every_result(groups: tuple[list[ComparedRun], list[ComparedRun]]) -> None:
    """Regressions become improvements, and the interval of the logarithm changes its sign."""
    forth, back = compare(*groups), by_key(compare(*reversed(groups)))
    for one in forth.metrics:
        other = back[one.key]
        assert one.change is not None
        assert other.change is not None
        assert same(math.log1p(one.change), -math.log1p(other.change))
        if one.low is None or one.high is None:
            assert (other.low, other.high) == (None, None)
        else:
            assert other.low is not None
            assert other.high is not None
            for high, low in ((one.high, other.low), (other.high, one.low)):
                if low > -0.999:  # below, a share of the baseline has too few digits
                    assert same(math.log1p(high), -math.log1p(low))
        assert same(one.p_value, other.p_value)
        if not is_at_limit(one):
            assert MIRRORED.get(one.verdict, one.verdict) is other.verdict


@given(sides(), st.integers(-20, 20), st.randoms())
def test_the_unit_of_the_values_and_the_order_of_the_runs_do_not_matter(
    groups: tuple[list[ComparedRun], list[ComparedRun]], exponent: int, chance: object
) -> None:
    """The results are the same in seconds and in milliseconds, and if the runs are shuffled."""
    factor = 1.7**exponent
    scaled = []
    for group in groups:
        runs = [
            one._replace(
                values={key: value * factor for key, value in one.values.items()},
                distributions={
                    key: Distribution.of([value * factor for value in found.state.exact or ()])
                    for key, found in one.distributions.items()
                },
            )
            for one in group
        ]
        chance.shuffle(runs)  # type: ignore[attr-defined]
        scaled.append(runs)
    assert_same(compare(*groups), compare(scaled[0], scaled[1]))


@given(sides(), st.integers(2, 4))
def test_repeating_the_runs_of_a_job_adds_no_evidence(
    groups: tuple[list[ComparedRun], list[ComparedRun]], times: int
) -> None:
    """Runs of one job are averaged: ten equal ones count as one. Independent samples would add evidence."""
    bare = [[one._replace(distributions={}) for one in group] for group in groups]
    assert_same(compare(bare[0], bare[1]), compare(bare[0] * times, bare[1] * times))


@given(sides(paired=True))
def test_pairs_and_jobs_give_the_same_estimate(groups: tuple[list[ComparedRun], list[ComparedRun]]) -> None:
    """Pairing changes the certainty of the change, and not the change."""
    bare = [
        [run_of(one.values, f"{side}{place}") for place, one in enumerate(group)]
        for side, group in zip("ab", groups, strict=True)
    ]
    jobs = by_key(compare(bare[0], bare[1]))
    pairs = compare(*([one._replace(distributions={}) for one in group] for group in groups))
    for one in pairs.metrics:
        assert same(one.change, jobs[one.key].change)


# -- what cannot be tested -------------------------------------------------------------------------------


@given(st.floats(1e-6, 1e9), st.floats(1e-4, 1), st.booleans(), st.integers(5, 9))
@example(100.0, 0.05, False, 5)
@example(0.1, 0.03, True, 5)
def test_a_change_that_equals_the_margin_is_accepted(
    value: float, margin: float, is_drop: bool, jobs: int
) -> None:
    """In values without noise, such as counts of queries: a regression begins beyond the margin."""
    rules = [MetricRule("custom.queries", Better.HIGHER if is_drop else Better.LOWER, margin)]

    def verdict(after: float) -> Verdict:
        groups = [
            [run_of({"custom.queries": one}, f"{one}{place}") for place in range(jobs)]
            for one in (value, after)
        ]
        return compare(groups[0], groups[1], primary=["custom.*"], rules=rules).verdict

    limit = 1 + margin
    assert verdict(value / limit if is_drop else value * limit) is Verdict.NO_CHANGE
    beyond = 1 + margin * 1.001
    assert verdict(value / beyond if is_drop else value * beyond) is Verdict.REGRESSION


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        ([{"throughput": 1.0}] * 3, [{"memory_mb": 1.0}] * 3, "missing in the current runs"),
        ([{"memory_mb": 1.0}] * 3, [{"throughput": 1.0}] * 3, "new in the current runs"),
        ([{"throughput": 0.0}, {"throughput": 2.0}], [{"throughput": 1.0}] * 2, "0 in 1 of 2 baseline runs"),
        (
            [{"throughput": 1.0}] * 3,
            [{"throughput": 2.0}] * 3,
            "equal in all jobs of a side: 5 jobs tell whether it varies",
        ),
        ([{"throughput": 1.0}] * 5, [{"throughput": 1.0}] * 5, "the same in all runs of each side"),
        ([{"throughput": 1.0}, {}], [{"throughput": 2.0}] * 2, "only 1 of 2 baseline runs have it"),
    ],
)
def test_what_limits_a_verdict_is_a_note(
    before: list[dict[str, float]], after: list[dict[str, float]], note: str
) -> None:
    """A metric that vanished, is new, zero or constant is in the result, with the reason."""
    groups = [
        [run_of(values, f"{side}{place}") for place, values in enumerate(group)]
        for side, group in (("a", before), ("b", after))
    ]
    throughput = by_key(compare(groups[0], groups[1]))["throughput"]
    assert note in throughput.notes
    expected = Verdict.NO_CHANGE if before[0] == after[0] else Verdict.INCONCLUSIVE
    assert throughput.verdict is expected


ANY_VALUE = st.one_of(st.floats(0, allow_infinity=False), st.sampled_from([0.0, 1.0, 5e-324, 1e308]))
ANY_NAME = st.one_of(
    st.text(min_size=1, max_size=8).map(lambda name: name.replace(".", "/")),
    st.sampled_from(
        ["*", "[", "[!a]", "a/p95", "/", "operation:x/success_rate", "operation:x/count", "%", "😀/mean"]
    ),
)
ANY_TAGS = st.dictionaries(
    st.sampled_from([JOB_TAG, PAIR_TAG, "latency_metric"]),
    st.sampled_from(["", "a", "1/10", "2/10", "/", "1/²", "1/٣", "1/" + "9" * 5000, "1/-3", "1/1/1", "1/0"]),
)


@st.composite
def any_runs(draw: st.DrawFn) -> list[ComparedRun]:
    """Return runs of valid snapshots with any contents."""
    runs = []
    for _ in range(draw(st.integers(1, 6))):
        optional = st.none() | ANY_VALUE
        custom = draw(st.dictionaries(ANY_NAME, ANY_VALUE, max_size=4))
        metrics = Metrics(
            LatencyMetrics(p95=draw(ANY_VALUE)) if draw(st.booleans()) else None,
            draw(optional),
            draw(optional),
            draw(st.none() | st.floats(0, 100)),
            {"n": 1.0, **custom},
        )
        snapshot = PerformanceSnapshot(metrics, metadata=SnapshotMetadata(tags=draw(ANY_TAGS)))
        keys = st.sampled_from(
            ["latency", *(f"custom.{key.rpartition('/')[0]}" for key in custom if "/" in key)]
        )
        distributions = draw(
            st.dictionaries(keys, st.lists(ANY_VALUE, max_size=5).map(Distribution.of), max_size=2)
        )
        runs.append(ComparedRun.of(snapshot, distributions))
    return runs


@given(any_runs(), any_runs())
def test_any_valid_snapshots_can_be_compared(before: list[ComparedRun], after: list[ComparedRun]) -> None:
    """No contents raise an exception or a warning, or give a result that is not a number."""
    comparison = compare(before, after)
    assert comparison.verdict in Verdict
    for metric in comparison.metrics:
        found = (metric.change, metric.low, metric.high, metric.p_value, metric.detectable)
        numbers = (metric.baseline, metric.current, *found)
        assert not any(number is not None and math.isnan(number) for number in numbers), metric
        assert metric.p_value is None or 0 <= metric.p_value <= 1
        assert metric.low is None or metric.high is None or metric.low <= metric.high
        if metric.verdict is not Verdict.INCONCLUSIVE:
            assert metric.change is not None


@given(SIZES, st.sampled_from([0.5, 0.95, 0.99]))
def test_a_single_sample_is_every_quantile(value: float, share: float) -> None:
    """A run of one sample has a latency, with and without the exact estimator."""
    assert quantile_of(Distribution.of([value]), share, exact=True) == value
    assert quantile_of(Distribution.of([value]), share, exact=False) == value


# -- corrections -----------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holms_method_is_the_closed_test_by_bonferroni(p_values: list[float]) -> None:
    """A hypothesis is rejected if Bonferroni's test rejects every set of hypotheses that contains it."""
    places = range(len(p_values))
    sets = [found for size in range(1, len(p_values) + 1) for found in combinations(places, size)]
    closed = [
        max(min(1.0, len(one) * min(p_values[other] for other in one)) for one in sets if place in one)
        for place in places
    ]
    assert list(adjust_by_holm(p_values)) == pytest.approx(closed)
