"""A text in pieces is the text: the same statements, lines, objections and places, wherever the blocks end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from predeploy.migrations.chunks import Piece, cut
from predeploy.migrations.validate import Objection, find_objection
from predeploy.sql.splitter import Unterminated, line_and_column, scan

if TYPE_CHECKING:
    from collections.abc import Iterator

FRAGMENTS = [
    *("a", "SELECT 1", "INSERT INTO t VALUES (1)", "SET client_encoding = latin1", "COPY t FROM stdin", "COMMIT"),
    *(";", ";", ";", ";", " ", "\n", "\r\n", "\r", "\t", "\0", "é🐘"),
    *("'it''s;'", "'a'\n'b;'", "E'\\';'", "'", "E'", '"x;y"', '"', "U&'d'", "\\", "\\gset", "-", "/", "$", "$1"),
    *("$$;$$", "$a$ ; $a$", "$a$", "$$", "-- c;\n", "--", "/* ; */", "/*", "*/", "/* /* ; */ */"),
    *("\n-- migrate:down\n", "-- migrate:down", "-- +goose Down\r\n", "-- migrate:down\r"),
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


def cut_up(sql: str, lengths: list[int], chars: int = 1) -> list[Piece]:
    return list(filter(None, cut(iter(blocks_of(sql, lengths)), chars)))


def objection_in(pieces: list[Piece]) -> Objection | None:
    for piece in pieces:
        if found := find_objection(piece.text, piece.scan, piece.column):
            return Objection(piece.lines + found.line, found.message)
    return None


def of(problem: Unterminated | None, start: int = 0) -> tuple[str, int] | None:
    return (problem.what, start + problem.offset) if problem else None


@settings(max_examples=1500, deadline=None)
@given(sql=texts, lengths=sizes, chars=st.integers(1, 60))
@example(sql="a -- migrate:down\n;b;c;", lengths=[30], chars=1)
@example(sql="a;b\n-- migrate:down\n;c;", lengths=[3], chars=1)
@example(sql="a;\r\nb;\r\nc 'x", lengths=[3, 1], chars=1)
def test_a_text_in_pieces_is_the_text(sql: str, lengths: list[int], chars: int) -> None:
    pieces = cut_up(sql, lengths, chars)
    expected = scan(sql)
    assert "".join(piece.text for piece in pieces) == sql
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    found: list[tuple[int, int, int, tuple[str, ...]]] = []
    comments: list[int] = []
    backslash = None
    start = 0
    for piece in pieces:
        assert piece.first == len(found)
        assert piece.place(0) == line_and_column(sql, start)
        assert piece.scan.statements or piece.last
        found += [(start + s.start, start + s.end, piece.lines + s.line, s.words) for s in piece.scan.statements]
        comments += [start + comment for comment in piece.scan.comments]
        if backslash is None and piece.scan.backslash is not None:
            backslash = start + piece.scan.backslash
        assert piece.last or piece.scan.unterminated is None
        start += len(piece.text)
    assert found == [(s.start, s.end, s.line, s.words) for s in expected.statements]
    assert (comments, backslash) == (expected.comments, expected.backslash)
    assert of(pieces[-1].scan.unterminated, len(sql) - len(pieces[-1].text)) == of(expected.unterminated)
    assert pieces[-1].total == len(expected.statements)
    assert objection_in(pieces) == find_objection(sql, expected)


@given(sql=texts, lengths=sizes, data=st.data())
def test_every_place_is_that_of_the_file(sql: str, lengths: list[int], data: st.DataObject) -> None:
    pieces = cut_up(sql, lengths)
    at = data.draw(st.integers(0, len(pieces) - 1))
    start = sum(len(piece.text) for piece in pieces[:at])
    offset = data.draw(st.integers(0, max(len(pieces[at].text) - 1, 0)))
    assert pieces[at].place(offset) == line_and_column(sql, start + offset)


def test_pieces_are_as_long_as_they_are_wanted() -> None:
    sql = "SELECT 12345;\n" * 1000
    lengths = [len(piece.text) for piece in cut_up(sql, [10], 500)]
    assert all(400 < length < 600 for length in lengths[:-2])
    assert len(lengths) > 20


@pytest.mark.parametrize("statement", ["SELECT '{}'", "SELECT {}", "$${}$$", "/*{}*/"])
def test_a_long_statement_is_read_over_a_few_times_only(statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = f"a;b;{statement.format('1 ' * 50_000)};c;d"
    read = []

    def count(text: str) -> object:
        read.append(len(text))
        return scan(text)

    monkeypatch.setattr("predeploy.migrations.chunks.scan", count)
    assert "".join(piece.text for piece in cut_up(sql, [100], 100)) == sql
    assert sum(read) < 5 * len(sql)


def test_of_a_long_statement_no_more_is_read_at_a_time_than_twice_what_is_there() -> None:
    sql = f"a;b;SELECT '{'x' * 10_000}';c;"
    read = 0

    def blocks() -> Iterator[str]:
        nonlocal read
        for block in blocks_of(sql, [10]):
            read += len(block)
            yield block

    before, steps = 0, []
    for piece in cut(blocks(), 100):
        assert read <= 2 * before + 120
        before = read
        steps.append(piece is not None)
    assert steps.count(False) > 5
