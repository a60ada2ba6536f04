"""Ask the package index which known holes the locked versions have; exit 1 when there is one.

The index is pip's. Where it does not answer, or has no advisories, that is said aloud and is no error: what could not
be had is not what is wrong. An index that keeps a record of a package's newest version only can speak for a locked
one that is the newest; the others are named.
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

# No index that knows advisories is silent about this one: abandoned in 2014, its holes were never mended.
CANARY = ("pycrypto", "2.6.1")

Vulnerability = dict[str, Any]


class Index:
    """The records of the package index that pip is configured for."""

    def __init__(self) -> None:
        simple = pip_setting("index-url") or PyPI.simple_url
        self._address = simple.rstrip("/").removesuffix("/simple") + "/pypi"
        self._tls = ssl.create_default_context(cafile=pip_setting("cert"))

    def vulnerabilities(self, name: str, version: str) -> list[Vulnerability] | None:
        """Return what is known of that version; None where the index cannot say."""
        record = self._record(f"{name}/{version}") or self._record(name)
        if record is None or record["info"]["version"] != version or "vulnerabilities" not in record:
            return None
        return [known for known in record["vulnerabilities"] if not known.get("withdrawn")]

    def _record(self, path: str) -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(f"{self._address}/{path}/json", timeout=TIMEOUT_S, context=self._tls) as answer:  # noqa: S310
                record: dict[str, Any] = json.load(answer)
                return record
        except (OSError, ValueError):  # no such record, no such host, no JSON
            return None


def pip_setting(name: str) -> str | None:
    """Return a setting of pip's, from its environment variable or its files."""
    given = os.environ.get(f"PIP_{name.upper().replace('-', '_')}")
    if given:
        return given
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found = re.search(rf"^global\.{name}='(.+)'$", listed.stdout, re.MULTILINE)
    return found[1] if found else None


def locked() -> list[tuple[str, str]]:
    """Return each name and version that any requirement file pins."""
    texts = [path.read_text() for path in ROOT.glob("requirements*.txt")]
    return sorted({(found[1], found[2]) for text in texts for found in PINNED.finditer(text)})


def main(packages: list[tuple[str, str]]) -> int:
    """Audit `packages` and say what came of it; return the exit status."""
    index = Index()
    if not index.vulnerabilities(*CANARY):
        print("audit: NOT AUDITED: no advisory database answers; the hashes were checked all the same", flush=True)
        return 0
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda package: index.vulnerabilities(*package), packages))
    known = list(zip(packages, answers, strict=True))
    for (name, version), holes in known:
        for hole in holes or []:
            fixed = ", ".join(hole["fixed_in"]) or "no version"
            print(f"audit: {name} {version}: {hole['id']} ({', '.join(hole['aliases'])}), mended in {fixed}")
    unknown = [f"{name} {version}" for (name, version), holes in known if holes is None]
    bad = sum(1 for holes in answers if holes)
    print(f"audit: {len(packages) - len(unknown)} of {len(packages)} locked versions audited, {bad} with known holes")
    if unknown:
        print(f"audit: NOT AUDITED, the index has no record of these versions: {', '.join(unknown)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main([(name, version) for name, _, version in (arg.partition("==") for arg in sys.argv[1:])] or locked()))
