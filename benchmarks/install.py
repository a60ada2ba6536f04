"""Installs the other runners and compiles the C programs into `.peers/`, once per version; builds the images."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import psycopg

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".peers"

NPM = {"dbmate": "2.36.0", "drizzle-orm": "0.45.4", "node-pg-migrate": "9.0.0", "pg": "8.23.1"}
PYPI = {
    "alembic": "1.20.1",
    "Django": "5.2.19",
    "psycopg2-binary": "2.9.13",
    "SQLAlchemy": "2.1.9",
    "yoyo-migrations": "9.0.0",
}
SUITE = "bookworm"  # the Debian release that sql-migrate is taken from
IMAGE = "pg-predeploy-bench"
GCC = """
if ! command -v gcc >/dev/null || ! [ -e /usr/include/stdio.h ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -yqq --no-install-recommends gcc libc6-dev >/dev/null
fi
gcc -O2 -Wall -Wextra -Werror"""
# Like ci/test-image, use the official base image, or build one from Debian packages if no registry is reachable.
BUILD = f"""
if [ -z "${{PYTHON_IMAGE:-}}" ] && ! docker pull --quiet python:3.15-slim >/dev/null 2>&1; then
    eval "$(ci/standin-images)"
    export CA_BUNDLE="${{CA_BUNDLE:-${{PIP_CERT:-/dev/null}}}}"
fi
IMAGE={IMAGE} scripts/build"""


class Failed(Exception):
    """A program cannot be installed, or its result is wrong; the message gives the reason."""


def node_modules() -> Path:
    """Return the directory of the runners that are installed with npm."""
    packages = " ".join(f"{name}@{version}" for name, version in NPM.items())
    npm = f"npm install --no-audit --no-fund --loglevel=error {packages}"
    return _installed("npm", f"echo '{{\"private\": true}}' >package.json; {npm}") / "node_modules"


def dbmate() -> Path:
    """Return the dbmate binary itself, not the wrapper script that npm installs."""
    found = list(node_modules().glob("@dbmate/*/bin/dbmate"))
    if len(found) != 1:
        raise Failed("the npm package has no dbmate binary for this system")
    return found[0]


def alembic() -> Path:
    """Return alembic, installed in a separate virtual environment."""
    packages = " ".join(f"{name}=={version}" for name, version in PYPI.items())
    pip = f"bin/python -m pip install -qq --disable-pip-version-check {packages}"
    return _installed("python", f"'{sys.executable}' -m venv .; {pip}") / "bin/alembic"


def sql_migrate() -> Path:
    """Return sql-migrate from Debian's package, which is unpacked but not installed."""
    script = f"'{ROOT}/ci/debian-packages' \"$PWD\" {SUITE} sql-migrate"
    return _installed("debian", script) / "usr/bin/sql-migrate"


@cache
def compiled(name: str) -> Path:
    """Compile a program in `native/`; `floor` is linked with the libpq in psycopg's wheel, which pg-predeploy uses."""
    source = Path(__file__).with_name("native") / f"{name}.c"
    options = "-static" if name == "nothing" else ""
    if name == "floor":
        found = list(Path(psycopg.__file__).parents[1].glob("psycopg_binary.libs/libpq-*.so*"))
        if len(found) != 1:
            raise Failed("cannot find the libpq in psycopg's wheel")
        options = f"'{found[0]}' -Wl,-rpath,'{found[0].parent}' -Wl,--unresolved-symbols=ignore-in-shared-libs"
    return _installed(name, f"{GCC} -o {name} '{source}' {options}", source.read_text()) / name


def built_image() -> str:
    """Build the pg-predeploy image from the working tree and return its name."""
    shell(BUILD)
    return IMAGE


def image_with(program: Path) -> str:
    """Create an image that contains only one static program, and return the image's name."""
    image = f"{IMAGE}/{program.name}"
    shell(f"tar -cC '{program.parent}' {program.name} | docker import - {image}")
    return image


def shell(script: str, directory: Path = ROOT) -> str:
    """Run a shell script and return its standard output; raise `Failed` unless it exits with 0."""
    # Make npm trust the system's certificates and those that pip is configured to use.
    environment = {"NODE_USE_SYSTEM_CA": "1", "NODE_EXTRA_CA_CERTS": os.environ.get("PIP_CERT", ""), **os.environ}
    command = ["timeout", "--foreground", "600", "sh", "-euc", script]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = " / ".join(done.stderr.strip().splitlines()[-3:])
        raise Failed(f"{last[-400:]} (exit code {done.returncode})")
    return done.stdout.strip()


def _installed(name: str, script: str, source: str = "") -> Path:
    """Run a script in a new directory, unless an earlier benchmark has run it, and return the directory."""
    place = PEERS / f"{name}-{hashlib.sha256((script + source).encode()).hexdigest()[:12]}"
    finished = place.with_suffix(".finished")
    PEERS.mkdir(exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes
        if not finished.exists():
            print(f"Installing {name} into {PEERS.name} ...", file=sys.stderr, flush=True)
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            shell(script, place)
            finished.touch()
    return place
