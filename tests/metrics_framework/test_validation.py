"""The checks of names, tags, numbers and other arguments."""

from __future__ import annotations

import math
import re
import sys
import threading
from collections import UserDict
from datetime import timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.errors import InvalidInputError
from metrics_framework.validation import (
    check_choice,
    check_count,
    check_duration,
    check_name,
    check_port,
    check_positive,
    check_range,
    check_seconds,
    check_url_path,
    milliseconds,
    plain_number,
    plain_tags,
)
from metrics_framework.values import MetricUnit

TAGS = st.dictionaries(st.text(min_size=1), st.text(), max_size=6)


class Branch(str, Enum):  # noqa: UP042 - the older kind, whose str() is not its value
    """An enumeration of strings with another `str`."""

    MAIN = "main"


class Level(StrEnum):
    """An enumeration whose members are strings."""

    HIGH = "high"


class Loud(str):
    """A string with another `str`."""

    __slots__ = ()

    def __str__(self) -> str:
        """Return the string in capitals."""
        return self.upper()


class Mute:
    """A value that cannot be converted to a string."""

    def __str__(self) -> str:
        """Fail."""
        raise RuntimeError("nothing to say")


class Index:
    """A type with `__index__`, like numpy's integers."""

    def __init__(self, value: int) -> None:
        """Keep the integer."""
        self.value = value

    def __index__(self) -> int:
        """Return the integer."""
        return self.value


class Floating:
    """A type with `__float__`, like numpy's float32."""

    def __init__(self, value: float) -> None:
        """Keep the float."""
        self.value = value

    def __float__(self) -> float:
        """Return the float."""
        return self.value


class Port(IntEnum):
    """An enumeration whose members are integers."""

    HTTP = 80


# -- tags ------------------------------------------------------------------------------------------------


@given(TAGS, st.randoms(use_true_random=False))
def test_the_order_of_tags_does_not_matter(tags, random):
    """Tags are sorted by name."""
    items = list(tags.items())
    random.shuffle(items)
    assert list(plain_tags(dict(items)).items()) == list(plain_tags(tags).items()) == sorted(tags.items())


@given(TAGS)
def test_strings_are_kept_as_they_are(tags):
    """The result is a new dict with the same strings."""
    before = dict(tags)
    plain = plain_tags(tags)
    assert plain == before
    assert plain is not tags
    assert tags == before


@pytest.mark.parametrize("tags", [None, {}, MappingProxyType({})])
def test_no_tags_are_one_series(tags):
    """Without tags and with an empty mapping it is the same series."""
    assert plain_tags(tags) == {}


@pytest.mark.parametrize("mapping", [UserDict, MappingProxyType])
def test_any_mapping_holds_tags(mapping):
    """Tags need not be a `dict`."""
    assert plain_tags(mapping({"branch": "main"})) == {"branch": "main"}


def test_equal_values_of_different_types_are_different_tags():
    """Values are converted by `str`: True, 1 and 1.0 are three series."""
    assert [plain_tags({"a": value})["a"] for value in (True, 1, 1.0, None)] == ["True", "1", "1.0", "None"]


@pytest.mark.parametrize(
    ("value", "text"), [(Branch.MAIN, "main"), (Level.HIGH, "high"), (Loud("quiet"), "quiet")]
)
def test_strings_of_a_subclass_count_as_their_characters(value, text):
    """A member of a string enumeration becomes the plain string of its value."""
    assert plain_tags({"a": value}) == plain_tags({"a": text}) == {"a": text}
    ((name, plain),) = plain_tags({value: value}).items()
    assert (name, plain) == (text, text)
    assert type(name) is type(plain) is str


@pytest.mark.parametrize(
    "tags", [0, 5, "", "branch", [], ["branch"], [("branch", "main")], (), {"branch"}, False]
)
def test_tags_other_than_a_mapping_are_refused(tags):
    """The error quotes the value and shows an example, also for empty values and zero."""
    with pytest.raises(InvalidInputError) as caught:
        plain_tags(tags)
    assert f"tags={tags!r} " in str(caught.value)
    assert "{'branch': 'main'}" in str(caught.value)


@pytest.mark.parametrize("name", ["", 1, None, b"branch", ("a", "b")])
def test_a_tag_without_a_proper_name_is_refused(name):
    """The name of a tag is a non-empty string."""
    with pytest.raises(InvalidInputError) as caught:
        plain_tags({"region": "north", name: "main"})
    assert f"tag name {name!r} " in str(caught.value)


