from __future__ import annotations

import pytest

from predeploy.sql.literals import read_literals


@pytest.mark.parametrize(
    ("sql", "literal"),
    [
        ("SELECT 'hunter2'", "hunter2"),
        ("SELECT 'it''s'", "it's"),
        ("SELECT E'it\\'s \\x41\\101\\u0041\\n'", "it's AAA\n"),
        ("SELECT e'hun''ter2'", "hun'ter2"),
        ("SELECT U&'\\0068unter2'", "hunter2"),
        ("SELECT U&'\\+000068unter2'", "hunter2"),
        ("SELECT 'hun'\n   'ter2'", "hunter2"),
        ("SELECT $$hunter2$$", "hunter2"),
        ("SELECT $x$hunter2$$ $x$", "hunter2$$ "),
        ("SELECT N'hunter2', B'01', X'ff'", "hunter2"),
        ("SELECT name'hunter2'", "hunter2"),
        ("/* ' */ SELECT 'hunter2' -- '", "hunter2"),
        ("/* /* ' */ ' */ SELECT 'hunter2'", "hunter2"),
        ("SELECT \"'\", 'hunter2'", "hunter2"),
        ("SELECT 'hunter2", "hunter2"),
        ("DO $$ BEGIN PERFORM 'hunter2'; END $$", "hunter2"),
        ("DO 'BEGIN PERFORM ''hunter2''; END'", "hunter2"),
        ("DO $$ BEGIN EXECUTE 'SELECT ''hunter2'''; END $$", "hunter2"),
        ("CREATE FUNCTION f() AS $f$ -- why\n DECLARE x text := 'hunter2'; $f$", "hunter2"),
        ('SELECT \'{"a": "hunter2"}\'', '{"a": "hunter2"}'),
        ("SELECT 'a horse, a horse'", "a horse, a horse"),
    ],
)
def test_quoted_text_is_a_literal(sql: str, literal: str) -> None:
    assert literal.lower() in read_literals(sql).literals
    assert "hunter2" not in read_literals(sql).names


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("SELECT * FROM Users", "users"),
        ('SELECT * FROM "User list"', "user list"),
        ('SELECT * FROM "a""b"', 'a"b'),
        ("SELECT 'x' FROM users -- 'y'", "users"),
        ("DO $$ BEGIN UPDATE users SET a = 'x'; END $$", "users"),
        ("SELECT größe", "größe"),
    ],
)
def test_a_word_outside_strings_is_a_name(sql: str, name: str) -> None:
    assert name in read_literals(sql).names


def test_a_word_that_occurs_only_in_strings_and_comments_is_not_a_name() -> None:
    found = read_literals("DO $$ BEGIN EXECUTE 'TABLE users'; END $$; SELECT 'other' -- third\n /* fourth */")
    assert found.names.isdisjoint({"users", "other", "third", "fourth"})
    assert "table users" not in found.literals


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE ROLE x PASSWORD 'hunter2'",
        "CREATE ROLE x ENCRYPTED PASSWORD\n'hunter2'",
        "CREATE ROLE x PASSWORD = 'hunter2'",
        "CREATE ROLE x PASSWORD E'hunter\\x32'",
        "CREATE ROLE x PASSWORD U&'\\0068unter2'",
        "CREATE ROLE x PASSWORD $p$hunter2$p$",
        'CREATE ROLE x PASSWORD "hunter2"',
        "CREATE USER MAPPING FOR x SERVER y OPTIONS (user 'u', password 'hunter2')",
        "CREATE SUBSCRIPTION s CONNECTION 'host=a password=hunter2 user=b'",
        "CREATE SUBSCRIPTION s CONNECTION 'host=a password = ''hunter2'''",
        "CREATE SUBSCRIPTION s CONNECTION 'postgres://me:hunter2@db/app'",
        "SELECT dblink('host=a sslpassword=hunter2')",
        "SELECT f(password => 'hunter2')",
        "UPDATE users SET password='hunter2'",
        'SELECT \'{"password": "hunter2"}\'',
        "DO $$ BEGIN EXECUTE 'ALTER ROLE x PASSWORD ''hunter2'''; END $$",
        "DO $$ BEGIN EXECUTE 'ALTER ROLE x PASSWORD ' || quote_literal('x'); x.password := 'hunter2'; END $$",
        "ALTER ROLE x PASSWORD 'hunter2",
        "SET app.passwd = 'hunter2'",
        "SELECT pgp_sym_encrypt('x', passphrase => 'hunter2')",
    ],
)
def test_the_value_after_the_word_password_is_a_password(sql: str) -> None:
    assert "hunter2" in read_literals(sql).passwords
    assert "hunter2" not in read_literals(sql).names


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t (password text NOT NULL, id int)",
        "SELECT 'the password is wrong'",
        "ALTER ROLE x PASSWORD NULL",
        "UPDATE users SET password = crypt(word, salt)",
        "COMMENT ON COLUMN users.password IS 'what they type'",
    ],
)
def test_the_word_password_without_a_value_is_not_followed_by_a_password(sql: str) -> None:
    assert read_literals(sql).passwords == set()


def test_a_very_long_text_is_read_from_the_failed_statement_onwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predeploy.sql.literals._MAX_CHARS", 1000)
    filler = "INSERT INTO t VALUES ('filler');\n" * 100
    sql = f"SELECT 'first';\n{filler}SELECT 'second';\n{filler}"
    assert "first" in read_literals(sql).literals
    assert "second" not in read_literals(sql).literals
    assert "second" in read_literals(sql, sql.index("SELECT 'second'")).literals
