"""Find a statement's command tag, such as `ALTER TABLE`, for the log: other words in the file may be secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_VERBS = frozenset(
    """
    ANALYZE CALL CHECKPOINT CLOSE CLUSTER COMMENT COPY DEALLOCATE DECLARE DELETE DISCARD DO EXECUTE EXPLAIN FETCH GRANT
    INSERT LISTEN LOAD LOCK MERGE MOVE NOTIFY PREPARE REINDEX RELEASE RESET REVOKE SAVEPOINT SELECT SET SHOW TABLE
    TRUNCATE UNLISTEN UPDATE VACUUM VALUES WITH
    """.split()  # noqa: SIM905
)
_VERBS_WITH_OBJECT = frozenset(("ALTER", "CREATE", "DROP", "IMPORT", "REASSIGN", "REFRESH", "SECURITY"))
_MODIFIERS = frozenset(
    """
    CONSTRAINT DEFAULT GLOBAL LOCAL OR PROCEDURAL RECURSIVE REPLACE TEMP TEMPORARY TRUSTED UNIQUE UNLOGGED
    """.split()  # noqa: SIM905
)
_OBJECTS = frozenset(
    """
    AGGREGATE CAST COLLATION CONVERSION DATABASE DOMAIN EXTENSION FUNCTION GROUP INDEX LABEL LANGUAGE OPERATOR OWNED
    POLICY PROCEDURE PUBLICATION ROLE ROUTINE RULE SCHEMA SEQUENCE SERVER STATISTICS SUBSCRIPTION SYSTEM TABLE
    TABLESPACE TRANSFORM TRIGGER TYPE USER VIEW
    """.split()  # noqa: SIM905
) | {
    "ACCESS METHOD", "DEFAULT PRIVILEGES", "EVENT TRIGGER", "FOREIGN DATA", "FOREIGN SCHEMA", "FOREIGN TABLE",
    "LARGE OBJECT", "MATERIALIZED VIEW", "OPERATOR CLASS", "OPERATOR FAMILY", "TEXT SEARCH", "USER MAPPING",
}  # fmt: skip
# Other words used in ALTER actions, options of maintenance commands, and transaction control.
_OTHER_WORDS = """
    ... ABORT ADD ALWAYS ANALYSE AS ATTACH BEGIN CHECK COLUMN COMMIT COMPRESSION CONCURRENTLY DEPENDS DETACH DISABLE
    ENABLE END EXCLUDE EXPRESSION FORCE FULL GENERATED IDENTITY INHERIT KEY LEVEL LOGGED NO NOT NULL OF ON OPTIONS OWNER
    PARTITION PRIMARY RENAME REPLICA RESTART ROLLBACK ROW START STORAGE TO VALIDATE VALUE WITHOUT
"""
_WORDS = frozenset(" ".join((*_VERBS, *_VERBS_WITH_OBJECT, *_MODIFIERS, *_OBJECTS, _OTHER_WORDS)).split())


def command_of(words: Sequence[str]) -> str | None:
    """Return the command tag for a statement's first words (in upper case), or None if they are not a command."""
    verb = words[0] if words else ""
    if verb in _VERBS:
        return verb
    if verb not in _VERBS_WITH_OBJECT:
        return None
    kind, end = object_kind(words, 1)
    if kind == "INDEX" and "CONCURRENTLY" in words[end : end + 1]:
        kind = "INDEX CONCURRENTLY"
    return f"{verb} {kind}".rstrip()


def object_kind(words: Sequence[str], start: int = 0) -> tuple[str, int]:
    """Return the object kind in `words` at `start` and the index after it, or "" and `start` if there is none.

    Modifiers before the kind are skipped: `UNIQUE INDEX` yields `INDEX`.
    """
    for first in range(start, len(words)):
        for end in (first + 2, first + 1):
            if (kind := " ".join(words[first:end])) in _OBJECTS:
                return kind, min(end, len(words))
        if words[first] not in _MODIFIERS:
            break
    return "", start


def only_sql_words(text: str) -> str:
    """Return the part of `text` before the first word that is not an SQL keyword, or `OTHER` if nothing is left."""
    words = text.split()
    known = next((number for number, word in enumerate(words) if word not in _WORDS), len(words))
    return " ".join(words[:known]).removesuffix(" ...") or "OTHER"
