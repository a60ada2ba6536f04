"""Whose turn it is among runners that start at once: one goes ahead, the others wait for what it does.

A courtesy: nothing depends on it but how much work is done in vain. The migration lock is what keeps runners apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from predeploy.lockkey import HELD

if TYPE_CHECKING:
    from predeploy.libpq import Session

TURN_KEY = 48756302
LONGEST_S = 5  # that the server lets a turn last which is not ended, as by a runner that hangs

# Of a transaction, which a session's end or a crash ends too. It is neither had nor kept beside a runner at work.
_TAKE = f"""
    BEGIN ISOLATION LEVEL READ COMMITTED;
    SET LOCAL idle_in_transaction_session_timeout = '{LONGEST_S}s';
    SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_try_advisory_xact_lock({TURN_KEY})
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE {HELD})
"""  # noqa: S608  our own constants


def take_turn(session: Session) -> bool:
    """Begin a transaction; tell whether it is our turn as long as that lasts.

    Through a pooler, whose process id is another than the backend's, it is always: a transaction that stays open there
    may take the only backend from whoever is to go on.
    """
    backend, is_ours = session.ask(_TAKE.encode())
    if int(backend) != session.backend:
        session.close()
        return True
    return is_ours == b"t"
