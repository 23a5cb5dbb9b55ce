"""Values of the contracts: types, units and conversions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.errors import InvalidInputError
from metrics_framework.values import MetricType, MetricUnit, to_milliseconds

TIME_UNITS = {MetricUnit.SECONDS: 1e3, MetricUnit.MILLISECONDS: 1.0, MetricUnit.MICROSECONDS: 1e-3}


def test_metric_types_are_those_of_the_contract():
    """The five types and the text of each are frozen: they are in files and on wires."""
    assert {member.name: member.value for member in MetricType} == {
        "COUNTER": "counter",
        "GAUGE": "gauge",
        "HISTOGRAM": "histogram",
        "TIMER": "timer",
        "RATE": "rate",
    }


def test_metric_units_are_those_of_the_contract():
    """The nine units and the text of each are frozen."""
    assert {member.name: member.value for member in MetricUnit} == {
        "SECONDS": "seconds",
        "MILLISECONDS": "milliseconds",
        "MICROSECONDS": "microseconds",
        "BYTES": "bytes",
        "KILOBYTES": "kilobytes",
        "MEGABYTES": "megabytes",
        "COUNT": "count",
        "PERCENT": "percent",
        "OPERATIONS_PER_SECOND": "ops/sec",
    }


@given(st.floats(min_value=0, max_value=1e300), st.sampled_from(sorted(TIME_UNITS, key=str)))
def test_durations_convert_to_milliseconds(duration, unit):
    """A second is a thousand milliseconds, a microsecond a thousandth of one."""
    assert to_milliseconds(duration, unit) == duration * TIME_UNITS[unit]


@pytest.mark.parametrize(
    "unit", [*(unit for unit in MetricUnit if unit not in TIME_UNITS), "seconds", None, []]
)
def test_a_unit_that_measures_no_time_is_refused(unit):
    """The error quotes the unit and lists those that are allowed."""
    with pytest.raises(InvalidInputError) as caught:
        to_milliseconds(1.0, unit)
    assert repr(unit) in str(caught.value)
    for allowed in TIME_UNITS:
        assert f"MetricUnit.{allowed.name}" in str(caught.value)
