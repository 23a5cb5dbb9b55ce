"""How numbers are kept: series keys, sums, distributions, time windows and the store.

Only adapters and the facade look in here; applications see the contracts.
"""

from metrics_framework.recording.distribution import Distribution
from metrics_framework.recording.store import Failure, OutcomeReading, SeriesReading, Store

__all__ = ["Distribution", "Failure", "OutcomeReading", "SeriesReading", "Store"]
