"""The OTLP exporter, an output of a system, and its endpoint."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args
from urllib.parse import SplitResult, unquote, urlsplit
from uuid import uuid4

from opentelemetry.sdk.resources import Resource

from metrics_adapters.http_client import authorization_of, header_secrets, plain_address_of, split_url
from metrics_adapters.otlp.client import Client, send_with_retries
from metrics_adapters.otlp.message import Temporality, encode_message, encode_resource
from metrics_adapters.otlp.series import ReceivedSeries, StoreReader, read_values, text
from metrics_framework._version import __version__
from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import ConfigurationError, InvalidInputError, MissingExtraError, RefusedError
from metrics_framework.export.endpoints import EndpointUrl, Option, Secrets, choice_option, seconds_option
from metrics_framework.export.outputs import exporting_alone
from metrics_framework.protocols import MetricsSystem
from metrics_framework.recording import Store
from metrics_framework.recording.store import store_of
from metrics_framework.validation import check_choice, check_seconds, plain_tags, safe_repr
from metrics_framework.values import MetricType

if TYPE_CHECKING:
    from metrics_framework.recording.removals import Finals, RemovedSeries, SeriesIdentity

Protocol = Literal["http", "grpc"]
Compression = Literal["gzip", "none"]

MAX_SERIES_PER_REQUEST = 5_000
"""gRPC receivers accept messages of up to 4 MiB."""

_PATH = "/v1/metrics"
_OWN_HEADERS = {"content-type", "content-encoding", "content-length", "transfer-encoding"}


class OtlpExporter:
    """Sends the current numbers of a system to an OTLP receiver, such as the OpenTelemetry Collector.

    Counters are monotonic sums, gauges are gauges, and histograms and timers are exponential histograms with
    the buckets of the store. An operation is ``<name>.duration`` and ``<name>.operations``. Names stay as
    they were recorded, constant tags describe the resource, and other tags are attributes.

    A failed export loses nothing: cumulative numbers count since the start, and the next delta contains what
    was not received. If a response was lost, a delta may arrive twice.

    The official exporters send the messages, and read OpenTelemetry's environment variables for certificates.
    Use one exporter for one system. If several workers share their numbers, one of them sends cumulative
    numbers for all. Each sends its own deltas, with an attribute ``service.instance.id`` of its own.

    Args:
        endpoint: The receiver, like ``http://collector:4318``. ``https`` means TLS. A URL for HTTP without a
            path gets ``/v1/metrics``.
        protocol: ``http`` or ``grpc``.
        temporality: ``cumulative``, or ``delta`` for receivers that expect only what is new.
        headers: Further headers, such as ``{"Authorization": "Bearer …"}``.
        resource: Attributes of the process, in addition to the constant tags. ``service.name`` comes from
            ``resource``, else from the tag ``service.name`` or ``service``, else from ``OTEL_SERVICE_NAME``.
        timeout: The time limit of a request in seconds, including retries. Each 5 000 series are one request.
        compression: ``gzip`` or ``none``.

    Raises:
        InvalidInputError: If an argument is not allowed. No message contains the value of a header.
        MissingExtraError: If the package of the protocol is not installed.

    Example:
        >>> OtlpExporter("http://collector:4318").name
        'otlp+http://collector:4318'
    """

    def __init__(
        self,
        endpoint: str,
        *,
        protocol: Protocol = "http",
        temporality: Temporality = "cumulative",
        headers: Mapping[str, str] | None = None,
        resource: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        compression: Compression = "gzip",
    ) -> None:
        check_choice("protocol", protocol, get_args(Protocol))
        check_choice("temporality", temporality, get_args(Temporality))
        check_choice("compression", compression, get_args(Compression))
        parts = _split(endpoint, protocol)
        secure = "s" if protocol == "http" and parts.scheme == "https" else ""
        self.name = f"otlp+{protocol}{secure}://{parts.netloc}"
        self._url = parts.geturl()
        self._is_grpc = protocol == "grpc"
        self._headers = _checked_headers(headers or {}, is_grpc=self._is_grpc)
        self._secrets = _secrets(urlsplit(endpoint), self._headers)
        self._temporality: Temporality = temporality
        self._about = plain_tags(resource)
        check_seconds("timeout", timeout)
        self._timeout = float(timeout)
        self._is_compressed = compression == "gzip"
        self._created_ns = time.time_ns()
        self._connect = _client_type(protocol)
        self._client: Client | None = None
        self._tracked_store: Store | None = None
        self._removed: RemovedSeries | None = None
        self._begin()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def export(self, system: MetricsSystem) -> None:
        """Send the current numbers of a system, if it has any.

        Raises:
            OutputError: If the receiver is unreachable or fails: retry later.
            RefusedError: If the receiver rejects points or the whole message.
        """
        if self._process != os.getpid():  # a forked child must not use connections and locks of its parent
            self._begin()
        with exporting_alone(self._lock, self.name, self._timeout):
            self._export(system)

    def attach(self, system: MetricsSystem) -> None:
        """Track series that are removed from a system before the first export, if deltas are sent.

        See `metrics_framework.export.outputs.IncrementalOutput`.
        """
        store = store_of(system.aggregator)
        if self._temporality == "delta" and store is not self._tracked_store:
            self._tracked_store = store
            self._removed = None if store is None else store.track_removed(self._is_exported)

    @property
    def is_per_worker(self) -> bool:
        """Whether each worker of a group sends its own numbers: deltas are."""
        return self._temporality == "delta"

    def _is_exported(self, series: SeriesIdentity, aggregate: Any) -> bool:
        failures = aggregate.failures if series[0].metric_type is MetricType.RATE else ()
        keys = (series, (series, None), *((series, error_type) for error_type in failures))
        return any(key in self._sent for key in keys)

    def close(self) -> None:
        """Close the connection. The next export opens it again.

        Raises:
            OutputError: If an export does not end within the ``timeout``.
        """
        with exporting_alone(self._lock, self.name, self._timeout):
            if self._client is not None:
                self._client.close()
                self._client = None

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._client = None
        # Not at the first export: the SDK uses an executor here, which fails in an exiting interpreter.
        self._detected = Resource.create()
        self._source: object = None
        self._source_start_ns = 0
        self._sent = ReceivedSeries(self._created_ns, self._temporality)
        self._resource = b""
        self._clock: Clock = SYSTEM_CLOCK
        self._reader: StoreReader | None = None
        self._last_ns = 0  # timestamps never decrease

    def _export(self, system: MetricsSystem) -> None:
        self.attach(system)
        self._follow_source(store_of(system.aggregator), system.aggregator)
        with nullcontext() if self._removed is None else self._removed.exporting() as removed:
            rejected = self._send(system, removed)
        if rejected:  # all other points were accepted and are not sent again
            raise RefusedError(f"{self.name} rejected {rejected}")

    def _send(self, system: MetricsSystem, removed: Finals | None) -> str:
        reader = self._reader
        series_values = list(read_values(system.aggregator) if reader is None else reader.read(removed))
        now_ns = self._last_ns = max(self._last_ns, self._clock.time_ns())
        if self._client is None:  # at the first export, because a worker may fork before it
            self._client = self._connect(
                self._url, self.name, self._headers, self._is_compressed, self._secrets
            )
        rejected = ""
        for start in range(0, len(series_values), MAX_SERIES_PER_REQUEST):
            batch = series_values[start : start + MAX_SERIES_PER_REQUEST]
            points = self._sent.points(batch)
            if points:
                sent = encode_message(points, now_ns, self._resource, self._temporality)
                rejected = send_with_retries(self._client, sent, self._timeout) or rejected
                self._sent.commit(points, now_ns)
        self._sent.complete(series_values, now_ns, {} if reader is None else reader.restarts)
        return rejected

    def _follow_source(self, store: Store | None, aggregator: object) -> None:
        """Start over if the store or aggregator is another one than at the last export."""
        source, source_start_ns = (aggregator, 0) if store is None else (store, store.start_ns)
        if source is self._source and source_start_ns == self._source_start_ns:
            return
        start_ns = self._created_ns
        clock: Clock = SYSTEM_CLOCK
        if store is not None:
            clock = store.clock
            start_ns = clock.time_ns() - (clock.monotonic_ns() - store.start_ns)
        self._source, self._source_start_ns, self._last_ns = source, source_start_ns, start_ns
        self._clock = clock
        self._reader = None if store is None else StoreReader(store, is_per_worker=self.is_per_worker)
        self._sent = ReceivedSeries(
            start_ns,
            self._temporality,
            adds_removed=store is not None and self._temporality == "delta",
            source_start_ns=source_start_ns,
        )
        self._resource = encode_resource(self._resource_of(store))

    def _resource_of(self, store: Store | None) -> Resource:
        tags = dict(store.tags) if store is not None else {}
        if "service" in tags:
            tags.setdefault("service.name", tags["service"])
        own = {"telemetry.sdk.name": "metrics_framework", "telemetry.sdk.version": __version__}
        if self.is_per_worker and store is not None and store.worker is not None:
            own["service.instance.id"] = str(uuid4())
        known = {**own, **tags, **self._about}
        attributes = {text(name): text(value) for name, value in known.items()}
        return self._detected.merge(Resource(attributes))


def _client_type(protocol: Protocol) -> Callable[[str, str, Mapping[str, str], bool, Secrets], Client]:
    try:
        if protocol == "grpc":
            from metrics_adapters.otlp.grpc_client import GrpcClient

            return GrpcClient
        from metrics_adapters.otlp.http_client import HttpClient
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"export by OTLP over {protocol}", "otlp") from error
    return HttpClient


def _split(endpoint: str, protocol: Protocol) -> SplitResult:
    # A malformed URL is not quoted, because a password may be anywhere in it.
    port = "4318" if protocol == "http" else "4317"
    wrong = f"endpoint= is not the address of an OTLP receiver, like http://collector:{port}"
    parts = split_url(endpoint)
    if parts is None:
        raise InvalidInputError(f"{wrong}: its host or port is malformed")
    if parts.scheme not in ("http", "https"):
        raise InvalidInputError(f"{wrong}: it does not begin with http:// or https://")
    if not parts.hostname or re.search(r"[\x00-\x20\x7f]", endpoint):
        raise InvalidInputError(f"{wrong}: it has no host")
    if "@" in endpoint:
        raise InvalidInputError(f"{wrong}: it has a user; pass headers={{'Authorization': …}}")
    if parts.fragment:
        raise InvalidInputError(f"{wrong}: it has a fragment")
    path = parts.path.rstrip("/")
    if protocol == "http":
        return parts._replace(path=path or _PATH)
    if path or parts.query:
        raise InvalidInputError(f"{wrong}: it has a path, which gRPC does not use")
    return parts._replace(path="")


def _secrets(parts: SplitResult, headers: Mapping[str, str]) -> Secrets:
    """Return what no message may contain, with the headers that the official exporters read themselves."""
    variables = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_METRICS_HEADERS")
    values = [
        unquote(pair.partition("=")[2])
        for variable in variables
        for pair in os.environ.get(variable, "").split(",")
    ]
    return header_secrets(headers) | Secrets([unquote(parts.path), unquote(parts.query), *values])


def _checked_headers(headers: Mapping[str, str], *, is_grpc: bool) -> dict[str, str]:
    """Return headers that can be sent. No message contains a value, which may be a secret."""
    names = r"[0-9A-Za-z_.-]+" if is_grpc else r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    values, what = (r"[\x20-\x7e]*", "ASCII") if is_grpc else (r"[\t\x20-\x7e\xa0-\xff]*", "Latin-1")
    for name, value in headers.items():
        if not isinstance(name, str) or not re.fullmatch(names, name):
            raise InvalidInputError(f"headers: {safe_repr(name)} is not a header name")
        if name.lower() in _OWN_HEADERS:
            raise InvalidInputError(f"headers: {name!r} is set by the exporter: leave it out")
        if not isinstance(value, str) or not re.fullmatch(values, value):
            raise InvalidInputError(f"headers: the value of {name!r} is not one line of {what} text")
    return dict(headers)


class OtlpEndpoint(OtlpExporter):
    """``otlp+http://collector:4318`` or ``otlp+grpc://collector:4317``, by the official exporters.

    ``otlp+https`` and ``otlp+grpcs`` use TLS. User and password, or a token in place of the password, are
    sent in the header ``Authorization``.

    Args:
        url: The receiver.

    Raises:
        ConfigurationError: If the URL is not allowed.
        MissingExtraError: If the extra ``otlp`` is not installed.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "temporality": choice_option(
            ("cumulative", "delta"),
            "cumulative",
            "Whether numbers count since the start or the last export.",
        ),
        "compression": choice_option(("gzip", "none"), "gzip", "Whether requests are compressed."),
        "timeout": seconds_option(10.0, "The time limit of a request in seconds."),
    }

    def __init__(self, url: EndpointUrl) -> None:
        transport = url.scheme.partition("+")[2]
        address = plain_address_of(url, "https" if transport.endswith("s") else "http")
        headers = authorization_of(url)
        try:
            super().__init__(
                address,
                protocol="grpc" if transport.startswith("grpc") else "http",
                headers=headers,
                **url.options,
            )
        except InvalidInputError as error:
            raise ConfigurationError(f"endpoint {url}: {error}") from None
        self.name = str(url)
        self._secrets = self._secrets | url.secrets
