"""Targets of an exposition (a system, collector or store), and their text with that of a registry."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from prometheus_client.registry import CollectorRegistry

from metrics_adapters.prometheus.collector import check_registry, taken_names
from metrics_adapters.prometheus.registry_text import render_registry, without_timestamps
from metrics_framework.capabilities import Callbacks, HasCallbacks, HasCollector, HasStore
from metrics_framework.errors import InvalidInputError
from metrics_framework.exposition.families import ExposedFamilies, ExpositionLog, exposed_names
from metrics_framework.exposition.formats import each_value
from metrics_framework.exposition.incremental import IncrementalWriter
from metrics_framework.exposition.names import Escaping
from metrics_framework.exposition.text import Format, to_prometheus
from metrics_framework.protocols import MetricsSystem
from metrics_framework.recording import Store
from metrics_framework.recording.store import store_of
from metrics_framework.runtime.cooperative import yield_gil
from metrics_framework.validation import safe_repr


class Exposition:
    """Renders a store as text for Prometheus, followed by the metrics of a prometheus_client registry.

    The text is that of a `PrometheusCollector` on a registry, in a fraction of the time: lines whose numbers
    did not change since the last scrape are not rendered again. Thread-safe, and it never blocks a record.
    Each series has the numbers of the moment when its line is written.

    Args:
        store: The store to expose.
        registry: A registry whose metrics are appended; none by default. A metric of the store whose name
            the registry or another store on it has too is not exposed, which is logged.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> metrics = MetricsSystem()
        >>> metrics.collector.increment("http.requests", {"route": "/"})
        >>> print(Exposition(metrics.collector.store).render().decode(), end="")
        # HELP http_requests_total Counter 'http.requests'.
        # TYPE http_requests_total counter
        http_requests_total{route="/"} 1
    """

    def __init__(self, store: Store, registry: CollectorRegistry | None = None) -> None:
        self.store = store
        self.registry = registry
        exposed = ExposedFamilies(store, None if registry is None else partial(taken_names, registry, store))
        self._log = exposed.log
        self._writer = IncrementalWriter(exposed)

    def render(
        self,
        format: Format = Format.TEXT,
        escaping: Escaping = Escaping.UNDERSCORES,
        names: frozenset[str] | None = None,
    ) -> bytes:
        """Return the whole text; the arguments are those of `chunks`."""
        pieces = self._writer.pieces(format, escaping, names)
        return b"".join([*pieces, self.registry_text(format, escaping, names), format.end])

    def chunks(
        self,
        format: Format = Format.TEXT,
        escaping: Escaping = Escaping.UNDERSCORES,
        names: frozenset[str] | None = None,
        *,
        registry_text: bytes | None = None,
    ) -> Iterator[bytes]:
        """Yield the text in chunks, each of which takes about half a millisecond to render.

        A chunk may be empty: it is an opportunity to do something else.

        Args:
            format: The format.
            escaping: How names outside the classic character set are written.
            names: The exposed names of families or samples; only these families are rendered. By default all.
            registry_text: The result of `registry_text`, if it was called before: it may take a long time.
        """
        yield from self._writer.chunks(format, escaping, names)
        if registry_text is None:
            registry_text = self.registry_text(format, escaping, names)
        yield registry_text + format.end

    def registry_text(
        self,
        format: Format = Format.TEXT,
        escaping: Escaping = Escaping.UNDERSCORES,
        names: frozenset[str] | None = None,
    ) -> bytes:
        """Return the metrics of the registry, rendered by prometheus_client; empty without a registry."""
        if self.registry is None:
            return b""
        return render_registry(self.registry, self.store, format, self._log, escaping, names)


Target = Exposition | Store | HasStore | MetricsSystem
"""The types that can be exposed. The collector of a system must have a store."""


def exposition_of(metrics: Target, registry: CollectorRegistry | None = None) -> Exposition:
    """Return the exposition of a target. From then on its store refuses names that collide.

    Args:
        metrics: A `MetricsSystem`, a collector or another object with a store, a `Store`, or an
            `Exposition`, which is returned unchanged.
        registry: A registry whose metrics are appended.

    Raises:
        InvalidInputError: If ``metrics`` has no store, ``registry`` is not a `CollectorRegistry` or is
            passed together with an `Exposition`, or names in the store collide.
    """
    if registry is not None:
        check_registry(registry)
    if isinstance(metrics, Exposition):
        if registry is not None:
            raise InvalidInputError(
                "an Exposition has its own registry: pass it as Exposition(store, registry)"
            )
        return metrics
    store = _store(metrics)
    store.expose(exposed_names)
    return Exposition(store, registry)


def callbacks_of(metrics: object, given: Callbacks | None = None) -> Callbacks | None:
    """Return the callbacks to call before each scrape, or ``None``.

    Args:
        metrics: The target, whose attribute ``callbacks`` is the default.
        given: The callbacks that the user passed.

    Raises:
        InvalidInputError: If ``given`` has no method ``collect``.
    """
    callbacks = metrics.callbacks if given is None and isinstance(metrics, HasCallbacks) else given
    if isinstance(callbacks, Callbacks):
        return callbacks
    if given is not None:
        raise InvalidInputError(
            f"callbacks={safe_repr(given)} has no collect(): pass MetricsSystem.callbacks"
        )
    return None


def _store(metrics: object) -> Store:
    if isinstance(metrics, Store):
        return metrics
    for owner in (metrics, metrics.collector if isinstance(metrics, HasCollector) else None):
        store = store_of(owner)
        if store is not None:
            return store
    raise InvalidInputError(
        f"metrics={safe_repr(metrics)} has no store and cannot be exposed: pass a MetricsSystem, a collector"
        " with a store, a Store or an Exposition; pass a CollectorRegistry as registry="
    )


class TextWithoutTimestamps:
    """Renders text for Pushgateway and node_exporter, which reject the timestamps that collectors may set.

    Args:
        registry: A prometheus_client registry whose metrics are appended.
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._registry = registry
        self._log = ExpositionLog()
        self._exposition: Exposition | None = None

    def render(self, metrics: Target) -> bytes:
        """Return a target in text format 0.0.4.

        Raises:
            InvalidInputError: As `exposition_of` does.
        """
        exposition = self._reused_exposition(metrics)
        registry_text = without_timestamps(exposition.registry_text(Format.TEXT))
        chunks = []
        for chunk in exposition.chunks(Format.TEXT, registry_text=registry_text):
            chunks.append(chunk)
            yield_gil()
        return b"".join(chunks)

    def render_system(self, system: MetricsSystem) -> bytes:
        """Return the text of a system. If its collector has no store, its aggregator is read instead.

        Raises:
            InvalidInputError: As `exposition_of` does.
        """
        if store_of(system.collector) is not None:
            return self.render(system)
        registry, log = self._registry, self._log
        if registry is None:
            return to_prometheus(each_value(system.aggregator), log).encode()
        own = to_prometheus(each_value(system.aggregator), log, taken_names(registry, None))
        return own.encode() + without_timestamps(render_registry(registry, None, Format.TEXT, log))

    def _reused_exposition(self, metrics: Target) -> Exposition:
        exposition = exposition_of(metrics, self._registry)
        if isinstance(metrics, Exposition):
            return exposition
        # The earlier exposition remembers what it rendered and logged.
        if self._exposition is None or self._exposition.store is not exposition.store:
            self._exposition = exposition
        return self._exposition
