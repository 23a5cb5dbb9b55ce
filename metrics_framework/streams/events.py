"""What a stream is made of: events, and runs of them that are made only when somebody takes them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Protocol

from metrics_framework.exposition.formats import to_plain
from metrics_framework.streams.filters import StreamFilter
from metrics_framework.values import MetricType, MetricValue

MAX_ANSWERS = 64
"""Of how many filters a subject remembers whether they take it."""


_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=str)


class StreamEvent:
    """One event of a stream, shared by all who get it: change nothing in it.

    Attributes:
        sequence: Its number in the system's stream; they rise, and leave none out.
        value: The metric as it is with this record.
        dropped: How many events this subscriber lost just before this one.
    """

    __slots__ = ("_encoded", "_origin", "dropped", "sequence", "value")

    def __init__(self, sequence: int, value: MetricValue) -> None:
        self.sequence = sequence
        self.value = value
        self.dropped = 0
        self._origin = self
        self._encoded: bytes | None = None

    def __repr__(self) -> str:
        return f"StreamEvent(sequence={self.sequence}, value={self.value!r}, dropped={self.dropped})"

    def json(self) -> bytes:
        """Return it as one JSON object, encoded once for all subscribers.

        Its keys are ``name``, ``type``, ``value``, ``unit``, ``timestamp``, ``tags``, ``metadata`` and
        ``sequence``; a number that JSON does not know, such as infinity, is ``null``.
        """
        origin = self._origin
        if origin._encoded is None:
            plain = {**to_plain(self.value), "sequence": self.sequence}
            try:
                text = _ENCODER.encode(plain)
            except ValueError:
                text = _ENCODER.encode(_finite(plain))
            origin._encoded = text.encode()
        return origin._encoded

    def after_loss(self, dropped: int) -> StreamEvent:
        """Return it as it is for a subscriber that lost some events before it."""
        event = StreamEvent(self.sequence, self.value)
        event.dropped = dropped
        event._origin = self._origin
        return event


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


class Subject:
    """The series that events are about.

    Attributes:
        key: Equal for the same series.
        tags: Its tags, the store's constant ones included.
    """

    __slots__ = ("_answers", "is_operation", "key", "metric_type", "name", "tags")

    def __init__(
        self, name: str, metric_type: MetricType, tags: Mapping[str, str], is_operation: bool
    ) -> None:
        self.name = name
        self.metric_type = metric_type
        self.tags = dict(tags)
        self.is_operation = is_operation
        self.key = (name, metric_type, is_operation, tuple(sorted(self.tags.items())))
        self._answers: dict[StreamFilter, bool] = {}

    def is_taken_by(self, chosen: StreamFilter) -> bool:
        """Say whether a filter takes it."""
        answer = self._answers.get(chosen)
        if answer is None:
            if len(self._answers) >= MAX_ANSWERS:
                self._answers.clear()
            answer = self._answers[chosen] = chosen.matches(self.name, self.metric_type, self.tags)
        return answer


class Run(Protocol):
    """Consecutive events of one series.

    Attributes:
        subject: The series.
        first: The sequence number of the first one, once it is published.
    """

    subject: Subject
    first: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> StreamEvent: ...
