"""The settings that ALTER ROLE and ALTER DATABASE store for new sessions of this role in this database.

A session keeps the settings with which it began. If a migration stores other settings, the next migration needs a new
session to run as it would in the next deployment.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

# Operators are schema-qualified, because they also run in sessions with the role's own search path.
_STORED = """
    (SELECT pg_catalog.md5(pg_catalog.string_agg(s.setconfig::text, ',' ORDER BY s.setdatabase, s.setrole))
     FROM pg_catalog.pg_db_role_setting s
     WHERE s.setdatabase OPERATOR(pg_catalog.=) ANY (ARRAY[0, {database}]::pg_catalog.oid[])
     AND s.setrole OPERATOR(pg_catalog.=) ANY (ARRAY[0, {role}]::pg_catalog.oid[]))
"""
_DATABASE = "(SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"
_ROLE = "(SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = SESSION_USER)"
QUERY = f"SELECT {_DATABASE}, {_ROLE}, {_STORED.format(database=_DATABASE, role=_ROLE)}"
# Also matches a call of a function, which may contain such a statement; a function in a trigger or a default is missed.
_MAY_CHANGE = re.compile(
    r"\balter\b[^;]*?\b(?:database|role|user)\b|\b(?:do|call|select|execute)\b", re.IGNORECASE | re.DOTALL
)


def unchanged(result: PGresult) -> str:
    """Return a condition in SQL that is true while the stored settings are those in the result of `QUERY`."""
    database, role, stored = ((result.get_value(0, column) or b"").decode() for column in range(3))
    now = _STORED.format(database=database, role=role)
    return f"(coalesce({now}, '') OPERATOR(pg_catalog.=) '{stored}')"


def may_change(sql: str) -> bool:
    """Return whether a migration may store settings, judged by its text."""
    return bool(_MAY_CHANGE.search(sql))
