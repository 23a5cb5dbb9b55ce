"""Servers that receive exports. Each can be killed and restarted at its address."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlencode

from tests.servers.process import request

_STARTING = 15.0
_INSPECTED = re.compile(r"(?:'([^']*)'|([A-Za-z_]\w*)): (-?[\d.]+(?:e[+-]?\d+)?)(?=[,\s}])")
"""A name and a number, as Node.js writes an object."""

Rows = list[dict[str, object]]
"""What a query finds: column to value."""


class Receiver:
    """A server for one test.

    Args:
        command: The program and its arguments.
        folder: Its working directory, which gets its log.
        is_ready: Returns whether it answers; may raise an `OSError` until then.
        variables: Further environment variables.
    """

    def __init__(
        self,
        command: list[str],
        folder: Path,
        is_ready: Callable[[], bool],
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._command = command
        self._folder = folder
        self._is_ready = is_ready
        self._variables = {**os.environ, **(variables or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            RuntimeError: If it is not ready within 15 seconds; the message has its log.
        """
        log = self._folder / "server.log"
        with log.open("a") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + _STARTING
        while self._process.poll() is None and time.monotonic() < end:
            try:
                if self._is_ready():
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise RuntimeError(f"{self._command} is not ready:\n{log.read_text()}")

    def suspend(self) -> None:
        """Stop it without closing its sockets: its kernel accepts connections, and requests get no answer."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """Kill it; repeated calls do nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


@contextmanager
def started(receiver: Receiver) -> Iterator[None]:
    """Start a receiver, and end it even if the test fails."""
    try:
        receiver.start()
        yield
    finally:
        receiver.kill()


class VictoriaMetrics(Receiver):
    """VictoriaMetrics, which accepts InfluxDB's line protocol over HTTP and Graphite's over TCP.

    Attributes:
        address: Host and port of HTTP.
        graphite: Host and port of Graphite's protocol.
    """

    def __init__(self, program: str, folder: Path) -> None:
        http, graphite = free_ports(socket.SOCK_STREAM, 2)
        self.address, self.graphite = f"127.0.0.1:{http}", f"127.0.0.1:{graphite}"
        command = [
            *(program, "-storageDataPath=data", "-retentionPeriod=1", "-search.latencyOffset=0s"),
            *(f"-httpListenAddr={self.address}", f"-graphiteListenAddr={self.graphite}"),
            *("-search.disableCache", "-memory.allowedPercent=10"),
        ]
        super().__init__(command, folder, lambda: request("GET", self.address, "/health")[0] == 200)

    def series(self, selector: str, least: int = 1) -> dict[str, float]:
        """Return the last value of each series that a selector matches, by its labels as JSON.

        Args:
            selector: Which series.
            least: How many to wait for, at most ten seconds: new ones are not found at once.
        """
        end = time.monotonic() + 10
        while True:
            request("GET", self.address, "/internal/force_flush")
            _, text = request("GET", self.address, f"/api/v1/export?{urlencode({'match[]': selector})}")
            found = [json.loads(line) for line in text.splitlines()]
            if len(found) >= least or time.monotonic() > end:
                return {json.dumps(one["metric"], sort_keys=True): one["values"][-1] for one in found}
            time.sleep(0.05)


class Influx(Receiver):
    """InfluxDB 1.6, a strict parser of its line protocol.

    Attributes:
        address: Host and port of HTTP.
    """

    def __init__(self, program: str, folder: Path) -> None:
        http, rpc = free_ports(socket.SOCK_STREAM, 2)
        self.address = f"127.0.0.1:{http}"
        variables = {
            "INFLUXDB_META_DIR": "meta",
            "INFLUXDB_DATA_DIR": "data",
            "INFLUXDB_DATA_WAL_DIR": "wal",
            "INFLUXDB_HTTP_BIND_ADDRESS": self.address,
            "INFLUXDB_BIND_ADDRESS": f"127.0.0.1:{rpc}",
            "INFLUXDB_MONITOR_STORE_ENABLED": "false",
            "HOME": str(folder),
        }
        ready = lambda: request("GET", self.address, "/ping")[0] == 204  # noqa: E731
        super().__init__([program, "run"], folder, ready, variables)

    def query(self, query: str, database: str = "") -> Rows:
        """Run a query and return its rows; ``measurement`` is the name of the measurement.

        Raises:
            ValueError: If it is answered with an error.
        """
        method = "GET" if query.startswith(("SELECT", "SHOW")) else "POST"
        _, text = request(method, self.address, f"/query?db={database}&q={quote(query, safe='')}")
        (result,) = json.loads(text)["results"]
        if "error" in result:
            raise ValueError(f"{query}: {result['error']}")
        return [
            {
                "measurement": series["name"],
                **series.get("tags", {}),
                **dict(zip(series["columns"], row, strict=True)),
            }
            for series in result.get("series", [])
            for row in series["values"]
        ]


