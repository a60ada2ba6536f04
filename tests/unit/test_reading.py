"""A file that is read ahead is the same file, and what is wrong with it waits until it is wanted."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from predeploy.apply.failure import Failure
from predeploy.migrations.chunks import PIECE_CHARS, Piece
from predeploy.migrations.directory import Migration
from predeploy.migrations.reading import Reading

if TYPE_CHECKING:
    from pathlib import Path

LINE = f"INSERT INTO t VALUES ('{'x' * 1000}');\n"
LINES = 3 * PIECE_CHARS // len(LINE)


def big(directory: Path, sql: str) -> Migration:
    path = directory / "001.sql"
    path.write_text(sql)
    return Migration("001.sql", checksum=hashlib.sha256(sql.encode()).hexdigest(), path=str(path))


def read_through(reading: Reading) -> list[Piece]:
    pieces = [next(reading)]
    while True:
        reading.read_ahead()
        if (piece := next(reading, None)) is None:
            return pieces
        pieces.append(piece)


def test_it_is_the_same_with_and_without_reading_ahead(tmp_path: Path) -> None:
    migration = big(tmp_path, f"{LINE * LINES}SELECT '{'x' * 3 * PIECE_CHARS}';{LINE * 10}")
    pieces = read_through(Reading(migration))
    assert pieces == list(Reading(migration))
    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces) == (tmp_path / "001.sql").read_text()


@pytest.mark.parametrize("wrong", ["COMMIT;", "SELECT $body$;", None], ids=["refused", "never closed", "changed"])
def test_what_is_wrong_is_raised_in_place_of_the_piece_it_stands_in(tmp_path: Path, wrong: str | None) -> None:
    migration = big(tmp_path, LINE * LINES + (wrong or ""))
    if wrong is None:
        migration = migration._replace(checksum="another")
    reading = Reading(migration)
    pieces = []
    with pytest.raises(Failure):
        for piece in reading:
            pieces.append(piece)
            reading.read_ahead()
    assert pieces == list(Reading(big(tmp_path, LINE * LINES)))[: len(pieces)]
    assert sum(len(piece.text) for piece in pieces) > PIECE_CHARS


def test_what_was_read_ahead_need_not_be_read_any_more(tmp_path: Path) -> None:
    reading = Reading(big(tmp_path, LINE * LINES))
    next(reading)
    reading.read_ahead()
    (tmp_path / "001.sql").write_text("")
    assert len(next(reading).text) > PIECE_CHARS / 2


def test_of_a_long_statement_only_the_beginning_is_read_ahead(tmp_path: Path) -> None:
    reading = Reading(big(tmp_path, f"{LINE * (PIECE_CHARS // len(LINE))}{LINE}SELECT '{'x' * 10 * PIECE_CHARS}';c;"))
    next(reading)
    reading.read_ahead()
    (tmp_path / "001.sql").write_text("")
    with pytest.raises(Failure):
        list(reading)
