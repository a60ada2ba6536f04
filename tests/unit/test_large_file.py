"""Reading a large file in blocks gives the same checksum, text, first bad byte and lines as reading it whole."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predeploy.migrations import large_file
from predeploy.migrations.large_file import Examined, SourceFileError, examine, read_lines, read_text

if TYPE_CHECKING:
    from pathlib import Path

BOM = b"\xef\xbb\xbf"
parts = st.sampled_from([b"a", b"\r", b"\n", b"\r\n", "é".encode(), "🐘".encode(), BOM, b"\xff"])
contents = st.lists(parts).map(b"".join)
texts = st.text(alphabet="a\r\né🐘\ufeff\u2028", max_size=40)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(large_file, "_BLOCK_BYTES", 3)  # room for a byte order mark
    return tmp_path / "001.sql"


in_one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@in_one_file
@given(content=contents, size=st.integers(5, 9))
def test_checksum_and_first_bad_line_do_not_depend_on_the_blocks(
    file: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, size: int
) -> None:
    monkeypatch.setattr(large_file, "_BLOCK_BYTES", size)
    content = b"x;" + content  # a statement in the first block
    file.write_bytes(BOM + content)
    bad_line = None
    try:
        content.decode()
    except UnicodeDecodeError as error:
        bad_line = content.count(b"\n", 0, error.start) + 1
    checksum = hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()
    assert examine(str(file)) == Examined(transactional=True, checksum=checksum, bad_line=bad_line)


@pytest.mark.parametrize(
    ("content", "transactional"),
    [
        ("SELECT 1;\n-- migrate:no-transaction\n", True),
        ("-- migrate:no-transaction\nSELECT 1;\n", False),
        ("-- a comment\nSELECT 1;\n", True),
        (f"-- {'x' * 50}", False),
        (f"/* {'x' * 50} */ SELECT 1;\n", False),
        (" " * 50, False),
    ],
    ids=["a statement", "a directive", "a comment", "a long comment", "a long block comment", "white space"],
)
def test_a_file_whose_first_block_is_inconclusive_may_be_a_no_transaction_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, content: str, transactional: bool
) -> None:
    monkeypatch.setattr(large_file, "_BLOCK_BYTES", 40)
    file.write_text(content)
    assert examine(str(file)).transactional is transactional


@in_one_file
@given(text=texts)
def test_the_text_is_the_file_without_its_byte_order_mark(file: Path, text: str) -> None:
    file.write_bytes(BOM + text.encode())
    checksum = hashlib.sha256(text.encode().replace(b"\r\n", b"\n")).hexdigest()
    assert "".join(read_text(str(file), checksum)) == text
    with pytest.raises(SourceFileError, match="has changed since it was read"):
        list(read_text(str(file), hashlib.sha256(b"other").hexdigest()))


@in_one_file
@given(text=texts)
def test_line_endings_match_editors(file: Path, text: str) -> None:
    file.write_bytes(BOM + text.encode())
    assert list(read_lines(str(file))) == re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)


@pytest.mark.parametrize("content", [b"\xff", b"ab\xf0\x9f"], ids=["bad", "cut off"])
def test_a_file_that_is_no_longer_utf_8_has_changed(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(SourceFileError, match="has changed"):
        list(read_text(str(file), hashlib.sha256(content).hexdigest()))


def test_a_file_that_is_missing_or_no_longer_regular_cannot_be_read(file: Path) -> None:
    with pytest.raises(SourceFileError, match="the file cannot be read: No such file or directory"):
        list(read_text(str(file), ""))
    assert list(read_lines(str(file))) == []
    file.mkdir()
    with pytest.raises(SourceFileError, match="the file cannot be read: Is a directory"):
        list(read_text(str(file), ""))
    assert list(read_lines(str(file))) == []
