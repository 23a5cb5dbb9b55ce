"""The aggregator that combines several, for one snapshot, dashboard or stream of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from metrics_adapters.ranking import largest
from metrics_framework.errors import InvalidInputError, UnknownMetricError, UnknownNameError, nearest
from metrics_framework.exposition import formats
from metrics_framework.log import LogOnce, log_event
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.recording.store import store_of
from metrics_framework.validation import plain_tags, safe_repr
from metrics_framework.values import MetricType, MetricValue

__all__ = ["CombinedAggregator"]

_Name = tuple[str, bool]
"""The name of a metric or operation, and whether it is an operation."""


class CombinedAggregator:
    """A `MetricsAggregator` of the metrics of several others.

    If several members have a name, the first one's series are used and the others' are left out, which is
    logged once. A metric and an operation may share a name. A failing member affects no other member; its
    first failure is logged. An `InvalidInputError` of a member is raised.

    Args:
        *members: The aggregators, in the order of precedence.

    Attributes:
        store: The store of the first member that has one, else ``None``. A `MetricsSystem` records into it.

    Raises:
        InvalidInputError: If a member is not a `MetricsAggregator`.

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
                    f"{member.__name__} is a class: pass an instance: {member.__name__}()"
                )
            if not isinstance(member, MetricsAggregator):
                raise InvalidInputError(
                    f"{safe_repr(member)} is not a MetricsAggregator: it lacks a method of the Protocol"
                )
        stores = map(store_of, members)
        self.store = next((store for store in stores if store is not None), None)
        self._members = members
        self._failures = LogOnce()
        self._shared: set[_Name] = set()

    def get_metric_summary(self, metric_name: str, time_window: timedelta | None = None) -> dict[str, float]:
        """Summarize a metric of the first member that has it; see `MetricsAggregator.get_metric_summary`."""
        for index, member in enumerate(self._members):
            try:
                return member.get_metric_summary(metric_name, time_window)
            except UnknownNameError:
                continue
            except InvalidInputError:
                raise
            except Exception as error:  # noqa: BLE001 - a member may raise anything
                self._report(index, error)
        values = self.get_metrics_by_tag({})
        if any(_name(value) == (metric_name, True) for value in values):
            raise UnknownMetricError(
                f"{metric_name!r} is an operation and not a metric: read it with"
                f" timer.get_timing_stats({metric_name!r}) or tracker.get_success_rate({metric_name!r})"
            )
        known = {value.name for value in values if not _is_operation(value)}
        raise UnknownMetricError(
            f"no metric {safe_repr(metric_name)} was recorded.{nearest(str(metric_name), known)}"
        )

    def get_metrics_by_tag(self, tag_filter: dict[str, str]) -> list[MetricValue]:
        """Return the matching series of all members; see `MetricsAggregator.get_metrics_by_tag`."""
        wanted = plain_tags(tag_filter).items()
        # All series, because a name of an earlier member hides that of a later one whatever the tags are.
        return [value for _, values, _ in self._listed() for value in values if wanted <= value.tags.items()]

    def export_metrics(self, format: str = "json") -> str:
        """Return everything in a text format; see `MetricsAggregator.export_metrics`.

        Args:
            format: ``json``, ``jsonl``, ``csv`` or ``prometheus`` (text format 0.0.4).
        """
        return formats.render(self.get_metrics_by_tag({}), format)

    def get_top_metrics(self, metric_type: MetricType, limit: int = 10) -> list[MetricValue]:
        """Return the largest of all members; see `MetricsAggregator.get_top_metrics`.

        Each member selects its own, because it may derive values such as rates.
        """
        found: list[MetricValue] = []
        for index, _, hidden in self._listed():
            try:
                # Hidden series are removed from the result.
                more = limit + sum(hidden.values()) if hidden else limit
                top = self._members[index].get_top_metrics(metric_type, more)
            except InvalidInputError:
                raise
            except Exception as error:  # noqa: BLE001 - a member may raise anything
                self._report(index, error)
                continue
            found.extend(value for value in top if _name(value) not in hidden)
        return largest(found, metric_type, limit)

    def _listed(self) -> Iterator[tuple[int, list[MetricValue], Counter[_Name]]]:
        """Yield the index and visible series of each member, and a count of its hidden series by name."""
        taken: set[_Name] = set()
        for index, member in enumerate(self._members):
            try:
                values = member.get_metrics_by_tag({})
                hidden = Counter(name for name in map(_name, values) if name in taken)
            except Exception as error:  # noqa: BLE001 - a member may raise anything
                self._report(index, error)
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
            yield index, kept, hidden

    def _report(self, index: int, error: Exception) -> None:
        member = safe_repr(self._members[index])
        event, reason = "an aggregator failed", safe_repr(error)
        self._failures.log("error", event, once_for=index, aggregator=member, error=reason)


def _name(value: MetricValue) -> _Name:
    return value.name, _is_operation(value)


def _is_operation(value: MetricValue) -> bool:
    return bool(value.metadata.get("operation", False))
