"""Names of Graphite and StatsD, where dots divide a path and few characters are safe."""

from __future__ import annotations

import re
from collections.abc import Mapping

from metrics_framework.log import log_event

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


def safe_name(name: str) -> str:
    """Return a name, whose dots divide it, in letters, digits, ``_``, ``-`` and ``.`` only.

    Example:
        >>> safe_name("http.requests/s..total")
        'http.requests_s.total'
    """
    return ".".join(safe_part(part) for part in name.split(".") if part) or "_"


def safe_part(text: str) -> str:
    """Return one part of a path: every other character is ``_``, a dot too, and so is no text at all."""
    return _UNSAFE.sub("_", text) or "_"


def plain_path(name: str, tags: Mapping[str, str]) -> str:
    """Return the path of a series whose tags are part of it, sorted, each with its value.

    Example:
        >>> plain_path("http.requests", {"route": "/orders", "method": "GET"})
        'http.requests.method.GET.route._orders'
    """
    parts = [part for tag in sorted(tags) for part in (safe_part(tag), safe_part(tags[tag]))]
    return ".".join([safe_name(name), *parts])


class Notices:
    """Says once of each kind that something is left out.

    Args:
        endpoint: What the log calls the endpoint.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._said: set[str] = set()

    def left_out(self, why: str, name: str) -> None:
        """Say that the series of a name is left out."""
        if why not in self._said:
            self._said.add(why)
            log_event(
                "warning", "a series is left out of an export", output=self._endpoint, why=why, name=name
            )
