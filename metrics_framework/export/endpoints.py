"""Where numbers are exported to, by a name or a URL: what a URL may say, and how none tells a secret.

Built-in endpoints are in a table of module paths, as adapters are. Any other scheme is looked up in the
entry-point group ``metrics_framework.export.endpoints``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from metrics_framework.errors import ConfigurationError, UnknownAdapterError, nearest
from metrics_framework.export.outputs import Output
from metrics_framework.plugins import load_from

ENTRY_POINT_GROUP = "metrics_framework.export.endpoints"

BUILT_IN = {
    "file": "metrics_adapters.file:FileEndpoint",
    "grafana": "metrics_adapters.grafana.endpoint:GrafanaEndpoint",
    "grafana+http": "metrics_adapters.grafana.endpoint:GrafanaEndpoint",
    "grafana+https": "metrics_adapters.grafana.endpoint:GrafanaEndpoint",
    "graphite": "metrics_adapters.graphite:GraphiteEndpoint",
    "influx+http": "metrics_adapters.influx:InfluxEndpoint",
    "influx+https": "metrics_adapters.influx:InfluxEndpoint",
    "otlp+http": "metrics_adapters.otlp.endpoint:OtlpEndpoint",
    "otlp+https": "metrics_adapters.otlp.endpoint:OtlpEndpoint",
    "otlp+grpc": "metrics_adapters.otlp.endpoint:OtlpEndpoint",
    "otlp+grpcs": "metrics_adapters.otlp.endpoint:OtlpEndpoint",
    "pushgateway+http": "metrics_adapters.prometheus.push:PushgatewayEndpoint",
    "pushgateway+https": "metrics_adapters.prometheus.push:PushgatewayEndpoint",
    "snapshot": "metrics_adapters.snapshot_writer.writer:SnapshotEndpoint",
    "statsd": "metrics_adapters.statsd:StatsdEndpoint",
    "textfile": "metrics_adapters.prometheus.textfile:TextfileEndpoint",
    "webhook+http": "metrics_adapters.webhook:WebhookEndpoint",
    "webhook+https": "metrics_adapters.webhook:WebhookEndpoint",
}
"""Scheme or name to what makes the endpoint: a class, or anything else that takes an `EndpointUrl`."""

NAMES = {"prometheus": "textfile:metrics.prom", "snapshot_writer": "snapshot:snapshots"}
"""Names that stand for a URL, and the one that they stand for where nothing else is configured."""


_LIKE_SECRETS = {"auth", "key", "p", "pass", "password", "secret", "token", "u", "user", "username"}


class Option(NamedTuple):
    """What may stand in the query of a URL; declared once, in ``options`` of what makes the endpoint.

    Attributes:
        says: What a value has to be, for errors and the documentation.
        read: Makes one of the text; raises ``ValueError`` where it cannot.
        default: What holds without it.
        meaning: What it does, for the documentation.
    """

    says: str
    read: Callable[[str], Any]
    default: Any
    meaning: str


@runtime_checkable
class HasOptions(Protocol):
    """An `EndpointFactory` whose URLs may have a query.

    Attributes:
        options: The options of the query. Logs show them, so pass a secret as user or password instead.
    """

    options: Mapping[str, Option]


@runtime_checkable
class HidesAddress(Protocol):
    """An `EndpointFactory` whose URLs may have secrets in path and query.

    Attributes:
        hides_address: Whether logs leave path and query out.
    """

    hides_address: bool


class EndpointFactory(Protocol):
    """Makes an endpoint. Third parties declare one as an entry point.

    It may have the attributes of `HasOptions` and `HidesAddress`.
    """

    def __call__(self, url: EndpointUrl) -> Output:
        """Make an endpoint, whose name should be ``str(url)``; nothing is sent yet.

        Raises:
            ConfigurationError: If the URL lacks something.
        """
        ...


@dataclass(frozen=True)
class EndpointUrl:
    """A URL, taken apart.

    ``str`` and ``repr`` of it have neither user nor password, so that they may stand in logs.

    Attributes:
        scheme: What it begins with, in lower case; all of it where only a name was given.
        host: The host, without brackets; empty where there is none.
        port: The port, or ``None``.
        path: The path, decoded.
        username: The user, decoded, or ``None``.
        password: The password, decoded, or ``None``.
        query: The query as it was given, decoded.
        options: The query as declared: every option with its value or its default.
        hidden: Whether path and query are secrets too.
    """

    scheme: str
    host: str = ""
    port: int | None = None
    path: str = ""
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    hidden: bool = False

    @classmethod
    def parse(cls, text: str) -> EndpointUrl:
        """Take a URL or a name apart; its options are read by `checked`.

        Raises:
            ConfigurationError: If it cannot be understood. Nothing of it is quoted then but its scheme: who
                knows where in it a password is.
        """
        if not isinstance(text, str) or not text:
            raise ConfigurationError("an endpoint is a name or a URL, like file:///var/tmp/metrics.json")
        scheme, colon, rest = text.partition(":")
        scheme = scheme.lower()
        if not colon:
            return cls(text)
        if not re.fullmatch(r"[a-z][a-z0-9+._-]*", scheme):
            raise ConfigurationError("an endpoint's URL does not begin with a scheme, like statsd://")
        if re.search(r"[\x00-\x20\x7f]", rest):
            raise ConfigurationError(
                f"endpoint {scheme}: a space or a control character is written as %20 etc."
            )
        try:
            parts = urlsplit(f"x:{rest}")
            host, port = unquote(parts.hostname or ""), parts.port
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError:
            raise ConfigurationError(f"endpoint {scheme}: its host, port or query cannot be read") from None
        if "@" in parts.path and not parts.netloc and parts.path[:1] != "/":
            raise ConfigurationError(f"endpoint {scheme}: two slashes go before a host; in a path, @ is %40")
        if "@" in parts.path and parts.netloc:
            raise ConfigurationError(f"endpoint {scheme}: an @ is in its path; a slash in a password is %2F")
        if parts.fragment:
            raise ConfigurationError(f"endpoint {scheme}: a # is in it; in a password it is written %23")
        if len(dict(pairs)) < len(pairs):
            raise ConfigurationError(f"endpoint {scheme}: an option is given twice")
        username, password = parts.username, parts.password
        return cls(
            scheme,
            host,
            port,
            unquote(parts.path),
            unquote(username) if username else None,
            unquote(password) if password else None,
            MappingProxyType(dict(pairs)),
        )

    def checked(self, declared: Mapping[str, Option]) -> EndpointUrl:
        """Return this with its options read.

        Where the address is hidden, an unknown one is the server's own.

        Raises:
            ConfigurationError: If one is unknown, which names the nearest, or a value is not allowed.
        """
        values = {}
        for name, text in self.query.items():
            if name not in declared:
                if self.hidden:
                    continue
                known = nearest(name, declared) if declared else " There are none."
                if name.lower() in _LIKE_SECRETS:
                    known += f" A secret goes before the host, like {self.scheme}://:TOKEN@host"
                raise ConfigurationError(f"endpoint {self}: unknown option {name!r}.{known}")
            try:
                values[name] = declared[name].read(text)
            except ValueError:
                # Not quoted: who mistakes an option for another may have written a secret.
                raise ConfigurationError(
                    f"endpoint {self}: the option {name} is not {declared[name].says}"
                ) from None
        defaults = {name: option.default for name, option in declared.items()}
        return replace(self, options=MappingProxyType({**defaults, **values}))

    def hiding_address(self) -> EndpointUrl:
        """Return this with a path and a query that are secrets too, and are not shown either."""
        return replace(self, hidden=True)

    def required(self, option: str, example: str) -> Any:
        """Return an option that has to be given.

        Raises:
            ConfigurationError: If it was not; the message shows an example.
        """
        value = self.options[option]
        if value is None or value == "":
            raise ConfigurationError(f"endpoint {self}: it needs the option {option}, like {example}")
        return value

    def scrubbed(self, text: str) -> str:
        """Return a text without the secrets of this URL, as somebody's error may quote them."""
        secrets = [self.password, self.username if self.password is None else None]
        if self.hidden:
            # What is shorter is no secret, and part of half the words there are.
            secrets += [part for part in (self.path.strip("/"), *self.query.values()) if len(part) > 3]
        found = {
            form for secret in secrets if secret for form in (secret, quote(secret), quote(secret, safe=""))
        }
        for secret in sorted(found, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        start = (
            f"{self.scheme}://{host}{port}"
            if host
            else f"{self.scheme}:{'//' if self.path[:1] == '/' else ''}"
        )
        if self.hidden:
            return f"{start}/…"
        if not host and not self.path:
            return self.scheme
        # Only what was read: an option that nobody declared may be anything.
        given = [f"{name}={self.query[name]}" for name in self.options if name in self.query]
        return f"{start}{self.path}{'?' if given else ''}{'&'.join(given)}"


def make_endpoint(text: str) -> tuple[EndpointUrl, Output]:
    """Make the endpoint of a name or URL; nothing is sent yet.

    Raises:
        ConfigurationError: If there is none of that name or scheme, which lists those there are, or the URL
            says something that is not allowed.
    """
    url = EndpointUrl.parse(NAMES.get(text, text))
    factory = _factory(url.scheme)
    if isinstance(factory, HidesAddress) and factory.hides_address:
        url = url.hiding_address()
    url = url.checked(factory.options if isinstance(factory, HasOptions) else {})
    return url, factory(url)


def _factory(scheme: str) -> EndpointFactory:
    try:
        factory: EndpointFactory = load_from(BUILT_IN, ENTRY_POINT_GROUP, scheme)
    except UnknownAdapterError:
        from importlib.metadata import entry_points  # slow to import

        known = sorted({*NAMES, *BUILT_IN, *entry_points(group=ENTRY_POINT_GROUP).names})
        near = nearest(scheme, known)
        meant = near if near.startswith(" Did you mean") else ""
        raise ConfigurationError(
            f"there is no endpoint {hide_urls(repr(scheme))}.{meant} Known: {', '.join(known)}"
        ) from None
    return factory


def hide_urls(text: str) -> str:
    """Return a text in which of every URL no more than its scheme is left."""
    return re.sub(r"([A-Za-z][\w+.-]*:)//[^\s'\",]*", r"\1//…", text)


# -- kinds of options --------------------------------------------------------------------------------------


def text_option(default: str | None, meaning: str) -> Option:
    """Declare an option whose value is any text that is not empty."""
    return Option("a text that is not empty", _read_text, default, meaning)


def choice_option(choices: tuple[str, ...], default: str, meaning: str) -> Option:
    """Declare an option whose value is one of a few."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return Option(f"one of {', '.join(choices)}", read, default, meaning)


def flag_option(default: bool, meaning: str) -> Option:
    """Declare an option that is ``yes`` or ``no``."""

    def read(text: str) -> bool:
        return {"yes": True, "no": False}[text]

    def checked(text: str) -> bool:
        try:
            return read(text)
        except KeyError:
            raise ValueError(text) from None

    return Option("yes or no", checked, default, meaning)


def whole_option(least: int, most: int, default: int | None, meaning: str) -> Option:
    """Declare an option whose value is a whole number within limits."""

    def read(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise ValueError(text)
        return number

    return Option(f"a whole number from {least} to {most}", read, default, meaning)


def seconds_option(default: float, meaning: str) -> Option:
    """Declare an option whose value is a positive number of seconds."""
    return Option("a positive number of seconds", _read_positive, default, meaning)


def days_option(meaning: str) -> Option:
    """Declare an option whose value is a positive number of days; none by default."""
    return Option("a positive number of days", _read_positive, None, meaning)


def _read_positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError(text)
    return number


def _read_text(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text
