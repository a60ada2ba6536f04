"""A table name, with or without a schema, as written in SQL."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

_MAX_BYTES = 63  # NAMEDATALEN - 1; the server truncates longer names
_PART = r'(?:"(?:[^"\0]|"")+"|[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)'
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_NAME = re.compile(rf"(?:({_PART})\.)?({_PART})")


class TableName(NamedTuple):
    """A table's name and its schema; without a schema, the table is looked up on the search path."""

    name: str = "_migrations"
    schema: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `name` or `schema.name`; unquoted names are folded to lower case, as in SQL.

        Raise ValueError if the text is not such a name, or if a part is longer than 63 bytes.
        """
        match = _NAME.fullmatch(text.strip())
        if not match:
            raise ValueError("not a table name")
        schema, name = (part and _unquote(part) for part in match.groups())
        if any(len(part.encode()) > _MAX_BYTES for part in (schema, name) if part):
            raise ValueError("a name is too long")
        return cls(name, schema)

    @property
    def sql(self) -> str:
        """The name as SQL, quoted unless it is the default."""
        return self.name if self == DEFAULT_TABLE else self.quoted

    @property
    def setting(self) -> str:
        """The value of MIGRATE_TABLE, with quotes where SQL needs them."""
        parts = (part for part in (self.schema, self.name) if part)
        return ".".join(part if _PLAIN.fullmatch(part) else TableName(part).quoted for part in parts)

    @property
    def quoted(self) -> str:
        """The name as SQL, always quoted."""
        return ".".join(f'"{part.replace(chr(34), chr(34) * 2)}"' for part in (self.schema, self.name) if part)

    def __str__(self) -> str:
        """Return the name for messages."""
        return f"{self.schema}.{self.name}" if self.schema else self.name


DEFAULT_TABLE = TableName()


def _unquote(part: str) -> str:
    if part.startswith('"'):
        return part[1:-1].replace('""', '"')
    return "".join(char.lower() if char.isascii() else char for char in part)
