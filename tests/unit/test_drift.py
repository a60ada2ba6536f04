from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from predeploy.apply.drift import find_drift, has_changed, refuse, refuse_copies, warn
from predeploy.migrations.layout import NOT_READ, ROLLBACK, IgnoredFile
from predeploy.migrations.migration import Migration, MigrationFiles, MigrationResult
from predeploy.settings import STRICT_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


CHANGED = "Checksum mismatch: {} changed after it was applied; put the change into a new migration"


class Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def warned() -> Iterator[list[logging.LogRecord]]:
    """The records that are logged during the test."""
    keeper = Keeper()
    logging.getLogger("predeploy").addHandler(keeper)
    yield keeper.records
    logging.getLogger("predeploy").removeHandler(keeper)


def files(*names: str, **checksums: str | None) -> MigrationFiles:
    every = [Migration(name, "SELECT 1", checksum=f"sum of {name}") for name in names]
    every += [Migration(name, "SELECT 1", checksum=checksum) for name, checksum in checksums.items()]
    return MigrationFiles(tuple(every))


def rows(*names: str, **checksums: str | None) -> dict[str, str | None]:
    return {name: f"sum of {name}" for name in names} | checksums


def logged(records: Iterable[logging.LogRecord]) -> list[tuple[Any, ...]]:
    assert {record.levelname for record in records} <= {"WARNING"}
    return [(vars(record)["event"], vars(record).get("migration"), record.getMessage()) for record in records]


def events(records: Iterable[logging.LogRecord]) -> list[tuple[str, str]]:
    return [(event, name) for event, name, _ in logged(records)]


def warn_of(files: MigrationFiles, recorded: Mapping[str, str | None]) -> None:
    warn(find_drift(files, recorded).findings, STRICT_KINDS)


@pytest.mark.parametrize(
    ("on_disk", "applied", "changed"),
    [
        ("a", "a", False),
        ("a", "b", True),
        (None, "a", False),
        ("a", None, False),
        (None, None, False),
        ("a", "", False),
    ],
)
def test_a_file_has_changed_when_both_checksums_are_known_and_differ(
    on_disk: str | None, applied: str | None, changed: bool
) -> None:
    assert has_changed(Migration("001.sql", checksum=on_disk), applied) is changed


def test_unchanged_files_cause_no_warning(warned: list[logging.LogRecord]) -> None:
    warn_of(files("1.sql", "2.sql"), rows("1.sql", "2.sql"))
    warn_of(files("1.sql", "2.sql"), rows("1.sql"))
    warn_of(files("1.sql"), {})
    warn_of(files(), {})
    warn_of(files(a=None, b="x"), rows(a="y", b=None))
    assert logged(warned) == []


def test_changed_and_missing_files_are_named(warned: list[logging.LogRecord]) -> None:
    warn_of(files("1.sql", **{"2.sql": "new"}), rows("1.sql", "0.sql", "3.sql", **{"2.sql": "old"}))
    assert logged(warned) == [
        (
            "migration.changed",
            "2.sql",
            CHANGED.format("2.sql") + "; if _migrations belongs to another application, set MIGRATE_TABLE",
        ),
        ("migration.missing", "0.sql", "0.sql is recorded as applied but missing from the directory"),
        ("migration.missing", "3.sql", "3.sql is recorded as applied but missing from the directory"),
    ]


def test_a_changed_file_alone_does_not_suggest_another_application(warned: list[logging.LogRecord]) -> None:
    warn_of(files(**{"2.sql": "new"}), rows(**{"2.sql": "old"}))
    assert logged(warned)[0][2].endswith("put the change into a new migration")


def test_a_percent_sign_in_a_name_is_not_a_placeholder(warned: list[logging.LogRecord]) -> None:
    warn_of(files(), rows("100%s.sql"))
    assert logged(warned)[0][2].startswith("100%s.sql is recorded as applied")


