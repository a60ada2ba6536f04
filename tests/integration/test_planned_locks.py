"""The planned locks are those that the server takes: every statement is run and compared with pg_locks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from predeploy.plan.catalog import read_catalog, read_relations
from predeploy.plan.lock_modes import LockMode, lock_mode_of
from predeploy.plan.statement_locks import read_statement
from predeploy.plan.static_plan import relevant_locks, resolve_locks
from predeploy.sql.splitter import split
from tests.support.database import Database, fresh_database

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from predeploy.plan.catalog import Relation
    from tests.support.postgres_server import PostgresServer

PREPARED = """
CREATE TABLE accounts (id int PRIMARY KEY, name text, CONSTRAINT named CHECK (name <> ''));
CREATE TABLE "Orders" (id serial PRIMARY KEY, account int CONSTRAINT of_account REFERENCES accounts, note text);
CREATE TABLE lines (id int, "order" int REFERENCES "Orders" ON DELETE CASCADE, n int DEFAULT 1);
CREATE TABLE plain (id int, at timestamptz, kind text);
CREATE TABLE parent (id int, label text);
CREATE TABLE child (extra int) INHERITS (parent);
CREATE TABLE loose (id int, label text);
CREATE TABLE events (id int NOT NULL, day int NOT NULL, note text) PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10);
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (10) TO (20);
CREATE TABLE events_rest PARTITION OF events DEFAULT;
CREATE TABLE events_3 (id int NOT NULL, day int NOT NULL, note text);
CREATE TABLE shards (id int PRIMARY KEY, account int REFERENCES accounts) PARTITION BY HASH (id);
CREATE TABLE shards_0 PARTITION OF shards FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE sales (account int);
CREATE SCHEMA other;
CREATE TABLE other.accounts (id int, code text);
CREATE VIEW names AS SELECT name FROM accounts;
CREATE MATERIALIZED VIEW totals AS SELECT account, count(*) AS n FROM sales GROUP BY account;
CREATE UNIQUE INDEX totals_account ON totals (account);
CREATE INDEX plain_at ON plain (at);
CREATE UNIQUE INDEX plain_id ON plain (id);
CREATE INDEX events_day ON events (day);
CREATE SEQUENCE counter;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
CREATE TRIGGER watch BEFORE UPDATE ON other.accounts FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE TRIGGER log BEFORE INSERT ON loose FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE RULE quiet AS ON DELETE TO loose DO INSTEAD NOTHING;
CREATE POLICY mine ON plain USING (true);
CREATE FUNCTION own(n int DEFAULT 0) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';
CREATE TYPE mood AS ENUM ('good');
INSERT INTO accounts VALUES (1, 'a');
INSERT INTO "Orders" VALUES (100, 1, '');
INSERT INTO lines VALUES (1, 100, 1);
ALTER TABLE lines ADD CONSTRAINT unproven FOREIGN KEY (n) REFERENCES accounts NOT VALID;
INSERT INTO plain VALUES (1, now(), 'x');
INSERT INTO events VALUES (1, 1, ''), (2, 11, ''), (3, 33, '');
ANALYZE;
"""

STATEMENTS = [
    # CREATE
    "CREATE TABLE fresh (id int)",
    "CREATE TABLE fresh (id int REFERENCES accounts, other int, FOREIGN KEY (other) REFERENCES public.accounts (id))",
    "CREATE TABLE IF NOT EXISTS fresh (LIKE plain INCLUDING ALL)",
    "CREATE TABLE fresh () INHERITS (parent, plain)",
    "CREATE TABLE fresh AS SELECT * FROM plain JOIN accounts USING (id)",
    "CREATE UNLOGGED TABLE fresh AS TABLE plain",
    "SELECT p.* INTO fresh FROM plain p, accounts AS a WHERE p.id = a.id",
    "CREATE TABLE events_4 PARTITION OF events FOR VALUES FROM (50) TO (60)",
    "CREATE TABLE shards_1 PARTITION OF shards FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    "CREATE TEMP TABLE fresh AS SELECT 1 AS id",
    "CREATE VIEW fresh AS SELECT * FROM plain WHERE id IN (SELECT id FROM accounts)",
    "CREATE OR REPLACE VIEW names AS SELECT name FROM accounts WHERE id > 0",
    "CREATE MATERIALIZED VIEW fresh AS SELECT count(*) FROM names",
    "CREATE INDEX ON plain (kind)",
    "CREATE UNIQUE INDEX IF NOT EXISTS fresh ON public.plain USING btree (id, lower(kind)) WHERE id > 0",
    "CREATE INDEX ON events (note)",
    "CREATE INDEX ON ONLY events (note)",
    "CREATE TRIGGER fresh AFTER INSERT OR UPDATE OF kind ON plain FOR EACH ROW EXECUTE FUNCTION nothing()",
    "CREATE TRIGGER fresh AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION nothing()",
    "CREATE CONSTRAINT TRIGGER fresh AFTER INSERT ON plain FROM accounts FOR EACH ROW EXECUTE FUNCTION nothing()",
    "CREATE RULE fresh AS ON UPDATE TO plain DO INSTEAD NOTHING",
    "CREATE POLICY fresh ON plain FOR SELECT USING (id > 0)",
    "CREATE STATISTICS fresh ON id, kind FROM plain",
    "CREATE SEQUENCE fresh OWNED BY plain.id",
    "CREATE SCHEMA fresh",
    "CREATE TYPE fresh AS ENUM ('a')",
    "CREATE DOMAIN fresh AS int CHECK (VALUE > 0)",
    "CREATE FUNCTION fresh() RETURNS int LANGUAGE plpgsql AS $$BEGIN RETURN (SELECT 1 FROM plain); END$$",
    "CREATE PUBLICATION fresh FOR TABLE plain, ONLY parent",
    # ALTER TABLE
    "ALTER TABLE plain ADD COLUMN fresh int",
    "ALTER TABLE plain ADD fresh int DEFAULT 0 NOT NULL, ADD COLUMN IF NOT EXISTS more text",
    "ALTER TABLE plain ADD COLUMN account int REFERENCES accounts",
    "ALTER TABLE parent ADD COLUMN fresh int",
    "ALTER TABLE IF EXISTS public.parent * DROP COLUMN label",
    "ALTER TABLE events ADD COLUMN fresh int",
    "ALTER TABLE ONLY events ALTER COLUMN note SET DEFAULT ''",
    "ALTER TABLE plain DROP COLUMN IF EXISTS kind",
    'ALTER TABLE "Orders" DROP COLUMN account',
    'ALTER TABLE "Orders" DROP note',
    "ALTER TABLE parent DROP label",
    "ALTER TABLE plain ALTER COLUMN kind TYPE varchar(10)",
    'ALTER TABLE "Orders" ALTER account SET DATA TYPE bigint',
    "ALTER TABLE accounts ALTER COLUMN id TYPE bigint",
    "ALTER TABLE plain ALTER COLUMN kind SET DEFAULT 'x'",
    "ALTER TABLE plain ALTER kind DROP DEFAULT",
    "ALTER TABLE plain ALTER COLUMN id SET NOT NULL",
    "ALTER TABLE accounts ALTER COLUMN name DROP NOT NULL",
    "ALTER TABLE plain ALTER COLUMN kind SET STATISTICS 100",
    "ALTER TABLE plain ALTER COLUMN kind SET (n_distinct = 5)",
    "ALTER TABLE plain ALTER COLUMN kind RESET (n_distinct)",
    "ALTER TABLE plain ALTER COLUMN kind SET STORAGE external",
    "ALTER TABLE plain ALTER COLUMN id SET NOT NULL, ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY",
    "ALTER TABLE plain ADD CONSTRAINT fresh CHECK (id > 0)",
    "ALTER TABLE plain ADD CONSTRAINT fresh CHECK (id > 0) NOT VALID",
    "ALTER TABLE parent ADD CHECK (id IS DISTINCT FROM 7)",
    "ALTER TABLE plain ADD CONSTRAINT fresh FOREIGN KEY (id) REFERENCES accounts (id)",
    "ALTER TABLE plain ADD FOREIGN KEY (id) REFERENCES accounts NOT VALID",
    "ALTER TABLE events_3 ADD FOREIGN KEY (id) REFERENCES accounts",
    "ALTER TABLE plain ADD FOREIGN KEY (id) REFERENCES shards NOT VALID",
    "ALTER TABLE plain ADD PRIMARY KEY (id)",
    "ALTER TABLE plain ADD CONSTRAINT fresh UNIQUE (kind)",
    "ALTER TABLE plain ADD CONSTRAINT fresh UNIQUE USING INDEX plain_id",
    "ALTER TABLE events ADD UNIQUE (id, day)",
    "ALTER TABLE events ADD PRIMARY KEY (id, day)",
    "ALTER TABLE accounts DROP CONSTRAINT named",
    'ALTER TABLE "Orders" DROP CONSTRAINT of_account',
    "ALTER TABLE lines VALIDATE CONSTRAINT unproven",
    "ALTER TABLE accounts VALIDATE CONSTRAINT named",
    'ALTER TABLE "Orders" ALTER CONSTRAINT of_account DEFERRABLE',
    "ALTER TABLE plain RENAME TO fresh",
    "ALTER TABLE plain RENAME COLUMN kind TO fresh",
    "ALTER TABLE parent RENAME label TO fresh",
    "ALTER TABLE accounts RENAME CONSTRAINT named TO fresh",
    "ALTER TABLE plain SET SCHEMA other",
    "ALTER TABLE plain SET (fillfactor = 70, autovacuum_enabled = false)",
    "ALTER TABLE plain RESET (fillfactor)",
    "ALTER TABLE plain SET UNLOGGED",
    "ALTER TABLE plain CLUSTER ON plain_at",
    "ALTER TABLE plain SET WITHOUT CLUSTER",
    "ALTER TABLE other.accounts DISABLE TRIGGER watch",
    "ALTER TABLE loose ENABLE ALWAYS TRIGGER log",
    "ALTER TABLE plain ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE plain FORCE ROW LEVEL SECURITY",
    "ALTER TABLE loose DISABLE RULE quiet",
    "ALTER TABLE plain REPLICA IDENTITY FULL",
    "ALTER TABLE loose INHERIT parent",
    "ALTER TABLE child NO INHERIT parent",
    "ALTER TABLE plain OWNER TO CURRENT_USER",
    "ALTER TABLE events ATTACH PARTITION events_3 FOR VALUES FROM (20) TO (30)",
    "ALTER TABLE events DETACH PARTITION events_1",
    # Other ALTERs
    "ALTER INDEX plain_at RENAME TO fresh",
    "ALTER INDEX plain_at SET (fillfactor = 70)",
    "ALTER SEQUENCE counter RESTART WITH 5",
    "ALTER SEQUENCE counter OWNED BY plain.id",
    "ALTER VIEW names RENAME TO fresh",
    "ALTER VIEW names SET (security_barrier = true)",
    "ALTER MATERIALIZED VIEW totals RENAME TO fresh",
    "ALTER TRIGGER watch ON other.accounts RENAME TO fresh",
    "ALTER POLICY mine ON plain RENAME TO fresh",
    "ALTER TYPE mood ADD VALUE 'bad'",
    # DROP
    "DROP TABLE plain",
    'DROP TABLE IF EXISTS nowhere, lines, "Orders"',
    "DROP TABLE events_1",
    "DROP TABLE events",
    "DROP TABLE shards",
    "DROP INDEX plain_at",
    "DROP INDEX IF EXISTS public.plain_at, plain_id",
    "DROP INDEX events_day",
    "DROP VIEW names",
    "DROP MATERIALIZED VIEW totals",
    "DROP SEQUENCE counter",
    "DROP TRIGGER watch ON other.accounts",
    "DROP RULE quiet ON loose",
    "DROP POLICY mine ON plain",
    "DROP FUNCTION IF EXISTS fresh()",
    "DROP TYPE mood",
    # Queries
    "INSERT INTO plain (id, kind) VALUES (2, 'y')",
    'INSERT INTO "Orders" (account) VALUES (1)',
    "INSERT INTO plain (id) SELECT id FROM accounts ON CONFLICT (id) DO UPDATE SET kind = 'z'",
    "UPDATE plain SET kind = 'y' WHERE id = 1",
    "UPDATE plain AS p SET kind = a.name FROM accounts a WHERE a.id = p.id",
    "UPDATE ONLY parent SET label = ''",
    "DELETE FROM plain WHERE NOT EXISTS (SELECT FROM accounts)",
    "DELETE FROM lines USING plain WHERE plain.id = lines.id",
    'DELETE FROM "Orders"',
    "WITH gone AS (DELETE FROM plain RETURNING *) INSERT INTO parent SELECT id FROM gone",
    "WITH plain (id) AS (SELECT 1) SELECT * FROM plain",
    "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 3) SELECT * FROM t, parent",
    "SELECT extract(epoch FROM at), substring(kind FROM 1 FOR 1) FROM plain ORDER BY id",
    "SELECT * FROM (accounts a JOIN plain ON true) LEFT JOIN LATERAL (SELECT * FROM loose) l ON true",
    "SELECT * FROM generate_series(1, 3) AS plain",
    "SELECT * FROM accounts WHERE EXISTS (SELECT FROM plain) FOR NO KEY UPDATE",
    "(SELECT id FROM plain) UNION (SELECT id FROM accounts)",
    "SELECT * FROM names",
    "TABLE other.accounts",
    "VALUES ((SELECT count(*) FROM plain))",
    "TRUNCATE plain",
    "TRUNCATE TABLE ONLY parent, loose RESTART IDENTITY",
    "TRUNCATE accounts CASCADE",
    "TRUNCATE events",
    "EXPLAIN (COSTS off) UPDATE plain SET kind = ''",
    "EXPLAIN ANALYZE DELETE FROM lines",
    "DECLARE c CURSOR FOR SELECT * FROM plain FOR UPDATE",
    # Maintenance and others
    "LOCK TABLE plain",
    "LOCK parent IN SHARE ROW EXCLUSIVE MODE",
    "LOCK TABLE ONLY parent, accounts IN ROW SHARE MODE NOWAIT",
    "ANALYZE plain",
    "REINDEX TABLE plain",
    "REINDEX INDEX plain_at",
    "CLUSTER plain USING plain_at",
    "REFRESH MATERIALIZED VIEW totals",
    "REFRESH MATERIALIZED VIEW CONCURRENTLY totals WITH DATA",
    "COMMENT ON TABLE plain IS 'it''s plain'",
    "COMMENT ON COLUMN public.plain.kind IS NULL",
    "COMMENT ON VIEW names IS ''",
    "COMMENT ON CONSTRAINT named ON accounts IS ''",
    "GRANT SELECT ON plain TO CURRENT_USER",
    "REVOKE ALL ON plain FROM PUBLIC",
    "SET LOCAL work_mem = '8MB'",
    "NOTIFY somebody, 'something'",
]  # fmt: skip
STRONGER_SINCE = {  # where versions differ, the stronger lock is planned
    "ALTER TABLE events ADD UNIQUE (id, day)": 18,
    "ALTER TABLE events ADD PRIMARY KEY (id, day)": 18,
    "ALTER TABLE events DETACH PARTITION events_1": 14,
    "GRANT SELECT ON plain TO CURRENT_USER": 18,
    "REVOKE ALL ON plain FROM PUBLIC": 18,
}
UNKNOWN = [
    "DO $$BEGIN DELETE FROM plain; END$$",
    "CALL something()",
    "SELECT own()",
    "SELECT * FROM own() AS o (n)",
    "UPDATE plain SET id = public.own()",
    "CREATE INDEX ON plain (own(id))",
    "ALTER TABLE plain ADD COLUMN fresh int DEFAULT own()",
    "INSERT INTO loose VALUES (1, '')",  # it has a trigger
    "INSERT INTO names VALUES ('')",  # a view
    "DROP TABLE accounts CASCADE",
    "DROP SCHEMA other CASCADE",
    "DROP OWNED BY CURRENT_USER",
    "CREATE EXTENSION hstore",
    "ALTER DOMAIN small ADD CHECK (VALUE > 0)",
    "ALTER TYPE pair ALTER ATTRIBUTE a TYPE text",
    "REINDEX SCHEMA public",
    "VACUUM",
    'SELECT * FROM U&"pl\\0061in"',
    "SELECT query_to_xml('SELECT * FROM plain', true, true, '')",
    "EXECUTE prepared",
]
HELD = """
    SELECT relation::int8, mode FROM pg_locks
    WHERE locktype = 'relation' AND pid = pg_backend_pid()
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture(scope="module")
def prepared(server: PostgresServer) -> Iterator[Database]:
    """Tables that no test changes, because each test rolls back."""
    with fresh_database(server) as database:
        database.admin_execute(f"GRANT ALL ON DATABASE {database.name} TO {database.owner}")
        database.admin_execute(f"GRANT ALL ON SCHEMA public TO {database.owner}")
        database.execute(PREPARED)
        yield database


