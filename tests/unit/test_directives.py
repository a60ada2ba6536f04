"""Comments that resemble directives are found, each with the reason why it is not read as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from predeploy.migrations.migration import Migration
from tests.unit.test_directory import DIRECTIVES

if TYPE_CHECKING:
    from pathlib import Path

FOLLOWED, UNKNOWN, LATE = (
    "no other text may follow it",
    "write -- migrate:no-transaction",
    "it must come before the first",
)


def ignored(sql: str) -> tuple[int, str] | None:
    migration = Migration("001.sql", sql)
    assert migration.transactional
    return migration.ignored_directive


@pytest.mark.parametrize(
    ("sql", "line", "reason"),
    [
        ("-- migrate:no-transaction (the index needs it)\nSELECT 1", 1, FOLLOWED),
        ("-- a comment\n\n-- migrate:no-transaction because\nSELECT 1", 3, FOLLOWED),
        ("-- migrate:no-transaction;\nSELECT 1", 1, FOLLOWED),
        ("-- no-transaction;\nSELECT 1", 1, FOLLOWED),
        ("-- +goose NO TRANSACTION.\nSELECT 1", 1, FOLLOWED),
        ("-- migrate:up transaction:false;\nSELECT 1", 1, FOLLOWED),
        ("-- atlas:txmode none, as VACUUM needs it\nSELECT 1", 1, FOLLOWED),
        ("/* migrate:no-transaction */\nSELECT 1", 1, UNKNOWN),
        ("-- a\n/*\n * migrate:no-transaction\n */\nSELECT 1", 2, UNKNOWN),
        ("/* no-transaction */ SELECT 1", 1, UNKNOWN),
        ("-- migrate: no-transaction\nSELECT 1", 1, UNKNOWN),
        ("-- migrate:no_transaction\nSELECT 1", 1, UNKNOWN),
        ("-- migrate:no-transactions\nSELECT 1", 1, UNKNOWN),
        ("-- notransaction\nSELECT 1", 1, UNKNOWN),
        ("-- disable-transaction\nSELECT 1", 1, UNKNOWN),
        ("-- +goose DisableTransaction\nSELECT 1", 1, UNKNOWN),
        ("-- +goose NOTRANSACTION\nSELECT 1", 1, UNKNOWN),
        ("-- +migrate notransaction\nSELECT 1", 1, UNKNOWN),
        ("-- migrate:up transaction:no\nSELECT 1", 1, UNKNOWN),
        ("-- atlas:txmode: none\nSELECT 1", 1, UNKNOWN),
        ("-- tern: disable-tx\nSELECT 1", 1, UNKNOWN),
        ("SET lock_timeout = 0;\r\n-- migrate:no-transaction\r\nSELECT 1", 2, LATE),
        ("a;\n-- migrate:down\n-- migrate:no-transaction\nb;\n-- migrate:up transaction:false\nc", 5, LATE),
        (";\n-- migrate:no-transaction", 2, LATE),
    ],
)
def test_a_near_miss_is_found(sql: str, line: int, reason: str) -> None:
    found = ignored(sql)
    assert found
    assert found[0] == line
    assert found[1].startswith(reason)


@pytest.mark.parametrize("directive", DIRECTIVES)
def test_each_directive_is_missed_when_it_comes_late_or_is_followed_by_text(directive: str) -> None:
    assert ignored(f"SELECT 1;\n{directive}\nSELECT 2") == (2, "it must come before the first statement")
    assert ignored(f"{directive.rstrip()} (why)\nSELECT 1") == (1, FOLLOWED)


@pytest.mark.parametrize(
    "sql",
    [
        "-- this migration needs no transaction\nSELECT 1",
        "-- no-transaction files are documented elsewhere\nSELECT 1",
        "-- No transactions are deleted here\nSELECT 1",
        "-- transaction:false is what dbmate calls it\nSELECT 1",
        "-- +goose Up\n-- migrate:up transaction:true\n-- atlas:txmode file\nSELECT 1",
        "SELECT 1;\n-- migrate:no-transaction (why)\nSELECT 2",
        "SELECT '\n-- migrate:no-transaction\n'",
        "/* never closed\n-- migrate:no-transaction",
        "SELECT 1;\n-- migrate:down\n-- migrate:no-transaction\nSELECT 2",
        "BEGIN TRANSACTION; COMMIT",
    ],
)
def test_prose_and_strings_are_not_near_misses(sql: str) -> None:
    assert ignored(sql) is None


def test_a_directive_that_is_obeyed_is_not_reported() -> None:
    sql = "-- migrate:no-transaction (why)\n-- migrate:no-transaction\nSELECT 1"
    assert Migration("001.sql", sql).ignored_directive is None


def test_a_text_without_directive_words_is_not_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predeploy.migrations.chunks.scan", lambda _: pytest.fail("scanned"))
    assert ignored("-- a comment\nSELECT 1") is None


def test_only_the_start_of_a_large_file_is_searched(tmp_path: Path) -> None:
    path = tmp_path / "001.sql"
    rows = "INSERT INTO t VALUES (1);\n" * 300_000
    for sql, line in ((f"-- migrate:no-transaction;\n{rows}", 1), (f"{rows}-- migrate:no-transaction\n", None)):
        path.write_text(sql)
        found = Migration("001.sql", path=str(path), _transactional=True).ignored_directive
        assert (found and found.line) == line
