"""Connection strings are parsed; no test connects.

Every password in the tables consists of MARKS, so that any part of it is found in any output.
"""

from __future__ import annotations

import ast
import re
import socket
import traceback
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from predeploy.connection import dsn_hints, foreign_parameters, libpq
from predeploy.connection.dsn import parse_dsn, secrets_in
from predeploy.errors import DatabaseUrlInvalid, DatabaseUrlMissing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet
    from types import ModuleType

MARKS = ("Zq7x", "Kv9w", "Yj2m", "4821", "9081")
PW = "Zq7xKv9wYj2m"
INVALID = DatabaseUrlInvalid
MISSING = DatabaseUrlMissing
LOCAL = ("local socket", 5432)
Outcome = tuple[str, int | str] | type[Exception]

ENCODE = "percent-encode @ : / ? # and % in the user name and the password (@ is %40, / is %2F)"
QUOTE = "put values with spaces in single quotes, and escape ' and \\ in values with \\"
TEXTS = {
    "DATABASE_URL environment variable is required.",
    "DATABASE_URL must start with postgresql:// or postgres://, without a driver name.",
    f"DATABASE_URL has an unencoded @: {ENCODE}.",
    f"DATABASE_URL is malformed: {ENCODE}.",
    f"DATABASE_URL is malformed: {QUOTE}.",
    "DATABASE_URL contains a NUL byte: save it as plain text in UTF-8.",
    "DATABASE_URL is not UTF-8.",
    f"DATABASE_URL has a port that is not a number from 1 to 65535: {ENCODE}.",
    f"DATABASE_URL has an @ in the host or the database name: {ENCODE}.",
    f"DATABASE_URL has a host that is not a name, address or directory: specify the port separately, and {ENCODE}.",
    (
        "Cannot read the service that DATABASE_URL or PGSERVICE names. Check that the service file (PGSERVICEFILE "
        "or ~/.pg_service.conf) has a section for the service, without unknown keywords."
    ),
    "PGHOST, PGHOSTADDR, PGPORT or a service file has an invalid host or port.",
}


def words_in(module: ModuleType) -> set[str]:
    """Return the words in a module's string constants; a message may contain no other words."""
    tree = ast.parse(Path(str(module.__file__)).read_text())
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return words(" ".join(text for text in constants if isinstance(text, str)))


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.replace("%3D", "=").replace("-c", "-c ")))


KEYWORDS = {keyword for keyword, _, _ in libpq.conninfo().defaults()}
FIXED_WORDS = words_in(dsn_hints) | words_in(foreign_parameters) | KEYWORDS

