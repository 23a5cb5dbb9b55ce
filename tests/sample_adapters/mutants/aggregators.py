"""Aggregators that are wrong in one way each."""

# ruff: noqa: D101, D102 - the name of a mutant states its fault

from __future__ import annotations

import json
import math
import threading
from datetime import timedelta

from factories import contracts_of

from metrics_adapters.in_memory import InMemoryAggregator
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.values import MetricType, MetricUnit


class Altered(InMemoryAggregator):
    """Lets a mutant change every summary and every value."""

    def alter(self, summary):
        return summary

    def alter_value(self, value):
        return value

    def get_metric_summary(self, metric_name, time_window=None):
        return self.alter(super().get_metric_summary(metric_name, time_window))

    def get_metrics_by_tag(self, tag_filter):
        return [self.alter_value(value) for value in super().get_metrics_by_tag(tag_filter)]


class CountOffByOne(Altered):
    def alter(self, summary):
        return {**summary, "count": summary["count"] + 1}


class AvgOfExtremes(Altered):
    def alter(self, summary):
        return {**summary, "avg": (summary["min"] + summary["max"]) / 2} if "p50" in summary else summary


class SampleDeviation(Altered):
    def alter(self, summary):
        count = summary["count"]
        if "stddev" in summary and count > 1:
            return {**summary, "stddev": summary["stddev"] * math.sqrt(count / (count - 1))}
        return summary


class InterpolatedP95(Altered):
    def alter(self, summary):
        if "p95" in summary and summary["count"] > 1:
            return {
                **summary,
                "p95": summary["p90"] + 0.9 * (summary["max"] - summary["p90"]) - 0.01 * summary["max"],
            }
        return summary


class MedianIsMean(Altered):
    def alter(self, summary):
        return {**summary, "p50": summary["avg"]} if "p50" in summary else summary


class QuantilesSwapped(Altered):
    def alter(self, summary):
        return {**summary, "p90": summary["p99"], "p99": summary["p90"]} if "p90" in summary else summary


class WrongBucketEdge(Altered):
    """Says a bucket's upper bound, in buckets twice as wide each."""

    def alter(self, summary):
        if "p50" in summary and summary["count"] > 100:
            edges = {key: 2.0 ** math.ceil(math.log2(summary[key])) for key in ("p50", "p90", "p95", "p99")}
            return {**summary, **edges, "max": max(summary["max"], *edges.values())}
        return summary


class MaxForgotten(Altered):
    def alter(self, summary):
        return {key: value for key, value in summary.items() if key != "max"}


class ZerosInEmptyWindows(Altered):
    def alter(self, summary):
        if summary["count"] == 0 and "rate" in summary and "total" not in summary:
            return {"avg": 0.0, "min": 0.0, "max": 0.0, **summary}
        return summary


class GaugeForgottenInEmptyWindows(Altered):
    def alter(self, summary):
        return summary if summary["count"] else {key: summary[key] for key in summary if key != "last"}


class TotalOfTheWindow(Altered):
    def alter(self, summary):
        return {**summary, "total": summary["sum"]} if "total" in summary else summary


class MoreKeys(Altered):
    def alter(self, summary):
        return {**summary, "p75": 0.0}


class RateOfRecords(Altered):
    """A counter's rate counts records, not what they add."""

    def alter(self, summary):
        if "total" in summary and summary["seconds"]:
            return {**summary, "rate": summary["count"] / summary["seconds"]}
        return summary


class RateIsInfinite(Altered):
    def alter(self, summary):
        return {**summary, "rate": math.inf} if "rate" in summary and not summary["seconds"] else summary


class RatePerMinute(Altered):
    def alter(self, summary):
        return {**summary, "rate": summary["rate"] * 60} if "rate" in summary else summary


class WindowsForgotten(InMemoryAggregator):
    def get_metric_summary(self, metric_name, time_window=None):
        super().get_metric_summary(metric_name, time_window)
        return super().get_metric_summary(metric_name)


class WindowEdgeUntold(InMemoryAggregator):
    """Rounds a window to minutes and says that it did not."""

    def get_metric_summary(self, metric_name, time_window=None):
        summary = super().get_metric_summary(metric_name, time_window)
        if time_window is None:
            return summary
        wider = super().get_metric_summary(metric_name, time_window + timedelta(minutes=1))
        return {**wider, "seconds": summary["seconds"]}


