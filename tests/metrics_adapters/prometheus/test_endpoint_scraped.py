"""A real Prometheus scrapes the endpoints with TLS, client certificates, passwords and tokens."""

from __future__ import annotations

import re
from contextlib import ExitStack

import pytest
import trustme

from metrics_adapters.prometheus import serve
from metrics_framework import MetricsSystem
from tests.servers.fixtures import required
from tests.servers.prometheus import running_prometheus

JOBS = """
- job_name: mutual
  scheme: https
  static_configs: [{{targets: ["127.0.0.1:{mutual}"]}}]
  tls_config: {{ca_file: ca.pem, cert_file: client.pem, key_file: client.key}}
  basic_auth: {{username: prometheus, password: "open: sesame"}}
- job_name: token
  scheme: https
  static_configs: [{{targets: ["127.0.0.1:{token}"]}}]
  tls_config: {{ca_file: ca.pem}}
  authorization: {{credentials: s3cret}}
- job_name: stranger
  scheme: https
  static_configs: [{{targets: ["127.0.0.1:{mutual}"]}}]
  tls_config: {{ca_file: ca.pem}}
  basic_auth: {{username: prometheus, password: "open: sesame"}}
- job_name: guess
  scheme: https
  static_configs: [{{targets: ["127.0.0.1:{token}"]}}]
  tls_config: {{ca_file: ca.pem}}
  authorization: {{credentials: guess}}
- job_name: plain
  static_configs: [{{targets: ["127.0.0.1:{plain}"]}}]
"""


@pytest.mark.heavy
def test_prometheus_scrapes_with_every_kind_of_authentication(tmp_path, caplog):
    """A client certificate and a password, a token, or none; with wrong credentials a target is down."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name, identity in (("server", "127.0.0.1"), ("client", "prometheus@example.org")):
        issued = authority.issue_cert(identity)
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
    metrics = MetricsSystem()
    metrics.collector.record_counter("orders", 3, {"item": 'a "book"'})
    tls = {"metrics": metrics, "certfile": tmp_path / "server.pem", "keyfile": tmp_path / "server.key"}
    with ExitStack() as running:
        mutual = running.enter_context(
            serve(0, client_cafile=tmp_path / "ca.pem", basic_auth=("prometheus", "open: sesame"), **tls)
        )
        token = running.enter_context(serve(0, bearer_token="s3cret", **tls))
        plain = running.enter_context(serve(0, metrics=metrics))
        with metrics.measure("order.place"):
            pass
        jobs = JOBS.format(mutual=mutual.port, token=token.port, plain=plain.port)
        prometheus = running.enter_context(running_prometheus(required("prometheus"), tmp_path, jobs))
        prometheus.wait_until("count(up)", lambda found: found and found[0][1] == 5)
        allowed = {"mutual", "token", "plain"}
        # On a busy machine, the first scrapes may take longer than Prometheus waits.
        prometheus.wait_until("up == 1", lambda found: {labels["job"] for labels, _ in found} == allowed)
        orders = prometheus.wait_until("orders_total", lambda found: len(found) == 3)
        assert {(labels["job"], labels["item"], value) for labels, value in orders} == {
            (job, 'a "book"', 3) for job in allowed
        }
        metrics.collector.increment("orders", {"item": 'a "book"'})
        prometheus.wait_until("sum(orders_total)", lambda found: found[0][1] == 12)
        counts = prometheus.query("order_place_duration_seconds_count")
        assert [value for _, value in counts] == [1, 1, 1]
        problems = {
            target["labels"]["job"]: target["lastError"]
            for target in prometheus.api("targets", state="active")["activeTargets"]
        }
    # With TLS 1.3 the client may write its request before it reads the alert, into a closed connection.
    refusals = "certificate required|bad certificate|broken pipe|connection reset"
    assert re.search(refusals, problems["stranger"])
    assert "401 Unauthorized" in problems["guess"]
    assert caplog.records == []
