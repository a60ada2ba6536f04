"""Compare the lexer with libpg_query, the server's own scanner and grammar, on generated files and token soup.

LEXER_SEED, LEXER_FILES and LEXER_SOUPS select a different or longer run.
"""

# ruff: noqa: E501 (tables of fragments)

from __future__ import annotations

import os
import random
import re
from bisect import bisect_left
from collections import Counter
from itertools import pairwise
from typing import NamedTuple

import postgast
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from predeploy.sql.splitter import Statement, scan, split, tokens, without_literals

SEED = int(os.environ.get("LEXER_SEED", "20261122"))
FILES = int(os.environ.get("LEXER_FILES", "8000"))
BATCHES = 8  # for several workers; coverage makes the batches three times as slow
SOUPS = int(os.environ.get("LEXER_SOUPS", "4000"))

# libpg_query returns comments as tokens and therefore ends a string before a `--` comment; the server (checked with
# 17.10) continues the string. The difference matters only for backslashes in E strings.
_CONTINUED_OVER_COMMENT = re.compile(r"'[ \t\n\r\f\v]*--[^\n\r]*[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*[\n\r])*'")


class Token(NamedTuple):
    start: int
    end: int
    text: str


def server_tokens(sql: str) -> list[Token]:
    """Return the server scanner's tokens, including comments, with offsets converted from bytes to characters."""
    places = [i for i, character in enumerate(sql) for _ in character.encode()] + [len(sql)]
    spans = [(places[t.start], places[t.end]) for t in postgast.scan(sql).tokens]
    return [Token(start, end, sql[start:end]) for start, end in spans]


def server_statements(sql: str, found: list[Token]) -> list[tuple[int, int]]:
    """Return the server grammar's statements, each from its first token to its last.

    The location of a RawStmt may include white space and comments before the statement, so the tokens determine where
    it begins.
    """
    places = [i for i, character in enumerate(sql) for _ in character.encode()] + [len(sql)]
    starts = [token.start for token in found]
    statements = []
    for raw in postgast.parse(sql).stmts:
        end = places[raw.stmt_location + raw.stmt_len] if raw.stmt_len else len(sql)
        inside = found[bisect_left(starts, places[raw.stmt_location]) : bisect_left(starts, end)]
        statements.append((inside[0].start, inside[-1].end))
    return statements


def between_semicolons(found: list[Token]) -> list[tuple[int, int]]:
    groups: list[list[Token]] = [[]]
    for token in found:
        if token.text == ";":
            groups.append([])
        else:
            groups[-1].append(token)
    return [(group[0].start, group[-1].end) for group in groups if group]


def compare(sql: str) -> str:
    """Assert that the lexer and the server agree about a text; return how far the server could read it."""
    if "\\" in sql and _CONTINUED_OVER_COMMENT.search(sql):
        return "libpg_query is no authority"
    result = scan(sql)
    error = scanner_error(sql)
    if error and not error.startswith("unterminated"):
        return "rejected by the scanner"
    if error:
        assert result.unterminated, (sql, error)
        assert result.unterminated.what.split()[-1] in error.replace("literal", "string"), sql
        return "unterminated"
    assert not result.unterminated, sql
    with_comments = server_tokens(sql)
    found = [token for token in with_comments if not token.text.startswith(("--", "/*"))]
    assert result.comments == [token.start for token in with_comments if token.text.startswith("--")], sql
    assert result.backslash == next((token.start for token in found if token.text == "\\"), None), sql
    spans = [(statement.start, statement.end) for statement in result.statements]
    try:
        expected = server_statements(sql, found)
    except postgast.PgQueryError:
        # Without the grammar, each semicolon ends a statement, except in CREATE, which may contain semicolons.
        if "create" not in sql.lower():
            assert spans == between_semicolons(found), sql
        return "rejected by the grammar"
    assert spans == expected, sql
    return "parsed"