class Statsd(Receiver):
    """The reference daemon of StatsD, which sums counters until it ends.

    Attributes:
        address: Host and port of UDP.
    """

    def __init__(self, node: str, script: str, folder: Path) -> None:
        (port,) = free_ports(socket.SOCK_DGRAM, 1)
        (self._management,) = free_ports(socket.SOCK_STREAM, 1)
        self.address = f"127.0.0.1:{port}"
        configuration = {
            "address": "127.0.0.1",
            "port": port,
            "mgmt_address": "127.0.0.1",
            "mgmt_port": self._management,
            "flushInterval": 3_600_000,
            "backends": [],
        }
        (folder / "statsd.json").write_text(json.dumps(configuration))
        super().__init__(
            [node, script, "statsd.json"], folder, lambda: self._ask("health").startswith("health: up")
        )

    @property
    def counters(self) -> dict[str, float]:
        """Its counters since its start, without internal ones."""
        return {name: value for name, value in self._numbers("counters").items() if name[:7] != "statsd."}

    @property
    def gauges(self) -> dict[str, float]:
        """Its gauges, without internal ones."""
        return {name: value for name, value in self._numbers("gauges").items() if name[:7] != "statsd."}

    @property
    def bad_lines(self) -> float:
        """The number of lines that it could not parse."""
        return self._numbers("counters").get("statsd.bad_lines_seen", 0)

    def _numbers(self, kind: str) -> dict[str, float]:
        pairs = _INSPECTED.findall(self._ask(kind))
        return {quoted or plain: float(number) for quoted, plain, number in pairs}

    def _ask(self, question: str) -> str:
        with socket.create_connection(("127.0.0.1", self._management), 10) as connection:
            connection.sendall(f"{question}\n".encode())
            answer = b""
            while not (answer.endswith(b"END\n\n") or (question == "health" and answer.endswith(b"\n"))):
                piece = connection.recv(65_536)
                if not piece:
                    raise ConnectionError(f"{question}: {answer!r}")
                answer += piece
        return answer.decode().removesuffix("END\n\n")


class Carbon(Receiver):
    """Graphite's daemon, which writes a file for each path.

    Attributes:
        address: Host and port of the plaintext protocol.
    """

    def __init__(self, program: str, folder: Path) -> None:
        (port,) = free_ports(socket.SOCK_STREAM, 1)
        self.address = f"127.0.0.1:{port}"
        self._python = Path(program).with_name("python")
        self._files = folder / "data"
        (folder / "carbon.conf").write_text(
            "[cache]\n"
            "LOCAL_DATA_DIR = data/\nLOG_DIR = log/\nPID_DIR = .\n"
            f"LINE_RECEIVER_INTERFACE = 127.0.0.1\nLINE_RECEIVER_PORT = {port}\n"
            "PICKLE_RECEIVER_PORT = 0\nCACHE_QUERY_INTERFACE = 127.0.0.1\nCACHE_QUERY_PORT = 0\n"
            "MAX_CREATES_PER_MINUTE = inf\nMAX_UPDATES_PER_SECOND = inf\n"
            "ENABLE_TAGS = False\nTAG_HASH_FILENAMES = False\nCARBON_METRIC_INTERVAL = 0\n"
        )
        (folder / "storage-schemas.conf").write_text("[all]\npattern = .*\nretentions = 1s:1h\n")
        command = [str(self._python), program, f"--config={folder / 'carbon.conf'}", "--nodaemon", "start"]
        variables = ("GRAPHITE_ROOT", "GRAPHITE_CONF_DIR", "GRAPHITE_STORAGE_DIR")
        folders: dict[str, str] = dict.fromkeys(variables, str(folder))
        super().__init__(command, folder, self._is_open, folders)

    def _is_open(self) -> bool:
        host, port = self.address.split(":")
        with socket.create_connection((host, int(port)), 1):
            return True

    def series(self) -> dict[str, float]:
        """Return the last value of each path. A tag follows its path after a semicolon."""
        command = [str(self._python), "-c", _READ_WHISPER, str(self._files)]
        found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return found


_READ_WHISPER = """
import json, pathlib, sys, whisper
root, found = pathlib.Path(sys.argv[1]), {}
for file in root.rglob("*.wsp"):
    parts = str(file.relative_to(root)).removesuffix(".wsp").split("/")
    is_tagged = parts[0] == "_tagged"  # then two folders of a hash, and a value may have slashes
    path = "/".join(parts[3:]).replace("_DOT_", ".") if is_tagged else ".".join(parts)
    values = [value for value in whisper.fetch(str(file), 0)[1] if value is not None]
    if values:
        found[path] = values[-1]
print(json.dumps(found))
"""
"""Run by carbon's Python, which has the library of its files."""


def free_ports(kind: socket.SocketKind, number: int) -> list[int]:
    """Return unused ports of 127.0.0.1, for servers that cannot choose a port themselves.

    They are below the ports that systems give to clients: a connection of another test cannot take one first.
    """
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < number:
            one = socket.socket(socket.AF_INET, kind)
            try:
                one.bind(("127.0.0.1", random.randrange(15_000, 32_000)))
            except OSError:
                one.close()
            else:
                sockets.append(one)
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
