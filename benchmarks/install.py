"""Installs the peers and compiles the C programs into `.peers/`, once for each version; builds the images."""

from __future__ import annotations

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

NPM = {"dbmate": "2.36.0", "node-pg-migrate": "9.0.0", "pg": "8.23.1"}
PYPI = {"alembic": "1.20.1", "psycopg2-binary": "2.9.13", "SQLAlchemy": "2.1.9"}
SUITE = "bookworm"  # of Debian, for sql-migrate
IMAGE = "pg-predeploy-bench"
GCC = """
if ! command -v gcc >/dev/null || ! [ -e /usr/include/stdio.h ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -yqq --no-install-recommends gcc libc6-dev >/dev/null
fi
gcc -O2 -Wall -Wextra -Werror"""
# As ci/test-image does: the official base image, or one of Debian's packages where no registry answers.
BUILD = f"""
if [ -z "${{PYTHON_IMAGE:-}}" ] && ! docker pull --quiet python:3.15-slim >/dev/null 2>&1; then
    eval "$(ci/standin-images)"
    export CA_BUNDLE="${{CA_BUNDLE:-${{PIP_CERT:-/dev/null}}}}"
fi
IMAGE={IMAGE} scripts/build"""


class Failed(Exception):
    """A program cannot be installed, or its work is not as it should be; the text says how."""


def node_modules() -> Path:
    """Return the directory into which npm has installed its peers."""
    packages = " ".join(f"{name}@{version}" for name, version in NPM.items())
    npm = f"npm install --no-audit --no-fund --loglevel=error {packages}"
    return _installed("npm", f"echo '{{\"private\": true}}' >package.json; {npm}") / "node_modules"


def dbmate() -> Path:
    """Return dbmate itself, without the script that npm puts in front of it."""
    found = list(node_modules().glob("@dbmate/*/bin/dbmate"))
    if len(found) != 1:
        raise Failed("npm has no dbmate for this system")
    return found[0]


def alembic() -> Path:
    """Return alembic, in a virtual environment of its own."""
    packages = " ".join(f"{name}=={version}" for name, version in PYPI.items())
    pip = f"bin/python -m pip install -qq --disable-pip-version-check {packages}"
    return _installed("python", f"'{sys.executable}' -m venv .; {pip}") / "bin/alembic"


def sql_migrate() -> Path:
    """Return Debian's sql-migrate, unpacked and not installed."""
    script = f"'{ROOT}/ci/debian-packages' \"$PWD\" {SUITE} sql-migrate"
    return _installed("debian", script) / "usr/bin/sql-migrate"


@cache
def compiled(name: str) -> Path:
    """Return one of the programs in `native/`. The floor uses the libpq of psycopg's wheel, as pg-predeploy does."""
    source = Path(__file__).with_name("native") / f"{name}.c"
    options = "-static" if name == "nothing" else ""
    if name == "floor":
        found = list(Path(psycopg.__file__).parents[1].glob("psycopg_binary.libs/libpq-*.so*"))
        if len(found) != 1:
            raise Failed("psycopg's wheel has no libpq to link with")
        options = f"'{found[0]}' -Wl,-rpath,'{found[0].parent}' -Wl,--unresolved-symbols=ignore-in-shared-libs"
    return _installed(name, f"{GCC} -o {name} '{source}' {options}", source.read_text()) / name


def built_image() -> str:
    """Build pg-predeploy's image from the working tree; return its name."""
    shell(BUILD)
    return IMAGE


def image_with(program: Path) -> str:
    """Make an image that holds one static program and nothing else; return its name."""
    image = f"{IMAGE}/{program.name}"
    shell(f"tar -cC '{program.parent}' {program.name} | docker import - {image}")
    return image


def shell(script: str, directory: Path = ROOT) -> str:
    """Run a shell script and return what it prints; raise `Failed` unless it exits with 0."""
    # npm trusts the system certificates and those that pip is configured with.
    environment = {"NODE_USE_SYSTEM_CA": "1", "NODE_EXTRA_CA_CERTS": os.environ.get("PIP_CERT", ""), **os.environ}
    command = ["timeout", "--foreground", "600", "sh", "-euc", script]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = " / ".join(done.stderr.strip().splitlines()[-3:])
        raise Failed(f"{last[-400:]} (exit code {done.returncode})")
    return done.stdout.strip()


def _installed(name: str, script: str, source: str = "") -> Path:
    """Return the directory in which a script has run, now or in an earlier run of the benchmark."""
    place = PEERS / f"{name}-{hashlib.sha256((script + source).encode()).hexdigest()[:12]}"
    finished = place.with_suffix(".finished")
    if not finished.exists():
        print(f"Installing {name} into {PEERS.name} ...", file=sys.stderr, flush=True)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        shell(script, place)
        finished.touch()
    return place
