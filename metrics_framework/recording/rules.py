"""What an application decides over the names and tags that its libraries record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from metrics_framework.errors import InvalidInputError, nearest
from metrics_framework.recording.bounds import check_bounds
from metrics_framework.recording.series import check_name


@dataclass(frozen=True)
class Rule:
    """What is done to the metrics and operations whose names match.

    Rules are tried in their order, each on what those before it made of a name.

    Attributes:
        names: A pattern like ``http.*`` (`fnmatch`).
        rename: What the name becomes; ``{name}`` in it stands for the name.
        drop_tags: Tags that are left out, so that their values share a series.
        deny: Whether nothing is recorded at all.
        buckets: Upper bounds that values are counted by, in place of those that a library describes.
        max_series: How many series a name may have, in place of the store's budget.

    Raises:
        InvalidInputError: If a value is not allowed, or the rule does nothing.
    """

    names: str
    rename: str | None = None
    drop_tags: tuple[str, ...] = ()
    deny: bool = False
    buckets: tuple[float, ...] = ()
    max_series: int | None = None

    def __post_init__(self) -> None:
        """Check the values, and make tuples of lists."""
        check_name(self.names, "the rule's pattern names=")
        if self.rename is not None:
            check_name(self.rename, "the rule's rename=")
        if isinstance(self.drop_tags, str) or not isinstance(self.drop_tags, Iterable):
            raise InvalidInputError(f"drop_tags={self.drop_tags!r} is not a list of tag names")
        tags = tuple(check_name(tag, "dropped tag") for tag in self.drop_tags)
        object.__setattr__(self, "drop_tags", tags)
        if not isinstance(self.deny, bool):
            raise InvalidInputError(f"deny={self.deny!r} is not true or false")
        object.__setattr__(self, "buckets", check_bounds(self.buckets) if self.buckets else ())
        if self.max_series is not None and (self.max_series.__class__ is not int or self.max_series < 1):
            raise InvalidInputError(f"max_series={self.max_series!r} is not a whole number of 1 or more")
        if not (self.rename or self.drop_tags or self.deny or self.buckets or self.max_series):
            raise InvalidInputError(
                f"the rule for names={self.names!r} does nothing: give it one of {', '.join(_EFFECTS)}"
            )

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> Rule:
        """Make a rule of a mapping, as it is in a configuration file.

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
    """What the rules made of a name.

    Attributes:
        name: What it is now.
        drop_tags: Tags to leave out.
        buckets: Upper bounds to count values by; none where no rule says so.
        max_series: The budget of series; ``None`` where no rule says so.
    """

    name: str
    drop_tags: frozenset[str]
    buckets: tuple[float, ...]
    max_series: int | None

    def keep(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Return the tags that are not to be left out."""
        return {tag: value for tag, value in tags.items() if tag not in self.drop_tags}


def apply(rules: Iterable[Rule], name: str) -> Ruled | None:
    """Return what rules make of a name; ``None`` where one of them denies it."""
    ruled = Ruled(name, frozenset(), (), None)
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
        )
    return ruled
