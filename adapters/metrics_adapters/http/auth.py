"""Who may scrape: a bearer token, or a user with a password."""

from __future__ import annotations

import hmac
import secrets
from base64 import b64decode
from binascii import Error as NotBase64

from metrics_framework.errors import InvalidInputError

REALM = "metrics"


class Access:
    """Tells whether a request may see the metrics.

    Secrets are kept as keyed hashes alone, and compared in a time that says nothing of them.

    Args:
        bearer_token: What ``Authorization: Bearer …`` has to bear.
        basic_auth: A user and a password, for ``Authorization: Basic …``. Where there is a token too, either
            will do; where there is neither, everybody may scrape.

    Raises:
        InvalidInputError: If a header cannot bear one of them.

    Example:
        >>> access = Access(bearer_token="s3cret")
        >>> access.allows("Bearer s3cret"), access.allows("Bearer guess"), access.allows(None)
        (True, False, False)
    """

    def __init__(self, bearer_token: str | None = None, basic_auth: tuple[str, str] | None = None) -> None:
        self._key = secrets.token_bytes(32)
        self._known: dict[str, bytes] = {}
        if bearer_token is not None:
            self._known["bearer"] = self._hash(_checked_token(bearer_token))
        if basic_auth is not None:
            self._known["basic"] = self._hash(_checked_user(basic_auth))
        self.challenges = [f'{scheme.title()} realm="{REALM}"' for scheme in self._known]
        """What ``WWW-Authenticate`` says, a header each; none where everybody may scrape."""

    def allows(self, authorization: str | None) -> bool:
        """Return whether a request may see the metrics.

        Args:
            authorization: Its ``Authorization`` header, ``None`` where there is none.
        """
        if not self._known:
            return True
        scheme, _, credentials = (authorization or "").strip().partition(" ")
        scheme, given = scheme.lower(), credentials.strip().encode(errors="replace")
        if scheme == "basic":
            try:
                given = b64decode(given, validate=True)
            except NotBase64:
                return False
        known = self._known.get(scheme)
        return known is not None and hmac.compare_digest(known, self._hash(given))

    def _hash(self, secret: bytes) -> bytes:
        return hmac.digest(self._key, secret, "sha256")


# What is refused here is not quoted: an error ends up in a log.


def _checked_token(token: object) -> bytes:
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInputError("bearer_token= is no text of visible ASCII characters")
    if not token:
        raise InvalidInputError("bearer_token= is empty; pass None where everybody may scrape")
    return token.encode()


def _checked_user(pair: object) -> bytes:
    if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
        raise InvalidInputError("basic_auth= is no pair of texts; pass (user, password)")
    user, password = pair
    if not user or not password:
        raise InvalidInputError("basic_auth= has an empty user or password")
    if ":" in user:
        raise InvalidInputError(
            "basic_auth= has a user with a colon, which ends the user's name in the header"
        )
    try:
        return f"{user}:{password}".encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError("basic_auth= holds what UTF-8 cannot say") from error