class WindowTooShort(InMemoryAggregator):
    def get_metric_summary(self, metric_name, time_window=None):
        half = (
            time_window / 2
            if isinstance(time_window, timedelta) and time_window > timedelta(1) / 24
            else None
        )
        return super().get_metric_summary(metric_name, half or time_window)


class HalfTheWindow(InMemoryAggregator):
    """Answers, and says so, for less than was asked."""

    def get_metric_summary(self, metric_name, time_window=None):
        half = time_window / 2 if isinstance(time_window, timedelta) else time_window
        return super().get_metric_summary(metric_name, half)


class ZeroWindow(InMemoryAggregator):
    def get_metric_summary(self, metric_name, time_window=None):
        return super().get_metric_summary(metric_name, time_window or None)


class UnknownIsEmpty(InMemoryAggregator):
    def get_metric_summary(self, metric_name, time_window=None):
        try:
            return super().get_metric_summary(metric_name, time_window)
        except UnknownMetricError:
            return {"count": 0, "seconds": 0.0}


class PlainLookupError(InMemoryAggregator):
    def get_metric_summary(self, metric_name, time_window=None):
        try:
            return super().get_metric_summary(metric_name, time_window)
        except UnknownMetricError as error:
            raise LookupError(str(error)) from None


class OneSeriesOnly(InMemoryAggregator):
    """Summarizes one series instead of all."""

    def get_metric_summary(self, metric_name, time_window=None):
        summary = super().get_metric_summary(metric_name, time_window)
        series = [value for value in self.get_metrics_by_tag({}) if value.name == metric_name]
        if len(series) > 1 and "total" in summary:
            return {**summary, "total": series[0].value, "sum": series[0].value}
        return summary


class AnyTagMatches(InMemoryAggregator):
    def get_metrics_by_tag(self, tag_filter):
        values = super().get_metrics_by_tag({})
        return [
            value for value in values if not tag_filter or set(tag_filter.items()) & set(value.tags.items())
        ]


class ExactTagsMatch(InMemoryAggregator):
    def get_metrics_by_tag(self, tag_filter):
        values = super().get_metrics_by_tag(tag_filter)
        return [value for value in values if not tag_filter or value.tags == tag_filter]


class KeysMatch(InMemoryAggregator):
    """Looks at a tag's name, not at its value."""

    def get_metrics_by_tag(self, tag_filter):
        return [value for value in super().get_metrics_by_tag({}) if set(tag_filter) <= set(value.tags)]


class EmptyFilterMatchesNothing(InMemoryAggregator):
    def get_metrics_by_tag(self, tag_filter):
        return super().get_metrics_by_tag(tag_filter) if tag_filter else []


class EmptyFilterMatchesUntagged(InMemoryAggregator):
    def get_metrics_by_tag(self, tag_filter):
        values = super().get_metrics_by_tag(tag_filter)
        return values if tag_filter else [value for value in values if not value.tags]


class NoMetadata(Altered):
    def alter_value(self, value):
        value.metadata = {}
        return value


class MetadataOfTheMetric(Altered):
    """A series carries the summary of all series."""

    def alter_value(self, value):
        if not value.metadata.get("operation"):
            value.metadata = {**value.metadata, **self.store.summary(value.name)}
        return value


class OpenAnswers(InMemoryAggregator):
    """Hands out its own dicts."""

    def __init__(self, store):
        super().__init__(store)
        self.tags = {}

    def get_metrics_by_tag(self, tag_filter):
        values = super().get_metrics_by_tag({})
        for value in values:
            value.tags = self.tags.setdefault((value.name, tuple(value.tags.items())), value.tags)
        return [value for value in values if tag_filter.items() <= value.tags.items()]


class LocalTimestamps(Altered):
    def alter_value(self, value):
        value.timestamp = value.timestamp.replace(tzinfo=None)
        return value


class StaleTimestamps(Altered):
    def alter_value(self, value):
        value.timestamp -= timedelta(minutes=1)
        return value


class ValueIsMean(Altered):
    def alter_value(self, value):
        value.value = value.metadata.get("avg", value.value) if "p95" in value.metadata else value.value
        return value


class ValueIsCount(Altered):
    def alter_value(self, value):
        value.value = value.metadata["count"] if value.metric_type is MetricType.COUNTER else value.value
        return value


class TimersInSeconds(Altered):
    def alter_value(self, value):
        value.unit = MetricUnit.SECONDS if value.metric_type is MetricType.TIMER else value.unit
        return value


class TimersAreHistograms(Altered):
    def alter_value(self, value):
        if value.metric_type is MetricType.TIMER:
            value.metric_type = MetricType.HISTOGRAM
        return value


