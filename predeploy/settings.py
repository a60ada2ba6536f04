"""Parse the environment into `Settings`. Other modules read none of its variables except DATABASE_URL."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from predeploy.errors import ConfigurationError, DatabaseUrlMissing
from predeploy.sql.table_name import TableName

if TYPE_CHECKING:
    from collections.abc import Mapping

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "": 1, "m": 60, "h": 3600}
_MAX_S = 2_147_483  # Postgres stores timeouts as 31-bit milliseconds
_TRUTH = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}
_DIRECT_URLS = (  # variables in which platforms provide a connection string that bypasses their pooler
    "DATABASE_UNPOOLED_URL",
    "DATABASE_URL_UNPOOLED",
    "DIRECT_DATABASE_URL",
    "DIRECT_URL",
)
STRICT_KINDS = ("changed", "missing", "late", "misordered", "renamed", "ignored")  # see apply/drift.py
_SET = "MIGRATE_SET_"  # prefix of the variables that migrations can read
_SET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")  # Postgres truncates longer names
_KNOWN = {
    "MIGRATE_WAIT_TIMEOUT",
    "MIGRATE_LOCK_WAIT_TIMEOUT",
    "MIGRATE_LOCK_TIMEOUT",
    "MIGRATE_STATEMENT_TIMEOUT",
    "MIGRATE_RETRIES",
    "MIGRATE_WATCH_AFTER",
    "MIGRATE_ON_ERROR",
    "MIGRATE_FOREIGN_HISTORY",
    "MIGRATE_REQUIRE_FILES",
    "MIGRATE_ORDER",
    "MIGRATE_STRICT",
    "MIGRATE_TABLE",
    "MIGRATE_LOG_LEVEL",
    "MIGRATE_LOG_FORMAT",
    "MIGRATE_TERMINATION_LOG",
}


class Settings(NamedTuple):  # creating this class takes 0.1 ms; a frozen dataclass would take 0.8 ms
    """The settings of a run. Durations are in seconds; 0 disables the timeouts inside a migration.

    `direct_url` is the name of a variable that may hold a connection string that bypasses the pooler, or "" if none is
    set. `migration_settings` are names and values that the migrations can read.
    """

    database_url: str
    migrations_dir: str
    wait_timeout: float
    lock_wait_timeout: float
    lock_timeout: float
    statement_timeout: float
    retries: int
    watch_after: float
    on_error: str
    foreign_history: str
    require_files: bool
    numeric_order: bool
    strict: frozenset[str]
    table: TableName
    log_level: str
    log_format: str
    direct_url: str
    unknown: tuple[str, ...]
    migration_settings: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        """Omit the connection string and the values that migrations can read."""
        hidden = {"database_url", "migration_settings"}
        shown = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items() if name not in hidden)
        return f"Settings({shown})"


def load_settings(environ: Mapping[str, str], *, default_dir: str) -> Settings:
    """Parse the settings. Raise `ConfigurationError` with the variable's name, never its value.

    An empty variable is treated as unset, because Compose and Kubernetes templates produce empty values.
    """
    return Settings(
        database_url=_database_url(environ),
        migrations_dir=environ.get("MIGRATIONS_DIR") or default_dir,
        wait_timeout=_duration(environ, "MIGRATE_WAIT_TIMEOUT", 60),
        lock_wait_timeout=_duration(environ, "MIGRATE_LOCK_WAIT_TIMEOUT", 300),
        lock_timeout=_duration(environ, "MIGRATE_LOCK_TIMEOUT", 0),
        statement_timeout=_duration(environ, "MIGRATE_STATEMENT_TIMEOUT", 0),
        retries=_count(environ, "MIGRATE_RETRIES", 5),
        watch_after=_duration(environ, "MIGRATE_WATCH_AFTER", 5),
        on_error=_choice(environ, "MIGRATE_ON_ERROR", "continue", "stop"),
        foreign_history=_choice(environ, "MIGRATE_FOREIGN_HISTORY", "stop", "ignore"),
        require_files=_truth(environ, "MIGRATE_REQUIRE_FILES"),
        numeric_order=_choice(environ, "MIGRATE_ORDER", "name", "numeric") == "numeric",
        strict=_strict(environ),
        table=_table(environ),
        log_level=_choice(environ, "MIGRATE_LOG_LEVEL", "info", "debug", "warning", "error"),
        log_format=_choice(environ, "MIGRATE_LOG_FORMAT", "auto", "json", "text"),
        direct_url=next((name for name in _DIRECT_URLS if environ.get(name)), ""),
        unknown=tuple(sorted(filter(_is_unknown, environ))),
        migration_settings=tuple(sorted(_migration_settings(environ).items())),
    )


def termination_log(environ: Mapping[str, str]) -> str | None:
    """Return the path for the termination message: the configured one, Kubernetes' default if it exists, or None."""
    if named := environ.get("MIGRATE_TERMINATION_LOG"):
        return named
    default = "/dev/termination-log"
    return default if os.path.exists(default) else None


