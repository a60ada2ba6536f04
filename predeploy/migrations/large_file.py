"""A file that is too big to be kept, in blocks: what it is known by, and its text as often as it is wanted."""

from __future__ import annotations

import codecs
import os
import stat
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from typing import TextIO

BLOCK_BYTES = 1 << 17
_BOM = b"\xef\xbb\xbf"
_CHANGED = "the file has changed since it was read: nothing of it was applied"


class Unreadable(Exception):
    """A file cannot be read once more, or is not what it was: the text says so."""


class Checksum:
    """The SHA-256 of a file's bytes, taken block by block: without a byte order mark, and with every CRLF as LF."""

    def __init__(self) -> None:
        from hashlib import sha256  # big files are few

        self._hash = sha256()
        self._return = b""  # the CR that ends a block: what it counts as, the next one tells

    def add(self, block: bytes) -> None:
        """Take the next block."""
        if self._return or b"\r" in block:
            block = self._return + block
            self._return = block[-1:] if block.endswith(b"\r") else b""
            block = block[: len(block) - len(self._return)].replace(b"\r\n", b"\n")
        self._hash.update(block)

    def hexdigest(self) -> str:
        """Return it, at the end."""
        self._hash.update(self._return)
        return self._hash.hexdigest()


def open_at_once(path: str) -> int:
    """Open a file to be read, and return its descriptor; a FIFO must not hold the run. Raise OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is no regular file")
    return descriptor


def read_blocks(path: str) -> Generator[bytes, None, None]:
    """Yield a file's bytes without its byte order mark; raise OSError."""
    with open(open_at_once(path), "rb", buffering=0) as file:
        yield file.read(BLOCK_BYTES).removeprefix(_BOM)
        while block := file.read(BLOCK_BYTES):
            yield block


def examine(blocks: Iterable[bytes]) -> tuple[str, int | None]:
    """Return the checksum of a file, and the line, from 1, of the first byte that is not UTF-8."""
    checksum, decoder = Checksum(), codecs.getincrementaldecoder("utf-8")()
    lines, bad = 1, None
    for block in blocks:
        checksum.add(block)
        if bad is None:
            bad = _bad_line(decoder, block, lines)
            lines += block.count(b"\n")
    return checksum.hexdigest(), bad or _bad_line(decoder, b"", lines, final=True)


def _bad_line(decoder: codecs.IncrementalDecoder, block: bytes, lines: int, *, final: bool = False) -> int | None:
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError as error:  # its object begins with what the last block has left, which ends no line
        decoder.reset()
        return lines + error.object.count(b"\n", 0, error.start)
    return None


def read_text(path: str, expected: str | None) -> Generator[str, None, None]:
    """Yield the text of a file in blocks; raise `Unreadable`, at its end when its checksum is not the `expected`."""
    checksum, decoder = Checksum(), codecs.getincrementaldecoder("utf-8")()
    try:
        with closing(read_blocks(path)) as blocks:
            for block in blocks:
                checksum.add(block)
                yield decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise Unreadable(_CHANGED) from None
    except OSError as error:
        raise Unreadable(f"the file cannot be read: {error.strerror}") from None
    if checksum.hexdigest() != expected:
        raise Unreadable(_CHANGED)


def open_text(path: str) -> TextIO:
    """Open a file to read its lines, which end where editors end them; raise OSError."""
    return open(open_at_once(path), encoding="utf-8-sig", errors="replace", newline="")


def read_line(path: str, number: int) -> str:
    """Return a line, from 1, without what ends it; "" where it cannot be had."""
    try:
        with open_text(path) as lines:
            return next(islice(lines, number - 1, None), "").rstrip("\r\n")
    except OSError:
        return ""
