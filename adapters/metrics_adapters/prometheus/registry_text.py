"""The text of a prometheus_client registry: metrics of the application, rendered by prometheus_client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import signature
from typing import Any

from prometheus_client import exposition
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import CollectorRegistry

from metrics_adapters.prometheus.collector import (
    FamilySource,
    RegisteredStore,
    registered_collectors,
    registered_names,
)
from metrics_framework.exposition.families import ExpositionLog
from metrics_framework.exposition.names import Escaping
from metrics_framework.exposition.text import Format
from metrics_framework.log import raise_interrupt
from metrics_framework.recording import Store
from metrics_framework.validation import safe_repr

_TIMESTAMP = re.compile(rb'(?m)^([^\s#{]+(?:\{.*\})? [^\s"}]+) -?\d+$')


# prometheus_client before 0.22 replaces all characters by underscores.
_HAS_ESCAPING = "escaping" in signature(exposition.generate_latest).parameters


def render_registry(
    registry: CollectorRegistry,
    store: Store | None,
    format: Format,
    log: ExpositionLog,
    escaping: Escaping = Escaping.UNDERSCORES,
    names: frozenset[str] | None = None,
) -> bytes:
    """Return the text of a registry. A collector that fails affects no other.

    Args:
        registry: The registry.
        store: A store that is left out, because its text is rendered elsewhere, if any.
        format: The format.
        log: Logs collectors that fail.
        escaping: How names outside the classic character set are written.
        names: The names of families or samples; only these families are rendered. By default all.
    """
    parts: list[bytes] = []
    for collector in _collectors(registry):
        if isinstance(collector, RegisteredStore):
            if collector.store is not store:
                parts += collector.writer.pieces(format, escaping, names)
            continue
        if names is not None:
            registered = registered_names(registry, collector)
            if registered and names.isdisjoint(registered):
                continue
            collector = _SelectedFamilies(collector, names)
        try:
            parts.append(_render(collector, format, escaping))
        except BaseException as error:  # noqa: BLE001 - a third-party collector may raise anything
            raise_interrupt(error)
            log.fail(collector, error if isinstance(error, Exception) else RuntimeError(safe_repr(error)))
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


class _SelectedFamilies:
    """Collects the families of a collector that have one of some names."""

    def __init__(self, collector: FamilySource, names: frozenset[str]) -> None:
        self._collector = collector
        self._names = names

    def collect(self) -> Iterator[Metric]:
        for metric in self._collector.collect():
            if metric.name in self._names or any(sample.name in self._names for sample in metric.samples):
                yield metric


def _collectors(registry: CollectorRegistry) -> Iterator[FamilySource]:
    target = registry.get_target_info()
    if target:
        yield _TargetInfo(target)
    yield from registered_collectors(registry)


def _render(collector: FamilySource, format: Format, escaping: Escaping) -> bytes:
    module: Any = openmetrics if format is Format.OPENMETRICS else exposition  # partly untyped
    options = {"escaping": escaping.value} if _HAS_ESCAPING else {}
    # It only calls collect(), but is typed for a registry.
    text: bytes = module.generate_latest(collector, **options)
    return text.removesuffix(format.end)
