from __future__ import annotations

import re
import time

import pytest

from predeploy.sql import splitter
from predeploy.sql.splitter import Statement, Unterminated, line_and_column, scan, split, tokens, without_literals


def texts(sql: str) -> list[str]:
    return [sql[s.start : s.end] for s in split(sql)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT ';'",
        "SELECT ';'';'",
        r"SELECT '\'",
        r"SELECT E'\';'",
        r"SELECT e'\\'",
        "SELECT E''';'",
        "SELECT E'\\\n;'",
        "SELECT E'a'\n'\\';'",
        "SELECT E'a'\r\n  -- it's; a comment\r\n\t'\\';'",
        "SELECT E'a' -- on the first line;\n'\\';'",
        "SELECT E'a'\n'b'\n'\\';'",
        r"SELECT foo_e'\'",
        "SELECT 'a'\n'\\'",
        r"SELECT U&'\0061;'",
        r'SELECT U&"\0061;"',
        "SELECT B'0;' + X'1;' + N'2;'",
        r"SELECT N'\'",
        'SELECT ";" FROM "a"";"',
        "SELECT $$;'$$",
        "SELECT $a$ $$ ; $b$ ; $A$ ; $a$",
        "SELECT $é$ ; $é$",
        "SELECT $a1$ ; $a1$",
        "SELECT $a$ ; $b$a$",
        "SELECT 1$$;$$",
        "SELECT $1 + $2",
        "SELECT 1 $ 2",
        "SELECT foo$bar$baz, foo$$, é$$",
        "SELECT 1 /* ; */ + 1",
        "SELECT 1 /* ; /* ' */ ; */ + 1",
        "SELECT 1 /*/ ; */ + 1",
        "SELECT 1 /***/ + 1",
        "SELECT 1 -- ; ' $$ /*\n + 1",
        "SELECT 1 -- ; '\r + 1",
        "SELECT 1 +-- ; '\n 1",
        "SELECT 1 @/* ; ' */ 1",
        "SELECT 1 */* ; ' */ 1",
        "SELECT 1 - 1 / 1 - -1",
        "SELECT a::int, b[1:2], :x, :'y', c || 'd'",
        "SELECT 1 AS \xa0\u2028\x85",
        r"SELECT \ 1",
        "CREATE RULE r AS ON INSERT TO t DO ALSO (INSERT INTO a VALUES (1); SELECT ')';;)",
        "create or replace rule r as on insert to t do (select 1; select 2)",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END",
        "create or /* ; */ replace -- ;\n function f() returns int begin /* ; */ atomic ; ; end",
        "CREATE OR REPLACE PROCEDURE p(a int) LANGUAGE SQL BEGIN ATOMIC END",
        "CREATE PROCEDURE p() BEGIN ATOMIC INSERT INTO t VALUES (1); END",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END COST 1",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS end; SELECT x.end; SELECT atomic end; END",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT \";\", '; END' /* ; END */; END",
        "CREATE FUNCTION f(begin atomic) RETURNS begin RETURN (SELECT begin atomic)",
        "CREATE FUNCTION begin(atomic int) RETURNS int LANGUAGE SQL AS 'SELECT 1; SELECT 2'",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$",
        "CREATE RULE r AS ON INSERT TO t DO INSTEAD SELECT begin atomic FROM u",
        "CREATE VIEW v AS SELECT begin atomic FROM u",
        "CREATE TABLE t (begin atomic)",
        "DO $$ BEGIN; END $$",
    ],
)
def test_semicolons_inside_a_statement_do_not_split_it(sql: str) -> None:
    assert texts(sql) == texts(f"{sql};") == [sql]
    assert texts(f"{sql};SELECT 2") == [sql, "SELECT 2"]
    assert texts(f";; /* a */ ; {sql} ; -- b ;\n ;SELECT 2;;") == [sql, "SELECT 2"]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("", []),
        (" ;; /* a */ ; -- b", []),
        ("a;b", ["a", "b"]),
        ("a /* x */ -- y\n ;\n/* z */ b\f", ["a", "b"]),
        ("a\v;\xa0;b", ["a", "\xa0", "b"]),
        ("SELECT '\\'; b", ["SELECT '\\'", "b"]),
        ("SELECT E'a' /* x */\n'\\'; b", ["SELECT E'a' /* x */\n'\\'", "b"]),
        ("SELECT E'a' '\\'; b", ["SELECT E'a' '\\'", "b"]),
        ("CREATE TABLE t (begin atomic); END", ["CREATE TABLE t (begin atomic)", "END"]),
        ("CREATE VIEW v AS SELECT begin atomic; b", ["CREATE VIEW v AS SELECT begin atomic", "b"]),
        ("CREATE FUNCTION f() BEGIN ATOMIC a; END; END", ["CREATE FUNCTION f() BEGIN ATOMIC a; END", "END"]),
        ("CREATE FUNCTION f)) (a); b", ["CREATE FUNCTION f)) (a)", "b"]),
        ("CREATE FUNCTION f() BEGIN x ATOMIC; b", ["CREATE FUNCTION f() BEGIN x ATOMIC", "b"]),
        ("CREATE FUNCTION f() BEGIN ATOMIC a; b", ["CREATE FUNCTION f() BEGIN ATOMIC a; b"]),
    ],
)
def test_a_semicolon_outside_quotes_and_bodies_ends_a_statement(sql: str, expected: list[str]) -> None:
    assert texts(sql) == expected


