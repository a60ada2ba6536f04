"""The options of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from predeploy.sql.table_name import DEFAULT_TABLE, TableName


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of a run; times are in seconds.

    `lock_timeout` and `statement_timeout` apply within each migration; 0 keeps the server's settings. On a lock
    timeout, a deadlock or a serialization failure, a migration is retried, up to `attempts` attempts in total.
    Progress is logged once a migration has run for `watch_after` seconds; 0 disables progress logging. `direct_url` is
    the name of a variable that may contain a connection string that bypasses a pooler. Findings of the `strict` kinds
    (see `apply/drift.py`) are errors that prevent the run. `migration_settings` are the names and values that each
    transactional migration can read as settings. If `foreign_history` is "ignore", the run does not stop at the history
    of another migration tool.
    """

    lock_wait_timeout: float = 300.0
    lock_timeout: float = 0.0
    statement_timeout: float = 0.0
    attempts: int = 5
    watch_after: float = 5.0
    stop_on_error: bool = False
    direct_url: str = ""
    table: TableName = DEFAULT_TABLE
    strict: frozenset[str] = frozenset()
    migration_settings: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    foreign_history: str = "stop"
