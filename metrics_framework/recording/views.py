"""Records that are changed on their way to the store: by rules, or by tags that are added.

Whatever is done to a record is done once for each series. Then the name and the tags, as they are given, lead
to the series by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from metrics_framework.clock import Clock
from metrics_framework.errors import InvalidInputError
from metrics_framework.recording.hot import Finder, Lookup
from metrics_framework.recording.kinds import Kind
from metrics_framework.recording.series import check_name, plain_tags
from metrics_framework.values import MetricType

if TYPE_CHECKING:
    from metrics_framework.recording.instruments import Series

MAX_NAMES = 10_000
"""How many names, as they are given, are found fast: rules may make one of any number."""

MAX_ALIASES = 10_000
"""How many combinations of values of one name are kept as they are given."""


class Aliases(dict[Any, Any]):
    """Series by the values of the tags that are given, where the series has others.

    Args:
        known: The series by the values of their own tags.
        names: The tags that are given, sorted.
        own: The tags of a series.
    """

    __slots__ = ("_constants", "_known", "_places", "names")

    def __init__(self, known: Mapping[Any, Series], names: tuple[str, ...], own: Mapping[str, str]) -> None:
        super().__init__()
        self._known = known
        self.names = names
        self._places = [names.index(tag) if tag in names else -1 for tag in own]
        self._constants = list(own.values())

    def leads_to(self, known: Mapping[Any, Series]) -> bool:
        """Say whether these are the series that it leads to."""
        return self._known is known

    def __missing__(self, key: Any) -> Any:
        given = key if len(self.names) > 1 else (key,)
        own = [
            constant if place < 0 else given[place]
            for place, constant in zip(self._places, self._constants, strict=True)
        ]
        series = self._known[tuple(own) if len(own) != 1 else own[0]]  # a KeyError: it has to be made
        if len(self) < MAX_ALIASES:
            self[key] = series
        return series


def is_void(series: Any) -> bool:
    """Say whether a series keeps nothing."""
    return isinstance(series.buffer, _Void)


def learn(lookup: Lookup, name: str, tags: Mapping[str, str], series: Any) -> None:
    """Let a record of a name and tags, as they are given, be found fast.

    Args:
        lookup: Where it is looked for.
        name: The name as it is given.
        tags: The tags as they are given, sorted.
        series: Where it goes.
    """
    if len(lookup.untagged) + len(lookup.tagged) >= MAX_NAMES:
        return
    if not tags:
        lookup.untagged[name] = series
        return
    entry = lookup.tagged.get(name)
    number = len(tags)
    if is_void(series):
        entry = entry or lookup.tagged.setdefault(name, (dict(tags), series, {}))
        entry[2][number] = (len, {number: series})  # whatever the tags are, there are as many
        return
    own = series.tags
    if any(tags.get(tag, value) != value for tag, value in own.items()):
        return  # a budget took a value away, which may be there again for the next one
    entry = entry or lookup.tagged.setdefault(name, (dict(tags), series, {}))
    if own == tags:
        entry[2][number] = (series.home.values_of, series.home.known)
        return
    names = tuple(tags)
    _, aliases = entry[2].get(number, (None, None))
    if isinstance(aliases, Aliases) and aliases.leads_to(series.home.known):
        return  # it finds this one as well, or has other names, which take the long way
    entry[2][number] = (itemgetter(*names), Aliases(series.home.known, names, own))


class Source(Finder, Protocol):
    """What a scope is a view of: the store."""

    def find_shifting(self, name: object, step: int, tags: object) -> Any:
        """Return the series that a step up or down moves."""
        ...

    def bind(self, metric_type: MetricType, name: object, tags: object) -> Any:
        """Return the series of a metric for good."""
        ...


class Scope:
    """A store as those see it whose records bear some tags by themselves.

    Args:
        store: The store.
        tags: The tags; where a record has one of the same name, the record's counts.
    """

    def __init__(self, store: Source, tags: Mapping[str, str]) -> None:
        self._store = store
        self.tags = plain_tags(tags)
        self.lookups: Mapping[MetricType, Lookup] = {kind: Lookup() for kind in store.lookups}

    def find(self, metric_type: MetricType, name: object, tags: object) -> Any:
        """Return the series of a metric; see `Store.find`."""
        series = self._store.find(metric_type, name, self._with(tags))
        if series is not None:
            learn(self.lookups[metric_type], check_name(name), plain_tags(tags), series)
        return series

    def find_shifting(self, name: object, step: int, tags: object) -> Any:
        """Return the series that a step moves; see `Store.find_shifting`."""
        return self._store.find_shifting(name, step, self._with(tags))

    def bind(self, metric_type: MetricType, name: object, tags: object) -> Any:
        """Return the series of a metric for good; see `Store.bind`."""
        return self._store.bind(metric_type, name, self._with(tags))

    def _with(self, tags: object) -> object:
        try:
            return {**self.tags, **plain_tags(tags)}
        except InvalidInputError:
            return tags  # the store says what is wrong with them, as it was told to


class _Void(tuple[Any, ...]):
    """A buffer that keeps nothing, and all of it in C: what is denied costs no more than what is kept."""

    __slots__ = ()

    append = staticmethod(id)


class _VoidLedger:
    """A ledger without anything to fold."""

    limit = 8  # what is added to the buffer of all gauges, by no one but who adds it, is never more
    buffer = _Void()

    def __init__(self, clock: Clock) -> None:
        self.now = clock.monotonic_ns


class _Nowhere:
    """The home of series that keep nothing."""

    error_types: Mapping[str, None] = {}

    def __init__(self, refuse: Any) -> None:
        self.name = "denied"
        self.refuse = refuse

    def tags_of(self, _: object) -> dict[str, str]:
        return {}

    def admit(self, series: Series) -> Series:
        return series

    def admit_error_type(self, error_type: str) -> str:
        return error_type


def void(kind: Kind, clock: Clock, refuse: Any) -> Any:
    """Return a series that checks what it is given and keeps none of it."""
    series: Any = kind.series(_Nowhere(refuse), (), _VoidLedger(clock))  # type: ignore[arg-type]
    series.buffer = _VoidLedger.buffer
    series.slot_end = 1 << 63  # for ever
    return series
