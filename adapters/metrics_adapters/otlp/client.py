"""What the official exporters are to ours: they send a message, or raise one of our errors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsPartialSuccess
from opentelemetry.sdk.metrics.export import MetricsData

_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
)
_MAX_TEXT = 500
"""How many characters of an answer are quoted."""
_QUIET = ContextVar("quiet", default=False)


NOTHING = MetricsData([])
"""What the official exporters are given, in whose place they send ours: their own way to bytes is slow."""


class Client(Protocol):
    """Sends messages to one receiver."""

    def send(self, message: bytes) -> str:
        """Send a message; the official exporter repeats it as often as the time limit lets it.

        Args:
            message: An ``ExportMetricsServiceRequest``.

        Returns:
            What of it was received and rejected, in words; empty where all was taken.

        Raises:
            OutputError: If it was not received: send it again later.
            RefusedError: If the receiver will not have it.
        """
        ...

    def close(self) -> None:
        """Give connections back."""
        ...


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the official exporters from logging what we raise, in this thread or task alone."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if _is_wanted not in logger.filters:
            logger.addFilter(_is_wanted)
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)


def _is_wanted(_: logging.LogRecord) -> bool:
    return not _QUIET.get()


def rejected(partial: ExportMetricsPartialSuccess) -> str:
    """Return what was rejected of a message that was received, in words."""
    if not partial.rejected_data_points:
        return ""
    said = f": {one_line(partial.error_message)}" if partial.error_message else ""
    return f"{partial.rejected_data_points} points{said}"


def one_line(said: str) -> str:
    """Return what a receiver said as a message may quote it: printable, in one line, and not too long."""
    line = " ".join("".join(one if one.isprintable() else " " for one in said).split())
    return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]}…"
