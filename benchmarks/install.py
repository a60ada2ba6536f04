"""The peers and the C programs, in `.peers/`: what npm, PyPI, Debian and gcc have to be asked for.

Each part is had once and kept. One that cannot be had is an `Unavailable` that says why; the rest goes on without it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ci.fetch_postgres import npm as find_npm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".peers"
SOURCES = Path(__file__).with_name("native")
INSTALL_TIMEOUT_S = 300

NPM = {
    "dbmate": "2.36.0",
    "graphile-migrate": "1.4.1",
    "node-pg-migrate": "9.0.0",
    "pg": "8.23.1",
    "postgres-migrations": "5.3.0",
}
PYPI = {
    "alembic": "1.20.1",
    "psycopg2-binary": "2.9.13",
    "setuptools": "80.9.0",
    "SQLAlchemy": "2.1.9",
    "yandex-pgmigrate": "1.0.13",
    "yoyo-migrations": "9.0.0",
}
DEBIAN = {"sql-migrate": "bookworm"}


class Unavailable(Exception):
    """Something could not be had here; the text says what, and what to do."""


def node_modules() -> Path:
    """Return npm's directory of the peers that it ships."""

    def fill(place: Path) -> None:
        (place / "package.json").write_text('{"private": true}\n')
        environ = {"NODE_USE_SYSTEM_CA": "1", **os.environ}
        if "PIP_CERT" in os.environ:
            environ.setdefault("NODE_EXTRA_CA_CERTS", os.environ["PIP_CERT"])
        wanted = [f"{name}@{version}" for name, version in NPM.items()]
        _run([_npm(), "install", "--no-audit", "--no-fund", "--loglevel=error", *wanted], place, environ)

    return _kept("npm", NPM, fill) / "node_modules"


def node() -> str:
    """Return Node's path: npm brings it."""
    _npm()
    found = shutil.which("node")
    if not found:
        raise Unavailable("npm is here and node is not")
    return found


def python_programs() -> Path:
    """Return the bin directory of a virtual environment with the peers from PyPI."""

    def fill(place: Path) -> None:
        _run([sys.executable, "-m", "venv", str(place)], ROOT)
        wanted = [f"{name}=={version}" for name, version in PYPI.items()]
        _run([f"{place}/bin/python", "-m", "pip", "install", "-qq", "--disable-pip-version-check", *wanted], ROOT)

    return _kept("python", PYPI, fill) / "bin"


def debian_program(package: str) -> Path:
    """Return the program that a Debian package is named for, unpacked and not installed."""
    suite = DEBIAN[package]

    def fill(place: Path) -> None:
        _run([str(ROOT / "ci/debian-packages"), str(place), suite, package], ROOT)

    program = _kept(package, {package: suite}, fill) / "usr/bin" / package
    if subprocess.run([program, "--help"], capture_output=True, check=False).returncode not in {0, 1, 127}:
        raise Unavailable(f"Debian's {package} does not start on this system")
    return program


def compiled(name: str) -> Path:
    """Return one of the C programs in `native/`: an executable, or a library where it is named `slow_fsync`."""
    source = SOURCES / f"{name}.c"
    options = {"slow_fsync": ["-shared", "-fPIC"], "nothing": ["-static"], "floor": _libpq()}.get(name, [])

    def fill(place: Path) -> None:
        _run([_gcc(), "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(place / name), str(source), *options], ROOT)

    return _kept(name, {"source": source.read_text(), "options": " ".join(options)}, fill) / name


def _npm() -> str:
    try:
        return find_npm()
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"npm: {error}") from error


def _libpq() -> list[str]:
    """Return the linker's words for the very libpq that the program under test uses."""
    package = find_spec("psycopg_binary")
    found = (
        list(Path(package.origin).parents[1].glob("psycopg_binary.libs/libpq-*.so*"))
        if package and package.origin
        else []
    )
    if len(found) != 1:
        raise Unavailable("psycopg's wheel brings no libpq here to link with")
    return [str(found[0]), f"-Wl,-rpath,{found[0].parent}", "-Wl,--unresolved-symbols=ignore-in-shared-libs"]


@cache
def _gcc() -> str:
    if not (shutil.which("gcc") and Path("/usr/include/stdio.h").exists()):
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise Unavailable("gcc is not installed, with the C library's headers")
        _run(["apt-get", "update", "-qq"], ROOT)
        noninteractive = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        _run(["apt-get", "install", "-yqq", "--no-install-recommends", "gcc", "libc6-dev"], ROOT, noninteractive)
    return "gcc"


def _kept(name: str, pins: dict[str, str], fill: Callable[[Path], None]) -> Path:
    """Return the directory that `fill` has filled, now or in an earlier run with the same pins."""
    digest = hashlib.sha256(repr(sorted(pins.items())).encode()).hexdigest()[:12]
    place = PEERS / f"{name}-{digest}"
    finished = place.with_suffix(".finished")
    if not finished.exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        print(f"getting {name} ...", file=sys.stderr, flush=True)
        fill(place)
        finished.touch()
    return place


def _run(command: Sequence[str], cwd: Path, environ: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{Path(command[0]).name}: {error}") from error
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise Unavailable(f"{Path(command[0]).name} ended with {done.returncode}: {''.join(last)}")
