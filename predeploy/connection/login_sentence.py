"""Show the message with which a server or a pooler rejected a login, without anything from the connection string."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from predeploy.redaction.scrubber import MASK
from predeploy.redaction.server_message import redact_message

if TYPE_CHECKING:
    from predeploy.connection.dsn import Dsn

# libpq's verbose format: `FATAL:  XX000: the message`, then lines such as `DETAIL:  ...`.
_MESSAGE = re.compile(
    r"failed: [^:\n]{1,40}:  ([0-9A-Z]{5}): (.*?)(?=\n[^\n:]{1,20}:  |\n\S[^\n]* failed: |\Z)", re.DOTALL
)
_MAX_CHARS = 300
_FREE_TEXT = "XX000"  # a code with which everything in quotes is masked
_SHOWN = {"host", "hostaddr", "port"}
_FIELDS = ("schema_name", "table_name", "column_name", "datatype_name", "constraint_name", "source_function")


def server_sentence(text: str, dsn: Dsn) -> str | None:
    """Return the message and its SQLSTATE from libpq's text about a failed login, or None if it has none.

    Everything in quotes is masked, and so is every value of the connection string except the host and the port.
    """
    found = _MESSAGE.search(text)
    if not found:
        return None
    diag: Any = SimpleNamespace(sqlstate=_FREE_TEXT, message_primary=found[2].strip(), **dict.fromkeys(_FIELDS))
    shown = " ".join((redact_message(diag) or "").split())
    values = {value for key, value in dsn.used.items() if key not in _SHOWN and value}
    for value in sorted(values | dsn.secrets, key=len, reverse=True):
        shown = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", MASK, shown, flags=re.IGNORECASE)
    return f"{shown[:_MAX_CHARS]} (SQLSTATE {found[1]})" if shown else None
