"""Endpoints by URL: parsing, options, and `Secrets`, which keeps secrets out of errors and logs.

Built-in endpoints are in a table of module paths, like adapters. Any other scheme is looked up in the
entry-point group ``metrics_framework.export.endpoints``.
"""

from __future__ import annotations

import math
import re
import sys
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import unescape
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from metrics_framework.errors import ConfigurationError, MetricsError, MissingExtraError, nearest
from metrics_framework.export.outputs import LocalOutput, Output, name_of
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
        options: The options of the query.
    """

    options: Mapping[str, Option]


@runtime_checkable
class ForwardsQuery(Protocol):
    """An `EndpointFactory` whose URLs may have options that it does not declare: it sends them to the server.

    Attributes:
        forwards_query: Whether it does.
    """

    forwards_query: bool


class EndpointFactory(Protocol):
    """Makes an endpoint. Third parties declare one as an entry point.

    It may have the attributes of `HasOptions`, `ForwardsQuery` and `LocalOutput`. Messages show the path of
    the URL of a `LocalOutput`, unless the scheme has a plus sign.
    """

    def __call__(self, url: EndpointUrl) -> Output:
        """Create an endpoint, with the name ``str(url)``. Nothing is sent yet.

        Raises:
            ConfigurationError: If the URL is incomplete.
        """
        ...


@dataclass(frozen=True, repr=False)
class EndpointUrl:
    """The parsed URL of an endpoint.

    Its ``str`` and ``repr`` show the scheme, and the host and port of a server or the path of a file, so that
    logs may contain them.

    Attributes:
        scheme: The scheme in lower case, or the whole text of a name.
        host: The host, without brackets, or an empty string.
        port: The port, or ``None``.
        path: The path, decoded.
        username: The user, decoded, or ``None``.
        password: The password, decoded, or ``None``.
        query: The query of the URL, decoded.
        options: Each declared option with its value or its default.
        is_file: Whether the path is that of a file, which is not a secret.
    """

    scheme: str
    host: str = ""
    port: int | None = None
    path: str = ""
    username: str | None = None
    password: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    is_file: bool = False

    @classmethod
    def parse(cls, text: str) -> EndpointUrl:
        """Parse a URL or a name. `with_options` parses its options.

        Raises:
            ConfigurationError: If it is malformed. The error quotes nothing but a known scheme, because a
                password may be anywhere in a malformed URL.
        """
        if not isinstance(text, str) or not text:
            raise ConfigurationError("an endpoint must be a name or a URL, like file:///var/tmp/metrics.json")
        scheme, colon, rest = text.partition(":")
        scheme = scheme.lower()
        if not colon:
            return cls(text)
        if not re.fullmatch(r"[a-z][a-z0-9+._-]*", scheme):
            raise ConfigurationError("the URL of an endpoint does not begin with a scheme, like statsd://")
        parts = _split(rest)
        fault = _fault(rest, parts)
        if parts is None or fault:
            raise ConfigurationError(f"endpoint {quotable_scheme(text)}: {fault}")
        username, password = parts.username, parts.password
        return cls(
            scheme,
            unquote(parts.hostname or ""),
            parts.port,
            unquote(parts.path),
            unquote(username) if username else None,
            unquote(password) if password else None,
            MappingProxyType(dict(parse_qsl(parts.query, keep_blank_values=True))),
        )

    def with_options(self, declared: Mapping[str, Option], *, others: bool = False) -> EndpointUrl:
        """Return this URL with parsed options.

        Args:
            declared: The options by name.
            others: Whether other options are allowed.

        Raises:
            ConfigurationError: If an option is unknown or its value is not allowed. The error lists similar
                options and quotes nothing of the query.
        """
        values = {}
        for name, text in self.query.items():
            if name not in declared:
                if others:
                    continue
                known = nearest(name, declared) if declared else " It has no options."
                if name.lower() in _LIKE_SECRETS:
                    known += f" Write a secret before the host, like {self.scheme}://:TOKEN@host"
                raise ConfigurationError(f"endpoint {self}: its query has an unknown option.{known}")
            values[name] = _parsed(declared[name], text)
            if values[name] is _INVALID:
                raise ConfigurationError(
                    f"endpoint {self}: the option {name} is not {declared[name].description}"
                )
        defaults = {name: option.default for name, option in declared.items()}
        return replace(self, options=MappingProxyType({**defaults, **values}))

    def required(self, option: str, example: str) -> Any:
        """Return the value of a required option.

        Raises:
            ConfigurationError: If the URL does not have it. The message shows the example.
        """
        value = self.options[option]
        if value is None or value == "":
            raise ConfigurationError(f"endpoint {self}: it needs the option {option}, like {example}")
        return value

    @cached_property
    def secrets(self) -> Secrets:
        """The secrets of this URL: user, password, and all parts of the path and query of a server."""
        texts = [self.username, self.password, f"{self.username or ''}:{self.password or ''}"]
        if not self.is_file:
            # An option with a number or a flag contains no secret.
            given = [name for name in self.query if isinstance(self.options.get(name, ""), str)]
            texts += [self.path, *(self.query[name] for name in given)]
            texts += [name for name in given if name not in self.options]
        return Secrets(text for text in texts if text)

    def redacted(self, text: str) -> str:
        """Return a text, such as an error message, without the secrets of this URL."""
        own = str(self)  # contains no secret, even if one is equal to the host
        return own.join(map(self.secrets.redact, text.split(own)))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        if host:
            return f"{self.scheme}://{host}{port}"
        if not self.path:
            return self.scheme if re.fullmatch(r"[\w+.-]{1,40}", self.scheme) else "***"
        path = self.path if self.is_file else "…"
        return f"{self.scheme}:{'//' if self.path[:1] == '/' else ''}{path}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


def _split(rest: str) -> SplitResult | None:
    """Return the parts of a URL without its scheme; ``None`` if one is malformed."""
    try:
        parts = urlsplit(f"x:{rest}")
        _ = parts.port
        parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        return None
    host = unquote(parts.hostname or "")
    return parts if re.fullmatch(r"[\w.~-]*|[0-9a-fA-F:.]+(%.+)?", host) else None


def _fault(rest: str, parts: SplitResult | None) -> str:
    """Return the fault in the parts of a URL, without quoting any; empty if there is none."""
    if re.search(r"[\x00-\x20\x7f\ud800-\udfff]", rest):
        return "its URL has a space or a control character: write it as %20, for example"
    if parts is None:
        return (
            "its host, port or query is malformed: a port is a number from 0 to 65535, a query is a list like"
            " a=1&b=2, and special characters are written like %2F"
        )
    relative = parts.path if parts.path[:1] != "/" else parts.path.partition(":")[2]
    if not parts.netloc and "@" in relative:
        return "write // before a host, and %40 for an @ in a path"
    if parts.netloc and "@" in f"{parts.path}{parts.query}":
        return (
            "its path or query has an @: write %2F for a slash and %3F for a question mark in a password, and"
            " %40 for an @"
        )
    if parts.fragment:
        return "its URL has a #: write %23 for it in a password"
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    return "its query has an option twice" if len(dict(pairs)) < len(pairs) else ""


_INVALID = object()


def _parsed(option: Option, text: str) -> object:
    try:
        return option.parse(text)
    except ValueError:
        return _INVALID


def make_endpoint(text: str) -> tuple[EndpointUrl, Output]:
    """Create the endpoint of a name or URL. Nothing is sent yet.

    Raises:
        ConfigurationError: If the name or scheme is unknown, or the URL is not allowed. The error lists all
            known names, and neither it nor the errors behind it contain a secret.
        MissingExtraError: If an optional dependency is not installed.
    """
    url = EndpointUrl.parse(NAMES.get(text, text) if isinstance(text, str) else text)
    factory = _factory(url.scheme)
    if isinstance(factory, LocalOutput) and factory.is_local and "+" not in url.scheme:
        url = replace(url, is_file=True)
    forwards = isinstance(factory, ForwardsQuery) and factory.forwards_query
    url = url.with_options(factory.options if isinstance(factory, HasOptions) else {}, others=forwards)
    try:
        output = factory(url)
        name_of(output)
        return url, output
    except MissingExtraError:
        raise
    except Exception as error:  # noqa: BLE001 - a third party's factory may raise anything
        reason = str(error) if isinstance(error, MetricsError) else f"endpoint {url}: {error!r}"
    # Raised here, where no error with secrets becomes the context of this one. Built-in endpoints quote none.
    raise ConfigurationError(reason if url.scheme in BUILT_IN else url.redacted(reason))


def _schemes() -> list[str]:
    """Return all names and schemes, also those of third parties."""
    from importlib.metadata import entry_points  # slow to import

    return sorted({*NAMES, *BUILT_IN, *entry_points(group=ENTRY_POINT_GROUP).names})


def _factory(scheme: str) -> EndpointFactory:
    if scheme not in BUILT_IN:
        known = _schemes()
        if scheme not in known:
            # The scheme is not quoted: it may be a secret, or end in one.
            near = nearest(scheme, known)
            meant = near if near.startswith(" Did you mean") else ""
            raise ConfigurationError(f"unknown endpoint.{meant} Known: {', '.join(known)}")
    factory: EndpointFactory = load_from(BUILT_IN, ENTRY_POINT_GROUP, scheme)
    return factory


def quotable_scheme(endpoint: str) -> str:
    """Return the name or the scheme of an endpoint for messages: ``***`` unless it is a known one.

    An unknown one may be a secret, or end in one, if a part of a URL is missing.
    """
    scheme = endpoint.partition(":")[0].lower()
    return scheme if scheme in BUILT_IN or scheme in _schemes() else "***"


# -- secrets -----------------------------------------------------------------------------------------------


class Secrets:
    """The secrets of an output, which it removes from texts.

    It finds a secret in any case, also encoded: in base64, percent-encoded, or escaped as in JSON, HTML or a
    ``repr``, up to three times. A secret of fewer than four characters is found only where no letters or
    digits surround it, because it is a part of many words.

    Args:
        texts: The secrets. Each part between separators, such as a segment of a path, is a secret too.

    Example:
        >>> Secrets(["hunter2", "me:hunter2"]).redact("got Basic bWU6aHVudGVyMg== from %68unter2")
        'got Basic *** from ***'
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        parts = (part for text in texts for part in (text, *_SEPARATORS.split(text)))
        self._texts = frozenset(part for part in parts if part and not _SEPARATORS.fullmatch(part))

    def __repr__(self) -> str:
        return f"<{len(self._texts)} secrets>"

    def __or__(self, other: Secrets) -> Secrets:
        return Secrets(self._texts | other._texts)

    @property
    def max_length(self) -> int:
        """The largest number of characters that a secret may have in a text, encoded in any way."""
        return 9 * max(map(len, self._texts), default=0)

    def redact(self, text: str) -> str:
        """Return a text with ``***`` in place of each secret."""
        found: list[tuple[int, int]] = []
        for variant in _decoded(text):
            folded, plain = _Variant.folded(variant), variant
            for secret in self._texts:
                found.extend(folded.find(secret.casefold()))
            for secret in self._base64:
                found.extend(plain.find(secret))
        redacted, end = [], 0
        for start, stop in sorted(found):
            if start >= end:
                redacted += [text[end:start], "***"]
            end = max(end, stop)
        return "".join([*redacted, text[end:]])

    @cached_property
    def _base64(self) -> set[str]:
        return {form for text in self._texts for form in _base64_forms(text)}


