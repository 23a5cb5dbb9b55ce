"""Gauge callbacks: values that are read when somebody looks, such as the size of a queue or a pool.

`GaugeCallbacks` is what there is to know. Whatever it calls is somebody else's code, so each call has a
deadline, and one that raises or hangs costs its own sample only.
"""

from metrics_framework.callbacks.registry import CallbackState, GaugeCallbacks

__all__ = ["CallbackState", "GaugeCallbacks"]
