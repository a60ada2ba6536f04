"""If a file contains both directions, only its up sections run, whichever tool the file was written for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from predeploy.migrations.directory import MAX_KEPT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Run

FILES = {
    "dbmate": "-- migrate:up\n{up};\n\n-- migrate:down\n{down};\n",
    "dbmate with a colon": "-- migrate:up\n{up};\n\n-- migrate:down:\n{down};\n",
    "goose": "-- +goose Up\n-- +goose StatementBegin\n{up};\n-- +goose StatementEnd\n\n-- +goose Down\n{down};\n",
    "sql-migrate": "-- +migrate Up\n{up};\n-- +migrate Down\n{down};\n",
    "sql-migrate with a semicolon": "-- +migrate Up\n{up};\n\n-- +migrate Down;\n\n{down};\n",
    "micrate": "-- +micrate Up\n{up};\n-- +micrate Down\n{down};\n",
    "tern": "{up};\n---- create above / drop below ----\n{down};\n",
    "Play before 2.7": "# User's schema\n\n# --- !Ups\n\n{up};\n\n# --- !Downs\n\n{down};\n",
    "Play": "-- User's schema\n\n-- !Ups\n\n{up};\n\n-- !Downs\n\n{down};\n",
    "MyBatis": "-- // create it\n-- it's here\n{up};\n\n-- //@UNDO\n{down};\n",
    "node-pg-migrate": "-- Up Migration\n{up};\n\n-- Down Migration\n{down};\n",
    "rambler": "-- rambler up\n{up};\n-- rambler down\n{down};\n",
    "no semicolon": "-- migrate:up\n{up}\n-- migrate:down\n{down}\n",
    "the other way round": "-- Down Migration\n{down};\n-- Up Migration\n{up};\n",
    "Windows": "-- migrate:up\r\n{up};\r\n-- migrate:down\r\n{down};\r\n",
}


def test_the_up_section_of_each_tool_runs_and_the_down_section_never_does(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE precious (id int); INSERT INTO precious VALUES (1)")
    for number, template in enumerate(FILES.values()):
        text = template.format(up=f"CREATE TABLE t{number} ()", down=f"DROP TABLE IF EXISTS t{number}, precious")
        migrations_dir.write(f"{number:03}.sql", text)
    assert run("plan").exit_code == 0
    rehearsed = run("plan", "--rehearse")
    assert (rehearsed.exit_code, rehearsed.report["rehearsed"]) == (0, len(FILES))
    ended = run()
    assert (ended.exit_code, ended.report["applied"]) == (0, len(FILES))
    assert database.query("SELECT count(*) FROM pg_class WHERE relname ~ '^t[0-9]+$'") == [(len(FILES),)]
    assert database.query("SELECT id FROM precious") == [(1,)]
    again = run()
    assert (again.exit_code, again.report["skipped"], again.named("migration.changed")) == (0, len(FILES), [])


def test_an_error_after_a_down_section_is_reported_at_its_line_in_the_file(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write(
        "001.sql", "-- migrate:up\nSELECT 1;\n-- migrate:down\nb;\n\n-- migrate:up\nSELECT 1,\n  nope;"
    )
    (failed,) = run().named("migration.failed")
    assert (failed["line"], failed["column"], failed["statement"], failed["statements"]) == (8, 3, 2, 2)


ROW = f"INSERT INTO effects VALUES ('%s', '{'x' * 1000}');\n"


@pytest.mark.parametrize("mark", ["-- migrate:{}", "# --- !{}s"])
def test_a_big_file_may_have_a_down_section_anywhere(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, mark: str
) -> None:
    database.execute("CREATE TABLE effects (kind text, filler text)")
    up, down = (f"{mark.format(kind)}\n{ROW % kind * 1500}" for kind in ("up", "down"))
    path = migrations_dir.write("001.sql", f"{down}{up}{down}{up}SELECT * FROM nowhere;\n{down}")
    assert path.stat().st_size > MAX_KEPT_BYTES
    (failed,) = run().named("migration.failed")
    assert (failed["line"], failed["statement"], failed["sqlstate"]) == (4 * 1501 + 1, 3001, "42P01")
    assert database.query("SELECT count(*) FROM effects") == [(0,)]
    path.write_text(path.read_text().replace("SELECT * FROM nowhere", "SELECT 1"))
    ended = run()
    assert (ended.exit_code, ended.report["applied"]) == (0, 1)
    assert database.query("SELECT kind, count(*) FROM effects GROUP BY 1") == [("up", 3000)]
    assert run("check").exit_code == 0
