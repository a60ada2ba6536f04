"""Wait for Postgres, run raw .sql migrations under a lock, tell what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from predeploy.errors import StorageError
    from predeploy.health import DbHealth, check_db_health
    from predeploy.migrations import MigrationError, MigrationResult
    from predeploy.migrator import run_migrations
    from predeploy.pool import create_db

__all__ = [
    "DbHealth",
    "MigrationError",
    "MigrationResult",
    "StorageError",
    "check_db_health",
    "create_db",
    "run_migrations",
]
_HOMES = {
    "DbHealth": "health",
    "MigrationError": "migrations",
    "MigrationResult": "migrations",
    "StorageError": "errors",
    "check_db_health": "health",
    "create_db": "pool",
    "run_migrations": "migrator",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: the program's log has to be open before the driver is loaded."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
