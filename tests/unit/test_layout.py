"""Which files of a directory are migrations: rollback files, folders, and names that almost match."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from predeploy.migrations.directory import read_migrations
from predeploy.migrations.layout import CALLBACK, NOT_READ, ROLLBACK

if TYPE_CHECKING:
    from pathlib import Path


def make(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"-- {name}")


def migrations(directory: Path) -> list[str]:
    """The names of the migrations that can run."""
    return [migration.name for migration in read_migrations(directory).migrations if not migration.problem]


def problems(directory: Path) -> dict[str, str]:
    return {m.name: m.problem for m in read_migrations(directory).migrations if m.problem}


def ignored(directory: Path) -> dict[str, str]:
    return {file.name: file.kind for file in read_migrations(directory).ignored}


@pytest.mark.parametrize(
    ("forward", "rollback"),
    [
        ("001_a.up.sql", "001_a.down.sql"),
        ("001_a.sql", "001_a.down.sql"),
        ("001_a.sql", "001_a.rollback.sql"),
        ("001_a.sql", "001_a.undo.sql"),
        ("001_a.up.sql", "001_a.DOWN.sql"),
        ("001_create_a.up.sql", "001_drop_a.down.sql"),  # golang-migrate pairs by number
        ("1_a.up.sql", "001_b.down.sql"),
        ("V1__a.sql", "U1__a.sql"),
        ("V1.2__a.sql", "U1_2__b.sql"),
        ("V1.0__a.sql", "U1__a.sql"),
        ("V2__a.sql", "B2__all.sql"),
        ("V2__a.sql", "B10__all.sql"),
    ],
)
def test_a_rollback_file_with_its_migration_is_ignored(tmp_path: Path, forward: str, rollback: str) -> None:
    make(tmp_path, forward, rollback)
    assert migrations(tmp_path) == [forward]
    assert ignored(tmp_path) == {rollback: ROLLBACK}
    assert problems(tmp_path) == {}


@pytest.mark.parametrize(
    ("other", "rollback"),
    [
        ("002_a.sql", "001_a.down.sql"),
        ("002_a.up.sql", "001_a.down.sql"),
        ("001_b.sql", "001_a.down.sql"),
        ("a.up.sql", "b.down.sql"),
        ("001_b.sql", "001_a.undo.sql"),
        ("V2__a.sql", "U1__a.sql"),
        ("V2__a.sql", "B1__all.sql"),
        ("001.sql", "U1__a.sql"),
    ],
)
def test_a_rollback_file_without_its_migration_is_an_error(tmp_path: Path, other: str, rollback: str) -> None:
    make(tmp_path, other, rollback)
    assert migrations(tmp_path) == [other]
    assert list(problems(tmp_path)) == [rollback]
    assert "migration" in problems(tmp_path)[rollback]
    assert ignored(tmp_path) == {}


@pytest.mark.parametrize(
    "name", ["down.sql", "001_down.sql", "001.downs.sql", "undo.sql", "U1_a.sql", "Up1__a.sql", "u1__a.sql", "B.sql"]
)
def test_other_names_with_these_words_are_migrations(tmp_path: Path, name: str) -> None:
    make(tmp_path, name, "001.sql")
    assert sorted([name, "001.sql"]) == migrations(tmp_path)


@pytest.mark.parametrize(
    ("name", "is_callback"),
    [
        ("beforeMigrate.sql", True),
        ("afterMigrate.sql", True),
        ("afterMigrate__refresh_views.sql", True),
        ("beforeEachMigrate.sql", True),
        ("afterEachMigrateStatementError.sql", True),
        ("afterMigrateApplied.sql", True),
        ("beforeRepeatables.sql", True),
        ("afterUndo.sql", True),
        ("createSchema.sql", True),
        ("aftermigrate.sql", False),
        ("afterMigration.sql", False),
        ("001_beforeMigrate.sql", False),
    ],
)
def test_flyway_callbacks_are_ignored(tmp_path: Path, name: str, is_callback: bool) -> None:
    make(tmp_path, name, "V1__a.sql")
    assert (name in migrations(tmp_path)) is not is_callback
    assert ignored(tmp_path) == ({name: CALLBACK} if is_callback else {})


def test_folders_are_migrations_sorted_by_their_names(tmp_path: Path) -> None:
    make(tmp_path, "2024_a-b/migration.sql", "2024_a/migration.sql", "2023_c/up.sql", "2023_c/down.sql")
    make(tmp_path, "migration_lock.toml", ".git/migration.sql", "empty/README.md")
    assert migrations(tmp_path) == ["2023_c/up.sql", "2024_a/migration.sql", "2024_a-b/migration.sql"]
    assert ignored(tmp_path) == {"2023_c/down.sql": ROLLBACK}
    assert read_migrations(tmp_path).migrations[1].sql == "-- 2024_a/migration.sql"


def test_a_folder_that_is_only_a_rollback_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "1_a/up.sql", "2_b/down.sql")
    assert migrations(tmp_path) == ["1_a/up.sql"]
    assert list(problems(tmp_path)) == ["2_b/down.sql"]


def test_a_linked_folder_is_read_like_any_other(tmp_path: Path) -> None:
    """A ConfigMap with paths such as `1_a/up.sql` consists of links."""
    make(tmp_path, "..2024/1_a/up.sql")
    (tmp_path / "..data").symlink_to("..2024")
    (tmp_path / "1_a").symlink_to("..data/1_a")
    assert migrations(tmp_path) == ["1_a/up.sql"]
    assert ignored(tmp_path) == {}


def test_a_folder_may_have_a_name_that_ends_in_sql(tmp_path: Path) -> None:
    make(tmp_path, "1_a/migration.sql", "2_b.sql/migration.sql")
    assert migrations(tmp_path) == ["1_a/migration.sql", "2_b.sql/migration.sql"]


def test_folders_are_not_read_next_to_files(tmp_path: Path) -> None:
    make(tmp_path, "001.sql", "002_b/migration.sql", "seeds/deep/x.sql", "meta/_journal.json", ".hidden/y.sql")
    assert migrations(tmp_path) == ["001.sql"]
    assert ignored(tmp_path) == {"002_b/migration.sql": NOT_READ, "seeds/deep/x.sql": NOT_READ}


def test_other_files_in_folders_are_not_read(tmp_path: Path) -> None:
    make(tmp_path, "1_a/migration.sql", "1_a/up.sql", "1_a/more/x.sql", "2_b/seed.sql", "2_b/.x.sql")
    assert migrations(tmp_path) == ["1_a/migration.sql"]
    assert ignored(tmp_path) == {"1_a/up.sql": NOT_READ, "1_a/more/x.sql": NOT_READ, "2_b/seed.sql": NOT_READ}


@pytest.mark.parametrize(
    "name", ["002.pgsql", "003.sql.txt", "004.sql.gz", "007.sql ", "010.sql\r", "a.SQL", "a.Sql", "b.psql"]
)
def test_a_name_that_almost_matches_is_listed_but_not_read(tmp_path: Path, name: str) -> None:
    make(tmp_path, "001.sql", name)
    assert migrations(tmp_path) == ["001.sql"]
    assert ignored(tmp_path) == {name: NOT_READ}


def test_ignored_files_count_as_present(tmp_path: Path) -> None:
    make(tmp_path, "1.up.sql", "1.down.sql", "x.pgsql")
    assert read_migrations(tmp_path).names() == {"1.up.sql", "1.down.sql", "x.pgsql"}
