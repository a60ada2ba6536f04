"""Connection strings of every kind, each with the password that its author intended, even if libpq reads another.

No four consecutive letters of a password occur in ordinary output, so every match is a leak. All
strings that libpq accepts name loopback or a directory without a socket; the tests check this again.
"""

from __future__ import annotations

import random
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import quote

LETTERS = "QZJKVXqzjkvx"
SIGNS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ \t\nü€🐘"
COMMON = ("postgres", "event", "failed", "info", "port", "host", "local", "migrate", "crashed", "unreachable", "true")
SHORT = ("a", "1", "me", "db", "x'y", "%", "/", "***"[:2], "p w")


@dataclass(frozen=True)
class Case:
    """A connection string with its `variables` and `files`; `{dir}` in any of them stands for the files' directory."""

    dsn: str
    password: str
    variables: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def letters(seed: object) -> str:
    return "".join(random.Random(str(seed)).choices(LETTERS, k=6))  # noqa: S311  the same in every process


def encoded(text: str) -> str:
    return quote(text, safe="")


def quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _with_signs() -> dict[str, Case]:
    """Return a case for each way to write each special character."""
    found = {}
    for sign in SIGNS:
        first, second = letters(sign), letters(sign * 2)
        name = ascii(sign)
        password = f"{first}{sign}{second}"
        found[f"{name}, encoded"] = Case(f"postgresql://me:{encoded(password)}@127.0.0.1:1/app", password)
        found[f"{name}, as it is"] = Case(f"postgresql://me:{password}@127.0.0.1:1/app", password)
        small = encoded(password).lower()
        found[f"{name} in a query"] = Case(f"postgresql://127.0.0.1:1/app?password={encoded(password)}", password)
        found[f"{name} in a query, as it is"] = Case(f"postgresql://127.0.0.1:1/app?password={password}", password)
        found[f"{name} in small hex"] = Case(f"postgresql://me:{small}@127.0.0.1:1/app", password.lower())
        found[f"{name} quoted"] = Case(f"host=127.0.0.1 port=1 password={quoted(password)}", password)
        found[f"{name} bare"] = Case(f"host=127.0.0.1 port=1 password={password}", password)
        found[f"{name} escaped"] = Case(f"host=127.0.0.1 port=1 password={first}\\{sign}{second}", password)
        found[f"{name} in the user"] = Case(f"postgresql://us{sign}er:{first}@127.0.0.1:1/app", first)
    return found


SHAPES = """\
postgres://me:{}@127.0.0.1:1
postgres://me:{}@127.0.0.1:1/
postgresql://:{}@127.0.0.1:1/app
postgresql://me:{}@localhost:1/app
postgresql://me:{}@[::1]:1/app
postgresql://me:{}@127.0.0.1:1,127.0.0.1:2/app
postgresql://me:{}@127.0.0.1:1,[::1]:2,localhost:3/app?target_session_attrs=primary
postgresql://me:{}@127.0.0.1:1,127.0.0.1:2/app?load_balance_hosts=random
postgresql://me:{}@/app?host=/nowhere
postgresql://me:{}@%2Fnowhere/app
postgresql://me:{}@/app?hostaddr=127.0.0.1&port=1
postgresql://me:{}@127.0.0.1:1/app?sslmode=disable
postgresql://me:{}@127.0.0.1:1/app?sslmode=verify-full&sslrootcert=/nowhere/ca
postgresql://me:{}@127.0.0.1:1/app?application_name=x&connect_timeout=2
postgresql://me:{}@127.0.0.1:1/app?options=-c%20work_mem%3D1MB
postgresql://127.0.0.1:1/app?user=me&password={}
postgresql://127.0.0.1:1?password={}&sslmode=disable
postgresql://127.0.0.1:1/app?sslkey=/nowhere&sslpassword={}
postgresql://me:{}@127.0.0.1:1/app?password={}
postgresql:///app?host=127.0.0.1&port=1&password={}
host=127.0.0.1 port=1 user=me password={}
  host = 127.0.0.1  port = 1  password = {}  dbname=app
password={} host=127.0.0.1,127.0.0.1 port=1,2
host=localhost hostaddr=127.0.0.1 port=1 password={}
host=/nowhere user=me password={}
host=::1 port=1 password={} sslmode=disable
host=127.0.0.1 port=1 sslpassword={} sslkey=/nowhere
host=127.0.0.1 port=1 password=first password={}
host=127.0.0.1 port=1 passfile=/nowhere password={}
host=127.0.0.1 port=1 scram_client_key={}
host=127.0.0.1 port=1 oauth_client_secret={}
"""

