"""What a stream for people can show: how wide it is, which signs and colours it has, and text that fits there."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping

_NARROWEST = 40  # what rows are laid out for at least
_USUAL = 80  # of a terminal that does not know its size
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


@dataclass(frozen=True, slots=True)
class Signs:
    """The marks in front of a row and what draws the rest."""

    ok: str = "✓"
    failed: str = "✗"
    warning: str = "!"
    info: str = "·"
    pending: str = "○"
    missing: str = "?"
    ellipsis: str = "…"
    bar: str = "│"
    rule: str = "─"
    frames: str = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


_ASCII = Signs("+", "x", "!", "-", "o", "?", "...", "|", "-", "|/-\\")


class Terminal:
    """Knows what may be written to `stream`.

    Colour and redrawing are for a terminal that is not a dumb one; NO_COLOR, set to anything, is for no colour
    (https://no-color.org). Signs that the stream's encoding lacks are replaced by ASCII.
    """

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self.is_tty = stream.isatty()
        self.redraws = self.is_tty and environ.get("TERM", "") not in {"", "dumb"}
        self.signs = Signs() if _holds_signs(stream) else _ASCII
        self._has_colour = self.redraws and not environ.get("NO_COLOR")
        self._stream = stream

    @property
    def width(self) -> int | None:
        """Columns, as of now and at least 40; None where nothing has to fit."""
        if not self.is_tty:
            return None
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        return max(columns, _NARROWEST) if columns else _USUAL

    @property
    def is_narrow(self) -> bool:
        """Whether lines that fit into `width` would be wrapped by the terminal."""
        try:
            return 0 < os.get_terminal_size(self._stream.fileno()).columns < _NARROWEST
        except (OSError, ValueError):
            return True

    def paint(self, text: str, *styles: str) -> str:
        """Return the text in these styles, where there are any."""
        codes = ";".join(_COLOURS[style] for style in styles if style)
        return f"\x1b[{codes}m{text}\x1b[0m" if codes and text and self._has_colour else text

    def fit(self, text: str, columns: int | None) -> str:
        """Cut the text to so many columns, the middle out, as both ends of a name tell something."""
        if columns is None or columns_of(text) <= columns:
            return text
        room = max(columns - len(self.signs.ellipsis), 0)
        tail = _take(text[::-1], room // 2)[::-1]
        return _take(text, room - columns_of(tail)) + self.signs.ellipsis[:columns] + tail

    def wrap(self, text: str, columns: int | None) -> list[str]:
        """Break the text at spaces, and where there are none anywhere, into lines of at most so many columns."""
        if columns is None or columns_of(text) <= columns:
            return [text]
        lines, line = [], ""
        for word in text.split(" "):
            longer = f"{line} {word}" if line else word
            if columns_of(longer) <= columns:
                line = longer
                continue
            if line:
                lines.append(line)
            line = word
            while columns_of(line) > columns:
                head = _take(line, columns) or line[0]
                lines.append(head)
                line = line[len(head) :]
        return [*lines, line] if line else lines


def _holds_signs(stream: TextIO) -> bool:
    try:
        "".join(getattr(Signs(), name) for name in Signs.__slots__).encode(stream.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def columns_of(text: str) -> int:
    """Return how many columns a terminal gives the text, which holds no control characters."""
    if text.isascii():
        return len(text)
    return sum(_columns_of_one(sign) for sign in text)


def plain(text: str) -> str:
    """Return the text with spaces for tabs, and with all that could move the cursor or turn the text spelt out."""
    return _CONTROLS.sub(lambda match: _spelt(match[0]), text.replace("\t", "    "))


def pad(text: str, columns: int) -> str:
    """Fill the text up with spaces."""
    return text + " " * (columns - columns_of(text))


def _columns_of_one(sign: str) -> int:
    if unicodedata.combining(sign) or unicodedata.category(sign) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(sign) in {"W", "F"} else 1


def _take(text: str, columns: int) -> str:
    """Return as much of the beginning as fits."""
    taken = 0
    for number, sign in enumerate(text):
        taken += _columns_of_one(sign)
        if taken > columns:
            return text[:number]
    return text


def _spelt(sign: str) -> str:
    code = ord(sign)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
