"""The Pushgateway output: pushes a group of metrics, adds to it or deletes it."""

from __future__ import annotations

import re
import ssl
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar
from urllib.parse import SplitResult, quote, unquote

from prometheus_client.registry import CollectorRegistry

from metrics_adapters.http_client import (
    HTTP_OPTIONS,
    Address,
    address_of,
    basic_authorization,
    deliver,
    split_url,
)
from metrics_adapters.prometheus.targets import Target, TextWithoutTimestamps
from metrics_framework.errors import ConfigurationError, InvalidInputError
from metrics_framework.export.endpoints import EndpointUrl, Option, Secrets, text_option
from metrics_framework.exposition.text import Format
from metrics_framework.log import log_event
from metrics_framework.protocols import MetricsSystem
from metrics_framework.validation import check_name, check_seconds, plain_tags, safe_repr

_LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_LABEL = re.compile(rb'[{,]([a-zA-Z_][a-zA-Z0-9_]*)="(?:[^"\\]|\\.)*"')
_RESERVED_LABELS = {"le", "quantile"}


class Pushgateway:
    """A group of metrics on a Pushgateway, and an output of a `MetricsSystem`.

    As an output, it replaces the group at every ``collection_interval`` and at shutdown. Only one process
    should push to a group: each process would replace the metrics of the others.

    A push always contains the totals since the start, so the next push makes up for one that failed.
    Redirects are not followed and the proxies of the environment are not used, so that metrics and passwords
    reach no other host. No message contains a secret of the URL, of ``auth`` or of ``headers``.

    Args:
        url: The gateway, such as ``http://pushgateway:9091``. It may contain a path prefix, a user and a
            password.
        job: The label ``job`` of the group.
        grouping: Further labels that distinguish the groups of a job. The gateway adds all of them to each
            series and overwrites the series' own labels of the same names, which is logged once.
        registry: A prometheus_client registry whose metrics are appended.
        timeout: The time-out of a push in seconds.
        auth: User and password for basic authentication.
        headers: Further headers, such as ``{"Authorization": "Bearer …"}``.
        tls: The TLS context for an ``https`` gateway; by default the certificate authorities of the system.

    Raises:
        InvalidInputError: If an argument cannot be sent or contradicts another.

    Example:
        >>> Pushgateway("http://pushgateway:9091", "nightly", {"path": "/data", "shard": "3"})
        Pushgateway('http://pushgateway:9091/metrics/job/nightly/path@base64/L2RhdGE=/shard/3')
    """

    name = "pushgateway"

    def __init__(
        self,
        url: str,
        job: str,
        grouping: Mapping[str, str] | None = None,
        *,
        registry: CollectorRegistry | None = None,
        timeout: float = 10.0,
        auth: tuple[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = _split_url(url)
        if tls is not None and parts.scheme != "https":
            raise InvalidInputError("tls= requires a url that begins with https://")
        labels = {"job": check_name(job, "job"), **_checked_grouping(grouping)}
        group = f"/metrics/{'/'.join(_segment(name, value) for name, value in labels.items())}"
        path = quote(parts.path.rstrip("/"), safe="/%~:@!$&'()*+,;=")
        self._address = Address(
            parts.scheme,
            parts.hostname or "",
            parts.port,
            f"{path}{group}",
            tls,
            secrets=Secrets(
                (unquote(parts.path), *map(unquote, filter(None, (parts.username, parts.password))))
            ),
        )
        self._shown = f"{self._address}{'/…' if path else ''}{group}"
        self._headers = _checked_headers(headers or {}, _credentials(parts, auth))
        check_seconds("timeout", timeout)
        self._timeout = timeout
        self._text = TextWithoutTimestamps(registry)
        self._unreported_labels = set(labels)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown!r})"

    def replace(self, metrics: Target) -> None:
        """Push all metrics and replace the group.

        Args:
            metrics: A `MetricsSystem`, a collector, a `Store`, or an `Exposition` with its registry.

        Raises:
            InvalidInputError: If ``metrics`` has no store, or two names in it collide.
            RefusedError: If the gateway rejects the push; the message quotes its reason.
            OutputError: If the gateway is unreachable or fails. Push again later.
        """
        self._push("PUT", self._text.render(metrics))

    def add(self, metrics: Target) -> None:
        """Push all metrics, and keep earlier metrics of the group that have other names.

        The argument and the errors are those of `replace`.
        """
        self._push("POST", self._text.render(metrics))

    def delete(self) -> None:
        """Delete the group, if it exists. The gateway deletes it soon after it responds.

        Raises:
            RefusedError: If the gateway rejects the request.
            OutputError: If the gateway is unreachable or fails.
        """
        self._send("DELETE", None)

    def export(self, system: MetricsSystem) -> None:
        """Push a system like `replace`. If its collector has no store, its aggregator is read instead."""
        self._push("PUT", self._text.render_system(system))

    def _push(self, method: str, body: bytes) -> None:
        self._warn_of_overwritten(body)
        self._send(method, body)

    def _warn_of_overwritten(self, body: bytes) -> None:
        for label in sorted(self._unreported_labels):
            start = f'{label}="'.encode()
            if start not in body:
                continue
            lines = (line for line in body.split(b"\n") if start in line and not line.startswith(b"#"))
            if any(label.encode() in _LABEL.findall(line) for line in lines):
                self._unreported_labels.discard(label)
                shown = self._address.secrets.redact(label)
                log_event("warning", "the Pushgateway overwrites a label of the pushed metrics", label=shown)

    def _send(self, method: str, body: bytes | None) -> None:
        what = f"cannot {'delete' if body is None else 'push to'} {self._shown}"
        deliver(self._address, method, body, self._headers, self._timeout, what=what)


