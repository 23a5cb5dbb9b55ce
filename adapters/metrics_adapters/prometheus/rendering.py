"""What a store holds, as text for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.registry import CollectorRegistry

from metrics_adapters.prometheus.families import Family, families
from metrics_adapters.prometheus.text import Format, label_pairs
from metrics_framework.faults import Faults
from metrics_framework.logs import log_event
from metrics_framework.recording import Store
from metrics_framework.recording.claims import Named


class Exposition:
    """A store as text for Prometheus, and with it what a prometheus_client registry holds.

    Args:
        store: What is exposed.
        registry: Whose metrics are appended; none by default.
    """

    def __init__(self, store: Store, registry: CollectorRegistry | None = None) -> None:
        self.store = store
        self.registry = registry
        self._faults = Faults()

    def render(self, format: Format = Format.TEXT) -> bytes:
        """Return all of it."""
        return b"".join(self.chunks(format))

    def chunks(self, format: Format = Format.TEXT, foreign: bytes | None = None) -> Iterator[bytes]:
        """Yield it in pieces, each of which takes about a millisecond to make.

        Args:
            format: The format.
            foreign: What `foreign` returned, where that was called before: it may take its time.
        """
        for family in families(self.store, self._attempt, lambda event, **fields: None):
            yield format.header(*family[:4]).encode()
            for suffix, labels, value in family.samples:
                yield f"{family.name}{suffix}{{{label_pairs(labels.items())}}} {value!r}\n".encode()
        yield self.foreign(format) if foreign is None else foreign
        yield format.end

    def foreign(self, format: Format = Format.TEXT) -> bytes:
        """Return the registry's own metrics in a format; empty where there is no registry."""
        return b""

    def _attempt(self, named: Named, make: Callable[[], Family]) -> Family | None:
        return self._faults.attempt("metric cannot be exposed", make, metric=str(named))
