from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class MigrationsDir:
    """A directory of migrations that a test fills; can be used wherever a path is expected."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def write(self, name: str, sql: str | bytes) -> Path:
        """Write one file and return its path; a str is written as UTF-8, with its line endings unchanged."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sql.encode() if isinstance(sql, str) else sql)
        return path
