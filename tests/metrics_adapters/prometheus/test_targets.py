"""What is exposed is found in whatever is passed in."""

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
def test_the_store_of_anything_is_exposed(make, clock):
    """A store, a part on one, and a system of such parts come out alike."""
    store = Store(clock)
    exposition = exposition_of(make(store))
    InMemoryCollector(store).increment("orders")
    assert b"orders_total 1" in exposition.render().replace(b"{}", b"")


def test_an_exposition_is_exposed_as_it_is(clock):
    """It is not made anew; a registry comes too late for it."""
    exposition = Exposition(Store(clock))
    assert exposition_of(exposition) is exposition
    with pytest.raises(InvalidInputError, match=r"Exposition\(store, registry\)"):
        exposition_of(exposition, CollectorRegistry())


@pytest.mark.parametrize(
    "metrics",
    [None, "metrics", 9100, CollectorRegistry(), NullCollector(), MetricsSystem],
    ids=["nothing", "text", "number", "registry", "null collector", "class"],
)
def test_what_has_no_store_is_one_error(metrics):
    """It quotes what was passed in, and says what to pass."""
    with pytest.raises(InvalidInputError, match=r"has no store and cannot be exposed: pass a .* registry="):
        exposition_of(metrics)


def test_what_is_no_registry_is_one_error(clock):
    """The same message as that of the collector."""
    with pytest.raises(InvalidInputError, match="registry='default' is not a CollectorRegistry: pass one"):
        exposition_of(Store(clock), "default")


def test_histograms_have_buckets_and_names_one_owner(clock):
    """Also a store that no Prometheus collector has seen is fit for Prometheus; buckets of its own stay."""
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
    """Has callbacks, as a system does."""

    def __init__(self, callbacks):
        self.callbacks = callbacks


class Callbacks:
    """Can be called."""

    def collect(self):
        """Do nothing."""


def test_callbacks_are_those_given_or_those_of_the_system():
    """What was given is first; a system without any has none."""
    given, own = Callbacks(), Callbacks()
    assert callbacks_of(WithCallbacks(own)) is own
    assert callbacks_of(WithCallbacks(own), given) is given
    assert callbacks_of(WithCallbacks(None)) is None
    assert callbacks_of(object()) is None


def test_callbacks_that_cannot_be_called_are_one_error():
    """It says what is missing."""
    with pytest.raises(InvalidInputError, match=r"has no collect\(\): pass MetricsSystem.callbacks"):
        callbacks_of(object(), print)
