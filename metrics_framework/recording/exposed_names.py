"""The exposed names of metrics, which no two metrics may share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from metrics_framework.errors import InvalidInputError
from metrics_framework.values import MetricType, MetricUnit


class Named(NamedTuple):
    """The owner of exposed names: a metric, or one half of an operation.

    Attributes:
        name: The name as it is recorded.
        metric_type: The kind of its numbers; the outcomes of an operation are a rate.
        is_operation: Whether it is the durations or outcomes of an operation.
    """

    name: str
    metric_type: MetricType
    is_operation: bool

    def __str__(self) -> str:
        return f"operation {self.name!r}" if self.is_operation else repr(self.name)


ExposedNames = Callable[[Named, MetricUnit | None], Iterable[str]]
"""Returns all names that a metric takes up in a backend, given the unit of its description."""


class NameRegistry:
    """The exposed names of a store, so that two metrics are never exposed under one name. Thread-safe.

    Args:
        exposed_names: The backend's rules.
        forget_unused: Forgets a metric whose only record was rejected; returns whether it was one.
        owners: The owner of each exposed name. The registries of several stores share it if their metrics are
            exposed together.
    """

    def __init__(
        self, exposed_names: ExposedNames, forget_unused: Callable[[Named], bool], owners: NameOwners
    ) -> None:
        self.exposed_names = exposed_names
        self.owners = owners
        self._forget_unused = forget_unused
        self._names: dict[Named, frozenset[str]] = {}

    def register(self, named: Named, unit: MetricUnit | None) -> None:
        """Register the exposed names of a metric, and free its former names.

        Raises:
            InvalidInputError: If another metric has one of them; the message names both.
        """
        before, names = self._names.get(named, frozenset()), frozenset(self.exposed_names(named, unit))
        taken: set[str] = set()
        # In a fixed order: if two threads register the same names, one of them gets all.
        for name in sorted(names - before):
            while (owner := self.owners.setdefault(name, (self, named))) != (self, named):
                registry, other = owner
                if not registry._forget_unused(other):
                    self._free(taken, named)
                    which, remedy = "", ""
                    if registry is not self:
                        which = " in another store"
                        remedy = "; if the other collector is not used any more, call its unregister()"
                    raise InvalidInputError(
                        f"{named} would be exposed as {name!r}, which is a name of {other}{which}: rename one"
                        f" of them; for a name that a library records, use a Rule(…, rename=…){remedy}"
                    )
                registry.release(other)
            taken.add(name)
        self._names[named] = names
        self._free(before - names, named)

    def release(self, named: Named) -> None:
        """Free the names of a metric."""
        self._free(self._names.pop(named, frozenset()), named)

    def release_all(self) -> None:
        """Free the names of all metrics of the store."""
        for named in list(self._names):
            self.release(named)

    def owner(self, name: str) -> Named | None:
        """Return the metric of the store with an exposed name."""
        registry, named = self.owners.get(name, (None, None))
        return named if registry is self else None

    def names(self) -> list[str]:
        """Return all exposed names of the store."""
        return [name for names in list(self._names.values()) for name in names]

    def by_metric(self) -> list[tuple[Named, frozenset[str]]]:
        """Return each metric of the store with its exposed names."""
        return list(self._names.items())

    def _free(self, names: Iterable[str], named: Named) -> None:
        for name in names:
            if self.owners.get(name) == (self, named):
                self.owners.pop(name, None)


NameOwners = dict[str, tuple[NameRegistry, Named]]
"""Exposed name to the registry of the store that has it, and to its metric."""
