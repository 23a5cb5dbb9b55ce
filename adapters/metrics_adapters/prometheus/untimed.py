"""What is pushed, or left for a file's reader, as text: whoever takes it refuses timestamps."""

from __future__ import annotations

import re

from prometheus_client.exposition import generate_latest
from prometheus_client.registry import CollectorRegistry

from metrics_adapters.prometheus.expositions import Exposable, exposition_of
from metrics_adapters.prometheus.rendering import Exposition
from metrics_adapters.prometheus.text import Format
from metrics_framework.exposition.formats import each_value
from metrics_framework.exposition.text import to_prometheus
from metrics_framework.protocols import MetricsSystem
from metrics_framework.recording.store import store_of
from metrics_framework.runtime.cooperative import yield_gil

_TIMESTAMP = re.compile(rb'(?m)^([^\s#{]+(?:\{.*\})? [^\s"}]+) -?\d+$')


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
        chunks = []
        for chunk in exposition.chunks(Format.TEXT, foreign):
            chunks.append(chunk)
            yield_gil()
        return b"".join(chunks)

    def of_system(self, system: MetricsSystem) -> bytes:
        """Return what a system holds; where its collector has no store, what its aggregator answers.

        Raises:
            InvalidInputError: As `exposition_of` does.
        """
        if store_of(system.collector) is not None:
            return self.of(system)
        own = to_prometheus(each_value(system.aggregator)).encode()
        if self._registry is None:
            return own
        return own + _TIMESTAMP.sub(rb"\1", generate_latest(self._registry))

    def _exposition_of(self, metrics: Exposable) -> Exposition:
        exposition = exposition_of(metrics, self._registry)
        if isinstance(metrics, Exposition):
            return exposition
        # The one before knows what it rendered, and what it logged.
        if self._kept is None or self._kept.store is not exposition.store:
            self._kept = exposition
        return self._kept
