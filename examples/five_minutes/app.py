"""An application that Prometheus scrapes: ``python app.py [PORT]``. Stop it with Ctrl-C."""

import random
import sys
import time
from contextlib import suppress

from metrics_adapters.prometheus import serve
from metrics_framework import MetricsSystem

metrics = MetricsSystem()
queue: list[str] = []
metrics.callbacks.add("queue.size", lambda: len(queue))


def sell(item: str) -> None:
    """Sell an item. Fails if the warehouse does not answer."""
    with metrics.measure("order", {"item": item}):
        time.sleep(random.lognormvariate(-4, 0.6))
        if random.random() < 0.05:
            raise ConnectionError("no answer from the warehouse")
    metrics.collector.increment("items.sold", {"item": item})


def main() -> None:
    """Sell items until interrupted."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9464
    with serve(port, metrics=metrics) as server:
        print(f"metrics at {server.url}", flush=True)
        while True:
            queue.extend(random.choices(["book", "chair", "lamp"], weights=[5, 3, 1], k=random.randint(1, 9)))
            while queue:
                with suppress(ConnectionError):
                    sell(queue.pop())


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
