"""What the commands that look after tables lock, and those that name tables otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from predeploy.plan.lock_modes import Also, Mode, Touch
from predeploy.plan.objects import ON_A_TABLE, RELATIONS, read_object, read_table_of_column
from predeploy.plan.query_locks import read_query

if TYPE_CHECKING:
    from predeploy.plan.lock_modes import Reading
    from predeploy.plan.tokens import Phrase

_SUE, _AEL = Mode.SHARE_UPDATE_EXCLUSIVE, Mode.ACCESS_EXCLUSIVE


def read_truncate(phrase: Phrase, into: Reading) -> None:
    """Read TRUNCATE: with CASCADE all tables that refer to it go along."""
    phrase.take("TABLE")
    also = (Also("truncated_with", _AEL),) if "CASCADE" in phrase.words else ()
    into.touches.extend(Touch(name, _AEL, "" if only else "children", also) for name, only in phrase.names())


def read_lock(phrase: Phrase, into: Reading) -> None:
    """Read LOCK TABLE."""
    into.kinds.append("LOCK TABLE")
    text = " ".join(phrase.words)
    mode = next((mode for mode in reversed(Mode) if f"IN {mode.words} MODE" in text), _AEL)
    phrase.take("TABLE")
    into.touches.extend(Touch(name, mode, "" if only else "children") for name, only in phrase.names())


def read_vacuum(phrase: Phrase, into: Reading) -> None:
    """Read VACUUM or ANALYZE; without a name they are about the whole database."""
    end = phrase.words.index(")") if phrase.word == "(" and ")" in phrase.words else phrase.pos
    full = "FULL" in phrase.words[: end + 1]
    verb = phrase.words[0]
    into.kinds.append("VACUUM FULL" if full else verb)
    phrase.skip_parenthesis()
    phrase.take_any("FULL", "FREEZE", "VERBOSE", "ANALYZE")
    touches = [Touch(name, _AEL if full else _SUE, "partitions") for name, _ in phrase.names()]
    into.touches.extend(touches)
    into.unknown = not touches  # of the whole database


def read_reindex(phrase: Phrase, into: Reading) -> None:
    """Read REINDEX: writers wait for the table, and readers for the index."""
    phrase.skip_parenthesis()
    kind = read_object(phrase)
    concurrently = "CONCURRENTLY" in phrase.words
    into.kinds.append(f"REINDEX {kind}{' CONCURRENTLY' if concurrently else ''}")
    phrase.take("CONCURRENTLY")
    on_table, on_index = (_SUE, _SUE) if concurrently else (Mode.SHARE, _AEL)
    if kind == "TABLE":
        into.touches.append(Touch(phrase.name(), on_table, "partitions", (Also("indexes", on_index),)))
    elif kind == "INDEX":
        into.touches.append(Touch(phrase.name(), on_index, "partitions", (Also("table", on_table),)))
    into.unknown = kind not in {"TABLE", "INDEX"}


def read_cluster(phrase: Phrase, into: Reading) -> None:
    """Read CLUSTER."""
    phrase.skip_parenthesis()
    phrase.take("VERBOSE")
    name = phrase.name()
    into.touches.append(Touch(name, _AEL, "partitions"))
    into.unknown = not name


def read_refresh(phrase: Phrase, into: Reading) -> None:
    """Read REFRESH MATERIALIZED VIEW."""
    into.kinds.append("REFRESH MATERIALIZED VIEW")
    phrase.take("MATERIALIZED", "VIEW")
    concurrently = phrase.take("CONCURRENTLY")
    into.touches.append(
        Touch(phrase.name(), Mode.EXCLUSIVE if concurrently else _AEL, "", (Also("reads", Mode.ACCESS_SHARE),))
    )


def read_comment(phrase: Phrase, into: Reading) -> None:
    """Read COMMENT ON."""
    phrase.seek("ON")
    kind = read_object(phrase)
    into.kinds.append("COMMENT")
    if kind in RELATIONS:
        into.touches.append(Touch(phrase.name(), _SUE))
    elif kind == "COLUMN":
        into.touches.append(Touch(read_table_of_column(phrase), _SUE))
    elif kind in {*ON_A_TABLE, "CONSTRAINT"}:
        phrase.seek("ON")
        into.touches.append(Touch(phrase.name(), Mode.ACCESS_SHARE))


def read_copy(phrase: Phrase, into: Reading) -> None:
    """Read COPY from or to a file of the server."""
    if phrase.word == "(":
        read_query(phrase.rest(), into)
        return
    phrase.take("BINARY")
    name = phrase.name()
    phrase.skip_parenthesis()
    if phrase.word == "FROM":
        into.touches.append(Touch(name, Mode.ROW_EXCLUSIVE, "partitions", (Also("references", Mode.ROW_SHARE),)))
    else:
        into.touches.append(Touch(name, Mode.ACCESS_SHARE))


def read_explain(phrase: Phrase, into: Reading) -> None:
    """Read EXPLAIN, which locks what the statement would, and with ANALYZE does what it does."""
    phrase.skip_parenthesis()
    phrase.take_any("ANALYZE", "VERBOSE")
    into.kinds.append("EXPLAIN")
    if phrase.word in {"CREATE", "REFRESH", "EXECUTE", "DECLARE"}:
        into.unknown = True
    else:
        read_query(phrase.rest(), into)


def read_declare(phrase: Phrase, into: Reading) -> None:
    """Read DECLARE ... CURSOR."""
    if phrase.seek("FOR"):
        read_query(phrase.rest(), into)


def read_grant(phrase: Phrase, into: Reading) -> None:
    """Read GRANT or REVOKE, which since Postgres 18 looks at a table under its weakest lock."""
    if phrase.seek("ON"):
        into.touches.extend(Touch(name, Mode.ACCESS_SHARE) for name, _ in phrase.names())


def read_publication(phrase: Phrase, into: Reading) -> None:
    """Read what CREATE and ALTER PUBLICATION say of tables."""
    if phrase.seek("TABLE"):
        into.touches.extend(Touch(name, _SUE, "" if only else "children") for name, only in phrase.names())