URIS: list[tuple[str, Outcome]] = [
    # Hosts and ports
    ("postgresql://", LOCAL),
    ("postgres://", LOCAL),
    ("postgresql:///app", LOCAL),
    ("postgresql://db", ("db", 5432)),
    ("postgresql://db.internal:6543/app", ("db.internal", 6543)),
    ("postgresql://db:1/app", ("db", 1)),
    ("postgresql://db:65535/app", ("db", 65535)),
    ("postgresql://db:/app", ("db", 5432)),
    ("postgresql://:6543/app", ("local socket", 6543)),
    ("postgresql://127.0.0.1:6543/app", ("127.0.0.1", 6543)),
    ("postgresql://db?sslmode=require", ("db", 5432)),
    ("postgresql://db/app?", ("db", 5432)),
    ("postgresql://db/app?host=other&port=6543", ("other", 6543)),
    ("postgresql://db/app?hostaddr=10.0.0.1", ("db", 5432)),
    ("postgresql:///app?hostaddr=10.0.0.1", ("10.0.0.1", 5432)),
    ("postgresql://db/app?ssl=true", ("db", 5432)),
    ("postgresql://db/app?options=-c%20work_mem%3D1MB", ("db", 5432)),
    ("postgresql://db/a%20b%2Fc", ("db", 5432)),
    ("postgresql://d%C3%BC.example/app", ("dü.example", 5432)),
    # IPv6
    ("postgresql://[::1]/app", ("::1", 5432)),
    ("postgresql://[::1]:6543/app", ("::1", 6543)),
    ("postgresql://[2001:db8::1234]", ("2001:db8::1234", 5432)),
    (f"postgresql://me:{PW}@[2001:db8::1]:6543/app?sslmode=require", ("2001:db8::1", 6543)),
    ("postgresql:///app?host=%3A%3A1", ("::1", 5432)),
    # Sockets
    ("postgresql://%2Fvar%2Frun%2Fpostgresql/app", ("/var/run/postgresql", 5432)),
    ("postgresql://%2Ftmp:6543/app", ("/tmp", 6543)),  # noqa: S108
    ("postgresql:///app?host=/tmp&port=6543", ("/tmp", 6543)),  # noqa: S108
    (f"postgresql://me:{PW}@/app?host=/run/postgresql", ("/run/postgresql", 5432)),
    (f"postgresql://me:{PW}@%2Ftmp/app", ("/tmp", 5432)),  # noqa: S108
    # Several hosts
    ("postgresql://a,b/app", ("a,b", 5432)),
    ("postgresql://a:1,b:2/app", ("a,b", "1,2")),
    ("postgresql://a:1,b/app", ("a,b", "1,")),
    (f"postgresql://me:{PW}@a:6543,[::1]:6544,/app?target_session_attrs=primary", ("a,::1,", "6543,6544,")),
    ("postgresql:///app?host=a,b&port=6543", ("a,b", 6543)),
    # Users and passwords
    ("postgresql://me@db/app", ("db", 5432)),
    ("postgresql://me:@db/app", ("db", 5432)),
    ("postgresql://@db/app", ("db", 5432)),
    (f"postgresql://:{PW}@db/app", ("db", 5432)),
    (f"postgresql://me:{PW}@db:6543/app", ("db", 6543)),
    (f"postgresql://me:{PW}@/app", LOCAL),
    (f"postgresql://me:{PW}@:6543/app", INVALID),
    (f"postgresql://me:{PW}@:6543/app?host=/run", ("/run", 6543)),
    (f"postgresql://me:{PW}@:6543/app?hostaddr=127.0.0.1", ("127.0.0.1", 6543)),
    (f"postgresql://me:{PW}@", LOCAL),
    ("postgresql://me:Zq7x%40Kv9w%2FYj2m%3A%3F%23%25@db/app", ("db", 5432)),
    ("postgresql://me:Zq7x%00d7@db/app", INVALID),
    (f"postgresql://db/app?user=me&password={PW}", ("db", 5432)),
    ("postgresql://db/app?user=me&password=Zq7x%26Kv9w%3DYj2m%40", ("db", 5432)),
    (f"postgresql://db/app?sslpassword={PW}&sslkey=/key", ("db", 5432)),
    ("postgresql://db/app?password=Zq7x#Kv9w", ("db", 5432)),
    # A part of the password in the wrong place
    ("postgresql://me:@Zq7x@db/app", INVALID),
    ("postgresql://me:Zq7x@4821@db:6543/app", INVALID),
    ("postgresql://me:/Zq7x@db/app", INVALID),
    ("postgresql://me:4821/9081@db/app", INVALID),
    ("postgresql://me:4821?Kv9w@db/app", INVALID),
    ("postgresql://me:4821?host=Kv9w@db/app", INVALID),
    ("postgresql://me:Zq7x://Kv9w@db/app", INVALID),
    (f"postgresql://me:{PW}/app", INVALID),
    (f"postgresql://me:{PW}", INVALID),
    (f"postgresql://me:{PW}db:6543/app", INVALID),
    (f"postgresql://me%3A{PW}%40db%2Fapp", INVALID),
    (f"postgresql:///me:{PW}@db/app", INVALID),
    (f"postgresql:////me:{PW}@db/app", INVALID),
    ("postgresql://db/app?user=me&password=Zq7x@Kv9w", INVALID),
    (f"postgresql://db/app?host=me:{PW}%40other", INVALID),
    (f"postgresql://db/app?hostaddr={PW}%40other", INVALID),
    (f"postgresql://db/app?dbname={PW}%40other", INVALID),
    (f"postgresql://db/app?port={PW}", INVALID),
    ("postgresql://me:4821\0Kv9w@db/app", INVALID),
    (f"postgresql://me:{PW}@db/app\0", INVALID),
    # Strings that libpq rejects
    (f"postgresql://me:{PW}%zz@db/app", INVALID),
    (f"postgresql://me:{PW}@[::1/app", INVALID),
    (f"postgresql://me:{PW}@[]/app", INVALID),
    (f"postgresql://me:{PW}@[::1]x/app", INVALID),
    (f"postgresql://me:{PW}@db/app?password", INVALID),
    (f"postgresql://me:{PW}@db/app?{PW}", INVALID),
    (f"postgresql://db/app?password={PW}=Kv9w", INVALID),
    (f"postgresql://db/app?password={PW}&Kv9w", INVALID),
    (f"postgresql://db/app?password={PW}%", INVALID),
    (f"postgresql://me:{PW}@db/app?schema=public", INVALID),
    # Ports
    (f"postgresql://me:{PW}@db:0/app", INVALID),
    (f"postgresql://me:{PW}@db:65536/app", INVALID),
    (f"postgresql://me:{PW}@db:-1/app", INVALID),
    (f"postgresql://me:{PW}@db:5432000000/app", INVALID),
    (f"postgresql://me:{PW}@db:54x2/app", INVALID),
    (f"postgresql://me:{PW}@db:%D9%A3/app", INVALID),
    (f"postgresql://me:{PW}@db:%C2%B2/app", INVALID),
    (f"postgresql://me:{PW}@a:6543,b:{PW}/app", INVALID),
    ("postgresql://db:005432/app", ("db", 5432)),
    # Invalid hosts
    (f"postgresql://me%3A{PW}/app", INVALID),
    (f"postgresql://db%20{PW}/app", INVALID),
    (f"postgresql://db%3F{PW}/app", INVALID),
    (f"postgresql://db,me%23{PW}/app", INVALID),
    (f"postgresql://[me:{PW}]/app", INVALID),
    (f"postgresql://[::1%25me:{PW}]/app", INVALID),
    (f"postgresql:///app?host=me:{PW}", INVALID),
    # Other schemes
    (f"mysql://me:{PW}@db/app", INVALID),
    (f"postgresql+psycopg://me:{PW}@db/app", INVALID),
    (f"jdbc:postgresql://db/app?user=me&password={PW}", INVALID),
    (f"POSTGRESQL://me:{PW}@db/app", INVALID),
    (f"://me:{PW}@db/app", INVALID),
    (f" postgresql://me:{PW}@db/app", INVALID),
    (f'"postgresql://me:{PW}@db/app"', INVALID),
    (f"\ufeffpostgresql://me:{PW}@db/app", INVALID),
    (f"postgresql:/me:{PW}@db/app", INVALID),
    (f"me:{PW}@db/app", INVALID),
    (f"DATABASE_URL=postgresql://me:{PW}@db/app", INVALID),
    (f"postgresql://me:{PW}\udcff@db/app", INVALID),
]

