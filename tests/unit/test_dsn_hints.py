"""The error messages for common mistakes in connection strings; no test connects."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from predeploy.connection import libpq
from predeploy.connection.dsn import parse_dsn
from predeploy.errors import DatabaseUrlInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator

URI = "postgresql://me:Zq7x@db/app"
PLACEHOLDER = " is a placeholder that was not filled in "
NOT_FILLED = [
    ("${{Postgres.DATABASE_URL}}", "${{...}}"),
    ("${{ secrets.DATABASE_URL }}", "${{...}}"),
    ("{{ .Values.databaseUrl }}", "{{...}}"),
    ("{{resolve:secretsmanager:db:SecretString:url}}", "{{...}}"),
    ("${DATABASE_URL}", "${...}"),
    ("${DATABASE_URL:?missing}", "${...}"),
    ("${db.DATABASE_URL}", "${...}"),
    ("$(DATABASE_URL)", "$(...)"),
    ("$DATABASE_URL", "$NAME"),
    ("<your-database-url>", "<...>"),
    ("[YOUR-PASSWORD]", "[...]"),
    ("{password}", "{...}"),
]
PARAMETERS = [
    ("schema=public", "has a parameter that libpq does not support: replace schema with options=-csearch_path%3D"),
    ("search_path=app", "replace search_path with options=-csearch_path%3DSCHEMA, or remove it."),
    ("currentSchema=app", "replace currentSchema with options=-csearch_path%3DSCHEMA, or remove it."),
    ("pgbouncer=true", "a parameter that libpq does not support: remove pgbouncer."),
    (
        "pgbouncer=true&connection_limit=1&pool_timeout=0",
        "parameters that libpq does not support: remove connection_limit, pgbouncer, pool_timeout.",
    ),
    (
        "pgbouncer=true&schema=public",
        "libpq does not support: remove pgbouncer; replace schema with options=-csearch_path%3DSCHEMA, or remove it.",
    ),
    ("charset=utf8&serverVersion=16", "remove charset, serverVersion."),
    ("statement_timeout=1000", "replace statement_timeout with options=-cstatement_timeout%3DVALUE."),
    ("sslaccept=strict", "replace sslaccept with sslmode=verify-full"),
    ("uselibpqcompat=true&sslmode=require", "remove uselibpqcompat."),
    ("ssl=false", "replace ssl with sslmode=require"),
    ("sslMode=require", "write sslmode in lower case."),
    ("username=me", "replace username with user=NAME."),
    ("x-migrations-table=x", "replace x-migrations-table with the variable MIGRATE_TABLE."),
    ("connectTimeout=5", "replace connectTimeout with connect_timeout=SECONDS."),
    ("Zq7x=1", "remove the unknown parameter, or percent-encode ? and & in passwords"),
    ("schema=x&Zq7x=1", "SCHEMA, or remove it; remove the unknown parameter, or"),
    ("sslmode=require&amp;connect_timeout=3", "&amp; after the ?: write & between parameters."),
    ("sslmode=require?connect_timeout=3", "a second ?: write & between parameters"),
    ("?sslmode=require", "a second ?: write & between parameters"),
    ("sslmode=require;connect_timeout=3", "a semicolon between parameters: write &."),
    ("options=-csearch_path=app", "an unencoded = in the value of options: write %3D."),
    ("sslmode", "sslmode without a value after the ?: write sslmode=VALUE"),
]
FORMS = [
    (f'"{URI}"', "begins with a quotation mark: remove the quotation marks"),
    (f"'{URI}'", "begins with a quotation mark: remove the quotation marks"),
    (f"\u201c{URI}\u201d", "begins with a quotation mark: remove the quotation marks"),
    (f"psql '{URI}'", "begins with psql: write only the connection string"),
    (f"psql {URI}", "begins with psql: write only the connection string"),
    ("psql -h db -U me app", "begins with psql: write only the connection string"),
    (f"DATABASE_URL={URI}", "begins with DATABASE_URL=: write only the connection string that follows"),
    (f"DATABASE_URL: {URI}", "begins with the variable's name and a colon: write only"),
    (f"- DATABASE_URL={URI}", "begins with DATABASE_URL=: write only the connection string that follows"),
    (f"export DATABASE_URL={URI}", "begins with export: write only the connection string that follows"),
    (f"ZQ7X_URL='{URI}'", "begins with the name of a variable: write only the connection string that follows"),
    (f"\ufeff{URI}", "begins with a byte order mark: save the file as UTF-8 without one."),
    (f" {URI}", "begins with white space: remove it."),
    ("jdbc:postgresql://db:5432/app?user=me&password=Zq7x", "is a JDBC URL (jdbc:...): write postgresql://USER:"),
    ("postgresql+psycopg2://me:Zq7x@db/app", "begins with postgresql+psycopg2://: remove +psycopg2, which names a"),
    ("postgresql+asyncpg://me:Zq7x@db/app", "begins with postgresql+asyncpg://: remove +asyncpg, which names a"),
    ("postgresql+zq7x://me:Zq7x@db/app", "must start with postgresql:// or postgres://, without a driver name."),
    ("POSTGRES://me:Zq7x@db/app", "must begin with postgres:// in lower case."),
    ("pgsql://me:Zq7x@db/app", "begins with pgsql://: write postgresql:// instead."),
    ("mysql://me:Zq7x@db/app", "begins with mysql://, but pg-predeploy supports only Postgres: write"),
    ("https://Zq7x.supabase.co", "is a web address (https://): copy the connection string"),
    ("prisma+postgres://db/?api_key=Zq7x", "begins with prisma+postgres://: use the direct connection string"),
    ("postgresql:me:Zq7x@db/app", "must begin with postgresql://, with a colon and two slashes."),
    ("postgres//me:Zq7x@db/app", "must begin with postgresql://, with a colon and two slashes."),
    ("//me:Zq7x@db/app", "is neither a URI nor key=value pairs: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE."),
    ("me:Zq7x@db/app", "is neither a URI nor key=value pairs: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE."),
    (
        "Host=db;Port=5432;Password=Zq7x",
        "is an ADO.NET connection string (Host=...;Port=...): write postgresql://USER:",
    ),
    (
        "Server=db;User Id=me;Password=Zq7x;",
        "is an ADO.NET connection string (Host=...;Port=...): write postgresql://USER:",
    ),
    (
        "host=db;port=5432;password=Zq7x",
        "is an ADO.NET connection string (Host=...;Port=...): write postgresql://USER:",
    ),
    ("user=me;password=Zq7x", "has semicolons between parameters: write postgresql://USER:"),
    ("pgsql:host=db;dbname=app;password=Zq7x", "is a PDO connection string (pgsql:host=...;port=...): write"),
    ('{"username": "me", "password": "Zq7x", "host": "db"}', "is a JSON object: write postgresql://USER:PASSWORD@"),
    ("/run/secrets/database_url", "is a path: if the file contains the connection string, set DATABASE_URL_FILE"),
    ("file:///run/secrets/Zq7x", "is a file URL (file:): set DATABASE_URL_FILE to the file's path instead."),
    ("arn:aws:secretsmanager:eu-1:1:secret:Zq7x", "begins with arn:aws:, an unresolved reference to a secret:"),
    ("op://Zq7x/app/url", "begins with op://, an unresolved reference to a secret:"),
    ("$(DATABASE_URL)?sslmode=require", f"The beginning of DATABASE_URL{PLACEHOLDER}($(...))"),
    ("${SCHEME}://me:Zq7x@db/app", f"The beginning of DATABASE_URL{PLACEHOLDER}(${{...}})"),
    ("postgresql://me:Zq7x@undefined:5432/app", "The host in DATABASE_URL is undefined: define the variable that"),
    ("postgresql://me:Zq7x@db:undefined/app", "The port in DATABASE_URL is undefined: define the variable that"),
    ("host=None password=Zq7x", "The host in DATABASE_URL is None: define the variable that supplies it."),
    ("postgresql://me:Zq7x@https://db.example/app", "has http:// or https:// before the host: write only the host."),
    (b64encode(URI.encode()).decode(), "is base64-encoded: write it as plain text."),
    (b64encode(f"{URI}\n".encode()).decode(), "is base64-encoded: write it as plain text."),
    (b64encode(f"{URI}?sslmode=x".encode()).decode(), "is base64-encoded: write it as plain text."),
    (f"{URI}\n?sslmode=require", "The database name in DATABASE_URL ends with a line break: remove it"),
    ("postgresql://me:Zq7x\n@db/app", "The password in DATABASE_URL ends with a line break: remove it"),
    ("postgresql://me:Zq7x%0A@db/app", "The password in DATABASE_URL ends with a line break: remove it"),
    ("postgresql://me:Zq7x%0D%0a@db/app", "The password in DATABASE_URL ends with a line break: remove it"),
    ("postgresql://me%0A:Zq7x@db/app", "The user name in DATABASE_URL ends with a line break: remove it"),
    ("postgresql://me:Zq\n7x@db/app", "The password in DATABASE_URL contains a line break: remove it, or"),
    ("postgresql://me:Zq\a7x@db/app", "The password in DATABASE_URL contains a control character: remove it, or"),
    ("postgresql://me:Zq7x@db\n/app", "The host in DATABASE_URL ends with a line break: remove it"),
    ("postgresql://me:Zq7x@db%0A/app", "The host in DATABASE_URL ends with a line break: remove it"),
    ("host='db\n' password=Zq7x", "The host in DATABASE_URL ends with a line break: remove it"),
    ("host=db password='Zq7x\n'", "The password in DATABASE_URL ends with a line break: remove it"),
    ("postgresql://me:Zq7x@db/a b", "contains a space: remove it, or write it as %20."),
    ("postgresql://me:Zq7x@:5432/app", "no host between @ and the port: write the host"),
    ("postgresql://me@:5432/app", "no host between @ and the port: write the host"),
    ("postgresql://me:Zq7x@2001:db8::1:5432/app", "an IPv6 address without brackets: write [ADDRESS]:PORT."),
    ("postgresql://me:Zq7x@2001:db8::1/app", "an IPv6 address without brackets: write [ADDRESS]:PORT."),
    ("postgresql://me:Zq7x@::1/app", "an IPv6 address without brackets: write [ADDRESS]:PORT."),
    ("postgresql:///app?host=/cloudsql/p:r:i/.s.PGSQL.5432", "is a socket file (.s.PGSQL.PORT): write its"),
    ("host=/run/.s.PGSQL.5432,/run password=Zq7x", "is a socket file (.s.PGSQL.PORT): write its"),
    ("postgresql://db/app&sslmode=require", "an & before its first parameter: write ? instead."),
    ("host= port=5432 user=me", "no value after host=: write the value, or remove host=."),
    ("host=db user= password=Zq7x", "no value after user=: write the value, or remove user=."),
    ("host=db password= dbname=app", "no value after password=: write the value, or remove password=."),
    ("host=db schema=app", "libpq does not support: replace schema with options=-csearch_path=SCHEMA, or remove it."),
    ("HOST=db", "is an ADO.NET connection string"),
    ("host=db SSLMODE=require", "write sslmode in lower case."),
    ("host=db Zq7x=1", "remove the unknown parameter, or put values with spaces in single quotes."),
    ("host=a,b,c port=1,2", "host and port have different numbers of entries: write one port per host"),
    ("host=a,b hostaddr=127.0.0.1", "host and hostaddr have different numbers of entries: write one address per host."),
    ("hostaddr=127.0.0.1,127.0.0.1 port=1,2,3", "host and port have different numbers of entries"),
    (
        "postgresql://db/app?replication=database",
        "sets replication, but a replication connection cannot run migrations: remove it.",
    ),
    ("host=db replication=true", "sets replication, but a replication connection cannot run migrations: remove it."),
]
COMPONENTS = [
    ("postgresql://{}:Zq7x@db/app", "The user name"),
    ("postgresql://me:{}@db/app", "The password"),
    ("postgresql://me:Zq7x@{}/app", "The host"),
    ("postgresql://me:Zq7x@{}:5432/app", "The host"),
    ("postgresql://me:Zq7x@db:{}/app", "The port"),
    ("postgresql://me:Zq7x@db/{}", "The database name"),
    ("host=db user='{}'", "The user name"),
    ("host=db password='{}'", "The password"),
    ("host='{}'", "The host"),
    ("host=db port='{}'", "The port"),
    ("host=db dbname='{}'", "The database name"),
]
ACCEPTED = [  # valid strings that resemble a mistake
    "postgresql://me:${Zq7x}Kv9w@db/app",
    "postgresql://me:a${DB_PASSWORD}@db/app",
    "postgresql://me:$Zq7x@db/app",
    "postgresql://me:$QZJKV@db/app",
    "postgresql://me:<Zq7x>@db/app",
    "postgresql://me:{Zq7x}@db/app",
    "postgresql://me:[Zq7x]@db/app",
    "postgresql://me:$(1)@db/app",
    "postgresql://me:Zq;host=7x@db/app",
    "postgresql://me:Zq&amp;7x@db/app",
    "postgresql://me:jdbc:Zq7x@db/app",
    f"postgresql://me:{b64encode(URI.encode()).decode()}@db/app",
    "postgresql://me:Zq%0A7x@db/app",
    "postgresql://me:Zq%077x@db/app",
    "postgresql://me:Zq7x@/app",
    "postgresql://undefined:null@db/None",
    "postgresql://me:Zq7x@https/app",
    "postgresql://:5432/app",
    "postgresql://db/app?application_name=a?b",
    "postgresql://db/app?application_name=a;b",
    "postgresql://db/app?ssl=true",
    "postgresql://db/app?options=-csearch_path%3Dapp",
    "postgresql://db/a&b",
    "postgresql://a,b,c:6543/app",
    "host=a,b,c port=6543",
    "host=a,b hostaddr=127.0.0.1,127.0.0.2 port=1,2",
    "host=db password=host=Zq7x",
    "host=db password = Zq7x",
    "host=db password=Zq7x;port=1",
    "host=db password='a\nb'",
    "host=db password=" + "Zq7x" * 4 + "==",
    "host=db replication=false",
    "host = db  user\t=\nme",
]


@pytest.fixture(scope="module", autouse=True, params=["libpq alone", "psycopg"])
def _reader(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run each test twice, as in test_dsn.py."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "psycopg":
            patch.setattr(libpq, "load", lambda: None)
        yield


def error_of(dsn: str) -> str:
    with pytest.raises(DatabaseUrlInvalid) as caught:
        parse_dsn(dsn)
    assert caught.value.exit_code == 2
    assert "Zq" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("parameters", "text"), PARAMETERS)
def test_the_error_names_another_clients_parameter_and_the_replacement(parameters: str, text: str) -> None:
    assert text in error_of(f"postgresql://me:Zq7x@db/app?{parameters}")
    assert text in error_of(f"postgresql://db?{parameters}")


@pytest.mark.parametrize(("dsn", "text"), FORMS, ids=ascii)
def test_the_error_explains_what_to_write_instead(dsn: str, text: str) -> None:
    assert text in error_of(dsn)


@pytest.mark.parametrize(("placeholder", "shape"), NOT_FILLED)
def test_a_string_that_is_only_a_placeholder_is_rejected(placeholder: str, shape: str) -> None:
    assert error_of(placeholder).startswith(f"DATABASE_URL{PLACEHOLDER}({shape}): ")


@pytest.mark.parametrize(("template", "what"), COMPONENTS)
@pytest.mark.parametrize("placeholder", ["$(DB_X)", "${DB_X}", "${DB_X:-y}", "{{ .Values.x }}", "${{Postgres.X}}"])
def test_a_placeholder_in_any_component_is_rejected(template: str, what: str, placeholder: str) -> None:
    assert f"{what} in DATABASE_URL{PLACEHOLDER}" in error_of(template.replace("{}", placeholder))


@pytest.mark.parametrize(("template", "what"), COMPONENTS)
@pytest.mark.parametrize("placeholder", ["<db-password>", "$DB_HOST"])
def test_a_placeholder_with_a_typical_word_is_rejected(template: str, what: str, placeholder: str) -> None:
    assert f"{what} in DATABASE_URL{PLACEHOLDER}" in error_of(template.replace("{}", placeholder))


def test_the_first_of_several_placeholders_is_reported() -> None:
    dsn = "postgresql://${DB_USER}:${DB_PASSWORD}@${DB_HOST:-Zq7x}:${DB_PORT:-1}/${DB_NAME}"
    assert error_of(dsn).startswith(f"The user name in DATABASE_URL{PLACEHOLDER}(such as ${{...}}): ")
    assert error_of("postgresql://db/app_$(ENV)").startswith(f"The database name in DATABASE_URL{PLACEHOLDER}($(")
    assert error_of("postgresql://me:x@db-$(ENV).internal/app").startswith(f"The host in DATABASE_URL{PLACEHOLDER}($(")


def test_a_placeholder_in_an_environment_variable_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "$(DB_PASSWORD)")
    assert error_of("host=db").startswith(f"The password in a PG* variable or a service file{PLACEHOLDER}($(...)): ")
    assert parse_dsn("host=db password=Zq7x").host == "db"
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("PGHOST", "${DB_HOST}")
    assert error_of("dbname=app").startswith(f"The host in a PG* variable or a service file{PLACEHOLDER}(${{...}}): ")


@pytest.mark.parametrize("dsn", ACCEPTED, ids=ascii)
def test_a_string_that_only_resembles_a_mistake_is_accepted(dsn: str) -> None:
    assert parse_dsn(dsn).text == dsn


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:Zq7x?schema=2@db/app",
        "postgresql://me:Zq7x?hunter=2@db/app",
        "postgresql://me:Zq@7x@db/app?schema=public",
    ],
)
def test_part_of_a_password_is_never_reported_as_a_parameter(dsn: str) -> None:
    assert error_of(dsn).startswith("DATABASE_URL has an unencoded @: ")
