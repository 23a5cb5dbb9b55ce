"""The StatsD endpoint, which sends counters as increments since the last export."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import ClassVar, NamedTuple

from metrics_adapters.line_protocols import (
    Number,
    log_left_out,
    numbers_of,
    plain_path,
    safe_name,
    safe_part,
    series_name,
)
from metrics_framework.errors import ConfigurationError, OutputError
from metrics_framework.export.endpoints import (
    EndpointUrl,
    Option,
    choice_option,
    seconds_option,
    text_option,
    whole_option,
)
from metrics_framework.exposition.formats import each_value
from metrics_framework.log import LogOnce
from metrics_framework.protocols import MetricsSystem
from metrics_framework.values import MetricValue

_PORT = 8125
_UNSAFE = re.compile(r"[^A-Za-z0-9_./-]")
_REFUSAL_SECONDS = 0.02
"""How long to wait for an ICMP refusal after the last datagram. A refusal fails the export."""


class Line(NamedTuple):
    """One metric in a datagram.

    Attributes:
        text: One line, or two for a negative gauge.
        series: The key of a counter, or ``None`` for a gauge.
        total: The total of the counter, including this line.
    """

    text: str
    series: str | None
    total: int | float


class StatsdEndpoint:
    """``statsd://localhost:8125``: counters as increments since the last export, everything else as gauges.

    The ``count`` and ``sum`` of a distribution are counters, and its other numbers are gauges, because single
    values are not available. An unchanged counter is not sent. Increments that were not sent, or were refused
    by the host, are part of the next export. UDP does not report datagrams that are lost on the way.

    Args:
        url: The daemon. The default port is 8125.

    Raises:
        ConfigurationError: If the URL is not a host with an optional port.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "prefix": text_option(None, "The prefix of all names, without the dot."),
        "tags": choice_option(
            ("none", "datadog", "influx"),
            "none",
            "The format of tags; `none` makes them part of the name.",
        ),
        "mtu": whole_option(100, 65_000, 1_432, "The most bytes of a datagram."),
        "timeout": seconds_option(
            10.0, "The time limit in seconds for a datagram, or for the export of another thread."
        ),
    }

    def __init__(self, url: EndpointUrl) -> None:
        self.name = str(url)
        if not url.host or url.path.strip("/") or url.username is not None or url.password is not None:
            raise ConfigurationError(
                f"endpoint {url}: pass a host and a port only, like statsd://localhost:8125"
            )
        self._address = url.host, url.port or _PORT
        self._prefix = f"{safe_name(url.options['prefix'])}." if url.options["prefix"] else ""
        self._tags = url.options["tags"]
        self._mtu = url.options["mtu"]
        self._timeout = url.options["timeout"]
        self._left_out = LogOnce(output=self.name)
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._sent: dict[str, int | float] = {}

    def export(self, system: MetricsSystem) -> None:
        """Send the current numbers of a system.

        Raises:
            OutputError: If the host is unknown or refuses the datagrams.
        """
        if (
            self._process != os.getpid()
        ):  # a forked child counts from zero, and may have inherited a held lock
            self._begin()
        if not self._lock.acquire(timeout=self._timeout):
            raise OutputError(f"cannot export to {self.name}: another export to it is running")
        try:
            self._send(self.datagrams(self.lines(each_value(system.aggregator))))
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(f"cannot export to {self.name}: {error.strerror or error}") from error
        finally:
            self._lock.release()

    def lines(self, values: Iterable[MetricValue]) -> Iterator[Line]:
        """Yield the lines to send. Of two series with the same name and tags, the first is sent."""
        taken: set[str] = set()
        for value in values:
            name, tags = self._name(value)
            series = f"{name}{tags}"
            if series in taken:
                log_left_out(self._left_out, "another has its name", value.name)
                continue
            taken.add(series)
            for number in numbers_of(value):
                yield from self._line(name, tags, number)
        for key in list(self._sent):
            if key.rpartition("|")[0] not in taken:
                del self._sent[key]  # if the series returns, it starts at zero

    def datagrams(self, lines: Iterator[Line]) -> Iterator[list[Line]]:
        """Yield lines grouped into datagrams. A line that exceeds a datagram is left out."""
        datagram: list[Line] = []
        size = 0
        for line in lines:
            length = len(line.text) + 1
            if length > self._mtu + 1:
                log_left_out(self._left_out, f"it is longer than {self._mtu} bytes", line.text[:80])
                continue
            if datagram and size + length > self._mtu + 1:
                yield datagram
                datagram, size = [], 0
            datagram.append(line)
            size += length
        if datagram:
            yield datagram

    def _line(self, name: str, tags: str, number: Number) -> Iterator[Line]:
        path = f"{self._prefix}{name}{f'.{number.field}' if number.field else ''}"
        start, end = (f"{path}{tags}", "") if self._tags == "influx" else (path, tags)
        if not number.grows:
            text = f"{start}:{_plain(number.value)}|g{end}"
            # A signed value would change the gauge instead of setting it, so a negative one starts from zero.
            yield Line(f"{start}:0|g{end}\n{text}" if number.value < 0 else text, None, 0)
            return
        series = f"{name}{tags}|{number.field}"
        before = self._sent.get(series, 0)
        # A smaller total was reset, or is a sum that includes negative values.
        added = number.value - before if number.value >= before else number.value
        if added > 0:
            yield Line(f"{start}:{_plain(added)}|c{end}", series, number.value)
        else:
            self._sent[series] = number.value

    def _name(self, value: MetricValue) -> tuple[str, str]:
        name = series_name(value)
        if self._tags == "none":
            return plain_path(name, value.tags), ""
        tags = {safe_part(tag): _UNSAFE.sub("_", text) for tag, text in value.tags.items() if text}
        if self._tags == "influx":
            return safe_name(name), "".join(f",{tag}={tags[tag]}" for tag in sorted(tags))
        pairs = ",".join(f"{tag}:{tags[tag]}" for tag in sorted(tags))
        return safe_name(name), f"|#{pairs}" if pairs else ""

    def _send(self, datagrams: Iterator[list[Line]]) -> None:
        family, kind, protocol, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as connection:
            connection.settimeout(self._timeout)
            connection.connect(address)
            last: list[Line] = []
            for datagram in datagrams:
                self._remember(last)
                connection.send("\n".join(line.text for line in datagram).encode("ascii"))
                _raise_refusal(connection)  # a local host refuses at once
                last = datagram
            _await_refusal(connection)
            self._remember(last)

    def _remember(self, datagram: list[Line]) -> None:
        for line in datagram:
            if line.series is not None:
                self._sent[line.series] = line.total


def _raise_refusal(connection: socket.socket) -> None:
    number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


def _await_refusal(connection: socket.socket) -> None:
    connection.settimeout(_REFUSAL_SECONDS)
    # A response of the daemon has no meaning.
    with suppress(TimeoutError):
        connection.recv(1)


def _plain(number: int | float) -> str:
    """Return a number without an exponent, which some daemons cannot parse."""
    if not number:
        return "0"  # the sign of a negative zero would make it a change
    if isinstance(number, int):
        return repr(number)
    return f"{Decimal(repr(number)):f}".removesuffix(".0")
