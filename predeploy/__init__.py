"""Wait for Postgres, run raw .sql migrations under a lock, tell what happened."""

__version__ = "0.1.0"

from predeploy.errors import StorageError
from predeploy.health import DbHealth, check_db_health
from predeploy.migrations import MigrationError
from predeploy.migrator import MigrationResult, run_migrations
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