KEY_VALUES: list[tuple[str, Outcome]] = [
    ("host=db", ("db", 5432)),
    ("host=db port=6543 dbname=app", ("db", 6543)),
    (" host = db  port\t=\n6543 ", ("db", 6543)),
    ("host='db' port='6543'", ("db", 6543)),
    ("host=db port=''", ("db", 5432)),
    ("host=''", LOCAL),
    ("dbname=app", LOCAL),
    ("service=missing", INVALID),
    ("host=/tmp port=6543", ("/tmp", 6543)),  # noqa: S108
    ("host=::1", ("::1", 5432)),
    ("host=a,b port=1,2", ("a,b", "1,2")),
    ("hostaddr=10.0.0.1", ("10.0.0.1", 5432)),
    ("host=db hostaddr=10.0.0.1", ("db", 5432)),
    (f"host=db password={PW}", ("db", 5432)),
    ("host=db password=Zq7x@Kv9w/Yj2m:4821#%?", ("db", 5432)),
    ("host=db password='Zq7x Kv9w'", ("db", 5432)),
    ("host=db password='Zq7x\\'Kv9w\\\\'", ("db", 5432)),
    ("host=db password=Zq7x\\ Kv9w", ("db", 5432)),
    (f"password={PW} host=db sslpassword={PW}", ("db", 5432)),
    (f"host=db password=first password={PW}", ("db", 5432)),
    (f"host=db password=postgresql://{PW}", ("db", 5432)),
    ("host=db password=Zq7x Kv9w", INVALID),
    (f"host=db password='{PW}", INVALID),
    (f"host=db password='{PW}\\'", INVALID),
    (f"host=db password {PW}", INVALID),
    (f"host=db; password={PW}", INVALID),
    ("host=db:5432", INVALID),
    (f"host=me:{PW}", INVALID),
    (f"host='db {PW}'", INVALID),
    (f"host=db/{PW}", INVALID),
    ("host=/cloudsql/project:region:name", ("/cloudsql/project:region:name", 5432)),
    ("host=fe80::1%eth0", ("fe80::1%eth0", 5432)),
    (f"host=fe80::1%me:{PW}", INVALID),
    ("host=a,,b", ("a,,b", 5432)),
    ("host=my_db.svc-1.example.", ("my_db.svc-1.example.", 5432)),
    (f"Host=db;Password={PW}", INVALID),
    (f"={PW}", INVALID),
    (PW, INVALID),
    (f"host=me:{PW}@db", INVALID),
    (f"dbname=postgresql://me:{PW}@db/app", INVALID),
    (f"host=db port={PW}", INVALID),
    (f"host=db port=6543,{PW}", INVALID),
    ("host=db port=0", INVALID),
    ("host=db port=65536", INVALID),
    ("host=db port=٥٤٣٢", INVALID),
    ("host=db port=²", INVALID),
    (f"host=db password={PW}\0 port=6543", INVALID),
    (f"host=db password={PW}\udcff", INVALID),
]

