"""The selection of the largest values."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.ranking import largest
from metrics_framework.errors import InvalidInputError
from metrics_framework.values import MetricType, MetricUnit, MetricValue


def value(number, metric_type=MetricType.COUNTER, **metadata):
    """Return a value of a type."""
    return MetricValue("m", number, metric_type, MetricUnit.COUNT, datetime.now(UTC), {}, metadata)


@given(st.lists(st.integers()), st.integers(1, 5))
def test_the_largest_come_first(numbers, limit):
    """They are sorted in descending order, and have the requested type."""
    values = [value(number, kind) for number in numbers for kind in (MetricType.GAUGE, MetricType.COUNTER)]
    found = largest(values, MetricType.GAUGE, limit)
    assert [one.value for one in found] == sorted(numbers, reverse=True)[:limit]
    assert all(one.metric_type is MetricType.GAUGE for one in found)


def test_counters_with_a_rate_rank_as_rates():
    """They rank with operations by events per second. Counters without a rate are left out."""
    counter = value(100, rate=2.5)
    values = [counter, value(50), value(5, MetricType.RATE), value(9, MetricType.GAUGE, rate=1)]
    found = largest(values, MetricType.RATE, 10)
    assert [(one.value, one.metric_type) for one in found] == [(5, MetricType.RATE), (2.5, MetricType.RATE)]
    assert found[1].unit is MetricUnit.OPERATIONS_PER_SECOND
    assert counter.value == 100


@pytest.mark.parametrize(
    ("metric_type", "limit"),
    [(MetricType.GAUGE, 0), (MetricType.GAUGE, True), (MetricType.GAUGE, 1.5), ("gauge", 1), (None, 1)],
)
def test_bad_input_is_an_error(metric_type, limit):
    """The error quotes the value."""
    with pytest.raises(InvalidInputError) as caught:
        largest([], metric_type, limit)
    assert repr(limit if metric_type is MetricType.GAUGE else metric_type) in str(caught.value)
