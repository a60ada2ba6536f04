"""The options of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of a run; times are in seconds.

    `lock_timeout` and `statement_timeout` hold inside each migration; 0 leaves the server's settings. A migration that
    meets a lock timeout, a deadlock or a serialization failure is attempted up to `attempts` times. Progress is logged
    for one that has run for `watch_after` seconds; 0 means never. `direct_url` names a variable that may hold a
    connection string that bypasses a pooler.
    """

    lock_wait_timeout: float = 300.0
    lock_timeout: float = 0.0
    statement_timeout: float = 0.0
    attempts: int = 5
    watch_after: float = 5.0
    stop_on_error: bool = False
    direct_url: str = ""
