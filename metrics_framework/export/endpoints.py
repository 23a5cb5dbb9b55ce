"""Endpoints by URL: parsing, options, and secrets that never reach a log.

Built-in endpoints are in a table of module paths, like adapters. Any other scheme is looked up in the
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
from metrics_framework.validation import check_seconds

ENTRY_POINT_GROUP = "metrics_framework.export.endpoints"

BUILT_IN = {
    "file": "metrics_adapters.file:FileEndpoint",
    "grafana": "metrics_adapters.grafana.output:GrafanaEndpoint",
    "grafana+http": "metrics_adapters.grafana.output:GrafanaEndpoint",
    "grafana+https": "metrics_adapters.grafana.output:GrafanaEndpoint",
    "graphite": "metrics_adapters.graphite:GraphiteEndpoint",
    "influx+http": "metrics_adapters.influx:InfluxEndpoint",
    "influx+https": "metrics_adapters.influx:InfluxEndpoint",
    "otlp+http": "metrics_adapters.otlp.exporter:OtlpEndpoint",
    "otlp+https": "metrics_adapters.otlp.exporter:OtlpEndpoint",
    "otlp+grpc": "metrics_adapters.otlp.exporter:OtlpEndpoint",
    "otlp+grpcs": "metrics_adapters.otlp.exporter:OtlpEndpoint",
    "pushgateway+http": "metrics_adapters.prometheus.push:PushgatewayEndpoint",
    "pushgateway+https": "metrics_adapters.prometheus.push:PushgatewayEndpoint",
    "snapshot": "metrics_adapters.snapshot_writer.writer:SnapshotEndpoint",
    "statsd": "metrics_adapters.statsd:StatsdEndpoint",
    "textfile": "metrics_adapters.prometheus.textfile:TextfileEndpoint",
    "webhook+http": "metrics_adapters.webhook:WebhookEndpoint",
    "webhook+https": "metrics_adapters.webhook:WebhookEndpoint",
}
"""Scheme to the class, or other callable, that creates an endpoint from an `EndpointUrl`."""

NAMES = {"prometheus": "textfile:metrics.prom", "snapshot_writer": "snapshot:snapshots"}
"""Short names, and the URL that each stands for unless the configuration has another."""

_LIKE_SECRETS = {"auth", "key", "p", "pass", "password", "secret", "token", "u", "user", "username"}


class Option(NamedTuple):
    """An option in the query of a URL. The factory of the endpoint declares it in ``options``.

    Attributes:
        description: The values that are allowed, for errors and the documentation.
        parse: Returns the value of a text, or raises ``ValueError``.
        default: The value if the URL does not have the option.
        meaning: The effect of the option, for the documentation.
    """

    description: str
    parse: Callable[[str], Any]
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
        """Create an endpoint, with the name ``str(url)``. Nothing is sent yet.

        Raises:
            ConfigurationError: If the URL is incomplete.
        """
        ...


@dataclass(frozen=True)
class EndpointUrl:
    """The parsed URL of an endpoint.

    Its ``str`` and ``repr`` contain neither user nor password, so that logs may show them.

    Attributes:
        scheme: The scheme in lower case, or the whole text of a name.
        host: The host, without brackets, or an empty string.
        port: The port, or ``None``.
        path: The path, decoded.
        username: The user, decoded, or ``None``.
        password: The password, decoded, or ``None``.
        query: The query of the URL, decoded.
        options: Each declared option with its value or its default.
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
        """Parse a URL or a name. `with_options` parses its options.

        Raises:
            ConfigurationError: If it is malformed. The error quotes the scheme only, because a password may
                be anywhere in a malformed URL.
        """
        if not isinstance(text, str) or not text:
            raise ConfigurationError("an endpoint must be a name or a URL, like file:///var/tmp/metrics.json")
        scheme, colon, rest = text.partition(":")
        scheme = scheme.lower()
        if not colon:
            return cls(text)
        if not re.fullmatch(r"[a-z][a-z0-9+._-]*", scheme):
            raise ConfigurationError("the URL of an endpoint does not begin with a scheme, like statsd://")
        if re.search(r"[\x00-\x20\x7f]", rest):
            raise ConfigurationError(
                f"endpoint {scheme}: its URL has a space or a control character: write it as %20, for example"
            )
        # With an @ in the URL, the number may be part of a password.
        number = re.match(r"//[^/?#]*:([0-9]{1,9})(?=[/?#]|$)", rest)
        if number and "@" not in rest and int(number[1]) > 65_535:
            raise ConfigurationError(
                f"endpoint {scheme}: {number[1]} is not a port: pass a number from 0 to 65535"
            )
        try:
            parts = urlsplit(f"x:{rest}")
            host, port = unquote(parts.hostname or ""), parts.port
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError:
            raise ConfigurationError(f"endpoint {scheme}: its host, port or query is malformed") from None
        if "@" in parts.path and not parts.netloc and parts.path[:1] != "/":
            raise ConfigurationError(f"endpoint {scheme}: write // before a host, and %40 for an @ in a path")
        if "@" in parts.path and parts.netloc:
            raise ConfigurationError(
                f"endpoint {scheme}: its path has an @: write %2F for a slash in a password"
            )
        if parts.fragment:
            raise ConfigurationError(f"endpoint {scheme}: its URL has a #: write %23 for it in a password")
        if len(dict(pairs)) < len(pairs):
            raise ConfigurationError(f"endpoint {scheme}: its query has an option twice")
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

    def with_options(self, declared: Mapping[str, Option]) -> EndpointUrl:
        """Return this URL with parsed options.

        If the address is hidden, unknown options are part of the server's address.

        Raises:
            ConfigurationError: If an option is unknown or its value is not allowed. The error names similar
                options.
        """
        values = {}
        for name, text in self.query.items():
            if name not in declared:
                if self.hidden:
                    continue
                known = nearest(name, declared) if declared else " It has no options."
                if name.lower() in _LIKE_SECRETS:
                    known += f" Write a secret before the host, like {self.scheme}://:TOKEN@host"
                raise ConfigurationError(f"endpoint {self}: unknown option {name!r}.{known}")
            try:
                values[name] = declared[name].parse(text)
            except ValueError:
                # The value is not quoted: it may be a secret that was meant for another place.
                raise ConfigurationError(
                    f"endpoint {self}: the option {name} is not {declared[name].description}"
                ) from None
        defaults = {name: option.default for name, option in declared.items()}
        return replace(self, options=MappingProxyType({**defaults, **values}))

    def with_hidden_address(self) -> EndpointUrl:
        """Return this URL with path and query as secrets."""
        return replace(self, hidden=True)

    def required(self, option: str, example: str) -> Any:
        """Return the value of a required option.

        Raises:
            ConfigurationError: If the URL does not have it. The message shows the example.
        """
        value = self.options[option]
        if value is None or value == "":
            raise ConfigurationError(f"endpoint {self}: it needs the option {option}, like {example}")
        return value

    def redacted(self, text: str) -> str:
        """Return a text, such as an error message, without the secrets of this URL."""
        secrets = [self.password, self.username if self.password is None else None]
        if self.hidden:
            # Shorter parts are not secrets, and are parts of many words.
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
        # Declared options only: any other may be a secret.
        given = [f"{name}={self.query[name]}" for name in self.options if name in self.query]
        return f"{start}{self.path}{'?' if given else ''}{'&'.join(given)}"


