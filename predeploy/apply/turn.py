"""Whose turn it is among runners that start at once: one goes ahead, the others wait for what it does.

A courtesy: nothing depends on it but how much work is done in vain. The migration lock is what keeps runners apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from predeploy.lock.key import HELD

if TYPE_CHECKING:
    from predeploy.connection.libpq import Session

TURN_KEY = 48756302
LONGEST_S = 5  # that the server lets a turn last which is not ended, as by a runner that hangs

# Of a transaction, which a session's end or a crash ends too. It is neither had nor kept beside a runner at work.
_TAKE = f"""
    BEGIN ISOLATION LEVEL READ COMMITTED;
    SET LOCAL idle_in_transaction_session_timeout = '{LONGEST_S}s';
    SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_try_advisory_xact_lock({TURN_KEY})
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE {HELD}),
           pg_catalog.to_regclass('_migrations') IS NOT NULL
"""  # noqa: S608  our own constants


class Turn(NamedTuple):
    """Whether it is ours, as long as the transaction lasts, and whether there is a table to look into."""

    is_ours: bool
    has_table: bool


def take_turn(session: Session) -> Turn:
    """Begin a transaction, and in it our turn unless it is another's.

    Through a pooler, whose process id is another than the backend's, it is always ours and nothing is begun: a
    transaction that stays open there may take the only backend from whoever is to go on.
    """
    backend, is_ours, has_table = session.ask(_TAKE.encode())
    if int(backend) != session.backend:
        session.close()
        return Turn(is_ours=True, has_table=False)
    return Turn(is_ours == b"t", has_table == b"t")


def end_turn(session: Session) -> None:
    """End the transaction, and with it what of the turn we have."""
    session.ask(b"ROLLBACK; SELECT 1")
