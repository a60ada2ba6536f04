"""What is read off a statement's text alone; the locks themselves are held against a server elsewhere."""

from __future__ import annotations

import pytest

from predeploy.plan.lock_modes import Mode, Reading, mode_of
from predeploy.plan.statement_locks import read_statement
from predeploy.sql.splitter import split


def read(sql: str) -> Reading:
    (statement,) = split(sql)
    return read_statement(sql, statement)


def names(sql: str) -> list[str]:
    return [".".join(touch.name) for touch in read(sql).touches]


@pytest.mark.parametrize(
    ("sql", "kinds"),
    [
        ("create table t (id int)", ["CREATE TABLE"]),
        ("CREATE UNLOGGED TABLE t AS SELECT 1", ["CREATE TABLE AS"]),
        ("CREATE UNIQUE INDEX /* at night */ CONCURRENTLY i ON t (id)", ["CREATE INDEX CONCURRENTLY"]),
        ("CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", ["CREATE FUNCTION"]),
        ("CREATE MATERIALIZED VIEW v AS SELECT 1", ["CREATE MATERIALIZED VIEW"]),
        ("CREATE CONSTRAINT TRIGGER c AFTER INSERT ON t EXECUTE FUNCTION f()", ["CREATE TRIGGER"]),
        ("CREATE OPERATOR CLASS o FOR TYPE int USING btree AS STORAGE int", ["CREATE OPERATOR CLASS"]),
        ("CREATE USER somebody", ["CREATE USER"]),
        ("ALTER TABLE t ADD c int, DROP d", ["ALTER TABLE ... ADD COLUMN", "ALTER TABLE ... DROP COLUMN"]),
        ("ALTER TABLE t ADD c numeric(1, 2) CHECK (c IN (1, 2)), ADD CHECK (true)",
         ["ALTER TABLE ... ADD COLUMN", "ALTER TABLE ... ADD CHECK"]),
        ("ALTER TABLE t ALTER c TYPE int USING c::int", ["ALTER TABLE ... ALTER COLUMN ... TYPE"]),
        ("ALTER TABLE t ALTER COLUMN c SET NOT NULL", ["ALTER TABLE ... ALTER COLUMN ... SET NOT NULL"]),
        ("ALTER TABLE t VALIDATE CONSTRAINT c", ["ALTER TABLE ... VALIDATE CONSTRAINT"]),
        ("ALTER TABLE t RENAME a TO b", ["ALTER TABLE ... RENAME COLUMN"]),
        ("ALTER INDEX i SET (fillfactor = 70)", ["ALTER INDEX ... SET"]),
        ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO r", ["ALTER DEFAULT PRIVILEGES"]),
        ("DROP INDEX CONCURRENTLY i", ["DROP INDEX CONCURRENTLY"]),
        ("VACUUM (FULL) t", ["VACUUM FULL"]),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", ["INSERT"]),
        ("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x", ["SELECT"]),
        ("VALUES (1)", ["SELECT"]),
        ("(SELECT 1)", ["SELECT"]),
        ("REINDEX TABLE CONCURRENTLY t", ["REINDEX TABLE CONCURRENTLY"]),
        ("do $$begin end$$", ["DO"]),
        ("hunter2", ["OTHER"]),
        ("1 + 1", ["OTHER"]),
        ('"select" 1', ["OTHER"]),
    ],
)  # fmt: skip
def test_a_statement_is_named_by_its_kind(sql: str, kinds: list[str]) -> None:
    assert read(sql).kinds == kinds


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER", "CREATE", "DROP", "ALTER TABLE", "ALTER TABLE t", "ALTER TABLE t ADD", "ALTER TABLE t ALTER",
        "CREATE TABLE", "CREATE INDEX", "CREATE INDEX ON", "DROP TABLE", "DROP TABLE ,", "INSERT", "INSERT INTO",
        "SELECT FROM", "SELECT * FROM (", "SELECT (", "SELECT )", "UPDATE", "DELETE FROM", "WITH", "WITH (", "COPY",
        "COMMENT", "COMMENT ON COLUMN", "GRANT", "LOCK", "TRUNCATE", "VACUUM (", "REINDEX", "REFRESH", "SET", "EXPLAIN",
        "CREATE RULE", "CREATE TRIGGER", "ALTER TABLE t ATTACH", "ALTER SEQUENCE s OWNED BY", "CLUSTER", "MERGE", "(",
        "AS (", "WITH ) AS (", "SELECT FOR", 'ALTER TABLE "', "CREATE TABLE t (LIKE", "CREATE TABLE t PARTITION OF",
        "ALTER TABLE t NO", "ALTER TABLE t ADD CONSTRAINT", "ALTER TABLE ALL IN TABLESPACE x SET TABLESPACE y",
    ],
)  # fmt: skip
def test_what_is_no_sql_is_read_to_its_end(sql: str) -> None:
    for statement in split(sql) if '"' not in sql else []:
        assert read_statement(sql, statement).kinds


@pytest.mark.parametrize(
    ("sql", "read_of_it"),
    [
        ("INSERT INTO a VALUES (1, 'x'), (2, 'y''(z'), (3, 'w')", ["a"]),
        ("INSERT INTO a VALUES (1), ((SELECT id FROM b)), (2)", ["a", "b"]),
        ("INSERT INTO a (x) VALUES (1), (2) ON CONFLICT (x) DO UPDATE SET x = (SELECT 1 FROM b)", ["a", "b"]),
        ("INSERT INTO a VALUES ('from b'), ($$ from c $$), (E'\\' from d'), (1) -- from e\n", ["a"]),
        ("UPDATE a SET x = 'from b (' FROM c", ["a", "c"]),
        ("UPDATE t1 SET x = 1 FROM t2 WHERE t2.id = 22", ["t1", "t2"]),
        ("DELETE FROM a WHERE x = 'values (1), (2), ' AND EXISTS (SELECT FROM b)", ["a", "b"]),
    ],
)
def test_rows_and_literals_hide_no_relation(sql: str, read_of_it: list[str]) -> None:
    assert names(sql) == read_of_it


def test_rows_hide_no_function() -> None:
    assert "own" in read("INSERT INTO a VALUES (1), (own(2)), (3), (4)").calls
    assert "own" in read("INSERT INTO a VALUES (1), (2), (public.own('x'))").calls


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        (Mode.ACCESS_SHARE, "AccessShareLock"),
        (Mode.SHARE_UPDATE_EXCLUSIVE, "ShareUpdateExclusiveLock"),
        (Mode.SHARE, "ShareLock"),
        (Mode.ACCESS_EXCLUSIVE, "AccessExclusiveLock"),
        (None, "SIReadLock"),
    ],
)
def test_a_mode_is_known_by_the_name_in_pg_locks(mode: Mode | None, name: str) -> None:
    assert mode_of(name) is mode
