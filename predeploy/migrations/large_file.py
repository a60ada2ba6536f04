"""Read a file that is too large to keep in memory: examine it once, then read it again when it is sent."""

from __future__ import annotations

import codecs
import os
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

BOM = b"\xef\xbb\xbf"
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not block the run
_BLOCK_BYTES = 1 << 17
_CHANGED = "the file has changed since it was read; nothing was applied"


class SourceFileError(Exception):
    """A file cannot be read again, or it has changed."""


class Examined(NamedTuple):
    """The result of one pass over a large file; `bad_line` is the first line, from 1, with invalid UTF-8, or None."""

    transactional: bool
    checksum: str
    bad_line: int | None
    repeatable: bool = False


def open_regular_file(path: str) -> tuple[int, int]:
    """Return a file descriptor for reading and the size in bytes. Raise OSError unless the file is regular."""
    descriptor = os.open(path, _FLAGS)
    found = os.fstat(descriptor)
    if found.st_mode & 0o170000 != 0o100000:
        os.close(descriptor)
        is_directory = found.st_mode & 0o170000 == 0o040000
        raise OSError(0, "Is a directory" if is_directory else "Not a regular file")
    return descriptor, found.st_size


def examine(path: str) -> Examined:
    """Read a large file once. Raise OSError on failure. If it is not `transactional`, the other fields are empty."""
    from predeploy.migrations.directives import is_repeatable, read_leading

    checksum, decoder = _Checksum(), codecs.getincrementaldecoder("utf-8")()
    lines, bad_line, is_first = 1, None, True
    with closing(_read_blocks(path)) as blocks:
        for block in blocks:
            if is_first:
                head = block.decode("utf-8", "replace")
                transactional, end = read_leading(head)
                if not transactional or head.startswith("/*", end) or end >= len(head) - 1:
                    return Examined(transactional=False, checksum="", bad_line=None)  # the comments may continue
                is_first = False
            checksum.add(block)
            bad_line = bad_line or _bad_line(decoder, block, lines)
            lines += block.count(b"\n")
    bad_line = bad_line or _bad_line(decoder, b"", lines, final=True)
    return Examined(transactional, checksum.hexdigest(), bad_line, is_repeatable(head))


def read_text(path: str, expected: str | None) -> Generator[str, None, None]:
    """Yield the text in blocks. Raise `SourceFileError` if reading fails or the final checksum is not `expected`."""
    checksum, decoder = _Checksum(), codecs.getincrementaldecoder("utf-8")()
    try:
        with closing(_read_blocks(path)) as blocks:
            for block in blocks:
                checksum.add(block)
                yield decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise SourceFileError(_CHANGED) from None
    except OSError as error:
        raise SourceFileError(f"the file cannot be read: {error.strerror}") from None
    if checksum.hexdigest() != expected:
        raise SourceFileError(_CHANGED)


def read_lines(path: str) -> Iterator[str]:
    """Yield the lines as editors count them, or nothing if the file cannot be read."""
    try:
        descriptor, _ = open_regular_file(path)
    except OSError:
        return
    with open(descriptor, encoding="utf-8-sig", errors="replace", newline="") as lines:
        yield from lines


def _read_blocks(path: str) -> Generator[bytes, None, None]:
    """Yield the bytes in blocks, without a byte order mark. Raise OSError on failure."""
    descriptor, _ = open_regular_file(path)
    with open(descriptor, "rb", buffering=0) as file:
        yield file.read(_BLOCK_BYTES).removeprefix(BOM)
        while block := file.read(_BLOCK_BYTES):
            yield block


class _Checksum:
    """The SHA-256 of a file's bytes, computed block by block, with each CRLF converted to LF."""

    def __init__(self) -> None:
        from hashlib import sha256  # OpenSSL is worth loading for a large file

        self._hash = sha256()
        self._return = b""  # a CR at the end of a block; may be the first half of a CRLF

    def add(self, block: bytes) -> None:
        if self._return or b"\r" in block:
            block = self._return + block
            self._return = block[-1:] if block.endswith(b"\r") else b""
            block = block[: len(block) - len(self._return)].replace(b"\r\n", b"\n")
        self._hash.update(block)

    def hexdigest(self) -> str:
        self._hash.update(self._return)
        return self._hash.hexdigest()


def _bad_line(decoder: codecs.IncrementalDecoder, block: bytes, lines: int, *, final: bool = False) -> int | None:
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError as error:  # error.object may start with bytes from the last block, without line breaks
        decoder.reset()
        return lines + error.object.count(b"\n", 0, error.start)
    return None
