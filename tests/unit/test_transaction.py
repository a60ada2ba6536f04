"""The transaction control that a file may contain, and the messages for transaction control that is not allowed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predeploy.migrations.chunks import Chunk, split_chunks
from predeploy.migrations.migration import Migration, MigrationFailure
from predeploy.migrations.transaction import TransactionReader
from predeploy.migrations.validate import ChunkReader
from predeploy.sql.splitter import scan

NO_TRANSACTION = "-- migrate:no-transaction\n"


def read(sql: str) -> Chunk:
    (chunk,) = ChunkReader(Migration("001.sql", sql))
    return chunk


def statements(chunk: Chunk) -> list[str]:
    return [chunk.text[statement.start : statement.end] for statement in chunk.scan.statements]


@pytest.mark.parametrize(
    ("sql", "mode"),
    [
        ("BEGIN;\na;\nb;\nCOMMIT;", ""),
        ("begin work; a; b; end work", ""),
        ("-- c\nSTART /* c */ TRANSACTION\n;a;b;\nEND TRANSACTION AND NO CHAIN;-- c\n", ""),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE; a; b; COMMIT", "ISOLATION LEVEL SERIALIZABLE"),
        ("BEGIN READ WRITE, NOT DEFERRABLE; a; b; COMMIT", ""),
        ("START TRANSACTION DEFERRABLE; a; b; COMMIT", "ISOLATION LEVEL READ COMMITTED DEFERRABLE"),
        ("BEGIN ISOLATION LEVEL READ UNCOMMITTED; a; b; COMMIT", "ISOLATION LEVEL READ UNCOMMITTED"),
        ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; a; b", "ISOLATION LEVEL REPEATABLE READ"),
        ("SET LOCAL transaction isolation /* c */ level\nserializable; a; b", "ISOLATION LEVEL SERIALIZABLE"),
        (
            "BEGIN ISOLATION LEVEL SERIALIZABLE; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, DEFERRABLE; a;b; END",
            "ISOLATION LEVEL REPEATABLE READ DEFERRABLE",
        ),
        ("BEGIN; SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET TRANSACTION READ WRITE; a; b; COMMIT", ""),
        ("SET SESSION TRANSACTION DEFERRABLE; SET TRANSACTION NOT DEFERRABLE; BEGIN; a; b; COMMIT", ""),
    ],
)
def test_statements_around_a_file_are_blanked_and_their_mode_is_kept(sql: str, mode: str) -> None:
    chunk = read(sql)
    assert (statements(chunk), chunk.transaction_mode, chunk.total) == (["a", "b"], mode, 2)
    assert len(chunk.text) == len(sql)
    assert chunk.text.index("a;") == sql.index("a;", sql.index(";"))
    assert [s.line for s in chunk.scan.statements] == [s.line for s in scan(sql).statements if s.end - s.start == 1]


@pytest.mark.parametrize(
    "sql",
    [
        "SAVEPOINT a; ROLLBACK TO a; RELEASE a; ROLLBACK WORK TO SAVEPOINT a",
        "COMMIT PREPARED 'x'; ROLLBACK PREPARED 'x'; PREPARE begin AS SELECT 1",
        "SELECT 1; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET TRANSACTION SNAPSHOT 'x'; SELECT 1",
        "SET transaction_isolation = 'serializable'; SELECT 1",
        "DO $$ BEGIN COMMIT; END $$; CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END",
        f"{NO_TRANSACTION}a; BEGIN ISOLATION LEVEL SERIALIZABLE; b; COMMIT; START TRANSACTION READ ONLY; END; c",
        f"{NO_TRANSACTION}BEGIN; SET TRANSACTION READ ONLY; SAVEPOINT a; ROLLBACK TO a; END AND NO CHAIN",
    ],
)
def test_other_statements_are_sent_unchanged(sql: str) -> None:
    assert read(sql) == Chunk(sql, scan(sql))


@pytest.mark.parametrize(
    ("sql", "line", "says"),
    [
        ("a;\nBEGIN;\nb;\nCOMMIT;", 2, "BEGIN: each migration runs in one transaction, so it must be the first"),
        ("a;\nstart transaction;\nb;\nCOMMIT;", 2, "START TRANSACTION: each migration"),
        (
            "BEGIN;\na;\nCOMMIT;\nb;",
            3,
            "COMMIT: each migration runs in one transaction, so no statement may",
        ),
        (
            "BEGIN;\na;\nEND;\nBEGIN; b; COMMIT",
            3,
            "END: each migration runs in one transaction, so no statement may follow",
        ),
        ("BEGIN;\na;\nCOMMIT; COMMIT", 3, "COMMIT: each migration runs in one transaction, so no statement may follow"),
        ("BEGIN;\na;\nBEGIN;\nb;COMMIT;COMMIT;", 3, "BEGIN: each migration runs in one transaction, which begins only"),
        ("\nBEGIN;\na;", 2, "BEGIN: there is no matching COMMIT; add it, or remove BEGIN"),
        ("a;\nCOMMIT", 2, "COMMIT: there is no matching BEGIN, and each migration runs in one transaction"),
        ("END", 1, "END: there is no matching BEGIN"),
        ("BEGIN;\na;\ncommit AND /* c */ CHAIN;", 3, "COMMIT AND CHAIN: each migration runs in one transaction; split"),
        ("a;\nROLLBACK;", 2, "ROLLBACK: each migration"),
        ("a;\nROLLBACK WORK;", 2, "ROLLBACK: each migration"),
        ("BEGIN;\nABORT;", 2, "ABORT: each migration"),
        ("BEGIN;\na;\nPREPARE TRANSACTION 'x';", 3, "PREPARE TRANSACTION: each migration"),
        ("BEGIN\nREAD ONLY; a; COMMIT", 1, "BEGIN: each migration runs in one transaction, which also records it"),
        ("\nSET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY; a", 2, "SET TRANSACTION: .* remove READ ONLY"),
        ("BEGIN CREATE TABLE sesame (); COMMIT", 1, "BEGIN: unsupported words follow it"),
        ("BEGIN; a;\nCOMMIT CREATE TABLE sesame ()", 2, "COMMIT: unsupported words follow it"),
    ],
)
def test_a_transactional_file_is_rejected_with_the_line_and_a_remedy(sql: str, line: int, says: str) -> None:
    with pytest.raises(MigrationFailure, match=rf"^{says}") as caught:
        read(sql)
    assert caught.value.fields == {"line": line}
    assert "migrate:no-transaction" not in caught.value.message
    assert "sesame" not in caught.value.message


@pytest.mark.parametrize(
    ("sql", "line", "says"),
    [
        ("BEGIN;\na;", 2, "BEGIN: there is no matching COMMIT; a no-transaction migration must commit each block"),
        ("BEGIN;\na;\nBEGIN;\nb;COMMIT;COMMIT;", 4, "BEGIN: .* the block from line 2 is still open; commit it first"),
        ("a;\nCOMMIT", 3, "COMMIT: there is no matching BEGIN, and each statement is committed on its own"),
        ("BEGIN; a; COMMIT;\nEND", 3, "END: there is no matching BEGIN"),
        ("BEGIN;\na;\nROLLBACK;", 4, "ROLLBACK: a no-transaction migration must commit"),
        ("BEGIN;\na;\nCOMMIT AND CHAIN;", 4, "COMMIT AND CHAIN: a no-transaction migration must commit"),
        ("BEGIN;\na;\nPREPARE TRANSACTION 'x';", 4, "PREPARE TRANSACTION: a no-transaction migration must commit"),
    ],
)
def test_a_no_transaction_file_is_rejected_with_its_own_message(sql: str, line: int, says: str) -> None:
    with pytest.raises(MigrationFailure, match=rf"^{says}") as caught:
        read(NO_TRANSACTION + sql)
    assert caught.value.fields == {"line": line}
    assert "-- migrate:no-transaction" not in caught.value.message


@pytest.mark.parametrize("sql", ["BEGIN;\nSELECT 'a; COMMIT;", "SELECT 1;\nSELECT $x$; ROLLBACK"])
def test_an_unclosed_quote_is_reported_as_the_problem(sql: str) -> None:
    with pytest.raises(MigrationFailure, match=r"never closed \(line 2\)$"):
        read(sql)


# In chunks

FRAGMENTS = [
    *("BEGIN", "START TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SET TRANSACTION DEFERRABLE", "COMMIT", "END"),
    *("a", "SELECT 'x;'", "\n", ";", ";", ";", "\nCOMMIT;", "ROLLBACK TO a", "ABORT", " -- c\n"),
]
inner = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)
texts = inner | inner.map(lambda sql: f"BEGIN;SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;{sql};\nCOMMIT;")


@settings(max_examples=1500, deadline=None)
@given(sql=texts, chars=st.integers(1, 60), transactional=st.booleans())
def test_chunks_are_read_like_the_whole_text(sql: str, chars: int, transactional: bool) -> None:
    whole = TransactionReader(transactional=transactional)
    expected = whole.read(Chunk(sql, scan(sql)))
    reader = TransactionReader(transactional=transactional)
    blocks = (sql[at : at + 7] for at in range(0, len(sql), 7))
    chunks = []
    for chunk in map(reader.read, split_chunks(blocks, chars)):
        chunks.append(chunk)
        if reader.problem:
            break
    assert reader.problem == whole.problem
    if whole.problem:
        return
    assert [text for chunk in chunks for text in statements(chunk)] == statements(expected)
    assert "".join(chunk.text for chunk in chunks) == expected.text
    assert {chunk.transaction_mode for chunk in chunks if chunk.scan.statements and not chunk.first} <= {
        expected.transaction_mode
    }
    assert {chunk.transaction_mode for chunk in chunks if chunk.first} <= {""}
    assert chunks[-1].total == expected.total
