"""Rules for the names and tags that libraries record, and scopes that add tags.

A rule or scope changes a record once for each series. From then on the name and the tags, as they are given,
lead to the series in one lookup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, Protocol

from metrics_framework.errors import InvalidInputError, nearest
from metrics_framework.recording.buckets import check_bounds
from metrics_framework.recording.cardinality import OTHER
from metrics_framework.recording.engine import GaugeSeries, Series, SeriesIndex
from metrics_framework.validation import check_count, check_name, plain_tags

MAX_RULED_NAMES = 10_000
"""How many names keep the buckets, the budget and the exemption from expiry that rules give them."""


@dataclass(frozen=True)
class Rule:
    """A rule for all metrics and operations with matching names.

    Rules are tried in order, each on the name that the rules before it returned.

    Attributes:
        names: A pattern like ``http.*`` (`fnmatch`).
        rename: The new name; ``{name}`` in it stands for the old one.
        drop_tags: Tags that are left out, so that their values share a series.
        deny: Whether to record nothing.
        buckets: Upper bounds that values are counted by, instead of those that a library describes.
        max_series: The maximum number of series of a name, instead of the store's budget.
        expires: Whether idle series may be forgotten, instead of what a library describes.

    Raises:
        InvalidInputError: If a value is not allowed, or the rule does nothing.
    """

    names: str
    rename: str | None = None
    drop_tags: tuple[str, ...] = ()
    deny: bool = False
    buckets: tuple[float, ...] = ()
    max_series: int | None = None
    expires: bool | None = None

    def __post_init__(self) -> None:
        """Check the values, and make tuples of lists."""
        check_name(self.names, "the rule's pattern")
        if self.rename is not None:
            check_name(self.rename, "the rule's rename")
        if isinstance(self.drop_tags, str) or not isinstance(self.drop_tags, Iterable):
            raise InvalidInputError(f"drop_tags={self.drop_tags!r} is not a list of tag names")
        tags = tuple(check_name(tag, "dropped tag") for tag in self.drop_tags)
        object.__setattr__(self, "drop_tags", tags)
        if not isinstance(self.deny, bool):
            raise InvalidInputError(f"deny={self.deny!r} is not true or false")
        object.__setattr__(self, "buckets", check_bounds(self.buckets) if self.buckets else ())
        if self.max_series is not None:
            check_count("max_series", self.max_series)
        if self.expires is not None and not isinstance(self.expires, bool):
            raise InvalidInputError(f"expires={self.expires!r} is not true or false")
        effects = (self.rename, self.drop_tags, self.deny, self.buckets, self.max_series)
        if not any(effects) and self.expires is None:
            raise InvalidInputError(
                f"the rule for names={self.names!r} does nothing: give it one of {', '.join(_EFFECTS)}"
            )

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> Rule:
        """Create a rule from a mapping of a configuration file.

        Raises:
            InvalidInputError: If a key is unknown or a value is not allowed.
        """
        if not isinstance(table, Mapping) or "names" not in table:
            raise InvalidInputError(f"the rule {table!r} has no pattern: {{'names': 'http.*', …}}")
        for key in table:
            if key != "names" and key not in _EFFECTS:
                raise InvalidInputError(f"unknown key {key!r} of a rule.{nearest(str(key), _EFFECTS)}")
        return cls(**table)


_EFFECTS = tuple(field.name for field in fields(Rule) if field.name != "names")


class Ruled(NamedTuple):
    """The effect of all rules on one name.

    Attributes:
        name: The new name.
        drop_tags: Tags to leave out.
        buckets: Upper bounds to count values by; empty if no rule sets them.
        max_series: The budget of series; ``None`` if no rule sets it.
        expires: Whether idle series may be forgotten; ``None`` if no rule sets it.
    """

    name: str
    drop_tags: frozenset[str]
    buckets: tuple[float, ...]
    max_series: int | None
    expires: bool | None

    def keep(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Return tags without the dropped ones."""
        return {tag: value for tag, value in tags.items() if tag not in self.drop_tags}


def apply(rules: Iterable[Rule], name: str) -> Ruled | None:
    """Return the effect of rules on a name; ``None`` if one of them denies it."""
    ruled = Ruled(name, frozenset(), (), None, None)
    for rule in rules:
        if not fnmatchcase(ruled.name, rule.names):
            continue
        if rule.deny:
            return None
        ruled = Ruled(
            rule.rename.replace("{name}", ruled.name) if rule.rename else ruled.name,
            ruled.drop_tags.union(rule.drop_tags),
            rule.buckets or ruled.buckets,
            rule.max_series or ruled.max_series,
            ruled.expires if rule.expires is None else rule.expires,
        )
    return ruled


# -- scopes ----------------------------------------------------------------------------------------------


def learn(index: SeriesIndex, name: str, given: Mapping[str, str], series: Series) -> None:
    """Index a series under the name and tags of a record, so that the next record finds it in one lookup.

    A series past a budget is not learned: each of its records is counted as an overflow, and later there may
    be room for a series of its own.

    Args:
        index: The index of the records.
        name: The name as it is given.
        given: The tags as they are given, in plain strings.
        series: The series.
    """
    if series.is_null or not any(
        value == OTHER and given.get(tag) != OTHER for tag, value in series.tags.items()
    ):
        index.learn(name, given, series)


class Source(Protocol):
    """The interface that `Scope` needs of the store."""

    def find(self, kind: str, name: object, tags: object) -> Any:
        """Return the series of a metric; ``None`` if the input was rejected and counted."""
        ...

    def find_step(self, name: object, step: int, tags: object) -> Any:
        """Return the series that an increment or decrement changes."""
        ...

    def bind(self, kind: str, name: object, tags: object) -> Any:
        """Bind and return the series of a metric."""
        ...


class Scope:
    """Adds tags to all records of a collector.

    Args:
        store: The store.
        tags: The tags; a record's own tag of the same name wins.
        kinds: The labels of the kinds of metrics.
    """

    def __init__(self, store: Source, tags: Mapping[str, str], kinds: Iterable[str]) -> None:
        self._store = store
        self.tags = plain_tags(tags)
        self._indexes = {kind: SeriesIndex() for kind in kinds}

    def index(self, kind: str) -> SeriesIndex:
        """Return the index of a kind of metric."""
        return self._indexes[kind]

    def find(self, kind: str, name: object, tags: object) -> Any:
        """Return the series of a metric; see `Store.find`."""
        return self._learned(kind, name, tags, self._store.find(kind, name, self._with(tags)))

    def find_step(self, name: object, step: int, tags: object) -> Any:
        """Return the series that a step moves; see `Store.find_step`."""
        series = self._store.find_step(name, step, self._with(tags))
        kind = "gauge" if isinstance(series, GaugeSeries) else "counter"
        return self._learned(kind, name, tags, series)

    def bind(self, kind: str, name: object, tags: object) -> Any:
        """Bind and return the series of a metric; see `Store.bind`."""
        return self._store.bind(kind, name, self._with(tags))

    def _learned(self, kind: str, name: object, tags: object, series: Any) -> Any:
        if series is not None and (series.is_null or series.owner.name != f"{OTHER}{kind}"):
            learn(self._indexes[kind], check_name(name), plain_tags(tags), series)
        return series

    def _with(self, tags: object) -> object:
        try:
            return {**self.tags, **plain_tags(tags)}
        except InvalidInputError:
            return tags  # the store reports the error