class NoOperations(InMemoryAggregator):
    def get_metrics_by_tag(self, tag_filter):
        values = super().get_metrics_by_tag(tag_filter)
        return [value for value in values if not value.metadata.get("operation")]


class OperationsUnmarked(Altered):
    def alter_value(self, value):
        value.metadata.pop("operation", None)
        return value


class OutcomesWithoutRate(Altered):
    def alter_value(self, value):
        value.metadata.pop("success_rate", None)
        return value


class ExportsNothing(InMemoryAggregator):
    def export_metrics(self, format="json"):
        super().export_metrics(format)
        return "{}"


class ExportsPython(InMemoryAggregator):
    def export_metrics(self, format="json"):
        return repr(json.loads(super().export_metrics(format)))


class ExportsNoTags(InMemoryAggregator):
    def export_metrics(self, format="json"):
        document = json.loads(super().export_metrics(format))
        for metric in document["metrics"]:
            metric["tags"] = {}
        return json.dumps(document)


class ExportsWholeNumbers(InMemoryAggregator):
    def export_metrics(self, format="json"):
        document = json.loads(super().export_metrics(format), parse_float=lambda text: int(float(text)))
        return json.dumps(document)


class ExportsTheFirst(InMemoryAggregator):
    def export_metrics(self, format="json"):
        return json.dumps(json.loads(super().export_metrics(format))["metrics"][:1])


class AnyFormatIsJson(InMemoryAggregator):
    def export_metrics(self, format="json"):
        try:
            return super().export_metrics(format)
        except InvalidInputError:
            return super().export_metrics()


class FormatsUntold(InMemoryAggregator):
    def export_metrics(self, format="json"):
        try:
            return super().export_metrics(format)
        except InvalidInputError:
            raise InvalidInputError(f"unknown format {format!r}") from None


class CsvByDefault(InMemoryAggregator):
    def export_metrics(self, format="csv"):
        return super().export_metrics(format)


class TopAscending(InMemoryAggregator):
    def get_top_metrics(self, metric_type, limit=10):
        found = super().get_top_metrics(metric_type, 1_000)
        super().get_top_metrics(metric_type, limit)
        return found[::-1][:limit]


class TopUnsorted(InMemoryAggregator):
    def get_top_metrics(self, metric_type, limit=10):
        super().get_top_metrics(metric_type, limit)
        if metric_type is MetricType.RATE:
            return super().get_top_metrics(metric_type, limit)
        return [value for value in self.get_metrics_by_tag({}) if value.metric_type is metric_type][:limit]


class LimitIgnored(InMemoryAggregator):
    def get_top_metrics(self, metric_type, limit=10):
        return super().get_top_metrics(metric_type, max(1_000, limit))


class LimitByOneMore(InMemoryAggregator):
    def get_top_metrics(self, metric_type, limit=10):
        return super().get_top_metrics(metric_type, limit + 1)


class FiveByDefault(InMemoryAggregator):
    def get_top_metrics(self, metric_type, limit=5):
        return super().get_top_metrics(metric_type, limit)


class NegativeLimitCountsFromTheEnd(InMemoryAggregator):
    def get_top_metrics(self, metric_type, limit=10):
        return super().get_top_metrics(metric_type, 1_000)[:limit]


class TopOfAllTypes(InMemoryAggregator):
    def get_top_metrics(self, metric_type, limit=10):
        if metric_type is MetricType.RATE:
            return super().get_top_metrics(metric_type, limit)
        values = sorted(self.get_metrics_by_tag({}), key=lambda value: -value.value)
        return values[:limit]


class NoRates(InMemoryAggregator):
    def get_top_metrics(self, metric_type, limit=10):
        return [] if metric_type is MetricType.RATE else super().get_top_metrics(metric_type, limit)


class RatesAreTotals(InMemoryAggregator):
    def get_top_metrics(self, metric_type, limit=10):
        chosen = MetricType.COUNTER if metric_type is MetricType.RATE else metric_type
        return super().get_top_metrics(chosen, limit)


class ReadsLock(InMemoryAggregator):
    """Holds a lock while it reads, so that a signal handler waits for its own thread."""

    lock = threading.Lock()

    def get_metric_summary(self, metric_name, time_window=None):
        if "recording" in vars(self):
            return super().get_metric_summary(metric_name, time_window)
        with self.lock:
            return super().get_metric_summary(metric_name, time_window)


globals().update({name: test for name, test in contracts_of(globals()).items() if name != "TestAltered"})
