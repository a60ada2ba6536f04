"""Which statement runs, as far as the results tell."""

from __future__ import annotations

from typing import Any

import pytest

from predeploy.migrations.chunks import Piece, whole
from predeploy.monitor.statement_counter import Course
from predeploy.sql.splitter import scan

SQL = "CREATE TABLE a ();\nINSERT INTO a DEFAULT VALUES;\n\nCREATE UNIQUE INDEX CONCURRENTLY i ON a (id);"


def course(first: int, count: int, *, opening: int = 0, heard: int = 0) -> Course:
    started = Course()
    started.begin(whole(SQL))
    started.send(first, count, opening)
    for _ in range(heard):
        started.hear()
    return started


@pytest.mark.parametrize(
    ("started", "fields"),
    [
        (course(0, 3), {"statement_at_least": 1, "statements": 3}),
        (course(0, 3, opening=2, heard=1), {"statement_at_least": 1, "statements": 3}),
        (course(0, 3, opening=2, heard=3), {"statement_at_least": 2, "statements": 3}),
        (course(0, 3, heard=2), {"statement": 3, "statements": 3, "line": 4, "command": "CREATE INDEX"}),
        (course(0, 3, heard=5), {"statement": 3, "statements": 3, "line": 4, "command": "CREATE INDEX"}),
        (course(1, 1), {"statement": 2, "statements": 3, "line": 2, "command": "INSERT"}),
        (course(0, 2, heard=1), {"statement": 2, "statements": 3, "line": 2, "command": "INSERT"}),
    ],
    ids=["sent", "begun", "one heard", "two heard", "all heard", "alone", "last of a piece"],
)
def test_the_number_is_exact_where_nothing_else_is_on_its_way(started: Course, fields: dict[str, Any]) -> None:
    told = started.fields()
    if "command" in fields:
        assert told.pop("command").startswith(fields.pop("command"))
    assert told == fields


def test_nothing_is_told_of_a_file_without_statements_or_before_it_begins() -> None:
    started = Course()
    assert started.fields() == {}
    started.begin(whole(""))
    started.send(0, 0)
    assert started.fields() == {}


def test_a_file_that_is_run_again_begins_again() -> None:
    started = course(0, 3, heard=2)
    started.begin(whole(SQL))
    started.send(0, 3)
    assert started.fields() == {"statement_at_least": 1, "statements": 3}


def test_in_a_piece_of_a_file_statements_and_lines_are_those_of_the_file() -> None:
    started = Course()
    middle, last = Piece(SQL, scan(SQL), 100, 50, last=False), Piece(SQL, scan(SQL), 103, 54)
    started.begin(middle)
    started.send(100, 3)
    started.hear()
    assert started.fields() == {"statement_at_least": 102}
    started.hear()
    assert started.fields() == {"statement": 103, "line": 54, "command": "CREATE INDEX CONCURRENTLY"}
    started.begin(None)
    assert (started.fields(), started.text) == ({}, "")
    started.begin(last)
    started.send(103, 3)
    assert (started.fields(), started.text) == ({"statement_at_least": 104, "statements": 106}, SQL)
    started.hear()
    started.hear()
    assert started.fields() == {"statement": 106, "statements": 106, "line": 58, "command": "CREATE INDEX CONCURRENTLY"}


def test_what_a_statement_nobody_knows_is_called_is_not_told() -> None:
    started = Course()
    started.begin(whole("hunter2 is no statement"))
    started.send(0, 1)
    assert started.fields() == {"statement": 1, "statements": 1, "line": 1}
