"""The Graphite endpoint, which sends each number as a line of the plaintext protocol over TCP."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

from metrics_adapters.line_protocols import log_left_out, numbers_of, plain_path, safe_name, series_name
from metrics_framework.errors import ConfigurationError, OutputError
from metrics_framework.export.endpoints import EndpointUrl, Option, choice_option, seconds_option, text_option
from metrics_framework.exposition.formats import each_value
from metrics_framework.log import LogOnce
from metrics_framework.protocols import MetricsSystem
from metrics_framework.values import MetricValue

_PORT = 2003
_UNSAFE_TAG = re.compile(r"[^!-~]|[;!^=]")
_UNSAFE_TEXT = re.compile(r"[^!-~]|;")


class GraphiteEndpoint:
    """``graphite://carbon:2003``: sends every number of every series in the plaintext protocol.

    Each export uses a new connection. It succeeds when the server has read everything and closes its side.

    Args:
        url: The server. The default port is 2003.

    Raises:
        ConfigurationError: If the URL is not a host with an optional port.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "prefix": text_option(None, "The prefix of all paths, without the dot."),
        "tags": choice_option(
            ("none", "graphite"),
            "none",
            "The format of tags: part of the path, or appended as `;tag=value`.",
        ),
        "timeout": seconds_option(10.0, "The time limit of an export in seconds."),
    }

    def __init__(self, url: EndpointUrl) -> None:
        self.name = str(url)
        if not url.host or url.path.strip("/") or url.username is not None or url.password is not None:
            raise ConfigurationError(
                f"endpoint {url}: pass a host and a port only, like graphite://carbon:2003"
            )
        self._address = url.host, url.port or _PORT
        self._prefix = f"{safe_name(url.options['prefix'])}." if url.options["prefix"] else ""
        self._with_tags = url.options["tags"] == "graphite"
        self._timeout = url.options["timeout"]
        self._left_out = LogOnce(output=self.name)

    def export(self, system: MetricsSystem) -> None:
        """Send the current numbers of a system.

        Raises:
            OutputError: If the server is unreachable, or does not read everything in time.
        """
        content = "".join(self.lines(each_value(system.aggregator))).encode("ascii")
        try:
            self._send(content)
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
            if isinstance(error, TimeoutError):
                reason = f"the server did not read everything within {self._timeout:g} seconds"
            raise OutputError(f"cannot export to {self.name}: {reason}") from error

    def lines(self, values: Iterable[MetricValue]) -> Iterator[str]:
        """Yield a line for each number. Of two series with the same path, the first is sent."""
        taken: set[str] = set()
        for value in values:
            path = self._path(value)
            if path in taken:
                log_left_out(self._left_out, "another has its path", value.name)
                continue
            taken.add(path)
            seconds = int(value.timestamp.timestamp())
            start, semicolon, tags = path.partition(";")
            for number in numbers_of(value):
                field = f".{number.field}" if number.field else ""
                yield f"{self._prefix}{start}{field}{semicolon}{tags} {number.value!r} {seconds}\n"

    def _path(self, value: MetricValue) -> str:
        name = series_name(value)
        if not self._with_tags:
            return plain_path(name, value.tags)
        tags = {_UNSAFE_TAG.sub("_", tag): _safe_text(text) for tag, text in value.tags.items() if text}
        # Graphite stores the path itself as the tag "name".
        pairs = "".join(f";{f'{tag}_' if tag == 'name' else tag}={tags[tag]}" for tag in sorted(tags))
        return f"{safe_name(name)}{pairs}"

    def _send(self, content: bytes) -> None:
        end = time.monotonic() + self._timeout
        with socket.create_connection(self._address, self._timeout) as connection:
            connection.settimeout(_seconds_left(end))
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            while True:
                connection.settimeout(_seconds_left(end))
                if not connection.recv(4096):
                    return


def _seconds_left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _safe_text(text: str) -> str:
    safe = _UNSAFE_TEXT.sub("_", text)
    return f"_{safe[1:]}" if safe[0] == "~" else safe
