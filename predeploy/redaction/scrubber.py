"""Mask known secrets in all output of the process."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK = "***"
MIN_SECRET_CHARS = 4  # masking shorter secrets would garble every line
_QUOTING = re.compile(r"(\\+|['\"])")
# A password such as `postgres` or `failed` must not alter constants that programs parse.
_CONSTANTS = ("timestamp", "level", "event", "outcome", "reason", "state", "severity")


class Scrubber:
    """Replaces every known secret in a string, longest first."""

    def __init__(self) -> None:
        self._secrets: list[str] = []
        self._patterns: dict[str, re.Pattern[str]] = {}

    def add_secrets(self, secrets: Iterable[str]) -> None:
        """Mask these secrets from now on, except secrets shorter than four characters."""
        known = {*self._secrets, *(secret for secret in secrets if len(secret) >= MIN_SECRET_CHARS)}
        self._secrets = sorted(known, key=len, reverse=True)
        self._patterns = {secret: _however_quoted(secret) for secret in known if _QUOTING.search(secret)}

    def scrub_fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Return a log line's fields with secrets masked, except in fields that hold pg-predeploy's own constants."""
        return {key: value if key in _CONSTANTS else self.scrub(value) for key, value in fields.items()}

    def scrub_line(self, line: str) -> str:
        """Return a line with secrets masked, including each line of a multi-line secret."""
        scrubbed: str = self.scrub(line)
        for secret in self._secrets:
            for part in secret.splitlines():
                scrubbed = scrubbed.replace(part, MASK) if len(part) >= MIN_SECRET_CHARS else scrubbed
        return scrubbed

    def scrub(self, value: Any) -> Any:
        """Return a copy of a nested value with all secrets masked; convert non-JSON types to str."""
        if isinstance(value, str):
            for secret in self._secrets:
                pattern = self._patterns.get(secret)
                value = pattern.sub(MASK, value) if pattern else value.replace(secret, MASK)
            return value
        if isinstance(value, dict):
            return {key: self.scrub(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.scrub(item) for item in value]
        return value if value is None or isinstance(value, int | float) else self.scrub(str(value))


def _however_quoted(secret: str) -> re.Pattern[str]:
    """Return a pattern for a secret that was quoted any number of times; each quoting multiplies the backslashes."""
    pattern = ""
    for piece in _QUOTING.split(secret):
        if piece.startswith("\\"):
            pattern += r"\\+"
        else:
            pattern += rf"\\*{piece}" if piece in {"'", '"'} else re.escape(piece)
    return re.compile(pattern)
