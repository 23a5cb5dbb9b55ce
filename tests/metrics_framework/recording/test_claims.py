"""Exposed names: each has one owner."""

from __future__ import annotations

import pytest

from metrics_framework.errors import InvalidInputError
from metrics_framework.recording.claims import Claims, Named
from metrics_framework.values import MetricType, MetricUnit


def exposed(named, unit):
    """Return two names: in lower case, and with an ending; a unit is a third."""
    name = named.name.lower()
    return [name, f"{name}.end", *([f"{name}.{unit.value}"] if unit else [])]


def gauge(name):
    """Return a gauge's name."""
    return Named(name, MetricType.GAUGE, False)


@pytest.fixture
def claims():
    """Return claims among which nothing is unused."""
    return Claims(exposed, lambda _: False)


def test_a_name_has_one_owner(claims):
    """What claims its own names again keeps them; another that wants one of them is refused and gets none."""
    for _ in range(2):
        claims.claim(gauge("A.end"), None)
    with pytest.raises(InvalidInputError, match=r"^'a' would be exposed as 'a\.end', .* a name of 'A\.end';"):
        claims.claim(gauge("a"), None)
    assert sorted(claims.names()) == ["a.end", "a.end.end"]
    assert claims.owner("a.end") == gauge("A.end")
    assert claims.owner("a") is None


def test_an_operation_is_called_one(claims):
    """The message tells a metric from an operation of the same name."""
    claims.claim(gauge("a"), None)
    with pytest.raises(InvalidInputError, match=r"^operation 'a' .* a name of 'a';"):
        claims.claim(Named("a", MetricType.RATE, True), None)


def test_names_that_are_needed_no_more_are_free(claims):
    """A changed unit frees the names of the one before; a release frees all."""
    claims.claim(gauge("a"), MetricUnit.BYTES)
    claims.claim(gauge("a"), MetricUnit.PERCENT)
    assert sorted(claims.names()) == ["a", "a.end", "a.percent"]
    claims.release(gauge("a"))
    claims.release(gauge("a"))
    claims.claim(gauge("A"), None)
    assert claims.owner("a") == gauge("A")


def test_a_refused_claim_changes_nothing(claims):
    """What cannot have the names of its new unit keeps those of the one before."""
    claims.claim(gauge("a"), None)
    claims.claim(gauge("A.bytes"), None)
    with pytest.raises(InvalidInputError, match=r"'a\.bytes'"):
        claims.claim(gauge("a"), MetricUnit.BYTES)
    assert [claims.owner(name) for name in ("a", "a.end")] == [gauge("a")] * 2


def test_what_is_unused_gives_way():
    """What has a name and no record loses it to who records."""
    forgotten = []
    claims = Claims(exposed, lambda named: not forgotten.append(named))
    claims.claim(gauge("A"), None)
    claims.claim(gauge("a"), None)
    assert claims.owner("a") == gauge("a")
    assert forgotten == [gauge("A")]
