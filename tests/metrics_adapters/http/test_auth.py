"""Who may scrape is who knows the secret, and the secret is told to nobody."""

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


def test_without_secrets_everybody_may_scrape():
    """Nothing is asked for, and what is sent is no matter."""
    authenticator = Authenticator()
    assert authenticator.challenges == []
    assert authenticator.accepts(None)
    assert authenticator.accepts("Bearer anything")


@pytest.mark.parametrize("header", ["Bearer s3cret", "bearer s3cret", "BEARER   s3cret "])
def test_the_token_opens(header):
    """The scheme is written in any case, as HTTP has it."""
    authenticator = Authenticator(bearer_token="s3cret")
    assert authenticator.challenges == ['Bearer realm="metrics"']
    assert authenticator.accepts(header)


@pytest.mark.parametrize("password", ["open sesame", "with:colons:", "π, ü and 🔑", " "])
def test_user_and_password_open(password):
    """Any password that is text."""
    authenticator = Authenticator(basic_auth=("prometheus", password))
    assert authenticator.challenges == ['Basic realm="metrics"']
    assert authenticator.accepts(basic(f"prometheus:{password}"))
    assert not authenticator.accepts(basic(f"Prometheus:{password}"))
    assert not authenticator.accepts(basic(f"prometheus:{password} "))


def test_either_of_two_ways_will_do():
    """Where there is a token and a user, each opens by its own scheme alone."""
    authenticator = Authenticator(bearer_token="token", basic_auth=("user", "password"))
    assert len(authenticator.challenges) == 2
    assert authenticator.accepts("Bearer token")
    assert authenticator.accepts(basic("user:password"))
    assert not authenticator.accepts("Bearer user:password")
    assert not authenticator.accepts(basic("token"))


@given(
    st.none() | st.text() | st.text().map(basic) | st.text().map("Bearer {}".format) | st.binary().map(basic)
)
def test_nothing_else_opens_and_nothing_raises(header):
    """Whatever is sent, it is not taken for the secret."""
    assert not Authenticator("s3cret-token", ("the user", "the password")).accepts(header)


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic ", "Basic !!!!", "Basic dXNlcg", "Basic dXNlcg=", "Basic ü", "Bearer", "Bearer \ud800"],
)
def test_what_is_broken_does_not_open(header):
    """It is refused as a wrong password is."""
    assert not Authenticator("token", ("user", "password")).accepts(header)


def test_secrets_are_not_kept():
    """Neither the object nor anything in it shows a secret."""
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
def test_what_no_header_can_bear_is_refused(secrets, message):
    """One clear error, which does not quote the secret."""
    with pytest.raises(InvalidInputError, match=message) as caught:
        Authenticator(**secrets)
    assert "password" not in str(caught.value).replace("user, password", "").replace("user or password", "")
