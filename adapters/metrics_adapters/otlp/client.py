"""The clients of the OTLP exporter, which send messages through the official exporters."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Protocol

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsPartialSuccess
from opentelemetry.sdk.metrics.export import MetricsData

from metrics_framework.errors import OutputError
from metrics_framework.export.endpoints import Secrets
from metrics_framework.runtime.deadline import Deadline, pause_before_retry

_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "urllib3.connectionpool",
)
_MAX_QUOTED_CHARACTERS = 500
"""How many characters of a response are quoted."""
_MAX_READ_CHARACTERS = 8_192
_QUIET = ContextVar("quiet", default=False)


NOTHING = MetricsData([])
"""The official exporters receive this and send our message instead: their own encoding is slow."""

EXPORTER_SECONDS = 3_600.0
"""The time limit of the official exporters, which would otherwise read one from the environment. Ours is
shorter, and that of `Client.send` applies."""

MIN_RETRY_SECONDS = 0.5
"""A receiver that wants a sooner retry gets it after the pause of the official exporters: a receiver that
always sends ``Retry-After: 0`` would get hundreds of requests a second."""


class Client(Protocol):
    """Sends messages to one receiver."""

    def send(self, message: bytes, seconds: float) -> str:
        """Send a message once.

        Args:
            message: An ``ExportMetricsServiceRequest``.
            seconds: The time limit of the whole exchange.

        Returns:
            A description of the points that the receiver rejected, or an empty string.

        Raises:
            OutputError: If it was not received: send it again later.
            UnavailableError: The same, and a retry may succeed soon.
            RefusedError: If the receiver rejected the whole message.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class UnavailableError(OutputError):
    """A receiver did not accept a message, and may accept it soon.

    Attributes:
        retry_seconds: When, if the receiver has said so.
    """

    def __init__(self, message: str, retry_seconds: float | None = None) -> None:
        """Store when to retry."""
        super().__init__(message)
        self.retry_seconds = retry_seconds


def send_with_retries(client: Client, message: bytes, timeout: float) -> str:
    """Send a message, and retry within a time limit while the receiver is unavailable.

    The pauses are those of the official exporters, whose own retries would also run in a final export.

    Args:
        client: The client.
        message: The message.
        timeout: The time limit in seconds for all tries together.

    Returns:
        What `Client.send` returns.

    Raises:
        OutputError: What `Client.send` raises.
    """
    deadline = Deadline(timeout)
    for number in count():
        try:
            return client.send(message, deadline.seconds_left)
        except UnavailableError as error:
            pause = error.retry_seconds
            if pause is None or pause < MIN_RETRY_SECONDS:
                pause = 2**number * random.uniform(0.8, 1.2)  # noqa: S311 - not a secret
            if pause >= deadline.seconds_left or not pause_before_retry(pause):
                raise OutputError(str(error)) from error.__cause__
    raise AssertionError("unreachable: there is always a next try")


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


def rejected(partial: ExportMetricsPartialSuccess, secrets: Secrets) -> str:
    """Return a description of the rejected points of a message, or an empty string."""
    if not partial.rejected_data_points:
        return ""
    reason = f": {one_line(partial.error_message, secrets)}" if partial.error_message else ""
    return f"{partial.rejected_data_points} points{reason}"


def one_line(response: str, secrets: Secrets) -> str:
    """Return the text of a response for a message: printable, one short line without secrets."""
    text = secrets.redact(response[:_MAX_READ_CHARACTERS])
    if len(response) > _MAX_READ_CHARACTERS:  # its end may be a part of a secret
        text = text[: max(len(text) - secrets.max_length, 0)]
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if len(line) <= _MAX_QUOTED_CHARACTERS else f"{line[:_MAX_QUOTED_CHARACTERS]}…"