# Strings that libpq rejects or misreads, or that are meant for another program.
BROKEN = """\
postgresql://me:{}%@127.0.0.1/app
postgresql://me:{}%4@127.0.0.1/app
postgresql://me:{}%zz@127.0.0.1/app
postgresql://me:{}%00@127.0.0.1/app
postgresql://me:%00{}@127.0.0.1/app
postgresql://me:{}%c3@127.0.0.1:1/app
postgresql://me:{}@[::1/app
postgresql://me:{}@[]/app
postgresql://me:{}@[::1]x/app
postgresql://me:{}@127.0.0.1:1/app?password
postgresql://me:{}@127.0.0.1:1/app?{}
postgresql://me:{}@127.0.0.1:1/app?{}=1
postgresql://me:{}@127.0.0.1:1/app?schema=public
postgresql://me:{}@127.0.0.1:1/app?sslmode={}
postgresql://me:{}@127.0.0.1:1/app?connect_timeout={}
postgresql://me:{}@127.0.0.1:1/app?target_session_attrs={}
postgresql://127.0.0.1:1/app?password={}=x
postgresql://127.0.0.1:1/app?password={}&x
postgresql://127.0.0.1:1/app?password={}%
postgresql://127.0.0.1:1/app?Password={}
postgresql://127.0.0.1:{}/app
postgresql://127.0.0.1:1,127.0.0.1:{}/app
postgresql://127.0.0.1:-1/{}@x
postgresql://me:{}
postgresql://me:{}/app
postgresql://me:{}:1/app
postgresql://me:{}/app@127.0.0.1
postgresql://me:{}%40127.0.0.1/app
postgresql://me%3A{}/app
postgresql://me%3A{}%40127.0.0.1/app
postgresql://me%3A{}/db@127.0.0.1
postgresql://me:1/{}@127.0.0.1:1/app
postgresql://me:1?{}@127.0.0.1:1/app
postgresql://me:1?host={}@127.0.0.1:1/app
postgresql://me:1?sslmode={}@127.0.0.1:1/app
postgresql://me:@{}@127.0.0.1:1/app
postgresql://me:x@{}@127.0.0.1:1/app
postgresql://me:x@y:{}@127.0.0.1:1/app
postgresql:///me:{}@127.0.0.1:1/app
postgresql:////me:{}@127.0.0.1:1/app
postgresql:///app?host=me:{}@127.0.0.1
postgresql:///app?host=me:{}
postgresql:///app?dbname=postgres://me:{}@127.0.0.1/app
mysql://me:{}@127.0.0.1/app
postgresql+psycopg://me:{}@127.0.0.1/app
postgresql+asyncpg://me:{}@127.0.0.1/app?ssl=true
jdbc:postgresql://127.0.0.1/app?user=me&password={}
POSTGRESQL://me:{}@127.0.0.1/app
://me:{}@127.0.0.1/app
"postgresql://me:{}@127.0.0.1/app"
'postgresql://me:{}@127.0.0.1/app'
postgresql:/me:{}@127.0.0.1/app
postgresql:me:{}@127.0.0.1/app
//me:{}@127.0.0.1/app
me:{}@127.0.0.1/app
me%3A{}/db@127.0.0.1
DATABASE_URL=postgresql://me:{}@127.0.0.1/app
psql postgresql://me:{}@127.0.0.1/app
host=127.0.0.1 port=1 password={} x
host=127.0.0.1 port=1 password='{}
host=127.0.0.1 port=1 password='{}\\'
host=127.0.0.1 port=1 password {}
host=127.0.0.1 port=1 {}
host=127.0.0.1 port=1 {}=x
host=127.0.0.1 port=1 pasword={}
host=127.0.0.1 port={}
host=127.0.0.1 port=1,{}
host=127.0.0.1:{}
host=127.0.0.1/{}
host=me:{}
host=me:{}@127.0.0.1
hostaddr=me:{}@127.0.0.1
hostaddr=me:{}
dbname=postgresql://me:{}@127.0.0.1/app
Host=127.0.0.1;Password={}
Server=127.0.0.1;User Id=me;Password={};
={}
{}
service=no-such password={}
"""