def _is_unknown(name: str) -> bool:
    return name.startswith("MIGRATE_") and name not in _KNOWN and not name.startswith(_SET)


def _migration_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the values of the MIGRATE_SET_ variables, keyed by the lower-case name after the prefix."""
    found: dict[str, str] = {}
    for variable in sorted(name for name, value in environ.items() if name.startswith(_SET) and value):
        name = variable.removeprefix(_SET)
        if not _SET_NAME.fullmatch(name):
            raise ConfigurationError(
                f"Invalid {_SET} variable: use only letters, digits and underscores after {_SET}, "
                "at most 63, and no digit first."
            )
        if name.lower() in found:
            raise ConfigurationError(f"Invalid {variable}: another variable differs from it only in case. Remove one.")
        if not _is_utf8(environ[variable]):
            raise ConfigurationError(f"Invalid {variable}: the value is not valid UTF-8.")
        found[name.lower()] = environ[variable]
    return found


def _is_utf8(text: str) -> bool:
    """Return whether a value from the environment was valid UTF-8; Python replaces other bytes with surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _database_url(environ: Mapping[str, str]) -> str:
    dsn, file = environ.get("DATABASE_URL"), environ.get("DATABASE_URL_FILE")
    if dsn and file:
        raise ConfigurationError("DATABASE_URL and DATABASE_URL_FILE are both set. Remove one.")
    if file:
        try:
            with open(file, encoding="utf-8-sig") as text:
                dsn = text.read()
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or "not a text file"
            raise ConfigurationError(f"The file named by DATABASE_URL_FILE cannot be read: {why}.") from None
        if not dsn.strip():
            raise ConfigurationError("The file named by DATABASE_URL_FILE is empty.")
    if not dsn or not dsn.strip():
        raise DatabaseUrlMissing("DATABASE_URL environment variable is required.")
    return dsn.strip()


def _duration(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name)
    if not text:
        return default
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else -1.0
    if not 0 <= seconds <= _MAX_S:
        raise ConfigurationError(f"Invalid {name}: expected a duration such as 60, 500ms, 30s, 5m or 1h.")
    return seconds


def _count(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name)
    if not text:
        return default
    if not re.fullmatch(r"\s*[1-9]\d{0,3}\s*", text, re.ASCII):
        raise ConfigurationError(f"Invalid {name}: expected a whole number from 1 to 9999.")
    return int(text)


def _choice(environ: Mapping[str, str], name: str, default: str, *others: str) -> str:
    text = (environ.get(name) or default).strip().lower()
    if text not in {default, *others}:
        raise ConfigurationError(f"Invalid {name}: expected one of {', '.join((default, *others))}.")
    return text


def _strict(environ: Mapping[str, str]) -> frozenset[str]:
    kinds = {word for word in re.split(r"[\s,]+", environ.get("MIGRATE_STRICT", "").lower()) if word}
    if kinds == {"all"}:
        return frozenset(STRICT_KINDS)
    if not kinds.issubset(STRICT_KINDS):
        raise ConfigurationError(f"Invalid MIGRATE_STRICT: expected all, or some of {','.join(STRICT_KINDS)}.")
    return frozenset(kinds)


def _table(environ: Mapping[str, str]) -> TableName:
    text = environ.get("MIGRATE_TABLE")
    try:
        return TableName.parse(text) if text else TableName()
    except ValueError:
        raise ConfigurationError(
            'Invalid MIGRATE_TABLE: expected name or schema.name, quoted if needed ("My Table"), at most 63 bytes each.'
        ) from None


def _truth(environ: Mapping[str, str], name: str) -> bool:
    text = (environ.get(name) or "false").strip().lower()
    if text not in _TRUTH:
        raise ConfigurationError(f"Invalid {name}: expected true or false.")
    return _TRUTH[text]
