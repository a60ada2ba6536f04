"""Constructed messages, as from localised servers, or that the test servers cannot be made to send."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

import postgast
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predeploy.redaction.server_message import MAX_CHARS, redact_hint, redact_message, redact_name, redact_text
from predeploy.sql.keywords import KEYWORDS
from predeploy.sql.literals import read_literals

LITERAL = "SELECT 'hunter2'::regclass"


@dataclass(frozen=True)
class Message:
    """The attributes of psycopg's Diagnostic."""

    message_primary: str | None
    sqlstate: str | None = None
    message_hint: str | None = None
    source_function: str | None = None
    schema_name: str | None = None
    table_name: str | None = None
    column_name: str | None = None
    datatype_name: str | None = None
    constraint_name: str | None = None


def shown(text: str, sqlstate: str, sql: str = LITERAL, **fields: str) -> str | None:
    message: Any = Message(text, sqlstate, **fields)
    return redact_message(message, sql)


@pytest.mark.parametrize(
    ("text", "sqlstate", "expected"),
    [
        ("Syntaxfehler bei »hunter2«", "42601", "Syntaxfehler bei »***«"),
        ("ungültige Eingabesyntax für Typ integer: »hunter2«", "22P02",
         "ungültige Eingabesyntax für Typ integer: »***«"),
        ("Spalte »hunter2« existiert nicht", "42703", "Spalte »***« existiert nicht"),
        ("Spalte users.hunter2 existiert nicht", "42703", "Spalte ***"),
        ("column users.hunter2 does not exist", "42703", "column *** does not exist"),
        ("Relation »hunter2« existiert nicht", "42P01", "Relation »***« existiert nicht"),
        ("nicht abgeschlossene Zeichenkette in Anführungszeichen bei »'hunter2; «x»«", "42601",
         "nicht abgeschlossene Zeichenkette in Anführungszeichen bei »***«"),
        ("erreur de syntaxe sur ou près de « hunter2 »", "42601", "erreur de syntaxe sur ou près de «***»"),
        ("la relation « hunter2 » n'existe pas", "42P01", "la relation «***» n'existe pas"),
        ("syntaxe en entrée invalide pour le type integer : « hunter2 »", "22P02",
         "syntaxe en entrée invalide pour le type integer : «***»"),
        ("chyba syntaxe na nebo blízko „hunter2“", "42601", "chyba syntaxe na nebo blízko „***“"),
        ("składnia „hunter2”", "42601", "składnia „***”"),
        ("“hunter2”附近有语法错误", "42601", "“***”附近有语法错误"),
        ("「hunter2」またはその近辺で構文エラー", "42601", "「***」またはその近辺で構文エラー"),
        ("syntax error at or near \u2018hunter2\u2019", "42601", "syntax error at or near \u2018***\u2019"),
        ("bad value 'hunter2' here", "XX000", "bad value '***' here"),
        ('bad value "hunter2', "XX000", 'bad value "***'),
        ('"hunter2" and "{"a": "hunter2"}" are not equal', "XX000", '"***" are not equal'),
        ("server said hunter2", "XX000", "server said ***"),
        ("server said HUNTER2 and hunter2s", "XX000", "server said *** and ***s"),
        ('could not connect to server "hunter2"', "08001", 'could not connect to server "***"'),
        ('relation "public.hunter2" does not exist', "42P01", 'relation "***" does not exist'),
        ('relation "hunter" does not exist', "42P01", 'relation "***" does not exist'),
        ('relation "users" or "hunter2" or "t"', "42P01", 'relation "users" or "***"'),
        ('relation "a"hunter2" does not exist', "42P01", 'relation "a"***"***'),
    ],
)  # fmt: skip
def test_quoted_text_in_a_message_is_masked(text: str, sqlstate: str, expected: str) -> None:
    assert shown(text, sqlstate) == expected


