"""Finds the servers that tests start, and fetches those that are not on the machine.

Run as a program (`make servers`) it fetches what is missing from Debian's packages into `.servers/`: nothing
is installed and nobody needs to be root.
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
}
"""The programs that tests start, and the Debian package that each is in."""


def find(program: str) -> str | None:
    """Return the path of a program on ``PATH`` or in the cache, ``None`` where it is on neither."""
    return shutil.which(program) or shutil.which(program, path=CACHE / "usr" / "bin")


def missing(program: str) -> str:
    """Return what to tell somebody whose machine does not have a program."""
    return f"{program} is not on this machine; `make servers` fetches it"


def fetch() -> None:
    """Fetch the programs that are not found, with package lists as new as the packages themselves.

    Raises:
        CalledProcessError: If a package could not be had; the package manager has said why.
    """
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
