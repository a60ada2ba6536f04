"""A cursor over a statement's tokens, and the kinds of objects that are relevant to locks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from predeploy.sql.command_tag import object_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from predeploy.plan.lock_modes import QualifiedName, Scope

RELATION_KINDS = {"TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "INDEX", "SEQUENCE"}
# Kinds of objects that belong to a table, and whether changing such an object also locks the table's partitions.
SCOPE_OF_TABLE_OBJECTS: dict[str, Scope] = {"TRIGGER": "partitions", "RULE": "only", "POLICY": "only"}
_MAX_IDENTIFIER_BYTES = 63


class TokenCursor:
    """A position in a list of tokens. Words are compared in upper case; past the end, every token is ""."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.words = [token.upper() for token in tokens]
        self.pos = 0

    @property
    def word(self) -> str:
        """The next token in upper case, or "" at the end."""
        return self.words[self.pos] if self.pos < len(self.words) else ""

    def at(self, *words: str) -> bool:
        """Return whether these words come next."""
        return tuple(self.words[self.pos : self.pos + len(words)]) == words

    def accept(self, *words: str) -> bool:
        """Move past these words if they come next, and return whether it moved."""
        found = self.at(*words)
        self.pos += len(words) * found
        return found

    def accept_any(self, *words: str) -> bool:
        """Move past any run of these words, and return whether there were any."""
        start = self.pos
        while self.word and self.word in words:
            self.pos += 1
        return self.pos > start

    def skip_past(self, *words: str) -> bool:
        """Move past the first of these words outside parentheses, or move to the end and return False."""
        depth = 0
        while word := self.word:
            self.pos += 1
            depth += (word == "(") - (word == ")")
            if word in words and not depth:
                return True
        return False

    def skip_parentheses(self) -> None:
        """Move past a pair of parentheses and its contents, if one opens here."""
        depth = 0
        while self.word and (depth or self.word == "("):
            depth += (self.word == "(") - (self.word == ")")
            self.pos += 1

    def identifier(self) -> str:
        """Move past an identifier and return it as spelled in the catalog, or "" if there is none."""
        if self.pos >= len(self.tokens) or not is_identifier(token := self.tokens[self.pos]):
            return ""
        self.pos += 1
        return fold_identifier(token)

    def qualified_name(self) -> QualifiedName:
        """Move past an object name and return it, or () if there is none."""
        return tuple(self._identifiers()[-2:])

    def table_of_column(self) -> QualifiedName:
        """Move past a column name qualified by its table, and return the table name."""
        return tuple(self._identifiers()[:-1][-2:])

    def _identifiers(self) -> list[str]:
        parts: list[str] = []
        while part := self.identifier():
            parts.append(part)
            if not self.accept("."):
                break
        return parts

    def relations(self) -> Iterator[tuple[QualifiedName, Scope]]:
        """Move past a list of relations and yield them; each may have ONLY before it, and * or parentheses after it."""
        while True:
            self.accept("TABLE")
            only = self.accept("ONLY")
            if name := self.qualified_name():
                yield name, "only" if only else "children"
            self.accept("*")
            self.skip_parentheses()
            if not self.accept(","):
                return

    def object_kind(self) -> str:
        """Move past an object kind and its modifiers and return the kind, or "" if there is none."""
        kind, self.pos = object_kind(self.words, self.pos)
        return kind

    def split_at_commas(self) -> Iterator[TokenCursor]:
        """Split the remaining tokens at commas outside brackets, and yield a cursor for each part."""
        depth, start = 0, self.pos
        for number in range(self.pos, len(self.words)):
            word = self.words[number]
            depth += (word in {"(", "["}) - (word in {")", "]"})
            if word == "," and not depth:
                yield TokenCursor(self.tokens[start:number])
                start = number + 1
        yield TokenCursor(self.tokens[start:])

    def rest(self, start: int | None = None) -> TokenCursor:
        """Return a cursor over the remaining tokens, or over those from `start` on."""
        return TokenCursor(self.tokens[self.pos if start is None else start :])


def is_identifier(token: str) -> bool:
    """Return whether a token can be a name: a word (including keywords) or anything in double quotes."""
    return token[0] == '"' or token[0] == "_" or token[0].isalpha() or token[0] > "\x7f"


def fold_identifier(token: str) -> str:
    """Return a name as spelled in the catalog: in lower case unless quoted, and truncated to 63 bytes."""
    if token[0] == '"':
        name = token[1:-1].replace('""', '"')
    else:  # the server folds ASCII only
        name = token.lower() if token.isascii() else "".join(c.lower() if c.isascii() else c for c in token)
    return name.encode()[:_MAX_IDENTIFIER_BYTES].decode(errors="ignore")
