"""The statistics of `metrics_framework.snapshots.compare`, over arrays, from scipy (extra ``compare``).

Values are costs on an additive scale, such as logarithms: higher is worse or slower, and heavy tails point
upwards. The last axis of an array holds the jobs or pairs. The axes before it are free, so that one call
makes many comparisons.

`scipy.stats` takes twice as long to import as everything else that a comparison needs, so only a test that is
rarely needed imports it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from metrics_framework.recording import Distribution

    Floats = NDArray[np.float64]

FEW_JOBS = 5
"""With this number of jobs on each side, a change has to hold with equal variances (Student) and with
separate ones (Welch): each has false alarms where the sides differ in number or runs have rare outliers.

With fewer, variances are taken as equal, because Welch's test of two jobs against twenty has four times the
false alarms that it promises, and the samples of the runs have to confirm the change; see `is_doubtful`.
"""

POWER = 0.8
"""The probability of finding a change that counts as detectable."""

MAX_NEEDED = 1_000
"""The largest number of jobs or pairs that `jobs_needed` returns."""


class Change(NamedTuple):
    """The estimated change of a mean, and how certain it is.

    Attributes:
        estimate: The difference, current minus baseline.
        error: The standard error of the estimate.
        freedom: The degrees of freedom of the error.
        low: The lower end of the interval.
        high: The upper end.
        p_above: The p-value of "the change is at most the margin".
        p_below: The p-value of "the change is at least minus the margin".
    """

    estimate: Floats
    error: Floats
    freedom: Floats
    low: Floats
    high: Floats
    p_above: Floats
    p_below: Floats


def change_between(base: ArrayLike, current: ArrayLike, margin: float, level: float) -> Change:
    """Compare two sides with a value for each job, by two-sample t-tests.

    One job against a history is the prediction interval of that history.

    Args:
        base: Shape (..., jobs).
        current: Shape (..., jobs). Three jobs or more in all.
        margin: The accepted change, 0 or more.
        level: The error of each test and of each end of the interval.
    """
    x, y = np.asarray(base, float), np.asarray(current, float)
    change = _two_sample(x, y, margin, level, equal_variances=True)
    if min(x.shape[-1], y.shape[-1]) < FEW_JOBS:
        return change
    other = _two_sample(x, y, margin, level, equal_variances=False)
    is_wider = other.high - other.low > change.high - change.low
    wider = Change(*(np.where(is_wider, second, first) for first, second in zip(change, other, strict=True)))
    return wider._replace(
        p_above=np.maximum(change.p_above, other.p_above), p_below=np.maximum(change.p_below, other.p_below)
    )


def _two_sample(x: Floats, y: Floats, margin: float, level: float, *, equal_variances: bool) -> Change:
    sizes, squares = [], []
    for side in (x, y):
        sizes.append(side.shape[-1])
        squares.append(np.square(side - side.mean(-1, keepdims=True)).sum(-1))
    if equal_variances:
        freedom = np.asarray(sum(sizes) - 2.0)
        error = np.sqrt(sum(squares) / freedom * sum(1 / size for size in sizes))
    else:
        parts = [square / (size - 1) / size for square, size in zip(squares, sizes, strict=True)]
        error = np.sqrt(sum(parts))
        total = np.asarray(sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True)))
        freedom = np.divide(error**4, total, out=np.ones_like(total), where=total > 0)
    return _change(y.mean(-1) - x.mean(-1), error, freedom, margin, level)


def change_in_pairs(differences: ArrayLike, margin: float, level: float) -> Change:
    """Compare two sides that were measured in pairs, by a paired t-test.

    Args:
        differences: Current minus baseline; shape (..., pairs), two pairs or more.
        margin: As for `change_between`.
        level: As for `change_between`.
    """
    pairs = np.asarray(differences, float)
    number = pairs.shape[-1]
    error = pairs.std(-1, ddof=1) / math.sqrt(number)
    return _change(pairs.mean(-1), error, np.asarray(number - 1.0), margin, level)


def _change(estimate: Floats, error: Floats, freedom: Floats, margin: float, level: float) -> Change:
    """Return a change with the interval and the p-values of the t distribution."""
    half = error * -special.stdtrit(freedom, level)
    return Change(
        estimate,
        error,
        np.broadcast_to(freedom, np.shape(estimate)),
        estimate - half,
        estimate + half,
        _p_of_excess(estimate - margin, error, freedom),
        _p_of_excess(-estimate - margin, error, freedom),
    )


def _p_of_excess(excess: Floats, error: Floats, freedom: Floats) -> Floats:
    """Return the p-value of "the excess is at most 0". Without an error, it is certain."""
    certain = np.where(np.asarray(excess) > 0, math.inf, -math.inf)
    statistic = np.divide(excess, error, out=certain, where=np.asarray(error) > 0)
    p_value: Floats = special.stdtr(freedom, -statistic)
    return p_value


def is_doubtful(distance: ArrayLike, values: ArrayLike, lows: ArrayLike, margin: float) -> NDArray[np.bool_]:
    """Return whether the samples of a few jobs do not confirm that they are higher than the other side.

    Rare outliers put the quantile of a single run far above a history of twenty jobs, but not the lower bound
    of that quantile.

    Args:
        distance: How much higher the side is; shape (...).
        values: Its value in each job; shape (..., jobs).
        lows: The lower bound of each of them, from the samples of its runs; NaN, without doubt, if unknown.
        margin: The accepted change.
    """
    x = np.asarray(values, float)
    if x.shape[-1] >= FEW_JOBS:
        return np.zeros(x.shape[:-1], bool)
    doubtful: NDArray[np.bool_] = np.asarray(distance) - (x - np.asarray(lows, float)).mean(-1) <= margin
    return doubtful


# -- one run ----------------------------------------------------------------------------------------------


def quantile_of(distribution: Distribution, share: float, *, exact: bool) -> float:
    """Return a quantile of the samples of a run.

    Args:
        distribution: The samples.
        share: The share of the quantile, such as 0.95.
        exact: Whether to use the estimator of Harrell and Davis (1982), which needs the samples. Otherwise
            the quantile is the nearest rank.
    """
    values = distribution.state.exact
    if not exact or values is None:
        return distribution.quantiles(share)[0]
    edges = np.arange(len(values) + 1) / len(values)
    weights = np.diff(special.betainc((len(values) + 1) * share, (len(values) + 1) * (1 - share), edges))
    return float(weights @ np.sort(values))


def lowest_quantile(distribution: Distribution, share: float, level: float) -> float:
    """Return a lower bound of a quantile, from the exact law of order statistics: a binomial distribution.

    Args:
        distribution: The samples.
        share: The share of the quantile.
        level: The probability that the bound is too high.

    Returns:
        The bound; minus infinity if the samples are too few for one.
    """
    number = distribution.count
    rank = bisect_left(range(number + 1), True, key=lambda k: bool(special.bdtr(k, number, share) >= level))
    return distribution.quantiles(rank / number)[0] if rank else -math.inf


def highest_quantile(distribution: Distribution, share: float, level: float) -> float:
    """Return an upper bound of a quantile; see `lowest_quantile`. Infinity if there are too few samples."""
    number = distribution.count
    rank = bisect_left(range(number), True, key=lambda k: bool(special.bdtrc(k, number, share) <= level)) + 1
    return distribution.quantiles(rank / number)[0] if rank <= number else math.inf


def lowest_mean(distribution: Distribution, level: float) -> float:
    """Return a lower bound of the mean, by the t distribution; minus infinity for one sample."""
    if distribution.count < 2:
        return -math.inf
    error = distribution.stddev / math.sqrt(distribution.count - 1)
    return distribution.mean + error * float(special.stdtrit(distribution.count - 1, level))


# -- power and corrections --------------------------------------------------------------------------------


def detectable_change(error: float, freedom: float, margin: float, level: float) -> float:
    """Return the smallest change that a comparison finds with the probability `POWER`.

    Args:
        error: The standard error of the change.
        freedom: Its degrees of freedom.
        margin: The accepted change.
        level: The error of the test.
    """
    critical = -float(special.stdtrit(freedom, level))
    return margin + error * float(special.nctdtrinc(freedom, 1 - POWER, critical))


def number_needed(deviation: float, margin: float, level: float, *, pairs: bool) -> int | None:
    """Return how many jobs on each side, or pairs, find twice the margin with the probability `POWER`.

    On a scale of logarithms, that is: twice the 5 % that the margin stands for.

    Args:
        deviation: The standard deviation between jobs, or of the differences in pairs.
        margin: The accepted change, above 0.
        level: The error of the test.
        pairs: Whether to count pairs.

    Returns:
        The number, or ``None`` if it exceeds `MAX_NEEDED`.
    """
    twice = math.log1p(2 * math.expm1(margin))

    def is_enough(number: int) -> bool:
        freedom = number - 1 if pairs else 2 * number - 2
        error = deviation * math.sqrt((1 if pairs else 2) / number)
        return detectable_change(error, freedom, margin, level) <= twice

    numbers = range(2, MAX_NEEDED + 1)
    place = bisect_left(numbers, True, key=is_enough)
    return numbers[place] if place < len(numbers) else None


def adjust_by_holm(p_values: ArrayLike) -> Floats:
    """Return p-values adjusted for the error of a whole family (Holm 1979).

    Args:
        p_values: Shape (..., metrics).

    Example:
        >>> adjust_by_holm([0.01, 0.2, 0.015]).tolist()
        [0.03, 0.2, 0.03]
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, axis=-1)
    factors = np.arange(p.shape[-1], 0, -1)
    ordered = np.minimum(np.maximum.accumulate(np.take_along_axis(p, order, -1) * factors, axis=-1), 1.0)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, ordered, axis=-1)
    return adjusted


def adjust_by_discovery_rate(p_values: ArrayLike) -> Floats:
    """Return p-values adjusted for the share of false discoveries (Benjamini and Hochberg 1995).

    Args:
        p_values: Shape (..., metrics).
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, axis=-1)
    factors = p.shape[-1] / np.arange(1, p.shape[-1] + 1)
    ordered = np.minimum(np.take_along_axis(p, order, -1) * factors, 1.0)
    adjusted = np.empty_like(p)
    lowest = np.minimum.accumulate(ordered[..., ::-1], axis=-1)[..., ::-1]
    np.put_along_axis(adjusted, order, lowest, axis=-1)
    return adjusted


def p_of_shares(base: tuple[int, int], current: tuple[int, int]) -> tuple[float, float]:
    """Return the p-values of "successes are not rarer" and "are not more frequent", by Fisher's exact test.

    Args:
        base: The successes and the failures of the baseline.
        current: Those of the current version.
    """
    from scipy import stats  # slow to import

    table = np.array([base, current])
    is_rarer, is_more_frequent = (
        float(stats.fisher_exact(table, alternative=side).pvalue) for side in ("greater", "less")
    )
    return is_rarer, is_more_frequent