# Forms that dsn_hints recognises, with passwords in places that a message could quote.
HINTED = """\
{}postgresql://me:x@127.0.0.1/app
{}://me:x@127.0.0.1/app
{}+psycopg2://me:x@127.0.0.1/app
postgresql+{}://me:x@127.0.0.1/app
postgresql+psycopg2://me:{}@127.0.0.1/app
postgresql+asyncpg://me:{}@127.0.0.1/app?{}=1
pgsql://me:{}@127.0.0.1/app
pgsql:host=127.0.0.1;dbname=app;password={}
https://me:{}@127.0.0.1/app
prisma+postgres://127.0.0.1/?api_key={}
jdbc:postgresql://me:{}@127.0.0.1/app?{}=1
r2dbc:postgresql://me:{}@127.0.0.1/app
psql 'postgresql://me:{}@127.0.0.1/app'
psql -h 127.0.0.1 -U me {}
{"username": "me", "password": "{}", "host": "127.0.0.1"}
/run/secrets/{}
file:///run/secrets/{}
arn:aws:secretsmanager:eu-1:1:secret:{}
op://{}/app/url
vault:secret/{}
$(DATABASE_URL)?password={}
${SCHEME}://me:{}@127.0.0.1/app
postgresql://me:{}@undefined:undefined/app
postgresql://me:{}@https://127.0.0.1/app
psql {}
export DATABASE_URL=postgresql://me:{}@127.0.0.1/app
export {}=postgresql://me:x@127.0.0.1/app
DATABASE_URL='postgresql://me:{}@127.0.0.1/app'
DATABASE_URL="{}"
DATABASE_URL: postgresql://me:{}@127.0.0.1/app
{}=postgresql://me:{}@127.0.0.1/app
`postgresql://me:{}@127.0.0.1/app`
“postgresql://me:{}@127.0.0.1/app”
﻿postgresql://me:{}@127.0.0.1/app
'{}'
"{}"
${{{}}}
${{{}.DATABASE_URL}}
{{ {} }}
${{}}
$({})
<{}-password>
[{}-password]
$DB_{}
postgresql://me:${{{}}}@127.0.0.1:1/app
postgresql://me:$({})@127.0.0.1:1/app
postgresql://$({}):{}@127.0.0.1:1/app
postgresql://me:{}@$({})/app
postgresql://me:{}@127.0.0.1:$(PORT)/app
postgresql://me:{}@127.0.0.1:${PORT:-{}}/app
postgresql://${USER:-{}}:{}@127.0.0.1/app
postgresql://me:{}@${HOST:-{}}:${PORT:-{}}/app
postgresql://me:{}@127.0.0.1/${{{}}}
postgresql://me:{{ {} }}@127.0.0.1:1/app
host=127.0.0.1 port=1 password=$({})
host=127.0.0.1 port=1 password=${{}}
host=$({}) password={}
postgresql://me:{}@127.0.0.1:1/app?schema={}
postgresql://me:{}@127.0.0.1:1/app?pgbouncer=true&connection_limit=1&{}=1
postgresql://me:{}@127.0.0.1:1/app?pool_timeout={}
postgresql://me:{}@127.0.0.1:1/app?search_path={}
postgresql://me:{}@127.0.0.1:1/app?statement_timeout={}
postgresql://me:{}@127.0.0.1:1/app?charset=utf8&schema={}
postgresql://me:{}@127.0.0.1:1/app?sslaccept={}
postgresql://me:{}@127.0.0.1:1/app?uselibpqcompat=true&sslmode=no-verify
postgresql://me:{}@127.0.0.1:1/app?sslmode=no-verify
postgresql://me:{}@127.0.0.1:1/app?sslmode=require&amp;connect_timeout=1
postgresql://127.0.0.1:1/app?sslmode=disable&amp;password={}
postgresql://127.0.0.1:1/app?password={}&amp;{}=x
postgresql://127.0.0.1:1/app?user=me?password={}
postgresql://127.0.0.1:1/app??password={}
postgresql://127.0.0.1:1/app?{}?schema=x
postgresql://127.0.0.1:1/app?{};schema=x
postgresql://127.0.0.1:1/app?user=me;password={}
postgresql://127.0.0.1:1/app?options=-csearch_path={}
postgresql://127.0.0.1:1/app&password={}
postgresql://127.0.0.1:1/app?PASSWORD={}
postgresql://127.0.0.1:1/app?username=me&pwd={}
postgresql://me:{}?schema=2@127.0.0.1:1/app
postgresql://me:{}?{}=2@127.0.0.1:1/app
postgresql://me:1?{}=2
postgresql://me:{}?schema=2
postgresql://me:{}%0A@127.0.0.1:1/app
postgresql://me:{}%0d%0a@127.0.0.1:1/app
postgresql://me:{}@127.0.0.1%0A:1/app
postgresql://me:{}@127.0.0.1{}%0A:1/app
postgresql://{}%0A:x@127.0.0.1:1/app
postgresql://me:{}@:1/app
postgresql://me:{}@:{}/app
postgresql://me:{}@::1/app
postgresql://me:{}@2001:db8::1:1/app
postgresql://me:{}@2001:db8::1:{}/app
postgresql://2001:db8::1:{}/app
postgresql://me:{}@/app?host=/nowhere/.s.PGSQL.5432
host=/nowhere/.s.PGSQL.5432 password={}
host=/nowhere/{}/.s.PGSQL.5432 password={}
postgresql://me:{}@127.0.0.1:1,127.0.0.1:2,127.0.0.1/app?port=1,2
host=127.0.0.1,127.0.0.1,127.0.0.1 port=1,2 password={}
host=127.0.0.1 port=1 replication=database password={}
host=127.0.0.1 port=1 replication={} password={}
host= port=1 password={}
host=127.0.0.1 port=1 user= password={}
host=127.0.0.1;port=1;password={}
user=me;password={}
Host=127.0.0.1;Username=me;{}=x
User ID=me;Password={};Host=127.0.0.1;
DRIVER={{}};Server=127.0.0.1;Pwd={}
host=127.0.0.1 port=1 schema=app {}=x
host=127.0.0.1 port=1 password={} schema=app
host=127.0.0.1 port=1 sslmode={} password={}
host=127.0.0.1 port=1 channel_binding={} password={}
host=127.0.0.1 port=1 require_auth={} password={}
host=127.0.0.1 port=1 keepalives={} password={}
host=127.0.0.1 port=1 ssl_min_protocol_version={} password={}
host=127.0.0.1 port=1 sslmode=require sslrootcert=system password={}
host=127.0.0.1 port=1 sslnegotiation=direct password={}
host=127.0.0.1 port=1 gssencmode=require password={}
host=127.0.0.1 port=1 options=--{} password={}
"""
ENCODED = "postgresql://me:{}@127.0.0.1/app\nhost=127.0.0.1 password={}\njdbc:postgresql://127.0.0.1/app?password={}"


