"""The objects that 001_initial.sql creates, read from the catalogs and compared one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from predeploy import create_db, run_migrations
from tests.support.database import Database, fresh_database
from tests.support.program import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres_server import PostgresServer

INITIAL = ROOT / "migrations" / "001_initial.sql"

# One column per line, in order: name, type, "not null" if so, default.
COLUMNS = {
    "workspaces": """
        id             | text                     | not null |
        canonical_id   | text                     | not null |
        display_name   | text                     | not null |
        default_branch | text                     |          |
        metadata       | jsonb                    | not null | '{}'::jsonb
        first_seen_at  | timestamp with time zone | not null | now()
        updated_at     | timestamp with time zone | not null | now()
    """,
    "devices": """
        id            | text                     | not null |
        name          | text                     | not null |
        type          | text                     | not null |
        hostname      | text                     |          |
        os            | text                     |          |
        arch          | text                     |          |
        status        | text                     | not null | 'online'::text
        metadata      | jsonb                    | not null | '{}'::jsonb
        first_seen_at | timestamp with time zone | not null | now()
        last_seen_at  | timestamp with time zone | not null | now()
    """,
    "workspace_devices": """
        workspace_id        | text                     | not null |
        device_id           | text                     | not null |
        local_path          | text                     | not null |
        hooks_installed     | boolean                  | not null | false
        git_hooks_installed | boolean                  | not null | false
        last_active_at      | timestamp with time zone | not null | now()
    """,
    "sessions": """
        id                 | text                     | not null |
        workspace_id       | text                     | not null |
        device_id          | text                     | not null |
        remote_env_id      | text                     |          |
        lifecycle          | text                     | not null | 'detected'::text
        started_at         | timestamp with time zone | not null |
        ended_at           | timestamp with time zone |          |
        end_reason         | text                     |          |
        initial_prompt     | text                     |          |
        git_branch         | text                     |          |
        model              | text                     |          |
        source             | text                     |          |
        transcript_s3_key  | text                     |          |
        parse_status       | text                     |          | 'pending'::text
        parse_error        | text                     |          |
        summary            | text                     |          |
        total_messages     | integer                  |          |
        user_messages      | integer                  |          |
        assistant_messages | integer                  |          |
        tool_use_count     | integer                  |          |
        thinking_blocks    | integer                  |          |
        subagent_count     | integer                  |          |
        tokens_in          | bigint                   |          |
        tokens_out         | bigint                   |          |
        cache_read_tokens  | bigint                   |          |
        cache_write_tokens | bigint                   |          |
        cost_estimate_usd  | numeric(10,6)            |          |
        duration_ms        | integer                  |          |
        tags               | text[]                   | not null | '{}'::text[]
        metadata           | jsonb                    | not null | '{}'::jsonb
        created_at         | timestamp with time zone | not null | now()
        updated_at         | timestamp with time zone | not null | now()
    """,
    "events": """
        id           | text                     | not null |
        type         | text                     | not null |
        timestamp    | timestamp with time zone | not null |
        device_id    | text                     | not null |
        workspace_id | text                     | not null |
        session_id   | text                     |          |
        data         | jsonb                    | not null |
        blob_refs    | jsonb                    | not null | '[]'::jsonb
        ingested_at  | timestamp with time zone | not null | now()
    """,
}

KEYS = {
    "workspaces": {"PRIMARY KEY (id)", "UNIQUE (canonical_id)"},
    "devices": {"PRIMARY KEY (id)"},
    "workspace_devices": {
        "PRIMARY KEY (workspace_id, device_id)",
        "FOREIGN KEY (workspace_id) REFERENCES workspaces(id)",
        "FOREIGN KEY (device_id) REFERENCES devices(id)",
    },
    "sessions": {
        "PRIMARY KEY (id)",
        "FOREIGN KEY (workspace_id) REFERENCES workspaces(id)",
        "FOREIGN KEY (device_id) REFERENCES devices(id)",
    },
    "events": {
        "PRIMARY KEY (id)",
        "FOREIGN KEY (device_id) REFERENCES devices(id)",
        "FOREIGN KEY (workspace_id) REFERENCES workspaces(id)",
        "FOREIGN KEY (session_id) REFERENCES sessions(id)",
    },
}

VALUES = {
    ("devices", "type"): ["local", "remote"],
    ("devices", "status"): ["online", "offline", "provisioning", "terminated"],
    ("sessions", "lifecycle"): [
        "detected", "capturing", "ended", "parsed", "summarized", "archived", "failed",
    ],
    ("sessions", "parse_status"): ["pending", "parsing", "completed", "failed"],
}  # fmt: skip

INDEXES = {
    "idx_sessions_workspace": "sessions USING btree (workspace_id, started_at DESC)",
    "idx_sessions_device": "sessions USING btree (device_id, started_at DESC)",
    "idx_sessions_lifecycle": "sessions USING btree (lifecycle)",
    "idx_sessions_tags": "sessions USING gin (tags)",
    "idx_events_workspace_time": 'events USING btree (workspace_id, "timestamp" DESC)',
    "idx_events_session": 'events USING btree (session_id, "timestamp") WHERE (session_id IS NOT NULL)',
    "idx_events_type": 'events USING btree (type, "timestamp" DESC)',
    "idx_events_device": 'events USING btree (device_id, "timestamp" DESC)',
}


@pytest.fixture(scope="module")
def migrated(server: PostgresServer) -> Iterator[Database]:
    with fresh_database(server) as database:
        with create_db(database.dsn) as db:
            run_migrations(db, INITIAL.parent)
        yield database


def test_there_are_exactly_five_tables(migrated: Database) -> None:
    relations = migrated.query(
        """
        SELECT relkind::text, relname FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind <> 'i'
        """
    )
    assert set(relations) == {("r", table) for table in (*COLUMNS, "_migrations")}


def check_columns(database: Database, table: str) -> None:
    columns = database.query(
        """
        SELECT attname, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'not null' ELSE '' END,
               coalesce(pg_get_expr(adbin, adrelid), '')
        FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid = %s::regclass AND attnum > 0
        ORDER BY attnum
        """,
        table,
    )
    expected = [line.split("|") for line in COLUMNS[table].strip().splitlines()]
    assert columns == [tuple(cell.strip() for cell in line) for line in expected]


def check_keys(database: Database, table: str) -> None:
    # Everything except CHECK, which has a separate test, and NOT NULL, which Postgres 18 and newer list here too.
    keys = database.query(
        """
        SELECT pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid = %s::regclass AND contype NOT IN ('c', 'n')
        """,
        table,
    )
    assert sorted(key for (key,) in keys) == sorted(KEYS[table])


def test_the_only_checks_restrict_values_to_a_set(migrated: Database) -> None:
    checks = migrated.query(
        """
        SELECT conrelid::regclass::text, attname, pg_get_constraintdef(pg_constraint.oid), convalidated
        FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = ANY (conkey)
        WHERE contype = 'c' AND connamespace = 'public'::regnamespace
        """
    )
    assert {(table, column) for table, column, _, _ in checks} == set(VALUES)
    for table, column, definition, validated in checks:
        array = ", ".join(f"'{value}'::text" for value in VALUES[table, column])
        assert definition == f"CHECK (({column} = ANY (ARRAY[{array}])))"
        assert validated


def test_there_are_eight_indexes_in_addition_to_those_of_keys(migrated: Database) -> None:
    indexes = migrated.query(
        """
        SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisvalid AND indisready
        FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE relnamespace = 'public'::regnamespace
          AND indexrelid NOT IN (SELECT conindid FROM pg_constraint WHERE contype IN ('p', 'u', 'x'))
        """
    )
    assert sorted(indexes) == sorted(
        (name, f"CREATE INDEX {name} ON public.{definition}", True) for name, definition in INDEXES.items()
    )


def test_the_file_can_be_run_twice(migrated: Database) -> None:
    migrated.execute(INITIAL.read_text())
