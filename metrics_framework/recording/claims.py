"""Who has which exposed name: where a backend's rules make names alike, two metrics must not become one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from metrics_framework.errors import InvalidInputError
from metrics_framework.values import MetricType, MetricUnit


class Named(NamedTuple):
    """What has a name: a metric, or one half of an operation.

    Attributes:
        name: The name as it is recorded.
        metric_type: What kind of number it is; the outcomes of an operation are a rate.
        is_operation: Whether it is the durations or outcomes of an operation.
    """

    name: str
    metric_type: MetricType
    is_operation: bool

    def __str__(self) -> str:
        return f"operation {self.name!r}" if self.is_operation else repr(self.name)


ExposedNames = Callable[[Named, "MetricUnit | None"], Iterable[str]]
"""Returns all names that something takes up in a backend, given the unit of its description."""


class Claims:
    """Exposed name to what has it.

    Args:
        exposed_names: The backend's rules.
        forget_unused: Forgets something whose only record was refused; says whether it was such.
    """

    def __init__(self, exposed_names: ExposedNames, forget_unused: Callable[[Named], bool]) -> None:
        self.exposed_names = exposed_names
        self._forget_unused = forget_unused
        self._owners: dict[str, Named] = {}
        self._names: dict[Named, frozenset[str]] = {}

    def claim(self, named: Named, unit: MetricUnit | None) -> None:
        """Take the names of something; those that it had and needs no more are free again.

        Raises:
            InvalidInputError: If something else has one of them; the message names both.
        """
        before, names = self._names.get(named, frozenset()), frozenset(self.exposed_names(named, unit))
        taken: set[str] = set()
        # In one order, so that of two threads that want the same names one gets them all.
        for name in sorted(names - before):
            while (owner := self._owners.setdefault(name, named)) != named:
                if not self._forget_unused(owner):
                    self._free(taken, named)
                    raise InvalidInputError(
                        f"{named} would be exposed as {name!r}, which is a name of {owner}; rename one of"
                        " them, for one that a library records by a Rule(…, rename=…)"
                    )
                self.release(owner)
            taken.add(name)
        self._names[named] = names
        self._free(before - names, named)

    def release(self, named: Named) -> None:
        """Free the names of something."""
        self._free(self._names.pop(named, frozenset()), named)

    def owner(self, name: str) -> Named | None:
        """Return what has an exposed name."""
        return self._owners.get(name)

    def names(self) -> list[str]:
        """Return all names that are taken."""
        return list(self._owners)

    def _free(self, names: Iterable[str], named: Named) -> None:
        for name in names:
            if self._owners.get(name) == named:
                self._owners.pop(name, None)