def test_a_statement_has_its_offsets_line_and_first_words() -> None:
    sql = "-- é\r\n/* \n */ Create  table\nif not exists a$1.b (c int) ;\r\rcommit /* */ ;"
    assert split(sql) == [
        Statement(14, 55, 3, ("CREATE", "TABLE", "IF", "NOT", "EXISTS", "A$1")),
        Statement(59, 65, 6, ("COMMIT",)),
    ]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("a b c d e f g h i j", "A B C D E F G H"),
        ("a/**/b--\nc /* /* */ */ d e f g h i;", "A B C D E F G H"),
        ("ROLLBACK /* /* */ */ TO -- here\n x", "ROLLBACK TO X"),
        ('SET "x" y', "SET"),
        ("SELECT E'a'", "SELECT"),
        ("SELECT n'a'", "SELECT"),
        ("SELECT U&'a'", "SELECT"),
        ('SELECT u&"a" b', "SELECT"),
        ("SELECT u & a", "SELECT U"),
        ("date'2020-01-01'", "DATE"),
        ("SELECT 1a", "SELECT"),
        ("(SELECT 1)", ""),
        ("$$a$$", ""),
        ("\u017felect straße; x", "\u017felect straße"),
    ],
)
def test_first_words_end_at_the_first_token_that_is_not_a_bare_word(sql: str, words: str) -> None:
    assert split(sql)[0].words == split(f"{sql};")[0].words == tuple(words.split())


@pytest.mark.parametrize(
    ("sql", "what", "line"),
    [
        ("a;\n'b", "quoted string", 2),
        ("a;\n\n E'b\\'", "quoted string", 3),
        ("E'b''", "quoted string", 1),
        ("E'\\", "quoted string", 1),
        ("E'a'\n'\\'", "quoted string", 1),
        ("U&'b''", "quoted string", 1),
        ('a "b;', "quoted identifier", 1),
        ('U&"b"";', "quoted identifier", 1),
        ("a\r\n$$b;$", "dollar-quoted string", 2),
        ("$a$ $A$", "dollar-quoted string", 1),
        ("\r/*;", "comment", 2),
        ("a /* /* */", "comment", 1),
        ("/*/", "comment", 1),
        ("CREATE FUNCTION f() BEGIN ATOMIC SELECT\n'", "quoted string", 2),
        ("CREATE FUNCTION f() BEGIN /*", "comment", 1),
    ],
)
def test_an_unterminated_quote_or_comment_is_reported_with_the_line_where_it_opens(
    sql: str, what: str, line: int
) -> None:
    with pytest.raises(Unterminated, match=f"the {what} that opens on line {line}") as problem:
        split(sql)
    assert (problem.value.what, problem.value.line) == (what, line)


def test_scan_returns_what_precedes_an_unterminated_quote() -> None:
    sql = "a; \\x -- c\nb 'd' 'e"
    found = scan(sql)
    assert [sql[s.start : s.end] for s in found.statements] == ["a", "\\x -- c\nb 'd' "]
    assert (found.comments, found.backslash) == ([6], 3)
    assert found.unterminated
    assert found.unterminated.offset == 17
    assert scan("a; /*").statements == scan("a").statements


def test_an_unterminated_quote_does_not_keep_the_text_in_a_reference_cycle() -> None:
    problem = scan("SELECT 'a").unterminated
    assert problem
    assert problem.__traceback__ is None


