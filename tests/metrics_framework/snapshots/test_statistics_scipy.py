"""The statistics of `compare` agree with those of `scipy.stats`, which takes longer to import."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

np = pytest.importorskip("numpy")
stats = pytest.importorskip("scipy.stats")
mstats = pytest.importorskip("scipy.stats.mstats")

from metrics_framework.recording import Distribution  # noqa: E402 - scipy is an extra
from metrics_framework.snapshots import statistics  # noqa: E402

LEVEL, MARGIN = 0.004, 0.05


def near(value: object) -> object:
    """Return what is equal within rounding."""
    return pytest.approx(value, rel=1e-7, abs=1e-12)


@pytest.mark.parametrize(("base", "current"), [(20, 1), (2, 2), (3, 14), (5, 9), (30, 30)])
def test_jobs_are_compared_as_by_scipy(base: int, current: int) -> None:
    """With few jobs, the p-values and the interval are Student's; with more, the worse of his and Welch's."""
    rng = np.random.default_rng(base)
    x, y = rng.normal(5, 0.02, (4, base)), rng.normal(5.06, 0.03, (4, current))
    found = statistics.change_between(x, y, MARGIN, LEVEL)
    tests = [True] if min(base, current) < statistics.FEW_JOBS else [True, False]
    above, below, lows, highs = [], [], [], []
    for pooled in tests:
        above.append(stats.ttest_ind(y - MARGIN, x, axis=-1, equal_var=pooled, alternative="greater").pvalue)
        below.append(stats.ttest_ind(y + MARGIN, x, axis=-1, equal_var=pooled, alternative="less").pvalue)
        interval = stats.ttest_ind(y, x, axis=-1, equal_var=pooled).confidence_interval(1 - 2 * LEVEL)
        lows.append(interval.low)
        highs.append(interval.high)
    assert found.p_above == near(np.max(above, axis=0))
    assert found.p_below == near(np.max(below, axis=0))
    assert (found.low, found.high) == (near(np.min(lows, axis=0)), near(np.max(highs, axis=0)))


def test_pairs_are_compared_as_by_scipy() -> None:
    """The p-values and the interval of pairs are those of the paired t-test."""
    differences = np.random.default_rng(1).normal(0.06, 0.03, (5, 8))
    found = statistics.change_in_pairs(differences, MARGIN, LEVEL)
    above = stats.ttest_1samp(differences, MARGIN, axis=-1, alternative="greater")
    below = stats.ttest_1samp(differences, -MARGIN, axis=-1, alternative="less")
    interval = stats.ttest_1samp(differences, 0, axis=-1).confidence_interval(1 - 2 * LEVEL)
    assert found.p_above == near(above.pvalue)
    assert found.p_below == near(below.pvalue)
    assert (found.low, found.high) == (near(interval.low), near(interval.high))


def test_equal_jobs_are_certain() -> None:
    """Jobs without a spread have an error of 0, and a change beyond the margin has the p-value 0."""
    for distance, p_value in ((0.0, 1.0), (0.04, 1.0), (0.06, 0.0)):
        found = statistics.change_between([1.0, 1.0], [1.0 + distance] * 2, MARGIN, LEVEL)
        assert (float(found.error), float(found.p_above), float(found.p_below)) == (0.0, p_value, 1.0)
        assert float(found.low) == float(found.high) == pytest.approx(distance)


@pytest.mark.parametrize("number", [1, 2, 17, 100, 128, 1000])
def test_quantiles_of_a_run_agree_with_scipy(number: int) -> None:
    """A quantile is that of Harrell and Davis, and its bounds are order statistics by the binomial law."""
    values = np.random.default_rng(number).lognormal(3, 0.5, number)
    distribution = Distribution.of(values.tolist())
    for share in (0.5, 0.95, 0.99):
        if 1 < number <= 128:
            quantile = statistics.quantile_of(distribution, share, exact=True)
            assert quantile == near(mstats.hdquantiles(values, [share])[0])
        low, high = (
            int(stats.binom.ppf(LEVEL, number, share)),
            int(stats.binom.isf(LEVEL, number, share)) + 1,
        )
        lowest = distribution.quantiles(low / number)[0] if low else -math.inf
        highest = distribution.quantiles(high / number)[0] if high <= number else math.inf
        assert statistics.lowest_quantile(distribution, share, LEVEL) == lowest
        assert statistics.highest_quantile(distribution, share, LEVEL) == highest
    if number == 1:  # for which scipy returns NaN
        assert statistics.quantile_of(distribution, 0.95, exact=True) == near(values[0])


def test_false_discoveries_are_adjusted_as_by_scipy() -> None:
    """Adjusted p-values are those of Benjamini and Hochberg."""
    p_values = np.random.default_rng(2).uniform(0, 1, (3, 7)) ** 3
    adjusted = statistics.adjust_by_discovery_rate(p_values)
    assert adjusted == near(stats.false_discovery_control(p_values, axis=-1))
    assert statistics.adjust_by_discovery_rate([]).tolist() == []


@pytest.mark.slow
def test_slow_modules_are_not_imported() -> None:
    """A comparison does not import `scipy.stats`, which takes longer than reading a history."""
    code = "import sys; import metrics_framework.snapshots.compare; print('scipy.stats' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
