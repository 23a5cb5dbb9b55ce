"""Series keys, and the input that is refused before it reaches a series."""

from __future__ import annotations

import math
import sys
from collections import UserDict
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.errors import InvalidInputError
from metrics_framework.recording.series import check_name, check_number, tag_key

TAGS = st.dictionaries(st.text(min_size=1), st.text(), max_size=6)


@given(TAGS, st.randoms(use_true_random=False))
def test_the_order_of_tags_does_not_matter(tags, random):
    """The same pairs in another order are the same series."""
    items = list(tags.items())
    random.shuffle(items)
    assert tag_key(dict(items)) == tag_key(tags)


@given(TAGS, TAGS)
def test_different_tags_are_different_series(one, other):
    """A key says all there is about the tags: two are equal exactly where the tags are."""
    assert (tag_key(one) == tag_key(other)) == (one == other)
    assert dict(tag_key(one)) == one


@pytest.mark.parametrize("tags", [None, {}, MappingProxyType({})])
def test_no_tags_are_one_series(tags):
    """Without tags and with an empty mapping it is the same series."""
    assert tag_key(tags) == ()


@pytest.mark.parametrize("mapping", [UserDict, MappingProxyType])
def test_any_mapping_holds_tags(mapping):
    """Tags need not be a `dict`."""
    assert tag_key(mapping({"branch": "main"})) == (("branch", "main"),)


def test_values_that_hash_alike_stay_apart():
    """Values are converted by `str`: True, 1 and 1.0 are three series though they are equal."""
    assert [tag_key({"a": value}) for value in (True, 1, 1.0, None)] == [
        (("a", "True"),),
        (("a", "1"),),
        (("a", "1.0"),),
        (("a", "None"),),
    ]


@pytest.mark.parametrize("tags", ["branch", ["branch"], [("branch", "main")], 5, {"branch"}])
def test_tags_that_are_no_mapping_are_refused(tags):
    """The error quotes what was passed and shows what is meant."""
    with pytest.raises(InvalidInputError) as caught:
        tag_key(tags)
    assert repr(tags) in str(caught.value)
    assert "{'branch': 'main'}" in str(caught.value)


@pytest.mark.parametrize("name", ["", 1, None, b"branch", ("a", "b")])
def test_a_tag_without_a_proper_name_is_refused(name):
    """A tag's name is a non-empty string, also beside tags that are in order."""
    with pytest.raises(InvalidInputError, match="tag name"):
        tag_key({"region": "north", name: "main"})


@given(st.text(min_size=1))
def test_any_text_is_a_name(name):
    """A name is any non-empty text, and is kept as it is."""
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", None, 3, b"requests", ["requests"]])
def test_what_is_no_text_is_no_name(name):
    """The error quotes the name, and says what kind of name it should have been."""
    with pytest.raises(InvalidInputError) as caught:
        check_name(name, "operation name")
    assert str(caught.value).startswith(f"operation name {name!r}")


@given(st.integers(-(10**300), 10**300) | st.floats(allow_nan=False, allow_infinity=False))
def test_finite_numbers_pass_unchanged(value):
    """What is fit to be recorded is recorded as it is, of the type that it has."""
    assert check_number("name", value, signed=True) is value


@pytest.mark.parametrize("value", [0, 0.0, -0.0, 5e-324, sys.float_info.max, int(sys.float_info.max)])
def test_the_edges_of_what_only_grows(value):
    """Zero and the largest number are allowed where nothing negative is."""
    assert check_number("name", value, signed=False) is value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**309, -(10**400)])
@pytest.mark.parametrize("signed", [True, False])
def test_numbers_that_are_not_finite_are_refused(value, signed):
    """NaN, infinities and integers beyond any float would spoil every later sum."""
    with pytest.raises(InvalidInputError, match=r"'name' .* finite"):
        check_number("name", value, signed=signed)


@pytest.mark.parametrize("value", [True, False, "3", None, 1j, [1]])
def test_what_is_no_number_is_refused(value):
    """Booleans are no numbers either."""
    with pytest.raises(InvalidInputError) as caught:
        check_number("name", value, signed=True)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [-1, -0.5, -5e-324])
def test_a_negative_number_is_refused_where_numbers_only_grow(value):
    """The error says that only zero or more is allowed; where a sign is allowed it passes."""
    with pytest.raises(InvalidInputError, match="zero or more"):
        check_number("name", value, signed=False)
    assert check_number("name", value, signed=True) == value
