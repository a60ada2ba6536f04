"""What kind of statement it is, in Postgres's own words: `ALTER TABLE`. Never a word that is not one of SQL's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ALONE = frozenset(
    """
    ANALYZE CALL CHECKPOINT CLOSE CLUSTER COMMENT COPY DEALLOCATE DECLARE DELETE DISCARD DO EXECUTE EXPLAIN FETCH GRANT
    INSERT LISTEN LOAD LOCK MERGE MOVE NOTIFY PREPARE REINDEX RELEASE RESET REVOKE SAVEPOINT SELECT SET SHOW TABLE
    TRUNCATE UNLISTEN UPDATE VACUUM VALUES WITH
    """.split()  # noqa: SIM905
)
_WITH_AN_OBJECT = frozenset(("ALTER", "CREATE", "DROP", "IMPORT", "REASSIGN", "REFRESH", "SECURITY"))
_MODIFIERS = frozenset(
    "CONSTRAINT GLOBAL LOCAL OR PROCEDURAL RECURSIVE REPLACE TEMP TEMPORARY TRUSTED UNIQUE UNLOGGED".split()  # noqa: SIM905
)
_OBJECTS = frozenset(
    """
    AGGREGATE CAST COLLATION CONVERSION DATABASE DOMAIN EXTENSION FUNCTION GROUP INDEX LABEL LANGUAGE OPERATOR OWNED
    POLICY PROCEDURE PUBLICATION ROLE ROUTINE RULE SCHEMA SEQUENCE SERVER STATISTICS SUBSCRIPTION SYSTEM TABLE
    TABLESPACE TRANSFORM TRIGGER TYPE USER VIEW
    """.split()  # noqa: SIM905
) | {
    "ACCESS METHOD", "DEFAULT PRIVILEGES", "EVENT TRIGGER", "FOREIGN DATA", "FOREIGN SCHEMA", "FOREIGN TABLE",
    "INDEX CONCURRENTLY", "LARGE OBJECT", "MATERIALIZED VIEW", "OPERATOR CLASS", "OPERATOR FAMILY", "TEXT SEARCH",
    "USER MAPPING",
}  # fmt: skip


def command_of(words: Iterable[str]) -> str | None:
    """Return the command that a statement's leading words, in upper case, make; None where they make none."""
    verb, *rest = (*words, "")
    if verb in _ALONE:
        return verb
    if verb not in _WITH_AN_OBJECT:
        return None
    rest = [word for word in rest if word not in _MODIFIERS]
    kind = next((kind for count in (2, 1) if (kind := " ".join(rest[:count])) in _OBJECTS), "")
    return f"{verb} {kind}".rstrip()
