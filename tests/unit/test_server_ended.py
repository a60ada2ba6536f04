"""The SQLSTATEs with which the server ends statements and sessions, and the messages that end a session."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from psycopg import errors

from predeploy.apply.run_state import MAX_LOSSES, RunState
from predeploy.apply.server_ended import CODES, ServerEnd, read_end
from predeploy.errors import ConnectionLost
from predeploy.migrations.migration import Migration, MigrationFiles

DROPPED = ServerEnd("57P04", "terminating connection due to conflict with recovery")
RESTARTED = ServerEnd("57P01", "terminating connection due to administrator command")


def diagnostic(severity: str, sqlstate: str, text: str, function: str = "ProcessInterrupts") -> Any:
    named = ("schema_name", "table_name", "column_name", "datatype_name", "constraint_name")
    fields = {"severity": severity, "severity_nonlocalized": severity, "sqlstate": sqlstate, "message_primary": text}
    return SimpleNamespace(**dict.fromkeys(named), **fields, source_function=function)


def state_of(*migrations: Migration) -> RunState:
    state = RunState(MigrationFiles(migrations))
    state.in_flight = list(migrations)
    return state


def test_every_code_of_the_four_classes_is_in_the_table() -> None:
    known = [getattr(error, "sqlstate", None) for error in vars(errors).values()]
    named = {code for code in known if isinstance(code, str) and code[:2] in {"25", "53", "57", "58"}}
    assert named == CODES.keys()


@pytest.mark.parametrize(
    ("severity", "function", "ends"),
    [
        ("FATAL", "ProcessInterrupts", True),
        ("PANIC", "XLogWrite", True),
        ("WARNING", "quickdie", True),
        ("ERROR", "ProcessInterrupts", False),
        ("WARNING", "exec_stmt_raise", False),
    ],
)
def test_only_a_fatal_error_or_the_warning_of_a_shutdown_ends_a_session(
    severity: str, function: str, ends: bool
) -> None:
    end = read_end(diagnostic(severity, "57P01", RESTARTED.sentence, function), "")
    assert end == (RESTARTED if ends else None)


def test_quoted_text_is_masked() -> None:
    end = read_end(diagnostic("FATAL", "57P05", 'ended by "hunter2"'), "SELECT 'hunter2'")
    assert end == ServerEnd("57P05", 'ended by "***"')


def test_a_migration_fails_at_once_if_its_database_was_dropped() -> None:
    migration = Migration("001.sql", "SELECT 1")
    state = state_of(migration)
    state.mark_connection_lost(DROPPED)
    refusal = state.refusal(migration)
    assert refusal
    assert DROPPED.sentence in refusal.message
    assert refusal.fields["advice"].startswith("Create the database again")


def test_only_the_running_migration_of_a_message_fails() -> None:
    first, second = Migration("001.sql", "SELECT 1"), Migration("002.sql", "SELECT 2")
    state = state_of(first, second)
    state.mark_connection_lost(DROPPED)
    assert (state.refusal(first) is None, state.refusal(second)) == (False, None)


def test_a_migration_runs_again_after_a_restart_until_the_limit() -> None:
    migration = Migration("001.sql", "SELECT 1")
    state = state_of(migration)
    for _ in range(MAX_LOSSES):
        assert state.refusal(migration) is None
        state.in_flight = [migration]
        state.mark_connection_lost(RESTARTED)
    assert RESTARTED.sentence in str(state.refusal(migration))


def test_a_code_that_is_not_in_the_table_does_not_prevent_another_attempt() -> None:
    migration = Migration("001.sql", "SELECT 1")
    state = state_of(migration)
    state.mark_connection_lost(ServerEnd("XX000", "internal"))
    assert state.refusal(migration) is None


def test_a_dropped_database_ends_a_run_without_a_running_migration() -> None:
    with pytest.raises(ConnectionLost, match="57P04"):
        state_of().mark_connection_lost(DROPPED)