@pytest.mark.parametrize("sqlstate", ["42601", "42602", "42622", "42703", "22P02", "XX000"])
def test_a_name_that_may_be_a_string_in_double_quotes_is_masked(sqlstate: str) -> None:
    assert shown('what about "hunter2"?', sqlstate, 'SELECT "hunter2"') == 'what about "***"?'


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (f"CREATE TABLE {'t' * 80} ()", f'identifier "{"t" * 80}" will be truncated to "{"t" * 63}"'),
        (f'CREATE TABLE "{"t" * 80}" ()', 'identifier "***"'),
        (f"ALTER ROLE a PASSWORD {'t' * 80}", 'identifier "***"'),
        (f"SELECT '{'t' * 80}'", 'identifier "***"'),
    ],
    ids=["a name", "in double quotes", "after PASSWORD", "in a string"],
)
def test_a_truncated_name_is_shown_unless_it_may_be_a_secret(sql: str, expected: str) -> None:
    assert shown(f'identifier "{"t" * 80}" will be truncated to "{"t" * 63}"', "42622", sql) == expected


def test_a_file_is_read_once_for_all_its_notices() -> None:
    sql = "CREATE TABLE IF NOT EXISTS users (); RAISE NOTICE 'some words'; SELECT 'once'"
    before = read_literals.cache_info().misses
    for _ in range(100):
        assert shown('relation "users" already exists, skipping', "42P07", sql) is not None
        assert shown("some words", "00000", sql, source_function="exec_stmt_raise") == "some words"
    assert read_literals.cache_info().misses - before == 2  # the second time without its RAISE statements


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        ("Relation »users« existiert nicht", "42P01"),
        ("doppelter Schlüsselwert verletzt Unique-Constraint »users_pkey«", "23505"),
        ("la relation « users » n'existe pas", "42P01"),
        ("“users”这个关系不存在", "42P01"),
        ("リレーション「users」は存在しません", "42P01"),
        ('relation "users" does not exist', "42P01"),
        ("permission denied for schema app", "42501"),
        ('syntax error at or near ")"', "42601"),
        ("syntax error at end of input", "42601"),
        ("division by zero", "22012"),
    ],
)
def test_names_are_shown_whatever_the_language(text: str, sqlstate: str) -> None:
    assert shown(text, sqlstate) == text


def test_a_parameter_is_shown_but_its_value_is_masked() -> None:
    sql = "SET work_mem = 'much'"
    assert shown('invalid value for parameter "work_mem": "much"', "22023", sql) == (
        'invalid value for parameter "work_mem": "***"'
    )
    assert shown("ungültiger Wert für Parameter »work_mem«: »much«", "22023", sql) == (
        "ungültiger Wert für Parameter »work_mem«: »***«"
    )


def test_an_object_that_the_server_names_is_shown_even_if_the_file_quotes_it() -> None:
    text = 'duplicate key value violates unique constraint "hunter2"'
    assert shown(text, "23505", constraint_name="hunter2") == text
    assert shown(text, "23505") == 'duplicate key value violates unique constraint "***"'


@pytest.mark.parametrize(
    ("sql", "text", "expected"),
    [
        ('RAISE EXCEPTION \'no "%" and "more"\', x;', 'no "y" and "more"', 'no "y" and "more"'),
        ("PERFORM 'hunter2'; RAISE '%', SQLERRM;", 'bad "hunter2"', 'bad "***"'),
        ("PERFORM 'hunter2'; RAISE '%', SQLERRM;", "bad »hunter2«", 'bad "***"'),
        ("CREATE ROLE x PASSWORD 'hunter2'; RAISE '%', SQLERRM;", "hunter2", "***"),
        ("ALTER ROLE x PASSWORD 'hun''ter2'", "hun'ter2 and HUN'TER2", "*** and ***"),
        ("ALTER ROLE x PASSWORD $p$hunter2$p$", "x hunter2", "x ***"),
        ("SELECT dblink('host=a password=hunter2')", "x hunter2", "x ***"),
        ("OPTIONS (user 'u', password 'hunter2')", "x hunter2", "x ***"),
        ('SET x = "password=hunter2"', "x password=hunter2", "x password=***"),
        ("", "ran CREATE ROLE x PASSWORD 'hunter2' and more", "ran CREATE ROLE x PASSWORD '***' and more"),
        ("", "conninfo host=a password = hunter2 port=1", "conninfo host=a password = *** port=1"),
        ("", 'sent {"password": "hunter2"}', 'sent {"password": "***"}'),
        ("", "at postgres://me:hunter2@db/app", "at postgres://me:***@db/app"),
        ("", "password hash missing", "password hash missing"),
    ],
)
def test_the_authors_words_are_shown_except_passwords(sql: str, text: str, expected: str) -> None:
    assert shown(text, "P0001", sql, source_function="exec_stmt_raise") == expected


