"""A pseudo-terminal that captures the output of a program, and a screen that renders it."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import threading
import time
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PIECE = re.compile(r"\x1b\[([0-9;]*)m|\x1b\[2K|\x1b\[1A|\x1b\[\?25[hl]|\r|\n|[^\x00-\x1f\x7f]")


class PseudoTerminal:
    """A terminal for one program; a thread reads the output, so that the program never blocks while writing."""

    def __init__(self, columns: int, rows: int = 50) -> None:
        self.columns = columns
        self.process: subprocess.Popen[bytes] | None = None
        self._control, self._end = os.openpty()
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._output = b""
        self._hung_up = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.hang_up()

    def start(self, command: Sequence[str], environment: Mapping[str, str], **kwargs: Any) -> subprocess.Popen[bytes]:
        """Start a program that writes to this terminal.

        This is not the program's controlling terminal, so the program receives no SIGHUP and no Ctrl-C.
        """
        end = self._end
        self.process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=end, stderr=end, **kwargs
        )
        os.close(end)
        self._reader.start()
        return self.process

    @property
    def output(self) -> str:
        """The output so far, with the line breaks that the program wrote."""
        return self._output.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, text: str, timeout: float = 30) -> str:
        """Wait until the output contains `text`, and return the output."""
        deadline = time.monotonic() + timeout
        while text not in (output := self.output):
            if time.monotonic() > deadline or not self._reader.is_alive():
                raise AssertionError(f"no {text!r} in {self.output!r}")
            time.sleep(0.01)
        return output

    def finish(self, timeout: float = 60) -> int:
        """Wait until the program has exited and its output has been read; return its exit status."""
        if not self.process:
            raise ValueError("no program was started")
        status = self.process.wait(timeout)
        self._reader.join(10)
        return status

    def hang_up(self) -> None:
        """Close the terminal: further writes by the program fail with EIO."""
        self._hung_up.set()
        self._reader.join(10)

    def _read(self) -> None:
        with suppress(OSError):  # EIO: the program has exited
            while not self._hung_up.is_set():
                if select.select([self._control], [], [], 0.05)[0]:
                    if not (data := os.read(self._control, 65536)):
                        break
                    self._output += data
        os.close(self._control)


@dataclass(frozen=True, slots=True)
class Cell:
    """A character and its styles, as SGR codes."""

    sign: str
    styles: tuple[str, ...] = ()


class Screen:
    """The contents of a screen of unlimited height after `text` was written to it.

    The screen supports colours, line breaks, "erase line" and "cursor up". Other control sequences raise ValueError.
    """

    def __init__(self, text: str, columns: int) -> None:
        self.lines: list[list[Cell]] = [[]]
        self._columns = columns
        self._row = self._at = 0
        self._styles: tuple[str, ...] = ()
        position = 0
        while position < len(text):
            piece = _PIECE.match(text, position)
            if not piece:
                raise ValueError(f"unsupported control sequence: {text[position : position + 20]!r}")
            self._take(piece[0], piece[1])
            position = piece.end()

    @property
    def text(self) -> list[str]:
        """The lines without styles."""
        return ["".join(cell.sign for cell in line).rstrip() for line in self.lines]

    def _take(self, piece: str, codes: str | None) -> None:
        line = self.lines[self._row]
        if codes is not None:
            self._styles = () if codes in {"", "0"} else (*self._styles, *codes.split(";"))
        elif piece == "\r":
            self._at = 0
        elif piece == "\n":
            self._next_line()
        elif piece == "\x1b[2K":
            line.clear()
        elif piece == "\x1b[1A":
            self._row -= 1
        elif not piece.startswith("\x1b"):
            wide = unicodedata.east_asian_width(piece) in {"W", "F"}
            if self._at + 1 + wide > self._columns:
                line = self._next_line()
            line[self._at : self._at + 1 + wide] = [Cell(piece, self._styles), *[Cell("")] * wide]
            self._at += 1 + wide

    def _next_line(self) -> list[Cell]:
        self._row, self._at = self._row + 1, 0
        self.lines += [[]] if self._row == len(self.lines) else []
        return self.lines[self._row]
