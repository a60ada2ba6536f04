"""What is added to a connection string before it is used."""

from __future__ import annotations

import pytest

from predeploy.connection.parameters import parameters


def test_a_vanished_peer_is_noticed_and_a_login_bounded_where_nobody_says_otherwise() -> None:
    added = parameters("host=db")
    assert (added["connect_timeout"], added["tcp_user_timeout"], added["keepalives_idle"]) == ("10", "8000", "5")
    assert added["fallback_application_name"].startswith("pg-predeploy/")


@pytest.mark.parametrize("dsn", ["postgresql://db/app?connect_timeout=3&keepalives_idle=60", "connect_timeout=3"])
def test_the_connection_string_wins(dsn: str) -> None:
    assert "connect_timeout" not in parameters(dsn)
    assert ("keepalives_idle" in parameters(dsn)) == ("keepalives_idle" not in dsn)


def test_libpqs_own_variables_win_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "3")
    assert "connect_timeout" not in parameters("host=db")


def test_the_encoding_is_that_of_the_files_whatever_anybody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    assert parameters("host=db client_encoding=LATIN9")["client_encoding"] == "UTF8"
