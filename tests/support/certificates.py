"""Certificates for servers under test, created by OpenSSL when needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SUBJECT = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-batch")


class Authority:
    """A self-signed certificate authority; `root` is its certificate."""

    def __init__(self, directory: Path) -> None:
        if not shutil.which("openssl"):
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("the program openssl is not installed")
        directory.mkdir()
        self._directory = directory
        self.root = directory / "root.crt"
        _openssl("req", "-x509", *SUBJECT, "-subj", "/CN=authority", "-out", self.root, "-keyout", self._key("root"))

    def issue(self, host: str, *, days: int = 30) -> tuple[Path, Path]:
        """Return the paths of a certificate for `host` and of its key; negative `days` make it expired."""
        certificate, request = self._directory / f"{host}{days}.crt", self._directory / f"{host}.csr"
        names = ("-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}")
        _openssl("req", "-new", *SUBJECT, *names, "-out", request, "-keyout", self._key(host))
        signed = ("-CA", self.root, "-CAkey", self._key("root"), "-CAcreateserial", "-copy_extensions", "copy")
        _openssl("x509", "-req", "-in", request, *signed, "-days", str(days), "-out", certificate)
        return certificate, self._key(host)

    def _key(self, name: str) -> Path:
        return self._directory / f"{name}.key"


def _openssl(*arguments: object) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
