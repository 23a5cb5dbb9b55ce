"""An aggregator over the metrics that an application counts with prometheus_client.

It records and registers nothing. Each method collects the registry, so a custom collector that queries a
database does so each time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import accumulate
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import REGISTRY

from metrics_adapters.prometheus.collector import FamilySource, RegisteredStore, registered_collectors
from metrics_adapters.ranking import largest
from metrics_framework.clock import SYSTEM_CLOCK, Clock, utc
from metrics_framework.errors import InvalidInputError, UnknownMetricError, nearest
from metrics_framework.exposition import formats
from metrics_framework.exposition.names import BASE_UNITS
from metrics_framework.log import log_event, raise_interrupt
from metrics_framework.validation import plain_tags, safe_repr
from metrics_framework.values import MetricType, MetricUnit, MetricValue, to_milliseconds

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}

_UNITS = {unit.value: unit for unit in BASE_UNITS}
_TIMES = (MetricUnit.SECONDS, MetricUnit.MILLISECONDS, MetricUnit.MICROSECONDS)
_DISTRIBUTIONS = (MetricType.HISTOGRAM, MetricType.TIMER)
_OWN_LABELS = {"histogram": "le", "gaugehistogram": "le", "summary": "quantile"}
"""The label of the format itself, by family type. It is not a tag of the series."""


class RegistryAggregator:
    """A `MetricsAggregator` over the metrics of a prometheus_client registry.

    Names are the exposed names: that of a counter ends in ``_total``, but `get_metric_summary` also finds it
    without the suffix. Labels are tags, the help text is ``metadata["help"]``, and the suffix of the name
    tells the unit. Info, enum and untyped metrics are gauges. ``target_info`` and numbers that are not finite
    are left out.

    A histogram or summary whose name ends in a unit of time is a timer: like every duration of this library,
    its values are milliseconds, although the name still ends in ``_seconds``. Counters and gauges keep the
    unit of their name.

    Summaries leave out the keys that a registry does not know:

    - a counter has ``sum``, ``total``, ``rate`` and ``seconds``, but no ``count`` of its increments;
    - a gauge has only ``last``, and no key at all if it has several series;
    - a histogram has no ``min``, ``max`` and ``stddev``. Its quantiles are estimated like those of the
      function ``histogram_quantile`` of Prometheus: by linear interpolation within a bucket, whose width
      limits the error. Above the highest finite bound, the estimate is that bound. With bounds below zero,
      prometheus_client keeps no sum, so ``sum`` and ``avg`` are missing too;
    - a summary has the quantiles that it exposes, if it is a single series. One without a p95, such as those
      of prometheus_client itself, is listed with its average as the value and is never among the largest;
    - ``seconds`` is the time since the oldest series was created. It and ``rate`` are missing if ``_created``
      samples are disabled.

    The metrics of a `PrometheusCollector` are left out: use the aggregator of its store. A collector that
    raises affects no other, and its first error is logged. Values are read under the locks of
    prometheus_client, so do not use this in a signal handler.

    Args:
        registry: The registry to read; by default the default registry of prometheus_client.
        clock: Measures the age of series.

    Raises:
        InvalidInputError: If ``registry`` is not a registry.

    Example:
        >>> from prometheus_client import CollectorRegistry, Counter
        >>> registry = CollectorRegistry()
        >>> Counter("orders", "Orders taken.", registry=registry).inc(3)
        >>> RegistryAggregator(registry).get_metric_summary("orders_total")["total"]
        3.0
    """

    def __init__(self, registry: FamilySource = REGISTRY, clock: Clock = SYSTEM_CLOCK) -> None:
        if isinstance(registry, type) or not isinstance(registry, FamilySource):
            raise InvalidInputError(
                f"registry={safe_repr(registry)} is not a registry: pass a CollectorRegistry, such as"
                " prometheus_client.REGISTRY"
            )
        self._registry = registry
        self._clock = clock
        self._failing: set[int] = set()

    def get_metric_summary(self, metric_name: str, time_window: timedelta | None = None) -> dict[str, float]:
        """Summarize a metric since the start; see `MetricsAggregator.get_metric_summary`.

        Raises:
            UnknownMetricError: If the registry has no such metric.
            InvalidInputError: If ``time_window`` is given: a registry keeps totals, without history.
        """
        series = list(self._series())
        found = [one for one in series if one.name == metric_name] or [
            one for one in series if one.family == metric_name
        ]
        if not found:
            raise UnknownMetricError(
                f"the registry has no metric {safe_repr(metric_name)}."
                f"{nearest(str(metric_name), {one.name for one in series})}"
            )
        if time_window is not None:
            raise InvalidInputError(
                f"time_window={safe_repr(time_window)} is not available for {metric_name!r}: a registry keeps"
                " totals, without history; pass None for all values, or query a Prometheus server"
            )
        return _summary([one for one in found if one.metric_type is found[0].metric_type], self._now())

    def get_metrics_by_tag(self, tag_filter: dict[str, str]) -> list[MetricValue]:
        """Return the matching series; see `MetricsAggregator.get_metrics_by_tag`.

        A histogram or summary without observations is left out.
        """
        wanted = plain_tags(tag_filter).items()
        now, timestamp = self._now(), utc(self._clock)
        values = []
        for one in self._series():
            if not wanted <= one.tags.items():
                continue
            summary = _summary([one], now)
            value = next((summary[key] for key in ("total", "last", "p95", "avg") if key in summary), None)
            if value is None or (one.metric_type in _DISTRIBUTIONS and not summary["count"]):
                continue
            metadata: dict[str, Any] = {**summary, "help": one.help}
            if one.buckets:
                counts = {str(bound): _whole(count) for bound, count in sorted(one.buckets.items())}
                known = {} if one.total is None else {"sum": one.total}
                metadata["buckets"] = {"counts": counts, **known}
            values.append(
                MetricValue(one.name, value, one.metric_type, one.unit, timestamp, one.tags, metadata)
            )
        return values

    def export_metrics(self, format: str = "json") -> str:
        """Return everything in a text format; see `MetricsAggregator.export_metrics`.

        Args:
            format: ``json``, ``jsonl``, ``csv`` or ``prometheus`` (text format 0.0.4).
        """
        return formats.render(self.get_metrics_by_tag({}), format)

    def get_top_metrics(self, metric_type: MetricType, limit: int = 10) -> list[MetricValue]:
        """Return the largest of a type; see `MetricsAggregator.get_top_metrics`.

        `MetricType.RATE` lists counters by their growth per second.
        """
        values = self.get_metrics_by_tag({})
        ranked = (v for v in values if v.metric_type not in _DISTRIBUTIONS or "p95" in v.metadata)
        return largest(ranked, metric_type, limit)

    def _now(self) -> float:
        return self._clock.time_ns() / 1e9

    def _series(self) -> Iterator[_Series]:
        # `collect` of a registry stops at the first collector that raises, so each is collected by itself.
        collectors = registered_collectors(self._registry)
        self._failing.intersection_update(map(id, collectors))
        for collector in collectors:
            if isinstance(collector, RegisteredStore):  # its store has exact answers
                continue
            try:
                found = [one for metric in collector.collect() for one in _series_of(metric)]
            except BaseException as error:  # noqa: BLE001 - a custom collector may raise anything
                raise_interrupt(error)
                if id(collector) not in self._failing:
                    self._failing.add(id(collector))
                    log_event(
                        "error", "collector failed", collector=safe_repr(collector), error=safe_repr(error)
                    )
                continue
            yield from found


@dataclass
class _Series:
    """One series of a registry. Unknown values are ``None`` or empty.

    Attributes:
        name: The exposed name.
        family: The name of the family.
        number: The total of a counter, or the value of a gauge.
        buckets: The number of values up to each bound of a histogram.
        quantiles: Share to value of a summary.
        created: The time of its creation, in seconds since the epoch.
    """

    name: str
    family: str
    metric_type: MetricType
    unit: MetricUnit
    help: str
    tags: dict[str, str]
    number: float = 0.0
    count: float | None = None
    total: float | None = None
    buckets: dict[float, float] = field(default_factory=dict)
    quantiles: dict[float, float] = field(default_factory=dict)
    created: float | None = None


# -- reading -----------------------------------------------------------------------------------------------


def _series_of(metric: Metric) -> Iterable[_Series]:
    if metric.type in _OWN_LABELS:
        return _distributions(metric)
    return _plain(metric, MetricType.COUNTER if metric.type == "counter" else MetricType.GAUGE)


def _plain(metric: Metric, metric_type: MetricType) -> Iterable[_Series]:
    is_counter = metric_type is MetricType.COUNTER
    unit = _unit(metric.name.removesuffix("_total"))
    found: list[_Series] = []
    created: dict[frozenset[tuple[str, str]], float] = {}
    for sample in metric.samples:
        if not _is_finite(sample.value):
            continue
        if is_counter and sample.name.endswith("_created"):
            created[frozenset(sample.labels.items())] = sample.value
            continue
        found.append(
            _Series(
                sample.name,
                metric.name,
                metric_type,
                unit,
                metric.documentation,
                plain_tags(sample.labels),
                sample.value,
            )
        )
    for one in found:
        one.created = created.get(frozenset(one.tags.items()))
    return found


def _distributions(metric: Metric) -> Iterable[_Series]:
    own = _OWN_LABELS[metric.type]
    unit = _unit(metric.name)
    is_timer = unit in _TIMES
    per_unit = to_milliseconds(1, unit) if is_timer else 1
    metric_type = MetricType.TIMER if is_timer else MetricType.HISTOGRAM
    found: dict[tuple[tuple[str, str], ...], _Series] = {}
    for sample in metric.samples:
        if not _is_finite(sample.value):
            continue
        tags = plain_tags({label: text for label, text in sample.labels.items() if label != own})
        one = found.setdefault(
            tuple(tags.items()),
            _Series(
                metric.name,
                metric.name,
                metric_type,
                MetricUnit.MILLISECONDS if is_timer else unit,
                metric.documentation,
                tags,
            ),
        )
        match sample.name.removeprefix(metric.name):
            case "_bucket":
                one.buckets[float(sample.labels[own]) * per_unit] = sample.value
            case "_count" | "_gcount":
                one.count = sample.value
            case "_sum" | "_gsum":
                one.total = sample.value * per_unit
            case "_created":
                one.created = sample.value
            case "" if own in sample.labels:
                one.quantiles[float(sample.labels[own])] = sample.value * per_unit
    for one in found.values():
        if one.count is None:
            one.count = one.buckets.get(math.inf)
    return [one for one in found.values() if one.count is not None]


def _unit(name: str) -> MetricUnit:
    return _UNITS.get(name.rpartition("_")[2], MetricUnit.COUNT)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _whole(count: float) -> int | float:
    return int(count) if count == int(count) else count


# -- summarizing -------------------------------------------------------------------------------------------


def _summary(series: Sequence[_Series], now: float) -> dict[str, float]:
    """Summarize series of one name and type together."""
    metric_type = series[0].metric_type
    if metric_type is MetricType.GAUGE:
        return {"last": series[0].number} if len(series) == 1 else {}
    if metric_type is MetricType.COUNTER:
        total = math.fsum(one.number for one in series)
        return {"sum": total, "total": total, **_rate(series, total, now)}
    count = math.fsum(one.count or 0 for one in series)
    summary: dict[str, float] = {"count": _whole(count), **_rate(series, count, now)}
    totals = [one.total for one in series if one.total is not None]
    if len(totals) == len(series):
        summary["sum"] = math.fsum(totals)
        if count:
            summary["avg"] = summary["sum"] / count
    return {**summary, **_quantiles(series)}


def _rate(series: Sequence[_Series], events: float, now: float) -> dict[str, float]:
    created = [one.created for one in series if one.created is not None]
    if len(created) < len(series):
        return {}
    seconds = max(now - min(created), 0.0)
    return {"seconds": seconds, "rate": events / seconds if seconds else 0.0}


def _quantiles(series: Sequence[_Series]) -> dict[str, float]:
    if len(series) == 1 and not series[0].buckets:
        exposed = series[0].quantiles
        return {key: exposed[share] for key, share in QUANTILES.items() if share in exposed}
    bounds = set(series[0].buckets)
    if any(set(one.buckets) != bounds for one in series):
        return {}  # series with different buckets cannot be added
    cumulated = {bound: math.fsum(one.buckets[bound] for one in series) for bound in bounds}
    estimates = {key: histogram_quantile(share, cumulated) for key, share in QUANTILES.items()}
    return {key: value for key, value in estimates.items() if value is not None}


def histogram_quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """Estimate a quantile from classic buckets, like the Prometheus function of the same name.

    It assumes that values are spread evenly within a bucket, and that the first bucket begins at 0 if its
    bound is positive.

    Args:
        share: The quantile, above 0 and at most 1.
        buckets: The number of values up to each bound, including infinity.

    Returns:
        The estimate, or ``None`` if there are no values or no finite bound.

    Example:
        >>> histogram_quantile(0.5, {1: 2, 2: 6, float("inf"): 8})
        1.5
    """
    bounds = sorted(buckets)
    # As in Prometheus: counts that were read one after another seem to fall if a value was added in between.
    counts = list(accumulate((buckets[bound] for bound in bounds), max))
    if len(bounds) < 2 or bounds[-1] != math.inf or not counts[-1]:
        return None
    rank = share * counts[-1]
    place = next(index for index, count in enumerate(counts) if count >= rank)
    if place == len(bounds) - 1:
        return bounds[-2]
    end = bounds[place]
    if place == 0:
        begin, before = (0.0, 0.0) if end > 0 else (end, 0.0)
    else:
        begin, before = bounds[place - 1], counts[place - 1]
    # Rounding may exceed the end by an ulp.
    return min(begin + (end - begin) * (rank - before) / (counts[place] - before), end)
