"""What goes wrong while a store is exposed: it costs itself only, and is logged once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from prometheus_client.registry import CollectorRegistry

from metrics_adapters.prometheus.families import SUFFIXES, FamilyHeader
from metrics_framework.log import Isolation, log_event
from metrics_framework.recording.namespaces import Named

T = TypeVar("T")

MAX_WARNINGS = 1_000
"""How many warnings are logged at most."""


class Notices:
    """The log of one exposition."""

    def __init__(self) -> None:
        self._isolation = Isolation()
        self._said: set[str] = set()

    def attempt(self, named: Named, make: Callable[[], T]) -> T | None:
        """Make the text or family of a metric; ``None`` where that failed."""
        return self._isolation.call("metric cannot be exposed", make, metric=str(named))

    def fail(self, named: object, error: Exception) -> None:
        """Log that something of the text could not be made."""
        self._say("error", "metric cannot be exposed", metric=str(named), error=repr(error))

    def warn(self, event: str, **fields: object) -> None:
        """Log a warning unless it was logged before."""
        self._say("warning", event, **fields)

    def _say(self, level: str, event: str, **fields: object) -> None:
        key = f"{event} {fields}"
        if key not in self._said and len(self._said) < MAX_WARNINGS:
            self._said.add(key)
            log_event(level, event, **fields)

    def is_free(self, heading: FamilyHeader, registry: CollectorRegistry) -> bool:
        """Say whether no metric that a registry knows beforehand takes up a family's names."""
        # The attribute is private, but the same in prometheus_client 0.21 to 0.26.
        taken = getattr(registry, "_names_to_collectors", {})
        names = (f"{heading.name}{suffix}" for suffix in SUFFIXES[heading.type])
        name = next((name for name in names if name in taken), None)
        if name is not None:
            self.warn("a metric is not exposed: prometheus_client has its name already", name=name)
        return name is None
