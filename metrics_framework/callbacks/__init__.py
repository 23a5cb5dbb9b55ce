"""Gauge callbacks: functions that are called at each collection, such as one that returns a queue's size."""

from metrics_framework.callbacks.gauges import CallbackState, GaugeCallbacks

__all__ = ["CallbackState", "GaugeCallbacks"]