def test_a_hint_shows_existing_objects_but_no_string_from_the_file() -> None:
    message: Any = Message("x", "22P02", message_hint='Perhaps you meant "users" or "hunter2".')
    assert redact_hint(message, LITERAL) == 'Perhaps you meant "users" or "***".'
    assert redact_hint(Message("x", "22P02"), LITERAL) is None  # type: ignore[arg-type]


def test_an_object_name_is_masked_if_the_migration_contains_it_only_as_a_string() -> None:
    message: Any = Message("x", "42P01")
    assert redact_name("hunter2", message, LITERAL) == "***"
    assert redact_name("hunter", message, "SELECT 'hunter'") == "***"
    assert redact_name("users", message, LITERAL) == "users"
    assert redact_name("hunter2", message, "DROP TABLE hunter2") == "hunter2"
    assert redact_name(None, message) is None


def test_a_text_that_is_not_from_a_server_is_shown_except_passwords() -> None:
    assert redact_text("at\x1b'here', password = hunter2") == "at 'here', password = ***"


@pytest.mark.parametrize("text", [None, ""])
def test_a_missing_message_is_none(text: str | None) -> None:
    assert redact_message(Message(text)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sql", "token"),
    [
        ("SELECT * FORM users", "FORM"),
        ("selec 1", "selec"),
        ("CREATE TABEL users ()", "TABEL"),
        ("CRAETE TABLE users ()", "CRAETE"),
        ("ALTER TABLE users RENAME COLUM a TO b", "COLUM"),
        ("INSRT INTO users VALUES (1)", "INSRT"),
        ("CREATE TABLE t (id int, user text)", "user"),
        ("CREATE TABLE t (id int AUTO_INCREMENT)", "AUTO_INCREMENT"),
        ("CREATE TABLE t (name text email text)", "email"),
        ("CREATE TEMP TABLE t (name text email text)", "email"),
        ("UPDDATE users SET id = 1", "UPDDATE"),
        ("SELECT /* a */'b' * FORM users", "FORM"),
        ("DO $$ BEGIN EXECUTE 'SELECT * FROM users'; END $$; DELETE FROM FROM t", "FROM"),
        ("CREATE TABLE u (password varchar(90) NOT NULL, at date DEFUALT now())", "DEFUALT"),
        ("ALTER TABLE IF EXISTS t ADD a int b text", "b"),
        ("CREATE ROLE x NOLOGN", "nologn"),
        ("SELECT 1 FROM t WHERE a = 'the form of it'; SELECT FROM WHERE", "WHERE"),
        ("SELECT 'it is from here'; DELETE FROM FROM t", "FROM"),
        ("ALTER ROLE x PASSWORD 'hunter2'; SELECT * FORM users", "FORM"),
        ("CREATE TABLE users (password varchar(90) NOT NULL, name text); SELECT * FORM users", "FORM"),
        ("CREATE TABLE users (password_hash text, nmae text, at timestmp DEFUALT now())", "DEFUALT"),
        ("-- don't SELECT\nSELECT 'it''s', E'a\\'b', B'01', \"a\" * FORM users", "FORM"),
        ("DO $$ BEGIN SELECT * FORM users; END $$", "FORM"),
        ("SELECT ARRAY[1;", ";"),
        ("SELECT 1 =>> 2", ">>"),
        ("SELECT {{ schema }}", "{"),
    ],
)
@pytest.mark.parametrize("text", ['syntax error at or near "{}"', "Syntaxfehler bei »{}«", "「{}」で構文エラー"])
def test_the_token_of_a_syntax_error_is_shown_if_it_is_an_sql_keyword(sql: str, token: str, text: str) -> None:
    assert shown(text.format(token), "42601", sql) == text.format(token)


