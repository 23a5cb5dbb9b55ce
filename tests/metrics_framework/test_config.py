"""Configurations are checked as a whole before any of them is applied."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from metrics_framework.config import EXPORT_ENDPOINTS, Settings
from metrics_framework.errors import ConfigurationError
from metrics_framework.plugins import load_adapter


def test_every_key_is_understood():
    """The keys of the contract's example become settings."""
    settings = Settings.parse(
        {"collection_interval": 60, "retention_days": 30, "export_endpoints": ["snapshot_writer"]}
    )
    assert settings == Settings(60, timedelta(days=30), ["snapshot_writer"])


@pytest.mark.parametrize("config", [{}, {"collection_interval": None, "retention_days": None}])
def test_every_key_may_be_left_out(config):
    """What is not configured stays as it is; `None` is the same as nothing."""
    assert Settings.parse(config) == Settings(None, None, [])


def test_parts_of_a_day_are_a_retention():
    """A retention may be shorter than a day."""
    assert Settings.parse({"retention_days": 0.5}).retention == timedelta(hours=12)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("colection_interval", "collection_interval"),
        ("retention", "retention_days"),
        ("export_endpoint", "export_endpoints"),
    ],
)
def test_an_unknown_key_names_the_nearest(key, meant):
    """A misspelled key is not ignored."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.parse({key: 1})
    assert repr(key) in str(caught.value)
    assert f"Did you mean {meant!r}" in str(caught.value)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, -math.inf, True, False, "60", [60], 10**400])
@pytest.mark.parametrize("key", ["collection_interval", "retention_days"])
def test_numbers_are_positive(key, value):
    """A duration that is no positive number is quoted in the error, with its key."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.parse({key: value})
    assert f"{key}={value!r}" in str(caught.value)


@pytest.mark.parametrize(
    "value", ["snapshot_writer", None, 3, [3], [["snapshot_writer"]], {"snapshot_writer": 1}]
)
def test_endpoints_are_a_list_of_names(value):
    """A single name is no list."""
    with pytest.raises(ConfigurationError, match="export_endpoints="):
        Settings.parse({"export_endpoints": value})


def test_an_unknown_endpoint_names_the_nearest():
    """A misspelled endpoint is an error also beside a known one."""
    with pytest.raises(ConfigurationError, match=r"'snapshot_riter'.*Did you mean 'snapshot_writer'"):
        Settings.parse({"export_endpoints": ["snapshot_writer", "snapshot_riter"]})


@pytest.mark.parametrize("name", EXPORT_ENDPOINTS)
def test_every_endpoint_is_an_adapter_that_takes_snapshots(name):
    """What a configuration may name can be made without arguments and written to."""
    output = load_adapter(name)()
    assert output.name == name
    assert callable(output.write)
