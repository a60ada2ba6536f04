"""Text between a down marker and the next up marker is blanked, and all other text keeps its position."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from predeploy.migrations.chunks import split_chunks
from predeploy.migrations.migration import Migration, MigrationFailure
from predeploy.migrations.sections import forward_chunks
from predeploy.migrations.validate import ChunkReader
from predeploy.sql.splitter import scan

if TYPE_CHECKING:
    from predeploy.migrations.chunks import Chunk

UPS = [
    *("-- migrate:up", "--migrate:up", "-- MIGRATE:UP transaction:false", "-- +goose Up", "-- +goose up"),
    *("-- +migrate Up", "-- +migrate Up notransaction", "-- +micrate Up", "-- rambler up", "# --- !Ups", "#!Ups"),
    *("-- !Ups", "--- !Ups", "-- Up Migration", "-- up migration ---"),
]
DOWNS = [
    *("-- migrate:down", "--migrate:down", "-- migrate: down", "-- migrate:down transaction:false", "-- +goose Down"),
    *("-- +migrate Down", "-- +migrate Down notransaction", "-- +micrate Down", "-- rambler down", "# --- !Downs"),
    *("# !Downs", "-- !Downs", "-- Down Migration", "---- Down Migration ----", "-- //@UNDO", "--//@undo"),
    "---- create above / drop below ----",
]


def forward(sql: str) -> list[str]:
    return [text for chunk in Migration("001.sql", sql).chunks() for text in statements(chunk)]


def statements(chunk: Chunk) -> list[str]:
    return [chunk.text[statement.start : statement.end] for statement in chunk.scan.statements]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("behind", ["", ";", ":", ".", "  "])
@pytest.mark.parametrize("down", DOWNS)
def test_text_after_a_down_marker_is_blanked_and_other_text_keeps_its_position(
    down: str, behind: str, line_end: str
) -> None:
    if behind and " " in (options := down.rpartition(":")[2]) and options.endswith("false"):
        behind = ""
    sql = line_end.join(["a;", f"{down}{behind}", "b; 'it''s;'", "-- é", "c"])
    (chunk,) = Migration("001.sql", sql).chunks()
    assert (statements(chunk), len(chunk.text), chunk.total) == (["a"], len(sql), 1)
    assert re.findall(r"[\r\n]", chunk.text) == re.findall(r"[\r\n]", sql)
    assert set(chunk.text) <= set("a; \r\n")


@pytest.mark.parametrize("up", UPS)
@pytest.mark.parametrize("behind", ["", ";", ":", "."])
def test_text_after_the_next_up_marker_of_any_tool_is_kept(up: str, behind: str) -> None:
    if up.endswith(("false", "notransaction")):
        behind = ""
    for down in DOWNS:
        sql = f"a\n{down}\nb;\n{up}{behind}\nc;\nd\n{down}\ne"
        (chunk,) = Migration("001.sql", sql).chunks()
        assert statements(chunk) == ["a", "c", "d"]
        assert [statement.line for statement in chunk.scan.statements] == [1, 5, 6]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT '\n-- migrate:down\n'; b",
        "/*\n-- migrate:down\n*/ a; b",
        "$$\n-- +goose Down\n$$; b",
        '"\n# --- !Downs\n"; b',
        "a; -- migrate:down\nb;",
        "a\n/* */ -- migrate:down\n;b;",
        "a;\n-- see migrate:down\nb;",
        "a;\n-- migrate:downward\nb;",
        "a;\n-- Down migration is in another file\nb;",
        "a;\n-- +goose StatementBegin\nb;",
        "a;\n--rollback DROP TABLE t;\nb;",
        "-- migrate:up\na;\n-- down\nb",
        "a;\n#Downs\nb",
    ],
)
def test_a_marker_is_a_comment_on_its_own_line(sql: str) -> None:
    (chunk,) = Migration("001.sql", sql).chunks()
    assert (chunk.text, chunk.scan) == (sql, scan(sql))


@pytest.mark.parametrize(
    ("sql", "left"),
    [
        ("# --- !Ups\na;\n# --- !Downs\nb;", ["a"]),
        ("# It's the users' table\n# and \"more\n\n# --- !Ups\na; '#x'\n# --- !Downs\nb;", ["a", "'#x'"]),
        ("a\n# --- !Ups behind it\nb", ["a\n" + " " * 20 + "\nb"]),
        ("-- migrate:down\na;\n-- migrate:up\nb", ["b"]),
        ("a;\n-- migrate:down\nb;\n-- migrate:down\nc;\n-- migrate:up\n-- migrate:up\nd", ["a", "d"]),
        ("a;\n-- migrate:down\nCREATE FUNCTION f() BEGIN ATOMIC x;\n-- migrate:up\ny;", ["a", "y"]),
        ("a;\n-- migrate:down\n\\q\n\0 COPY t FROM stdin;", ["a"]),
        ("a;\n-- migrate:down\nSELECT 'never closed", ["a"]),
        ("a;\n-- migrate:down\nSELECT '\n-- migrate:up\n'; b;", ["a"]),
    ],
)
def test_only_forward_statements_are_kept(sql: str, left: list[str]) -> None:
    assert forward(sql) == left
    assert [text for chunk in ChunkReader(Migration("001.sql", sql)) for text in statements(chunk)] == left


def test_a_quote_that_may_hide_an_up_marker_is_rejected() -> None:
    reader = ChunkReader(Migration("001.sql", "a;\n-- migrate:down\nb 'c;\n-- migrate:up\nd;"))
    with pytest.raises(MigrationFailure, match=r"never closed \(line 3\)$"):
        list(reader)


def test_a_text_without_markers_is_not_scanned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predeploy.migrations.sections.scan", lambda _: pytest.fail("scanned"))
    assert forward("-- migrate:up\na; countdown;\n-- +goose StatementBegin\nb") == ["a", "countdown", "b"]


# In chunks

FRAGMENTS = [
    *(
        "a;",
        "b;",
        "c",
        ";",
        "\n",
        "\r\n",
        " ",
        "'\n-- migrate:down\n';",
        "$$;\n-- migrate:up\n$$;",
        "/* ; */",
        "-- x\n",
    ),
    *(
        "\n-- migrate:down\n",
        "\n-- migrate:up\n",
        "\n# --- !Downs\n",
        "\n# --- !Ups\n",
        "\n-- //@UNDO\r\n",
        "\r-- !Ups\r",
    ),
]
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join)


@settings(max_examples=1500, deadline=None)
@given(sql=texts, length=st.integers(1, 40), chars=st.integers(1, 60))
@example(sql="a;\n-- migrate:down\nb;b;b;b;b;\n-- migrate:up\nc;", length=3, chars=1)
@example(sql="\n-- migrate:down\na;a;a;a;", length=3, chars=1)
@example(sql="a; -- migrate:down\n;b;c;", length=30, chars=1)
@example(sql="a;\n# --- !Downs\n;\nb;\nb;", length=1, chars=1)
@example(sql="a\n# --- !Downs\n;\nb;\nb;", length=1, chars=1)
@example(sql="a;\n# --- !Downs\nb;\n# --- !Ups\n;\nc;\nd;", length=1, chars=1)
def test_a_text_in_chunks_has_the_same_forward_statements(sql: str, length: int, chars: int) -> None:
    (whole,) = Migration("001.sql", sql).chunks()
    blocks = (sql[at : at + length] for at in range(0, len(sql), length))
    chunks = list(forward_chunks(split_chunks(blocks, chars)))
    assert [text for chunk in chunks for text in statements(chunk)] == statements(whole)
    lines = [chunk.lines + statement.line for chunk in chunks for statement in chunk.scan.statements]
    assert lines == [statement.line for statement in whole.scan.statements]
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert all(chunk.scan.statements or chunk.last for chunk in chunks)
    numbers = [0]
    for chunk in chunks:
        assert chunk.first == numbers[-1]
        numbers.append(chunk.first + len(chunk.scan.statements))
    assert chunks[-1].total == whole.total
