"""The verdicts of `compare` are right as often as promised, in simulated comparisons."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scipy import stats

from metrics_framework.snapshots.compare import ERROR

verdicts = pytest.importorskip("benchmarks.verdicts", reason="the wheel does not contain the benchmarks")


@pytest.mark.heavy
@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "samples"), [("outliers", 20), ("lognormal, sigma 0.3", 200), ("autocorrelated", 20)]
)
def test_false_alarms_are_as_rare_as_promised(kind: str, samples: int, soak: Callable[[int], int]) -> None:
    """Without a change beyond the margin, at most 1 % of all reports contain a regression."""
    reports = soak(10_000)
    found = verdicts.simulate_cells(kind, samples, 0.02, reports)
    limit = stats.binom.isf(0.01 / (2 * len(verdicts.DESIGNS)), reports, ERROR)
    for cell, (same, at_margin, ten, twenty) in found.items():
        assert max(same.alarms, at_margin.alarms) * reports <= limit, cell
        assert twenty.alarms >= ten.alarms, cell
