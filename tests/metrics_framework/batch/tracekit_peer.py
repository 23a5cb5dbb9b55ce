"""tracekit's class as a program: reads a case per line of standard input, and prints its results per line.

Runs in ``.venvs/peers``. The module is loaded without the packages around it, which need far more.
"""

import json
import logging
import sys
import sysconfig
import types
from pathlib import Path


def load():
    """Import ``tracekit.batch.metrics`` from its original file."""
    root = Path(sysconfig.get_path("purelib"), "tracekit")
    for name in ("tracekit", "tracekit.core", "tracekit.batch"):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    from tracekit.batch import metrics

    return metrics


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self):
        self.ns = 0

    def time(self):
        """Return the time that the case sets."""
        return self.ns / 1e9


if __name__ == "__main__":
    from replay import replay

    metrics = load()
    logging.disable()
    clock = metrics.time = Clock()
    for line in sys.stdin:
        clock.ns = 0
        told = replay(metrics, metrics.BatchMetrics, lambda ns: setattr(clock, "ns", ns), json.loads(line))
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
