"""The relations that a query reads and writes, wherever in it they stand."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from predeploy.plan.lock_modes import Also, Mode, Touch
from predeploy.plan.tokens import folded, is_name

if TYPE_CHECKING:
    from predeploy.plan.lock_modes import Reading
    from predeploy.plan.tokens import Phrase

VERBS = ("SELECT", "WITH", "VALUES", "INSERT", "UPDATE", "DELETE", "MERGE", "TABLE", "(")
_AFTER_FROM = {
    "WHERE", "GROUP", "HAVING", "WINDOW", "UNION", "INTERSECT", "EXCEPT", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR",
    "RETURNING", "SELECT", "SET", "VALUES", "WHEN",
}  # fmt: skip
_FUNCTIONS_WITH_FROM = {"EXTRACT", "SUBSTRING", "TRIM", "OVERLAY"}
_READS = (Also("views", Mode.ACCESS_SHARE),)
_WRITES = {
    "INSERT": (Also("references", Mode.ROW_SHARE),),
    "MERGE": (Also("references", Mode.ROW_SHARE),),
    "UPDATE": (),
    "DELETE": (Also("referenced_by", Mode.ROW_SHARE), Also("cascades_to", Mode.ROW_EXCLUSIVE)),
}
_RUNS_A_QUERY = {"QUERY_TO_XML", "CURSOR_TO_XML", "QUERY_TO_XML_AND_XMLSCHEMA", "TS_STAT", "TS_REWRITE", "LOWRITE"}

# A file may hold a million rows. Where nothing but plain strings could mislead a regular expression, what differs
# among them is left out: strings, numbers, and rows of nothing but these.
_MISLEADING = re.compile(r"[$\\\"]|--|/\*|search_path", re.IGNORECASE)
_VALUES = re.compile(r"\bvalues\s*(?=\()", re.IGNORECASE)
_PLAIN_ROW = re.compile(r"\((?:[^()']|'[^']*')*\)\s*,\s*")
_LITERAL = re.compile(r"'[^']*'|(?<!\w)\d+")


def shape_of(text: str) -> str | None:
    """Return a query, with less to read, that does the same to relations; None where it has to be read as it is."""
    if _MISLEADING.search(text):
        return None
    if values := _VALUES.search(text):
        end = values.end()
        while row := _PLAIN_ROW.match(text, end):
            end = row.end()
        text = text[: values.end()] + text[end:]
    return _LITERAL.sub("''", text)


def read_query(phrase: Phrase, into: Reading) -> None:
    """Add what the query that comes next, to the end of the statement, does to relations.

    ACCESS SHARE for what it reads, ROW SHARE where it locks rows, ROW EXCLUSIVE for what it writes.
    """
    _Query(phrase, into).read()


class _Query:
    def __init__(self, phrase: Phrase, into: Reading) -> None:
        self.phrase = phrase
        self.into = into
        self.own_names = _names_of_with(phrase)  # those of WITH are no relations
        self.in_from = [False]  # for each open parenthesis
        self.of_function = [False]  # whether it is one of those with a FROM of their own
        self.read_here: list[list[int]] = [[]]  # the touches of each query block

    def read(self) -> None:
        phrase = self.phrase
        first = phrase.pos
        while word := phrase.word:
            before = phrase.words[phrase.pos - 1] if phrase.pos > first else ""
            phrase.pos += 1
            if word == "(":
                self._open(before)
            elif word == ")" and len(self.in_from) > 1:
                for stack in (self.in_from, self.of_function, self.read_here):
                    stack.pop()
            else:
                self._read_word(word, before)

    def _open(self, before: str) -> None:
        # FROM (a JOIN b ON ...): what stands in it is read here, and at its JOINs.
        is_join = self.in_from[-1] and before in {"FROM", "JOIN", ",", "("} and self.phrase.word not in VERBS[:-1]
        self.in_from.append(is_join)
        self.of_function.append(before in _FUNCTIONS_WITH_FROM)
        self.read_here.append([])
        if before and is_name(before):
            self.into.calls.add(folded(self.phrase.tokens[self.phrase.pos - 2]))
            self.into.unknown |= before in _RUNS_A_QUERY
        if is_join:
            self._read_relation()

    def _read_word(self, word: str, before: str) -> None:
        phrase, may_begin = self.phrase, before in {"", "(", ")", "AS"}
        if word in _AFTER_FROM:
            self.in_from[-1] = False
        if word in {"INSERT", "MERGE"} and phrase.take("INTO"):
            self._read_target(word)
        elif (word == "UPDATE" and may_begin) or (word == "DELETE" and phrase.take("FROM")):
            self._read_target(word)
            self.in_from[-1] = word == "DELETE"
        elif word == "FROM" and before != "DISTINCT" and not self.of_function[-1]:
            self.in_from[-1] = True
            self._read_relation()
        elif (
            word in {"JOIN", "USING"}
            or (word == "," and self.in_from[-1])
            or (word == "TABLE" and (may_begin or before in {"UNION", "ALL", "EXCEPT", "INTERSECT"}))
        ):
            self._read_relation()
        elif word == "FOR" and phrase.word in {"UPDATE", "SHARE", "NO", "KEY"}:
            phrase.take_any("NO", "KEY", "UPDATE", "SHARE")
            for number in self.read_here[-1]:
                self.into.touches[number] = replace(self.into.touches[number], mode=Mode.ROW_SHARE)

    def _read_target(self, verb: str) -> None:
        only = self.phrase.take("ONLY")
        if name := self.phrase.name():
            reach = "" if only or verb == "INSERT" else "children"  # which partitions get rows, their values tell
            self.into.touches.append(Touch(name, Mode.ROW_EXCLUSIVE, reach, _WRITES[verb]))

    def _read_relation(self) -> None:
        phrase = self.phrase
        phrase.take("LATERAL")
        only = phrase.take("ONLY")
        if phrase.word in VERBS:
            return  # a subquery, which is read as it comes
        name = phrase.name()
        is_own = len(name) == 1 and name[0] in self.own_names
        if name and not is_own and phrase.word != "(":  # that would be a function
            self.read_here[-1].append(len(self.into.touches))
            self.into.touches.append(Touch(name, Mode.ACCESS_SHARE, "" if only else "children", _READS))


def _names_of_with(phrase: Phrase) -> set[str]:
    """Return every name in `name AS (` and `name (columns) AS (`, if there is a WITH at all."""
    if "WITH" not in phrase.words:
        return set()
    found = set()
    for number, word in enumerate(phrase.words):
        following = [w for w in phrase.words[number + 1 : number + 4] if w not in {"NOT", "MATERIALIZED"}]
        if word != "AS" or not number or following[:1] != ["("]:
            continue
        at = number - 1
        if phrase.words[at] == ")":
            while at and phrase.words[at] != "(":
                at -= 1
            at -= 1
        if at >= 0 and is_name(phrase.tokens[at]):
            found.add(folded(phrase.tokens[at]))
    return found
