"""Change points are found where they are, and not in noise."""

from __future__ import annotations

import math
import random

import pytest

from metrics_framework.report.change_points import (
    MIN_VALUES,
    find_levels,
    shifts_between,
)

NOISE = 0.02


def make_history(seed: int, jobs: int, shift_at: int | None = None, shift: float = 1.0) -> list[float]:
    """Return noisy values, which change by a factor."""
    chance = random.Random(seed)
    factors = [shift if shift_at is not None and number >= shift_at else 1.0 for number in range(jobs)]
    return [20 * factor * math.exp(chance.gauss(0, NOISE)) for factor in factors]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("shift", [1.12, 0.89])
def test_a_shift_is_found_where_it_is(seed: int, shift: float) -> None:
    """A shift of five deviations in 30 jobs is found at its job, or one beside it, with its size."""
    (found,) = shifts_between(find_levels(make_history(seed, 30, 15, shift)))
    assert abs(found.index - 15) <= 1
    assert found.change == pytest.approx(shift - 1, abs=0.03)


@pytest.mark.parametrize("jobs", [10, 20, 30, 60])
def test_noise_has_no_shifts(jobs: int) -> None:
    """At most 4 % of histories without a shift have a change point."""
    found = sum(len(find_levels(make_history(seed, jobs))) > 1 for seed in range(300))
    assert found <= 12


def test_several_shifts_are_found() -> None:
    """A step up and back down makes three levels."""
    values = make_history(1, 20) + [1.2 * value for value in make_history(2, 20)] + make_history(3, 20)
    levels = find_levels(values)
    assert [level.first for level in levels] == [0, 20, 40]
    assert [level.last for level in levels] == [19, 39, 59]


@pytest.mark.parametrize("place", [0, 12, 29])
def test_an_outlier_is_not_a_shift(place: int) -> None:
    """One job of five times the time makes no change point, and hardly moves the level."""
    values = make_history(4, 30)
    (expected,) = find_levels(values)
    values[place] *= 5
    (level,) = find_levels(values)
    assert level.value == pytest.approx(expected.value, rel=0.01)


def test_a_constant_that_changes_has_a_shift() -> None:
    """A count without noise has a shift where it changes, and none before."""
    assert [shift.index for shift in shifts_between(find_levels([7.0] * 12 + [8.0] * 12))] == [12]
    assert shifts_between(find_levels([7.0] * 24)) == []


def test_few_values_have_one_level() -> None:
    """Fewer values than `MIN_VALUES` are one level, however they differ."""
    values = [1.0] * 4 + [100.0] * (MIN_VALUES - 5)
    assert len(find_levels(values)) == 1
