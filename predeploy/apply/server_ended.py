"""The SQLSTATEs with which the server ends a statement, a transaction or a session on its own, and its last message.

These are the codes of classes 25, 53, 57 and 58. If a statement fails with one of them, its migration fails. If the
server ends the session, the run reconnects, and `CODES` determines whether the migration runs again. `scripts/docs`
writes the table into docs/error-advice.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from predeploy.apply.advice import ADVICE, condition_of
from predeploy.redaction.server_message import redact_message

if TYPE_CHECKING:
    import psycopg
    from psycopg.errors import Diagnostic


class ServerCode(NamedTuple):
    """What a code means, and whether the migration runs again after the server has ended the session with this code."""

    meaning: str
    runs_again: bool = True


_WRONG_COMMAND = "the command is not allowed in this kind of transaction"
CODES = {
    "25000": ServerCode(_WRONG_COMMAND, runs_again=False),
    "25001": ServerCode("the statement cannot run in a transaction, or must be its first statement", runs_again=False),
    "25002": ServerCode(_WRONG_COMMAND, runs_again=False),
    "25003": ServerCode(_WRONG_COMMAND, runs_again=False),
    "25004": ServerCode(_WRONG_COMMAND, runs_again=False),
    "25005": ServerCode(_WRONG_COMMAND, runs_again=False),
    "25006": ServerCode("the transaction or the server is read-only", runs_again=False),
    "25007": ServerCode(_WRONG_COMMAND, runs_again=False),
    "25008": ServerCode(_WRONG_COMMAND, runs_again=False),
    "25P01": ServerCode("the statement needs a transaction", runs_again=False),
    "25P02": ServerCode("an earlier statement in the transaction failed", runs_again=False),
    "25P03": ServerCode("idle_in_transaction_session_timeout ended the session", runs_again=False),
    "25P04": ServerCode("transaction_timeout ended the session", runs_again=False),
    "53000": ServerCode("the server is short of a resource"),
    "53100": ServerCode("a disk on the server is full"),
    "53200": ServerCode("the server is out of memory, or its lock table is full"),
    "53300": ServerCode("the server, the database or the role has reached its connection limit"),
    "53400": ServerCode("a limit such as temp_file_limit was exceeded", runs_again=False),
    "57000": ServerCode("an administrator intervened"),
    "57014": ServerCode("statement_timeout or a user cancelled the statement", runs_again=False),
    "57P01": ServerCode("a restart, a failover or an administrator ended the session"),
    "57P02": ServerCode("another session crashed, so the server ended all sessions"),
    "57P03": ServerCode("the server is starting up, shutting down or recovering"),
    "57P04": ServerCode("the database was dropped", runs_again=False),
    "57P05": ServerCode("idle_session_timeout ended the session", runs_again=False),
    "58000": ServerCode("the operating system reported an error to the server"),
    "58030": ServerCode("the server could not read or write a file"),
    "58P01": ServerCode("the server cannot find a file", runs_again=False),
    "58P02": ServerCode("the server found an unexpected file", runs_again=False),
    "58P03": ServerCode("a file name is too long for the server", runs_again=False),
}
_ENDING = {"FATAL", "PANIC"}
_CRASHING = "quickdie"  # on an immediate shutdown or a crash, this function sends a warning instead of an error


class ServerEnd(NamedTuple):
    """The message with which the server ended a session, redacted."""

    sqlstate: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.sentence} (SQLSTATE {self.sqlstate})"

    @property
    def runs_again(self) -> bool:
        """Whether the migration may run again, because the reason is not expected to recur."""
        code = CODES.get(self.sqlstate)
        return code is None or code.runs_again

    @property
    def advice(self) -> str:
        """What to do, or ""."""
        return ADVICE.get(self.sqlstate, "")

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of `migration.failed` that come from this message."""
        return {"sqlstate": self.sqlstate, "condition": condition_of(self.sqlstate), "advice": self.advice or None}


def last_message(error: psycopg.Error) -> str:
    """Return the message with which the server ended the session, as a sentence with a leading space, or ""."""
    end = read_end(error.diag, "")
    return f" The server's last message: {end}." if end else ""


def read_end(diag: Diagnostic, sql: str) -> ServerEnd | None:
    """Return the message if the server ended the session with it, or None. `sql` is the text that it may quote.

    A migration cannot raise such a message itself: PL/pgSQL cannot raise FATAL errors.
    """
    severity = diag.severity_nonlocalized or diag.severity
    if severity not in _ENDING and diag.source_function != _CRASHING:
        return None
    return ServerEnd(diag.sqlstate or "", redact_message(diag, sql) or "the server gave no reason")