def _from_elsewhere() -> dict[str, Case]:
    host = "host=127.0.0.1\nport=1\n"
    service = {"services": f"[app]\n{host}password={{}}\n[key]\n{host}sslpassword={{}}\n"}
    passfile = {"passfile": "127.0.0.1:1:*:*:{}\n"}
    named = {"PGSERVICEFILE": "{dir}/services"}
    found = {
        "service": Case("service=app", "", named, service),
        "service in a URI": Case("postgresql://me@/app?service=app", "", named, service),
        "service with sslpassword": Case("service=key", "", named, service),
        "service of the environment": Case("dbname=app", "", {**named, "PGSERVICE": "app"}, service),
        "service that leaks": Case("service=bad", "", named, {"services": "[bad]\nhost=me:{}@127.0.0.1\n"}),
        "service with a typo": Case("service=bad", "", named, {"services": "[bad]\npasword={}\n"}),
        "service at home": Case("service=app", "", {"HOME": "{dir}"}, {".pg_service.conf": service["services"]}),
        "passfile": Case("host=127.0.0.1 port=1 passfile={dir}/passfile", "", {}, passfile),
        "passfile in a URI": Case("postgresql://me@127.0.0.1:1/app?passfile={dir}/passfile", "", {}, passfile),
        "passfile of the environment": Case("host=127.0.0.1 port=1", "", {"PGPASSFILE": "{dir}/passfile"}, passfile),
        "passfile at home": Case("host=127.0.0.1 port=1", "", {"HOME": "{dir}"}, {".pgpass": passfile["passfile"]}),
        "passfile of many hosts": Case("host=/nowhere,127.0.0.1 port=1 passfile={dir}/passfile", "", {}, passfile),
        "variable": Case("host=127.0.0.1 port=1", "", {"PGPASSWORD": "{}"}),
        "variable for the host": Case("port=1", "", {"PGHOST": "me:{}@127.0.0.1"}),
        "variable for the host, encoded": Case("port=1", "", {"PGHOST": "me:{}"}),
        "variable for the port": Case("host=127.0.0.1", "", {"PGPORT": "{}"}),
    }
    filled = {}
    for name, case in found.items():
        password = letters(name) + letters(name * 2)
        fill = {key: value.replace("{}", password) for key, value in case.variables.items()}
        files = {key: value.replace("{}", password) for key, value in case.files.items()}
        filled[name] = Case(case.dsn, password, fill, files)
    return filled


def _from_lines(lines: str) -> dict[str, Case]:
    found = {}
    for line in lines.splitlines():
        password = letters(line) + letters(line * 2)
        found[line] = Case(line.replace("{}", password), password)
    return found


def _in_base64() -> dict[str, Case]:
    """Return base64-encoded connection strings, as in the `data` of a Secret: encoded once, and twice."""
    found = {}
    for line, case in _from_lines(ENCODED).items():
        once = b64encode(case.dsn.encode())
        for name, dsn in (("once", once), ("twice", b64encode(once))):
            found[f"{line} in base64, {name}"] = Case(dsn.decode(), case.password)
    return found


CASES = {
    **_from_lines(SHAPES),
    **_from_lines(BROKEN),
    **_from_lines(HINTED),
    **_in_base64(),
    **_from_elsewhere(),
    **_with_signs(),
}
