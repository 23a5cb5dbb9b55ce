"""Names, each of one kind: the metrics, or the operations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metrics_framework.errors import InvalidInputError, MetricTypeError, UnknownMetricError, nearest
from metrics_framework.recording.claims import Named
from metrics_framework.recording.commons import Commons
from metrics_framework.recording.hot import Lookup
from metrics_framework.recording.instruments import Series
from metrics_framework.recording.kinds import Kind
from metrics_framework.recording.metric import OTHER, Metric
from metrics_framework.recording.rules import Rule, Ruled, apply
from metrics_framework.recording.series import check_name, plain_tags
from metrics_framework.recording.views import MAX_NAMES, is_void, learn, void


class Namespace:
    """The metrics or operations of a store, by name.

    Args:
        commons: What it shares with the rest of the store.
        what: What a name is called in an error.
        done: What was not done to an unknown name.
        kinds: The kinds that a name may be of.
        rules: What is done to names and tags before anything is recorded.

    Attributes:
        lookups: Series by names and tags as they are given, for each kind.
    """

    def __init__(
        self,
        commons: Commons,
        what: str,
        done: str,
        kinds: Iterable[Kind],
        rules: Sequence[Rule] = (),
    ) -> None:
        self._commons = commons
        self._what = what
        self._done = done
        self._metrics: dict[str, Metric] = {}
        self._rules = rules
        self._kept = {kind.label: Lookup() for kind in kinds}
        # Without rules, what is given is what is kept.
        self.lookups = {label: Lookup() for label in self._kept} if rules else self._kept

    def metrics(self) -> list[Metric]:
        """Return all that are there."""
        return list(self._metrics.values())

    def get(self, name: str) -> Metric | None:
        """Return the metric of a name if there is one."""
        return self._metrics.get(name)

    def known(self, name: str) -> Metric:
        """Return the metric of a name.

        Raises:
            UnknownMetricError: If there is none; the message names the nearest.
        """
        metric = self._metrics.get(name)
        if metric is None or not self.is_known(metric):
            names = [other.name for other in self.metrics() if self.is_known(other)]
            raise UnknownMetricError(f"no {self._what} {name!r} was {self._done}.{nearest(name, names)}")
        return metric

    def find(self, kind: Kind, name: object, tags: object) -> Series | None:
        """Return the series of a name and tags, a new one if need be: the slow path of a record.

        Returns:
            ``None`` where the input was refused and counted.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is of another kind.
        """
        try:
            return self._found(kind, name, tags)
        except InvalidInputError as error:
            self._commons.refuse(error)
            return None

    def bind(self, kind: Kind, name: object, tags: object) -> Any:
        """Return the series of a name and tags for good: the name is known from now on.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is of another kind.
        """
        series: Any = self._found(kind, name, tags)
        if not is_void(series):
            series.home.metric.declared = True
        return series

    def _found(self, kind: Kind, name: object, tags: object) -> Series:
        given, plain = check_name(name, f"{self._what} name"), plain_tags(tags)
        if not self._rules:
            return self.metric(kind, given).find_or_make(plain)
        ruled = self.ruled(given)
        series: Series
        if ruled is None:
            series = void(kind, self._commons.clock, self._commons.refuse)
        else:
            series = self.metric(kind, ruled.name).find_or_make(ruled.keep(plain))
        learn(self.lookups[kind.label], given, plain, series)
        return series

    def ruled(self, name: str) -> Ruled | None:
        """Return what the rules make of a name; ``None`` where they deny it."""
        ruled = apply(self._rules, name)
        if ruled and (ruled.buckets or ruled.max_series) and len(self._commons.ruled) < MAX_NAMES:
            self._commons.ruled[ruled.name] = ruled
        return ruled

    def metric(self, kind: Kind, name: str) -> Metric:
        """Return the metric of a name, a new one if need be.

        Raises:
            MetricTypeError: If the name is of another kind.
            InvalidInputError: If it would be exposed by another's name.
        """
        metric = self._metrics.get(name)
        if metric is None:
            if len(self._metrics) >= self._commons.budgets.names:
                self._commons.overflowed.add(1)
                self._commons.notice("too many names; new ones are counted together", kept_as=OTHER)
                name = f"{OTHER}{kind.label}"
                metric = self._metrics.get(name)
            metric = metric or self._metrics.setdefault(name, self._new(kind, name))
        if metric.kind is not kind:
            if not self.is_known(metric):  # what made it was refused
                self.remove(name)
                return self.metric(kind, name)
            raise MetricTypeError(
                f"{name!r} is a {metric.kind.label} and cannot be recorded as a {kind.label};"
                " use another name"
            )
        return metric

    def remove(self, name: str, tags: Mapping[str, str] | None = None) -> bool:
        """Forget a name, or one of its series; a bound instrument that is used again brings it back.

        Returns:
            Whether there was anything to forget.
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
        if self._commons.claims is not None:
            self._commons.claims.release(self.named(metric.kind, name))
        for series in metric.series():
            metric.remove(series)
        lookup = self._kept[metric.kind.label]
        lookup.untagged.pop(name, None)
        lookup.tagged.pop(name, None)
        return True

    @staticmethod
    def is_known(metric: Metric) -> bool:
        """Say whether anything was recorded: now, or before its series expired."""
        return (
            metric.declared
            or any(ledger.journal.windows.open is not None for ledger in metric.ledgers)
            or any(series.slot_end for series in metric.series())
        )

    def claim(self, kind: Kind, name: str) -> None:
        """Take the names that a metric is exposed by.

        Raises:
            InvalidInputError: If another has one of them.
        """
        if self._commons.claims is not None:
            self._commons.claims.claim(self.named(kind, name), self._commons.describe(name).unit)

    def named(self, kind: Kind, name: str) -> Named:
        """Return what a metric's claim is known by."""
        return Named(name, kind.metric_type, self._what == "operation")

    def _new(self, kind: Kind, name: str) -> Metric:
        self.claim(kind, name)
        return Metric(
            self._commons,
            self.named(kind, name),
            kind,
            self._kept[kind.label],
            lambda: self.metric(kind, name),
        )
