from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from predeploy.apply.drift import has_changed, warn_of_drift, warn_of_order
from predeploy.migrations.migration import Migration, MigrationFiles

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def warned() -> Iterator[list[logging.LogRecord]]:
    """The records logged during the test."""
    keeper = Keeper()
    logging.getLogger("predeploy").addHandler(keeper)
    yield keeper.records
    logging.getLogger("predeploy").removeHandler(keeper)


def files(*names: str, **checksums: str | None) -> MigrationFiles:
    every = [Migration(name, checksum=f"sum of {name}") for name in names]
    every += [Migration(name, checksum=checksum) for name, checksum in checksums.items()]
    return MigrationFiles(tuple(every))


def rows(*names: str, **checksums: str | None) -> dict[str, str | None]:
    return {name: f"sum of {name}" for name in names} | checksums


def logged(records: Iterable[logging.LogRecord]) -> list[tuple[Any, ...]]:
    assert {record.levelname for record in records} <= {"WARNING"}
    return [(vars(record)["event"], vars(record).get("migration"), record.getMessage()) for record in records]


def events(records: Iterable[logging.LogRecord]) -> list[tuple[str, str]]:
    return [(event, name) for event, name, _ in logged(records)]


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
def test_a_file_has_changed_if_both_checksums_are_known_and_differ(
    on_disk: str | None, applied: str | None, changed: bool
) -> None:
    assert has_changed(Migration("001.sql", checksum=on_disk), applied) is changed


def test_unchanged_files_cause_no_warning(warned: list[logging.LogRecord]) -> None:
    warn_of_drift(files("1.sql", "2.sql"), rows("1.sql", "2.sql"))
    warn_of_drift(files("1.sql", "2.sql"), rows("1.sql"))
    warn_of_drift(files("1.sql"), {})
    warn_of_drift(files(), {})
    warn_of_drift(files(a=None, b="x"), rows(a="y", b=None))
    assert logged(warned) == []


def test_changed_and_missing_files_are_named(warned: list[logging.LogRecord]) -> None:
    warn_of_drift(files("1.sql", **{"2.sql": "new"}), rows("1.sql", "0.sql", "3.sql", **{"2.sql": "old"}))
    assert logged(warned) == [
        (
            "migration.changed",
            "2.sql",
            "Checksum mismatch: 2.sql changed after it was applied; put the change into a new migration",
        ),
        ("migration.missing", "0.sql", "0.sql is recorded as applied but missing from the directory"),
        ("migration.missing", "3.sql", "3.sql is recorded as applied but missing from the directory"),
    ]


def test_a_percent_sign_in_a_name_is_not_a_format(warned: list[logging.LogRecord]) -> None:
    warn_of_drift(files(), rows("100%s.sql"))
    assert logged(warned)[0][2].startswith("100%s.sql is recorded as applied")


@pytest.mark.parametrize(("missing", "lines"), [(20, 20), (21, 21), (500, 21)])
def test_at_most_twenty_warnings_are_logged(warned: list[logging.LogRecord], missing: int, lines: int) -> None:
    warn_of_drift(files(), rows(*(f"{number:03}.sql" for number in range(missing))))
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
        (["1.sql", "10.sql", "a.sql", "b2.sql", "2.sql"], ("10.sql", "2.sql")),
        (["002.sql", "01.sql"], ("002.sql", "01.sql")),
        (["001.sql", "002.sql", "010.sql"], None),
        (["1.sql", "2.sql", "9.sql"], None),
        (["1.sql", "1_a.sql", "1_b.sql"], None),
        (["20240101120000.sql", "20240101120001.sql"], None),
        (["a10.sql", "a2.sql"], None),
        (["٣.sql", "٢.sql"], None),
        (["9" * 5000 + ".sql", "9" * 5001 + ".sql"], None),
        (["1.sql"], None),
        ([], None),
    ],
    ids=lambda value: None if value is None or len(str(value)) > 80 else str(value),
)
def test_numbers_that_contradict_the_order_of_names_cause_one_warning(
    warned: list[logging.LogRecord], names: list[str], pair: tuple[str, str] | None
) -> None:
    warn_of_order(files(*names), [], [])
    expected = [("migration.misordered", pair[0])] if pair else []
    assert events(warned) == expected
    if pair:
        text = "{} runs before {} because names are sorted by character; pad the numbers with zeros"
        assert logged(warned)[0][2] == text.format(*pair)


@pytest.mark.parametrize(
    ("pending", "applied", "late"),
    [
        (["2.sql"], ["1.sql", "3.sql"], ["2.sql"]),
        (["1.sql", "2.sql", "4.sql"], ["3.sql"], ["1.sql", "2.sql"]),
        (["2.sql"], ["3.sql", "1.sql"], ["2.sql"]),
        (["2.sql"], ["1.sql"], []),
        (["2.sql"], [], []),
        ([], ["1.sql"], []),
    ],
)
def test_a_pending_file_that_sorts_before_an_applied_one_causes_a_warning(
    warned: list[logging.LogRecord], pending: list[str], applied: list[str], late: list[str]
) -> None:
    warn_of_order(files(*sorted({*pending, *applied})), pending, applied)
    assert logged(warned) == [
        ("migration.late", name, f"Out of order: {name} sorts before an applied migration") for name in late
    ]
