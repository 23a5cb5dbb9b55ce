"""Authentication of requests by a bearer token or basic authentication."""

from __future__ import annotations

import hmac
import secrets
from base64 import b64decode
from binascii import Error as Base64Error

from metrics_framework.errors import InvalidInputError

REALM = "metrics"


class Authenticator:
    """Checks the ``Authorization`` header of requests.

    It keeps only keyed hashes of the secrets and compares them in constant time.

    Args:
        bearer_token: The token of ``Authorization: Bearer …``.
        basic_auth: The user and the password of ``Authorization: Basic …``. If there is a token too, either
            is accepted; if there is neither, every request is accepted.

    Raises:
        InvalidInputError: If a header cannot contain the token, the user or the password.

    Example:
        >>> authenticator = Authenticator(bearer_token="s3cret")
        >>> authenticator.accepts("Bearer s3cret"), authenticator.accepts("Bearer guess")
        (True, False)
    """

    def __init__(self, bearer_token: str | None = None, basic_auth: tuple[str, str] | None = None) -> None:
        self._key = secrets.token_bytes(32)
        self._hashes: dict[str, bytes] = {}
        if bearer_token is not None:
            self._hashes["bearer"] = self._hash(_checked_token(bearer_token))
        if basic_auth is not None:
            self._hashes["basic"] = self._hash(_checked_user(basic_auth))
        self.challenges = [f'{scheme.title()} realm="{REALM}"' for scheme in self._hashes]
        """The values of ``WWW-Authenticate``. Empty if no credentials are required."""

    def accepts(self, authorization: str | None) -> bool:
        """Return whether the ``Authorization`` header of a request is accepted; ``None`` if it has none."""
        if not self._hashes:
            return True
        scheme, _, credentials = (authorization or "").strip().partition(" ")
        scheme, secret = scheme.lower(), credentials.strip().encode(errors="replace")
        if scheme == "basic":
            try:
                secret = b64decode(secret, validate=True)
            except Base64Error:
                return False
        return self._is_secret(scheme, secret)

    def accepts_token(self, token: str) -> bool:
        """Return whether a text is the bearer token."""
        return self._is_secret("bearer", token.encode(errors="replace"))

    def _is_secret(self, scheme: str, secret: bytes) -> bool:
        expected = self._hashes.get(scheme)
        return expected is not None and hmac.compare_digest(expected, self._hash(secret))

    def _hash(self, secret: bytes) -> bytes:
        return hmac.digest(self._key, secret, "sha256")


# The errors do not quote the secrets, because errors are logged.


def _checked_token(token: object) -> bytes:
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInputError("bearer_token must be a string of printable ASCII characters without spaces")
    if not token:
        raise InvalidInputError("bearer_token is empty: pass None to require no credentials")
    return token.encode()


def _checked_user(pair: object) -> bytes:
    if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
        raise InvalidInputError("basic_auth must be a (user, password) tuple of strings")
    user, password = pair
    if not user or not password:
        raise InvalidInputError("basic_auth must not have an empty user or password")
    if ":" in user:
        raise InvalidInputError("the user of basic_auth must not contain a colon")
    try:
        return f"{user}:{password}".encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError("basic_auth must be encodable as UTF-8") from error
