"""The login of the live page: sessions, the form, and requests of other sites."""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs, urlsplit

SESSION_SECONDS = 12 * 3600
"""How long a session lasts."""

_MAX_EXPIRY_DIGITS = 12


class Sessions:
    """The sessions of browsers that have logged in with a token.

    They are stateless: a cookie has the time at which it expires and a keyed hash of it, and the key is
    derived from the token. Every process that has the token therefore accepts the same sessions, and another
    token ends them all. The token cannot be read from a cookie, but a short one can be guessed with it.

    Args:
        token: The bearer token.
        now: Returns the seconds since 1970.

    Attributes:
        cookie_name: The name of the cookie. It depends on the token, because browsers share cookies between
            all ports of a host: services with different tokens would otherwise end each other's sessions.

    Example:
        >>> sessions = Sessions("s3cret")
        >>> value = sessions.create()
        >>> sessions.accepts(f"{sessions.cookie_name}={value}"), Sessions("other").accepts(value)
        (True, False)
    """

    def __init__(self, token: str, now: Callable[[], float] = time.time) -> None:
        self._key = hmac.digest(token.encode(), b"metrics-framework: key of sessions", "sha256")
        self._now = now
        self.cookie_name = f"metrics_session_{hmac.digest(self._key, b'name of cookies', 'sha256').hex()[:8]}"

    def create(self) -> str:
        """Return the value of the cookie of a new session."""
        expiry = str(math.ceil(self._now()) + SESSION_SECONDS)
        return f"{expiry}.{self._signature(expiry)}"

    def accepts(self, cookies: str | None) -> bool:
        """Return whether the ``Cookie`` header of a request has a session that has not expired."""
        for pair in (cookies or "").split(";"):
            name, _, value = pair.strip().partition("=")
            expiry, _, signature = value.partition(".")
            if (
                name == self.cookie_name
                and expiry.isascii()
                and expiry.isdecimal()
                and len(expiry) <= _MAX_EXPIRY_DIGITS
                and hmac.compare_digest(self._signature(expiry).encode(), signature.encode(errors="replace"))
            ):
                return self._now() < int(expiry)
        return False

    def _signature(self, expiry: str) -> str:
        return hmac.digest(self._key, f"expiry {expiry}".encode(), "sha256").hex()

    def set_cookie(self, value: str, *, secure: bool) -> str:
        """Return the ``Set-Cookie`` header that starts a session; with an empty value, one that ends it.

        It has no ``Path``: the browser then takes that of the URL of the login, which is the path of the page
        as the browser sees it, also behind a proxy that strips a prefix.
        """
        lifetime = SESSION_SECONDS if value else 0
        attributes = f"Max-Age={lifetime}; HttpOnly; SameSite=Strict{'; Secure' if secure else ''}"
        return f"{self.cookie_name}={value}; {attributes}"


def token_of(body: bytes) -> str:
    """Return the field ``token`` of a form, without surrounding blanks; empty if there is none.

    Example:
        >>> token_of(b"token=s3cret%2B+")
        's3cret+'
    """
    try:
        fields = parse_qs(body.decode("latin-1"), max_num_fields=10)
    except ValueError:
        return ""
    return fields.get("token", [""])[0].strip()


def is_from_other_site(headers: Mapping[str, str]) -> bool:
    """Return whether a page of another origin made a request.

    Browsers state the relation in ``Sec-Fetch-Site``, which no page can change. They leave it out for plain
    HTTP to other machines, where only ``Origin`` remains, which is compared with ``Host``. It is not compared
    otherwise, because a proxy may have replaced ``Host``. Other clients than browsers send neither.

    Args:
        headers: The headers of the request by their lower-case names.

    Example:
        >>> is_from_other_site({"sec-fetch-site": "same-site"}), is_from_other_site({"host": "a"})
        (True, False)
        >>> is_from_other_site({"host": "a:80", "origin": "http://b:80"})
        True
    """
    relation = headers.get("sec-fetch-site")
    if relation is not None:
        return relation not in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
    except ValueError:  # malformed
        return True
