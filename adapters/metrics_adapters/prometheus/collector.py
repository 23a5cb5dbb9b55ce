"""The Prometheus collector: records into a store that a prometheus_client registry collects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Protocol, cast, runtime_checkable
from weakref import WeakKeyDictionary

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import REGISTRY, CollectorRegistry

from metrics_adapters.in_memory import InMemoryCollector
from metrics_framework.errors import InvalidInputError, UnknownMetricError, nearest
from metrics_framework.exposition.families import ExposedFamilies, FamilyReader, exposed_names
from metrics_framework.exposition.incremental import IncrementalWriter
from metrics_framework.recording import Store
from metrics_framework.recording.exposed_names import Named, NameOwners, NameRegistry
from metrics_framework.validation import safe_repr


class PrometheusCollector(InMemoryCollector):
    """A `MetricCollector` whose metrics a prometheus_client registry exposes beside its own.

    It records into a store like the in-memory collector, and each collection of the registry reads the store.
    So all functions of prometheus_client include the metrics: ``generate_latest``, ``start_http_server``,
    ``make_asgi_app``, ``make_wsgi_app``, ``push_to_gateway``, ``write_to_textfile``. Everything in the store
    is exposed, including the records of the timer and tracker of a `MetricsSystem`.

    Histograms and timers use the buckets of their description or of a `Rule`. Without either they use the
    default buckets of the store or, if it has none, those of their unit. If a metric would be exposed under
    the name of another, also of another store on the same registry, its first record raises an
    `InvalidInputError` that names both. A metric whose name the application registered with prometheus_client
    itself is not exposed, which is logged once.

    A restricted registry, as for ``?name[]=`` of prometheus_client's endpoints, has the families of which it
    selects a name.

    Args:
        registry: The registry; by default the default registry of prometheus_client.
        store: Keeps the numbers; a new store by default.

    Raises:
        InvalidInputError: If ``registry`` is not a `CollectorRegistry` or has a collector of ``store``
            already, or names collide.

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
        if any(other.store is self.store for other in registered_stores(registry)):
            raise InvalidInputError(
                "registry has a PrometheusCollector of this store already: use that one, or unregister() it"
            )
        self._names = self.store.expose(exposed_names, _NAME_OWNERS.setdefault(registry, {}))
        self._registry = registry
        self._registered: RegisteredStore | None = RegisteredStore(self.store, registry)
        registry.register(self._registered)
        self._selectable = SelectableStore(self._registered, self._names)
        # Without this, a restricted registry would find only collectors that state their names when they are
        # registered. The attribute is private, but the same in prometheus_client 0.21 to 0.26.
        unnamed: list[object] = getattr(registry, "_collectors_without_names", [])
        if self._registered in unnamed:
            unnamed.remove(self._registered)
        unnamed.append(self._selectable)

    def unregister(self) -> None:
        """Remove the metrics from the registry and free their names there. Recording continues."""
        registered, self._registered = self._registered, None
        if registered is not None:
            self._registry.unregister(registered)
            unnamed: list[object] = getattr(self._registry, "_collectors_without_names", [])
            if self._selectable in unnamed:
                unnamed.remove(self._selectable)
            self.store.conceal(self._names)

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


@runtime_checkable
class FamilySource(Protocol):
    """A collector of prometheus_client, or a whole `CollectorRegistry`."""

    def collect(self) -> Iterable[Metric]:
        """Return metric families with their samples."""
        ...


class RegisteredStore:
    """A store as a custom collector of a prometheus_client registry.

    Args:
        store: The store.
        registry: The registry. A metric is not exposed if another collector has its name.
    """

    def __init__(self, store: Store, registry: CollectorRegistry) -> None:
        self.store = store
        exposed = ExposedFamilies(store, partial(taken_names, registry, store))
        self._reader = FamilyReader(exposed)
        self.writer = IncrementalWriter(exposed)
        """Writes the text of the families, also in formats that prometheus_client does not know."""

    def describe(self) -> Iterable[Metric]:
        """Return no names at registration: names are known after their first records."""
        return ()

    def collect(self, only: Named | None = None) -> Iterator[Metric]:
        """Yield the current families of the store, or only that of one metric."""
        for header, samples in self._reader.families(only):
            # prometheus_client would append a unit that is not at the end, as in an escaped name.
            unit = header.unit if header.name.endswith(f"_{header.unit}") else ""
            metric = Metric(header.name, header.help, header.type, unit)
            metric.samples = cast("list[Any]", samples)
            yield metric


class SelectableStore:
    """The collector of a store in the restricted registries of prometheus_client, as for ``?name[]=``.

    Args:
        registered: The store on the registry.
        names: Its exposed names.
    """

    def __init__(self, registered: RegisteredStore, names: NameRegistry) -> None:
        self._registered = registered
        self._names = names

    def collect(self) -> Iterator[SelectableFamily]:
        """Yield the families of the store, none of which is read yet."""
        for named, names in self._names.by_metric():
            yield SelectableFamily(self._registered, named, names)


class SelectableFamily:
    """A family that is read only if a restricted registry selects it.

    Args:
        registered: The store on the registry.
        named: The metric or operation.
        names: Its exposed names.
    """

    def __init__(self, registered: RegisteredStore, named: Named, names: frozenset[str]) -> None:
        self._registered = registered
        self._named = named
        self._names = names

    def _restricted_metric(self, names: set[str]) -> Metric | None:
        """Return the whole family if one of its names is selected: prometheus_client calls this method."""
        if self._names.isdisjoint(names):
            return None
        return next(self._registered.collect(self._named), None)


_NAME_OWNERS: WeakKeyDictionary[CollectorRegistry, NameOwners] = WeakKeyDictionary()
"""The exposed names of the stores on each registry."""


def taken_names(registry: CollectorRegistry, store: Store | None) -> dict[str, str]:
    """Return the exposed names on a registry that other collectors and other stores have, and their owners.

    Args:
        registry: The registry.
        store: The store whose own names are left out, if any.
    """
    taken: dict[str, str] = {}
    owners = _NAME_OWNERS.get(registry)
    for other in registered_stores(registry):
        for names in other.store.name_registries if other.store is not store else ():
            if names.owners is owners:
                for named, exposed in names.by_metric():
                    taken.update(dict.fromkeys(exposed, str(named)))
    # The attribute is private, but the same in prometheus_client 0.21 to 0.26.
    taken.update(dict.fromkeys(list(getattr(registry, "_names_to_collectors", ())), "prometheus_client"))
    return taken


def check_registry(registry: object) -> None:
    """Raise an `InvalidInputError` unless a value is a registry of prometheus_client."""
    if not isinstance(registry, CollectorRegistry):
        raise InvalidInputError(
            f"registry={safe_repr(registry)} is not a CollectorRegistry: pass one, such as"
            " prometheus_client.REGISTRY"
        )


def registered_stores(registry: CollectorRegistry) -> list[RegisteredStore]:
    """Return the stores on a registry."""
    return [each for each in registered_collectors(registry) if isinstance(each, RegisteredStore)]


def registered_collectors(registry: FamilySource) -> list[FamilySource]:
    """Return the collectors of a registry; any other source of families by itself."""
    # The attribute is private, but the same in prometheus_client 0.21 to 0.26. Copying it is one step, which
    # needs no lock.
    return list(getattr(registry, "_collector_to_names", (registry,)))


def registered_names(registry: FamilySource, collector: FamilySource) -> list[str]:
    """Return the names that a collector registered with a registry; none if it does not state them."""
    names: list[str] = getattr(registry, "_collector_to_names", {}).get(collector, [])
    return names
