"""The text of a stream of server-sent events, and what a request for one says.

The format is that of the HTML standard ("Server-sent events").
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from metrics_framework.errors import InvalidInputError, nearest
from metrics_framework.validation import safe_repr

CONTENT_TYPE = "text/event-stream; charset=utf-8"

HEARTBEAT = b": heartbeat\n\n"
"""A comment, which a client leaves out: it keeps proxies from closing a stream on which nothing happens."""

RESTARTED = b"event: restarted\ndata: {}\n\n"
"""Tells a client which comes back that its last event was of another process: there is no way to resume."""

LAST_EVENT_ID = "last_event_id"
"""What the query calls `Last-Event-ID`, for clients that cannot send a header."""

_MAX_FIELDS = 100
_ID = re.compile(r"([0-9]{1,18})(?:-([0-9a-f]+))?")


def metric_frame(sequence: int, mark: str, data: bytes) -> bytes:
    """Return one event.

    Args:
        sequence: Its number.
        mark: Tells the numbers of one process from those of another.
        data: JSON without a line break.
    """
    return b"id: %d-%b\nevent: metric\ndata: %b\n\n" % (sequence, mark.encode(), data)


def dropped_frame(count: int, last: int | None, mark: str) -> bytes:
    """Return what tells how many events were lost here.

    Args:
        count: How many.
        last: The number of the last one of them: who is cut off after this goes on from there, and neither
            learns of them again nor gets those that are still kept. ``None`` where it is not known, at the
            end of all events.
        mark: As for `metric_frame`.
    """
    number = b"" if last is None else b"id: %d-%b\n" % (last, mark.encode())
    return b'%bevent: dropped\ndata: {"dropped": %d}\n\n' % (number, count)


def retry_frame(seconds: float) -> bytes:
    """Return what tells a client when to come back after it was cut off."""
    return b"retry: %d\n\n" % round(seconds * 1000)


class Resumption(NamedTuple):
    """Where a client wants to go on.

    Attributes:
        after: The number of the last event that it has; ``None`` where it begins anew.
        restarted: Whether what it has is of another process.
    """

    after: int | None
    restarted: bool


def resumption(last_event_id: str | None, mark: str) -> Resumption:
    """Return where a client wants to go on.

    A number without a mark is taken as one of this process; what is no id at all, as of another one.

    Args:
        last_event_id: What it says; nothing where it is new.
        mark: That of this process.

    Example:
        >>> resumption("7-a1", "a1"), resumption("7-b2", "a1")
        (Resumption(after=7, restarted=False), Resumption(after=None, restarted=True))
    """
    if not last_event_id:
        return Resumption(None, restarted=False)
    found = _ID.fullmatch(last_event_id.strip())
    if found is None or found[2] not in (None, mark):
        return Resumption(None, restarted=True)
    return Resumption(int(found[1]), restarted=False)


def fields_of(query: bytes) -> list[tuple[str, str]]:
    """Return the fields of a query.

    Raises:
        InvalidInputError: If there are more than 100.
    """
    try:
        return parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise InvalidInputError(f"the query has more than {_MAX_FIELDS} fields") from None


def filters_of(fields: Iterable[tuple[str, str]]) -> tuple[dict[str, Any], str | None]:
    """Return the filters that a query asks for, and the last event that it says was received.

    Args:
        fields: ``name``, ``type``, and ``tag`` for each tag.

    Raises:
        InvalidInputError: If one is unknown, or is there twice, or a tag has no value.

    Example:
        >>> filters_of([("name", "http.*"), ("tag", "route:/")])
        ({'name': 'http.*', 'tags': {'route': '/'}}, None)
    """
    filters: dict[str, Any] = dict(_known(fields, "name", "type", LAST_EVENT_ID))
    last = filters.pop(LAST_EVENT_ID, None)
    if tags := _tags(fields):
        filters["tags"] = tags
    return filters, last


def metadata_of(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the tags that a query has for the metadata of a snapshot.

    Raises:
        InvalidInputError: If there is anything else, or a tag that is none.
    """
    _known(fields)
    return _tags(fields)


def _known(fields: Iterable[tuple[str, str]], *names: str) -> dict[str, str]:
    """Return all fields but tags, which may be there once and have to be known."""
    found: dict[str, str] = {}
    for key, text in fields:
        if key == "tag":
            continue
        if key not in names:
            raise InvalidInputError(f"unknown field {safe_repr(key)}.{nearest(key, ('tag', *names))}")
        if key in found:
            raise InvalidInputError(f"field {key!r} is there twice")
        found[key] = text
    return found


def _tags(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for field, text in fields:
        if field != "tag":
            continue
        key, colon, value = text.partition(":")
        if not key or not colon:
            raise InvalidInputError(f"tag={safe_repr(text)} is no key and value like 'route:/'")
        if key in tags:
            raise InvalidInputError(f"tag {safe_repr(key)} is there twice")
        tags[key] = value
    return tags
