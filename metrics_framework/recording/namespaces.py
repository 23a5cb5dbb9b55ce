"""Namespaces of names, each name of one kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metrics_framework.errors import InvalidInputError, MetricTypeError, UnknownMetricError, nearest
from metrics_framework.recording.cardinality import OTHER
from metrics_framework.recording.engine import Series, SeriesIndex
from metrics_framework.recording.exposed_names import Named
from metrics_framework.recording.metric import Kind, Metric, check_milliseconds, check_number
from metrics_framework.recording.rules import MAX_RULED_NAMES, Rule, Ruled, apply, learn
from metrics_framework.recording.state import StoreState
from metrics_framework.validation import check_name, plain_tags


class Namespace:
    """The metrics or operations of a store, by name.

    Args:
        state: Shared with the rest of the store.
        what: The noun in errors about a name, such as ``"metric"``.
        done: The participle in the error for an unknown name, such as ``"recorded"``.
        kinds: The possible kinds of a name.
        rules: Change names and tags before anything is recorded.

    Attributes:
        indexes: Finds series by the names and tags of records; one for each kind, by its label.
    """

    def __init__(
        self,
        state: StoreState,
        what: str,
        done: str,
        kinds: Iterable[Kind],
        rules: Sequence[Rule] = (),
    ) -> None:
        self._state = state
        self._what = what
        self._done = done
        self._metrics: dict[str, Metric] = {}
        self._rules = rules
        self.indexes = {kind.label: SeriesIndex() for kind in kinds}

    def metrics(self) -> list[Metric]:
        """Return all metrics."""
        return list(self._metrics.values())

    def get(self, name: str) -> Metric | None:
        """Return the metric of a name if there is one."""
        return self._metrics.get(name)

    def known(self, name: str) -> Metric:
        """Return the metric of a name.

        Raises:
            UnknownMetricError: If nothing was recorded under it; the message names the nearest.
        """
        metric = self._metrics.get(name)
        if metric is None or not metric.is_known:
            names = [other.name for other in self.metrics() if other.is_known]
            raise UnknownMetricError(f"no {self._what} {name!r} was {self._done}.{nearest(name, names)}")
        return metric

    def find(self, kind: Kind, name: object, tags: object) -> Any:
        """Return the series of a name and tags, created if it does not exist: the slow path of a record.

        Returns:
            ``None`` if the input was rejected and counted.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is of another kind.
        """
        return self._state.checked(self.find_or_raise, kind, name, tags)

    def bind(self, kind: Kind, name: object, tags: object) -> Any:
        """Bind and return the series of a name and tags. The name is known from now on.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is of another kind.
        """
        series = self.find_or_raise(kind, name, tags)
        if not series.is_null:
            series.owner.declared = True
        return series

    def find_or_raise(self, kind: Kind, name: object, tags: object) -> Any:
        """Return the series of a name and tags, as `find` does.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is of another kind.
        """
        given, plain = check_name(name, f"{self._what} name"), plain_tags(tags)
        ruled = self.ruled(given)
        index = self.indexes[kind.label]
        if ruled is None:
            series = kind.series.null(self._state.core, _Denied(self._state, kind))
            learn(index, given, plain, series)
            return series
        while True:
            metric = self.metric(kind, ruled.name)
            series = metric.find_or_make(ruled.keep(plain))
            if metric.name == ruled.name:  # a record under a name over the budget is counted each time
                learn(index, given, plain, series)
            if self._metrics.get(metric.name) is metric:
                return series
            # Another thread has removed the name: reads would not see records of this series.
            metric.remove(series)
            index.forget(given)

    def ruled(self, name: str) -> Ruled | None:
        """Return the effect of the rules on a name; ``None`` if they deny it."""
        ruled = apply(self._rules, name)
        known = self._state.ruled
        describes = ruled is not None and (ruled.buckets or ruled.max_series or ruled.expires is not None)
        if ruled and describes and len(known) < MAX_RULED_NAMES:
            known[ruled.name] = ruled
        return ruled

    def recorded_name(self, name: str) -> str | None:
        """Return the name under which records of ``name`` are stored; ``None`` if there is none."""
        ruled = self.ruled(name)
        names = () if ruled is None else (ruled.name, *(f"{OTHER}{label}" for label in self.indexes))
        return next((kept for kept in names if kept in self._metrics), None)

    def metric(self, kind: Kind, name: str) -> Metric:
        """Return the metric of a name, created if it does not exist.

        Raises:
            MetricTypeError: If the name is of another kind.
            InvalidInputError: If it would be exposed by another's name.
        """
        metric = self._metrics.get(name)
        if metric is None:
            if not self._state.cardinality.admit_name(len(self._metrics)):
                name = f"{OTHER}{kind.label}"
                metric = self._metrics.get(name)
            metric = metric or self._metrics.setdefault(name, self._new(kind, name))
        if metric.kind is not kind:
            if not metric.is_known:  # the record that created it was rejected
                self.remove(name)
                return self.metric(kind, name)
            raise MetricTypeError(
                f"{name!r} is a {metric.kind.label} and cannot be recorded as a {kind.label};"
                " use another name"
            )
        return metric

    def adopt(self, kind: Kind, name: str) -> Metric:
        """Return the metric of a name that another process has recorded, whatever the budget of names.

        Raises:
            MetricTypeError: If the name is of another kind here.
            InvalidInputError: If it would be exposed by another's name.
        """
        if name not in self._metrics:
            self._metrics.setdefault(name, self._new(kind, name))
        return self.metric(kind, name)

    def remove(self, name: str, tags: Mapping[str, str] | None = None) -> bool:
        """Remove a name, or one of its series. The next record of a bound instrument restores it.

        Returns:
            Whether it existed.
        """
        metric = self._metrics.get(name)
        if metric is None:
            return False
        if tags is not None:
            series = metric.find(plain_tags(tags))
            if series is not None:
                metric.remove(series)
            return series is not None
        self._metrics.pop(name, None)
        for registry in self._state.name_registries:
            registry.release(metric.named)
        if self._state.others is not None:
            self._state.others.removed(metric.named, None, self._state.core.now())
        for series in metric.series():
            metric.remove(series)
        self.indexes[metric.kind.label].forget(name)
        return True

    def register(self, named: Named) -> None:
        """Register the exposed names of a metric.

        Raises:
            InvalidInputError: If another metric has one of them.
        """
        for registry in self._state.name_registries:
            registry.register(named, self._state.describe(named.name).unit)

    def _new(self, kind: Kind, name: str) -> Metric:
        named = Named(name, kind.metric_type, self._what == "operation")
        try:
            self.register(named)
        except InvalidInputError:
            for registry in self._state.name_registries:
                registry.release(named)
            raise
        return Metric(self._state, named, kind, lambda: self.metric(kind, name))


class _Denied:
    """The owner of the series of denied names. Their input is checked and discarded.

    Args:
        state: Shared with the rest of the store.
        kind: The kind of the numbers.
    """

    name = "denied"

    def __init__(self, state: StoreState, kind: Kind) -> None:
        self._state = state
        self._kind = kind

    def number(self, value: object, signed: bool) -> int | float | None:
        """Return a number that the engine does not handle; ``None`` if it was rejected and counted."""
        return self._state.checked(check_number, self._kind, self.name, value, signed)

    def milliseconds(self, value: object, unit: object) -> float | None:
        """Return a duration in milliseconds; ``None`` if it was rejected and counted."""
        return self._state.checked(check_milliseconds, self.name, value, unit)

    def error_type(self, error_type: object) -> str | None:
        """Return an error type; ``None`` if it was rejected and counted."""
        return self._state.checked(check_name, error_type, "error type")

    def readmit(self, series: Series) -> Series:
        """Return the series: it is always live."""
        return series
