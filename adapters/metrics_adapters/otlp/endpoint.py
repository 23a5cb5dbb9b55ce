"""An OTLP receiver, such as OpenTelemetry's collector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from metrics_adapters.http_client import authorization_of, plain_address_of
from metrics_adapters.otlp import OtlpExporter
from metrics_framework.errors import ConfigurationError, InvalidInputError
from metrics_framework.export.endpoints import EndpointUrl, Option, choice_option, seconds_option


class OtlpEndpoint(OtlpExporter):
    """``otlp+http://collector:4318`` or ``otlp+grpc://collector:4317``, by the official exporters.

    ``otlp+https`` and ``otlp+grpcs`` are with TLS. User and password, or a token in place of a password, are
    sent as the header ``Authorization``.

    Args:
        url: The receiver.

    Raises:
        ConfigurationError: If it is no address.
        MissingExtraError: If the extra ``otlp`` is not installed.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "temporality": choice_option(
            ("cumulative", "delta"), "cumulative", "Whether numbers count since the start, or what is new."
        ),
        "compression": choice_option(("gzip", "none"), "gzip", "Whether requests are compressed."),
        "timeout": seconds_option(10.0, "Seconds after which a request is given up."),
    }

    def __init__(self, url: EndpointUrl) -> None:
        transport = url.scheme.partition("+")[2]
        try:
            super().__init__(
                plain_address_of(url, "https" if transport.endswith("s") else "http"),
                protocol="grpc" if transport.startswith("grpc") else "http",
                headers=authorization_of(url),
                **url.options,
            )
        except InvalidInputError as error:
            raise ConfigurationError(f"endpoint {url}: {error}") from None
        self.name = str(url)
