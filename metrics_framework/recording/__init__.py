"""The store of all numbers, with its metrics and series, aggregates, and time windows.

Only adapters and the facade use this package; applications use the contracts.
"""

from metrics_framework.recording.cardinality import Budgets
from metrics_framework.recording.engine import Distribution
from metrics_framework.recording.results import Failure, MetricReading, OutcomeReading, SeriesReading
from metrics_framework.recording.rules import Rule
from metrics_framework.recording.state import Description
from metrics_framework.recording.store import Store
from metrics_framework.recording.windows import History, Interval

__all__ = [
    "Budgets",
    "Description",
    "Distribution",
    "Failure",
    "History",
    "Interval",
    "MetricReading",
    "OutcomeReading",
    "Rule",
    "SeriesReading",
    "Store",
]
