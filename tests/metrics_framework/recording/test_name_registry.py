"""Exposed names: each has one owner."""

from __future__ import annotations

import pytest

from metrics_framework.errors import InvalidInputError
from metrics_framework.recording.namespaces import Named, NameRegistry
from metrics_framework.values import MetricType, MetricUnit


def exposed(named, unit):
    """Return two names: in lower case, and with an ending; a unit is a third."""
    name = named.name.lower()
    return [name, f"{name}.end", *([f"{name}.{unit.value}"] if unit else [])]


def gauge(name):
    """Return a gauge's name."""
    return Named(name, MetricType.GAUGE, False)


@pytest.fixture
def registry():
    """Return registry among which nothing is unused."""
    return NameRegistry(exposed, lambda _: False)


def test_a_name_has_one_owner(registry):
    """A metric that registers again keeps its names; another one that wants one of them gets none."""
    for _ in range(2):
        registry.register(gauge("A.end"), None)
    with pytest.raises(InvalidInputError, match=r"^'a' would be exposed as 'a\.end', .* a name of 'A\.end':"):
        registry.register(gauge("a"), None)
    assert sorted(registry.names()) == ["a.end", "a.end.end"]
    assert registry.owner("a.end") == gauge("A.end")
    assert registry.owner("a") is None


def test_an_operation_is_called_one(registry):
    """The message tells a metric from an operation of the same name."""
    registry.register(gauge("a"), None)
    with pytest.raises(InvalidInputError, match=r"^operation 'a' .* a name of 'a':"):
        registry.register(Named("a", MetricType.RATE, True), None)


def test_names_that_are_needed_no_more_are_free(registry):
    """A changed unit frees the names of the one before; a release frees all."""
    registry.register(gauge("a"), MetricUnit.BYTES)
    registry.register(gauge("a"), MetricUnit.PERCENT)
    assert sorted(registry.names()) == ["a", "a.end", "a.percent"]
    registry.release(gauge("a"))
    registry.release(gauge("a"))
    registry.register(gauge("A"), None)
    assert registry.owner("a") == gauge("A")


def test_a_refused_claim_changes_nothing(registry):
    """What cannot have the names of its new unit keeps those of the one before."""
    registry.register(gauge("a"), None)
    registry.register(gauge("A.bytes"), None)
    with pytest.raises(InvalidInputError, match=r"'a\.bytes'"):
        registry.register(gauge("a"), MetricUnit.BYTES)
    assert [registry.owner(name) for name in ("a", "a.end")] == [gauge("a")] * 2


def test_what_is_unused_gives_way():
    """What has a name and no record loses it to who records."""
    forgotten = []
    registry = NameRegistry(exposed, lambda named: not forgotten.append(named))
    registry.register(gauge("A"), None)
    registry.register(gauge("a"), None)
    assert registry.owner("a") == gauge("a")
    assert forgotten == [gauge("A")]
