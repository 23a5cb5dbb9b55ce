"""The Prometheus collector: records into a store whose series come out of a prometheus_client registry."""

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
    """A `MetricCollector` whose numbers Prometheus scrapes, beside those that prometheus_client counts.

    It records as the in-memory one does, into a store; a registry that is collected reads the store. So the
    numbers come out of everything that prometheus_client has: ``generate_latest``, ``start_http_server``,
    ``make_asgi_app``, ``make_wsgi_app``, ``push_to_gateway``, ``write_to_textfile``. Whatever else records
    into the store is exposed as well, such as the timer and the tracker of a `MetricsSystem`.

    Histograms and timers are counted by the bounds of their description or of a `Rule`, and without either by
    prometheus_client's default buckets, which are seconds where they are times; a store that has default
    buckets keeps its own. If a name would be exposed by a name of another, its first record is an
    `InvalidInputError` that names both. A name that the application registered with prometheus_client itself
    is left out, and the log says so once.

    A registry that is asked for some names only, as by ``?name[]=``, finds none of these: it knows names
    that do not change.

    Args:
        registry: Where to be collected; prometheus_client's default registry by default, as for its own
            metrics.
        store: Where to keep numbers; a store of its own by default.

    Raises:
        InvalidInputError: If ``registry`` is none, or two names in ``store`` collide.

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
        """Take the numbers out of the registry; they are recorded on, and calling it again does nothing."""
        registered, self._registered = self._registered, None
        if registered is not None:
            self._registry.unregister(registered)

    def recorded_name(self, exposed_name: str) -> str:
        """Return the name that was recorded, of a metric or an operation, by one that Prometheus knows.

        Args:
            exposed_name: The name of a family or of one of its samples.

        Raises:
            UnknownMetricError: If nothing that was recorded is exposed by that name.

        Example:
            >>> collector = PrometheusCollector(CollectorRegistry())
            >>> collector.increment("http.requests")
            >>> collector.recorded_name("http_requests_total")
            'http.requests'
        """
        named = self._names.owner(exposed_name)
        if named is None:
            raise UnknownMetricError(
                f"nothing is exposed as {safe_repr(exposed_name)}."
                f"{nearest(str(exposed_name), self._names.names())}"
            )
        return named.name


class FamilySource(Protocol):
    """A collector of prometheus_client, or a whole `CollectorRegistry`."""

    def collect(self) -> Iterable[Metric]:
        """Return metric families with their samples."""
        ...


class RegisteredStore:
    """What is registered with a registry: a store as prometheus_client's metric families.

    Args:
        store: What is read.
        registry: Where it is registered, whose other names are left alone.
    """

    def __init__(self, store: Store, registry: CollectorRegistry) -> None:
        self.store = store
        self._registry = registry
        self._log = ExpositionLog()

    def describe(self) -> Iterable[Metric]:
        """Say nothing beforehand: names come with their first records."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield what the store holds now."""
        for header, samples in families(self.store, self._log):
            if has_free_names(header, self._registry, self._log):
                metric = Metric(header.name, header.help, header.type, header.unit)
                for suffix, labels, value in samples:
                    metric.add_sample(f"{header.name}{suffix}", labels, value)
                yield metric


def has_free_names(header: FamilyHeader, registry: CollectorRegistry, log: ExpositionLog) -> bool:
    """Say whether no metric that a registry knows beforehand takes up a family's names."""
    # The attribute is private, but the same in prometheus_client 0.21 to 0.26.
    taken = getattr(registry, "_names_to_collectors", {})
    names = (f"{header.name}{suffix}" for suffix in SUFFIXES[header.type])
    name = next((name for name in names if name in taken), None)
    if name is not None:
        log.warn("a metric is not exposed: prometheus_client has its name already", name=name)
    return name is None


def check_registry(registry: object) -> None:
    """Check that a value is a registry of prometheus_client.

    Raises:
        InvalidInputError: If it is not.
    """
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