@pytest.mark.parametrize(
    ("sql", "token"),
    [
        ("ALTER ROLE x PASSWORD hunter", "hunter"),
        ("ALTER ROLE x PASSWORD begin", "begin"),
        ("ALTER ROLE x PASSWORD = form VALID UNTIL 'x'", "form"),
        ("ALTER ROLE x PASSWORD text", "text"),
        ("ALTER ROLE x PASWORD selec", "selec"),
        ("ALTER ROLE x PASSWORD correct select, from", "select"),
        ("CREATE USER x IDENTIFIED BY form", "form"),
        ('CREATE USER MAPPING FOR x SERVER y OPTIONS ("password" form)', "form"),
        ("SELECT jsonb_build_object('password', 'a' form)", "form"),
        ("CREATE SERVER s OPTIONS (api_key form)", "form"),
        ("DO $$ BEGIN ALTER ROLE x PASSWORD form; END $$", "form"),
        ("DO $$ BEGIN EXECUTE 'ALTER ROLE x PASSWORD form'; END $$", "form"),
        ("SELECT * FORM a; ALTER ROLE x PASSWORD form", "FORM"),
        ("ALTER ROLE x PASSWORD 'from'; DELETE FROM FROM t", "FROM"),
        ("SELECT dblink('password=from'); DELETE FROM FROM t", "FROM"),
        ("SELECT 'select'; SELECT SELECT", "SELECT"),
        ("SELECT 'my form'; SELECT * FORM users", "FORM"),
        ("SELECT $$my form$$; SELECT * FORM users", "FORM"),
        ("SELECT E'f\\x6frm'; SELECT * FORM users", "FORM"),
        ('SELECT "form"; SELECT * FORM users', "FORM"),
        ("INSERT INTO t VALUES (hunter');", "hunter"),
        ("INSERT INTO t VALUES (select from me', 'a');", "from"),
        ("INSERT INTO t VALUES ('a, 'form', 'b, 'c')", "form"),
        ("INSERT INTO t VALUES ('a, form x 'b')", "form"),
        ("DO $$ BEGIN PERFORM select form 'a; END $$", "form"),
        ("INSERT INTO t VALUES (correct horse battery)", "horse"),
        ("CREATE SUBSCRIPTION s CONNECTION postgresql://me:hunter2@db/app PUBLICATION p", "postgresql"),
        ("SELECT dblink(postgres://me:select@db)", "@db"),
        ("COPY t FROM STDIN;\nform\ttwo", "form\ttwo"),
        ("SELECT FoRm", "FoRm"),
        ("SELECT hunter2", "hunter2"),
        ("SELECT 2hunter", "2h"),
        ("SELECT 12345", "12345"),
        ("SELECT $tag", "$t"),
        ("SELECT 'FORM'", "'FORM'"),
        ('SELECT "FORM"', '"FORM"'),
        ("SELECT 'FORM", "'FORM"),
        ("SELECT 1 -- FORM", "FORM"),
        ("DO $$ BEGIN EXECUTE 'SELECT * FORM users'; END $$", "FORM"),
        ("", "FORM"),
        (f"CREATE TABLE t (a text {'a' * 31} text)", "a" * 31),
        ("CREATE TABLE t (a text email text); SELECT 'select email'", "email"),
        ("SELECT tex", "tex"),
    ],
)
def test_the_token_of_a_syntax_error_is_masked_if_it_may_be_a_secret(sql: str, token: str) -> None:
    assert shown(f'syntax error at or near "{token}"', "42601", sql) == 'syntax error at or near "***"'
    assert shown(f"Syntaxfehler bei »{token}«", "42601", sql) == "Syntaxfehler bei »***«"


def test_the_keywords_are_those_of_the_servers_scanner() -> None:
    tokens = postgast.scan("SELECT").tokens[0].DESCRIPTOR.fields_by_name["token"].enum_type.values
    names = {token.name.lower().removesuffix("_p") for token in tokens if token.name.replace("_", "").isalpha()}
    keywords = {name for name in names if postgast.scan(name).tokens[0].keyword_kind}
    assert len(keywords) > 400
    assert keywords <= KEYWORDS


def test_two_quoted_texts_are_not_treated_as_a_token() -> None:
    assert shown('"FORM" or "FROM"', "42601", "SELECT * FORM a FROM b") == '"***"'


