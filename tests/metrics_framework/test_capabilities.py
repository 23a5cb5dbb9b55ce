"""A scope adds its tags to its own records and to no others."""

from __future__ import annotations

from typing import Any

import pytest

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector
from metrics_framework import InvalidInputError, MetricsSystem, MetricUnit
from metrics_framework.capabilities import ScopedCollector
from metrics_framework.protocols import MetricCollector

TENANT = {"tenant": "acme"}


class Foreign:
    """A collector that has only the methods of the Protocol."""

    def __init__(self) -> None:
        own = InMemoryCollector()
        self.aggregator = InMemoryAggregator(own.store)
        for name in ("record_counter", "record_gauge", "record_histogram", "record_timer"):
            setattr(self, name, getattr(own, name))
        self.increment, self.decrement = own.increment, own.decrement


def record_everything(collector: MetricCollector, tags: dict[str, str] | None) -> None:
    """Record with each method of the Protocol."""
    collector.record_counter("counter", 2, tags)
    collector.record_gauge("gauge", 3, tags)
    collector.record_histogram("histogram", 4, tags)
    collector.record_timer("timer", 5, MetricUnit.SECONDS, tags)
    collector.increment("counter", tags)
    collector.decrement("gauge", tags)


def found(aggregator: InMemoryAggregator) -> dict[str, tuple[dict[str, str], float]]:
    """Return tags and value by name."""
    return {value.name: (value.tags, value.value) for value in aggregator.get_metrics_by_tag({})}


def scope(foreign: bool, tags: dict[str, str]) -> tuple[Any, InMemoryAggregator]:
    """Return a scope over our collector or a foreign one, and an aggregator of its records."""
    if foreign:
        collector = Foreign()
        return ScopedCollector(collector, tags), collector.aggregator  # type: ignore[arg-type]
    own = InMemoryCollector()
    return own.with_tags(tags), InMemoryAggregator(own.store)


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("tags", [None, {"b": "2"}, {"z": "3", "a": "1"}])
def test_a_scope_adds_its_tags_to_every_kind_of_record(foreign, tags):
    """All six methods record as without a scope, with the tags of the scope added."""
    scoped, aggregator = scope(foreign, TENANT)
    for _ in range(3):
        record_everything(scoped, tags)
    expected = {**(tags or {}), **TENANT}
    assert found(aggregator) == {
        "counter": (expected, 9),
        "gauge": (expected, 2),
        "histogram": (expected, 4),
        "timer": (expected, 5_000),
    }


@pytest.mark.parametrize("foreign", [False, True])
def test_scopes_nest_and_the_inner_tag_wins(foreign):
    """The tag of a record wins over that of the inner scope, which wins over the outer scope."""
    outer, aggregator = scope(foreign, {"a": "outer", "b": "outer", "c": "outer"})
    outer.with_tags({"b": "inner", "c": "inner"}).record_counter("name", 1, {"c": "record"})
    outer.record_counter("other", 1)
    assert found(aggregator) == {
        "name": ({"a": "outer", "b": "inner", "c": "record"}, 1),
        "other": ({"a": "outer", "b": "outer", "c": "outer"}, 1),
    }


def test_with_tags_of_a_system_scopes_its_collector():
    """`MetricsSystem.with_tags` works with our collectors and with foreign ones."""
    foreign = Foreign()
    systems = [MetricsSystem(), MetricsSystem(collector=foreign, aggregator=foreign.aggregator)]  # type: ignore[arg-type]
    for system in systems:
        system.with_tags(TENANT).increment("orders", {"status": "paid"})
        (value,) = system.aggregator.get_metrics_by_tag({})
        assert value.tags == {"status": "paid", "tenant": "acme"}


@pytest.mark.parametrize("tags", ["tenant", {"": "acme"}, {1: "acme"}, [("tenant", "acme")]])
def test_invalid_tags_of_a_scope_are_rejected_when_it_is_created(tags):
    """No record is needed to find the error."""
    for make in (MetricsSystem().with_tags, lambda tags: ScopedCollector(InMemoryCollector(), tags)):
        with pytest.raises(InvalidInputError):
            make(tags)


def test_invalid_tags_of_a_record_in_a_scope_are_rejected():
    """A scope does not change the handling of bad input."""
    scoped = InMemoryCollector().with_tags(TENANT)
    for tags in ("x", {"": "y"}, 5):
        with pytest.raises(InvalidInputError):
            scoped.record_counter("name", 1, tags)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError):
        scoped.record_counter("", 1)


def test_bound_instruments_of_a_scope_have_its_tags():
    """A bound instrument of a scope records into a series with the scope's tags."""
    collector = InMemoryCollector()
    collector.with_tags(TENANT).counter("orders", {"status": "paid"}).add(2)
    assert found(InMemoryAggregator(collector.store)) == {"orders": ({"status": "paid", "tenant": "acme"}, 2)}


def test_no_record_checks_for_an_ability(monkeypatch):
    """`isinstance` with a Protocol is slow: it runs when parts are set up, never for a record."""
    foreign = Foreign()
    systems = [MetricsSystem(), MetricsSystem(collector=foreign, aggregator=foreign.aggregator)]  # type: ignore[arg-type]
    scopes = [system.with_tags(TENANT) for system in systems]
    asked = []
    check = type(MetricCollector).__instancecheck__

    def count(protocol, part):
        asked.append(protocol)
        return check(protocol, part)

    monkeypatch.setattr(type(MetricCollector), "__instancecheck__", count)
    for system, scoped in zip(systems, scopes, strict=True):
        with system.measure("checkout"):
            pass
        asked.clear()  # the first measurement looks for the store
        with system.measure("checkout"):
            record_everything(system.collector, None)
            record_everything(scoped, None)
        assert [protocol for protocol in asked if protocol.__module__.startswith("metrics_")] == []
