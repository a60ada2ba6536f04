"""A file in blocks is the file: its checksum, its text, its first bad byte, its lines."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predeploy.migrations import large_file as blocks
from predeploy.migrations.large_file import Unreadable, examine, read_line, read_text

if TYPE_CHECKING:
    from pathlib import Path

BOM = b"\xef\xbb\xbf"
parts = st.sampled_from([b"a", b"\r", b"\n", b"\r\n", "é".encode(), "🐘".encode(), BOM, b"\xff"])
contents = st.lists(parts).map(b"".join)
texts = st.text(alphabet="a\r\né🐘\ufeff\u2028", max_size=40)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 3)  # where a BOM still fits in
    return tmp_path / "001.sql"


in_one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@given(content=contents, size=st.integers(1, 5))
def test_checksum_and_first_bad_byte_do_not_depend_on_the_blocks(content: bytes, size: int) -> None:
    checksum, bad_line = examine(content[at : at + size] for at in range(0, len(content), size))
    assert checksum == hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()
    expected = None
    try:
        content.decode()
    except UnicodeDecodeError as error:
        expected = content.count(b"\n", 0, error.start) + 1
    assert bad_line == expected


@in_one_file
@given(text=texts)
def test_the_text_is_that_of_the_file_without_its_byte_order_mark(file: Path, text: str) -> None:
    file.write_bytes(BOM + text.encode())
    checksum = hashlib.sha256(text.encode().replace(b"\r\n", b"\n")).hexdigest()
    assert "".join(read_text(str(file), checksum)) == text
    with pytest.raises(Unreadable, match="has changed since it was read"):
        list(read_text(str(file), hashlib.sha256(b"other").hexdigest()))


@in_one_file
@given(text=texts.filter(lambda text: not text.startswith("\ufeff")), number=st.integers(1, 5))
def test_a_line_is_one_of_an_editor(file: Path, text: str, number: int) -> None:
    file.write_bytes(text.encode())
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert read_line(str(file), number) == (lines[number - 1] if number <= len(lines) else "")


@pytest.mark.parametrize("content", [b"\xff", b"ab\xf0\x9f"], ids=["bad", "cut off"])
def test_a_file_that_is_not_utf_8_any_more_has_changed(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(Unreadable, match="has changed"):
        list(read_text(str(file), hashlib.sha256(content).hexdigest()))


def test_a_file_that_is_gone_or_no_file_any_more_is_said_to_be(file: Path) -> None:
    with pytest.raises(Unreadable, match="the file cannot be read: No such file or directory"):
        list(read_text(str(file), ""))
    assert read_line(str(file), 1) == ""
    file.mkdir()
    with pytest.raises(Unreadable, match="the file cannot be read: it is no regular file"):
        list(read_text(str(file), ""))
