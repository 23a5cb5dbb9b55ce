"""Targets: anything that can be exposed, as text for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, cast

from prometheus_client.exposition import generate_latest
from prometheus_client.registry import CollectorRegistry

from metrics_adapters.prometheus.collector import check_registry, has_free_names
from metrics_adapters.prometheus.registry_text import render_registry, without_timestamps
from metrics_framework.composition import store_of
from metrics_framework.errors import InvalidInputError
from metrics_framework.exposition.families import ExpositionLog, FamilyHeader, exposed_names
from metrics_framework.exposition.formats import each_value
from metrics_framework.exposition.incremental import IncrementalWriter
from metrics_framework.exposition.text import Format, to_prometheus
from metrics_framework.protocols import MetricsSystem
from metrics_framework.recording import Store
from metrics_framework.runtime.cooperative import yield_gil
from metrics_framework.validation import safe_repr


class Exposition:
    """A store as text for Prometheus, and behind it what a prometheus_client registry holds.

    The text is that of `PrometheusCollector` on a registry, in a fraction of the time. What never changes of
    a line is made once, and lines whose numbers did not change since the last time are not written again. It
    holds nobody up who records, and may be asked by several threads at once. Each series is as it is at the
    moment when its line is written.

    Args:
        store: What is exposed.
        registry: Whose metrics are appended; none by default. Where a store has the same name, that is left
            out, and the log says so.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> metrics = MetricsSystem()
        >>> metrics.collector.increment("http.requests", {"route": "/"})
        >>> print(Exposition(metrics.collector.store).render().decode(), end="")
        # TYPE http_requests_total counter
        http_requests_total{route="/"} 1
    """

    def __init__(self, store: Store, registry: CollectorRegistry | None = None) -> None:
        self.store = store
        self.registry = registry
        self._log = ExpositionLog()
        self._writer = IncrementalWriter(store, self._log, None if registry is None else self._is_free)

    def render(self, format: Format = Format.TEXT) -> bytes:
        """Return all of it."""
        return b"".join(self.chunks(format))

    def chunks(self, format: Format = Format.TEXT, registry_text: bytes | None = None) -> Iterator[bytes]:
        """Yield the text in chunks, each of which takes about half a millisecond to render.

        A chunk may be empty: it is an opportunity to do something else.

        Args:
            format: The format.
            registry_text: The result of `registry_text`, if it was called before: it may take a long time.
        """
        yield from self._writer.chunks(format)
        yield (self.registry_text(format) if registry_text is None else registry_text) + format.end

    def registry_text(self, format: Format = Format.TEXT) -> bytes:
        """Return the registry's own metrics, by prometheus_client; empty where there is no registry."""
        if self.registry is None:
            return b""
        return render_registry(self.registry, self.store, format, self._log)

    def _is_free(self, header: FamilyHeader) -> bool:
        return self.registry is None or has_free_names(header, self.registry, self._log)


class Callbacks(Protocol):
    """What brings gauges up to date before they are exposed.

    Where it has a coroutine function ``collect_async`` too, that one is called on an event loop.
    """

    def collect(self) -> object:
        """Call all that has to be called."""
        ...


class StoreOwner(Protocol):
    """A part of the library, such as a collector."""

    @property
    def store(self) -> Store:
        """Where it keeps its numbers."""
        ...


Target = Exposition | Store | StoreOwner | MetricsSystem
"""What can be exposed: a system whose collector is on a store, too."""


def exposition_of(metrics: Target, registry: CollectorRegistry | None = None) -> Exposition:
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
    if registry is not None:
        check_registry(registry)
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
    callbacks = getattr(metrics, "callbacks", None) if given is None else given
    if callable(getattr(callbacks, "collect", None)):
        return cast("Callbacks", callbacks)
    if given is not None:
        raise InvalidInputError(f"callbacks={safe_repr(given)} cannot be called: they have no collect()")
    return None


def _store(metrics: object) -> Store:
    if isinstance(metrics, Store):
        return metrics
    for owner in (metrics, getattr(metrics, "collector", None)):
        store = store_of(owner)
        if store is not None:
            return store
    raise InvalidInputError(
        f"metrics={safe_repr(metrics)} cannot be exposed: pass a MetricsSystem or a collector that has a"
        " store, a Store, or an Exposition; metrics of prometheus_client go to registry="
    )


class TextWithoutTimestamps:
    """Makes text without timestamps, which a registry's own collectors may have.

    Args:
        registry: A prometheus_client registry to be exposed as well.
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._registry = registry
        self._exposition: Exposition | None = None

    def render(self, metrics: Target) -> bytes:
        """Return some metrics in the text format 0.0.4.

        Raises:
            InvalidInputError: As `exposition_of` does.
        """
        exposition = self._reused_exposition(metrics)
        registry_text = without_timestamps(exposition.registry_text(Format.TEXT))
        chunks = []
        for chunk in exposition.chunks(Format.TEXT, registry_text):
            chunks.append(chunk)
            yield_gil()
        return b"".join(chunks)

    def render_system(self, system: MetricsSystem) -> bytes:
        """Return what a system holds; where its collector has no store, what its aggregator answers.

        Raises:
            InvalidInputError: As `exposition_of` does.
        """
        if store_of(system.collector) is not None:
            return self.render(system)
        own = to_prometheus(each_value(system.aggregator)).encode()
        if self._registry is None:
            return own
        return own + without_timestamps(generate_latest(self._registry))

    def _reused_exposition(self, metrics: Target) -> Exposition:
        exposition = exposition_of(metrics, self._registry)
        if isinstance(metrics, Exposition):
            return exposition
        # The one before knows what it rendered, and what it logged.
        if self._exposition is None or self._exposition.store is not exposition.store:
            self._exposition = exposition
        return self._exposition
