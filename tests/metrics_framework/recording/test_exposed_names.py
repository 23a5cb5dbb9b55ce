"""Exposed names: each has one owner."""

from __future__ import annotations

import pytest

from metrics_framework.errors import InvalidInputError
from metrics_framework.recording.exposed_names import Named, NameRegistry
from metrics_framework.values import MetricType, MetricUnit


def exposed(named, unit):
    """Return two names: in lower case, and with a suffix; a unit adds a third."""
    name = named.name.lower()
    return [name, f"{name}.end", *([f"{name}.{unit.value}"] if unit else [])]


def gauge(name):
    """Return the name of a gauge."""
    return Named(name, MetricType.GAUGE, False)


@pytest.fixture
def registry():
    """Return a registry without unused names."""
    return NameRegistry(exposed, lambda _: False, {})


def test_a_name_has_one_owner(registry):
    """A metric that registers again keeps its names; another metric cannot get one of them."""
    for _ in range(2):
        registry.register(gauge("A.end"), None)
    with pytest.raises(InvalidInputError, match=r"^'a' would be exposed as 'a\.end', .* a name of 'A\.end':"):
        registry.register(gauge("a"), None)
    assert sorted(registry.names()) == ["a.end", "a.end.end"]
    assert registry.owner("a.end") == gauge("A.end")
    assert registry.owner("a") is None


def test_an_operation_is_called_one(registry):
    """The message distinguishes a metric from an operation of the same name."""
    registry.register(gauge("a"), None)
    with pytest.raises(InvalidInputError, match=r"^operation 'a' .* a name of 'a':"):
        registry.register(Named("a", MetricType.RATE, True), None)


def test_unused_names_are_free(registry):
    """A changed unit frees the former names; a release frees all."""
    registry.register(gauge("a"), MetricUnit.BYTES)
    registry.register(gauge("a"), MetricUnit.PERCENT)
    assert sorted(registry.names()) == ["a", "a.end", "a.percent"]
    registry.release(gauge("a"))
    registry.release(gauge("a"))
    registry.register(gauge("A"), None)
    assert registry.owner("a") == gauge("A")


def test_a_refused_claim_changes_nothing(registry):
    """A metric that cannot get the names of its new unit keeps the former ones."""
    registry.register(gauge("a"), None)
    registry.register(gauge("A.bytes"), None)
    with pytest.raises(InvalidInputError, match=r"'a\.bytes'"):
        registry.register(gauge("a"), MetricUnit.BYTES)
    assert [registry.owner(name) for name in ("a", "a.end")] == [gauge("a")] * 2


def test_a_metric_without_records_loses_its_name():
    """A metric with a record gets the exposed name of one without."""
    forgotten = []
    registry = NameRegistry(exposed, lambda named: not forgotten.append(named), {})
    registry.register(gauge("A"), None)
    registry.register(gauge("a"), None)
    assert registry.owner("a") == gauge("a")
    assert forgotten == [gauge("A")]


def test_registries_with_the_same_owners_share_the_names():
    """A name of one store is taken in another one until it is released there."""
    owners = {}
    first, second = (NameRegistry(exposed, lambda _: False, owners) for _ in range(2))
    first.register(gauge("a"), None)
    first.register(gauge("b"), None)
    with pytest.raises(
        InvalidInputError,
        match=r"^'A' .* a name of 'a' in another store: rename one .* call its unregister\(\)$",
    ):
        second.register(gauge("A"), None)
    assert second.names() == []
    assert second.owner("a") is None
    first.release(gauge("a"))
    second.register(gauge("A"), None)
    assert second.owner("a") == gauge("A")
    first.release_all()
    assert first.names() == []
    assert sorted(owners) == sorted(second.names()) == ["a", "a.end"]
