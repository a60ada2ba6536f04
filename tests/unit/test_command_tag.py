from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predeploy.sql.command_tag import command_of, only_sql_words
from predeploy.sql.splitter import split


@pytest.mark.parametrize(
    ("sql", "command"),
    [
        ("create /* a */ table t ()", "CREATE TABLE"),
        ("CREATE UNLOGGED TABLE t ()", "CREATE TABLE"),
        ("CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS ''", "CREATE FUNCTION"),
        ("CREATE OR REPLACE TEMP RECURSIVE VIEW v (a) AS SELECT 1", "CREATE VIEW"),
        ("CREATE UNIQUE INDEX i ON t (a)", "CREATE INDEX"),
        ("CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)", "CREATE INDEX CONCURRENTLY"),
        ("DROP INDEX CONCURRENTLY i", "DROP INDEX CONCURRENTLY"),
        ("DROP MATERIALIZED VIEW v", "DROP MATERIALIZED VIEW"),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY v", "REFRESH MATERIALIZED VIEW"),
        ("CREATE CONSTRAINT TRIGGER t AFTER INSERT ON a", "CREATE TRIGGER"),
        ("ALTER TABLE IF EXISTS ONLY t ADD a int", "ALTER TABLE"),
        ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO a", "ALTER DEFAULT PRIVILEGES"),
        ("CREATE USER MAPPING FOR a SERVER b", "CREATE USER MAPPING"),
        ("CREATE USER a PASSWORD 'hunter2'", "CREATE USER"),
        ("INSERT INTO t VALUES (1)", "INSERT"),
        ("WITH a AS (SELECT 1) SELECT * FROM a", "WITH"),
        ("CREATE DEFAULT CONVERSION c FOR 'a' TO 'b' FROM f", "CREATE CONVERSION"),
        ("DO $$BEGIN END$$", "DO"),
        ("CREATE hunter2 (a int)", "CREATE"),
        ("ALTER ROLE hunter2 PASSWORD hunter2", "ALTER ROLE"),
        ("hunter2 CREATE TABLE", None),
        ("(SELECT 1)", None),
        ("'hunter2'", None),
    ],
)
def test_the_command_is_derived_from_the_first_words(sql: str, command: str | None) -> None:
    (statement,) = split(sql)
    assert command_of(statement.words) == command


@given(st.lists(st.sampled_from(["CREATE", "ALTER", "OR", "TABLE", "INDEX", "SECRET", "SELECT", "FOREIGN", "DATA"])))
def test_only_sql_keywords_are_shown(words: list[str]) -> None:
    assert "SECRET" not in (command_of(words) or "")
    assert "SECRET" not in only_sql_words(" ".join(words))
