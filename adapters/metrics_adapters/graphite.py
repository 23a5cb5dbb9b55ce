"""The Graphite endpoint, which sends each number as a line of the plaintext protocol over TCP."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

from metrics_adapters.line_protocols import (
    dotted_name,
    escaped,
    escaped_name,
    field_part,
    log_left_out,
    numbers_of,
    tag_parts,
)
from metrics_framework.errors import ConfigurationError, OutputError
from metrics_framework.export.endpoints import EndpointUrl, Option, choice_option, seconds_option, text_option
from metrics_framework.exposition.formats import each_value
from metrics_framework.log import LogOnce
from metrics_framework.protocols import MetricsSystem
from metrics_framework.runtime.deadline import Deadline, DeadlineReader, connect, send
from metrics_framework.values import MetricValue

_PORT = 2003
_MAX_BYTES = 65_536
"""The most bytes that are read. Graphite sends none, but a proxy may."""
_UNSAFE_IN_TAGS = re.compile(r"[^!-~]|[;!^=]")
_UNSAFE_IN_VALUES = re.compile(r"[^!-~]|;")


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
        self._prefix = f"{dotted_name(url.options['prefix'])}." if url.options["prefix"] else ""
        self._with_tags = url.options["tags"] == "graphite"
        self._timeout = url.options["timeout"]
        self._left_out = LogOnce(output=self.name)

    def export(self, system: MetricsSystem) -> None:
        """Send the current numbers of a system.

        Raises:
            OutputError: If the server is unreachable, or does not read everything in time.
        """
        content = "".join(self.lines(each_value(system.aggregator))).encode("ascii")
        deadline = Deadline(self._timeout)
        try:
            self._send(content, deadline)
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
            if isinstance(error, TimeoutError):
                reason = f"the server did not read everything within {deadline}"
            raise OutputError(f"cannot export to {self.name}: {reason}") from error

    def lines(self, values: Iterable[MetricValue]) -> Iterator[str]:
        """Yield a line for each number. Each path is sent once."""
        taken: set[str] = set()
        for value in values:
            seconds = int(value.timestamp.timestamp())
            name, tags = dotted_name(value.name), self._tags(value.tags)
            for number in numbers_of(value):
                field = field_part(name, number.field)
                path = f"{name}{field}{tags}" if self._with_tags else f"{name}{tags}{field}"
                if path in taken:
                    log_left_out(self._left_out, "another has its path", value.name)
                    continue
                taken.add(path)
                yield f"{self._prefix}{path} {number.value!r} {seconds}\n"

    def _tags(self, tags: Mapping[str, str]) -> str:
        if not self._with_tags:
            return tag_parts(tags)
        return "".join([f";{_tag(tag)}={_value(text)}" for tag, text in sorted(tags.items())])

    def _send(self, content: bytes, deadline: Deadline) -> None:
        with connect(*self._address, deadline) as connection:
            send(connection, content, deadline)
            connection.shutdown(socket.SHUT_WR)
            if len(DeadlineReader(connection, deadline).makefile("rb").read(_MAX_BYTES)) == _MAX_BYTES:
                raise OSError("the server sends data, which a Graphite server does not")


def _tag(tag: str) -> str:
    # Graphite stores the path itself as the tag "name".
    return escaped_name(tag, _UNSAFE_IN_TAGS, is_reserved=tag == "name")


def _value(text: str) -> str:
    return escaped(text, _UNSAFE_IN_VALUES, is_reserved=text.startswith("~"))
