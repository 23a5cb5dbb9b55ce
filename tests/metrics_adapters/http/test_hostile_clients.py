"""A real Prometheus loses no scrape while many slow, idle and hostile clients are connected."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack

import psutil
import pytest

from metrics_adapters.asgi import serve_app
from metrics_adapters.prometheus import serve
from metrics_framework import MetricsSystem
from tests.servers.fixtures import required
from tests.servers.prometheus import running_prometheus

pytest.importorskip("uvicorn")

JOBS = """
- job_name: server
  scrape_interval: 1s
  scrape_timeout: 1s
  static_configs: [{{targets: ["127.0.0.1:{server}"]}}]
  authorization: {{credentials: s3cret}}
- job_name: app
  scrape_interval: 1s
  scrape_timeout: 1s
  static_configs: [{{targets: ["127.0.0.1:{app}"]}}]
  authorization: {{credentials: s3cret}}
"""

CLIENTS = 1_000

PROGRAM = """
import itertools, random, selectors, socket, sys, time
ports, count = list(map(int, sys.argv[1:3])), int(sys.argv[3])
get, host = b"GET /metrics HTTP/1.1\\r\\n", b"Host: a\\r\\n"
forms = [
    b"",
    b"G",
    get + b"x: ",
    (get + host + b"\\r\\n") * 5,
    b"POST /metrics HTTP/1.1\\r\\n" + host + b"Content-Length: 1000000\\r\\n\\r\\nx",
    get + host * 2 + b"Content-Length: 0\\r\\nContent-Length: 5\\r\\n\\r\\n",
    get + b"Transfer-Encoding: chunked\\r\\n\\r\\nffffffff\\r\\n",
    b"\\x16\\x03\\x01" * 20,
    get + b"a: b\\r\\n" * 3000,
]
held = []
for number in itertools.count():
    try:
        sock = socket.create_connection(("127.0.0.1", ports[number % 2]), 5)
        sock.setblocking(False)
        sock.send(forms[number // 2 % len(forms)])
        held.append(sock)
    except OSError:
        pass
    if len(held) == count:
        print("full", flush=True)
    if len(held) >= count:
        held.pop(random.randrange(len(held))).close()
        for one in random.sample(held, 5):  # one byte more of a request that never ends
            try:
                one.send(b"a")
            except OSError:
                pass
        time.sleep(0.005)
"""


@pytest.mark.soak
def test_prometheus_loses_no_scrape_among_hostile_clients(tmp_path, soak):
    """A thousand connections, replaced all the time, leave each scrape and every descriptor alone."""
    seconds = max(15, soak(120))
    metrics = MetricsSystem()
    metrics.collector.increment("orders")
    with ExitStack() as running:
        server = running.enter_context(serve(0, metrics=metrics, bearer_token="s3cret"))
        app = running.enter_context(serve_app(metrics, 0, bearer_token="s3cret"))
        jobs = JOBS.format(server=server.port, app=app.port)
        prometheus = running.enter_context(running_prometheus(required("prometheus"), tmp_path, jobs))
        prometheus.wait_until("up == 1", lambda found: len(found) == 2)
        before = psutil.Process().num_fds()
        hostile = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(server.port), str(app.port), str(CLIENTS)],
            stdout=subprocess.PIPE,
        )
        try:
            assert hostile.stdout is not None
            assert hostile.stdout.readline() == b"full\n"
            time.sleep(seconds)
            assert psutil.Process().num_fds() < before + 600
            lost = prometheus.query(f"count_over_time(up[{seconds}s]) - sum_over_time(up[{seconds}s])")
            scrapes = prometheus.query(f"count_over_time(up[{seconds}s])")
        finally:
            hostile.kill()
            hostile.communicate()
        assert [number for _, number in lost] == [0.0, 0.0], lost
        assert all(number >= seconds - 2 for _, number in scrapes), scrapes
        end = time.monotonic() + 20
        while psutil.Process().num_fds() > before + 4:
            assert time.monotonic() < end, "descriptors are leaked"
            time.sleep(0.1)
