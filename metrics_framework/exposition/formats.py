"""The text formats of `export_metrics`, by name: pure functions from metric values to text."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from metrics_framework.capabilities import IteratesMetrics
from metrics_framework.errors import InvalidInputError
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.runtime.cooperative import yield_gil
from metrics_framework.runtime.strict_json import to_json_text
from metrics_framework.validation import word_repr
from metrics_framework.values import MetricValue


def to_plain(value: MetricValue) -> dict[str, Any]:
    """Return a metric value as data for JSON; see `metrics_framework.runtime.strict_json` for its values."""
    return {
        "name": value.name,
        "type": value.metric_type.value,
        "value": value.value,
        "unit": value.unit.value,
        "timestamp": value.timestamp.isoformat(),
        "tags": value.tags,
        "metadata": value.metadata,
    }


def each_value(aggregator: MetricsAggregator) -> Iterator[MetricValue]:
    """Yield all values of an aggregator, and yield the GIL if this thread is cooperative; see `yield_gil`.

    An aggregator that is an `IteratesMetrics` is read one value at a time.
    """
    values: Iterable[MetricValue] = (
        aggregator.iter_metrics()
        if isinstance(aggregator, IteratesMetrics)
        else aggregator.get_metrics_by_tag({})
    )
    for value in values:
        yield_gil()
        yield value


def to_json(values: Iterable[MetricValue]) -> str:
    """Return one JSON document: ``{"metrics": [...]}``, with one value per line."""
    lines = ",\n".join(to_json_text(to_plain(value)) for value in values)
    return f'{{"metrics": [\n{lines}\n]}}\n' if lines else '{"metrics": []}\n'


def to_jsonl(values: Iterable[MetricValue]) -> str:
    """Return one JSON object per line, for each value."""
    return "".join(to_json_text(to_plain(value)) + "\n" for value in values)


def to_csv(values: Iterable[MetricValue]) -> str:
    """Return a header and one row for each value. Tags and metadata are JSON in their cells.

    A lone surrogate is escaped, as in JSON.
    """
    buffer = io.StringIO(newline="")
    columns = ["name", "type", "value", "unit", "timestamp", "tags", "metadata"]
    writer = csv.DictWriter(buffer, columns)
    writer.writeheader()
    for value in values:
        row = to_plain(value)
        writer.writerow({**row, "tags": to_json_text(row["tags"]), "metadata": to_json_text(row["metadata"])})
    return buffer.getvalue().encode(errors="backslashreplace").decode()


def to_prometheus(values: Iterable[MetricValue]) -> str:
    """Return text in Prometheus text format 0.0.4; see `metrics_framework.exposition.text.to_prometheus`."""
    from metrics_framework.exposition import text  # slow to import: it also reads stores

    return text.to_prometheus(values)


Renderer = Callable[[Iterable[MetricValue]], str]

FORMATS: dict[str, Renderer] = {
    "json": to_json,
    "jsonl": to_jsonl,
    "csv": to_csv,
    "prometheus": to_prometheus,
}


def render(values: Iterable[MetricValue], format: str, formats: Mapping[str, Renderer] = FORMATS) -> str:
    """Return values as text in a format.

    Args:
        values: The values of an aggregator.
        format: The name of the format.
        formats: The known formats, by name.

    Raises:
        InvalidInputError: If the format is unknown; the message lists the known formats.
    """
    renderer = formats.get(format) if isinstance(format, str) else None
    if renderer is None:
        raise InvalidInputError(f"format {word_repr(format)} is unknown; use one of {', '.join(formats)}")
    return renderer(values)
