"""Warn about comments that were probably meant as directives but are not read as such."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from predeploy.migrations.migration import Migration, MigrationFailure

log = logging.getLogger(__name__)


def warn_of_ignored_directive(migration: Migration) -> None:
    """Warn if a comment in a transactional migration nearly disables its transaction."""
    if ignored := migration.ignored_directive:
        log.warning(
            "%s: line %s is not read as a directive: %s",
            migration.name,
            ignored.line,
            ignored.reason,
            extra={"event": "migration.directive_ignored", "migration": migration.name, "line": ignored.line},
        )


def advise_on_directive(migration: Migration, failure: MigrationFailure) -> None:
    """Name the ignored directive in the advice for a statement that cannot run in a transaction."""
    if (
        failure.sqlstate == "25001"
        and failure.fields.get("command") != "SET"
        and (ignored := migration.ignored_directive)
    ):
        advice = f"Fix line {ignored.line}, which is not read as a directive: {ignored.reason}."
        failure.fields["advice"] = advice
