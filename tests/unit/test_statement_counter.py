"""Which statement of a migration is running, as far as the results show."""

from __future__ import annotations

from typing import Any

import pytest

from predeploy.migrations.chunks import Chunk
from predeploy.monitor.statement_counter import StatementCounter
from predeploy.sql.splitter import scan

SQL = "CREATE TABLE a ();\nINSERT INTO a DEFAULT VALUES;\n\nCREATE UNIQUE INDEX CONCURRENTLY i ON a (id);"
FIRST = {"statement_at_least": 1, "statements": 3}
SECOND = {"statement": 2, "statements": 3, "line": 2, "command": "INSERT"}
THIRD = {"statement": 3, "statements": 3, "line": 4, "command": "CREATE INDEX CONCURRENTLY"}


def whole(sql: str) -> Chunk:
    return Chunk(sql, scan(sql))


def after(first: int = 0, end: int | None = None, *, results: int = 0) -> StatementCounter:
    """Return a counter after a message with the statements `first` to `end - 1` and the given number of results."""
    counter = StatementCounter()
    counter.start_message(whole(SQL), first, end)
    for _ in range(results):
        counter.count()
    return counter


@pytest.mark.parametrize(
    ("counter", "fields"),
    [
        (after(), FIRST),
        (after(results=1), FIRST | {"statement_at_least": 2}),
        (after(results=2), THIRD),
        (after(results=5), THIRD),
        (after(1, 2), SECOND),
        (after(1, 2, results=1), SECOND),
        (after(0, 2, results=1), SECOND),
        (after(1, results=1), THIRD),
    ],
    ids=["sent", "one result", "two", "more than there are", "alone", "alone, one", "last sent", "from 2"],
)
def test_the_number_is_exact_if_the_message_contains_no_later_statement(
    counter: StatementCounter, fields: dict[str, Any]
) -> None:
    assert counter.fields() == fields


def test_every_result_is_counted() -> None:
    assert after(results=3).results == 3


@pytest.mark.parametrize("sql", [None, "", "-- a comment"])
def test_there_are_no_fields_without_statements_or_before_the_first_message(sql: str | None) -> None:
    counter = StatementCounter()
    if sql is not None:
        counter.start_message(whole(sql))
    assert counter.fields() == {}


def test_counting_restarts_when_a_migration_is_run_again() -> None:
    counter = after(results=2)
    counter.start_message(whole(SQL))
    assert counter.fields() == FIRST


def test_statements_and_lines_of_a_chunk_are_counted_from_the_start_of_the_file() -> None:
    counter = StatementCounter()
    counter.start_message(Chunk(SQL, scan(SQL), 100, 50, last=False))
    counter.count()
    assert counter.fields() == {"statement_at_least": 102}
    counter.count()
    assert counter.fields() == {"statement": 103, "line": 54, "command": "CREATE INDEX CONCURRENTLY"}
    counter.start_message(Chunk(SQL, scan(SQL), 103, 54))
    assert counter.fields() == {"statement_at_least": 104, "statements": 106}
    counter.count()
    counter.count()
    assert counter.fields() == THIRD | {"statement": 106, "statements": 106, "line": 58}


def test_an_unknown_statement_has_no_command() -> None:
    counter = StatementCounter()
    counter.start_message(whole("hunter2 is no statement"))
    assert counter.fields() == {"statement": 1, "statements": 1, "line": 1}
