"""What the workloads apply: migrations of no tool's, and how to tell that they were really applied."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Migration:
    """A number from 1 on, a name and raw SQL."""

    number: int
    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class Pending:
    """Migrations, the database they start from, and a query whose one row is `expected` when all were applied."""

    migrations: tuple[Migration, ...]
    base: str
    proof: str
    expected: tuple[int, ...]


def heavy(count: int) -> Pending:
    """Return migrations that each make a table with an index and a row."""
    return Pending(
        tuple(Migration(number, f"make_t_{number}", _table(f"t_{number}")) for number in range(1, count + 1)),
        base="",
        # A table that has a row has a page.
        proof="""
            SELECT count(*) FILTER (WHERE relkind = 'r' AND pg_relation_size(oid) > 0),
                   count(*) FILTER (WHERE relkind = 'i' AND relname LIKE '%created_at')
            FROM pg_class WHERE relname ~ '^t_[0-9]+'
        """,
        expected=(count, count),
    )


def light(count: int) -> Pending:
    """Return migrations that each insert a row and update another."""
    return Pending(
        tuple(
            Migration(
                number,
                f"note_{number}",
                f"INSERT INTO notes (id, body) VALUES ({number}, 'note {number}');\n"
                "UPDATE counters SET value = value + 1 WHERE id = 1;\n",
            )
            for number in range(1, count + 1)
        ),
        base="""
            CREATE TABLE notes (id bigint PRIMARY KEY, body text NOT NULL);
            CREATE TABLE counters (id bigint PRIMARY KEY, value bigint NOT NULL);
            INSERT INTO counters VALUES (1, 0);
        """,
        proof="SELECT count(*), (SELECT value FROM counters) FROM notes",
        expected=(count, count),
    )


def big(size: int) -> Pending:
    """Return one migration of at least `size` bytes of INSERTs, a row each."""
    first = "CREATE TABLE measurements (id bigint, taken_at timestamptz, sensor text, value float8);\n"
    row = "INSERT INTO measurements VALUES ({:09d}, '2026-01-01 00:00:00+00', 'sensor-{:05d}', {:012.3f});\n"
    count = -(-size // len(row.format(0, 0, 0.0)))
    rows = (row.format(number, number % 99991, number / 7) for number in range(count))
    return Pending(
        (Migration(1, "measurements", first + "".join(rows)),),
        base="",
        proof="SELECT count(*) FROM measurements",
        expected=(count,),
    )


def _table(name: str) -> str:
    return (
        f"CREATE TABLE {name} (id bigint PRIMARY KEY, name text NOT NULL, created_at timestamptz DEFAULT now());\n"
        f"CREATE INDEX {name}_created_at ON {name} (created_at);\n"
        f"INSERT INTO {name} (id, name) VALUES (1, 'first');\n"
    )
