"""Pushing to a Pushgateway: one group of metrics, replaced, added to or deleted."""

from __future__ import annotations

import re
import ssl
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from urllib.parse import SplitResult, quote, unquote, urlsplit

from prometheus_client.registry import CollectorRegistry

from metrics_adapters.http_client import Address, basic_authorization, deliver
from metrics_adapters.prometheus.expositions import Exposable
from metrics_adapters.prometheus.text import Format
from metrics_adapters.prometheus.untimed import UntimedText
from metrics_framework.errors import InvalidInputError
from metrics_framework.log import log_event
from metrics_framework.protocols import MetricsSystem
from metrics_framework.validation import check_name, check_seconds, plain_tags, safe_repr

_LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_LABEL = re.compile(rb'[{,]([a-zA-Z_][a-zA-Z0-9_]*)="(?:[^"\\]|\\.)*"')
_FORMATS_OWN = {"le", "quantile"}


class Pushgateway:
    """A group of metrics at a Pushgateway, and an output of a `MetricsSystem`.

    As an output it is sent everything at every ``collection_interval`` and at the end, in place of what it
    had. Only one process should push to a group: what one sends another would replace.

    Everything is sent each time, as totals since the start. So a push that fails loses nothing; the next one
    makes up for it. Redirects are not followed and proxies of the environment are not asked, so that what is
    sent, and a password with it, goes nowhere else. Passwords are in no message.

    Args:
        url: The gateway, like ``http://pushgateway:9091``; a path in front of its own and a user with a
            password may be part of it.
        job: The label ``job`` of the group.
        grouping: Further labels that tell groups of the job apart. The gateway gives all of them to each
            series, in place of the series' own labels of those names; the log says once where that happens.
        registry: A prometheus_client registry whose metrics are sent too.
        timeout: Seconds after which a push is given up.
        auth: User and password, for basic authentication.
        headers: Further headers, such as ``{"Authorization": "Bearer …"}``.
        tls: How an ``https`` gateway proves who it is, and we to it; the system's authorities by default.

    Raises:
        InvalidInputError: If an argument cannot be sent, or contradicts another.

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
        parts = _split(url)
        if tls is not None and parts.scheme != "https":
            raise InvalidInputError("tls= is of use for a url that begins with https:// only")
        labels = {"job": check_name(job, "job"), **_checked_grouping(grouping)}
        path = quote(parts.path.rstrip("/"), safe="/%~:@!$&'()*+,;=")
        self._address = Address(
            parts.scheme,
            parts.hostname or "",
            parts.port,
            f"{path}/metrics/{'/'.join(_segment(name, value) for name, value in labels.items())}",
            tls,
        )
        self._headers = _checked_headers(headers or {}, _credentials(parts, auth))
        check_seconds("timeout", timeout)
        self._timeout = timeout
        self._text = UntimedText(registry)
        self._unsaid = set(labels)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._address)!r})"

    def replace(self, metrics: Exposable) -> None:
        """Send everything; the group then has this and nothing else.

        Args:
            metrics: A `MetricsSystem`, a collector, a `Store`, or an `Exposition` of it and of a registry.

        Raises:
            InvalidInputError: If ``metrics`` has no store, or two names in it collide.
            RefusedError: If the gateway will not have it; the message quotes why.
            OutputError: If the gateway is not to be reached or fails: push again later.
        """
        self._push("PUT", self._text.of(metrics))

    def add(self, metrics: Exposable) -> None:
        """Send everything; the group keeps those metrics of before that have other names.

        Takes and raises what `replace` does.
        """
        self._push("POST", self._text.of(metrics))

    def delete(self) -> None:
        """Remove the group from the gateway, which does it soon after its answer; no group is no error.

        Raises:
            RefusedError: If the gateway will not do it.
            OutputError: If the gateway is not to be reached or fails.
        """
        self._send("DELETE", None)

    def export(self, system: MetricsSystem) -> None:
        """Do as `replace` does; a system of somebody else's parts is sent as its aggregator answers."""
        self._push("PUT", self._text.of_system(system))

    def _push(self, method: str, body: bytes) -> None:
        self._warn_of_overwritten(body)
        self._send(method, body)

    def _warn_of_overwritten(self, body: bytes) -> None:
        for label in sorted(self._unsaid):
            start = f'{label}="'.encode()
            if start not in body:
                continue
            lines = (line for line in body.split(b"\n") if start in line and not line.startswith(b"#"))
            if any(label.encode() in _LABEL.findall(line) for line in lines):
                self._unsaid.discard(label)
                log_event("warning", "the Pushgateway overwrites a label of what is pushed", label=label)

    def _send(self, method: str, body: bytes | None) -> None:
        what = f"cannot {'delete' if body is None else 'push to'} {self._address}"
        deliver(self._address, method, body, self._headers, self._timeout, what=what)


