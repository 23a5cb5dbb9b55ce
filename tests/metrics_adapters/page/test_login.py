"""Sessions expire and belong to a token, and other sites are recognised."""

from __future__ import annotations

import pytest

from metrics_adapters.page.login import (
    SESSION_SECONDS,
    Sessions,
    is_from_other_site,
    token_of,
)


class Now:
    """A clock that the test advances."""

    def __init__(self):
        self.seconds = 1_000_000.0

    def __call__(self):
        """Return the seconds."""
        return self.seconds


def test_a_session_expires():
    """After twelve hours, not earlier."""
    now = Now()
    sessions = Sessions("s3cret", now)
    cookie = f"theme=dark; {sessions.cookie_name}={sessions.create()}; other=1"
    assert sessions.accepts(cookie)
    now.seconds += SESSION_SECONDS - 1
    assert sessions.accepts(cookie)
    now.seconds += 2
    assert not sessions.accepts(cookie)


def test_a_session_belongs_to_a_token():
    """Another application with the token accepts it, and one with another token does not."""
    first, same, other = Sessions("s3cret"), Sessions("s3cret"), Sessions("s3cret2")
    value = first.create()
    assert same.accepts(f"{same.cookie_name}={value}")
    assert not other.accepts(f"{first.cookie_name}={value}")
    assert not other.accepts(f"{other.cookie_name}={value}")
    assert "s3cret" not in f"{first.cookie_name}{value}"


@pytest.mark.parametrize(
    "change",
    [
        lambda expiry, signature: "",
        lambda expiry, signature: expiry,
        lambda expiry, signature: f"{expiry}.",
        lambda expiry, signature: f"{int(expiry) + 1}.{signature}",
        lambda expiry, signature: f" {expiry}.{signature}",
        lambda expiry, signature: f"{expiry}.{signature[:-1]}",
        lambda expiry, signature: f"{expiry}.{signature}0",
        lambda expiry, signature: f"{expiry}.\udcff\u20ac",
        lambda expiry, signature: f"{'9' * 5000}.{signature}",
        lambda expiry, signature: f"\u0661.{signature}",
    ],
)
def test_a_changed_session_is_not_accepted(change):
    """Whatever is changed."""
    sessions = Sessions("s3cret")
    expiry, _, signature = sessions.create().partition(".")
    assert sessions.accepts(f"{sessions.cookie_name}={expiry}.{signature}")
    assert not sessions.accepts(f"{sessions.cookie_name}={change(expiry, signature)}")


@pytest.mark.parametrize(
    ("body", "token"),
    [
        (b"token=s3cret", "s3cret"),
        (b"a=1&token=%20s3%2Bc%26%20", "s3+c&"),
        (b"token=", ""),
        (b"{}", ""),
        (b"", ""),
        (b"\xff\xfe=\x00", ""),
        (b"token=a&" * 100, ""),
    ],
)
def test_the_token_of_a_form_is_decoded(body, token):
    """Anything that is not such a form has none."""
    assert token_of(body) == token


@pytest.mark.parametrize(
    ("headers", "is_other"),
    [
        ({}, False),
        ({"host": "a"}, False),
        ({"sec-fetch-site": "same-origin", "origin": "http://proxy", "host": "a"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-site"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "http://a", "host": "a"}, True),
        ({"sec-fetch-site": "new-value"}, True),
        ({"origin": "http://a:1", "host": "a:1"}, False),
        ({"origin": "http://A", "host": "a"}, False),
        ({"origin": "http://a:2", "host": "a:1"}, True),
        ({"origin": "null", "host": "a"}, True),
        ({"origin": "http://[", "host": "["}, True),
        ({"origin": "http://a"}, True),
    ],
)
def test_requests_of_other_sites_are_recognised(headers, is_other):
    """By Sec-Fetch-Site where browsers send it, else by Origin."""
    assert is_from_other_site(headers) is is_other
