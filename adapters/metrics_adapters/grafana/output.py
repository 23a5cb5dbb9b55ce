"""The Grafana dashboard, an output of a system that writes a file or calls a Grafana server."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, unquote

from metrics_adapters.file import path_of
from metrics_adapters.grafana.metrics import exposed_metrics
from metrics_adapters.grafana.panels import dashboard_json, panel_rows
from metrics_adapters.http_client import Address, deliver, plain_address_of, split_url
from metrics_framework.errors import ConfigurationError, InvalidInputError
from metrics_framework.export.endpoints import EndpointUrl, Option, Secrets, seconds_option, text_option
from metrics_framework.export.outputs import exporting_alone
from metrics_framework.protocols import MetricsSystem
from metrics_framework.runtime.atomic_files import read_file, replace_file
from metrics_framework.runtime.strict_json import to_json_text
from metrics_framework.validation import check_seconds, safe_repr, word_repr

_API = "/api/dashboards/db"


class GrafanaDashboard:
    """Maintains a dashboard of the recorded metrics, by the names under which Prometheus scrapes them.

    Each operation has a row with its rate, error ratio and latency. Counters are shown per second, gauges as
    they are, and histograms and timers as p50, p95 and p99, each by its labels. The queries select the
    constant tags of the system, so that they exclude other services with the same names. Quantiles need
    buckets, which a store that is exposed to Prometheus has by default.

    The dashboard changes only if metrics or tags appear or disappear. An unchanged dashboard is not written
    or sent again, because Grafana stores a version for each.

    Args:
        target: A file, or the address of a Grafana server, like ``http://grafana:3000``.
        title: The title of the dashboard.
        uid: Its unique id in Grafana; by default derived from the title. A dashboard with it is replaced.
        datasource: The uid of the Prometheus data source that is selected first, or ``None`` for Grafana's
            default.
        token: The token of a Grafana service account that may write dashboards.
        timeout: The time limit of a request in seconds.

    Raises:
        InvalidInputError: If an argument is not allowed. No message contains the token.
        MissingExtraError: If the foundation SDK is not installed.
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        *,
        title: str = "Metrics",
        uid: str | None = None,
        datasource: str | None = None,
        token: str | None = None,
        timeout: float = 10.0,
    ) -> None:
        if not isinstance(title, str) or not title.strip():
            raise InvalidInputError(f"title={safe_repr(title)} is not a title: pass a non-empty string")
        if uid is not None and not (isinstance(uid, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,40}", uid)):
            raise InvalidInputError(
                f"uid={safe_repr(uid)} is not a uid: pass 1 to 40 letters, digits, dashes and underscores"
            )
        if datasource is not None and not isinstance(datasource, str):
            raise InvalidInputError(f"datasource={safe_repr(datasource)} is not the uid of a data source")
        check_seconds("timeout", timeout)
        self.title = _text(title)
        self.uid = uid or _uid_of(self.title)
        self._datasource = None if datasource is None else _text(datasource)
        self._timeout = timeout
        self._headers = _headers(token)
        self._file: Path | None = None
        self._address: Address | None = None
        if isinstance(target, str) and re.match("https?://", target):
            self._address = _address(target)
            self.name = f"grafana+{self._address}"
        elif token is not None:
            raise InvalidInputError("token= needs a target that begins with http:// or https://")
        else:
            self._file = _path(target)
            self.name = f"grafana:{self._file}"
        self.is_local = self._file is not None
        self._sent = ""
        self._begin()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def render(self, system: MetricsSystem) -> str:
        """Return the dashboard of the current metrics of a system, as JSON that Grafana imports."""
        return dashboard_json(
            self.title, self.uid, panel_rows(exposed_metrics(system.aggregator)), self._datasource
        )

    def export(self, system: MetricsSystem) -> None:
        """Write or send the dashboard, unless it is unchanged.

        Raises:
            OutputError: If the file cannot be written, or Grafana is unreachable or fails: retry later.
            RefusedError: If Grafana rejects the dashboard. The message quotes the reason.
        """
        if self._process != os.getpid():  # a forked child may have inherited a held lock
            self._begin()
        with exporting_alone(self._lock, self.name, self._timeout):
            dashboard = self.render(system)
            if self._file is not None:
                if not _holds(self._file, dashboard.encode()):
                    replace_file(self._file, dashboard.encode())
            elif self._address is not None and dashboard != self._sent:
                self._send(self._address, dashboard)
                self._sent = dashboard

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()

    def _send(self, address: Address, dashboard: str) -> None:
        body = {
            "dashboard": json.loads(dashboard),
            "overwrite": True,
            "message": "Exported by metrics-framework",
        }
        content = to_json_text(body).encode()
        deliver(
            address,
            "POST",
            content,
            self._headers,
            self._timeout,
            what=f"cannot send a dashboard to {self.name}",
        )


def _headers(token: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if token is None:
        return headers
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise InvalidInputError("token= is not a token: pass visible ASCII characters without spaces")
    return {**headers, "Authorization": f"Bearer {token}"}


def _address(url: str) -> Address:
    # A malformed URL is not quoted, because a password may be anywhere in it.
    wrong = "target= is not the address of a Grafana server, like http://grafana:3000"
    parts = split_url(url)
    if parts is None:
        raise InvalidInputError(f"{wrong}: its host or port is malformed")
    if not parts.hostname or re.search(r"[\x00-\x20\x7f]", parts.hostname):
        raise InvalidInputError(f"{wrong}: it has no host")
    if "@" in url:
        raise InvalidInputError(f"{wrong}: it has a user; pass token= instead")
    if parts.query or parts.fragment:
        raise InvalidInputError(f"{wrong}: it has a query or a fragment")
    path = quote(parts.path.rstrip("/"), safe="/%~:!$&'()*+,;=")
    secrets = Secrets([unquote(parts.path)])
    return Address(parts.scheme, parts.hostname, parts.port, f"{path}{_API}", secrets=secrets)


def _path(target: object) -> Path:
    if not isinstance(target, str | os.PathLike) or not str(target):
        raise InvalidInputError(f"target={safe_repr(target)} is neither a path nor a URL")
    if isinstance(target, str) and "://" in target:
        raise InvalidInputError(
            "target= is not an address of a Grafana server: begin it with http:// or https://"
        )
    path = Path(target)
    if path.suffix != ".json":
        raise InvalidInputError(f"{word_repr(path.name)} does not end in .json, so Grafana would not read it")
    return path


def _holds(path: Path, content: bytes) -> bool:
    try:
        return read_file(path, len(content), pipe=False) == content
    except (OSError, ValueError):
        return False


def _text(given: str) -> str:
    """Return a text that UTF-8 can encode."""
    return given.encode(errors="backslashreplace").decode()


def _uid_of(title: str) -> str:
    """Return a uid that is derived from the title."""
    words = re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")[:27].strip("-")
    return f"{words or 'metrics'}-{sha256(title.encode()).hexdigest()[:12]}"


DEFAULT_FILE_NAME = "grafana.json"


class GrafanaEndpoint(GrafanaDashboard):
    """``grafana:/var/lib/app/dashboard.json``, or ``grafana+https://:TOKEN@grafana.example``.

    The name ``grafana`` alone stands for the file ``grafana.json`` in the working directory.

    Args:
        url: The file or the server.

    Raises:
        ConfigurationError: If the URL is neither.
        MissingExtraError: If the extra ``grafana`` is not installed.
    """

    is_local = True
    options: ClassVar[Mapping[str, Option]] = {
        "title": text_option("Metrics", "The title of the dashboard."),
        "uid": text_option(None, "Its unique id in Grafana; by default derived from the title."),
        "datasource": text_option(None, "The uid of the data source; by default Grafana's own default."),
        "timeout": seconds_option(10.0, "The time limit of a request in seconds."),
    }

    def __init__(self, url: EndpointUrl) -> None:
        target: str | os.PathLike[str]
        if url.scheme != "grafana":
            target = plain_address_of(url, url.scheme.rpartition("+")[2])
            if url.username is not None:
                raise ConfigurationError(
                    f"endpoint {url}: it has a user: pass a token alone, as {url.scheme}://:TOKEN@{url.host}"
                )
        else:
            target = path_of(url) if url.path else DEFAULT_FILE_NAME
        try:
            super().__init__(target, token=url.password, **(url.options or _DEFAULTS))
        except InvalidInputError as error:
            raise ConfigurationError(f"endpoint {url}: {error}") from None
        self.name = str(url)
        if self._address is not None:
            self._address = replace(self._address, secrets=url.secrets)


_DEFAULTS = {name: option.default for name, option in GrafanaEndpoint.options.items()}