def test_a_value_that_cannot_be_converted_is_refused():
    """The error names the tag, and has the original error as its cause."""
    with pytest.raises(InvalidInputError, match=r"tag 'a' .*RuntimeError\('nothing to say'\)") as caught:
        plain_tags({"a": Mute()})
    assert isinstance(caught.value.__cause__, RuntimeError)


# -- names -----------------------------------------------------------------------------------------------


@given(st.text(min_size=1))
def test_any_text_is_a_name(name):
    """A name is any non-empty text, and is kept as it is."""
    assert check_name(name) == name


def test_an_enumeration_member_names_what_its_value_names():
    """The name is a plain string of the member's characters."""
    assert check_name(Branch.MAIN) == "main"
    assert type(check_name(Branch.MAIN)) is str


@pytest.mark.parametrize("name", ["", None, 3, 0, b"requests", ["requests"]])
def test_a_name_is_a_non_empty_string(name):
    """The error quotes the value and states the kind of name."""
    with pytest.raises(InvalidInputError) as caught:
        check_name(name, "operation name")
    assert str(caught.value).startswith(f"operation name {name!r} ")
    with pytest.raises(InvalidInputError, match=r"^metric name "):
        check_name(name)


# -- numbers ---------------------------------------------------------------------------------------------


@given(st.integers(-(10**300), 10**300) | st.floats(allow_nan=False, allow_infinity=False))
def test_finite_numbers_pass_unchanged(value):
    """Integers and floats keep their type."""
    plain = plain_number("name", value, signed=True)
    assert plain == value
    assert type(plain) is type(value)


@pytest.mark.parametrize("value", [0, 0.0, -0.0, 5e-324, sys.float_info.max, int(sys.float_info.max)])
def test_zero_and_the_largest_number_are_allowed(value):
    """They are allowed for unsigned values."""
    assert plain_number("name", value, signed=False) == value


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Decimal("0.5"), 0.5),
        (Decimal(3), 3.0),
        (Fraction(1, 4), 0.25),
        (Index(2**70), 2**70),
        (Floating(0.1), 0.1),
        (Port.HTTP, 80),
    ],
)
def test_number_like_objects_are_converted(value, plain):
    """Decimals, fractions and other libraries' numbers become a plain `int` or `float`."""
    number = plain_number("name", value, signed=False)
    assert number == plain
    assert type(number) is type(plain)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        10**309,
        -(10**400),
        Decimal("Infinity"),
        Decimal("NaN"),
        Index(10**400),
        Floating(math.inf),
    ],
    ids=lambda value: f"{type(value).__name__}",
)
@pytest.mark.parametrize("signed", [True, False])
def test_numbers_that_are_not_finite_are_refused(value, signed):
    """NaN, infinities and integers beyond any float would spoil every later sum."""
    with pytest.raises(InvalidInputError, match=r"'name' .* finite") as caught:
        plain_number("name", value, signed=signed)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "value", [True, False, "3", b"3", None, 1j, [1], (1, 2), Decimal("sNaN"), Ellipsis], ids=str
)
def test_values_other_than_numbers_are_refused(value):
    """The error quotes the value. A boolean is not a number."""
    with pytest.raises(InvalidInputError, match="an int or a float") as caught:
        plain_number("name", value, signed=True)
    assert f"'name' cannot record {value!r}" in str(caught.value)


def test_a_fraction_beyond_the_largest_float_is_refused():
    """Numbers of other types have the same range."""
    with pytest.raises(InvalidInputError, match="'name' cannot record"):
        plain_number("name", Fraction(10**400), signed=True)


@pytest.mark.parametrize("value", [-1, -0.5, -5e-324, Decimal(-1), Index(-1)])
def test_a_negative_number_is_refused_if_unsigned(value):
    """The error states that zero or more is allowed. With `signed=True` it passes."""
    with pytest.raises(InvalidInputError, match="zero or more"):
        plain_number("name", value, signed=False)
    assert plain_number("name", value, signed=True) < 0


# -- durations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "expected"),
    [(MetricUnit.SECONDS, 2_500.0), (MetricUnit.MILLISECONDS, 2.5), (MetricUnit.MICROSECONDS, 0.0025)],
)
def test_durations_become_milliseconds(unit, expected):
    """Seconds, milliseconds and microseconds are converted."""
    assert milliseconds("name", 2.5, unit) == expected


@pytest.mark.parametrize("unit", [MetricUnit.BYTES, MetricUnit.COUNT, "seconds", None, []])
def test_a_unit_other_than_time_is_refused(unit):
    """The error quotes the unit and lists the allowed ones."""
    with pytest.raises(InvalidInputError, match=r"MetricUnit\.SECONDS") as caught:
        milliseconds("name", 1.0, unit)
    assert repr(unit) in str(caught.value)