def _split(url: str) -> SplitResult:
    # Nothing of a URL that cannot be understood is quoted: who knows where in it a password is.
    wrong = "url is not the address of a Pushgateway, like http://pushgateway:9091"
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").encode("idna"), parts.port
    except (ValueError, AttributeError, TypeError):
        raise InvalidInputError(f"{wrong}: its host or port cannot be read") from None
    if not isinstance(url, str) or parts.scheme not in ("http", "https"):
        raise InvalidInputError(f"{wrong}: it does not begin with http:// or https://")
    if not host or re.search(rb"[\x00-\x20\x7f]", host):
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
            f"grouping: {', '.join(map(safe_repr, wrong))} cannot be a label: pass letters, digits and"
            " underscores, no digit first and no two underscores"
        )
    if "job" in labels:
        raise InvalidInputError(f"grouping: job={labels['job']!r} has an argument of its own; pass job=…")
    if own := sorted(_FORMATS_OWN & set(labels)):
        raise InvalidInputError(
            f"grouping: {own[0]!r} is a label that histograms or summaries have themselves; call it otherwise"
        )
    return labels


def _segment(name: str, value: str) -> str:
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(
            f"{name}={safe_repr(value)} cannot be a label: it is no Unicode text"
        ) from None
    # A path is cleaned on its way: of what is empty, of dots, and of slashes however they are written.
    if "/" in value or value in ("", ".", ".."):
        return f"{name}@base64/{urlsafe_b64encode(encoded).decode() or '='}"
    return f"{name}/{quote(value, safe='')}"


def _credentials(parts: SplitResult, auth: tuple[str, str] | None) -> dict[str, str]:
    if parts.username is not None or parts.password is not None:
        if auth is not None:
            raise InvalidInputError("a user is named both in url and by auth=; leave one of them out")
        auth = unquote(parts.username or ""), unquote(parts.password or "")
    if auth is None:
        return {}
    match auth:
        case (str(user), str(password)) if ":" not in user:
            return {"Authorization": basic_authorization(user, password)}
    raise InvalidInputError("auth is not a pair of a user, without a colon, and a password")


def _checked_headers(headers: Mapping[str, str], credentials: Mapping[str, str]) -> dict[str, str]:
    """Return all headers of a request; a message about one never has its value, which may be a secret."""
    own = {"content-type", "content-length", "transfer-encoding", *map(str.lower, credentials)}
    for name, value in headers.items():
        if not isinstance(name, str) or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise InvalidInputError(f"headers: {safe_repr(name)} is not the name of a header")
        if name.lower() in own:
            raise InvalidInputError(f"headers: {name!r} is made of the other arguments; leave it out")
        if not isinstance(value, str) or not re.fullmatch(r"[\t\x20-\x7e\xa0-\xff]*", value):
            raise InvalidInputError(f"headers: the value of {name!r} is not a line of Latin-1 text")
    return {**headers, **credentials, "Content-Type": Format.TEXT.content_type}
