"""Locks derived from a statement's text; tests/integration/test_planned_locks.py compares them with a server's."""

from __future__ import annotations

import pytest

from predeploy.plan.lock_modes import LockMode, StatementEffects, lock_mode_of
from predeploy.plan.statement_locks import read_statement
from predeploy.sql.splitter import scan, split


def read(sql: str) -> StatementEffects:
    (statement,) = split(sql)
    return read_statement(sql, statement)


def names(sql: str) -> list[str]:
    return [".".join(lock.name) for lock in read(sql).locks]


@pytest.mark.parametrize(
    ("sql", "actions"),
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
def test_the_actions_of_a_statement_are_listed(sql: str, actions: list[str]) -> None:
    assert read(sql).actions == actions


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
def test_invalid_sql_raises_no_error(sql: str) -> None:
    for statement in scan(sql).statements:
        assert read_statement(sql, statement).actions


@pytest.mark.parametrize(
    ("sql", "relations"),
    [
        ("INSERT INTO a VALUES (1, 'x'), (2, 'y''(z'), (3, 'w')", ["a"]),
        ("INSERT INTO a VALUES (1), ((SELECT id FROM b)), (2)", ["a", "b"]),
        ("INSERT INTO a (x) VALUES (1), (2) ON CONFLICT (x) DO UPDATE SET x = (SELECT 1 FROM b)", ["a", "b"]),
        ("INSERT INTO a VALUES ('from b'), ($$ from c $$), (E'\\' from d'), (1) -- from e\n", ["a"]),
        ("UPDATE a SET x = 'from b (' FROM c", ["a", "c"]),
        ("UPDATE t1 SET x = 1 FROM t2 WHERE t2.id = 22", ["t1", "t2"]),
        ("UPDATE €1 SET x = 1 FROM €2", ["€1", "€2"]),
        (
            "INSERT INTO a SELECT 1 FROM (VALUES (1), (2)) v, b WHERE EXISTS (VALUES (1), ((SELECT id FROM c)))",
            ["a", "b", "c"],
        ),
        ("DELETE FROM a WHERE x = 'values (1), (2), ' AND EXISTS (SELECT FROM b)", ["a", "b"]),
    ],
)
def test_relations_are_found_despite_literals_and_rows(sql: str, relations: list[str]) -> None:
    assert names(sql) == relations


def test_a_change_of_search_path_is_found_despite_literals() -> None:
    assert read("INSERT INTO a SELECT set_config('search_path', 'x', false)").changes_search_path
    assert not read("INSERT INTO a SELECT set_config('work_mem', '8MB', false)").changes_search_path


def test_functions_are_found_despite_rows() -> None:
    assert "own" in read("INSERT INTO a VALUES (1), (own(2)), (3), (4)").calls
    assert "own" in read("INSERT INTO a VALUES (1), (2), (public.own('x'))").calls


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        (LockMode.ACCESS_SHARE, "AccessShareLock"),
        (LockMode.SHARE_UPDATE_EXCLUSIVE, "ShareUpdateExclusiveLock"),
        (LockMode.SHARE, "ShareLock"),
        (LockMode.ACCESS_EXCLUSIVE, "AccessExclusiveLock"),
        (None, "SIReadLock"),
    ],
)
def test_a_lock_mode_is_found_by_its_name_in_pg_locks(mode: LockMode | None, name: str) -> None:
    assert lock_mode_of(name) is mode
