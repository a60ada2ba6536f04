"""The kinds of objects that CREATE, ALTER, DROP and COMMENT name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from predeploy.lockmodes import Name
    from predeploy.phrase import Phrase

RELATIONS = {"TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "INDEX", "SEQUENCE"}
ON_A_TABLE = {"TRIGGER": "partitions", "RULE": "", "POLICY": ""}  # and how far those of a partitioned table reach
_MODIFIERS = (
    "OR", "REPLACE", "GLOBAL", "LOCAL", "TEMP", "TEMPORARY", "UNLOGGED", "RECURSIVE", "UNIQUE", "TRUSTED", "PROCEDURAL",
)  # fmt: skip
_TWO_WORDS = {
    ("MATERIALIZED", "VIEW"), ("FOREIGN", "TABLE"), ("FOREIGN", "DATA"), ("EVENT", "TRIGGER"), ("ACCESS", "METHOD"),
    ("OPERATOR", "CLASS"), ("OPERATOR", "FAMILY"), ("TEXT", "SEARCH"), ("USER", "MAPPING"), ("DEFAULT", "PRIVILEGES"),
    ("LARGE", "OBJECT"),
}  # fmt: skip


def read_object(phrase: Phrase) -> str:
    """Pass over what kind of object comes next, its modifiers too, and return that."""
    phrase.take_any(*_MODIFIERS)
    if phrase.ahead("CONSTRAINT", "TRIGGER"):
        phrase.pos += 1
    pair = (*phrase.words[phrase.pos : phrase.pos + 2], "", "")[:2]
    phrase.pos += 2 if pair in _TWO_WORDS else 1
    return " ".join(pair) if pair in _TWO_WORDS else pair[0]


def read_table_of_column(phrase: Phrase) -> Name:
    """Pass over the name of a column and return that of its table."""
    parts: list[str] = []
    while name := phrase.part():
        parts.append(name)
        if not phrase.take("."):
            break
    return tuple(parts[:-1][-2:])
