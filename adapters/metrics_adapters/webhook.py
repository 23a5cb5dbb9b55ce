"""The endpoint that posts all series to a webhook as JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import urlencode

from metrics_adapters.http_client import HTTP_OPTIONS, address_of, authorization_of, deliver, header_value
from metrics_framework.errors import ConfigurationError
from metrics_framework.export.endpoints import EndpointUrl, Option, text_option
from metrics_framework.exposition.formats import each_value, to_plain
from metrics_framework.protocols import MetricsSystem
from metrics_framework.runtime.strict_json import to_json_text


class WebhookEndpoint:
    """``webhook+https://hooks.example.com/services/T000/metrics``: a POST of all series as JSON.

    The body is that of ``export_metrics("json")``. A user and a password are sent as basic authentication, a
    password alone (``https://:TOKEN@host``) as ``Authorization: Bearer TOKEN`` or in the header of the option
    ``header``. Other options of the query are
    sent to the server.

    Args:
        url: The server.

    Raises:
        ConfigurationError: If the URL is not allowed.
    """

    forwards_query: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Option]] = {
        **HTTP_OPTIONS,
        "header": text_option(None, "The header for the password, instead of `Authorization`."),
    }

    def __init__(self, url: EndpointUrl) -> None:
        self.name = str(url)
        query = {name: text for name, text in url.query.items() if name not in self.options}
        self._address = address_of(url, url.path, urlencode(query))
        self._timeout = url.options["timeout"]
        self._headers = {"Content-Type": "application/json", **_secret(url)}

    def export(self, system: MetricsSystem) -> None:
        """Send the current numbers of a system.

        Raises:
            OutputError: If the server is unreachable or fails; a `RefusedError` if it rejects the request.
        """
        metrics = [to_json_text(to_plain(value)) for value in each_value(system.aggregator)]
        body = f'{{"metrics": [{", ".join(metrics)}]}}'.encode()
        what = f"cannot post to {self.name}"
        deliver(self._address, "POST", body, self._headers, self._timeout, what=what)


def _secret(url: EndpointUrl) -> dict[str, str]:
    header = url.options["header"]
    if header is None:
        return authorization_of(url)
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", header):
        raise ConfigurationError(f"endpoint {url}: the option header is not a header name")
    if url.username is not None or url.password is None:
        raise ConfigurationError(
            f"endpoint {url}: header= needs a password without a user, like //:SECRET@host"
        )
    return {header: header_value(url, url.password)}