@pytest.mark.parametrize(("missing", "lines"), [(20, 20), (21, 21), (500, 21)])
def test_warnings_are_limited_to_twenty(warned: list[logging.LogRecord], missing: int, lines: int) -> None:
    warn_of(files(), rows(*(f"{number:03}.sql" for number in range(missing))))
    assert len(warned) == lines
    assert events(warned)[19] == ("migration.missing", "019.sql")
    if missing > 20:
        assert logged(warned)[20] == ("migration.missing", None, f"and {missing - 20} more")
        assert vars(warned[20])["more"] == missing - 20


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (["10_b.sql", "2_a.sql"], ("10_b.sql", "2_a.sql")),
        (["1.sql", "10.sql", "100.sql", "11.sql", "2.sql"], ("100.sql", "11.sql")),
        (["1.sql", "10.sql", "2.sql", "a.sql", "b2.sql"], ("10.sql", "2.sql")),
        (["002.sql", "01.sql"], ("002.sql", "01.sql")),
        (["V10__c.sql", "V1__a.sql", "V2__b.sql"], ("V10__c.sql", "V1__a.sql")),
        (["V1_10__b.sql", "V1_2__a.sql"], ("V1_10__b.sql", "V1_2__a.sql")),
        (["a10.sql", "a2.sql"], ("a10.sql", "a2.sql")),
        (["001.sql", "002.sql", "010.sql"], None),
        (["1.sql", "2.sql", "9.sql"], None),
        (["1.sql", "1_a.sql", "1_b.sql"], None),
        (["20240101120000.sql", "20240101120001.sql"], None),
        (["20250604085536_a.sql", "20250625_b.sql"], None),
        (["٣.sql", "٢.sql"], None),
        (["9" * 5000 + ".sql", "9" * 5001 + ".sql"], None),
        (["1.sql"], None),
        ([], None),
    ],
    ids=lambda value: None if value is None or len(str(value)) > 80 else str(value),
)
def test_numbers_that_contradict_the_name_order_cause_one_warning(
    warned: list[logging.LogRecord], names: list[str], pair: tuple[str, str] | None
) -> None:
    warn_of(files(*names), {})
    expected = [("migration.misordered", pair[0])] if pair else []
    assert events(warned) == expected
    if pair:
        text = (
            "{} runs before {} because names are sorted by character; pad the numbers with zeros, "
            "or set MIGRATE_ORDER=numeric"
        )
        assert logged(warned)[0][2] == text.format(*pair)


def test_repeatable_flyway_files_need_the_numeric_order(warned: list[logging.LogRecord]) -> None:
    warn_of(files("R__views.sql", "V1__a.sql"), {})
    warn_of(files("R__views.sql", "V1__a.sql"), rows("R__views.sql"))
    warn_of(files("R__views.sql"), {})
    text = "R__views.sql runs before V1__a.sql; to run R__ files last, set MIGRATE_ORDER=numeric"
    assert logged(warned) == [("migration.misordered", "R__views.sql", text)]


def test_no_warning_suggests_renaming_an_applied_file(warned: list[logging.LogRecord]) -> None:
    warn_of(files("10.sql", "2.sql"), rows("2.sql"))
    warn_of(files("10.sql", "2.sql"), rows("10.sql"))
    warn_of(files("10.sql", "2.sql", "3.sql"), rows("10.sql", "2.sql"))
    texts = [text for event, _, text in logged(warned) if event == "migration.misordered"]
    assert texts == ["10.sql runs before 2.sql because names are sorted by character; set MIGRATE_ORDER=numeric"] * 2


@pytest.mark.parametrize(
    ("pending", "applied", "late"),
    [
        (["2.sql"], ["1.sql", "3.sql"], ["2.sql"]),
        (["1.sql", "2.sql", "4.sql"], ["3.sql"], ["1.sql", "2.sql"]),
        (["2.sql"], ["1.sql"], []),
        (["2.sql"], [], []),
        ([], ["1.sql"], []),
    ],
)
def test_a_pending_file_that_sorts_before_an_applied_file_causes_a_warning(
    warned: list[logging.LogRecord], pending: list[str], applied: list[str], late: list[str]
) -> None:
    warn_of(files(*sorted({*pending, *applied})), rows(*applied))
    assert logged(warned) == [
        ("migration.late", name, f"Out of order: {name} sorts before an applied migration") for name in late
    ]


