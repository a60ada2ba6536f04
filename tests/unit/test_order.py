"""MIGRATE_ORDER=numeric sorts names by the numbers in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from predeploy.errors import ConfigurationError
from predeploy.migrations.directory import read_migrations

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "in_order",
    [
        ["1.sql", "2_b.sql", "10_a.sql", "100.sql"],
        ["001_b.sql", "2_a.sql", "010_c.sql"],
        ["1_a.sql", "1_b.sql"],
        ["migration-1.sql", "migration-2.sql", "migration-10.sql"],
        ["V1__a.sql", "V1.1__b.sql", "V1_2__c.sql", "V1.10__d.sql", "V2__e.sql", "V10__f.sql"],
        ["V1__b.sql", "V1.0.1__a.sql"],
        ["20240101_a.sql", "20240101120000_b.sql", "20240102_c.sql", "20240102000001_d.sql"],
        ["1_a.sql", "2_b.sql", "seed.sql"],
        ["20170309122510_a.sql", "2017-09-23-182408_b.sql", "20171001000000_c.sql"],
        ["2017-09-23-182408_b.sql", "2017-09-24-182408_a.sql"],
        ["0000_a.sql", "0001_b.sql"],
        ["2_a/up.sql", "10_a/up.sql"],
    ],
    ids=lambda names: names[-1],
)
def test_numbers_are_compared_as_numbers(tmp_path: Path, in_order: list[str]) -> None:
    for name in in_order:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [migration.name for migration in read_migrations(tmp_path, numeric=True).migrations] == in_order


@pytest.mark.parametrize(
    "names", [("V1__a.sql", "V1__b.sql"), ("V1__a.sql", "V1.0__b.sql"), ("V1.1__a.sql", "V1_1__b.sql")]
)
def test_two_flyway_files_with_the_same_version_are_an_error(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in (*names, "V3__c.sql"):
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigurationError) as caught:
        read_migrations(tmp_path, numeric=True)
    assert all(name in str(caught.value) for name in names)
    assert len(read_migrations(tmp_path).migrations) == 3


def test_flyway_repeatable_files_repeat_in_numeric_order_only(tmp_path: Path) -> None:
    for name in ("R__view.sql", "V1__a.sql"):
        (tmp_path / name).write_text("SELECT 1;")
    repeats = [(m.name, m.repeatable) for m in read_migrations(tmp_path, numeric=True).migrations]
    assert sorted(repeats) == [("R__view.sql", True), ("V1__a.sql", False)]
    assert not any(migration.repeatable for migration in read_migrations(tmp_path).migrations)