def scanner_error(sql: str) -> str | None:
    try:
        postgast.scan(sql)
    except postgast.PgQueryError as error:
        return str(error.message)
    return None


class Author:
    r"""Writes files like those that people and tools write, from a stream of random numbers.

    A space separates tokens and becomes random white space or a comment; a space inside a token is written \0.
    """

    def __init__(self, stream: random.Random) -> None:
        self.stream = stream

    def one(self, *choices: str) -> str:
        return self.stream.choice(choices)

    def file(self) -> str:
        self.line_end = self.one("\n", "\n", "\n", "\r\n", "\r")
        text = self.gap(may_be_empty=True)
        for _ in range(self.stream.randint(1, 8)):
            words = [word.replace("\0", " ") for word in self.statement().split(" ") if word]
            text += words[0]
            for before, after in pairwise(words):
                text += self.gap(may_be_empty=before[-1] in "(,;" or after[0] in "),;(") + after
            text += self.gap(may_be_empty=True) + ";" * self.stream.choice((1, 1, 1, 1, 2))
            text += self.gap(may_be_empty=True)
        if self.stream.random() < 0.03:
            text += self.one("'a", '"a', "E'\\'", "$$ $a$", "$é$ $$", "/* /* */", "U&'a''", "b'1", "/*/", 'U&"')
        return text if self.stream.random() < 0.7 else text.rstrip("; \t\n\r\f\v")

    def gap(self, *, may_be_empty: bool) -> str:
        if self.stream.random() < 0.7:
            return "" if may_be_empty and self.stream.random() < 0.5 else self.one(" ", " ", " ", self.line_end)
        prose = self.one("", "it's; not $$", '"', " / ", "é \\", " * ", "-", "BEGIN ATOMIC", "; END;", "$a$ '' E'", "`")
        return self.one(
            "\t\f\v ",
            f"{self.line_end}\t",
            f"--{prose}{self.line_end}",
            f" --{prose}\n--{prose}\r",
            f" /*{prose}*/",
            f"/*{prose}{self.line_end}{prose}*/ ",
            f" /*/* {prose} */ {prose}/**/*/ ",
            f" /***{prose}***/--/*{self.line_end}",
        )

    def name(self) -> str:
        return self.one(
            "a", "t", "users", "foo$bar$baz", "e", "E1", "_x", "naïve", "表", "\xa0", "b$$", "atomic", "begin", "u",
            '"a;b"', '"it""s"', '"--"', '"/*"', '"$$"', '"end"', '"\\"', "\"'\"", 'U&"d\\0061;t"', 'u&"\\+000061"',
            "public.t", "a.b", 'x."end"', "n", "x1", "case_", "end_", "İ",
        )  # fmt: skip

    def string(self) -> str:
        nl = self.line_end
        return self.one(
            "'a'", "''", "';'", "'it''s; '", "'\\'", "'--'", "'/*'", "'$$'", "'a\\''b'", f"'a{nl}b;'", "'é;'", "' BEGIN'",
            "E'a'", "e'\\''", "E'\\\\'", "E'\\';'", "E'it''s\\n;'", "E'\\\\''\\''", f"E'a'{nl}'\\';b'", f"e'\\x41\\u00e9'{nl}{nl}\t''",
            f"'a'{nl}';'", f"'\\'{nl} '\\'", "U&'\\0061;'", "u&'d!0061;'", "B'01'", "b''", "X'1F'", "N'a;'", "n'\\'",
            f"E'\\{nl};'", "E'\\''''\\''", "'E'''", f"E''{nl}';\\''{nl}'\\\\'",
        ).replace(" ", "\0")  # fmt: skip

    def dollar(self, body: str | None = None) -> str:
        tag = self.one("", "a", "body", "_", "é", "a1", "E", "表", "BEGIN")
        if body is None:
            other = self.one("$", "$b$", "$$ x $ $" if tag else "$b$", "$A$", f"${tag}", f"{tag}", "$1")
            body = self.one(" ; ", "';\"", "--", "/* ;", f" {other} ", f"BEGIN; END{self.line_end}", "\\", "")
            if f"${tag}$" in f"{body}$":
                body = ";"
        return f"${tag}${body}${tag}$".replace(" ", "\0")

    def number(self) -> str:
        return self.one("1", "0", "1.5", ".5", "1e5", "1.5E-3", "0x1F", "1_000", "0b101", "$1", "-1", "1.")

    def expression(self, depth: int = 2) -> str:
        if not depth or self.stream.random() < 0.3:
            return self.one(self.name(), self.string(), self.number(), self.dollar(), "NULL", "now()")
        a, b = self.expression(depth - 1), self.expression(depth - 1)
        operator = self.one(
            "+",
            "-",
            "*",
            "/",
            "||",
            "=",
            "<>",
            "<=",
            "@@",
            "->",
            "->>",
            "#>",
            "~*",
            "!~",
            "^",
            "&",
            "@>",
            "%",
        )
        return self.one(
            f"( {a} )", f"( {a} )", f"f( {a} , {b} )", f"( {a} {operator} {b} )", f"( {a} {operator} {b} )",
            f"CASE WHEN {a} IS NULL THEN {b} END", f"case {a} when {b} then 1 else 2 end", f"( {a} )::text",
            f"( {a} IS DISTINCT FROM {b} )", f"ARRAY[ {a} , {b} ]", f"( SELECT {a} )", f"( {a} :: text )",
            f"( {a} OPERATOR(pg_catalog.+) {b} )", f"( {a} )[ 1 : 2 ]",
        )  # fmt: skip

    def query(self) -> str:
        a, b, name = self.expression(), self.expression(), self.name()
        return self.one(
            f"SELECT {a} AS end , {b} AS {name.rpartition('.')[2]} FROM {name}",
            f"SELECT begin atomic , x.end , {a} FROM {name}",
            f"SELECT {a} end",
            f"INSERT INTO {name} VALUES ( {a} , {b} ) , ( {b} , {a} )",
            f"UPDATE {name} SET a = {a} , b = {b} WHERE {a} IS NULL",
            f"DELETE FROM {name} WHERE {a} = {b}",
            f"WITH q AS ( SELECT {a} ) SELECT {b} FROM q",
            f"VALUES ( {a} )",
        )

    def body(self) -> str:
        parts = [self.one(self.query(), self.query(), "", f"RETURN {self.expression()}") + " ;" for _ in range(3)]
        inside = " ".join(part.strip() for part in parts[: self.stream.randint(0, 3)])
        return f"BEGIN ATOMIC {inside} END".replace("  ", " ")

    def statement(self) -> str:
        name, a, query, text = self.name(), self.expression(), self.query(), self.string()
        replace = self.one("CREATE", "create or replace", "CREATE OR REPLACE", "Create")
        plain = self.one("'a;b'", "'it''s'", f"'a'{self.line_end}';'", "E'\\';'", "'\\'")
        kind = self.stream.randrange(16)
        if kind < 4:
            return query
        if kind < 6:
            parameters = self.one("( )", "( begin int , atomic text )", f"( x int DEFAULT {a} )", "( begin atomic )")
            returns = self.one(
                "RETURNS int", "RETURNS begin", "RETURNS SETOF t", "RETURNS TABLE ( a int , begin atomic )"
            )
            body = self.one(
                self.body(), self.body(), f"AS {self.dollar()}", f"AS {plain}", f"RETURN {a}", "AS 'obj' , 'sym'",
                f"LANGUAGE plpgsql AS {self.dollar(' BEGIN RETURN 1; END; ')}", f"SET begin TO atomic {self.body()}",
            )  # fmt: skip
            return f"{replace} FUNCTION {name} {parameters} {returns} {self.one('', 'IMMUTABLE ')}{body}"
        return (
            f"{replace} PROCEDURE {name} ( a int ) LANGUAGE SQL {self.body()}",
            f"{replace} RULE r AS ON INSERT TO {name} DO ALSO ( {query} ; {self.query()} ;; {self.query()} )",
            f"{replace} RULE r AS ON UPDATE TO {name} DO INSTEAD {self.one('NOTHING', query)}",
            f"{replace} TRIGGER g BEFORE INSERT ON {name} FOR EACH ROW WHEN ( {a} IS NULL ) EXECUTE FUNCTION f( {plain} )",
            f"DO {self.one('', 'LANGUAGE plpgsql ')}{self.dollar()}",
            f"CREATE TABLE {name} ( begin atomic , {self.one('a', 'é')} int DEFAULT {a} , CHECK ( {a} = 1 ) )",
            f"{replace} VIEW {name} AS {self.one('SELECT begin atomic FROM t', f'SELECT {a} AS end')}",
            f"COMMENT ON TABLE {name} IS {self.one(plain, self.dollar())}",
            f"SET search_path = {self.one('begin', plain)} , {self.one('atomic', text)}",
            self.one(
                "BEGIN",
                "COMMIT",
                "END",
                "START TRANSACTION READ ONLY",
                "ROLLBACK TO SAVEPOINT begin",
                "ABORT",
            ),
        )[kind - 6]


