"""The tokens of one statement, read from left to right."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from predeploy.plan.lock_modes import Name

_NAME_BYTES = 63


class Phrase:
    """A place in a list of tokens. Words compare in upper case; beyond the end every token is ""."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.words = [token.upper() for token in tokens]
        self.pos = 0

    @property
    def word(self) -> str:
        """The next token in upper case."""
        return self.words[self.pos] if self.pos < len(self.words) else ""

    def ahead(self, *words: str) -> bool:
        """Tell whether these come next."""
        return tuple(self.words[self.pos : self.pos + len(words)]) == words

    def take(self, *words: str) -> bool:
        """Pass over these if they come next."""
        found = self.ahead(*words)
        self.pos += len(words) * found
        return found

    def take_any(self, *words: str) -> str:
        """Pass over all that come next of these, and return the last."""
        last = ""
        while self.word and self.word in words:
            last = self.word
            self.pos += 1
        return last

    def seek(self, *words: str) -> bool:
        """Go past the first of these outside parentheses; to the end, and False, where there is none."""
        depth = 0
        while self.pos < len(self.words):
            word = self.word
            self.pos += 1
            depth += (word == "(") - (word == ")")
            if word in words and not depth:
                return True
        return False

    def name(self) -> Name:
        """Pass over a name and return it; () where none stands."""
        parts: list[str] = []
        while part := self.part():
            parts.append(part)
            if not self.take("."):
                break
        return tuple(parts[-2:])

    def part(self) -> str:
        """Pass over one word or quoted name and return it as the catalog has it; "" where none stands."""
        if self.pos == len(self.tokens) or not is_name(token := self.tokens[self.pos]):
            return ""
        self.pos += 1
        return folded(token)

    def names(self) -> Iterator[tuple[Name, bool]]:
        """Pass over a list of names, each maybe with * or a parenthesis, and tell which have an ONLY before them."""
        while True:
            self.take("TABLE")
            only = self.take("ONLY")
            if name := self.name():
                yield name, only
            self.take("*")
            self.skip_parenthesis()
            if not self.take(","):
                return

    def skip_parenthesis(self) -> None:
        """Pass over what stands in parentheses, if that comes next."""
        depth = 0
        while self.word and (depth or self.word == "("):
            depth += (self.word == "(") - (self.word == ")")
            self.pos += 1

    def split(self) -> Iterator[Phrase]:
        """Yield what is left, cut at the commas outside parentheses."""
        depth, start = 0, self.pos
        for number in range(self.pos, len(self.words)):
            word = self.words[number]
            depth += (word in {"(", "["}) - (word in {")", "]"})
            if word == "," and not depth:
                yield Phrase(self.tokens[start:number])
                start = number + 1
        yield Phrase(self.tokens[start:])

    def rest(self) -> Phrase:
        """Return what is left."""
        return Phrase(self.tokens[self.pos :])


def is_name(token: str) -> bool:
    """Tell whether a token may be a name: a word, or quoted as one."""
    return token[0] == '"' or token[0] == "_" or token[0].isalpha() or token[0] > "\x7f"


def folded(token: str) -> str:
    """Return a name as the catalog has it: in small letters unless quoted, cut to 63 bytes."""
    name = token[1:-1].replace('""', '"') if token[0] == '"' else token.lower() if token.isascii() else _fold(token)
    return name.encode()[:_NAME_BYTES].decode(errors="ignore")


def _fold(token: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in token)
