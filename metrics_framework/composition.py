"""How a system is put together: default parts, checks of those that were passed in, the store they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError
from metrics_framework.plugins import load_adapter

if TYPE_CHECKING:
    from metrics_framework.recording import Rule, Store

P = TypeVar("P")


def shared_store(
    parts: Mapping[str, object],
    clock: Clock | None,
    tags: Mapping[str, str] | None,
    rules: Iterable[Rule],
) -> Store | None:
    """Return the store of the parts that have one; a new one where a default part needs it.

    Args:
        parts: Name to part; ``None`` is to be the default part.
        clock: What a new store reads time from.
        tags: The constant tags of a new store.
        rules: The rules of a new store.

    Raises:
        InvalidInputError: If parts have different stores, or there are tags or rules and no new store.
    """
    stores = {name: store for name, part in parts.items() if (store := store_of(part)) is not None}
    if len({id(store) for store in stores.values()}) > 1:
        raise InvalidInputError(
            f"{' and '.join(stores)} do not share one store, so that what one records another would not see:"
            " make one Store and pass it to each as store="
        )
    rules = list(rules)
    if stores or None not in parts.values():
        if tags or rules:
            raise InvalidInputError(
                f"{'tags' if tags else 'rules'}={tags or rules!r} come too late, as no store is to be made:"
                " pass them to that of the given parts, as in Store(tags=…, rules=…)"
            )
        return next(iter(stores.values()), None)
    from metrics_framework.recording import Store

    return Store(clock or SYSTEM_CLOCK, tags=tags, rules=rules)


def store_of(part: object) -> Store | None:
    """Return the store that a part is a view of, or ``None`` where it is a part of someone else."""
    store = getattr(part, "store", None)
    if store is None:
        return None
    from metrics_framework.recording import Store  # a program that only names the Protocols never needs it

    return store if isinstance(store, Store) else None


def part_or_default(given: P | None, protocol: type[Any], default: str, *arguments: object) -> P:
    """Return a part that fulfils its Protocol.

    Args:
        given: What was passed in.
        protocol: What it has to fulfil.
        default: The adapter that is made where nothing was passed in.
        *arguments: What that one is made with.

    Raises:
        InvalidInputError: If it lacks a method; the message names each.
    """
    if given is None:
        part: P = load_adapter(default)(*arguments)
        return part
    from typing_extensions import get_protocol_members

    missing = sorted(
        name for name in get_protocol_members(protocol) if not callable(getattr(given, name, None))
    )
    if missing:
        raise InvalidInputError(f"{given!r} is no {protocol.__name__}: it lacks {', '.join(missing)}")
    return given