@pytest.mark.parametrize("batch", range(BATCHES))
def test_files_are_split_where_the_server_splits_them(batch: int) -> None:
    stream = random.Random(f"{SEED} {batch}")  # noqa: S311
    files = FILES // BATCHES
    outcomes = Counter(compare(Author(stream).file()) for _ in range(files))
    print(f"seed {SEED}, batch {batch}: {dict(outcomes)}")
    assert outcomes["parsed"] > 0.85 * files
    assert outcomes["unterminated"] > 0.01 * files


SOUP = [
    "'", "''", '"', '""', "$$", "$a$", "$", "$1", "/*", "*/", "--", "\n", "\r", "\r\n", " ", "\t", "\v", ";", ";", "\\", "\\'", "\\\\",
    "e", "E'", "e'", "U&'", 'U&"', "u", "&", "B'", "x'", "n'", "a", "E", "foo", "é", "\xa0", "\u2028", "1", "0x1f", "1.", ".5e", "_",
    "-", "/", "*", "+", "@", "(", ")", "[", ",", ".", ":", "::", ":x", "?", "`", "#", "SELECT ", " AS ", "begin", " atomic ", "end",
]  # fmt: skip


def test_token_soup_is_split_where_the_server_splits_it() -> None:
    outcomes: Counter[str] = Counter()

    @seed(SEED)
    @settings(max_examples=SOUPS, deadline=None, database=None)
    @given(st.lists(st.sampled_from(SOUP), max_size=40).map("".join))
    def taste(sql: str) -> None:
        outcomes[compare(sql)] += 1

    taste()
    print(f"seed {SEED}: {dict(outcomes)}")
    assert outcomes["rejected by the grammar"] + outcomes["parsed"] > 0.1 * SOUPS
    assert outcomes["unterminated"] > 0.1 * SOUPS


def test_replacing_literals_keeps_all_other_tokens() -> None:
    stream, replaced, files = random.Random(SEED), 0, FILES // 4  # noqa: S311
    for _ in range(files):
        file = Author(stream).file()
        for statement in scan(file).statements:
            text = without_literals(file, statement)
            if text is not None:
                replaced += "''" in text
                assert other_tokens(text, split(text)[0]) == other_tokens(file, statement), text
    assert replaced > 0.04 * files  # most files have a comment or a dollar sign


def other_tokens(sql: str, statement: Statement) -> list[str]:
    return [token for token in tokens(sql, statement) if not re.match(r"[eE]?'|[0-9]", token)]
