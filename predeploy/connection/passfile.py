"""Determine whether libpq would ignore the password file, and why.

If libpq ignores a file, it writes a warning to stderr at each login. So libpq must never see the path of such a file.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NOWHERE = "/dev/null/no-passfile"  # cannot exist; libpq silently ignores a missing file
DEFAULT = "~/.pgpass"


def find_passfile(named: Mapping[str, str], defaults: Mapping[str, str]) -> str:
    """Return the path of libpq's password file: from the connection string, PGPASSFILE, a service or $HOME."""
    return named.get("passfile") or defaults.get("passfile") or os.path.expanduser(DEFAULT)


def causes_warning(path: str) -> bool:
    """Return whether libpq, by its own rules, would write a warning to stderr instead of using the file."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) or bool(mode & (stat.S_IRWXG | stat.S_IRWXO))


def why_ignored(path: str) -> str | None:
    """Return the problem and its remedy, or None if libpq can use the file."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            return f"it is {kind}: mount a file there, or use DATABASE_URL_FILE"
        if causes_warning(path):
            return (
                f"its mode is {stat.S_IMODE(mode):04o}, and libpq requires 0600 or stricter: use DATABASE_URL_FILE, "
                f"which accepts any mode, or set the mode to 0400 and the owner to user {os.geteuid()}"
            )
        with open(path, "rb"):
            return None
    except PermissionError:
        return f"user {os.geteuid()} cannot read it: change its owner, or use DATABASE_URL_FILE"
    except (OSError, ValueError):
        return "it does not exist: fix the path, or mount the file"


def describe_passfile(path: str, named: Mapping[str, str], used: Mapping[str, str]) -> str | None:
    """Return why the file supplied no password, or None if no file is configured and the default file is missing."""
    default = path == os.path.expanduser(DEFAULT)
    if not path or (default and not os.path.lexists(path)):
        return None
    other = "the file in PGPASSFILE or in the service's passfile" if used.get("service") else "PGPASSFILE"
    name = "passfile" if named.get("passfile") else DEFAULT if default else other
    if problem := why_ignored(path):
        return f"The server requires a password, but {name} was ignored: {problem}"
    return (
        f"The server requires a password, but no line in {name} matches the host, port, database and user: "
        "add such a line, or use DATABASE_URL_FILE"
    )
