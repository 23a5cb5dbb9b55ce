"""What is sent of a stream, and what a request says, is taken as the standard has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.http.frames import (
    Resumption,
    dropped_frame,
    fields_of,
    filters_of,
    metadata_of,
    metric_frame,
    resumption,
    retry_frame,
)
from metrics_framework.errors import InvalidInputError


def test_frames_are_those_of_the_standard():
    """A line for each field, and an empty line at the end."""
    assert metric_frame(7, "a1", b'{"a": "%d"}') == b'id: 7-a1\nevent: metric\ndata: {"a": "%d"}\n\n'
    assert dropped_frame(3, 6, "a1") == b'id: 6-a1\nevent: dropped\ndata: {"dropped": 3}\n\n'
    assert retry_frame(2.5) == b"retry: 2500\n\n"


@given(st.integers(0, 10**18 - 1), st.text("0123456789abcdef", min_size=1))
def test_a_client_gives_back_what_it_was_given(sequence, mark):
    """The id of any event leads back to its number in the same process, and to none in another."""
    given_id = metric_frame(sequence, mark, b"").split(b"\n")[0].removeprefix(b"id: ").decode()
    assert resumption(given_id, mark) == Resumption(sequence, restarted=False)
    assert resumption(given_id, f"{mark}0") == Resumption(None, restarted=True)


@given(st.text())
def test_any_last_event_is_understood(text):
    """Whatever a client says, there is an answer."""
    after, restarted = resumption(text, "a1")
    assert after is None or not restarted


def test_who_is_new_says_nothing():
    """Neither a missing nor an empty id is of another process."""
    assert resumption(None, "a1") == resumption("", "a1") == Resumption(None, restarted=False)


def test_a_query_becomes_filters():
    """A tag's value may have colons and be empty; what is escaped is any text."""
    query = b"name=*&type=gauge&tag=route:/a:b&tag=empty:&tag=%E2%82%AC:%26&last_event_id=4"
    tags = {"route": "/a:b", "empty": "", "€": "&"}
    assert filters_of(fields_of(query)) == ({"name": "*", "type": "gauge", "tags": tags}, "4")
    assert filters_of(fields_of(b"")) == ({}, None)


def test_a_query_has_metadata_for_a_snapshot():
    """Only tags; the filters of the stream are unknown there."""
    assert metadata_of(fields_of(b"tag=run:7")) == {"run": "7"}
    with pytest.raises(InvalidInputError, match="unknown field 'name'"):
        metadata_of(fields_of(b"name=http.*"))


@given(st.binary(max_size=200))
def test_any_query_is_understood_or_refused(query):
    """Never anything but filters or one clear error."""
    try:
        filters, _ = filters_of(fields_of(query))
    except InvalidInputError:
        return
    assert filters.keys() <= {"name", "type", "tags"}
