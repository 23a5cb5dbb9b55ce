"""What Prometheus scrapes in our stead: a Pushgateway, or a file of node_exporter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from metrics_adapters.file import path_of
from metrics_adapters.http_client import HTTP_OPTIONS, address_of
from metrics_adapters.prometheus.push import Pushgateway
from metrics_adapters.prometheus.textfile import Textfile
from metrics_framework.errors import ConfigurationError, InvalidInputError
from metrics_framework.export.endpoints import EndpointUrl, Option, text_option


class TextfileEndpoint(Textfile):
    """``textfile:///var/lib/node_exporter/app.prom``: a file that node_exporter reads, by `Textfile`.

    Args:
        url: The file, whose name ends in ``.prom``.

    Raises:
        ConfigurationError: If it is no such file.
    """

    options: ClassVar[Mapping[str, Option]] = {}

    def __init__(self, url: EndpointUrl) -> None:
        try:
            super().__init__(path_of(url))
        except ConfigurationError:
            raise
        except InvalidInputError as error:
            raise ConfigurationError(f"endpoint {url}: {error}") from None
        self.name = str(url)


class PushgatewayEndpoint(Pushgateway):
    """``pushgateway+http://gateway:9091?job=nightly``: a group of metrics there, by `Pushgateway`.

    Args:
        url: The gateway, with a path in front of its own, a user and a password if need be.

    Raises:
        ConfigurationError: If there is no host or no job in it.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "job": text_option(None, "The label `job` of the group; it is needed."),
        "grouping": text_option(None, "Further labels of the group, like `shard:3,zone:a`."),
        **HTTP_OPTIONS,
    }

    def __init__(self, url: EndpointUrl) -> None:
        job = url.required("job", f"{url.scheme}://gateway:9091?job=nightly")
        address = address_of(url, url.path)
        auth = None if url.username is None else (url.username, url.password or "")
        if auth is None and url.password is not None:
            raise ConfigurationError(f"endpoint {url}: a password needs a user before it")
        try:
            super().__init__(
                str(address),
                job,
                _grouping(url),
                timeout=url.options["timeout"],
                auth=auth,
                tls=address.tls,
            )
        except InvalidInputError as error:
            raise ConfigurationError(f"endpoint {url}: {error}") from None
        self.name = str(url)


def _grouping(url: EndpointUrl) -> dict[str, str]:
    labels = {}
    for pair in (url.options["grouping"] or "").split(","):
        name, colon, text = pair.partition(":")
        if pair and not colon:
            raise ConfigurationError(f"endpoint {url}: the option grouping is not like shard:3,zone:a")
        if pair:
            labels[name] = text
    return labels
