"""A prometheus_client registry's own metrics, as text by prometheus_client."""

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
    """Return a registry's metrics; a collector that fails costs its own.

    Args:
        registry: The registry.
        store: What is exposed otherwise, and left out here.
        format: The format.
        log: Is told what failed.
    """
    parts: list[bytes] = []
    for collector in _collectors(registry):
        if isinstance(collector, RegisteredStore) and collector.store is store:
            continue
        try:
            parts.append(_render(collector, format))
        except Exception as error:  # noqa: BLE001 - a collector of somebody else's may raise anything
            log.fail(collector, error)
    return b"".join(parts)


def without_timestamps(text: bytes) -> bytes:
    """Return a text in format 0.0.4 without timestamps, which Pushgateway and node_exporter reject."""
    return _TIMESTAMP.sub(rb"\1", text)


class _TargetInfo:
    """What a registry says of the target as a whole."""

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
    one: Any = collector  # what is asked of a registry here is that it collects
    if format is Format.OPENMETRICS:
        render: Any = openmetrics.generate_latest  # has no types
        text: bytes = render(one)
        return text.removesuffix(format.end)
    return exposition.generate_latest(one)