@pytest.mark.parametrize("sqlstate", ["22P02", "22023", "42602", "42703", "XX000"])
def test_text_quoted_by_other_errors_is_not_treated_as_a_token(sqlstate: str) -> None:
    assert shown('what about "FORM"?', sqlstate, "SELECT * FORM users") == 'what about "***"?'


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        ("value too long for type character varying(9)", "22001"),
        ("division by zero", "22012"),
        ("Division durch Null", "22012"),
        ("不正な値", "22012"),
        ('relation "nope" does not exist', "42P01"),
        ("Relation »nope« existiert nicht", "42P01"),
        ("operator does not exist: integer = text", "42883"),
        ("unrecognized role option", "42601"),
        ("cannot drop table users because other objects depend on it", "2BP01"),
    ],
)
@pytest.mark.parametrize("sql", ["SELECT '§'", "SELECT 1 -- §\n, $$§$$"])
def test_the_servers_own_words_are_shown_even_if_the_file_quotes_them(text: str, sqlstate: str, sql: str) -> None:
    quoted = "; ".join(sql.replace("§", word) for word in re.findall(r"\w+", text) if word not in {"nope", "users"})
    assert shown(text, sqlstate, quoted) == text


def test_a_server_word_is_shown_even_if_the_file_uses_it_as_a_password() -> None:
    """Masking it would reveal the password."""
    assert shown("division by zero", "22012", "ALTER ROLE x PASSWORD 'zero'") == "division by zero"
    assert shown("unrecognized role option", "42601", "ALTER ROLE x PASSWORD 'role'") == "unrecognized role option"


def test_a_string_that_resembles_code_is_not_a_name() -> None:
    assert shown('relation "select horse" does not exist', "42P01", "SELECT f('select horse')") == (
        'relation "***" does not exist'
    )


def test_a_word_is_masked_after_a_colon_and_in_free_text() -> None:
    sql = "SELECT 'hunter'"
    assert shown("hunter said: hunter", "22000", sql) == "hunter said: ***"
    assert shown("hunter 説明\uff1ahunter", "22000", sql) == "hunter 説明\uff1a***"
    for sqlstate in ("XX000", "38000", "08006", "HV000", "39P01"):
        assert shown("hunter said", sqlstate, sql) == "*** said"


def test_a_string_that_is_not_a_plain_word_is_masked_in_the_sentence_too() -> None:
    assert shown("about hunter2 here", "22000") == "about *** here"
    assert shown("about hunter:2 here", "22000", "SELECT 'hunter:2'") == "about *** here"


def test_a_password_that_is_also_a_name_is_masked_in_the_sentence() -> None:
    sql = "ALTER ROLE hunter PASSWORD 'hunter'"
    assert shown("must be owner of role hunter", "42501", sql) == "must be owner of role ***"


# A secret anywhere in any migration

