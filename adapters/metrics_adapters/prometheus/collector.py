"""The Prometheus collector: records into a store that a prometheus_client registry collects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import REGISTRY, CollectorRegistry

from metrics_adapters.in_memory import InMemoryCollector
from metrics_framework.errors import InvalidInputError, UnknownMetricError, nearest
from metrics_framework.exposition.families import (
    SUFFIXES,
    ExpositionLog,
    FamilyHeader,
    exposed_names,
    families,
    set_default_buckets,
)
from metrics_framework.recording import Store
from metrics_framework.validation import safe_repr


class PrometheusCollector(InMemoryCollector):
    """A `MetricCollector` whose metrics a prometheus_client registry exposes beside its own.

    It records into a store like the in-memory collector, and each collection of the registry reads the store.
    So all functions of prometheus_client include the metrics: ``generate_latest``, ``start_http_server``,
    ``make_asgi_app``, ``make_wsgi_app``, ``push_to_gateway``, ``write_to_textfile``. Everything in the store
    is exposed, including the records of the timer and tracker of a `MetricsSystem`.

    Histograms and timers use the buckets of their description or of a `Rule`. Without either they use the
    default buckets of the store or, if it has none, those of prometheus_client, in seconds for times. If a
    metric would be exposed under the name of another, its first record raises an `InvalidInputError` that
    names both. A metric whose name the application registered with prometheus_client itself is not exposed,
    which is logged once.

    A registry that is asked for some names only, as by ``?name[]=``, does not find these metrics: it knows
    only the names that exist at registration.

    Args:
        registry: The registry; by default the default registry of prometheus_client.
        store: Keeps the numbers; a new store by default.

    Raises:
        InvalidInputError: If ``registry`` is not a `CollectorRegistry`, or two names in ``store`` collide.

    Example:
        >>> from prometheus_client import CollectorRegistry, generate_latest
        >>> registry = CollectorRegistry()
        >>> collector = PrometheusCollector(registry)
        >>> collector.increment("http.requests", {"route": "/"})
        >>> generate_latest(registry).decode().splitlines()[-1]
        'http_requests_total{route="/"} 1.0'
    """

    def __init__(self, registry: CollectorRegistry | None = None, store: Store | None = None) -> None:
        super().__init__(store)
        registry = REGISTRY if registry is None else registry
        check_registry(registry)
        self._names = self.store.expose(exposed_names)
        set_default_buckets(self.store)
        self._registry = registry
        self._registered: RegisteredStore | None = RegisteredStore(self.store, registry)
        registry.register(self._registered)

    def unregister(self) -> None:
        """Remove the metrics from the registry. Recording continues, and calling it again does nothing."""
        registered, self._registered = self._registered, None
        if registered is not None:
            self._registry.unregister(registered)

    def recorded_name(self, exposed_name: str) -> str:
        """Return the recorded name of a metric or operation for an exposed name.

        Args:
            exposed_name: The name of a family or of one of its samples.

        Raises:
            UnknownMetricError: If no recorded metric is exposed under the name.

        Example:
            >>> collector = PrometheusCollector(CollectorRegistry())
            >>> collector.increment("http.requests")
            >>> collector.recorded_name("http_requests_total")
            'http.requests'
        """
        named = self._names.owner(exposed_name)
        if named is None:
            raise UnknownMetricError(
                f"no metric is exposed as {safe_repr(exposed_name)}."
                f"{nearest(str(exposed_name), self._names.names())}"
            )
        return named.name


class FamilySource(Protocol):
    """A collector of prometheus_client, or a whole `CollectorRegistry`."""

    def collect(self) -> Iterable[Metric]:
        """Return metric families with their samples."""
        ...


class RegisteredStore:
    """A store as a custom collector of a prometheus_client registry.

    Args:
        store: The store.
        registry: The registry. A metric whose name another collector has is not exposed.
    """

    def __init__(self, store: Store, registry: CollectorRegistry) -> None:
        self.store = store
        self._registry = registry
        self._log = ExpositionLog()

    def describe(self) -> Iterable[Metric]:
        """Return no names at registration: names are known after their first records."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the current families of the store."""
        for header, samples in families(self.store, self._log):
            if has_free_names(header, self._registry, self._log):
                metric = Metric(header.name, header.help, header.type, header.unit)
                for suffix, labels, value in samples:
                    metric.add_sample(f"{header.name}{suffix}", labels, value)
                yield metric


def has_free_names(header: FamilyHeader, registry: CollectorRegistry, log: ExpositionLog) -> bool:
    """Return whether none of the names of a family is registered with a registry. A conflict is logged."""
    # The attribute is private, but the same in prometheus_client 0.21 to 0.26.
    taken = getattr(registry, "_names_to_collectors", {})
    names = (f"{header.name}{suffix}" for suffix in SUFFIXES[header.type])
    name = next((name for name in names if name in taken), None)
    if name is not None:
        log.warn("a metric is not exposed: prometheus_client has its name already", name=name)
    return name is None


def check_registry(registry: object) -> None:
    """Raise an `InvalidInputError` unless a value is a registry of prometheus_client."""
    if not isinstance(registry, CollectorRegistry):
        raise InvalidInputError(
            f"registry={safe_repr(registry)} is not a CollectorRegistry: pass one, such as"
            " prometheus_client.REGISTRY"
        )


def registered_collectors(registry: FamilySource) -> list[FamilySource]:
    """Return the collectors of a registry; any other source of families by itself."""
    # The attribute is private, but the same in prometheus_client 0.21 to 0.26. Copying it is one step, which
    # needs no lock.
    return list(getattr(registry, "_collector_to_names", (registry,)))
