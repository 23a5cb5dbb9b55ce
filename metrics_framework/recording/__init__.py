"""How numbers are kept: keys of series, distributions, time windows, buffers and ledgers, the store.

Only adapters and the facade look in here; applications see the contracts.
"""

from metrics_framework.recording.commons import Budgets
from metrics_framework.recording.descriptions import Description
from metrics_framework.recording.distribution import Distribution
from metrics_framework.recording.history import Stretch
from metrics_framework.recording.readings import Failure, OutcomeReading, SeriesReading
from metrics_framework.recording.rules import Rule
from metrics_framework.recording.store import Store

__all__ = [
    "Budgets",
    "Description",
    "Distribution",
    "Failure",
    "OutcomeReading",
    "Rule",
    "SeriesReading",
    "Store",
    "Stretch",
]