@pytest.mark.parametrize(
    ("sql", "comments"),
    [
        ("--a\n SELECT --b\r'--c' /* --d */ \"--e\" $$--f$$; --g", [0, 12, 47]),
        ("CREATE FUNCTION f() --a\nBEGIN --b\nATOMIC --c\nEND", [20, 30, 41]),
        ("- - 1; a ---b", [9]),
    ],
)
def test_scan_finds_each_line_comment_once(sql: str, comments: list[int]) -> None:
    assert scan(sql).comments == comments


@pytest.mark.parametrize(
    ("sql", "offset"),
    [
        (r"'\' E'\\' U&'\' N'\' $$\$$ /*\*/ --\ ", None),
        ('"\\"', None),
        ("a;\n\\b\\c", 3),
        (r"CREATE RULE r (\;)", 15),
    ],
)
def test_scan_finds_the_first_backslash_outside_quotes_and_comments(sql: str, offset: int | None) -> None:
    assert scan(sql).backslash == offset


def test_tokens_omit_comments_and_white_space() -> None:
    sql = "SELECT a$1, -- b\n'c'/* d */E'\\'e'$$f;$$(\"g\"); x"
    assert list(tokens(sql, split(sql)[0])) == (["SELECT", "a$1", ",", "'c'", "E'\\'e'", "$$f;$$", "(", '"g"', ")"])


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("a 'b' '' 'c''d';", "a '' '' ''"),
        ("x; INSERT INTO t1 VALUES (12, -3.5, E'a', n'b'); y", "INSERT INTO t1 VALUES ('', -''.'', E'', n'')"),
        ("a1 €1 _1 1a 'it''s (1)'", "a1 €1 _1 ''a ''"),
        ("a /* ' */ 'b'", None),
        ("a -- '\n b", None),
        ("a -\n- 1", "a -\n- ''"),
        ("a $$ ' $$", None),
        ("a E'\\''", None),
        ('a "b\'c"', None),
    ],
)
def test_literals_are_replaced_only_if_no_other_token_can_contain_a_quote(sql: str, text: str | None) -> None:
    statement = next(statement for statement in split(sql) if statement.words[0] in {"A", "A1", "INSERT"})
    assert without_literals(sql, statement) == text


@pytest.mark.parametrize(
    ("sql", "offset", "place"),
    [
        ("", 0, (1, 1)),
        ("ab\ncd", 1, (1, 2)),
        ("ab\ncd", 3, (2, 1)),
        ("ab\ncd", 5, (2, 3)),
        ("ab\r\ncd", 2, (1, 3)),
        ("ab\r\ncd", 3, (1, 4)),
        ("ab\r\ncd", 4, (2, 1)),
        ("ab\rcd", 3, (2, 1)),
        ("\n\r\r\n\n", 5, (5, 1)),
        ("é\u2028\f\x85€x", 5, (1, 6)),
    ],
)
def test_line_endings_match_editors(sql: str, offset: int, place: tuple[int, int]) -> None:
    assert line_and_column(sql, offset) == place


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (" + "('a''b', E'\\n', -1.5, NULL)," * 40_000 + ")",
        "/*" * 200_000,
        "/* a */" * 100_000,
        "$a$b" * 200_000,
        "$a" * 200_000,
        "E'a'\n" * 100_000,
        "E'a'\n--\n" * 100_000,
        "E'" + "\\'" * 300_000,
        "- " * 300_000 + ";",
        "CREATE FUNCTION " + "(" * 100_000 + ";" * 100_000,
        "a " * 300_000,
        "\\" * 200_000,
        "\n" * 1_000_000,
        "'" * 999_999,
    ],
    ids=range(14),
)
def test_time_is_linear_for_any_text(sql: str) -> None:
    began = time.process_time()
    scan(sql)
    assert time.process_time() - began < 5


def test_every_possessive_group_is_safe_before_python_3_11_5() -> None:
    # On later versions, every other test passes even if a group is unsafe; Debian 12 has 3.11.2.
    patterns = [value.pattern for value in vars(splitter).values() if isinstance(value, re.Pattern)]
    bare = "".join(re.sub(r"\[(?:\\.|[^\]])*\]", "[]", pattern, flags=re.DOTALL) for pattern in patterns)
    groups = re.findall(r"(.{5})\)(?:[*+?]|\{\d+,\d+\})\+", bare, re.DOTALL)
    assert len(groups) > 10
    assert set(groups) == {"|(?!)"}
