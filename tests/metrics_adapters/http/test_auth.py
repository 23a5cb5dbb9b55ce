"""Requests are accepted with the right credentials, and the secrets are never shown."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.http.auth import Authenticator
from metrics_framework.errors import InvalidInputError


def basic(text: str | bytes) -> str:
    """Return the header of a user, a colon and a password."""
    return f"Basic {b64encode(text.encode() if isinstance(text, str) else text).decode()}"


def test_without_secrets_every_request_is_accepted():
    """Whatever credentials it sends."""
    authenticator = Authenticator()
    assert authenticator.challenges == []
    assert authenticator.accepts(None)
    assert authenticator.accepts("Bearer anything")


@pytest.mark.parametrize("header", ["Bearer s3cret", "bearer s3cret", "BEARER   s3cret "])
def test_the_token_is_accepted(header):
    """The scheme is case-insensitive, as HTTP defines it."""
    authenticator = Authenticator(bearer_token="s3cret")
    assert authenticator.challenges == ['Bearer realm="metrics"']
    assert authenticator.accepts(header)


@pytest.mark.parametrize("password", ["open sesame", "with:colons:", "π, ü and 🔑", " "])
def test_user_and_password_are_accepted(password):
    """Any password that is text."""
    authenticator = Authenticator(basic_auth=("prometheus", password))
    assert authenticator.challenges == ['Basic realm="metrics"']
    assert authenticator.accepts(basic(f"prometheus:{password}"))
    assert not authenticator.accepts(basic(f"Prometheus:{password}"))
    assert not authenticator.accepts(basic(f"prometheus:{password} "))


def test_either_of_two_schemes_is_accepted():
    """A token and a user are accepted only with their own scheme."""
    authenticator = Authenticator(bearer_token="token", basic_auth=("user", "password"))
    assert len(authenticator.challenges) == 2
    assert authenticator.accepts("Bearer token")
    assert authenticator.accepts(basic("user:password"))
    assert not authenticator.accepts("Bearer user:password")
    assert not authenticator.accepts(basic("token"))


@given(
    st.none() | st.text() | st.text().map(basic) | st.text().map("Bearer {}".format) | st.binary().map(basic)
)
def test_nothing_else_is_accepted_and_nothing_raises(header):
    """For any header."""
    assert not Authenticator("s3cret-token", ("the user", "the password")).accepts(header)


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic ", "Basic !!!!", "Basic dXNlcg", "Basic dXNlcg=", "Basic ü", "Bearer", "Bearer \ud800"],
)
def test_malformed_credentials_are_rejected(header):
    """Like a wrong password."""
    assert not Authenticator("token", ("user", "password")).accepts(header)


def test_secrets_are_not_kept():
    """Neither the object nor its attributes show a secret."""
    authenticator = Authenticator("s3cret-token", ("admin", "pa55word"))
    text = f"{authenticator!r} {vars(authenticator)!r}"
    assert not any(secret in text for secret in ("s3cret", "admin", "pa55"))


@pytest.mark.parametrize(
    ("secrets", "message"),
    [
        ({"bearer_token": ""}, "is empty"),
        ({"bearer_token": "two words"}, "printable ASCII"),
        ({"bearer_token": "line\nfeed"}, "printable ASCII"),
        ({"bearer_token": "schlüssel"}, "printable ASCII"),
        ({"bearer_token": b"bytes"}, "printable ASCII"),
        ({"basic_auth": "user:password"}, "must be a .user, password. tuple"),
        ({"basic_auth": ("user",)}, "must be a .user, password. tuple"),
        ({"basic_auth": ("user", b"password")}, "must be a .user, password. tuple"),
        ({"basic_auth": ("", "password")}, "empty"),
        ({"basic_auth": ("user", "")}, "empty"),
        ({"basic_auth": ("us:er", "password")}, "colon"),
        ({"basic_auth": ("user", "\ud800")}, "UTF-8"),
    ],
)
def test_invalid_secrets_are_an_error(secrets, message):
    """The message does not quote the secret."""
    with pytest.raises(InvalidInputError, match=message) as caught:
        Authenticator(**secrets)
    assert "password" not in str(caught.value).replace("user, password", "").replace("user or password", "")
