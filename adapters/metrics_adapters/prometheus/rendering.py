"""What a store holds, as text for Prometheus: written anew only where it changed."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

from prometheus_client.registry import CollectorRegistry

from metrics_adapters.prometheus.foreign import render_registry
from metrics_adapters.prometheus.metric_text import MetricText
from metrics_adapters.prometheus.notices import Notices
from metrics_adapters.prometheus.text import Format
from metrics_framework.recording import Store
from metrics_framework.recording.metric import Metric
from metrics_framework.recording.namespaces import Named

CHUNK_BYTES = 65_536
CHUNK_SECONDS = 0.0005
"""How much is handed on at once, whichever is reached first."""


class Exposition:
    """A store as text for Prometheus, and behind it what a prometheus_client registry holds.

    The text is that of `PrometheusCollector` on a registry, in a fraction of the time. What never changes of
    a line is made once, and lines whose numbers did not change since the last time are not written again. It
    holds nobody up who records, and may be asked by several threads at once. Each series is as it is at the
    moment when its line is written.

    Args:
        store: What is exposed.
        registry: Whose metrics are appended; none by default. Where a store has the same name, that is left
            out, and the log says so.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> metrics = MetricsSystem()
        >>> metrics.collector.increment("http.requests", {"route": "/"})
        >>> print(Exposition(metrics.collector.store).render().decode(), end="")
        # TYPE http_requests_total counter
        http_requests_total{route="/"} 1
    """

    def __init__(self, store: Store, registry: CollectorRegistry | None = None) -> None:
        self.store = store
        self.registry = registry
        self._notices = Notices()
        self._texts: dict[Named, MetricText] = {}

    def render(self, format: Format = Format.TEXT) -> bytes:
        """Return all of it."""
        return b"".join(self.chunks(format))

    def chunks(self, format: Format = Format.TEXT, registry_text: bytes | None = None) -> Iterator[bytes]:
        """Yield it in chunks, each of which takes half a millisecond to make, or little more.

        A chunk may be empty: that is no more than an opportunity to do something else.

        Args:
            format: The format.
            registry_text: What `registry_text` returned, where that was asked before: it may take its time.
        """
        pieces: list[bytes] = []
        size, end = 0, perf_counter() + CHUNK_SECONDS
        for piece in self._pieces(format):
            pieces.append(piece)
            size += len(piece)
            if size >= CHUNK_BYTES or perf_counter() >= end:
                yield b"".join(pieces)
                pieces.clear()
                size, end = 0, perf_counter() + CHUNK_SECONDS
        yield b"".join(
            [*pieces, self.registry_text(format) if registry_text is None else registry_text, format.end]
        )

    def registry_text(self, format: Format = Format.TEXT) -> bytes:
        """Return the registry's own metrics, by prometheus_client; empty where there is no registry."""
        if self.registry is None:
            return b""
        return render_registry(self.registry, self.store, format, self._notices)

    def _pieces(self, format: Format) -> Iterator[bytes]:
        metrics = self.store.metrics()
        for named, metric in metrics:
            try:
                text = self._text(named, metric)
                if self.registry is not None and not self._notices.is_free(text.heading, self.registry):
                    continue
                header = text.header(format)
                for piece in text.pieces(self.store.expire):
                    if piece and header:
                        yield header
                        header = b""
                    yield piece
            except Exception as error:  # noqa: BLE001 - the others must come out
                self._notices.fail(named, error)
        for gone in self._texts.keys() - {named for named, _ in metrics}:
            self._texts.pop(gone, None)

    def _text(self, named: Named, metric: Metric) -> MetricText:
        text, description = self._texts.get(named), self.store.description(named.name)
        if text is None or text.metric is not metric or text.description != description:
            text = MetricText(named, metric, description, self.store.tags, self._notices.warn)
            self._texts[named] = text
        return text
