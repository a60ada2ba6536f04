"""The migrations that the workloads apply, and the queries that verify that each one was applied once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MigrationSet:
    """SQL texts, and a `query` that returns the row `expected` after `setup` and all texts have run in a database."""

    migrations: tuple[str, ...]
    query: str
    expected: tuple[int, ...]
    setup: str = ""


def tables(count: int, insert: str = "") -> MigrationSet:
    """Return migrations that each create a table and an index."""
    sql = (
        "CREATE TABLE t_{0} (id bigint PRIMARY KEY, name text NOT NULL, created_at timestamptz DEFAULT now());\n"
        "CREATE INDEX t_{0}_created_at ON t_{0} (created_at);\n"
    ) + insert
    # A table with a row has a size above 0.
    query = """
        SELECT count(*) FILTER (WHERE relkind = 'r'),
               count(*) FILTER (WHERE relkind = 'i' AND relname LIKE '%created_at'),
               count(*) FILTER (WHERE relkind = 'r' AND pg_relation_size(oid) > 0)
        FROM pg_class WHERE relname ~ '^t_[0-9]+'
    """
    return MigrationSet(tuple(map(sql.format, range(count))), query, (count, count, count if insert else 0))


def heavy(count: int) -> MigrationSet:
    """Return migrations that each create a table and an index and insert a row."""
    return tables(count, "INSERT INTO t_{0} (id, name) VALUES (1, 'first');\n")


def light(count: int) -> MigrationSet:
    """Return migrations that each insert a row into one table and update a row in another."""
    sql = "INSERT INTO notes VALUES ({0}, 'note {0}');\nUPDATE counters SET value = value + 1 WHERE id = 1;\n"
    setup = """
        CREATE TABLE notes (id bigint PRIMARY KEY, body text NOT NULL);
        CREATE TABLE counters (id bigint PRIMARY KEY, value bigint NOT NULL);
        INSERT INTO counters VALUES (1, 0);
    """
    query = "SELECT count(*), (SELECT value FROM counters) FROM notes"
    return MigrationSet(tuple(map(sql.format, range(count))), query, (count, count), setup)


def big_file(size: int) -> MigrationSet:
    """Return one migration with at least `size` bytes of single-row INSERTs."""
    create = "CREATE TABLE measurements (id bigint, taken_at timestamptz, sensor text, value float8);\n"
    insert = "INSERT INTO measurements VALUES ({:09d}, '2026-01-01 00:00:00+00', 'sensor-{:05d}', {:012.3f});\n"
    count = -(-size // len(insert.format(0, 0, 0.0)))
    inserts = (insert.format(number, number % 99991, number / 7) for number in range(count))
    return MigrationSet((create + "".join(inserts),), "SELECT count(*) FROM measurements", (count,))
