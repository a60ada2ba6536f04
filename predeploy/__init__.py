"""Wait for Postgres, apply .sql migrations under a lock, and report the outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from predeploy.apply.migrator import run_migrations
    from predeploy.connection.health import DbHealth, check_db_health
    from predeploy.connection.pool import create_db
    from predeploy.errors import StorageError
    from predeploy.migrations.migration import MigrationError, MigrationResult

__all__ = [
    "DbHealth",
    "MigrationError",
    "MigrationResult",
    "StorageError",
    "check_db_health",
    "create_db",
    "run_migrations",
]
_MODULES = {
    "DbHealth": "connection.health",
    "MigrationError": "migrations.migration",
    "MigrationResult": "migrations.migration",
    "StorageError": "errors",
    "check_db_health": "connection.health",
    "create_db": "connection.pool",
    "run_migrations": "apply.migrator",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that the program can open its log before it loads the driver."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
