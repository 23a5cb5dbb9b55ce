"""Targets: the store, registry and callbacks of any object that can be exposed."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from metrics_adapters.in_memory import InMemoryCollector, InMemoryTimer
from metrics_adapters.null import NullCollector
from metrics_adapters.prometheus import PrometheusCollector
from metrics_adapters.prometheus.targets import Exposition, callbacks_of, exposition_of
from metrics_framework import MetricsSystem
from metrics_framework.errors import InvalidInputError
from metrics_framework.exposition.families import set_default_buckets
from metrics_framework.recording import Store


@pytest.mark.parametrize(
    "make",
    [
        lambda store: store,
        InMemoryCollector,
        InMemoryTimer,
        lambda store: PrometheusCollector(CollectorRegistry(), store),
        lambda store: MetricsSystem(collector=InMemoryCollector(store)),
    ],
    ids=["store", "collector", "timer", "Prometheus collector", "system"],
)
def test_every_kind_of_target_is_exposed(make, clock):
    """A store, a part on one and a system of such parts give the same text."""
    store = Store(clock)
    exposition = exposition_of(make(store))
    InMemoryCollector(store).increment("orders")
    assert b"orders_total 1" in exposition.render().replace(b"{}", b"")


def test_an_exposition_is_returned_unchanged(clock):
    """A registry beside it is an error."""
    exposition = Exposition(Store(clock))
    assert exposition_of(exposition) is exposition
    with pytest.raises(InvalidInputError, match=r"Exposition\(store, registry\)"):
        exposition_of(exposition, CollectorRegistry())


@pytest.mark.parametrize(
    "metrics",
    [None, "metrics", 9100, CollectorRegistry(), NullCollector(), MetricsSystem],
    ids=["nothing", "text", "number", "registry", "null collector", "class"],
)
def test_a_target_without_a_store_is_an_error(metrics):
    """The error shows the argument and what to pass instead."""
    with pytest.raises(InvalidInputError, match=r"has no store and cannot be exposed: pass a .* registry="):
        exposition_of(metrics)


def test_a_wrong_registry_is_an_error(clock):
    """The message is the same as that of the collector."""
    with pytest.raises(InvalidInputError, match="registry='default' is not a CollectorRegistry: pass one"):
        exposition_of(Store(clock), "default")


def test_an_exposed_store_has_default_buckets_and_unique_names(clock):
    """This also holds for a store without a Prometheus collector; its own buckets are kept."""
    collector = InMemoryCollector(Store(clock))
    exposition = exposition_of(collector)
    set_default_buckets(exposition.store)
    collector.record_timer("latency", 70)
    assert b'le="0.1"' in exposition.render()
    collector.increment("a.b")
    with pytest.raises(InvalidInputError, match="would be exposed"):
        collector.increment("a_b")
    own = Store(clock, default_buckets=[7])
    set_default_buckets(own)
    assert own.default_buckets == (7,)


class WithCallbacks:
    """Has callbacks, like a system."""

    def __init__(self, callbacks):
        self.callbacks = callbacks


class Callbacks:
    """Has a method `collect`."""

    def collect(self):
        """Do nothing."""


def test_callbacks_are_the_argument_or_those_of_the_system():
    """The argument takes precedence; a system may have none."""
    given, own = Callbacks(), Callbacks()
    assert callbacks_of(WithCallbacks(own)) is own
    assert callbacks_of(WithCallbacks(own), given) is given
    assert callbacks_of(WithCallbacks(None)) is None
    assert callbacks_of(object()) is None


def test_callbacks_without_collect_are_an_error():
    """The error names the missing method."""
    with pytest.raises(InvalidInputError, match=r"has no collect\(\): pass MetricsSystem.callbacks"):
        callbacks_of(object(), print)