NOTHING: list[tuple[str, Outcome]] = [("", MISSING), (" ", MISSING), ("\n\t ", MISSING)]


@pytest.fixture(scope="module", autouse=True, params=["libpq alone", "psycopg"])
def _reader(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run each test twice: with libpq through ctypes, and with psycopg, the fallback if libpq cannot be loaded."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "psycopg":
            patch.setattr(libpq, "load", lambda: None)
        assert (libpq.load() is None) == (request.param == "psycopg")
        yield


def host_and_port(text: str) -> tuple[str, int | str]:
    dsn = parse_dsn(text)
    return dsn.host, dsn.port


def secrets_of(text: str) -> AbstractSet[str]:
    """Return what the program masks: the secrets in a valid connection string, or guesses for a malformed one."""
    try:
        return parse_dsn(text).secrets
    except (DatabaseUrlMissing, DatabaseUrlInvalid):
        return secrets_in(text)


def outcome_of(text: str) -> tuple[Outcome, str]:
    """Return the host and port, or the error type and all its text that a log could show."""
    try:
        dsn = parse_dsn(text)
    except (DatabaseUrlMissing, DatabaseUrlInvalid) as error:
        return type(error), text_of(error)
    return (dsn.host, dsn.port), f"{dsn} {dsn!r} {dsn.host} {dsn.port}"


def text_of(error: Exception) -> str:
    """Return all text that an error could show, which must consist of fixed words and have no cause."""
    assert str(error) in TEXTS or words(str(error)) <= FIXED_WORDS
    assert error.__context__ is None or error.__suppress_context__
    return f"{error} {error!r} {''.join(traceback.format_exception(error))}"


def pieces(password: str) -> set[str]:
    """Return every substring of four characters."""
    return {password[at : at + 4] for at in range(len(password) - 3)}


@pytest.mark.parametrize(("dsn", "outcome"), [*URIS, *KEY_VALUES, *NOTHING], ids=ascii)
def test_a_connection_string_names_host_and_port_or_is_rejected(dsn: str, outcome: Outcome) -> None:
    found, shown = outcome_of(dsn)
    assert found == outcome
    assert [mark for mark in MARKS if mark in shown] == []


def test_none_counts_as_a_missing_connection_string() -> None:
    with pytest.raises(DatabaseUrlMissing, match=r"^DATABASE_URL environment variable is required\.$"):
        parse_dsn(None)


@pytest.mark.parametrize(
    ("dsn", "text"),
    [
        ("odbc://me:Zq7x@db/app", "DATABASE_URL must start with postgresql:// or postgres://, without a driver name."),
        ("postgresql://me:Zq@7x@db/app", f"DATABASE_URL has an unencoded @: {ENCODE}."),
        ("postgresql://me:Zq7x%@db/app", f"DATABASE_URL is malformed: {ENCODE}."),
        ("host=db Zq7x", f"DATABASE_URL is malformed: {QUOTE}."),
        ("postgresql://me:Zq7x/app", f"DATABASE_URL has a port that is not a number from 1 to 65535: {ENCODE}."),
        ("host=me:Zq7x@db", f"DATABASE_URL has an @ in the host or the database name: {ENCODE}."),
        ("host=db\0", "DATABASE_URL contains a NUL byte: save it as plain text in UTF-8."),
        ("host=\udcff", "DATABASE_URL is not UTF-8."),
    ],
    ids=ascii,
)
def test_the_error_explains_what_to_do(dsn: str, text: str) -> None:
    with pytest.raises(DatabaseUrlInvalid) as caught:
        parse_dsn(dsn)
    assert str(caught.value) == text


# Reserved characters

RESERVED = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ \t\nü€🐘"
REJECTED_IN_A_PASSWORD = set("%/?@\t\n")


def test_an_encoded_character_is_decoded() -> None:
    user, password = f"us{RESERVED}er", f"pass{RESERVED}word"
    dsn = parse_dsn(f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@db/app")
    assert dsn.named == {"user": user, "password": password, "host": "db", "dbname": "app"}
    dsn = parse_dsn(f"postgresql://db/app?user={quote(user, safe='')}&password={quote(password, safe='')}")
    assert dsn.named == {"user": user, "password": password, "host": "db", "dbname": "app"}


@pytest.mark.parametrize("sign", RESERVED, ids=ascii)
def test_an_unencoded_character_in_a_password_is_kept_or_rejected(sign: str) -> None:
    password = f"Zq7x{sign}Kv9w"
    dsn = f"postgresql://me:{password}@db/app"
    if sign in REJECTED_IN_A_PASSWORD:
        found, shown = outcome_of(dsn)
        assert found == INVALID
        assert [mark for mark in MARKS if mark in shown] == []
    elif sign != " ":  # libpq rejects it
        assert parse_dsn(dsn).named["password"] == password


# Values from the environment


@pytest.mark.parametrize(
    ("variables", "dsn", "outcome"),
    [
        ({"PGHOST": "env"}, "postgresql:///app", ("env", 5432)),
        ({"PGHOST": "env"}, "postgresql://db/app", ("db", 5432)),
        ({"PGHOST": "env", "PGPORT": "6543"}, "dbname=app", ("env", 6543)),
        ({"PGPORT": "6543"}, "postgresql://db/app", ("db", 6543)),
        ({"PGPORT": "6543"}, "postgresql://db:6544/app", ("db", 6544)),
        ({"PGPORT": "6543"}, "host=db port=''", ("db", 5432)),  # as in libpq
        ({"PGHOST": "env"}, f"postgresql://me:{PW}@:6543/app", ("env", 6543)),
        ({"PGHOSTADDR": "10.0.0.1"}, "dbname=app", ("10.0.0.1", 5432)),
        ({"PGHOST": "a,b", "PGPORT": "1,2"}, "dbname=app", ("a,b", "1,2")),
        ({"PGHOST": "", "PGPORT": ""}, "dbname=app", LOCAL),
        ({"PGPASSWORD": PW, "PGUSER": PW, "PGDATABASE": PW}, "host=db", ("db", 5432)),
        ({"PGHOST": f"postgresql://me:{PW}@db"}, "dbname=app", INVALID),
        ({"PGHOST": f"me:{PW}@db"}, "postgresql://db/app", ("db", 5432)),
        ({"PGPORT": PW}, "host=db", INVALID),
        ({"PGPORT": "²"}, "host=db", INVALID),
        ({"PGPORT": "0"}, "host=db", INVALID),
        ({"PGPORT": PW}, "host=db port=6543", ("db", 6543)),
        ({"PGSERVICE": "missing"}, "host=db", INVALID),
        ({"PGHOST": f"me:{PW}"}, "dbname=app", INVALID),
    ],
)
def test_the_environment_supplies_what_the_connection_string_omits(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], dsn: str, outcome: Outcome
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found, shown = outcome_of(dsn)
    assert found == outcome
    assert [mark for mark in MARKS if mark in shown] == []


SERVICES = f"""\
[app]
host=from-service
port=6543
password={PW}
sslpassword=Kv9w
[typo]
pasword={PW}
[leaking]
host=me:{PW}
"""
NO_SERVICE = "Cannot read the service that DATABASE_URL or PGSERVICE names"


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a service file."""
    path = tmp_path / "services"
    path.write_text(SERVICES)
    monkeypatch.setenv("PGSERVICEFILE", str(path))
    return path


@pytest.mark.parametrize(
    ("service", "dsn"),
    [
        ("app", "dbname=app"),
        ("", "service=app"),
        ("", "postgresql://?service=app"),
        ("typo", "service=app"),
        ("", "service=app dbname=app user=me"),
    ],
)
@pytest.mark.usefixtures("services")
def test_a_service_supplies_what_the_connection_string_omits(
    monkeypatch: pytest.MonkeyPatch, service: str, dsn: str
) -> None:
    monkeypatch.setenv("PGSERVICE", service)
    assert host_and_port(dsn) == ("from-service", 6543)
    assert {PW, "Kv9w"} <= secrets_of(dsn)


@pytest.mark.usefixtures("services")
def test_the_connection_string_overrides_the_service() -> None:
    assert host_and_port("service=app host=db") == ("db", 6543)
    assert "Yj2m" in secrets_of("service=app password=Yj2m")


@pytest.mark.parametrize("service", ["typo", "missing", "leaking"])
@pytest.mark.usefixtures("services")
def test_a_service_that_cannot_be_used_is_rejected_without_being_quoted(
    monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    found, shown = outcome_of(f"service={service}")
    assert found == INVALID
    assert [mark for mark in MARKS if mark in shown] == []
    monkeypatch.setenv("PGSERVICE", service)
    assert outcome_of("dbname=app") == (found, shown)


def test_a_missing_service_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "nowhere"))
    with pytest.raises(DatabaseUrlInvalid, match=NO_SERVICE):
        host_and_port("service=app")


@pytest.mark.parametrize("by_variable", [True, False])
def test_the_passwords_in_a_passfile_are_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    passfile = tmp_path / "passfile"
    passfile.write_text("one:5432:*:*:Zq7x\\:one\ntwo:6543:app:me:Zq7x-two\n*:*:*:other:Zq7x-other\n")
    passfile.chmod(0o600)
    named = f" passfile={passfile}"
    if by_variable:
        monkeypatch.setenv("PGPASSFILE", str(passfile))
        named = ""
    assert "Zq7x:one" in secrets_of("host=one" + named)
    found = secrets_of("host=one,two port=5432,6543 user=me dbname=app" + named)
    assert {"Zq7x:one", "Zq7x-two"} <= found
    assert "Zq7x-other" not in found
    assert "Zq7x-other" in secrets_of("host=any user=other" + named)
    assert host_and_port("host=one,two" + named) == ("one,two", 5432)


def test_the_passfile_in_the_home_directory_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".pgpass").write_text("*:*:*:*:Zq7x-home\n")
    (tmp_path / ".pgpass").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "Zq7x-home" in secrets_of("postgresql://me@db/app")


def test_parsing_a_connection_string_opens_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        for dsn in (f"host=127.0.0.1 port={port}", f"postgresql://me:{PW}@127.0.0.1:{port},127.0.0.1:{port}/app"):
            assert host_and_port(dsn)
            assert secrets_of(dsn)
        with pytest.raises(BlockingIOError):
            listener.accept()


# Secrets


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://me:Zq%2F7x%40y@db/app", ["Zq/7x@y", "Zq%2F7x%40y"]),
        ("postgresql://me:Zq%2f7x@db/app", ["Zq/7x", "Zq%2F7x", "Zq%2f7x"]),
        ("postgresql://me:Zq#7x@db/app", ["Zq#7x", "Zq%237x"]),
        ("postgresql://me:%C3%BC%E2%82%AC%22'@db/app", ["ü€\"'", "%C3%BC%E2%82%AC%22%27", "ü€\"\\'"]),
        ("postgresql://me:a%0Ab%5Cc@db/app", ["a\nb\\c", "a\\nb\\\\c", "a%0Ab%5Cc"]),
        ("postgresql://db/app?user=me&password=Zq%2f7x", ["Zq/7x", "Zq%2F7x", "Zq%2f7x"]),
        ("postgresql://db/app?sslpassword=Zq%2f7x&sslmode=require", ["Zq/7x", "Zq%2F7x", "Zq%2f7x"]),
        ("postgresql://me:Zq7x@db/app?sslpassword=Kv9w", ["Zq7x", "Kv9w"]),
        ("host=db password='Zq 7x' sslpassword=Kv9w", ["Zq 7x", "Zq%207x", "Kv9w"]),
        ("host=db password=Zq%7x", ["Zq%7x", "Zq%257x"]),
        ("host=db password='Zq\\'7\\\\x'", ["Zq'7\\x", "Zq\\'7\\\\x", "Zq''7\\x", "Zq'7\\\\x"]),
        ("host=db password=Zq\\ 7x", ["Zq 7x", "Zq\\ 7x", "Zq+7x"]),
        ('host=db password=Zq"7ü\n', ['Zq"7ü', 'Zq\\"7ü', 'Zq\\"7\\u00fc', 'Zq"7\\xfc', "Zq%227%c3%bc"]),
        ("host=db scram_client_key=Zq7x oauth_client_secret=Kv9w", ["Zq7x", "Kv9w"]),
        ("postgresql://me:Zq:7x@db/app", ["Zq:7x"]),
        ("postgresql://me:a@db/app", ["me:a", ":a@", "password=a"]),
    ],
    ids=lambda value: ascii(value) if isinstance(value, str) else "",  # a set has no order, but an id needs one
)
def test_a_secret_is_recognised_in_every_form(dsn: str, expected: list[str]) -> None:
    assert parse_dsn(dsn).secrets >= {dsn, *expected}


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://me:Zq7x/app", ["Zq7x"]),
        ("postgresql://me:Zq7x?x", ["Zq7x"]),
        ("postgresql://me:Zq@7x@db/app", ["Zq@7x"]),
        ("postgresql://me:Zq/7x@db/app", ["Zq/7x"]),
        ("postgresql://me:Zq%2F@7x@db/app", ["Zq%2F@7x", "Zq/@7x"]),
        ("postgresql://me:Zq%zz@db/app", ["Zq%zz"]),
        ("mysql://me:Zq7x@db/app", ["Zq7x"]),
        ("postgresql://me:Zq7\udcff@db/app", ["Zq7\udcff", "Zq7%FF"]),
        ("postgresql://db/app?password=Zq7x&sslpassword=Kv9w&Yj2m", ["Zq7x", "Kv9w"]),
        ("host=db password=Zq7x Kv9w", ["Zq7x"]),
        ("host=db password='Zq\\'7x' Kv9w", ["Zq\\'7x"]),
        ("host=db sslpassword = 'Zq 7x", ["Zq 7x", "Zq%207x"]),
    ],
    ids=lambda value: ascii(value) if isinstance(value, str) else "",
)
def test_the_secrets_of_a_malformed_connection_string_are_guessed(dsn: str, expected: list[str]) -> None:
    with pytest.raises(DatabaseUrlInvalid):
        parse_dsn(dsn)
    assert secrets_in(dsn) >= {dsn, *expected}


@pytest.mark.parametrize(
    "dsn", ["postgresql://me@db:6543/app", "host=db", "host=db password=''", "postgresql://me:@db/app"]
)
def test_only_the_connection_string_is_secret_if_there_is_no_password(dsn: str) -> None:
    assert secrets_of(dsn) == {dsn}


def test_the_passwords_in_the_environment_are_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "Zq/7x")
    assert secrets_of("host=db") == {"host=db", "Zq/7x", "Zq%2F7x", "Zq%2f7x"}
    assert secrets_of("postgresql://me:Kv9w@db") >= {"Kv9w", "Zq/7x"}


# Any password

passwords = st.text(st.sampled_from("QZXJqzxj0123456789" + RESERVED), min_size=1, max_size=20)
templates = st.sampled_from(
    [
        "postgresql://me:{}@db.internal/app",
        "postgres://me:{}@db.internal:6543/app?sslmode=require",
        "postgresql://me:{}@db.internal",
        "postgresql://:{}@a,b:6543/app",
        "postgresql://me:{}@[::1]:6543/app",
        "postgresql://me:{}@/app?host=/run",
        "postgresql://me:{}@db.internal/app?application_name=x&connect_timeout=3",
        "postgresql://db.internal/app?user=me&password={}",
        "postgresql://db.internal?password={}&sslmode=require",
        "postgresql://db.internal:6543/app?sslmode=require&password={}&user=me",
    ]
)


@settings(deadline=None)
@given(templates, passwords)
def test_any_encoded_password_is_decoded_and_secret(template: str, password: str) -> None:
    assume(not password.endswith("\n") and not dsn_hints.placeholder_shape(password))
    dsn = template.format(quote(password, safe=""))
    assert parse_dsn(dsn).named["password"] == password
    assert {dsn, password, quote(password, safe="")} <= secrets_of(dsn)
    assert host_and_port(dsn) == host_and_port(template.format("x"))


@settings(deadline=None)
@given(templates, passwords)
def test_any_unencoded_password_is_kept_or_not_shown(template: str, password: str) -> None:
    dsn = template.format(password)
    try:
        parsed = parse_dsn(dsn)
    except DatabaseUrlInvalid as error:
        text_of(error)
        return
    if parsed.named.get("password") == password:
        assert (parsed.host, parsed.port) == host_and_port(template.format("x"))
        assert password in parsed.secrets
    else:
        assert [piece for piece in pieces(password) if piece in repr(parsed)] == []


@settings(deadline=None)
@given(passwords)
@example("%80")  # a percent escape has no meaning here
def test_any_quoted_password_in_a_key_value_string_is_unquoted(password: str) -> None:
    assume(not password.endswith("\n") and not dsn_hints.placeholder_shape(password))
    escaped = password.replace("\\", "\\\\").replace("'", "\\'")
    dsn = f"user=me password='{escaped}' host=db"
    assert parse_dsn(dsn).named == {"user": "me", "password": password, "host": "db"}
    assert password in secrets_of(dsn)


@settings(deadline=None)
@given(st.text())
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    found, _ = outcome_of(text)
    assert isinstance(found, tuple) or issubclass(found, (DatabaseUrlMissing, DatabaseUrlInvalid))
    assert text in secrets_of(text)