def planned(conn: psycopg.Connection, sql: str) -> tuple[dict[str, LockMode], bool]:
    catalog = read_catalog(conn)
    (statement,) = split(sql)
    locks, unknown = resolve_locks(read_statement(sql, statement), catalog)
    return shown(relevant_locks(locks, catalog.relations)), unknown


def held(conn: psycopg.Connection, sql: str) -> dict[str, LockMode]:
    """Run a statement and roll it back; return its strongest lock on each relation that existed before."""
    before = read_relations(conn)
    conn.execute("BEGIN")
    try:
        conn.execute(sql)
        rows = conn.execute(HELD).fetchall()
    finally:
        conn.execute("ROLLBACK")
    locks: dict[Relation, LockMode] = {}
    for oid, name in rows:
        mode = lock_mode_of(name)
        if mode and oid in before:
            locks[before[oid]] = max(mode, locks.get(before[oid], mode))
    return shown(relevant_locks(locks, before))


def shown(locks: dict[Relation, LockMode]) -> dict[str, LockMode]:
    return {str(relation): mode for relation, mode in sorted(locks.items(), key=lambda lock: str(lock[0]))}


@pytest.mark.parametrize("sql", STATEMENTS)
def test_the_planned_lock_is_the_lock_that_is_held(prepared: Database, sql: str) -> None:
    with prepared.connect() as conn:
        plan, unknown = planned(conn, sql)
        seen = held(conn, sql)
        version = conn.info.server_version // 10000
    if version >= STRONGER_SINCE.get(sql, 0):
        assert plan == seen
    else:
        assert max(plan.values()) >= max(seen.values(), default=LockMode.ACCESS_SHARE)
    assert not unknown


