"""A text in chunks has the same statements, lines, violations and positions as the whole text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from predeploy.migrations.chunks import CHUNK_CHARS, MAX_MESSAGE_CHARS, Chunk, chunks_of, split_chunks
from predeploy.migrations.validate import Violation, find_violation
from predeploy.sql.splitter import Unterminated, line_and_column, scan

FRAGMENTS = [
    *("a", "SELECT 1", "INSERT INTO t VALUES (1)", "SET client_encoding = latin1", "COPY t FROM stdin", "COMMIT"),
    *(";", ";", ";", ";", " ", "\n", "\r\n", "\r", "\t", "\0", "é🐘"),
    *("'it''s;'", "'a'\n'b;'", "E'\\';'", "'", "E'", '"x;y"', '"', "U&'d'", "\\", "\\gset", "-", "/", "$", "$1"),
    *("$$;$$", "$a$ ; $a$", "$a$", "$$", "-- c;\n", "--", "/* ; */", "/*", "*/", "/* /* ; */ */"),
    *("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END", "BEGIN ATOMIC", "END", "CREATE"),
    *("CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)", "OR REPLACE", "PROCEDURE p", "(", ")"),
]
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join)
sizes = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def blocks_of(sql: str, lengths: list[int]) -> list[str]:
    blocks: list[str] = []
    while sql:
        length = lengths[len(blocks) % len(lengths)]
        blocks.append(sql[:length])
        sql = sql[length:]
    return blocks


def split(sql: str, lengths: list[int], chars: int = 1) -> list[Chunk]:
    return list(split_chunks(iter(blocks_of(sql, lengths)), chars))


def violation_in(chunks: list[Chunk]) -> Violation | None:
    for chunk in chunks:
        if found := find_violation(chunk.text, chunk.scan):
            return Violation(chunk.lines + found.line, found.message)
    return None


def of(problem: Unterminated | None, start: int = 0) -> tuple[str, int] | None:
    return (problem.what, start + problem.offset) if problem else None


@settings(max_examples=1500, deadline=None)
@given(sql=texts, lengths=sizes, chars=st.integers(1, 60))
@example(sql="a;\r\nb;\r\nc 'x", lengths=[3, 1], chars=1)
def test_chunks_have_the_same_statements_and_violations_as_the_text(sql: str, lengths: list[int], chars: int) -> None:
    chunks = split(sql, lengths, chars)
    expected = scan(sql)
    assert "".join(chunk.text for chunk in chunks) == sql
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    found: list[tuple[int, int, int, tuple[str, ...]]] = []
    comments: list[int] = []
    backslash = None
    start = 0
    for chunk in chunks:
        assert chunk.first == len(found)
        assert chunk.place(0) == line_and_column(sql, start)
        assert chunk.scan.statements or chunk.last
        found += [(start + s.start, start + s.end, chunk.lines + s.line, s.words) for s in chunk.scan.statements]
        comments += [start + comment for comment in chunk.scan.comments]
        if backslash is None and chunk.scan.backslash is not None:
            backslash = start + chunk.scan.backslash
        assert chunk.last or chunk.scan.unterminated is None
        start += len(chunk.text)
    assert found == [(s.start, s.end, s.line, s.words) for s in expected.statements]
    assert (comments, backslash) == (expected.comments, expected.backslash)
    assert of(chunks[-1].scan.unterminated, len(sql) - len(chunks[-1].text)) == of(expected.unterminated)
    assert chunks[-1].total == len(expected.statements)
    assert violation_in(chunks) == find_violation(sql, expected)


@given(sql=texts, lengths=sizes, data=st.data())
def test_positions_in_a_chunk_are_converted_to_positions_in_the_file(
    sql: str, lengths: list[int], data: st.DataObject
) -> None:
    chunks = split(sql, lengths)
    at = data.draw(st.integers(0, len(chunks) - 1))
    start = sum(len(chunk.text) for chunk in chunks[:at])
    offset = data.draw(st.integers(0, max(len(chunks[at].text) - 1, 0)))
    assert chunks[at].place(offset) == line_and_column(sql, start + offset)


def test_chunks_have_about_the_requested_length() -> None:
    sql = "SELECT 12345;\n" * 1000
    lengths = [len(chunk.text) for chunk in split(sql, [10], 500)]
    assert all(400 < length < 600 for length in lengths[:-2])
    assert len(lengths) > 20


@pytest.mark.parametrize("statement", ["SELECT '{}'", "SELECT {}", "$${}$$", "/*{}*/"])
def test_a_long_statement_is_scanned_in_linear_time(statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = f"a;b;{statement.format('1 ' * 50_000)};c;d"
    read = [0]

    def count(text: str) -> object:
        read.append(len(text))
        return scan(text)

    monkeypatch.setattr("predeploy.migrations.chunks.scan", count)
    assert "".join(chunk.text for chunk in split(sql, [100], 100)) == sql
    assert sum(read) < 5 * len(sql)
    assert all(later <= 2 * earlier + 200 for earlier, later in pairwise(read)), "memory use is not bounded"


def test_a_text_in_memory_is_one_chunk_unless_it_is_too_long_for_one_message() -> None:
    text = "SELECT 1;\n" * (MAX_MESSAGE_CHARS // 10)
    assert list(chunks_of(text)) == [Chunk(text, scan(text))]
    longer = "SELECT 1;\n" * (MAX_MESSAGE_CHARS // 10 + 1)
    chunks = list(chunks_of(longer))
    assert "".join(chunk.text for chunk in chunks) == longer
    assert 0.9 * CHUNK_CHARS < len(chunks[0].text) <= CHUNK_CHARS


@pytest.mark.parametrize(
    ("text", "last", "body"),
    [
        ("-- c\n a; b -- d", True, (6, "a; b")),
        ("-- c\n a; b;", True, (6, "a; b")),
        ("a; /* open", True, (0, "a")),
        ("-- only a comment", True, (0, "")),
        ("", True, (0, "")),
        ("-- c\n a; b;", False, (0, "-- c\n a; b;")),
    ],
)
def test_what_is_sent_ends_with_the_last_statement(text: str, last: bool, body: tuple[int, str]) -> None:
    assert Chunk(text, scan(text), last=last).body() == body


def test_a_statement_is_found_by_its_number_in_the_migration() -> None:
    chunk = Chunk("a;b;c", scan("a;b;c"), first=10, last=False)
    found = [chunk.statement_at(number) for number in (9, 10, 12, 13)]
    assert found == [None, chunk.scan.statements[0], chunk.scan.statements[2], None]
    assert chunk.total is None
    assert chunk._replace(last=True).total == 13
