"""The text of a prometheus_client registry: metrics of the application, rendered by prometheus_client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from prometheus_client import exposition
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import CollectorRegistry

from metrics_adapters.prometheus.collector import FamilySource, RegisteredStore, registered_collectors
from metrics_framework.exposition.families import ExpositionLog
from metrics_framework.exposition.text import Format
from metrics_framework.recording import Store

_TIMESTAMP = re.compile(rb'(?m)^([^\s#{]+(?:\{.*\})? [^\s"}]+) -?\d+$')


def render_registry(registry: CollectorRegistry, store: Store, format: Format, log: ExpositionLog) -> bytes:
    """Return the text of a registry. A collector that fails affects no other.

    Args:
        registry: The registry.
        store: A store that is left out, because its text is rendered elsewhere.
        format: The format.
        log: Logs collectors that fail.
    """
    parts: list[bytes] = []
    for collector in _collectors(registry):
        if isinstance(collector, RegisteredStore) and collector.store is store:
            continue
        try:
            parts.append(_render(collector, format))
        except Exception as error:  # noqa: BLE001 - a third-party collector may raise anything
            log.fail(collector, error)
    return b"".join(parts)


def without_timestamps(text: bytes) -> bytes:
    """Return a text in format 0.0.4 without timestamps, which Pushgateway and node_exporter reject."""
    return _TIMESTAMP.sub(rb"\1", text)


class _TargetInfo:
    """Collects ``target_info``, which a registry has for the process as a whole."""

    def __init__(self, labels: dict[str, str]) -> None:
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        metric = Metric("target", "Target metadata", "info")
        metric.add_sample("target_info", self._labels, 1)
        yield metric


def _collectors(registry: CollectorRegistry) -> Iterator[FamilySource]:
    target = registry.get_target_info()
    if target:
        yield _TargetInfo(target)
    yield from registered_collectors(registry)


def _render(collector: FamilySource, format: Format) -> bytes:
    one: Any = collector  # generate_latest only calls collect(), but is typed for a registry
    if format is Format.OPENMETRICS:
        render: Any = openmetrics.generate_latest  # untyped
        text: bytes = render(one)
        return text.removesuffix(format.end)
    return exposition.generate_latest(one)