def test_a_duration_beyond_the_largest_float_is_refused():
    """A duration that is finite in seconds but not in milliseconds is refused and quoted."""
    with pytest.raises(InvalidInputError, match=r"'name' cannot record 1e\+308 seconds"):
        milliseconds("name", 1e308, MetricUnit.SECONDS)
    assert milliseconds("name", 1e308, MetricUnit.MILLISECONDS) == 1e308


# -- other arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration", "remedy"),
    [(300, "seconds=300"), (1.5, "seconds=1.5"), (0, "minutes=5"), (-1, "minutes=5"), ("1h", "minutes=5")],
)
def test_the_error_of_a_duration_shows_the_timedelta_to_pass(duration, remedy):
    """A number is taken for seconds."""
    with pytest.raises(InvalidInputError, match=re.escape(f"window={duration!r} is not")) as caught:
        check_duration("window", duration)
    assert str(caught.value).endswith(f"pass a timedelta such as timedelta({remedy})")


class Unprintable:
    """A value whose `repr` fails."""

    def __repr__(self) -> str:
        """Fail."""
        raise RuntimeError


@pytest.mark.parametrize(
    ("check", "good", "bad", "fault", "remedy"),
    [
        (
            check_seconds,
            [1, 0.001, 5e-324, threading.TIMEOUT_MAX],
            [0, -1, math.nan, math.inf, threading.TIMEOUT_MAX * 2, 10**400],
            "is not a positive number of seconds",
            "a number above 0",
        ),
        (
            check_duration,
            [timedelta(microseconds=1), timedelta.max],
            [timedelta(0), timedelta(days=-1), 60],
            "is not a positive duration",
            "a timedelta",
        ),
        (check_count, [1, 10**30], [0, -1, 1.0, math.nan], "is not a whole number of 1 or more", "an int"),
        (check_port, [0, 80, 65_535], [-1, 65_536, 80.0], "is not a port", "an int from 0 to 65535"),
        (check_positive, [1, 0.5, math.inf], [0, -1, math.nan], "is not a positive number", "above 0"),
        (
            check_url_path,
            ["/", "/metrics", "/a/.b/c d/"],
            ["", "metrics", b"/"],
            "does not begin with a slash",
            "/metrics",
        ),
    ],
)
def test_an_argument_is_returned_or_refused_with_a_remedy(check, good, bad, fault, remedy):
    """The error quotes the value, states the fault and the remedy; a boolean is not a number."""
    for value in good:
        assert check("argument", value) is value
    for value in (*bad, None, True, "3", [1], Unprintable()):
        with pytest.raises(InvalidInputError) as caught:
            check("argument", value)
        shown = "<Unprintable>" if isinstance(value, Unprintable) else repr(value)
        assert str(caught.value).startswith(f"argument={shown} {fault}: pass ")
        assert remedy in str(caught.value)


@pytest.mark.parametrize(
    "path", ["//", "//a", "/a//", "/a//b", "/.", "/a/..", "/./a", "/a\r\nb", "/\x00", "/\x9b"]
)
def test_a_path_that_no_url_keeps_is_refused(path):
    """Clients and proxies would change it, so that nothing is found there."""
    with pytest.raises(
        InvalidInputError, match=r"has an empty segment, .* or a control character: pass a path"
    ):
        check_url_path("prefix", path)


def test_a_count_may_have_another_least_value():
    """The error names the least value of the argument."""
    assert check_count("points", 2, least=2) == 2
    with pytest.raises(InvalidInputError, match="points=1 is not a whole number of 2 or more"):
        check_count("points", 1, least=2)


def test_a_choice_is_one_of_the_known_strings():
    """The error quotes the value and lists the choices."""
    check_choice("mode", "b", ("a", "b", "c"))
    for value in ("d", None, ["a"]):
        with pytest.raises(InvalidInputError) as caught:
            check_choice("mode", value, ("a", "b", "c"))
        assert str(caught.value) == f"mode={value!r} is unknown: pass 'a', 'b' or 'c'"


def test_a_number_in_a_range_is_returned():
    """Both ends belong to the range."""
    assert [check_range("share", share, 1) for share in (0, 0.5, 1)] == [0, 0.5, 1]
    for share in (-0.1, 1.1, math.nan, True, None):
        with pytest.raises(InvalidInputError, match=r"share=.* is not a number from 0 to 1: pass an int"):
            check_range("share", share, 1)
