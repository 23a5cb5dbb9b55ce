"""Filters select series by name, type and tags, and a sample of their records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.errors import InvalidInputError
from metrics_framework.streams import StreamFilter
from metrics_framework.values import MetricType

SERIES = {
    "requests": ("http.requests", MetricType.COUNTER, {"region": "north"}),
    "level": ("http.level", MetricType.GAUGE, {}),
    "disk": ("disk.level", MetricType.GAUGE, {"region": "north", "disk": "a"}),
    "outcomes": ("http.work", MetricType.RATE, {"port": "80"}),
    "odd": ("a[0]", MetricType.COUNTER, {}),
}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (None, set(SERIES)),
        ({}, set(SERIES)),
        ({"name": "http.*"}, {"requests", "level", "outcomes"}),
        ({"name": "http.level"}, {"level"}),
        ({"name": "a[0]"}, {"odd"}),
        ({"name": "HTTP.*"}, set()),
        ({"type": "gauge"}, {"level", "disk"}),
        ({"type": MetricType.RATE}, {"outcomes"}),
        ({"tags": {"region": "north"}}, {"requests", "disk"}),
        ({"tags": {"port": 80}}, {"outcomes"}),
        ({"name": "http.*", "type": "counter", "tags": {"region": "north"}}, {"requests"}),
    ],
)
def test_filters_select_by_name_type_and_tags(filters, expected):
    """A name or pattern, a type and tags must all match."""
    stream_filter = StreamFilter.parse(filters)
    assert {key for key, series in SERIES.items() if stream_filter.matches(*series)} == expected
    assert stream_filter.matches_all == (not filters)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"names": "http.*"}, r"'names'.*Did you mean 'name'"),
        ({3: 4}, "unknown filter 3"),
        ({"name": 3}, "name=3"),
        ({"name": None}, "name=None"),
        ({"tags": "region"}, "tags='region'"),
        ({"tags": None}, "tags=None"),
        ({"type": "timers"}, "type='timers'.*'timer'"),
        ({"type": 3}, "type=3"),
        ({"type": []}, r"type=\[\]"),
        ({"sample_rate": 0}, "sample_rate=0 "),
        ({"sample_rate": 1.5}, r"sample_rate=1\.5"),
        ({"sample_rate": 10**400}, "sample_rate=10+ is not a number above 0"),
        ({"sample_rate": True}, "sample_rate=True"),
        ({"sample_rate": float("nan")}, "sample_rate=nan"),
        ({"sample_rate": "half"}, "sample_rate='half'"),
        ("http.*", r"filters='http\.\*'"),
    ],
)
def test_a_bad_filter_is_an_error(filters, message):
    """Ignoring it would select everything or nothing."""
    with pytest.raises(InvalidInputError, match=message):
        StreamFilter.parse(filters)


@given(
    rate=st.floats(0.001, 1),
    start=st.integers(0, 10**12),
    step=st.integers(1, 50),
)
def test_a_sample_has_the_right_share_of_regular_sequences(rate, start, step):
    """Nearly the same share of every n-th record is in the sample, from any start."""
    stream_filter = StreamFilter.parse({"sample_rate": rate})
    number = 4_000
    taken = sum(stream_filter.is_in_sample(start + step * each) for each in range(number))
    assert abs(taken / number - rate) < 0.02


def test_a_larger_sample_contains_a_smaller_one():
    """A sample with a rate of 1 has every record."""
    small, large, whole = (StreamFilter.parse({"sample_rate": rate}) for rate in (0.1, 0.3, 1))
    for sequence in range(1, 5_000):
        assert whole.is_in_sample(sequence)
        assert large.is_in_sample(sequence) or not small.is_in_sample(sequence)
