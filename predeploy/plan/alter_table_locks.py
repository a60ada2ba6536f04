"""What each form of ALTER TABLE, and of its relatives for other relations, locks.

The modes are those of the documentation of ALTER TABLE and of AlterTableGetLockLevel in tablecmds.c: ACCESS EXCLUSIVE
unless something else is listed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from predeploy.plan.lock_modes import Also, Mode, Touch
from predeploy.plan.objects import read_table_of_column

if TYPE_CHECKING:
    from predeploy.plan.lock_modes import Reading
    from predeploy.plan.tokens import Phrase

_SUE, _SRE, _AEL = Mode.SHARE_UPDATE_EXCLUSIVE, Mode.SHARE_ROW_EXCLUSIVE, Mode.ACCESS_EXCLUSIVE
# What an action begins with, its mode, and how far it reaches; the first that fits counts.
_ACTIONS: list[tuple[tuple[str, ...], Mode, str]] = [
    (("RENAME", "TO"), _AEL, ""),
    (("RENAME", "CONSTRAINT"), _AEL, "children"),
    (("RENAME",), _AEL, "children"),
    (("SET", "SCHEMA"), _AEL, ""),
    (("SET", "("), _SUE, ""),
    (("RESET", "("), _SUE, ""),
    (("SET", "WITHOUT", "CLUSTER"), _SUE, ""),
    (("SET",), _AEL, ""),
    (("CLUSTER", "ON"), _SUE, ""),
    (("OWNER", "TO"), _AEL, ""),
    (("ENABLE", "ROW"), _AEL, ""),
    (("DISABLE", "ROW"), _AEL, ""),
    (("ENABLE", "RULE"), _AEL, ""),
    (("ENABLE", "ALWAYS", "RULE"), _AEL, ""),
    (("ENABLE", "REPLICA", "RULE"), _AEL, ""),
    (("DISABLE", "RULE"), _AEL, ""),
    (("ENABLE", "ALWAYS", "TRIGGER"), _SRE, "partitions"),
    (("ENABLE", "REPLICA", "TRIGGER"), _SRE, "partitions"),
    (("ENABLE", "TRIGGER"), _SRE, "partitions"),
    (("DISABLE", "TRIGGER"), _SRE, "partitions"),
    (("FORCE",), _AEL, ""),
    (("NO", "FORCE"), _AEL, ""),
    (("REPLICA", "IDENTITY"), _AEL, ""),
    (("DROP", "COLUMN"), _AEL, "children"),
    (("DROP", "CONSTRAINT"), _AEL, "children"),
]
_COLUMN_ACTIONS: list[tuple[tuple[str, ...], Mode]] = [
    (("SET", "DATA", "TYPE"), _AEL),
    (("SET", "STATISTICS"), _SUE),
    (("SET", "("), _SUE),
    (("RESET", "("), _SUE),
    (("SET", "NOT", "NULL"), _AEL),
    (("DROP", "NOT", "NULL"), _AEL),
    (("SET", "DEFAULT"), _AEL),
    (("DROP", "DEFAULT"), _AEL),
    (("TYPE",), _AEL),
]
_CONSTRAINTS = ("CHECK", "UNIQUE", "PRIMARY", "EXCLUDE", "FOREIGN", "NOT")
_TRIGGER_OF_FK = Also("references", _AEL)  # dropping a foreign key drops its triggers on the other table


def read_alter_relation(kind: str, phrase: Phrase, into: Reading) -> None:
    """Read what follows ALTER TABLE, VIEW, INDEX, ...; `kind` is that much."""
    phrase.take("IF", "EXISTS")
    only = phrase.take("ONLY")
    if phrase.take("ALL", "IN", "TABLESPACE"):
        into.kinds.append(kind)
        into.unknown = True
        return
    name = phrase.name()
    phrase.take("*")
    if kind == "ALTER INDEX":
        _read_index_action(phrase, into, name)
        return
    if kind == "ALTER SEQUENCE":
        into.kinds.append(kind)
        strong = phrase.word in {"OWNER", "RENAME"} or phrase.ahead("SET", "SCHEMA")
        into.touches.append(Touch(name, _AEL if strong else _SRE))
        if phrase.seek("OWNED") and phrase.take("BY"):
            into.touches.append(Touch(read_table_of_column(phrase), Mode.ACCESS_SHARE))
        return
    for action in phrase.split():
        label, mode, reach, also = _read_action(action, into)
        into.kinds.append(f"{kind} ... {label}" if label else kind)
        if kind in {"ALTER VIEW", "ALTER FOREIGN TABLE"}:
            mode = max(mode, _AEL) if kind == "ALTER VIEW" else mode
        into.touches.append(Touch(name, mode, "" if only else reach, also))


def _read_index_action(phrase: Phrase, into: Reading, name: tuple[str, ...]) -> None:
    weak = phrase.word in {"RENAME", "ALTER", "RESET"} or phrase.ahead("SET", "(")
    into.kinds.append(f"ALTER INDEX ... {' '.join(phrase.words[phrase.pos : phrase.pos + 2])}".removesuffix(" ("))
    into.touches.append(Touch(name, _SUE if weak else _AEL))
    if phrase.take("ATTACH", "PARTITION"):
        into.unknown = True


def _read_action(action: Phrase, into: Reading) -> tuple[str, Mode, str, tuple[Also, ...]]:
    """Return its label, its mode, its reach, and what goes with it; other tables that it names are added."""
    if action.take("ADD"):
        return _read_add(action, into)
    if action.take("ALTER"):
        return _read_alter_column(action)
    if action.take("VALIDATE", "CONSTRAINT"):
        also = tuple(Also("references", Mode.ROW_SHARE, part) for part in action.name())
        return "VALIDATE CONSTRAINT", _SUE, "children", also
    if action.take_any("ATTACH", "DETACH") and action.take("PARTITION"):
        return _read_partition(action, into)
    if action.word in {"INHERIT", "NO"} and action.words[1:2] != ["FORCE"]:
        no = "NO " if action.take("NO") else ""
        action.take("INHERIT")
        into.touches.append(Touch(action.name(), Mode.ACCESS_SHARE if no else _SUE))
        return f"{no}INHERIT", _AEL, "", ()
    if action.word == "DROP" and action.words[1:2] not in (["CONSTRAINT"], ["COLUMN"]):
        action.take("DROP")
        return "DROP COLUMN", _AEL, "children", _dropped(action, into)
    for words, mode, reach in _ACTIONS:
        if action.take(*words):
            label = "RENAME COLUMN" if words == ("RENAME",) else " ".join(words).removesuffix(" (")
            label = " ".join(["SET", action.word]) if words == ("SET",) else label
            return label, mode, reach, _dropped(action, into) if words[0] == "DROP" else ()
    into.unknown = True
    return action.word, _AEL, "children", ()


def _dropped(action: Phrase, into: Reading) -> tuple[Also, ...]:
    """Return what the foreign keys of a column or constraint that is dropped touch, on either side."""
    action.take("IF", "EXISTS")
    name = "".join(action.name()[-1:])
    into.unknown |= action.words[-1:] == ["CASCADE"]
    also = (Also("references", _AEL, name),)
    return (*also, Also("referenced_by", _AEL)) if action.words[-1:] == ["CASCADE"] else also


def _read_add(action: Phrase, into: Reading) -> tuple[str, Mode, str, tuple[Also, ...]]:
    constraint = action.take("CONSTRAINT")
    if constraint:
        action.name()
    if constraint or action.word in _CONSTRAINTS:
        word = action.word
        if word == "FOREIGN":
            read_references(action, into)
            return "ADD FOREIGN KEY", _SRE, "partitions", ()
        label = {"PRIMARY": "PRIMARY KEY", "NOT": "NOT NULL", "EXCLUDE": "EXCLUDE"}.get(word, word)
        # Of an index's partitions servers before 18 lock only with SHARE: the stronger is told.
        return f"ADD {label}", _AEL, "children" if word in {"CHECK", "NOT"} else "partitions", ()
    action.take("COLUMN")
    read_references(action, into)
    return "ADD COLUMN", _AEL, "children", ()


def read_references(phrase: Phrase, into: Reading) -> None:
    """Add the tables that foreign keys in what is left refer to, at whatever depth."""
    for number, word in enumerate(phrase.words):
        if word == "REFERENCES" and number >= phrase.pos:
            other = type(phrase)(phrase.tokens[number + 1 :])
            other.take("ONLY")
            into.touches.append(Touch(other.name(), _SRE, "partitions"))


def _read_alter_column(action: Phrase) -> tuple[str, Mode, str, tuple[Also, ...]]:
    if action.take("CONSTRAINT"):
        return "ALTER CONSTRAINT", _AEL, "partitions", ()
    action.take("COLUMN")
    column = "".join(action.name()[-1:])
    for words, mode in _COLUMN_ACTIONS:
        if action.take(*words):
            label = "TYPE" if "TYPE" in words else " ".join(words).removesuffix(" (")
            return (
                f"ALTER COLUMN ... {label}",
                mode,
                "children",
                (Also("references", _AEL, column), Also("referenced_by", _AEL, column)) if label == "TYPE" else (),
            )
    return f"ALTER COLUMN ... {' '.join(action.words[action.pos : action.pos + 2])}", _AEL, "children", ()


def _read_partition(action: Phrase, into: Reading) -> tuple[str, Mode, str, tuple[Also, ...]]:
    attach = action.words[0] == "ATTACH"
    other = action.name()
    concurrently = action.word in {"CONCURRENTLY", "FINALIZE"}
    into.touches.append(Touch(other, _SUE if concurrently else _AEL, "children", (Also("default", _AEL),)))
    if attach:
        also: tuple[Also, ...] = (Also("default", _AEL), Also("references", _SRE))
        return "ATTACH PARTITION", _SUE, "", also
    label = "DETACH PARTITION CONCURRENTLY" if concurrently else "DETACH PARTITION"
    return label, _SUE if concurrently else _AEL, "", () if concurrently else (Also("default", _AEL),)
