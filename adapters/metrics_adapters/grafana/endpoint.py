"""A dashboard of the metrics that exist, for Grafana."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar

from metrics_adapters.file import path_of
from metrics_adapters.grafana import GrafanaDashboard
from metrics_adapters.http_client import plain_address_of
from metrics_framework.errors import ConfigurationError, InvalidInputError
from metrics_framework.export.endpoints import EndpointUrl, Option, seconds_option, text_option

DEFAULT_FILE = "grafana.json"


class GrafanaEndpoint(GrafanaDashboard):
    """``grafana:/var/lib/app/dashboard.json``, or ``grafana+https://:TOKEN@grafana.example``.

    The name ``grafana`` alone is a file ``grafana.json`` in the working directory.

    Args:
        url: The file or the Grafana.

    Raises:
        ConfigurationError: If it is neither.
        MissingExtraError: If the extra ``grafana`` is not installed.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "title": text_option("Metrics", "What the dashboard is called."),
        "uid": text_option(None, "What Grafana knows it by; made of the title otherwise."),
        "datasource": text_option(None, "The uid of the data source; Grafana's default otherwise."),
        "timeout": seconds_option(10.0, "Seconds after which Grafana is given up."),
    }

    def __init__(self, url: EndpointUrl) -> None:
        target: str | os.PathLike[str]
        if url.scheme != "grafana":
            target = plain_address_of(url, url.scheme.rpartition("+")[2])
            if url.username is not None:
                raise ConfigurationError(
                    f"endpoint {url}: Grafana takes a token: {url.scheme}://:TOKEN@{url.host}"
                )
        else:
            target = path_of(url) if url.path else DEFAULT_FILE
        try:
            super().__init__(target, token=url.password, **(url.options or _DEFAULTS))
        except InvalidInputError as error:
            raise ConfigurationError(f"endpoint {url}: {error}") from None
        self.name = str(url)


_DEFAULTS = {name: option.default for name, option in GrafanaEndpoint.options.items()}
