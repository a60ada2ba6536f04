"""The kinds of objects that CREATE, ALTER, DROP and COMMENT name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from predeploy.plan.lock_modes import Name
    from predeploy.plan.tokens import Phrase

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


# Of a file nothing is told but words of SQL, as in a wrong place any other may be a secret.
_WORDS = frozenset(
    """
    ... ABORT ACCESS ADD AGGREGATE ALTER ALWAYS ANALYSE ANALYZE AS ATTACH BEGIN CALL CAST CHECK CHECKPOINT CLOSE CLUSTER
    COLLATION COLUMN COMMENT COMMIT COMPRESSION CONCURRENTLY CONSTRAINT CONVERSION COPY CREATE DATA DATABASE DEALLOCATE
    DECLARE DEFAULT DELETE DEPENDS DETACH DISABLE DISCARD DO DOMAIN DROP ENABLE END EVENT EXCLUDE EXECUTE EXPLAIN
    EXPRESSION EXTENSION FAMILY CLASS FETCH FORCE FOREIGN FULL FUNCTION GENERATED GRANT GROUP IDENTITY IMPORT INDEX
    INHERIT INSERT KEY LANGUAGE LARGE LEVEL LISTEN LOAD LOCK LOGGED MAPPING MATERIALIZED MERGE METHOD MOVE NO NOT NOTIFY
    NULL OBJECT OF ON OPERATOR OPTIONS OWNED OWNER PARTITION POLICY PREPARE PRIMARY PRIVILEGES PROCEDURE PUBLICATION
    REASSIGN REFRESH REINDEX RELEASE RENAME REPLICA RESET RESTART REVOKE ROLE ROLLBACK ROUTINE ROW RULE SAVEPOINT SCHEMA
    SEARCH SECURITY SELECT SEQUENCE SERVER SET SHOW START STATISTICS STORAGE SUBSCRIPTION SYSTEM TABLE TABLESPACE TEXT
    TO TRANSFORM TRIGGER TRUNCATE TYPE UNIQUE UNLISTEN UNLOGGED UPDATE USER VACUUM VALIDATE VALUE VALUES VIEW WITHOUT
    """.split()  # noqa: SIM905
)


def only_words_of_sql(kind: str) -> str:
    """Return what a kind of statement begins with, up to the first word that may be anything."""
    words = kind.split()
    known = next((number for number, word in enumerate(words) if word not in _WORDS), len(words))
    return " ".join(words[:known]).removesuffix(" ...") or "OTHER"


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
