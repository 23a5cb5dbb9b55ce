"""Several aggregators as one: what each of them knows is in one snapshot, one dashboard, one stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from metrics_adapters.ranking import largest
from metrics_framework.errors import InvalidInputError, UnknownMetricError, UnknownNameError, nearest
from metrics_framework.exposition import formats
from metrics_framework.log import log_event
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.recording.store import store_of
from metrics_framework.validation import plain_tags, safe_repr
from metrics_framework.values import MetricType, MetricValue

__all__ = ["CombinedAggregator"]

_Name = tuple[str, bool]
"""What a metric or operation goes by, and whether it is an operation."""


class CombinedAggregator:
    """A `MetricsAggregator` that answers with what several know.

    A name that several know is the first one's, and the others' series of it are left out; the log says so
    once. A metric and an operation may share a name. A member that fails costs its own answers only; its
    first fault is logged. Bad input is raised as the member that was asked says it.

    Args:
        *members: The aggregators, those that win first.

    Attributes:
        store: That of the first member that has one, else ``None``: a `MetricsSystem` records into it.

    Raises:
        InvalidInputError: If a member is no `MetricsAggregator`.

    Example:
        >>> from metrics_adapters.in_memory import InMemoryAggregator
        >>> from metrics_adapters.prometheus import RegistryAggregator
        >>> from metrics_framework import MetricsSystem
        >>> both = CombinedAggregator(InMemoryAggregator(), RegistryAggregator())
        >>> with MetricsSystem(aggregator=both) as metrics:
        ...     metrics.collector.increment("orders")
        ...     names = {value.name for value in both.get_metrics_by_tag({})}
        >>> names >= {"orders", "python_info"}
        True
    """

    def __init__(self, *members: MetricsAggregator) -> None:
        for member in members:
            if isinstance(member, type):
                raise InvalidInputError(
                    f"{member.__name__} is a class; pass an instance: {member.__name__}()"
                )
            if not isinstance(member, MetricsAggregator):
                raise InvalidInputError(
                    f"{safe_repr(member)} is no MetricsAggregator: it lacks a method of the Protocol"
                )
        stores = map(store_of, members)
        self.store = next((store for store in stores if store is not None), None)
        self._members = members
        self._faulty: set[int] = set()
        self._shared: set[_Name] = set()

    def get_metric_summary(self, metric_name: str, time_window: timedelta | None = None) -> dict[str, float]:
        """Summarize a metric as the first that knows it does; see `MetricsAggregator.get_metric_summary`."""
        for place, member in enumerate(self._members):
            try:
                return member.get_metric_summary(metric_name, time_window)
            except UnknownNameError:
                continue
            except InvalidInputError:
                raise
            except Exception as error:  # noqa: BLE001 - a member of somebody else's may raise anything
                self._report(place, error)
        known = {value.name for value in self.get_metrics_by_tag({}) if not _is_operation(value)}
        raise UnknownMetricError(
            f"no metric {safe_repr(metric_name)} was recorded.{nearest(str(metric_name), known)}"
        )

    def get_metrics_by_tag(self, tag_filter: dict[str, str]) -> list[MetricValue]:
        """Return the matching series of all; see `MetricsAggregator.get_metrics_by_tag`."""
        wanted = plain_tags(tag_filter).items()
        # All are asked for: a name that is the first one's hides another's, whatever their tags are.
        return [value for _, values, _ in self._listed() for value in values if wanted <= value.tags.items()]

    def export_metrics(self, format: str = "json") -> str:
        """Return everything in a text format; see `MetricsAggregator.export_metrics`.

        Args:
            format: ``json``, ``jsonl``, ``csv`` or ``prometheus`` (text format 0.0.4).
        """
        return formats.render(self.get_metrics_by_tag({}), format)

    def get_top_metrics(self, metric_type: MetricType, limit: int = 10) -> list[MetricValue]:
        """Return the largest of all; see `MetricsAggregator.get_top_metrics`.

        Each member chooses its own, so that what it derives, such as rates, is as it says.
        """
        found: list[MetricValue] = []
        for place, _, hidden in self._listed():
            try:
                # As many more as may fall away.
                more = limit + sum(hidden.values()) if hidden else limit
                top = self._members[place].get_top_metrics(metric_type, more)
            except InvalidInputError:
                raise
            except Exception as error:  # noqa: BLE001 - a member of somebody else's may raise anything
                self._report(place, error)
                continue
            found.extend(value for value in top if _name(value) not in hidden)
        return largest(found, metric_type, limit)

    def _listed(self) -> Iterator[tuple[int, list[MetricValue], Counter[_Name]]]:
        """Yield each member's place, its series, and how many of which names earlier members hide."""
        taken: set[_Name] = set()
        for place, member in enumerate(self._members):
            try:
                values = member.get_metrics_by_tag({})
                hidden = Counter(name for name in map(_name, values) if name in taken)
            except Exception as error:  # noqa: BLE001 - a member of somebody else's may raise anything
                self._report(place, error)
                continue
            if new := hidden.keys() - self._shared:
                self._shared |= new
                log_event(
                    "warning",
                    "an earlier aggregator has these names",
                    names=sorted(name for name, _ in new),
                    aggregator=safe_repr(member),
                )
            kept = [value for value in values if _name(value) not in hidden]
            taken.update(map(_name, kept))
            yield place, kept, hidden

    def _report(self, place: int, error: Exception) -> None:
        if place not in self._faulty:
            self._faulty.add(place)
            member = safe_repr(self._members[place])
            log_event("error", "an aggregator failed", aggregator=member, error=safe_repr(error))


def _name(value: MetricValue) -> _Name:
    return value.name, _is_operation(value)


def _is_operation(value: MetricValue) -> bool:
    return bool(value.metadata.get("operation", False))
