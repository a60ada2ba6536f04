"""The parameters that the program adds to a connection string before it logs in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from predeploy.connection.dsn import parse_dsn
from predeploy.connection.parameters import login_conninfo, login_parameters

if TYPE_CHECKING:
    from pathlib import Path


def added_to(text: str) -> dict[str, str]:
    return login_parameters(parse_dsn(text))


def test_defaults_detect_a_dead_peer_and_limit_a_login_to_ten_seconds() -> None:
    added = added_to("host=db")
    assert (added["connect_timeout"], added["tcp_user_timeout"], added["keepalives_idle"]) == ("10", "8000", "5")
    assert added["fallback_application_name"].startswith("pg-predeploy/")


@pytest.mark.parametrize("dsn", ["postgresql://db/app?connect_timeout=3&keepalives_idle=60", "connect_timeout=3"])
def test_the_connection_string_overrides_the_defaults(dsn: str) -> None:
    added = added_to(dsn)
    assert "connect_timeout" not in added
    assert ("keepalives_idle" in added) == ("keepalives_idle" not in dsn)


def test_pg_variables_override_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "3")
    assert "connect_timeout" not in added_to("host=db")


def test_a_service_overrides_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "services").write_text("[app]\nhost=db\nkeepalives_idle=60\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    added = added_to("service=app")
    assert "keepalives_idle" not in added
    assert "keepalives_count" in added


def test_the_client_encoding_cannot_be_overridden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    assert added_to("host=db client_encoding=LATIN9")["client_encoding"] == "UTF8"


def test_the_program_logs_in_with_the_connection_string_and_its_own_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PG* variables are not added: libpq reads them itself, and the string would contain a password."""
    monkeypatch.setenv("PGPASSWORD", "Zq7x")
    dsn = parse_dsn("postgresql://me:it%27s@db/app?client_encoding=LATIN1")
    conninfo = login_conninfo(dsn).decode()
    assert "Zq7x" not in conninfo
    assert parse_dsn(conninfo).named == {**dsn.named, **login_parameters(dsn)}