class PushgatewayEndpoint(Pushgateway):
    """``pushgateway+http://gateway:9091?job=nightly``: a `Pushgateway` from a URL.

    Args:
        url: The gateway. It may contain a path prefix, a user and a password.

    Raises:
        ConfigurationError: If the URL has no host or no job.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "job": text_option(None, "The label `job` of the group; required."),
        "grouping": text_option(None, "Further labels of the group, such as `shard:3,zone:a`."),
        **HTTP_OPTIONS,
    }

    def __init__(self, url: EndpointUrl) -> None:
        job = url.required("job", f"{url.scheme}://gateway:9091?job=nightly")
        address = address_of(url, url.path)
        auth = None if url.username is None else (url.username, url.password or "")
        if auth is None and url.password is not None:
            raise ConfigurationError(f"endpoint {url}: a password needs a user: put a user before it")
        grouping = _grouping(url)
        try:
            super().__init__(
                f"{address}{address.path}",
                job,
                grouping,
                timeout=url.options["timeout"],
                auth=auth,
                tls=address.tls,
            )
        except InvalidInputError as error:
            raise ConfigurationError(f"endpoint {url}: {error}") from None
        self.name = self._shown = str(url)
        self._address = replace(self._address, secrets=url.secrets)


def _split_url(url: str) -> SplitResult:
    # An invalid URL is never quoted: any part of it may be a password.
    wrong = "url is not the address of a Pushgateway, such as http://pushgateway:9091"
    parts = split_url(url)
    if parts is None:
        raise InvalidInputError(f"{wrong}: its host or port cannot be read")
    if parts.scheme not in ("http", "https"):
        raise InvalidInputError(f"{wrong}: it does not begin with http:// or https://")
    if not parts.hostname or re.search(r"[\x00-\x20\x7f]", parts.hostname):
        raise InvalidInputError(f"{wrong}: it names no host")
    if "@" in parts.path:
        raise InvalidInputError(f"{wrong}: an @ is in its path; a slash in a password is written %2F")
    if parts.query or parts.fragment:
        raise InvalidInputError(f"{wrong}: a query or a fragment has no place in it")
    return parts


def _checked_grouping(grouping: Mapping[str, str] | None) -> dict[str, str]:
    labels = plain_tags(grouping)
    wrong = [name for name in labels if not _LABEL_NAME.fullmatch(name)]
    if wrong:
        raise InvalidInputError(
            f"grouping: {', '.join(map(safe_repr, wrong))} cannot be a label: use letters, digits and"
            " underscores, without a digit or two underscores at the beginning"
        )
    if "job" in labels:
        raise InvalidInputError(f"grouping: job={labels['job']!r} is a separate argument: pass job=…")
    if own := sorted(_RESERVED_LABELS & set(labels)):
        raise InvalidInputError(
            f"grouping: {own[0]!r} is a reserved label of histograms or summaries: use another name"
        )
    return labels


def _segment(name: str, value: str) -> str:
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(
            f"{name}={safe_repr(value)} cannot be a label: UTF-8 cannot encode it"
        ) from None
    # Proxies normalize paths: empty segments, dots and slashes, even if escaped, do not arrive.
    if "/" in value or value in ("", ".", ".."):
        return f"{name}@base64/{urlsafe_b64encode(encoded).decode() or '='}"
    return f"{name}/{quote(value, safe='')}"


def _credentials(parts: SplitResult, auth: tuple[str, str] | None) -> dict[str, str]:
    if parts.username is not None or parts.password is not None:
        if auth is not None:
            raise InvalidInputError("both url and auth= contain a user: pass only one of them")
        auth = unquote(parts.username or ""), unquote(parts.password or "")
    if auth is None:
        return {}
    match auth:
        case (str(user), str(password)) if ":" not in user:
            return {"Authorization": basic_authorization(user, password)}
    raise InvalidInputError("auth must be a (user, password) tuple of texts, without a colon in the user")


def _checked_headers(headers: Mapping[str, str], credentials: Mapping[str, str]) -> dict[str, str]:
    """Return all headers of a request. No error contains the value of a header, which may be a secret."""
    own = {"content-type", "content-length", "transfer-encoding", *map(str.lower, credentials)}
    for name, value in headers.items():
        if not isinstance(name, str) or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise InvalidInputError(f"headers: {safe_repr(name)} is not the name of a header")
        if name.lower() in own:
            raise InvalidInputError(f"headers: {name!r} is made of the other arguments; leave it out")
        if not isinstance(value, str) or not re.fullmatch(r"[\t\x20-\x7e\xa0-\xff]*", value):
            raise InvalidInputError(f"headers: the value of {name!r} is not a line of Latin-1 text")
    return {**headers, **credentials, "Content-Type": Format.TEXT.content_type}


def _grouping(url: EndpointUrl) -> dict[str, str]:
    labels = {}
    for pair in (url.options["grouping"] or "").split(","):
        name, colon, text = pair.partition(":")
        if pair and (not colon or not _can_group(name)):
            raise ConfigurationError(
                f"endpoint {url}: the option grouping is not a list of labels, such as shard:3,zone:a,"
                " without job, le and quantile"
            )
        if pair:
            labels[name] = text
    return labels


def _can_group(name: str) -> bool:
    return bool(_LABEL_NAME.fullmatch(name)) and name not in {"job", *_RESERVED_LABELS}
