"""The endpoint for InfluxDB's line protocol over HTTP: InfluxDB 1 and 2, VictoriaMetrics, Telegraf."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import ClassVar
from urllib.parse import urlencode

from metrics_adapters.http_client import HTTP_OPTIONS, address_of, authorization_of, deliver
from metrics_adapters.line_protocols import escaped, log_left_out, numbers_of
from metrics_framework.errors import ConfigurationError
from metrics_framework.export.endpoints import EndpointUrl, Option, flag_option, text_option, whole_option
from metrics_framework.exposition.formats import each_value
from metrics_framework.log import LogOnce
from metrics_framework.protocols import MetricsSystem
from metrics_framework.values import MetricValue

# Line breaks, and backslashes before an escaped character, cannot be escaped. Surrogates cannot be encoded.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
_RESERVED = {"time", "_field", "_measurement"}


class InfluxEndpoint:
    """``influx+http://influx:8086?db=app``, or version 2: ``influx+https://:TOKEN@influx?org=me&bucket=app``.

    A series is a point. Its name is the measurement, and its numbers are the fields, or one field ``value``.
    All fields are floats, so that no field changes its type. A user and a password are sent as basic
    authentication, a password alone as a token.

    Args:
        url: The server, optionally with a path prefix.

    Raises:
        ConfigurationError: If the URL has no host, or neither a database nor a bucket.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "db": text_option(None, "The database, for version 1."),
        "rp": text_option(None, "The retention policy, for version 1."),
        "org": text_option(None, "The organization, for version 2."),
        "bucket": text_option(None, "The bucket, for version 2."),
        "batch": whole_option(1, 1_000_000, 5_000, "The most lines of a request."),
        "gzip": flag_option(True, "Whether requests are compressed."),
        **HTTP_OPTIONS,
    }

    def __init__(self, url: EndpointUrl) -> None:
        self.name = str(url)
        self._address = address_of(url, *_target(url))
        self._batch = url.options["batch"]
        self._gzip = url.options["gzip"]
        self._timeout = url.options["timeout"]
        self._left_out = LogOnce(output=self.name)
        self._headers = {"Content-Type": "text/plain; charset=utf-8", **authorization_of(url, "Token")}
        if self._gzip:
            self._headers["Content-Encoding"] = "gzip"

    def export(self, system: MetricsSystem) -> None:
        """Send the current numbers of a system.

        Raises:
            OutputError: If the server is unreachable or fails; a `RefusedError` if it rejects the lines.
        """
        for body in list(self._bodies(system)):  # read everything first: sending may take long
            what = f"cannot export to {self.name}"
            deliver(self._address, "POST", body, self._headers, self._timeout, what=what)

    def _bodies(self, system: MetricsSystem) -> Iterator[bytes]:
        lines = self.lines(each_value(system.aggregator))
        while batch := "".join(islice(lines, self._batch)):
            body = batch.encode()
            yield gzip.compress(body, 1) if self._gzip else body

    def lines(self, values: Iterable[MetricValue]) -> Iterator[str]:
        """Yield a line for each series. Each field of a measurement and its tags is sent once."""
        taken: set[str] = set()
        for value in values:
            series = _series(value)
            fields: list[str] = []
            for number in numbers_of(value):
                field = number.field or "value"
                if f"{series} {field}" in taken:
                    log_left_out(self._left_out, "another has its measurement and tags", value.name)
                    continue
                taken.add(f"{series} {field}")
                fields.append(f"{field}={float(number.value)!r}")
            if fields:
                nanoseconds = round(value.timestamp.timestamp() * 1e6) * 1_000
                yield f"{series} {','.join(fields)} {nanoseconds}\n"


def _target(url: EndpointUrl) -> tuple[str, str]:
    options, path = url.options, url.path.rstrip("/")
    if options["bucket"] and not options["db"] and not options["rp"]:
        query = {"org": options["org"], "bucket": options["bucket"], "precision": "ns"}
        path = f"{path}/api/v2/write"
    elif options["db"] and not options["bucket"] and not options["org"]:
        query = {"db": options["db"], "rp": options["rp"], "precision": "ns"}
        path = f"{path}/write"
    else:
        raise ConfigurationError(
            f"endpoint {url}: pass db=… for version 1 of InfluxDB, or org=… and bucket=… for version 2"
        )
    return path, urlencode({name: text for name, text in query.items() if text})


def _series(value: MetricValue) -> str:
    # A comment, or a name that InfluxDB reserves.
    name = escaped(value.name, _UNSAFE, is_reserved=value.name[:1] in ("#", "_"))
    tags = {_tag(tag): _with_backslashes(escaped(text, _UNSAFE), ",= ") for tag, text in value.tags.items()}
    return ",".join([_with_backslashes(name, ", "), *(f"{tag}={tags[tag]}" for tag in sorted(tags))])


def _tag(tag: str) -> str:
    return _with_backslashes(escaped(tag, _UNSAFE, is_reserved=tag in _RESERVED), ",= ")


def _with_backslashes(text: str, special: str) -> str:
    for character in special:
        text = text.replace(character, f"\\{character}")
    return text
