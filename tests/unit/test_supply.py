"""Every dependency is pinned by its hash and audited for known vulnerabilities."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.program import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCKS = sorted(ROOT.glob("requirements/*.txt"))
VULNERABILITY = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fixed_in": ["2.0"], "withdrawn": None}
CANARY = {"pycrypto/2.6.1": {"info": {"version": "2.6.1"}, "vulnerabilities": [VULNERABILITY]}}

# Files that may run pip, and files from which people copy commands.
SOURCES = [ROOT / name for name in ("Dockerfile", "README.md", "CONTRIBUTING.md", ".ci/run")]
SOURCES += [path for folder in ("ci", "scripts", ".github", "docs", "examples") for path in (ROOT / folder).rglob("*")]
SOURCES = [path for path in SOURCES if path.is_file() and path.suffix != ".pyc"]
INSTALL = re.compile(r"pip3? (?:install|download|wheel)(?:[^\n]*\\\n)*[^\n`]*")


def record(version: str, *vulnerabilities: dict[str, Any]) -> dict[str, Any]:
    return {"info": {"version": version}, "vulnerabilities": list(vulnerabilities)}


@contextmanager
def index(records: dict[str, Any]) -> Iterator[str]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = records.get(self.path.removeprefix("/pypi/").removesuffix("/json"))
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode() if found else b"")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/simple"
        finally:
            server.shutdown()


def audit(address: str, *packages: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "ci/audit.py"), *packages]
    environment = {**os.environ, "PIP_INDEX_URL": address, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_requirement_is_pinned_to_one_version_with_hashes(path: Path) -> None:
    entries = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", path.read_text())).splitlines()
    assert entries
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry), entry


def test_pip_installs_nothing_without_a_hash() -> None:
    found = [install for path in SOURCES for install in INSTALL.findall(path.read_text())]
    assert len(found) >= 4
    itself = "pip install ."
    assert [install for install in found if "--require-hashes" not in install and install.strip() != itself] == []


@pytest.mark.parametrize("path", ["some/1.0", "some"], ids=["by_version", "newest_only"])
def test_a_known_vulnerability_fails_the_audit(path: str) -> None:
    with index({**CANARY, path: record("1.0", VULNERABILITY)}) as address:
        status, output = audit(address, "some==1.0")
    assert status == 1
    assert "some 1.0: PYSEC-1 (CVE-1), fixed in 2.0" in output


def test_a_withdrawn_advisory_is_ignored() -> None:
    with index({**CANARY, "some": record("1.0", {**VULNERABILITY, "withdrawn": "2026-01-01"})}) as address:
        status, output = audit(address, "some==1.0")
    assert (status, output) == (0, "audit: 1 of 1 locked versions audited, 0 vulnerable\n")


@pytest.mark.parametrize(
    "records", [{}, {"some": record("2.0", VULNERABILITY)}, {"some": {"info": {"version": "1.0"}}}]
)
def test_a_version_without_a_record_is_listed(records: dict[str, Any]) -> None:
    with index({**CANARY, **records}) as address:
        status, output = audit(address, "some==1.0")
    assert status == 0
    assert "0 of 1 locked versions audited" in output
    assert "NOT AUDITED: the index has no record of some 1.0" in output


@pytest.mark.parametrize("records", [{}, {"pycrypto/2.6.1": record("2.6.1")}], ids=["no_answers", "no_advisories"])
def test_an_index_without_advisories_is_reported(records: dict[str, Any]) -> None:
    with index({**records, "some": record("1.0", VULNERABILITY)}) as address:
        status, output = audit(address, "some==1.0")
    assert status == 0
    assert "NOT AUDITED: the index is unreachable or publishes no advisories" in output


def test_without_arguments_every_lock_is_audited() -> None:
    with index(CANARY) as address:
        _, output = audit(address)
    for path in LOCKS:
        for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(), re.MULTILINE):
            assert f"{name} {version}" in output