SECRET = st.one_of(
    st.text("abcdefghjkqvwxyz", min_size=8, max_size=16),
    st.text("qzjkvQZJKV0123456789", min_size=8, max_size=20),
    st.lists(st.text("qzjkvx", min_size=5, max_size=8), min_size=2, max_size=4).map(" ".join),
    st.sampled_from(["select form", "begin", "hunter", "correct horse battery", "pa$$word from"]),
)
PLACES = {
    "literal": "INSERT INTO t VALUES ('§')",
    "part of a literal": "SELECT 'host=a §'",
    "escape string": "SELECT E'a\\'§'",
    "dollar quote": "SELECT $x$§$x$",
    "quoted name": 'SELECT "§"',
    "password": "ALTER ROLE x PASSWORD '§'",
    "bare password": "ALTER ROLE x PASSWORD § VALID UNTIL 'never'",
    "password, equals": "ALTER ROLE x WITH PASSWORD = §",
    "identified": "CREATE USER x IDENTIFIED BY §",
    "comment": "SELECT 1 /* § */",
    "no opening quote": "INSERT INTO t VALUES (§', 'a')",
    "no closing quote": "INSERT INTO t VALUES ('a, '§', 'b, 'c')",
    "in a block": "DO $x$ BEGIN PERFORM '§'::int; END $x$",
    "bare in a block": "DO $$ BEGIN ALTER ROLE x PASSWORD §; END $$",
    "executed": "DO $$ BEGIN EXECUTE 'CREATE ROLE x PASSWORD ''§'' a'; END $$",
}
BARE = {place for place in PLACES if place.startswith(("bare", "identified", "no ", "password, equals"))}
REPEATED = {"literal", "dollar quote", "password", "in a block"}  # whole strings, which other texts may repeat
AROUND = st.lists(
    st.sampled_from(["SELECT * FORM users", "CREATE TABLE u (a int, password text)", "SELECT 'a', \"b\"", "/* ' */"]),
    max_size=2,
).map(lambda statements: "".join(f"{statement};\n" for statement in statements))
TEMPLATES = [
    ('syntax error at or near "{}"', "42601"),
    ("Syntaxfehler bei »{}«", "42601"),
    ('unterminated quoted string at or near "\'{}"', "42601"),
    ('unrecognized role option "{}"', "42601"),
    ('invalid input syntax for type integer: "{}"', "22P02"),
    ('column "{}" does not exist', "42703"),
    ("column users.{} does not exist", "42703"),
]
FREE_TEXT = [("could not connect: {}", "08006"), ("internal error about {}", "XX000")]


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(AROUND, st.sampled_from(sorted(PLACES)), AROUND, SECRET)
def test_no_message_about_any_migration_shows_a_secret(before: str, place: str, after: str, secret: str) -> None:
    sql = before + PLACES[place].replace("§", secret) + ";\n" + after
    tokens = {secret, *secret.split()} if place in BARE else {secret}
    repeated = place in REPEATED and secret != "begin"
    for template, sqlstate in TEMPLATES + FREE_TEXT if repeated else TEMPLATES:
        for token in tokens:
            message: Any = Message(template.format(token), sqlstate)
            assert token not in str(redact_message(message, sql)), sql


def test_control_characters_become_spaces_but_line_breaks_are_kept() -> None:
    text = "a\x00b\x1b[31mc\x85d\u2028e\nf\tg"
    assert shown(text, "P0001", source_function="exec_stmt_raise") == "a b [31mc d e\nf\tg"


def test_a_long_text_is_cut_and_marked_as_cut() -> None:
    assert shown("x" * MAX_CHARS, "P0001") == "x" * MAX_CHARS
    assert shown("x" * (MAX_CHARS + 1), "P0001") == "x" * MAX_CHARS + "… (1 more characters)"
    assert shown("y" * 10_000_000, "P0001") == "y" * MAX_CHARS + f"… ({10_000_000 - MAX_CHARS} more characters)"


def test_a_secret_at_the_cut_is_masked_before_cutting() -> None:
    text = shown("x" * (MAX_CHARS - 3) + " hunter2 " + "y" * 99, "XX000")
    assert text is not None
    assert "hu" not in text


@pytest.mark.parametrize(
    "sql",
    [
        "'" * 100_000,
        "$" * 100_000,
        "/*" * 50_000,
        "E'\\" * 30_000,
        '"' * 100_001,
        "-" * 100_000,
        "password" * 12_000,
        "password = " * 9_000,
        "'password='" * 9_000,
        "CREATE TABLE t (password text, " * 3_000,
        f"{'pass' * 20_000} text, x",
        "RAISE '" * 15_000,
        f"SELECT 'password{' ' * 60_000}', 'password = {' ' * 60_000}x'",
        f"SELECT '{'://a:' * 20_000}', '{'password$$' * 9_000}', '{'password: ' * 9_000}'",
        f"SELECT '{'-' * 300}', '{'-- ' * 300}', '{'/* ' * 300}', '{'/*/' * 300}', '{'/**/ ' * 300}'",
        "DO $$ BEGIN EXECUTE 'SELECT ''x'' " * 3_000,
    ],
    ids=lambda sql: ascii(sql[:11]),
)
@pytest.mark.parametrize("source_function", ["", "exec_stmt_raise"])
def test_any_text_is_read_in_linear_time(sql: str, source_function: str) -> None:
    """The bound is about a hundred times the usual duration; quadratic time would exceed it."""
    started = time.monotonic()
    shown('syntax error at or near "' + sql[:70_000], "42601", sql, source_function=source_function)
    shown(sql[:70_000], "42P01", sql, source_function=source_function)
    assert time.monotonic() - started < 20
