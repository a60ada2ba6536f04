"""The machine, as the kernel and the programs describe it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg

from benchmarks.install import DEBIAN, NPM, PYPI
from tests.support.postgres_server import find_binaries


def describe() -> dict[str, str]:
    """Return what the figures depend on, by name."""
    cpu = re.search(r"model name\s*:\s*(.+)", _read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s*(\d+)", _read("/proc/meminfo"))
    system = re.search(r'PRETTY_NAME="(.+)"', _read("/etc/os-release"))
    return {
        "processor": f"{os.cpu_count()} x {cpu[1] if cpu else platform.machine()}",
        "memory": f"{int(memory[1]) / 1024**2:.1f} GiB" if memory else "unknown",
        "system": f"{system[1] if system else platform.system()}, Linux {platform.release()}",
        "file system of the data": _file_system(tempfile.gettempdir()),
        "load before the first run": " ".join(_read("/proc/loadavg").split()[:3]),
        "Postgres": _version([str(find_binaries() / "postgres"), "--version"]),
        "Python": platform.python_version(),
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__}, libpq {psycopg.pq.version()})",
        "node": _version(["node", "--version"]),
        "docker": _version(["docker", "--version"]),
        "peers": ", ".join(
            f"{name} {version}" for name, version in sorted({**NPM, **PYPI}.items()) if name not in _PARTS
        )
        + "".join(f", {package} of Debian {suite}" for package, suite in DEBIAN.items()),
    }


_PARTS = {"pg", "setuptools"}


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _version(command: list[str]) -> str:
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return "none"
    found = re.search(r"\d[\w.]+", said)
    return found[0] if found else "none"


def _file_system(place: str) -> str:
    """Return the type of the file system that is mounted nearest above a path."""
    mounts = [line.split() for line in _read("/proc/self/mounts").splitlines()]
    above = [fields for fields in mounts if Path(place).is_relative_to(fields[1])]
    return max(above, key=lambda fields: len(fields[1]))[2] if above else f"unknown on {sys.platform}"