def make_endpoint(text: str) -> tuple[EndpointUrl, Output]:
    """Create the endpoint of a name or URL. Nothing is sent yet.

    Raises:
        ConfigurationError: If the name or scheme is unknown, or the URL is not allowed. The error lists all
            known names.
    """
    url = EndpointUrl.parse(NAMES.get(text, text))
    factory = _factory(url.scheme)
    if isinstance(factory, HidesAddress) and factory.hides_address:
        url = url.with_hidden_address()
    url = url.with_options(factory.options if isinstance(factory, HasOptions) else {})
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
            f"unknown endpoint {hide_urls(repr(scheme))}.{meant} Known: {', '.join(known)}"
        ) from None
    return factory


def hide_urls(text: str) -> str:
    """Return a text in which each URL is reduced to its scheme."""
    return re.sub(r"([A-Za-z][\w+.-]*:)//[^\s'\",]*", r"\1//…", text)


# -- kinds of options --------------------------------------------------------------------------------------


def text_option(default: str | None, meaning: str) -> Option:
    """Declare an option whose value is a non-empty text."""
    return Option("a non-empty text", _parse_text, default, meaning)


def choice_option(choices: tuple[str, ...], default: str, meaning: str) -> Option:
    """Declare an option with a fixed set of values."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return Option(f"one of {', '.join(choices)}", parse, default, meaning)


def flag_option(default: bool, meaning: str) -> Option:
    """Declare an option that is ``yes`` or ``no``."""

    def parse(text: str) -> bool:
        if text not in ("yes", "no"):
            raise ValueError(text)
        return text == "yes"

    return Option("yes or no", parse, default, meaning)


def whole_option(least: int, most: int, default: int | None, meaning: str) -> Option:
    """Declare an option whose value is an integer from ``least`` to ``most``."""

    def parse(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise ValueError(text)
        return number

    return Option(f"a whole number from {least} to {most}", parse, default, meaning)


def seconds_option(default: float, meaning: str) -> Option:
    """Declare an option whose value is a positive number of seconds."""
    return Option("a positive number of seconds", _parse_seconds, default, meaning)


def days_option(meaning: str) -> Option:
    """Declare an option whose value is a positive number of days. Its default is ``None``."""
    return Option("a positive number of days", _parse_days, None, meaning)


def _parse_seconds(text: str) -> float:
    return check_seconds("option", float(text))


def _parse_days(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError(text)
    return number


def _parse_text(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text