@pytest.mark.parametrize("sql", UNKNOWN)
def test_effects_that_the_text_does_not_show_are_unknown(prepared: Database, sql: str) -> None:
    with prepared.connect() as conn:
        assert planned(conn, sql)[1]


def test_the_lock_on_the_partition_that_gets_a_row_is_not_planned(prepared: Database) -> None:
    sql = "INSERT INTO events VALUES (9, 9, '')"
    with prepared.connect() as conn:
        assert planned(conn, sql) == ({"public.events": LockMode.ROW_EXCLUSIVE}, False)
        assert held(conn, sql) == {"public.events": LockMode.ROW_EXCLUSIVE, "public.events_1": LockMode.ROW_EXCLUSIVE}


def test_an_index_or_sequence_is_listed_if_other_sessions_have_to_wait(prepared: Database) -> None:
    with prepared.connect() as conn:
        assert planned(conn, "REINDEX TABLE loose") == ({"public.loose": LockMode.SHARE}, False)
        assert "public.plain_at" in planned(conn, "REINDEX TABLE plain")[0]
        assert "public.plain_at" not in planned(conn, "DROP INDEX plain_at")[0]
        assert "public.counter" in planned(conn, "ALTER SEQUENCE counter RESTART")[0]


@pytest.mark.parametrize(
    ("sql", "mode"),
    [
        ("CREATE INDEX CONCURRENTLY ON plain (kind)", LockMode.SHARE_UPDATE_EXCLUSIVE),
        ("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS fresh ON plain (kind)", LockMode.SHARE_UPDATE_EXCLUSIVE),
        ("DROP INDEX CONCURRENTLY plain_at", LockMode.SHARE_UPDATE_EXCLUSIVE),
        ("REINDEX (VERBOSE) TABLE CONCURRENTLY plain", LockMode.SHARE_UPDATE_EXCLUSIVE),
        ("VACUUM plain", LockMode.SHARE_UPDATE_EXCLUSIVE),
        ("VACUUM (FULL, ANALYZE) plain", LockMode.ACCESS_EXCLUSIVE),
        ("VACUUM FULL plain", LockMode.ACCESS_EXCLUSIVE),
        ("VACUUM (SKIP_LOCKED) plain (id)", LockMode.SHARE_UPDATE_EXCLUSIVE),
        ("COPY plain FROM '/tmp/plain'", LockMode.ROW_EXCLUSIVE),
        ("COPY plain (id) TO '/tmp/plain'", LockMode.ACCESS_SHARE),
    ],
)
def test_a_command_that_cannot_run_in_a_transaction_locks_as_documented(
    prepared: Database, sql: str, mode: LockMode
) -> None:
    with prepared.connect() as conn:
        assert planned(conn, sql) == ({"public.plain": mode}, False)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("PLAIN", "public.plain"),
        ('"plain"', "public.plain"),
        ('"PLAIN"', None),
        ("orders", None),
        ('public."Orders"', "public.Orders"),
        ("Other . Accounts", "other.accounts"),
        ("accounts", "public.accounts"),
        ("nowhere.accounts", None),
        ("other/* a comment */.accounts", "other.accounts"),
    ],
)
def test_a_name_resolves_as_on_the_server(prepared: Database, name: str, found: str | None) -> None:
    with prepared.connect() as conn:
        assert list(planned(conn, f"LOCK TABLE {name}")[0]) == ([found] if found else [])
        if found:
            conn.execute(f"SELECT FROM {name}")


def test_search_path_selects_one_of_two_schemas(prepared: Database) -> None:
    with prepared.connect() as conn:
        conn.execute("SET search_path = other, public")
        assert planned(conn, "LOCK accounts")[0] == {"other.accounts": LockMode.ACCESS_EXCLUSIVE}
        assert planned(conn, "LOCK accounts")[0] == held(conn, "LOCK accounts")
