"""Text that is not allowed in a migration is rejected, and valid chunks are read ahead in order."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from predeploy.migrations.chunks import CHUNK_CHARS, MAX_MESSAGE_CHARS, Chunk
from predeploy.migrations.migration import Migration, MigrationFailure
from predeploy.migrations.transaction import Problem
from predeploy.migrations.validate import ChunkReader, Violation, find_violation, validate
from predeploy.sql.splitter import scan

if TYPE_CHECKING:
    from pathlib import Path


def violation(sql: str) -> Violation | None:
    return find_violation(sql, scan(sql))


@pytest.mark.parametrize(
    ("sql", "line", "says"),
    [
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
        ("SELECT 1 \\gset\n;COPY t FROM stdin", 1, "psql meta-commands"),
        ("\\restrict abc\nCOPY t FROM stdin;", 1, "remove these lines"),
        ("SELECT 1;\n\\unrestrict abc\n", 2, "--inserts or --column-inserts"),
        ("\\restricted", 1, "psql meta-commands"),
        ("SELECT 1;\n-- \0", 2, "NUL"),
        ("SELECT 1;\n\nSELECT 'a;\nBEGIN;", 3, "the quoted string that opens here is never closed"),
        ("SELECT 1;\n/* BEGIN;", 2, "the comment that opens here is never closed"),
        ("a;\nSET standard_conforming_strings = off", 2, "E'...'"),
        ("SET LOCAL standard_conforming_strings TO 'off'", 1, "E'...'"),
        ("SET SESSION client_encoding = 'LATIN1'", 1, "UTF-8"),
        ("set names 'latin1'", 1, "UTF-8"),
        ('SET "client_encoding" TO win1252', 1, "UTF-8"),
    ],
)
def test_the_first_violation_is_named_with_its_line(sql: str, line: int, says: str) -> None:
    found = violation(sql)
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
    ],
)
def test_a_text_that_may_be_sent_has_no_violation(sql: str) -> None:
    assert violation(sql) is None


def test_the_message_quotes_nothing_from_the_file() -> None:
    for sql in (
        "\\sesame",
        "'sesame",
        "COPY sesame FROM stdin",
    ):
        found = violation(sql)
        assert found
        assert "sesame" not in found.message


# A chunk of a migration


def chunk(sql: str, *, lines: int = 0) -> Chunk:
    return Chunk(sql, scan(sql), lines=lines)


def test_the_line_of_a_violation_is_its_line_in_the_file() -> None:
    with pytest.raises(MigrationFailure, match=r"^COPY .* \(line 42\)$") as caught:
        validate(Migration("001.sql"), chunk("a;\nCOPY t FROM stdin;", lines=40))
    assert caught.value.fields == {"line": 42}


@pytest.mark.parametrize(("line", "says"), [(41, "of the transaction"), (42, "COPY"), (43, "COPY")])
def test_the_problem_on_the_earlier_line_is_reported(line: int, says: str) -> None:
    with pytest.raises(MigrationFailure, match=says):
        validate(Migration("001.sql"), chunk("a;\nCOPY t FROM stdin;", lines=40), Problem(line, "of the transaction"))


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        ("a;\nDELETE FROM _migrations;", 2),
        ('a;\n\nDROP TABLE public."_migrations"', 3),
        ("TRUNCATE _MIGRATIONS", 1),
        ("SELECT '_migrations'", None),
        ("SELECT 1 -- _migrations", None),
        ("SELECT * FROM my_migrations, _migrations_old", None),
    ],
)
def test_only_a_file_that_runs_in_a_transaction_may_change_the_migrations_table(sql: str, line: int | None) -> None:
    validate(Migration("001.sql", sql), chunk(sql))
    without_transaction = Migration("001.sql", f"-- migrate:no-transaction\n{sql}")
    if line is None:
        validate(without_transaction, chunk(sql))
        return
    with pytest.raises(MigrationFailure, match="must not use _migrations") as caught:
        validate(without_transaction, chunk(sql, lines=1))
    assert caught.value.fields == {"line": line + 1}


# The chunks of a migration

LINE = f"INSERT INTO t VALUES ('{'x' * 1000}');\n"
LINES = 3 * CHUNK_CHARS // len(LINE)


def large(directory: Path, sql: str, checksum: str | None = None) -> Migration:
    path = directory / "001.sql"
    path.write_text(sql)
    return Migration("001.sql", checksum=checksum or hashlib.sha256(sql.encode()).hexdigest(), path=str(path))


def read_ahead_through(reader: ChunkReader) -> list[Chunk]:
    chunks = []
    for found in reader:
        chunks.append(found)
        reader.read_ahead()
    return chunks


def test_the_chunks_are_the_same_with_and_without_reading_ahead(tmp_path: Path) -> None:
    migration = large(tmp_path, f"{LINE * LINES}SELECT '{'x' * 3 * CHUNK_CHARS}';{LINE * 10}")
    chunks = read_ahead_through(ChunkReader(migration))
    assert chunks == list(ChunkReader(migration))
    assert len(chunks) > 3
    assert "".join(found.text for found in chunks) == (tmp_path / "001.sql").read_text()


@pytest.mark.parametrize("wrong", ["COMMIT;", "SELECT $body$;", None], ids=["a violation", "never closed", "changed"])
def test_a_large_file_fails_at_the_chunk_that_contains_the_problem(tmp_path: Path, wrong: str | None) -> None:
    reader = ChunkReader(large(tmp_path, LINE * LINES + (wrong or ""), None if wrong else "another"))
    chunks = []
    with pytest.raises(MigrationFailure):
        for found in reader:
            chunks.append(found)
            try:
                reader.read_ahead()
            except MigrationFailure:
                pytest.fail("raised too early: the server may report an earlier error")
    assert chunks == list(ChunkReader(large(tmp_path, LINE * LINES)))[: len(chunks)]
    assert sum(len(found.text) for found in chunks) > CHUNK_CHARS


def test_a_file_in_memory_yields_no_chunk_until_all_are_valid() -> None:
    sql = LINE * (2 * MAX_MESSAGE_CHARS // len(LINE))
    assert len(list(ChunkReader(Migration("001.sql", sql)))) > 1
    with pytest.raises(MigrationFailure, match="COMMIT"):
        next(ChunkReader(Migration("001.sql", sql + "COMMIT;")))


def test_a_file_with_a_problem_yields_no_chunk() -> None:
    with pytest.raises(MigrationFailure, match=r"^the file cannot be read$"):
        next(ChunkReader(Migration("001.sql", problem="the file cannot be read")))


def test_reading_ahead_at_the_end_is_harmless() -> None:
    reader = ChunkReader(Migration("001.sql", "SELECT 1"))
    assert next(reader).text == "SELECT 1"
    reader.read_ahead()
    assert next(reader, None) is None


def test_a_chunk_that_was_read_ahead_is_not_read_again(tmp_path: Path) -> None:
    reader = ChunkReader(large(tmp_path, LINE * LINES))
    next(reader)
    reader.read_ahead()
    (tmp_path / "001.sql").write_text("")
    assert len(next(reader).text) > CHUNK_CHARS / 2
