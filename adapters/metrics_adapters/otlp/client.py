"""The clients of the OTLP exporter, which send messages through the official exporters."""

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
_MAX_QUOTED_CHARACTERS = 500
"""How many characters of a response are quoted."""
_QUIET = ContextVar("quiet", default=False)


NOTHING = MetricsData([])
"""The official exporters receive this and send our message instead: their own encoding is slow."""


class Client(Protocol):
    """Sends messages to one receiver."""

    def send(self, message: bytes) -> str:
        """Send a message. The official exporter retries within the time limit.

        Args:
            message: An ``ExportMetricsServiceRequest``.

        Returns:
            A description of the points that the receiver rejected, or an empty string.

        Raises:
            OutputError: If it was not received: send it again later.
            RefusedError: If the receiver rejected the whole message.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


@contextmanager
def silenced() -> Iterator[None]:
    """Silence the logs of the official exporters in this thread or task: the errors are raised instead."""
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
    """Return a description of the rejected points of a message, or an empty string."""
    if not partial.rejected_data_points:
        return ""
    reason = f": {one_line(partial.error_message)}" if partial.error_message else ""
    return f"{partial.rejected_data_points} points{reason}"


def one_line(response: str) -> str:
    """Return the text of a response for a message: printable, one line, of limited length."""
    line = " ".join("".join(one if one.isprintable() else " " for one in response).split())
    return line if len(line) <= _MAX_QUOTED_CHARACTERS else f"{line[:_MAX_QUOTED_CHARACTERS]}…"
