from __future__ import annotations

import pytest

from predeploy.migrations.validate import Objection, find_objection
from predeploy.sql.splitter import scan


def objection(sql: str) -> Objection | None:
    return find_objection(sql, scan(sql))


@pytest.mark.parametrize(
    ("sql", "line", "says"),
    [
        ("BEGIN;", 1, "BEGIN: "),
        ("SELECT 1;\n\nbegin transaction", 3, "BEGIN: "),
        ("START /* a */ TRANSACTION;", 1, "START TRANSACTION: "),
        ("a;\r\ncommit AND CHAIN;", 2, "COMMIT: "),
        ("END", 1, "END: "),
        ("ROLLBACK;", 1, "ROLLBACK: "),
        ("ROLLBACK WORK;", 1, "ROLLBACK: "),
        ("ABORT;", 1, "ABORT: "),
        ("PREPARE TRANSACTION 'x';", 1, "PREPARE TRANSACTION: "),
        ("COPY t FROM STDIN;", 1, "COPY ... FROM STDIN"),
        ("copy public.t (a, b) from stdin with (format csv);", 1, "INSERT"),
        ("COPY BINARY t FROM /* x */ STDOUT", 1, "COPY ... FROM STDIN"),
        ('COPY "a b"."from" FROM stdin;', 1, "COPY ... FROM STDIN"),
        ("COPY s.from FROM stdin;", 1, "COPY ... FROM STDIN"),
        ("COPY s.to TO stdin;", 1, "COPY ... TO STDOUT"),
        ("COPY (SELECT a FROM stdin) TO STDOUT;", 1, "COPY ... TO STDOUT"),
        ("COPY (SELECT $$)$$, ')', E'\\')') TO stdout", 1, "COPY ... TO STDOUT"),
        ("COPY t FROM stdin;\n1\tit's\n\\.\n", 1, "--column-inserts"),
        ('SELECT 1;\nCOPY t FROM stdin;\n$$\t"\n\\.\n', 2, "COPY ... FROM STDIN"),
        ("COPY t FROM stdin 'never closed", 1, "COPY ... FROM STDIN"),
        ("--\n\\connect x\n", 2, "psql meta-commands"),
        ("SELECT 1 \\gset\n;BEGIN", 1, "psql meta-commands"),
        ("\\restrict abc\nCOPY t FROM stdin;", 1, "remove these lines"),
        ("SELECT 1;\n\\unrestrict abc\n", 2, "--inserts or --column-inserts"),
        ("\\restricted", 1, "psql meta-commands"),
        ("SELECT 1;\n-- \0", 2, "NUL"),
        ("SELECT 1;\n\nSELECT 'a;\nBEGIN;", 3, "the quoted string that opens here is never closed"),
        ("SELECT 1;\n/* BEGIN;", 2, "the comment that opens here is never closed"),
        ("BEGIN 'a", 1, "BEGIN: "),
        ("-- migrate:up\na;\n-- migrate:down\nb;", 3, "keep only the part before it"),
        ("a;\r\n-- migrate:down transaction:false\r\nb;", 2, "roll back"),
        ("a;\n--migrate:down\nb", 2, "roll back"),
        ("a;\r\n-- migrate:down\r\nb;", 2, "roll back"),
        ("a;\r---- create above / drop below ----\rb;", 2, "roll back"),
        ("a\n-- migrate:down\nb", 2, "roll back"),
        ("-- +goose Up\na;\n-- +goose Down\nb;", 3, "roll back"),
        ("a;\n-- +goose down\nb;", 2, "roll back"),
        ("a;\n-- +migrate Down notransaction\nb;", 2, "roll back"),
        ("a;\n-- +micrate Down\nb;", 2, "roll back"),
        ("a;\n-- rambler down\nb;", 2, "roll back"),
        ("a;\n-- //@UNDO\nb;", 2, "roll back"),
        ("a;\n---- create above / drop below ----\nb;", 2, "roll back"),
        ("a;\n\t-- Down Migration\nb;", 2, "roll back"),
        ("a;\n-- migrate:down\nROLLBACK;", 2, "roll back"),
        ("BEGIN;\n-- migrate:down\nb;", 1, "BEGIN: "),
        ("a;\nSET standard_conforming_strings = off", 2, "E'...'"),
        ("SET LOCAL standard_conforming_strings TO 'off'", 1, "E'...'"),
        ("SET SESSION client_encoding = 'LATIN1'", 1, "UTF-8"),
        ("set names 'latin1'", 1, "UTF-8"),
        ('SET "client_encoding" TO win1252', 1, "UTF-8"),
    ],
)
def test_the_first_thing_that_must_not_be_sent_is_named_with_its_line(sql: str, line: int, says: str) -> None:
    found = objection(sql)
    assert found
    assert found.line == line
    assert says in found.message


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "SELECT 'BEGIN;'; -- BEGIN;",
        "SET standard_conforming_strings = on; SET LOCAL standard_conforming_strings TO 'on'",
        "SET client_encoding = 'UTF8'; SET NAMES 'utf-8'; SET client_encoding TO DEFAULT; SET search_path = names",
        "SAVEPOINT a; RELEASE a; ROLLBACK TO a; ROLLBACK TRANSACTION TO SAVEPOINT a; rollback work to a",
        "COMMIT PREPARED 'x'; ROLLBACK PREPARED 'x'",
        "PREPARE q AS SELECT 1; PREPARE begin AS SELECT 1",
        '"BEGIN"; "commit"',
        "DO $$ BEGIN COMMIT; END $$",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END",
        "COPY t FROM 'stdin'",
        "COPY \"stdin\" FROM '/f'",
        "COPY stdin FROM '/f' WITH (FORMAT csv)",
        "COPY stdout (stdin) FROM PROGRAM 'x'",
        "COPY t FROM '/f' WHERE a IS DISTINCT FROM stdin",
        "COPY (SELECT 1 FROM stdin) TO '/f'",
        "COPY (COPY t FROM stdin",
        "SELECT copy FROM stdin",
        r"SELECT '\restrict', E'\\', $$\$$ -- \connect",
        "SELECT '\n-- migrate:down\n'; SELECT 1",
        "/*\n-- migrate:down\n*/ SELECT 1",
        "$$\n-- +goose Down\n$$",
        "a; -- migrate:down\nb;",
        "a;\n-- migrate:down\n",
        "a;\n-- see migrate:down\nb;",
        "a;\n-- migrate:downward\nb;",
        "a;\n-- Down migration is in another file\nb;",
        "a;\n-- +goose StatementBegin\nb;",
        "a;\n--rollback DROP TABLE t;\nb;",
        "-- migrate:up\na;",
    ],
)
def test_what_may_be_sent_meets_no_objection(sql: str) -> None:
    assert objection(sql) is None


def test_a_message_quotes_nothing_of_the_file() -> None:
    for sql in (
        "BEGIN sesame;",
        "\\sesame",
        "'sesame",
        "COPY sesame FROM stdin",
        "-- migrate:down sesame\nsesame",
    ):
        found = objection(sql)
        assert found
        assert "sesame" not in found.message
