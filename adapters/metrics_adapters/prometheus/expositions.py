"""What is exposed, of whatever is passed in."""

from __future__ import annotations

from prometheus_client.registry import CollectorRegistry

from metrics_adapters.prometheus.families import exposed_names
from metrics_adapters.prometheus.rendering import Exposition
from metrics_framework.capabilities import Callbacks, HasCallbacks, HasCollector, HasStore
from metrics_framework.errors import InvalidInputError
from metrics_framework.protocols import MetricsSystem
from metrics_framework.recording import Store
from metrics_framework.recording.store import store_of
from metrics_framework.validation import safe_repr

Exposable = Exposition | Store | HasStore | MetricsSystem
"""What can be exposed: a system whose collector is on a store, too."""


def exposition_of(metrics: Exposable, registry: CollectorRegistry | None = None) -> Exposition:
    """Return the exposition of a store, or of what records into one.

    From then on the store refuses names that collide.

    Args:
        metrics: A `MetricsSystem`, a collector or anything else with a store, a `Store`, or an `Exposition`,
            which is returned as it is.
        registry: Whose metrics are appended.

    Raises:
        InvalidInputError: If there is no store, ``registry`` is none or comes with an `Exposition`, or names
            collide already.
    """
    if registry is not None and not isinstance(registry, CollectorRegistry):
        raise InvalidInputError(
            f"registry={safe_repr(registry)} is no registry; pass one, like prometheus_client.REGISTRY"
        )
    if isinstance(metrics, Exposition):
        if registry is not None:
            raise InvalidInputError("an Exposition has its registry already: Exposition(store, registry)")
        return metrics
    store = _store(metrics)
    store.expose(exposed_names)
    return Exposition(store, registry)


def callbacks_of(metrics: object, given: Callbacks | None = None) -> Callbacks | None:
    """Return what is to be called before metrics are exposed, ``None`` for nothing.

    Args:
        metrics: Whose ``callbacks`` they are where none are given.
        given: Callbacks that were passed in.

    Raises:
        InvalidInputError: If ``given`` cannot be called.
    """
    callbacks = metrics.callbacks if given is None and isinstance(metrics, HasCallbacks) else given
    if isinstance(callbacks, Callbacks):
        return callbacks
    if given is not None:
        raise InvalidInputError(f"callbacks={safe_repr(given)} cannot be called: they have no collect()")
    return None


def _store(metrics: object) -> Store:
    if isinstance(metrics, Store):
        return metrics
    for owner in (metrics, metrics.collector if isinstance(metrics, HasCollector) else None):
        store = store_of(owner)
        if store is not None:
            return store
    raise InvalidInputError(
        f"metrics={safe_repr(metrics)} cannot be exposed: pass a MetricsSystem or a collector that has a"
        " store, a Store, or an Exposition; metrics of prometheus_client go to registry="
    )