def test_the_run_order_determines_which_files_are_late(warned: list[logging.LogRecord]) -> None:
    numeric = files("2.sql", "10.sql")._replace(numeric=True)
    warn_of(numeric, rows("2.sql"))
    assert events(warned) == []
    warn_of(numeric, rows("10.sql"))
    assert events(warned) == [("migration.late", "2.sql")]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2_b.sql", "002_b.sql"),
        ("20240101_b.sql", "20240201120000_b.sql"),
        ("V2__b.sql", "V3.1__b.sql"),
        ("1.sql", "001.sql"),
        ("2024_b/migration.sql", "2025_b/migration.sql"),
    ],
)
def test_a_file_with_another_version_is_renamed_and_not_pending(
    warned: list[logging.LogRecord], old: str, new: str
) -> None:
    drift = find_drift(files(**{new: "same"}), {old: "same"})
    assert (drift.pending, drift.renamed, drift.copies) == ([], {new: old}, {})
    warn(drift.findings, STRICT_KINDS)
    assert events(warned) == [("migration.renamed", new)]
    recorded = find_drift(files(**{new: "same"}), {old: "same", new: "same"})
    assert recorded.findings == []


@pytest.mark.parametrize(
    ("new", "recorded"),
    [
        ({"003_c.sql": "same"}, {"2_b.sql": "same"}),
        ({"002_b.sql": "same", "003_b.sql": "same"}, {"2_b.sql": "same"}),
        ({"002_b.sql": "same"}, {"1_b.sql": "same", "2_b.sql": "same"}),
    ],
    ids=["another name", "two files", "two rows"],
)
def test_the_content_of_a_missing_file_under_another_name_is_an_error(
    new: dict[str, str], recorded: dict[str, str | None]
) -> None:
    drift = find_drift(files(**new), recorded)
    refuse_copies(drift)
    assert drift.renamed == {}
    assert [migration.name for migration in drift.pending] == list(new)
    for migration in drift.pending:
        assert "has the same content as" in str(migration.problem)


@pytest.mark.parametrize(
    ("new", "recorded"),
    [
        ({"1_a.sql": "same", "2_a.sql": "same"}, {"1_a.sql": "same"}),
        ({"2_a.sql": "other"}, {"1_a.sql": "same"}),
        ({"2_a.sql": None}, {"1_a.sql": None}),
    ],
    ids=["the file is not missing", "another content", "no checksum"],
)
def test_a_file_that_is_neither_renamed_nor_a_copy_is_pending(
    new: dict[str, str | None], recorded: dict[str, str | None]
) -> None:
    drift = find_drift(files(**new), recorded)
    assert (drift.renamed, drift.copies) == ({}, {})
    assert [migration.name for migration in drift.pending] == ["2_a.sql"]


def test_an_empty_file_is_not_a_copy_of_another_empty_file() -> None:
    drift = find_drift(MigrationFiles((Migration("b.sql", "\n", checksum="empty"),)), {"a.sql": "empty"})
    assert (drift.renamed, drift.copies) == ({}, {})


def test_repeatable_files_run_last_and_again_when_they_change(warned: list[logging.LogRecord]) -> None:
    view = Migration("0_view.sql", "-- migrate:repeatable\nSELECT 1", "new")
    other = Migration("2.sql", "SELECT 1", "x")
    both = MigrationFiles((view, other))
    assert find_drift(both, {}).pending == [other, view]
    assert find_drift(both, {"2.sql": "x", "0_view.sql": "old"}).pending == [view]
    assert find_drift(both, {"2.sql": "x", "0_view.sql": None}).pending == [view]
    assert find_drift(both, {"2.sql": "x", "0_view.sql": "new"}).pending == []
    warn_of(both, {"2.sql": "x", "0_view.sql": "old"})
    warn_of(both, {"0_view.sql": "new"})
    assert events(warned) == []


def test_ignored_files_are_present_but_only_unread_ones_are_findings(warned: list[logging.LogRecord]) -> None:
    ignored = (IgnoredFile("1.down.sql", ROLLBACK), IgnoredFile("x.pgsql", NOT_READ))
    found = files("1.up.sql")._replace(ignored=ignored)
    warn_of(found, rows("1.up.sql", "1.down.sql"))
    assert events(warned) == [("migration.ignored", "x.pgsql")]


def test_only_strict_kinds_are_errors(warned: list[logging.LogRecord]) -> None:
    result = MigrationResult()
    drift = find_drift(files("2.sql", **{"1.sql": "new"}), rows("3.sql", "9.sql", **{"1.sql": "old"}))
    assert not refuse(drift.findings, (), result)
    assert not refuse(drift.findings, ("renamed", "ignored"), result)
    assert refuse(drift.findings, ("missing", "late"), result)
    assert sorted(error.name for error in result.errors) == ["2.sql", "3.sql", "9.sql"]
    assert {record.levelname for record in warned} == {"ERROR"}
