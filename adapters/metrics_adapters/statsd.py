"""The StatsD endpoint, which sends counters as increments since the last export."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import AbstractContextManager, nullcontext, suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from metrics_adapters.line_protocols import (
    Number,
    dotted_name,
    escaped,
    escaped_name,
    field_part,
    field_prefix,
    log_left_out,
    numbers_of,
    tag_parts,
)
from metrics_framework.errors import ConfigurationError, OutputError, reason_of
from metrics_framework.export.endpoints import (
    EndpointUrl,
    Option,
    choice_option,
    seconds_option,
    text_option,
    whole_option,
)
from metrics_framework.export.outputs import exporting_alone
from metrics_framework.exposition.formats import each_value
from metrics_framework.log import LogOnce
from metrics_framework.protocols import MetricsAggregator, MetricsSystem
from metrics_framework.recording.metric import own_records
from metrics_framework.recording.store import store_of
from metrics_framework.runtime.deadline import Deadline, limit, look_up
from metrics_framework.values import MetricType, MetricValue

if TYPE_CHECKING:
    from metrics_framework.recording import Store
    from metrics_framework.recording.removals import Finals, RemovedSeries, SeriesIdentity

_PORT = 8125
_UNSAFE_IN_TAGS = re.compile(r"[^A-Za-z0-9_./-]")
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


class _Place(NamedTuple):
    """What precedes and follows a number and its kind in a line."""

    start: str
    end: str

    @property
    def key(self) -> str:
        return f"{self.start}|{self.end}"


class _Increments:
    """The increments of one export.

    Args:
        sent: The totals that the daemon has, by key. They change with the export.
        finals: What removed series had recorded, by place.
        doubtful: The keys whose total had fallen or was missing in the last export.
        is_tracked: Whether ``finals`` tells all that is removed. Otherwise a total that falls was reset.
    """

    def __init__(
        self,
        sent: dict[str, int | float],
        finals: Mapping[_Place, int | float],
        doubtful: Set[str],
        *,
        is_tracked: bool,
    ) -> None:
        self._sent = sent
        self._finals = {place.key: (place, total) for place, total in finals.items()}
        self._currents: dict[str, int | float] = {}
        self._doubtful_before = doubtful
        self._doubtful: set[str] = set()
        self._is_tracked = is_tracked
        self._present: set[str] = set()

    def of_series(self, totals: Mapping[_Place, Number]) -> Iterator[Line]:
        """Yield the lines of one series."""
        sent, finals = self._sent, self._finals
        whole: list[tuple[_Place, str, int | float]] = []
        fell: set[str] = set()
        for place, number in totals.items():
            key, total = place.key, number.value
            self._present.add(key)
            if key in finals:
                self._currents[key] = total
                total += finals[key][1]
            whole.append((place, key, total))
            # A sum falls with negative values, another total with a reset.
            if total < sent.get(key, 0) and not (number.field.endswith("sum") and len(totals) > 1):
                fell.add(key)
        if fell and self._is_tracked and not fell & self._doubtful_before:
            # It was removed while it was read: the next export has everything. Or else it is of an aggregator
            # without a store, and was reset.
            self._doubtful |= fell
            return
        for place, key, total in whole:
            yield from self._line(place, total, 0 if fell else sent.get(key, 0))

    def of_removed(self) -> Iterator[Line]:
        """Yield the lines of series that no longer exist."""
        for key, (place, total) in self._finals.items():
            if key not in self._present:
                yield from self._line(place, total, self._sent.get(key, 0))

    def complete(self) -> set[str]:
        """Count without removed series from now on, and return the keys that are doubtful in this export."""
        for key in self._finals:
            self._sent.pop(key, None)
            if key in self._currents:
                self._sent[key] = self._currents[key]
        for key in [key for key in self._sent if key not in self._present]:
            if self._is_tracked and key not in self._doubtful_before:
                self._doubtful.add(key)
            else:
                del self._sent[key]  # if the series returns, it starts at zero
        return self._doubtful

    def _line(self, place: _Place, total: int | float, before: int | float) -> Iterator[Line]:
        if total != before:
            yield Line(f"{place.start}:{_plain(total - before)}|c{place.end}", place.key, total)
        else:
            self._sent[place.key] = total


class StatsdEndpoint:
    """``statsd://localhost:8125``: counters as increments since the last export, everything else as gauges.

    The ``count`` and ``sum`` of a distribution are counters, and its other numbers are gauges, because single
    values are not available. An unchanged counter is not sent. Increments that were not sent, or were refused
    by the host, are part of the next export, also if their series was removed. UDP does not report datagrams
    that are lost on the way.

    If several workers share their numbers, each sends its own increments, and the elected worker sends the
    gauges of all.

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
        "timeout": seconds_option(10.0, "The time limit of an export in seconds."),
    }

    def __init__(self, url: EndpointUrl) -> None:
        self.name = str(url)
        if not url.host or url.path.strip("/") or url.username is not None or url.password is not None:
            raise ConfigurationError(
                f"endpoint {url}: pass a host and a port only, like statsd://localhost:8125"
            )
        self._address = url.host, url.port or _PORT
        self._prefix = f"{dotted_name(url.options['prefix'])}." if url.options["prefix"] else ""
        self._tags = url.options["tags"]
        self._mtu = url.options["mtu"]
        self._timeout = url.options["timeout"]
        self._left_out = LogOnce(output=self.name)
        self.is_per_worker = True
        self._store: Store | None = None
        self._removed: RemovedSeries | None = None
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._sent: dict[str, int | float] = {}
        self._doubtful: Set[str] = frozenset()

    def attach(self, system: MetricsSystem) -> None:
        """Track series that are removed from a system before the first export.

        See `metrics_framework.export.outputs.IncrementalOutput`.
        """
        store = store_of(system.aggregator)
        if store is not self._store:
            self._store = store
            self._removed = None if store is None else store.track_removed(self._is_exported)

    def export(self, system: MetricsSystem) -> None:
        """Send the current numbers of a system.

        Raises:
            OutputError: If the host is unknown or refuses the datagrams.
        """
        if (
            self._process != os.getpid()
        ):  # a forked child counts from zero, and may have inherited a held lock
            self._begin()
        deadline = Deadline(self._timeout)
        with exporting_alone(self._lock, self.name, deadline.seconds_left):
            try:
                self._export(system, deadline)
            except OSError as error:
                if isinstance(error, OutputError):
                    raise
                is_late = isinstance(error, TimeoutError)
                reason = f"not sent within {deadline}" if is_late else reason_of(error)
                raise OutputError(f"cannot export to {self.name}: {reason}") from error

    def _export(self, system: MetricsSystem, deadline: Deadline) -> None:
        self.attach(system)
        removed: AbstractContextManager[Finals] = nullcontext({})
        if self._removed is not None:
            removed = self._removed.exporting()
        with removed as finals:
            increments = self._increments(finals)
            self._send(self.datagrams(self._current_lines(system.aggregator, increments)), deadline)
            self._doubtful = increments.complete()

    def _current_lines(self, aggregator: MetricsAggregator, increments: _Increments) -> Iterator[Line]:
        worker = None if self._store is None else self._store.worker
        if worker is None:
            return self.lines(each_value(aggregator), increments)
        with own_records():
            own = list(each_value(aggregator))
        return self.lines(own, increments, each_value(aggregator) if worker.is_elected else ())

    def lines(
        self,
        values: Iterable[MetricValue],
        increments: _Increments | None = None,
        levels: Iterable[MetricValue] | None = None,
    ) -> Iterator[Line]:
        """Yield the lines to send. Each name with its tags is sent once.

        Args:
            values: All series.
            increments: The increments of this export.
            levels: The series whose gauges are sent, if not ``values``.
        """
        increments = self._increments({}) if increments is None else increments
        taken: set[_Place] = set()
        for value in values:
            totals: dict[_Place, Number] = {}
            for place, number in self._numbers(value, taken, None if levels is None else True):
                if number.grows:
                    totals[place] = number
                else:
                    yield _gauge(place, number.value)
            yield from increments.of_series(totals)
        for value in levels or ():
            for place, number in self._numbers(value, taken, False):
                yield _gauge(place, number.value)
        yield from increments.of_removed()

    def _numbers(
        self, value: MetricValue, taken: set[_Place], grows: bool | None
    ) -> Iterator[tuple[_Place, Number]]:
        """Yield the numbers of a series that were not sent, all or those that grow or do not, with places."""
        place_of = self._places(value.name, value.tags)
        for number in numbers_of(value):
            if grows not in (None, number.grows):
                continue
            place = place_of(number.field)
            if place in taken:
                log_left_out(self._left_out, "another has its name", value.name)
                continue
            taken.add(place)
            yield place, number

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

    def _places(self, name: str, tags: Mapping[str, str]) -> Callable[[str], _Place]:
        """Return the place of each number of a series, by its field."""
        path = dotted_name(name)
        start, middle, end = f"{self._prefix}{path}", "", ""
        if self._tags == "none":
            start += tag_parts(tags)
        elif tags:
            equals, comma = (":", "") if self._tags == "datadog" else ("=", ",")
            pairs = [
                f"{comma}{escaped_name(tag, _UNSAFE_IN_TAGS)}{equals}{escaped(text, _UNSAFE_IN_TAGS)}"
                for tag, text in sorted(tags.items())
            ]
            if comma:
                middle = "".join(pairs)
            else:
                end = f"|#{','.join(pairs)}"
        return lambda field: _Place(f"{start}{field_part(path, field)}{middle}", end)

    def _increments(self, finals: Finals) -> _Increments:
        places = {
            place: total for series, final in finals.items() for place, total in self._totals(series, final)
        }
        return _Increments(self._sent, places, self._doubtful, is_tracked=self._removed is not None)

    def _totals(self, series: SeriesIdentity, final: Any) -> Iterator[tuple[_Place, int | float]]:
        """Yield the numbers of a removed series that only grow."""
        named, names, values = series
        constant = {} if self._store is None else self._store.tags
        tags = {**constant, **dict(zip(names, values, strict=True))}
        place_of = self._places(named.name, tags)
        prefix = field_prefix(named.metric_type, named.is_operation)
        for field, total in _growing(named.metric_type, final):
            yield place_of(f"{prefix}{field}"), total

    def _is_exported(self, series: SeriesIdentity, aggregate: Any) -> bool:
        return any(place.key in self._sent for place, _ in self._totals(series, aggregate))

    def _send(self, datagrams: Iterator[list[Line]], deadline: Deadline) -> None:
        family, kind, protocol, _, address = look_up(*self._address, socket.SOCK_DGRAM, deadline)[0]
        with socket.socket(family, kind, protocol) as connection:
            connection.connect(address)
            last: list[Line] = []
            for datagram in datagrams:
                self._remember(last)
                limit(connection, deadline)
                connection.send("\n".join(line.text for line in datagram).encode("ascii"))
                _raise_refusal(connection)  # a local host refuses at once
                last = datagram
            _await_refusal(connection)
            self._remember(last)

    def _remember(self, datagram: list[Line]) -> None:
        for line in datagram:
            if line.series is not None:
                self._sent[line.series] = line.total


def _gauge(place: _Place, number: int | float) -> Line:
    start, end = place
    text = f"{start}:{_plain(number)}|g{end}"
    # A signed value would change the gauge instead of setting it, so a negative one starts from zero.
    return Line(f"{start}:0|g{end}\n{text}" if number < 0 else text, None, 0)


def _growing(metric_type: MetricType, aggregate: Any) -> Iterator[tuple[str, int | float]]:
    if metric_type is MetricType.COUNTER:
        yield "", aggregate.value
    elif metric_type is MetricType.RATE:
        yield "count", aggregate.records
        yield "successes", aggregate.successes
        yield "failures", aggregate.records - aggregate.successes
    else:
        yield "count", aggregate.count
        yield "sum", aggregate.sum


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