_SEPARATORS = re.compile(r"[/:,;=&?\s]+")

_MIN_PART = 4
"""The length from which a secret is found inside a word."""


def _base64_forms(text: str) -> Iterator[str]:
    """Yield the base64 of a text, and the part of it that is the same wherever the text is encoded."""
    content = text.encode(errors="surrogatepass")
    for encode in (b64encode, urlsafe_b64encode):
        yield encode(content).decode()
        yield encode(content).decode().rstrip("=")
        for offset in range(3):
            # Each character has 6 bits, and the first and last one may contain bits of other bytes.
            encoded = encode(bytes(offset) + content).decode().rstrip("=")
            start = -(-offset * 8 // 6)
            stop = (offset + len(content)) * 8 // 6
            if stop - start >= _MIN_PART:
                yield encoded[start:stop]


class _Variant(NamedTuple):
    """A decoded text, and where each of its characters is in the original.

    Attributes:
        text: The characters.
        spans: The start and the end of each in the original text.
    """

    text: str
    spans: list[tuple[int, int]]

    @classmethod
    def folded(cls, other: _Variant) -> _Variant:
        pairs = [
            (folded, span)
            for one, span in zip(other.text, other.spans, strict=True)
            for folded in one.casefold()
        ]
        return cls("".join(one for one, _ in pairs), [span for _, span in pairs])

    def find(self, secret: str) -> Iterator[tuple[int, int]]:
        """Yield where a secret is in the original text."""
        start = self.text.find(secret) if secret else -1
        while start >= 0:
            stop = start + len(secret)
            around = self.text[max(start - 1, 0) : start] + self.text[stop : stop + 1]
            if len(secret) >= _MIN_PART or not any(one.isalnum() for one in around):
                yield self.spans[start][0], self.spans[stop - 1][1]
            start = self.text.find(secret, start + 1)


def _decoded(text: str) -> Iterator[_Variant]:
    """Yield a text, and the results of decoding it up to three times, in each way that changes it."""
    variants = {text: _Variant(text, [(index, index + 1) for index in range(len(text))])}
    latest = list(variants.values())
    for _ in range(3):
        decoded = [_decode(variant, *decoder) for variant in latest for decoder in _DECODERS]
        latest = [each for each in decoded if variants.setdefault(each.text, each) is each]
    yield from variants.values()


def _decode(
    variant: _Variant, pattern: re.Pattern[str], decode: Callable[[str], Iterable[tuple[str, int]]]
) -> _Variant:
    text, spans, end = [], [], 0
    for match in pattern.finditer(variant.text):
        start = match.start()
        text.append(variant.text[end:start])
        spans += variant.spans[end:start]
        for decoded, length in decode(match[0]):
            span = variant.spans[start][0], variant.spans[start + length - 1][1]
            text.append(decoded)
            spans += [span] * len(decoded)
            start += length
        end = match.end()
    return _Variant("".join([*text, variant.text[end:]]), [*spans, *variant.spans[end:]])


def _percent_decoded(run: str) -> Iterator[tuple[str, int]]:
    """Yield each character of a run like ``%C3%A9``, and the length of its code."""
    if run == "+":
        yield " ", 1
        return
    for one in bytes.fromhex(run.replace("%", "")).decode(errors="surrogateescape"):
        yield one, 3 * len(one.encode(errors="surrogateescape"))


def _unescaped(escape: str) -> Iterator[tuple[str, int]]:
    r"""Yield the character of an escape of JSON or Python, like ``\u00e9``."""
    if escape[1] not in "uUx":
        yield {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}.get(escape[1], escape[1]), len(escape)
        return
    codes = [int(code, 16) for code in re.split(r"\\[uUx]", escape)[1:]]
    if max(codes) > sys.maxunicode:
        yield escape, len(escape)
    else:  # two codes are a surrogate pair
        text = "".join(map(chr, codes))
        yield text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass"), len(escape)


def _base64_decoded(run: str) -> Iterator[tuple[str, int]]:
    digits = run.rstrip("=").translate(_TO_STANDARD)
    digits = digits[:-1] if len(digits) % 4 == 1 else digits  # the last one is a part of the next byte
    content = b64decode(digits + "=" * (-len(digits) % 4))
    yield content.decode(errors="surrogateescape"), len(run)


_TO_STANDARD = str.maketrans("-_", "+/")


def _html_unescaped(entity: str) -> Iterator[tuple[str, int]]:
    yield unescape(entity), len(entity)


_DECODERS = (
    (re.compile("(?:%[0-9A-Fa-f]{2})+"), _percent_decoded),
    (re.compile(r"(?:%[0-9A-Fa-f]{2})+|\+"), _percent_decoded),
    (
        re.compile(
            r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}|\\x[0-9a-f]{2}"
            r"|\\[^uUx]",
            re.IGNORECASE | re.DOTALL,
        ),
        _unescaped,
    ),
    (re.compile(r"&#?\w{1,32};"), _html_unescaped),
    (re.compile(r"[A-Za-z0-9+/_-]{12,}={0,2}"), _base64_decoded),
)
"""How a server or a library may have encoded a secret: what to decode, and into which characters."""


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
