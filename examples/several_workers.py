"""The order service in FastAPI with several worker processes. Any of them answers ``/metrics`` for all.

    pip install fastapi httpx uvicorn gunicorn

    uvicorn --app-dir examples --workers 4 several_workers:app
    gunicorn --chdir examples -w 4 -k asgi several_workers:app
    gunicorn --chdir examples -w 4 -k asgi --preload --max-requests 1000 several_workers:app

    curl -d '{"item": "book", "quantity": 2}' -H 'Content-Type: application/json' http://127.0.0.1:8000/orders
    curl http://127.0.0.1:8000/metrics

http://127.0.0.1:8000/internal/ shows the numbers of all workers in a browser. Restart a worker, or kill it:
the counters go on. The simulated stock of each worker is its own, and so its gauge is that of the worker that
sold last.
"""

from __future__ import annotations

from scrape_fastapi import create_scraped_app

from metrics_adapters.asgi import make_app
from metrics_framework import MetricsSystem

metrics = MetricsSystem(shared=True)
app = create_scraped_app(metrics)
app.mount("/internal", make_app(metrics))
