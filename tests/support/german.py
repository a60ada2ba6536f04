"""A Postgres server with German messages: its translations, and a locale that the system may lack."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.postgres_server import PostgresServer, PostgresServerError, choose_identity, find_binaries

if TYPE_CHECKING:
    from collections.abc import Mapping

LOCALE = "de_DE.UTF-8"
LOCALEDEF = shutil.which("localedef")
# Where ci/german-postgres unpacks a server with translations, for machines whose Postgres has none.
UNPACKED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pg-predeploy/german-postgres"


class GermanServer(PostgresServer):
    """A server with German `lc_messages`; skips the test if translations are missing, but fails in CI."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        root, binaries = _find()
        self.locales = Path(tempfile.mkdtemp(prefix="locales-"))
        self.locales.chmod(0o755)
        sources = {"I18NPATH": str(root / "usr/share/i18n")}
        command = [str(LOCALEDEF), "-i", "de_DE", "-f", "UTF-8", str(self.locales / LOCALE)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **sources})
        libraries = [str(path.parent) for path in root.glob("usr/lib/*/libpq.so.5")] if root != Path("/") else []
        environment = [f"LOCPATH={self.locales}", f"LD_LIBRARY_PATH={':'.join(libraries)}"]
        identity = choose_identity(find_binaries())
        super().__init__(
            binaries=binaries,
            identity=replace(identity, prefix=(*identity.prefix, "env", *environment)),
            settings={"lc_messages": LOCALE, **settings},
        )

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.locales, ignore_errors=True)


def _find() -> tuple[Path, Path]:
    """Return the root directory that contains the translations, "/" or UNPACKED, and the server's programs in it."""
    for root in (Path("/"), UNPACKED):
        for binaries in sorted(root.glob("usr/lib/postgresql/*/bin")):
            translations = root / f"usr/share/locale/de/LC_MESSAGES/postgres-{binaries.parent.name}.mo"
            locale = root / "usr/share/i18n/locales/de_DE"
            if all(path.exists() for path in (binaries / "postgres", translations, locale)) and LOCALEDEF:
                return root, binaries
    why = "no Postgres with German messages was found; ci/german-postgres downloads one from Debian"
    if os.environ.get("CI") == "true":
        raise PostgresServerError(why)
    pytest.skip(why)
