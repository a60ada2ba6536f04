"""Look up every locked version in the package index; exit with 1 if one has a known vulnerability.

The index is the one that pip uses. If it is unreachable or publishes no advisories, the audit prints a message and
exits with 0. Some indexes have a record only of a package's newest version; locked versions without a record are listed
as not audited.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pip._internal.models.index import PyPI

ROOT = Path(__file__).parents[1]
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
TIMEOUT_S = 20

# Abandoned in 2014 and known to be vulnerable: an index without an advisory for it publishes no advisories at all.
CANARY = ("pycrypto", "2.6.1")

Vulnerability = dict[str, Any]


class Index:
    """The package index that pip is configured to use."""

    def __init__(self) -> None:
        simple = pip_setting("index-url") or PyPI.simple_url
        self._address = simple.rstrip("/").removesuffix("/simple") + "/pypi"
        self._tls = ssl.create_default_context(cafile=pip_setting("cert"))

    def vulnerabilities(self, name: str, version: str) -> list[Vulnerability] | None:
        """Return the known vulnerabilities of a version, or None if the index has no record of the version."""
        record = self._record(f"{name}/{version}") or self._record(name)
        if record is None or record["info"]["version"] != version or "vulnerabilities" not in record:
            return None
        return [known for known in record["vulnerabilities"] if not known.get("withdrawn")]

    def _record(self, path: str) -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(f"{self._address}/{path}/json", timeout=TIMEOUT_S, context=self._tls) as answer:  # noqa: S310
                record: dict[str, Any] = json.load(answer)
                return record
        except (OSError, ValueError):  # no such record, no such host, or invalid JSON
            return None


def pip_setting(name: str) -> str | None:
    """Return a pip setting from its environment variable or from pip's configuration files, or None."""
    given = os.environ.get(f"PIP_{name.upper().replace('-', '_')}")
    if given:
        return given
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found = re.search(rf"^global\.{name}='(.+)'$", listed.stdout, re.MULTILINE)
    return found[1] if found else None


def locked() -> list[tuple[str, str]]:
    """Return every name and version pinned in the requirement files."""
    texts = [path.read_text() for path in ROOT.glob("requirements/*.txt")]
    return sorted({(found[1], found[2]) for text in texts for found in PINNED.finditer(text)})


def main(packages: list[tuple[str, str]]) -> int:
    """Audit `packages`, print the findings and return the exit status."""
    index = Index()
    if not index.vulnerabilities(*CANARY):
        print("audit: NOT AUDITED: the index is unreachable or publishes no advisories", flush=True)
        return 0
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda package: index.vulnerabilities(*package), packages))
    audited = list(zip(packages, answers, strict=True))
    for (name, version), found in audited:
        for known in found or []:
            fixed = ", ".join(known["fixed_in"]) or "no version"
            print(f"audit: {name} {version}: {known['id']} ({', '.join(known['aliases'])}), fixed in {fixed}")
    unknown = [f"{name} {version}" for (name, version), found in audited if found is None]
    vulnerable = sum(1 for found in answers if found)
    print(f"audit: {len(packages) - len(unknown)} of {len(packages)} locked versions audited, {vulnerable} vulnerable")
    if unknown:
        print(f"audit: NOT AUDITED: the index has no record of {', '.join(unknown)}")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main([(name, version) for name, _, version in (arg.partition("==") for arg in sys.argv[1:])] or locked()))
