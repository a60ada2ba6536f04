"""The file that the advice names if an object is missing after a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from predeploy.apply.advice import after_failure
from predeploy.migrations.large_file import _BLOCK_BYTES
from predeploy.migrations.migration import Migration

if TYPE_CHECKING:
    from pathlib import Path

MISSING = 'relation "made_by_it" does not exist'


@pytest.mark.parametrize("before", [0, 1, 8, 9, 10, 200_000], ids=str)
@pytest.mark.parametrize(("made", "named"), [("made_by_it", "big.sql"), ("made_by_its", "big.sql, other.sql")])
def test_a_file_that_is_not_kept_in_memory_is_searched_across_its_blocks(
    tmp_path: Path, before: int, made: str, named: str
) -> None:
    content = b"\n" * (_BLOCK_BYTES - before) + f"{made}\n".encode() + b"\n" * before
    path = tmp_path / "big.sql"
    path.write_bytes(content)
    big = Migration("big.sql", path=str(path))
    expected = f"Fix {named} first; this error is probably caused by its failure."
    assert after_failure("42P01", MISSING, [big, Migration("other.sql", "CREATE TABLE x ()")]) == expected
    path.unlink()
    expected = "Fix big.sql, other.sql first; this error is probably caused by its failure."
    assert after_failure("42P01", MISSING, [big, Migration("other.sql", "CREATE TABLE x ()")]) == expected
