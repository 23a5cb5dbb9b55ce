"""What is pushed, or left for a file's reader, as text: whoever takes it refuses timestamps."""

from __future__ import annotations

import re
from typing import Protocol

from prometheus_client.registry import CollectorRegistry

from metrics_adapters.prometheus.families import exposed_names
from metrics_adapters.prometheus.rendering import Exposition
from metrics_adapters.prometheus.text import Format
from metrics_framework.composition import store_of
from metrics_framework.errors import InvalidInputError
from metrics_framework.protocols import MetricsSystem
from metrics_framework.recording import Store
from metrics_framework.recording.series import shown

_TIMESTAMP = re.compile(rb'(?m)^([^\s#{]+(?:\{.*\})? [^\s"}]+) -?\d+$')


class OnStore(Protocol):
    """A part of the library, such as a collector."""

    @property
    def store(self) -> Store:
        """Where it keeps its numbers."""
        ...


Exposable = Exposition | Store | OnStore | MetricsSystem
"""What can be exposed."""


def exposition_of(metrics: Exposable, registry: CollectorRegistry | None = None) -> Exposition:
    """Return what exposes some metrics.

    Args:
        metrics: A system whose collector is on a `Store`, a collector or another part on one, a store, or an
            `Exposition`, which stays as it is.
        registry: A prometheus_client registry to be exposed as well.

    Raises:
        InvalidInputError: If there is no store, two names in it collide, or an `Exposition` comes with a
            registry.
    """
    if isinstance(metrics, Exposition):
        if registry is not None:
            raise InvalidInputError("registry= is for what has none; an Exposition says itself what it is of")
        return metrics
    store = metrics if isinstance(metrics, Store) else store_of(metrics)
    store = store or store_of(getattr(metrics, "collector", None))
    if store is None:
        raise InvalidInputError(
            f"{shown(metrics)} has no store to expose: pass a MetricsSystem, a collector like"
            " PrometheusCollector, or a Store"
        )
    store.expose(exposed_names)
    return Exposition(store, registry)


class UntimedText:
    """Makes text without timestamps, which a registry's own collectors may have.

    Args:
        registry: A prometheus_client registry to be exposed as well.
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._registry = registry
        self._kept: Exposition | None = None

    def of(self, metrics: Exposable) -> bytes:
        """Return some metrics in the text format 0.0.4.

        Raises:
            InvalidInputError: As `exposition_of` does.
        """
        exposition = self._exposition_of(metrics)
        foreign = _TIMESTAMP.sub(rb"\1", exposition.foreign(Format.TEXT))
        return b"".join(exposition.chunks(Format.TEXT, foreign))

    def _exposition_of(self, metrics: Exposable) -> Exposition:
        exposition = exposition_of(metrics, self._registry)
        if isinstance(metrics, Exposition):
            return exposition
        # The one before knows what it rendered, and what it logged.
        if self._kept is None or self._kept.store is not exposition.store:
            self._kept = exposition
        return self._kept
