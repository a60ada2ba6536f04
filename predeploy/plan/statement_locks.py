"""What a statement locks, told from its text: the field's knowledge as a table of kinds and modes.

The modes are those of the documentation's chapter on explicit locking and of the pages of the commands. What only the
server can tell (a DO block, a function, a trigger, CASCADE) is said to be unknown, never guessed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from predeploy.plan import utility_locks as maintenance
from predeploy.plan.alter_table_locks import read_alter_relation, read_references
from predeploy.plan.lock_modes import Also, Mode, Reading, Touch
from predeploy.plan.objects import ON_A_TABLE, RELATIONS, only_words_of_sql, read_object, read_table_of_column
from predeploy.plan.query_locks import VERBS, read_query, shape_of
from predeploy.plan.tokens import Phrase, folded, is_name
from predeploy.sql.splitter import split, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from predeploy.sql.splitter import Statement

_SUE, _SRE, _AEL = Mode.SHARE_UPDATE_EXCLUSIVE, Mode.SHARE_ROW_EXCLUSIVE, Mode.ACCESS_EXCLUSIVE
_DROPPED_WITH = (Also("references", _AEL), Also("partition_of", _AEL), Also("default", _AEL))
_UNKNOWN = {"DO", "CALL", "EXECUTE", "IMPORT", "REASSIGN"}
_UNKNOWN_OBJECTS = {"EXTENSION", "OWNED", "STATISTICS"}
_OF_ROWS = {("INSERT",), ("UPDATE",), ("DELETE",)}
_OTHER_PATH = {"SEARCH_PATH", "SCHEMA", "ROLE", "AUTHORIZATION"}


def read_statement(sql: str, statement: Statement) -> Reading:
    """Return what one statement of a file is and which relations it locks, as far as its text tells."""
    if statement.words[:1] in _OF_ROWS and (shape := shape_of(sql[statement.start : statement.end])):
        return _read_shape(shape)
    return _read(sql, statement)


@lru_cache(maxsize=256)
def _read_shape(shape: str) -> Reading:
    return _read(shape, split(shape)[0])


def _read(sql: str, statement: Statement) -> Reading:
    phrase, into = Phrase(list(tokens(sql, statement))), Reading()
    verb = phrase.word
    if verb in VERBS:
        into.kinds.append(_kind_of_query(phrase))
        read_query(phrase, into)
        into.new_path = "set_config" in into.calls and any("search_path" in token.lower() for token in phrase.tokens)
    elif reader := _READERS.get(verb):
        phrase.pos += 1
        reader(phrase, into)
    else:
        into.unknown = verb in _UNKNOWN
    if "&" in phrase.words and any(phrase.words[at : at + 2] == ["U", "&"] for at in range(len(phrase.words))):
        into.unknown = True  # U&"n\0061me" is not read as the name that it is
    into.kinds = [only_words_of_sql(kind) for kind in into.kinds or [verb]]
    return into


def _kind_of_query(phrase: Phrase) -> str:
    """Look behind WITH for the verb, and call all that only reads SELECT."""
    whole = Phrase(phrase.tokens)
    if whole.take("WITH"):
        whole.seek("INSERT", "UPDATE", "DELETE", "MERGE", "SELECT", "VALUES", "TABLE")
        verb = whole.words[whole.pos - 1]
    else:
        verb = whole.word
    return verb if verb in {"INSERT", "UPDATE", "DELETE", "MERGE"} else "SELECT"


def _create(phrase: Phrase, into: Reading) -> None:
    kind = read_object(phrase)
    into.kinds.append(f"CREATE {kind}")
    if reader := _CREATES.get(kind):
        reader(phrase, into)
    elif kind in {"FUNCTION", "PROCEDURE", "AGGREGATE"}:
        into.makes = "".join(phrase.name()[-1:])
    else:
        into.unknown = kind in _UNKNOWN_OBJECTS


def _create_table(phrase: Phrase, into: Reading) -> None:
    phrase.take("IF", "NOT", "EXISTS")
    phrase.name()
    read_references(phrase, into)
    for number, word in enumerate(phrase.words):
        if word == "LIKE" and phrase.words[number - 1] in {"(", ","}:
            into.touches.append(Touch(Phrase(phrase.tokens[number + 1 :]).name(), Mode.ACCESS_SHARE))
    if phrase.take("PARTITION", "OF"):
        into.touches.append(Touch(phrase.name(), _AEL, "", (Also("default", _AEL), Also("references", _SRE))))
    phrase.skip_parenthesis()
    if phrase.take("INHERITS", "("):
        into.touches.extend(Touch(name, _SUE) for name, _ in phrase.names())
    if _read_query_after_as(phrase, into):
        into.kinds[-1] += " AS"


def _create_index(phrase: Phrase, into: Reading) -> None:
    concurrently = phrase.take("CONCURRENTLY")
    into.kinds[-1] += " CONCURRENTLY" * concurrently
    phrase.seek("ON")
    only = phrase.take("ONLY")
    into.touches.append(Touch(phrase.name(), _SUE if concurrently else Mode.SHARE, "" if only else "partitions"))
    _read_calls(phrase, into)


def _create_view(phrase: Phrase, into: Reading) -> None:
    phrase.take("IF", "NOT", "EXISTS")
    name = phrase.name()
    if "REPLACE" in phrase.words[:3]:
        into.touches.append(Touch(name, _AEL))
    _read_query_after_as(phrase, into)
    if "MATERIALIZED" not in phrase.words[:3]:
        into.calls.clear()  # nothing is called yet


def _read_query_after_as(phrase: Phrase, into: Reading) -> bool:
    if not phrase.seek("AS"):
        return False
    into.unknown |= phrase.word == "EXECUTE"
    read_query(phrase.rest(), into)
    return True


def _create_trigger(phrase: Phrase, into: Reading) -> None:
    phrase.name()
    phrase.seek("ON")
    into.touches.append(Touch(phrase.name(), _SRE, "partitions"))
    if phrase.take("FROM"):
        into.touches.append(Touch(phrase.name(), Mode.ACCESS_SHARE))


def _create_rule(phrase: Phrase, into: Reading) -> None:
    phrase.seek("TO")
    into.touches.append(Touch(phrase.name(), _AEL))


def _create_policy(phrase: Phrase, into: Reading) -> None:
    phrase.name()
    phrase.seek("ON")
    into.touches.append(Touch(phrase.name(), _AEL))


def _create_statistics(phrase: Phrase, into: Reading) -> None:
    phrase.seek("FROM")
    into.touches.append(Touch(phrase.name(), _SUE))


def _create_sequence(phrase: Phrase, into: Reading) -> None:
    if phrase.seek("OWNED") and phrase.take("BY"):
        into.touches.append(Touch(read_table_of_column(phrase), Mode.ACCESS_SHARE))


def _create_schema(phrase: Phrase, into: Reading) -> None:
    into.unknown = "CREATE" in phrase.words[1:]


def _drop(phrase: Phrase, into: Reading) -> None:
    kind = read_object(phrase)
    concurrently = kind == "INDEX" and phrase.take("CONCURRENTLY")
    into.kinds.append(f"DROP {kind}{' CONCURRENTLY' * concurrently}")
    phrase.take("IF", "EXISTS")
    cascade = phrase.words[-1:] == ["CASCADE"]
    into.unknown = cascade or kind in _UNKNOWN_OBJECTS
    mode = _SUE if concurrently else _AEL
    also: tuple[Also, ...] = (Also("table", mode),) if kind == "INDEX" else ()
    if kind in {"TABLE", "FOREIGN TABLE"}:
        also = (*_DROPPED_WITH, *(Also("referenced_by", _AEL),) * cascade)
    if kind in ON_A_TABLE:
        phrase.name()
        phrase.seek("ON")
        into.touches.append(Touch(phrase.name(), mode, ON_A_TABLE[kind]))
    elif kind in RELATIONS:
        into.touches.extend(
            Touch(name, mode, "children" if cascade else "partitions", also) for name, _ in phrase.names()
        )


def _alter(phrase: Phrase, into: Reading) -> None:
    kind = read_object(phrase)
    if kind in RELATIONS:
        read_alter_relation(f"ALTER {kind}", phrase, into)
        _read_calls(phrase, into)
        return
    into.kinds.append(f"ALTER {kind}")
    if kind in ON_A_TABLE:
        phrase.name()
        phrase.seek("ON")
        into.touches.append(Touch(phrase.name(), _AEL, ON_A_TABLE[kind]))
    elif kind == "PUBLICATION":
        maintenance.read_publication(phrase, into)
    elif kind in {"TYPE", "DOMAIN"}:  # of columns, which are looked through or rewritten
        phrase.name()
        into.unknown = phrase.word in {"ADD", "ALTER", "VALIDATE", "SET"} and not phrase.ahead("ADD", "VALUE")
    else:
        into.unknown = kind in _UNKNOWN_OBJECTS


def _set(phrase: Phrase, into: Reading) -> None:
    phrase.take_any("LOCAL", "SESSION")
    into.new_path = phrase.word.strip('"') in _OTHER_PATH


def _read_calls(phrase: Phrase, into: Reading) -> None:
    """Add every name before a parenthesis: what is no function is not found among them."""
    for number, token in enumerate(phrase.tokens[:-1]):
        if phrase.words[number + 1] == "(" and is_name(token):
            into.calls.add(folded(token))


_CREATES: dict[str, Callable[[Phrase, Reading], None]] = {
    "FOREIGN TABLE": _create_table,
    "INDEX": _create_index,
    "MATERIALIZED VIEW": _create_view,
    "POLICY": _create_policy,
    "PUBLICATION": maintenance.read_publication,
    "RULE": _create_rule,
    "SCHEMA": _create_schema,
    "SEQUENCE": _create_sequence,
    "STATISTICS": _create_statistics,
    "TABLE": _create_table,
    "TRIGGER": _create_trigger,
    "VIEW": _create_view,
}
_READERS: dict[str, Callable[[Phrase, Reading], None]] = {
    "ALTER": _alter,
    "ANALYSE": maintenance.read_vacuum,
    "ANALYZE": maintenance.read_vacuum,
    "CLUSTER": maintenance.read_cluster,
    "COMMENT": maintenance.read_comment,
    "COPY": maintenance.read_copy,
    "CREATE": _create,
    "DECLARE": maintenance.read_declare,
    "DROP": _drop,
    "EXPLAIN": maintenance.read_explain,
    "GRANT": maintenance.read_grant,
    "LOCK": maintenance.read_lock,
    "REFRESH": maintenance.read_refresh,
    "REINDEX": maintenance.read_reindex,
    "REVOKE": maintenance.read_grant,
    "SET": _set,
    "TRUNCATE": maintenance.read_truncate,
    "VACUUM": maintenance.read_vacuum,
}
