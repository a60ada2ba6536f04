from __future__ import annotations

import copy
import io
import json
import logging
import pickle
from typing import TYPE_CHECKING

import pytest
from pythonjsonlogger.json import JsonFormatter

from predeploy.log.setup import open_log
from predeploy.migrations.migration import Migration
from predeploy.migrations.source_line import SourceLine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("restored_logging")
SQL = "first\nsecond\r\nthird\rfourth\n\nsixth"


@pytest.mark.parametrize(
    ("line", "text"), [(1, "first"), (2, "second"), (3, "third"), (4, "fourth"), (5, ""), (6, "sixth")]
)
def test_a_line_is_found_with_any_line_ending(line: int, text: str) -> None:
    assert SourceLine(Migration("001.sql", SQL), line, 3).read() == (line, text, 3)


def test_a_line_of_a_file_that_is_not_in_memory_is_read_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "001.sql"
    path.write_bytes(SQL.encode())
    assert SourceLine(Migration("001.sql", path=str(path)), 2, 3).read() == (2, "second", 3)
    path.unlink()
    assert SourceLine(Migration("001.sql", path=str(path)), 2, 3).read() == (2, "", 3)


@pytest.mark.parametrize("sql", ["", "one", "one\n"])
def test_a_line_number_beyond_the_end_gives_the_last_line(sql: str) -> None:
    assert SourceLine(Migration("001.sql", sql), 99).read()[2] is None


@pytest.mark.parametrize(
    "written",
    [
        str,
        repr,
        lambda excerpt: f"{excerpt}",
        lambda excerpt: "%s %r" % (excerpt, excerpt),  # noqa: UP031  as logging does
        lambda excerpt: json.dumps(excerpt, default=str),
        lambda excerpt: json.dumps(excerpt, default=vars_of),
        lambda excerpt: pickle.dumps(excerpt).decode("latin-1"),
        lambda excerpt: str(copy.deepcopy(excerpt).read()),
        lambda excerpt: str([excerpt]),
    ],
    ids=["str", "repr", "format", "percent", "json", "json of vars", "pickle", "deepcopy", "in a list"],
)
def test_no_serialisation_of_an_excerpt_contains_the_files_text(written: Callable[[SourceLine], str]) -> None:
    assert "hunter2" not in written(SourceLine(Migration("001.sql", "PASSWORD 'hunter2'"), 1, 3))


def vars_of(value: object) -> object:
    """Return what an encoder that inspects attributes would write."""
    return getattr(value, "__dict__", repr(value))


def test_no_json_line_contains_an_excerpt_or_its_name() -> None:
    stream = io.StringIO()
    open_log(stream=stream, style="json")
    excerpt = SourceLine(Migration("001.sql", "PASSWORD 'hunter2'"), 1, 3)
    logging.getLogger("predeploy").error("Failed", extra={"event": "migration.failed", "excerpt": excerpt})
    assert set(json.loads(stream.getvalue())) == {"timestamp", "level", "message", "event"}


def test_an_applications_own_json_log_contains_no_text_from_the_file() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("predeploy")
    logger.handlers[:] = [handler]
    logger.error(
        "Failed",
        extra={
            "excerpt": SourceLine(Migration("001.sql", "PASSWORD 'hunter2'"), 1, 3),
            "more": [SourceLine(Migration("001.sql", "hunter2"), 1)],
        },
    )
    assert "Failed" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()
